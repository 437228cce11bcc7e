package bmc

import (
	"context"
	"regexp"
	"strings"
	"sync"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// role says which sensors an element is made of. A sensor's context decides
// where the BMC gives one, else its id and name.
type role struct {
	what     string // for the reason when there is none
	kinds    []string
	contexts []string
	names    *regexp.Regexp // nil: any
	not      *regexp.Regexp // nil: none
	first    *regexp.Regexp // if some match it, only those count
}

func (r role) kind(s sensor) bool {
	for _, k := range r.kinds {
		if strings.EqualFold(k, s.kind) {
			return true
		}
	}
	return false
}

func (r role) fits(s sensor) bool {
	if !r.kind(s) {
		return false
	}
	label := strings.ToLower(s.id + " " + s.name)
	if r.not != nil && r.not.MatchString(label) {
		return false
	}
	for _, c := range r.contexts {
		if strings.EqualFold(c, s.context) {
			return true
		}
	}
	return r.names == nil || r.names.MatchString(label)
}

// prefer keeps only the sensors that speak for the whole, where there are any.
func (r role) prefer(all []sensor) []sensor {
	if r.first == nil {
		return all
	}
	var best []sensor
	for _, s := range all {
		if r.first.MatchString(strings.ToLower(s.id + " " + s.name)) {
			best = append(best, s)
		}
	}
	if len(best) > 0 {
		return best
	}
	return all
}

// The words by which BMCs name what a sensor measures.
const (
	cpuWords  = `\b(cpu|proc|processor|p)[ _-]?\d*\b|cpu|processor|\btctl\b|\bdts\b`
	notTheCPU = `dimm|mem|\bvr|_vr|vrm|pch|margin|fan|inlet|ambient|utilization_memory|throttle`
)

// roles are the elements read from sensors.
func roles() map[string]role {
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
	}
}

// sensorSources are the elements made of sensors.
func sensorSources() map[string]source {
	table := map[string]source{"fan.speed": fanSpeed, "fan.percent": fanSpeed}
	for name, r := range roles() {
		table[name] = func(ctx context.Context, v *view, ref scl.Ref) (sample, error) {
			found, err := v.sensorsFor(ctx, r)
			if err != nil {
				return sample{}, err
			}
			return sampled(found, ref, r.what)
		}
	}
	return table
}

// sampled makes instances of sensors; a value in another unit than the
// element's is unknown, not converted by guessing.
func sampled(found []sensor, ref scl.Ref, what string) (sample, error) {
	if len(found) == 0 {
		return sample{}, absent(what)
	}
	s := sample{}
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
		s.all = append(s.all, fleet.Instance{Name: name, Value: value})
	}
	return s, nil
}

var fanRole = sync.OnceValue(func() role {
	return role{what: "fan speed", kinds: []string{"Rotational", "Percent"}, contexts: []string{"Fan"}, names: regexp.MustCompile(`fan|pwm|tach`)}
})

// fanSpeed takes percent where the BMC reports it, else revolutions, and never
// mixes them.
func fanSpeed(ctx context.Context, v *view, ref scl.Ref) (sample, error) {
	r := fanRole()
	found, err := v.sensorsFor(ctx, r)
	if err != nil {
		return sample{}, err
	}
	wanted := fleet.RPM
	if ref.Element != nil && ref.Element.Unit != fleet.NoUnit {
		wanted = ref.Element.Unit
	}
	var fitting []sensor
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
