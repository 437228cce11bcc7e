package bmc

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// sensor is one reading of a BMC, of a Sensor resource or of the older Thermal
// and Power resources.
type sensor struct {
	id      string
	name    string
	kind    string // ReadingType: "Temperature", "Rotational", "Power", …
	context string // PhysicalContext: "CPU", "Intake", …
	value   fleet.Value
	rpm     fleet.Value // of a fan that reads in percent
	health  string
	err     error // why it could not be read; the rest is what is known of it
	fits    bool  // it is of the role that was asked for
}

// sensorResource is what is read of a Sensor.
type sensorResource struct {
	ID      redfish.Text `json:"Id"`
	Name    redfish.Text
	Type    redfish.Text `json:"ReadingType"`
	Context redfish.Text `json:"PhysicalContext"`
	Reading redfish.Number
	Units   redfish.Text   `json:"ReadingUnits"`
	RPM     redfish.Number `json:"SpeedRPM"`
	Status  redfish.Status
}

func (r sensorResource) sensor() sensor {
	s := sensor{id: string(r.ID), name: string(r.Name), kind: string(r.Type), context: string(r.Context), health: r.Status.Worst()}
	s.value = quantity(r.Reading, string(r.Units), s.name)
	if r.RPM.Set {
		s.rpm = fleet.Number(r.RPM.Value, fleet.RPM)
	}
	return s
}

// quantity is a reading in the base unit of its dimension. Units are the UCUM
// codes of DSP0268's ReadingUnits, and what older services write.
func quantity(n redfish.Number, unit, name string) fleet.Value {
	if !n.Set {
		return fleet.NoValue("the sensor " + name + " reports no value now")
	}
	switch unit {
	case "Cel", "C":
		return fleet.Number(n.Value, fleet.Celsius)
	case "%", "Percent":
		return fleet.Number(n.Value, fleet.Percent)
	case "RPM", "{rev}/min":
		return fleet.Number(n.Value, fleet.RPM)
	case "W":
		return fleet.Number(n.Value, fleet.Watt)
	case "kW":
		return fleet.Number(n.Value*1000, fleet.Watt)
	case "mW":
		return fleet.Number(n.Value/1000, fleet.Watt)
	case "V":
		return fleet.Number(n.Value, fleet.Volt)
	case "A":
		return fleet.Number(n.Value, fleet.Ampere)
	default:
		return fleet.Number(n.Value, fleet.NoUnit)
	}
}

// relistAfter is how long the list of sensors is taken for known: OpenBMC adds
// the processors' sensors when the server is switched on.
const relistAfter = 5 * time.Minute

const maxSensors = 1024

// samplingPlan remembers which sensors a BMC has and what each is, so that a
// steady monitor reads only those that it needs. Guarded by the lane's mu.
type samplingPlan struct {
	listed   time.Time
	members  []redfish.Link            // of all Sensors collections
	legacy   []redfish.Link            // Thermal and Power, of chassis without sensors
	expanded []redfish.Link            // collections with the query that inlines members
	traits   map[redfish.Link]sensor   // what is known of a member; its value is stale
	chosen   map[string][]redfish.Link // the members of a role, by what it measures
}

// samplingPlan lists the sensors if that was not done lately.
func (v *view) samplingPlan(ctx context.Context) (*samplingPlan, error) {
	l := v.lane
	now := l.cfg.Now()
	l.mu.Lock()
	old := l.plan
	l.mu.Unlock()
	if old != nil && now.Sub(old.listed) < relistAfter {
		return old, nil
	}
	fresh := &samplingPlan{listed: now, traits: map[redfish.Link]sensor{}, chosen: map[string][]redfish.Link{}}
	if err := v.listSensors(ctx, fresh); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.plan != nil && l.plan != old { // somebody else was faster
		return l.plan, nil
	}
	if old != nil {
		for _, m := range fresh.members {
			if t, known := old.traits[m]; known {
				fresh.traits[m] = t
			}
		}
	}
	l.plan = fresh
	return fresh, nil
}

func (v *view) listSensors(ctx context.Context, plan *samplingPlan) error {
	p, err := v.places(ctx)
	if err != nil {
		return err
	}
	type found struct {
		c       chassis
		members []redfish.Link
		expand  redfish.Link
		err     error
	}
	all, err := v.chassisLinks(ctx)
	if err != nil {
		return err
	}
	for _, f := range each(all, func(uri redfish.Link) (f found) {
		if f.err = redfish.Get(ctx, v, uri, &f.c); f.err != nil || f.c.Sensors == "" {
			return f
		}
		f.members, f.err = redfish.Members(ctx, v, f.c.Sensors, maxSensors)
		if query := p.root.Expand(); query != "" && len(f.members) > 1 {
			f.expand = f.c.Sensors + redfish.Link(query)
		}
		return f
	}) {
		if f.err != nil && redfishAnswered(f.err) {
			f.err = nil // a chassis that fails leaves the others
		}
		if f.err != nil {
			return f.err
		}
		plan.members = append(plan.members, f.members...)
		if f.expand != "" {
			plan.expanded = append(plan.expanded, f.expand)
		}
		if len(f.members) == 0 {
			plan.legacy = append(plan.legacy, f.c.Thermal, f.c.Power)
		}
	}
	plan.members, plan.legacy = links(plan.members), links(plan.legacy)
	return nil
}

// redfishAnswered reports whether err is the BMC's answer, not its silence.
func redfishAnswered(err error) bool { return !transportFailed(err) && !fault.Is(err, fault.Canceled) }

// sensorsFor reads the sensors that a role is made of. If none of them could be
// read the error is the first one's.
func (v *view) sensorsFor(ctx context.Context, r role) ([]sensor, error) {
	plan, err := v.samplingPlan(ctx)
	if err != nil {
		return nil, err
	}
	found := v.readMembers(ctx, plan, r)
	for _, uri := range plan.legacy {
		for _, s := range v.legacySensors(ctx, uri) {
			s.fits = r.fits(s)
			found = append(found, s)
		}
	}
	var fitting []sensor
	var failed error
	known := false
	for _, s := range found {
		if failed == nil {
			failed = s.err
		}
		if s.fits {
			fitting = append(fitting, s)
			known = known || s.value.Known()
		}
	}
	if !known && failed != nil {
		return nil, failed
	}
	return r.prefer(fitting), nil
}

// readMembers reads the Sensor resources of a role. The first time that means
// all that may be of the role by what is known of them; from then on only
// those that are.
func (v *view) readMembers(ctx context.Context, plan *samplingPlan, r role) []sensor {
	if all, ok := v.readExpanded(ctx, plan, r); ok {
		return all
	}
	v.lane.mu.Lock()
	wanted, settled := plan.chosen[r.what]
	if !settled {
		wanted = plan.candidates(r)
	}
	v.lane.mu.Unlock()
	found := each(wanted, func(uri redfish.Link) sensor { return v.readSensor(ctx, plan, uri) })

	var chosen []redfish.Link
	failed := false
	for i, uri := range wanted {
		if found[i].fits = settled || r.fits(found[i]); found[i].fits {
			chosen = append(chosen, uri)
		}
		failed = failed || found[i].err != nil
	}
	if !settled && !failed {
		v.lane.mu.Lock()
		plan.chosen[r.what] = chosen
		v.lane.mu.Unlock()
	}
	return found
}

// candidates are the sensors that fit the role or may do so. The caller holds
// the lane's mu.
func (p *samplingPlan) candidates(r role) []redfish.Link {
	var found []redfish.Link
	for _, m := range p.members {
		trait, known := p.traits[m]
		if !known {
			trait = guess(lastSegment(m))
		}
		if known && r.fits(trait) || !known && (trait.kind == "" || r.kind(trait)) {
			found = append(found, m)
		}
	}
	return found
}

// readSensor reads one Sensor resource. If that fails, what is known of it
// stands without a value.
func (v *view) readSensor(ctx context.Context, plan *samplingPlan, uri redfish.Link) sensor {
	var res sensorResource
	if err := redfish.Get(ctx, v, uri, &res); err != nil {
		v.lane.forget(err)
		v.lane.mu.Lock()
		defer v.lane.mu.Unlock()
		s, known := plan.traits[uri]
		if !known {
			s = guess(lastSegment(uri))
		}
		s.value, s.rpm, s.err = fleet.NoValue(err.Error()), fleet.Value{}, err
		return s
	}
	s := res.sensor()
	v.lane.mu.Lock()
	defer v.lane.mu.Unlock()
	plan.traits[uri] = s
	return s
}

// readExpanded reads whole collections, one request each. A BMC that announces
// the query and then fails at it is asked member by member from then on.
func (v *view) readExpanded(ctx context.Context, plan *samplingPlan, r role) ([]sensor, bool) {
	v.lane.mu.Lock()
	queries := plan.expanded
	v.lane.mu.Unlock()
	var found []sensor
	for _, uri := range queries {
		all, err := v.collection(ctx, uri)
		for _, s := range all {
			s.fits = r.fits(s)
			found = append(found, s)
		}
		if err != nil || len(found) == 0 {
			if err != nil && transportFailed(err) {
				return []sensor{{err: err}}, true // it says nothing about the query
			}
			v.lane.mu.Lock()
			plan.expanded = nil
			v.lane.mu.Unlock()
			return nil, false
		}
	}
	return found, len(queries) > 0
}

// collection is the sensors of one whole collection, decoded once for all roles.
func (v *view) collection(ctx context.Context, uri redfish.Link) ([]sensor, error) {
	v.mu.Lock()
	c := v.collections[uri]
	if c == nil {
		c = &collection{}
		v.collections[uri] = c
	}
	v.mu.Unlock()
	c.once.Do(func() {
		var raw []json.RawMessage
		raw, c.err = redfish.Entries(ctx, v, uri, maxSensors)
		for _, body := range raw {
			var res sensorResource
			if redfish.Decode(body, &res) == nil && res.ID != "" {
				c.sensors = append(c.sensors, res.sensor())
			}
		}
	})
	return c.sensors, c.err
}

// guess tells a sensor's kind by an id in the style of OpenBMC,
// "temperature_cpu0_temp"; an empty kind means that it has to be read.
func guess(id string) sensor {
	prefix, rest, _ := strings.Cut(id, "_")
	s := sensor{id: id, name: strings.ReplaceAll(rest, "_", " ")}
	switch prefix {
	case "temperature", "power", "voltage", "current", "energy", "humidity", "airflow", "pressure":
		s.kind = prefix // as ReadingType names it, but for the case
	case "fantach":
		s.kind = "Rotational"
	case "fanpwm", "utilization":
		s.kind = "Percent"
	}
	return s
}

// legacySensors reads a Thermal or a Power resource (deprecated since 2020, the
// only ones of many BMCs in the field).
func (v *view) legacySensors(ctx context.Context, uri redfish.Link) []sensor {
	type reading struct {
		ID      redfish.Text `json:"MemberId"`
		Name    redfish.Text
		FanName redfish.Text
		Context redfish.Text   `json:"PhysicalContext"`
		Celsius redfish.Number `json:"ReadingCelsius"`
		Fan     redfish.Number `json:"Reading"`
		Units   redfish.Text   `json:"ReadingUnits"`
		Watts   redfish.Number `json:"PowerConsumedWatts"`
		Status  redfish.Status
	}
	var doc struct{ Temperatures, Fans, PowerControl []reading }
	if err := redfish.Get(ctx, v, uri, &doc); err != nil {
		return []sensor{{err: err}}
	}
	var found []sensor
	add := func(r reading, kind string, n redfish.Number, unit string) {
		if r.Status.Absent() {
			return
		}
		if r.Name == "" {
			r.Name = r.FanName
		}
		found = append(found, sensor{
			id: string(r.ID), name: string(r.Name), kind: kind, context: string(r.Context),
			value: quantity(n, unit, string(r.Name)), health: r.Status.Worst(),
		})
	}
	for _, t := range doc.Temperatures {
		add(t, "Temperature", t.Celsius, "Cel")
	}
	for _, f := range doc.Fans {
		add(f, "Rotational", f.Fan, string(f.Units))
	}
	for i, p := range doc.PowerControl {
		if i == 0 { // the first is the whole server (DSP0268, PowerControl)
			p.Name = "total power"
			add(p, "Power", p.Watts, "W")
		}
	}
	return found
}
