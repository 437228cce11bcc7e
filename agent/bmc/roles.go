package bmc

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// role says which sensors an element is made of. A sensor's context decides
// where the BMC gives one, else its id and name.
type role struct {
	bit      roleSet // its own
	what     string  // for the reason when there is none
	kinds    []string
	contexts []string
	names    *regexp.Regexp // nil: any
	not      *regexp.Regexp // nil: none
	first    *regexp.Regexp // if some match it, only those count
}

// measures reports whether a sensor is of a kind that the role is made of.
func (r role) measures(t trait) bool {
	return slices.ContainsFunc(r.kinds, func(k string) bool { return strings.EqualFold(k, string(t.kind)) })
}

func (r role) fits(t trait) bool {
	if !r.measures(t) {
		return false
	}
	label := t.label()
	if r.not != nil && r.not.MatchString(label) {
		return false
	}
	return slices.ContainsFunc(r.contexts, func(c string) bool { return strings.EqualFold(c, string(t.context)) }) ||
		r.names == nil || r.names.MatchString(label)
}

// of appends those of all that are of the role.
func (r role) of(all []sensor, found []*sensor) []*sensor {
	found = slices.Grow(found, len(all))
	for i := range all {
		if all[i].roles&r.bit != 0 {
			found = append(found, &all[i])
		}
	}
	return found
}

// prefer keeps only the sensors that speak for the whole, where there are any.
func (r role) prefer(all []*sensor) []*sensor {
	var best []*sensor
	for _, s := range all {
		if s.whole&r.bit != 0 {
			best = append(best, s)
		}
	}
	if len(best) > 0 {
		return best
	}
	return all
}

// roleSet is a set of roles.
type roleSet uint16

// The words by which BMCs name what a sensor measures.
const (
	cpuWords  = `\b(cpu|proc|processor|p)[ _-]?\d*\b|cpu|processor|\btctl\b|\bdts\b`
	notTheCPU = `dimm|mem|\bvr|_vr|vrm|pch|margin|fan|inlet|ambient|utilization_memory|throttle`
)

// roles are the elements read from sensors. The table is never written to.
var roles = sync.OnceValue(func() map[string]role {
	table := rolesByName()
	for i, name := range slices.Sorted(maps.Keys(table)) {
		r := table[name]
		r.bit = 1 << i
		table[name] = r
	}
	return table
})

func rolesByName() map[string]role {
	re := regexp.MustCompile
	return map[string]role{
		"cpu.temp":    {what: "processor temperature", kinds: []string{"Temperature"}, contexts: []string{"CPU"}, names: re(cpuWords), not: re(notTheCPU)},
		"cpu.rate":    {what: "processor utilization", kinds: []string{"Percent", "Utilization"}, contexts: []string{"CPU"}, names: re(cpuWords), not: re(notTheCPU)},
		"cpu.power":   {what: "processor power", kinds: []string{"Power"}, contexts: []string{"CPU"}, names: re(cpuWords), not: re(notTheCPU)},
		"memory.temp": {what: "memory temperature", kinds: []string{"Temperature"}, contexts: []string{"Memory"}, names: re(`dimm|memory`), not: re(`margin`)},
		"storage.drive.temp": {
			what: "drive temperature", kinds: []string{"Temperature"}, contexts: []string{"StorageDevice"}, names: re(`drive|disk|nvme|ssd|hdd`), not: re(`margin|backplane`),
		},
		"temp.inlet": {
			what: "inlet temperature", kinds: []string{"Temperature"}, contexts: []string{"Intake"},
			names: re(`inlet|intake|ambient|front`), not: re(`outlet|exhaust`),
		},
		"temp.exhaust": {
			what: "exhaust temperature", kinds: []string{"Temperature"}, contexts: []string{"Exhaust"},
			names: re(`outlet|exhaust|rear`), not: re(`inlet|intake`),
		},
		"temp.max": {what: "temperature", kinds: []string{"Temperature"}, not: re(`margin`)},
		"power.watts": {
			what: "power consumption", kinds: []string{"Power"}, not: re(`cap|limit|\bmax|_max|cpu|dimm|fan`),
			first: re(`total|system|chassis|platform|node`),
		},
		fanRole: {what: "fan speed", kinds: []string{"Rotational", "Percent"}, contexts: []string{"Fan"}, names: re(`fan|pwm|tach`)},
	}
}

// sensorSources are the elements made of sensors.
func sensorSources() map[string]source {
	table := map[string]source{}
	for name, r := range roles() {
		table[name] = func(ctx context.Context, v *view, ref scl.Ref) (sample, error) {
			found, err := v.sensorsFor(ctx, r)
			if err != nil {
				return sample{}, err
			}
			return sampled(found, ref, r.what)
		}
	}
	table["fan.speed"], table["fan.percent"] = fanSpeed, fanSpeed
	return table
}

// isSensor reports whether an element is made of sensors.
func isSensor(name string) bool {
	_, found := roles()[name]
	return found || name == "fan.percent"
}

// sampled makes instances of sensors; a value in another unit than the
// element's is unknown, not converted by guessing.
func sampled(found []*sensor, ref scl.Ref, what string) (sample, error) {
	if len(found) == 0 {
		return sample{}, absent(what)
	}
	s := sample{all: make([]fleet.Instance, 0, len(found))}
	for _, f := range found {
		value := f.value
		if want := ref.Element; want != nil && value.Known() && want.Unit != fleet.NoUnit && value.Unit() != want.Unit {
			switch {
			case f.rpm.Known() && want.Unit == fleet.RPM:
				value = f.rpm
			case value.Unit() == fleet.NoUnit: // the BMC names no unit: the kind tells it
				n, _ := value.Number()
				value = fleet.Number(n, want.Unit)
			default:
				value = fleet.NoValue("this BMC reports " + what + " in " + value.Unit().String() + ", not in " + want.Unit.String())
			}
		}
		name := f.name
		if name == "" {
			name = f.id
		}
		s.all = append(s.all, fleet.Instance{Name: string(name), Value: value})
	}
	return s, nil
}

// fanRole is what two elements are made of.
const fanRole = "fan.speed"

// fanSpeed takes percent where the BMC reports it, else revolutions, and never
// mixes them.
func fanSpeed(ctx context.Context, v *view, ref scl.Ref) (sample, error) {
	r := roles()[fanRole]
	found, err := v.sensorsFor(ctx, r)
	if err != nil {
		return sample{}, err
	}
	wanted := fleet.RPM
	if ref.Element != nil && ref.Element.Unit != fleet.NoUnit {
		wanted = ref.Element.Unit
	}
	var fitting []*sensor
	for _, f := range found {
		if f.value.Unit() == wanted || f.rpm.Known() && wanted == fleet.RPM {
			fitting = append(fitting, f)
		}
	}
	if len(fitting) == 0 {
		fitting = found
	}
	return sampled(fitting, ref, r.what)
}
