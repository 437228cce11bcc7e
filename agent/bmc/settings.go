package bmc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// thing is one resource that settings configure: it compares each field with
// what is there and writes those that differ, in as few requests as it can.
type thing interface {
	// compare says how each of the settings stands, in their order.
	compare(ctx context.Context, v *view, settings []scl.Setting) []fleet.Change
	// write makes the given settings so, all of which differ.
	write(ctx context.Context, v *view, settings []scl.Setting) error
	// settles is how long a write may take to be seen; 0: at once.
	settles(l *Lane) time.Duration
}

// things are the handlers of the resources.
func things() map[scl.Resource]thing {
	return map[scl.Resource]thing{
		scl.Power:     powerSetting{},
		scl.Boot:      bootSetting{},
		scl.AssetTag:  assetSetting{},
		scl.Indicator: indicatorSetting{},
		scl.Interface: interfaceSetting{},
		scl.Device:    deviceSetting{},
		scl.User:      userSetting{},
	}
}

// group is the settings of one resource, with their places in the whole list.
type group struct {
	thing    thing
	settings []scl.Setting
	at       []int
}

// grouped puts the settings of each resource together, in the order of the
// script.
func grouped(settings []scl.Setting) []*group {
	type key struct {
		resource scl.Resource
		name     string
	}
	all := things()
	byKey := map[key]*group{}
	var groups []*group
	for i, s := range settings {
		k := key{s.Resource, s.Name}
		g := byKey[k]
		if g == nil {
			g = &group{thing: all[s.Resource]}
			byKey[k] = g
			groups = append(groups, g)
		}
		g.settings, g.at = append(g.settings, s), append(g.at, i)
	}
	return groups
}

// Plan reads and compares; it writes nothing. The changes have the order of the
// settings. A sealed secret must have been opened into Secret.Literal before.
func (l *Lane) Plan(ctx context.Context, settings []scl.Setting) []fleet.Change {
	v := l.view(Person)
	out := make([]fleet.Change, len(settings))
	for _, g := range grouped(settings) {
		for i, c := range g.compare(ctx, v) {
			out[g.at[i]] = c
		}
	}
	return out
}

// compare is the thing's own, with the names filled in.
func (g *group) compare(ctx context.Context, v *view) []fleet.Change {
	if g.thing == nil {
		return verdictOn(g.settings, fleet.Unsupported, "the agent can't configure "+string(g.settings[0].Resource))
	}
	changes := g.thing.compare(ctx, v, g.settings)
	for i, s := range g.settings {
		changes[i].Node, changes[i].Path = v.lane.cfg.Node, s.Path()
		if s.Field == "password" {
			changes[i].Before, changes[i].After = fleet.Redacted, fleet.Redacted
		} else {
			changes[i].After = s.Value.String()
		}
	}
	return changes
}

// Apply makes the settings so: it reads, compares, writes only the difference
// and reads back. The results have the order of the settings; a resource that
// fails does not keep the others from being tried.
func (l *Lane) Apply(ctx context.Context, settings []scl.Setting) []fleet.Result {
	out := make([]fleet.Result, len(settings))
	for _, g := range grouped(settings) {
		for i, r := range l.applyGroup(ctx, g) {
			out[g.at[i]] = r
		}
	}
	return out
}

func (l *Lane) applyGroup(ctx context.Context, g *group) []fleet.Result {
	begun := l.cfg.Now()
	v := l.view(Action)
	changes := g.compare(ctx, v)
	out := make([]fleet.Result, len(changes))
	var todo []scl.Setting
	var at []int
	for i, c := range changes {
		out[i] = fleet.Result{
			Node: c.Node, Step: "config", Path: c.Path, Before: c.Before, After: c.After,
			Status: fleet.Unchanged, Started: begun, Attempts: 1,
		}
		switch {
		case c.Verdict == fleet.Unsupported:
			out[i].Status, out[i].Kind, out[i].Error = fleet.NotProvided, string(fault.Unsupported), c.Note
		case c.Verdict == fleet.Unreadable && g.settings[i].Field != "password":
			out[i].Status, out[i].Kind, out[i].Error = fleet.Failed, string(fault.Unavailable), c.Note
		case c.Verdict != fleet.Same:
			todo, at = append(todo, g.settings[i]), append(at, i)
		}
	}
	if len(todo) > 0 {
		err := g.thing.write(ctx, v, todo)
		for j, r := range l.confirm(ctx, g.thing, todo, err) {
			r.merge(&out[at[j]])
		}
	}
	took := l.cfg.Now().Sub(begun)
	for i := range out {
		out[i].Took = took
	}
	return out
}

// verdict is how one field ended.
type verdict struct {
	status fleet.Status
	err    error
	note   string // a remark on a success that can't be proved
}

func (w verdict) merge(r *fleet.Result) {
	r.Status, r.Error = w.status, w.note
	if w.err != nil {
		r.Kind, r.Error, r.Hint = string(fault.KindOf(w.err)), w.err.Error(), fault.HintOf(w.err)
	}
}

// attempted is what a thing's write returns when the BMC accepted a password
// that could not be proved.
type attempted struct{ note string }

func (a attempted) Error() string { return a.note }

// proven is what a thing's write returns when it has proved a password itself.
type proven struct{}

func (proven) Error() string { return "proven" }

// proofOf is the verdict on a password that a write's end carries.
func proofOf(err error) (v verdict, certain bool) {
	if _, ok := errors.AsType[proven](err); ok {
		return verdict{status: fleet.Confirmed}, true
	}
	if a, ok := errors.AsType[attempted](err); ok {
		return verdict{status: fleet.Attempted, note: a.note}, true
	}
	if u, ok := errors.AsType[unproven](err); ok {
		return verdict{status: fleet.Unknown, err: u}, true
	}
	return verdict{}, false
}

// confirm tells how the settings stand after their write, which ended in err. A
// password stands as its own proof says; the rest is read back.
func (l *Lane) confirm(ctx context.Context, t thing, settings []scl.Setting, err error) []verdict {
	out := make([]verdict, len(settings))
	proof, certain := proofOf(err)
	if certain {
		err = nil
	}
	if err != nil && !redfish.Uncertain(err) {
		for i := range out {
			out[i] = verdict{status: statusOf(err), err: err}
		}
		return out
	}
	for i, v := range l.settle(ctx, t, settings, err) {
		if out[i] = v; certain && settings[i].Field == "password" {
			out[i] = proof
		}
	}
	return out
}

// settle reads back what was written until it is so or its time is over.
func (l *Lane) settle(ctx context.Context, t thing, settings []scl.Setting, err error) []verdict {
	out := make([]verdict, len(settings))
	deadline := l.cfg.Now().Add(t.settles(l))
	for {
		wrong := 0
		for i, c := range (&group{thing: t, settings: settings}).compare(ctx, l.view(Action)) {
			if out[i] = l.readBack(c, err); out[i].status != fleet.Confirmed {
				wrong++
			}
		}
		if wrong == 0 || !l.cfg.Now().Before(deadline) || !l.pause(ctx) {
			return out
		}
	}
}

// readBack judges one field after its write, which ended in err.
func (l *Lane) readBack(c fleet.Change, err error) verdict {
	switch {
	case c.Verdict == fleet.Same:
		return verdict{status: fleet.Confirmed}
	case c.Verdict == fleet.Differs && err == nil:
		return verdict{status: fleet.Failed, err: fault.Wrap(fault.Conflict, "read back "+c.Path,
			fmt.Errorf("the BMC accepted the change and still shows %s", c.Before))}
	case err != nil:
		return verdict{status: fleet.Unknown, err: err}
	default:
		return verdict{status: fleet.Attempted, note: "it could not be read back: " + c.Note}
	}
}

// statusOf is how a write that failed with err ended.
func statusOf(err error) fleet.Status {
	switch {
	case redfish.Uncertain(err):
		return fleet.Unknown
	case fault.Is(err, fault.Unsupported):
		return fleet.NotProvided
	default:
		return fleet.Failed
	}
}

// pause waits between two looks; false if ctx ended.
func (l *Lane) pause(ctx context.Context) bool {
	timer := time.NewTimer(l.cfg.Poll)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// verdictOn gives all settings the same verdict.
func verdictOn(settings []scl.Setting, v fleet.Verdict, note string) []fleet.Change {
	out := make([]fleet.Change, len(settings))
	for i := range out {
		out[i] = fleet.Change{Verdict: v, Note: note}
	}
	return out
}

// unread is the verdict on settings whose resource could not be read.
func unread(settings []scl.Setting, err error) []fleet.Change {
	if fault.Is(err, fault.Unsupported) || fault.Is(err, fault.NotFound) {
		return verdictOn(settings, fleet.Unsupported, err.Error())
	}
	return verdictOn(settings, fleet.Unreadable, err.Error())
}

// compared is the verdict on a field that reads as before.
func compared(before string, same bool) fleet.Change {
	c := fleet.Change{Before: before, Verdict: fleet.Differs}
	if same {
		c.Verdict = fleet.Same
	}
	return c
}

// unsupported is the verdict on a field that the BMC does not have.
func unsupported(note string) fleet.Change {
	return fleet.Change{Verdict: fleet.Unsupported, Note: note}
}
