package bmcsim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/power"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/sensors"
)

// Auto is the value that lets a pinned sensor move by itself again.
const Auto = "auto"

// Set moves the server by hand: it pins every sensor behind an element of SCL
// ("cpu.temp" sets all processors), or one sensor by its id
// ("temperature_cpu0"), or changes power.state, system.health,
// system.asset-tag or system.led at once. A number may carry its unit: "95",
// "95C". The value "auto" gives a sensor back to its own movement.
func (b *BMC) Set(ref, value string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(b.cfg.Now())
	if set, found := b.settings()[canonical(ref)]; found {
		if err := set(value); err != nil {
			return err
		}
		return b.state.save(b.cfg.StateFile)
	}
	list := b.sensorsOf(ref)
	if len(list) == 0 {
		return b.unknownRef("set", ref)
	}
	for _, s := range list {
		if value == Auto {
			delete(b.state.Pins, s.ID)
			continue
		}
		n, err := sensors.Number(value, s.Unit())
		if err != nil {
			return fault.New(fault.BadInput, "set "+ref, err.Error()).WithHint("for example " + Example(ref))
		}
		b.state.Pins[s.ID] = n
	}
	return b.state.save(b.cfg.StateFile)
}

// Get reads the instances behind an element or a sensor id, as a client would
// see them, or everything if ref is empty. They are in the order of their names.
func (b *BMC) Get(ref string) ([]fleet.Reading, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Now()
	b.settle(now)
	all := b.readings(now)
	if ref == "" {
		return all, nil
	}
	for _, r := range all {
		if r.Ref == canonical(ref) {
			return []fleet.Reading{r}, nil
		}
	}
	for _, r := range all {
		for _, in := range r.Instances {
			if in.Name == ref {
				return []fleet.Reading{{Ref: r.Ref, Value: in.Value, Instances: []fleet.Instance{in}, At: now}}, nil
			}
		}
	}
	return nil, b.unknownRef("get", ref)
}

// Refs are the elements that Set and Get know.
func (b *BMC) Refs() []string {
	names := slices.Collect(maps.Keys(b.settings()))
	for _, s := range b.sensors {
		if !slices.Contains(names, s.Ref) {
			names = append(names, s.Ref)
		}
	}
	slices.Sort(names)
	return names
}

// canonical accepts the field name of config for the element's.
func canonical(ref string) string {
	switch ref {
	case "asset-tag":
		return "system.asset-tag"
	case "indicator":
		return "system.led"
	}
	return ref
}

func (b *BMC) sensorsOf(ref string) (list []sensors.Sensor) {
	for _, s := range b.sensors {
		if s.Ref == ref || s.ID == ref {
			list = append(list, s)
		}
	}
	return list
}

// settings are what Set changes besides sensors.
func (b *BMC) settings() map[string]func(value string) error {
	return map[string]func(string) error{
		"power.state":      b.setPower,
		"system.asset-tag": func(v string) error { b.state.AssetTag = v; return nil },
		"system.health": func(v string) error {
			return oneOf("system.health", v, []string{"OK", "Warning", "Critical"}, func(v string) { b.state.Health = v })
		},
		"system.led": func(v string) error {
			return oneOf("system.led", v, []string{"on", "off"}, func(v string) { b.state.Indicator = v == "on" })
		},
	}
}

// setPower is a hand on the mains: no transition.
func (b *BMC) setPower(value string) error {
	return oneOf("power.state", value, []string{"on", "off"}, func(v string) {
		now := b.cfg.Now()
		if b.power().On() == (v == "on") && len(b.state.Power) == 1 {
			return
		}
		was, is := b.power(), power.Steady(v == "on", now)
		b.state.Power = power.Plan{is}
		b.arrive(was, is)
	})
}

func oneOf(ref, value string, allowed []string, set func(string)) error {
	for _, a := range allowed {
		if strings.EqualFold(a, value) {
			set(a)
			return nil
		}
	}
	return fault.New(fault.BadInput, "set "+ref, fmt.Sprintf("%q is no value for it", value)).
		WithHint("one of " + strings.Join(allowed, ", "))
}

// Example is a value that suits ref, for help texts.
func Example(ref string) string {
	switch {
	case strings.Contains(ref, "temp"):
		return "95C"
	case strings.Contains(ref, "rate"), strings.HasPrefix(ref, "utilization"):
		return "85%"
	case strings.HasPrefix(ref, "fan"):
		return "4000rpm"
	}
	return "350W"
}

func (b *BMC) readings(now time.Time) []fleet.Reading {
	byRef := map[string]*fleet.Reading{}
	for _, s := range b.sensors {
		r := byRef[s.Ref]
		if r == nil {
			r = &fleet.Reading{Ref: s.Ref, At: now}
			byRef[s.Ref] = r
		}
		r.Instances = append(r.Instances, fleet.Instance{Name: s.ID, Value: fleet.Number(float64(b.read(s, now)), s.Unit())})
	}
	led := "off"
	if b.state.Indicator {
		led = "on"
	}
	for ref, v := range map[string]string{
		"power.state": strings.ToLower(b.power().Power), "system.asset-tag": b.state.AssetTag,
		"system.health": b.state.Health, "system.led": led,
	} {
		byRef[ref] = &fleet.Reading{Ref: ref, Value: fleet.Text(v), At: now}
	}
	out := make([]fleet.Reading, 0, len(byRef))
	for _, ref := range slices.Sorted(maps.Keys(byRef)) {
		r := *byRef[ref]
		if len(r.Instances) > 0 {
			r.Value = sensors.Reduce(r.Instances)
		}
		out = append(out, r)
	}
	return out
}

// unknownRef names what is meant, or all there is.
func (b *BMC) unknownRef(op, ref string) error {
	refs := b.Refs()
	hint := "one of " + strings.Join(refs, ", ")
	for _, known := range refs {
		if distance(ref, known) <= 2 {
			hint = "did you mean " + known + "? " + hint
			break
		}
	}
	return fault.New(fault.NotFound, op, fmt.Sprintf("there is no element %q", ref)).WithHint(hint)
}

// distance is how many letters must change to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
