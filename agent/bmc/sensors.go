package bmc

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/scan"
)

// relistAfter is how long the list of sensors is taken for known: OpenBMC adds
// the processors' sensors when the server is switched on.
const relistAfter = 5 * time.Minute

// doubtFor is how long a list stands in which something could not be read.
const doubtFor = 30 * time.Second

const maxSensors = 1024

// samplingPlan remembers which sensors a BMC has and what each is, so that a
// steady monitor reads only those that it needs. Guarded by the lane's mu.
type samplingPlan struct {
	until    time.Time                 // when to list again
	doubt    error                     // why some may be missing
	members  []redfish.Link            // of all Sensors collections
	legacy   []redfish.Link            // Thermal and Power, of chassis without sensors
	expanded []redfish.Link            // collections with the query that inlines members
	traits   map[redfish.Link]sensor   // what is known of a member; its value is stale
	last     map[redfish.Link][]sensor // the same of what comes in one piece; never changed, but replaced
	chosen   map[string][]redfish.Link // the members of a role, by what it measures
}

// samplingPlan lists the sensors if that was not done lately.
func (v *view) samplingPlan(ctx context.Context) (*samplingPlan, error) {
	l := v.lane
	now := l.cfg.Now()
	l.mu.Lock()
	old := l.plan
	l.mu.Unlock()
	if old != nil && now.Before(old.until) {
		return old, nil
	}
	fresh := &samplingPlan{until: now.Add(relistAfter), traits: map[redfish.Link]sensor{}, last: map[redfish.Link][]sensor{}, chosen: map[string][]redfish.Link{}}
	if err := v.listSensors(ctx, fresh); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.plan != nil && l.plan != old { // somebody else was faster
		return l.plan, nil
	}
	if old != nil {
		fresh.last = old.last
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
	var doubts doubt
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
		if f.err != nil && !redfishAnswered(f.err) {
			return f.err
		}
		doubts.note(f.err) // a chassis that fails leaves the others
		plan.members = append(plan.members, f.members...)
		if f.expand != "" {
			plan.expanded = append(plan.expanded, f.expand)
		}
		if len(f.members) == 0 {
			plan.legacy = append(plan.legacy, f.c.Thermal, f.c.Power)
		}
	}
	plan.members, plan.legacy = links(plan.members), links(plan.legacy)
	if plan.doubt = doubts.err; plan.doubt != nil {
		plan.until = v.lane.cfg.Now().Add(doubtFor)
	}
	return nil
}

// redfishAnswered reports whether err is the BMC's answer, not its silence.
func redfishAnswered(err error) bool { return !transportFailed(err) && !fault.Is(err, fault.Canceled) }

// sensorsFor reads the sensors that a role is made of. If none of them could be
// read the error is the first one's.
func (v *view) sensorsFor(ctx context.Context, r role) ([]*sensor, error) {
	plan, err := v.samplingPlan(ctx)
	if err != nil {
		return nil, err
	}
	found, failed := v.readMembers(ctx, plan, r)
	if failed == nil && len(found) == 0 {
		failed = plan.doubt // it may be among those that were not listed
	}
	for _, uri := range plan.legacy {
		all, err := v.inOnePiece(plan, uri, func(known []sensor) ([]sensor, error) { return v.legacySensors(ctx, uri, known) })
		if failed == nil {
			failed = err
		}
		found = r.of(all, found)
	}
	if failed != nil && !slices.ContainsFunc(found, func(s *sensor) bool { return s.value.Known() }) {
		return nil, failed
	}
	return r.prefer(found), nil
}

// readMembers reads the Sensor resources of a role. The first time that means
// all that may be of the role by what is known of them; from then on only
// those that are. The error is the first failure; what was read is valid.
func (v *view) readMembers(ctx context.Context, plan *samplingPlan, r role) (found []*sensor, failed error) {
	found, done, failed := v.readExpanded(ctx, plan, r)
	if done {
		return found, failed
	}
	failed = nil // it is asked in another way
	v.lane.mu.Lock()
	wanted, settled := plan.chosen[r.what]
	if !settled {
		wanted = plan.candidates(r)
	}
	v.lane.mu.Unlock()

	var chosen []redfish.Link
	for i, s := range each(wanted, func(uri redfish.Link) *sensor { return v.readSensor(ctx, plan, uri) }) {
		if failed == nil {
			failed = s.err
		}
		if settled || s.roles&r.bit != 0 {
			chosen, found = append(chosen, wanted[i]), append(found, s)
		}
	}
	if !settled && failed == nil {
		v.lane.mu.Lock()
		plan.chosen[r.what] = chosen
		v.lane.mu.Unlock()
	}
	return found, failed
}

// candidates are the sensors that fit the role or may do so. The caller holds
// the lane's mu.
func (p *samplingPlan) candidates(r role) []redfish.Link {
	var found []redfish.Link
	for _, m := range p.members {
		s, known := p.traits[m]
		if !known {
			s.trait = guess(lastSegment(m))
		}
		if known && s.roles&r.bit != 0 || !known && (s.kind == "" || r.measures(s.trait)) {
			found = append(found, m)
		}
	}
	return found
}

// readSensor reads one Sensor resource. If that fails, what is known of it
// stands without a value.
func (v *view) readSensor(ctx context.Context, plan *samplingPlan, uri redfish.Link) *sensor {
	v.lane.mu.Lock()
	s, known := plan.traits[uri]
	v.lane.mu.Unlock()
	body, err := v.Fetch(ctx, string(uri))
	if err != nil {
		v.lane.forget(err)
		if !known {
			s.trait = guess(lastSegment(uri))
			s.recognize(trait{})
		}
		s.value, s.rpm, s.err = fleet.NoValue(err.Error()), fleet.Value{}, err
		return &s
	}
	s = scanSensor(scan.New(body, maxDepth), &s)
	s.at = v.lane.cfg.Now()
	v.lane.mu.Lock()
	defer v.lane.mu.Unlock()
	plan.traits[uri] = s
	return &s
}

// maxDepth is for what Fetch has let through: it has checked the depth already.
const maxDepth = math.MaxInt

// readExpanded reads whole collections, one request each. It is not done where the
// BMC has no such query; one that announces the query and then fails at it is asked
// member by member from then on.
func (v *view) readExpanded(ctx context.Context, plan *samplingPlan, r role) (found []*sensor, done bool, failed error) {
	v.lane.mu.Lock()
	queries := plan.expanded
	v.lane.mu.Unlock()
	for _, uri := range queries {
		all, err := v.inOnePiece(plan, uri, func(known []sensor) ([]sensor, error) { return v.collection(ctx, uri, known) })
		switch {
		case err != nil && transportFailed(err): // it says nothing about the query
			return nil, true, err
		case err != nil || len(all) == 0:
			v.lane.mu.Lock()
			plan.expanded = nil
			v.lane.mu.Unlock()
			return nil, false, err
		}
		found = r.of(all, found)
	}
	return found, len(queries) > 0, nil
}

// sensorsInOnePiece reports whether one request is known to read all sensors.
func (l *Lane) sensorsInOnePiece() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.plan != nil && len(l.plan.expanded)+len(l.plan.legacy) == 1 && (len(l.plan.expanded) == 1 || len(l.plan.members) == 0)
}

// inOnePiece reads a resource of many sensors, once for all roles. What was read of
// it the last time is given to read, which makes use of what has not changed.
func (v *view) inOnePiece(plan *samplingPlan, uri redfish.Link, read func(known []sensor) ([]sensor, error)) ([]sensor, error) {
	v.mu.Lock()
	p := v.pieces[uri]
	if p == nil {
		p = &piece{}
		v.pieces[uri] = p
	}
	v.mu.Unlock()
	p.once.Do(func() {
		l := v.lane
		l.mu.Lock()
		known := plan.last[uri]
		l.mu.Unlock()
		if p.sensors, p.err = read(known); p.err == nil {
			for i, now := 0, l.cfg.Now(); i < len(p.sensors); i++ {
				p.sensors[i].at = now
			}
			l.mu.Lock()
			plan.last[uri] = p.sensors
			l.mu.Unlock()
		}
	})
	return p.sensors, p.err
}

// collection reads a whole collection.
func (v *view) collection(ctx context.Context, uri redfish.Link, known []sensor) ([]sensor, error) {
	found := make([]sensor, 0, len(known))
	err := redfish.WalkEntries(ctx, v, uri, maxSensors, func(s *scan.Scanner) {
		if one := scanSensor(s, at(known, len(found))); one.id != "" {
			found = append(found, one)
		}
	})
	return found, err
}

// at is the sensor that was at place i, an empty one if there was none.
func at(known []sensor, i int) *sensor {
	if i < len(known) {
		return &known[i]
	}
	return &sensor{}
}
