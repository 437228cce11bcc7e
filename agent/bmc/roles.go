package bmc

import (
	"context"
	"regexp"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
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
	table := map[string]source{
		"fan.speed":           fanSpeed,
		"fan.percent":         fanSpeed,
		"fan.health":          fanHealth,
		"power.cap":           powerCap,
		"power.supply.health": supplyHealth,
		"power.redundancy":    redundancy,
	}
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

// fanSpeed takes percent where the BMC reports it, else revolutions, and never
// mixes them.
func fanSpeed(ctx context.Context, v *view, ref scl.Ref) (sample, error) {
	r := role{what: "fan speed", kinds: []string{"Rotational", "Percent"}, contexts: []string{"Fan"}, names: regexp.MustCompile(`fan|pwm|tach`)}
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

// chassisOf reads every chassis and calls do with each.
func (v *view) chassisOf(ctx context.Context) ([]chassis, error) {
	p, err := v.places(ctx)
	if err != nil {
		return nil, err
	}
	return resources[chassis](ctx, v, p.chassis, "chassis")
}

// healths collects the health of the parts that pick finds in each chassis:
// members of a collection, or entries of the older resource.
func (v *view) healths(ctx context.Context, what string, collection func(chassis) (redfish.Link, error), legacy func(chassis) []sensor) (sample, error) {
	all, err := v.chassisOf(ctx)
	if err != nil {
		return sample{}, err
	}
	var s sample
	for _, c := range all {
		if uri, err := collection(c); err == nil && uri != "" {
			if found, err := parts[member](ctx, v, uri, what); err == nil {
				got := membersOf(found, uri, healthOf)
				s.all, s.uri = append(s.all, got.all...), uri
				continue
			}
		}
		for _, f := range legacy(c) {
			s.all = append(s.all, fleet.Instance{Name: f.name, Value: textOf(redfish.Text(f.health), "health of "+f.name)})
		}
	}
	if len(s.all) == 0 {
		return s, absent(what)
	}
	return s, nil
}

func fanHealth(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	return v.healths(ctx, "health of the fans", func(c chassis) (redfish.Link, error) {
		var t struct{ Fans redfish.Link }
		if c.ThermalSubsystem == "" {
			return "", nil
		}
		err := redfish.Get(ctx, v, c.ThermalSubsystem, &t)
		return t.Fans, err
	}, func(c chassis) (fans []sensor) {
		if c.Thermal == "" {
			return nil
		}
		for _, s := range v.legacySensors(ctx, c.Thermal) {
			if s.kind == "Rotational" {
				fans = append(fans, s)
			}
		}
		return fans
	})
}

func supplyHealth(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	return v.healths(ctx, "health of the power supplies", func(c chassis) (redfish.Link, error) {
		var p struct{ PowerSupplies redfish.Link }
		if c.PowerSubsystem == "" {
			return "", nil
		}
		err := redfish.Get(ctx, v, c.PowerSubsystem, &p)
		return p.PowerSupplies, err
	}, func(c chassis) (supplies []sensor) {
		var p struct {
			PowerSupplies []struct {
				Name   redfish.Text
				Status redfish.Status
			}
		}
		if c.Power == "" || redfish.Get(ctx, v, c.Power, &p) != nil {
			return nil
		}
		for _, s := range p.PowerSupplies {
			if !s.Status.Absent() {
				supplies = append(supplies, sensor{name: string(s.Name), health: s.Status.Worst()})
			}
		}
		return supplies
	})
}

// redundancy is the health of the groups that the supplies back each other in.
func redundancy(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	all, err := v.chassisOf(ctx)
	if err != nil {
		return sample{}, err
	}
	type set struct {
		Name   redfish.Text
		Status redfish.Status
	}
	var s sample
	for _, c := range all {
		var doc struct {
			Now    []set `json:"PowerSupplyRedundancy"`
			Before []set `json:"Redundancy"`
		}
		for _, uri := range links([]redfish.Link{c.PowerSubsystem, c.Power}) {
			if redfish.Get(ctx, v, uri, &doc) != nil {
				continue
			}
			for _, g := range append(doc.Now, doc.Before...) {
				s.uri = uri
				s.all = append(s.all, fleet.Instance{Name: string(g.Name), Value: textOf(redfish.Text(g.Status.Worst()), "health of this redundancy")})
			}
			break
		}
	}
	if len(s.all) == 0 {
		return s, absent("redundancy of the power supplies")
	}
	return s, nil
}

// powerCap is the limit set on the server's consumption.
func powerCap(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	all, err := v.chassisOf(ctx)
	if err != nil {
		return sample{}, err
	}
	for _, c := range all {
		var e struct {
			Limit struct{ SetPoint redfish.Number } `json:"PowerLimitWatts"`
		}
		if c.EnvironmentMetrics != "" && redfish.Get(ctx, v, c.EnvironmentMetrics, &e) == nil && e.Limit.SetPoint.Set {
			return one("limit", fleet.Number(e.Limit.SetPoint.Value, fleet.Watt), c.EnvironmentMetrics), nil
		}
		var p struct {
			PowerControl []struct {
				PowerLimit struct{ LimitInWatts redfish.Number }
			}
		}
		if c.Power != "" && redfish.Get(ctx, v, c.Power, &p) == nil && len(p.PowerControl) > 0 && p.PowerControl[0].PowerLimit.LimitInWatts.Set {
			return one("limit", fleet.Number(p.PowerControl[0].PowerLimit.LimitInWatts.Value, fleet.Watt), c.Power), nil
		}
	}
	return sample{}, absent("power cap")
}
