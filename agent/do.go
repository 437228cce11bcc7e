package agent

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/trust/level"
)

const (
	// actionTimeout bounds one command on a BMC; the lane has closer bounds of its own.
	actionTimeout = 10 * time.Minute
	waitTimeout   = 10 * time.Minute
	lookEvery     = 5 * time.Second // of wait
	// waitsForTakeover is what a plan says of a step that waits a moment.
	waitsForTakeover = "waits until the BMC is taken over"
)

// once reports whether a command must not be done twice. What sets a value that
// can be read back may be done again after a crash.
func once(c scl.Command) bool {
	switch c.Verb {
	case scl.DoLog, scl.DoWait, scl.DoSequence, scl.DoBoot, scl.DoIndicator, scl.DoTakeOver, scl.DoRelease, scl.DoAccept,
		scl.DoRekey, scl.DoRekeyAbort, scl.DoAdmit, scl.DoRefuse, scl.DoForget:
		return false
	case scl.DoPower, scl.DoReboot, scl.DoClearLog, scl.DoBMCReset, scl.DoStartImage, scl.DoFirmware:
	}
	return true
}

// command does one command on a node.
func (a *Agent) command(ctx context.Context, n *node, c scl.Command, tell teller) fleet.Result {
	begun := a.now()
	r := a.dispatch(ctx, n, c, tell)
	if r.Node == "" {
		r.Node = n.entry.Name
	}
	if r.Step == "" {
		r.Step = c.Text
	}
	if r.Started.IsZero() {
		r.Started, r.Took = begun, a.now().Sub(begun)
	}
	return r
}

func (a *Agent) dispatch(ctx context.Context, n *node, c scl.Command, tell teller) fleet.Result {
	switch c.Verb {
	case scl.DoLog:
		message := ""
		if len(c.Args) > 0 {
			message = c.Args[0]
		}
		a.log.Info("a script says", obs.Node, string(n.entry.Name), obs.Reason, message)
		return fleet.Result{Status: fleet.Confirmed, After: message}
	case scl.DoWait:
		return a.await(ctx, n, c)
	case scl.DoStartImage:
		return a.startImage(ctx, c)
	case scl.DoTakeOver, scl.DoRelease, scl.DoAccept:
		return a.own(ctx, n, c)
	case scl.DoRekey, scl.DoRekeyAbort:
		return a.rekey(ctx, n, c)
	case scl.DoAdmit, scl.DoRefuse, scl.DoForget:
		return failure(fault.New(fault.Denied, string(c.Verb), "only a person can say so, not a rule"))
	case scl.DoFirmware:
		return a.firmware(ctx, n, c, tell)
	case scl.DoBMCReset:
		defer n.lookAtTakeover() // its clock may be that of 1970 now
	case scl.DoPower, scl.DoReboot, scl.DoBoot, scl.DoIndicator, scl.DoClearLog, scl.DoSequence:
	}
	return a.act(ctx, n, c)
}

// act does a command on a node's BMC, and looks at once what has become of it.
func (a *Agent) act(ctx context.Context, n *node, c scl.Command) fleet.Result {
	a.awaitTaken(ctx, n, deedsOf(c)...)
	l, err := a.way(n, deedsOf(c)...)
	if err != nil {
		return failure(err)
	}
	ctx, cancel := context.WithTimeout(ctx, actionTimeout)
	defer cancel()
	defer n.poke()
	return l.Do(ctx, c)
}

// startImage acts on the node it names, which must be of this rack: only what a rule
// says goes to another one, see shot.
func (a *Agent) startImage(ctx context.Context, c scl.Command) fleet.Result {
	const op = "start server"
	if len(c.Args) == 0 {
		return failure(fault.New(fault.BadInput, op, "it names no node"))
	}
	target := a.rack.named(fleet.NodeName(c.Args[0]))
	if target == nil {
		return failure(fault.New(fault.Unsupported, op, fmt.Sprintf("%s is not in rack %s, and a one-shot action reaches only its own targets", c.Args[0], a.cfg.Rack)).
			WithHint(fmt.Sprintf("make %s the target: (action %q (boot pxe (once)) (power on))", c.Args[0], c.Args[0])))
	}
	r := a.act(ctx, target, c)
	r.Node = target.entry.Name
	return r
}

// await looks at a condition until it is true.
func (a *Agent) await(ctx context.Context, n *node, c scl.Command) fleet.Result {
	patience := c.Timeout
	if patience <= 0 {
		patience = waitTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	begun := a.now()
	var r fleet.Result
	for {
		r.Attempts++
		readings, err := a.read(ctx, n, bmc.Action, c.Until.Refs)
		if ctx.Err() == nil {
			r.Readings = readings
		}
		if err == nil && c.Until.Test(slotsOf(readings)) == scl.True {
			r.Status = fleet.Confirmed
			return r
		}
		select {
		case <-ctx.Done():
			return failed(r, fault.New(fault.Timeout, "wait", fmt.Sprintf("%s was not true within %s", c.Until.Text, a.now().Sub(begun).Truncate(time.Second))))
		case <-tick.C:
		}
	}
}

func slotsOf(readings []fleet.Reading) []scl.Slot {
	slots := make([]scl.Slot, len(readings))
	for i, r := range readings {
		slots[i] = slotOf(r)
	}
	return slots
}

// skipped is the result of a step that was not tried.
func skipped(node fleet.NodeName, step string, why error) fleet.Result {
	r := failure(why)
	r.Status, r.Step, r.Node = fleet.Skipped, step, node
	return r
}

// failure is the result of something that was not done, or went wrong.
func failure(err error) fleet.Result { return failed(fleet.Result{}, err) }

func failed(r fleet.Result, err error) fleet.Result {
	r.Status, r.Kind, r.Error, r.Hint = fleet.Failed, string(fault.KindOf(err)), err.Error(), fault.HintOf(err)
	return r
}

// apply makes the settings of a config so.
func (a *Agent) apply(ctx context.Context, n *node, c *scl.Config) []fleet.Result {
	begun := a.now()
	deeds := a.deedsOfAll(n, c.Settings)
	a.awaitTaken(ctx, n, deeds...)
	opened, left := openSecrets(a.openSecret, c, a.barredSettings(n, c.Settings))
	l, err := n.way()
	if err == nil {
		err = a.mayBegin(n, deeds...)
	}
	var got []fleet.Result
	if err == nil && len(opened) > 0 {
		got = l.Apply(ctx, opened)
		n.poke()
	}
	results := make([]fleet.Result, 0, len(c.Settings))
	for i, s := range c.Settings {
		var r fleet.Result
		switch {
		case err != nil:
			r = failure(err)
		case left[i] != nil:
			r = failure(left[i])
		case len(got) > 0:
			r, got = got[0], got[1:]
		default:
			r = failure(fault.New(fault.Internal, "apply "+s.Path(), "the lane tells no result"))
		}
		r.Node, r.Path = n.entry.Name, s.Path()
		if r.Step == "" {
			r.Step = "config " + s.Path()
		}
		if r.Started.IsZero() {
			r.Started = begun
		}
		results = append(results, r)
	}
	return results
}

// plan compares the settings of a config with what is there.
func (a *Agent) plan(ctx context.Context, n *node, c *scl.Config) []fleet.Change {
	opened, sealed := openSecrets(a.openSecret, c, nil)
	barred, soon := a.barredSettings(n, c.Settings), a.takenSoon(n, a.judge(n))
	l, err := a.way(n, level.Look)
	var got []fleet.Change
	if err == nil && len(opened) > 0 {
		got = l.Plan(ctx, opened)
	}
	changes := make([]fleet.Change, 0, len(c.Settings))
	for i, s := range c.Settings {
		ch := fleet.Change{Verdict: fleet.Unreadable}
		switch {
		case sealed[i] != nil:
			ch.Note = sealed[i].Error()
		case err != nil:
			ch.Note = err.Error()
		case len(got) > 0:
			ch, got = got[0], got[1:]
		}
		if why := barred[i]; why != nil && soon && ch.Verdict != fleet.Same {
			ch.Note = cmp.Or(ch.Note, waitsForTakeover)
		} else if why != nil && sealed[i] == nil && err == nil && ch.Verdict != fleet.Same && ch.Verdict != fleet.Unsupported {
			ch.Verdict, ch.Note = fleet.Barred, why.Error()
		}
		ch.Node, ch.Path = n.entry.Name, s.Path()
		changes = append(changes, ch)
	}
	return changes
}
