package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// sampleTimeout bounds one sample of one node.
const sampleTimeout = 15 * time.Second

// watcher carries out what the rule engine decides. The engine is its own.
type watcher struct {
	*Agent
	engine *core.Engine
	doing  sync.WaitGroup // samples and firings
}

// watch watches the standing rules until ctx ends, whether or not a coordinator is
// reached.
func (a *Agent) watch(ctx context.Context) error {
	states, err := a.ruleStates()
	if err != nil {
		return err
	}
	marks, err := a.marks()
	if err != nil {
		return err
	}
	w := &watcher{Agent: a, engine: core.New(states, marks)}
	defer w.doing.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := w.step(ctx, core.Link{Since: a.cutSince()}); err != nil {
		return err
	}
	if err := w.step(ctx, a.rules()); err != nil {
		return err
	}
	if err := w.askOn(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var in core.Input = core.Tick{}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case in = <-a.inputs:
		case in = <-a.links:
		case <-a.targets:
			in = a.rules()
		case <-timer.C:
		}
		next, err := w.take(ctx, in)
		if err != nil {
			return err
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(max(0, next.Sub(a.now())))
		}
	}
}

func (w *watcher) step(ctx context.Context, in core.Input) error {
	_, err := w.take(ctx, in)
	return err
}

// take steps the engine, keeps what must be kept, and only then sets going what is
// to be done.
func (w *watcher) take(ctx context.Context, in core.Input) (next time.Time, err error) {
	out := w.engine.Step(w.now(), in)
	if err := w.mustKeep(ctx, out); err != nil {
		return time.Time{}, err
	}
	if rules, changed := in.(core.Rules); changed {
		w.attend(rules)
	}
	for _, r := range out.Read {
		w.doing.Go(func() { w.sample(ctx, r) })
	}
	for _, f := range out.Fire {
		w.log.Warn("rule fired", obs.Script, string(f.Firing.Script), obs.Rule, f.Firing.Rule, obs.Node, string(f.Firing.Node), obs.Reason, f.Firing.Held)
		if f.Firing.Held == "" {
			w.doing.Go(func() { w.fire(ctx, f) })
		}
	}
	return out.Next, nil
}

// mustKeep keeps what the engine has decided, however long that takes: on a full disk
// no rule acts before what it does can be written down. Only the end of the process,
// or of the disk, is an error.
func (w *watcher) mustKeep(ctx context.Context, out core.Output) error {
	return w.persist(ctx, "rules wait until it can be kept", func() error { return w.keep(out) })
}

// persist tries to keep something until it is kept, the disk is broken, or ctx ends.
func (a *Agent) persist(ctx context.Context, what string, keep func() error) error {
	for said := false; ; said = true {
		err := keep()
		if err == nil || a.spool.Err() != nil {
			return err
		}
		if !said {
			a.complain(what, err)
		}
		if wait(ctx, retryAfter); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// keep writes the states of rules, the events they have seen, the intents of
// firings and the firings that are held, in one transaction.
func (w *watcher) keep(out core.Output) error {
	if len(out.Changed)+len(out.Gone)+len(out.Fire)+len(out.Marks) == 0 && !out.Deaf {
		return nil
	}
	return w.spool.Update(func(tx *spool.Tx) error {
		journal.KeepRules(tx, w.now(), out, notBegun)
		return nil
	})
}

// sample reads what the engine asked for and tells it, whatever came of it.
func (w *watcher) sample(ctx context.Context, r core.Read) {
	s := core.Sample{Node: r.Node, Refs: r.Refs}
	if n := w.rack.named(r.Node); n != nil {
		reading, cancel := context.WithTimeout(ctx, sampleTimeout)
		s.Readings, _ = w.read(reading, n, bmc.Monitor, r.Refs) // unknown where it failed
		cancel()
	}
	w.tell(ctx, s)
}

// tell hands an input to the rules.
func (a *Agent) tell(ctx context.Context, in core.Input) {
	select {
	case a.inputs <- in:
	case <-ctx.Done():
	}
}

// stands reports whether the rule of a firing is still in force.
func (a *Agent) stands(f fleet.Firing) bool {
	p := a.programs()[f.Script]
	return p != nil && slices.ContainsFunc(p.Monitors, func(m scl.Monitor) bool { return m.Name == f.Rule })
}

// Linked is told by the link when a coordinator is reached or lost. When the link
// was cut is kept, so that (run-for …) goes on counting over a restart.
func (a *Agent) Linked(connected bool, since time.Time) {
	err := a.spool.Update(func(tx *spool.Tx) error {
		if connected {
			tx.Delete(spool.Notes, keyCut)
		} else {
			tx.PutTime(spool.Notes, keyCut, since)
		}
		return nil
	})
	if err != nil {
		a.complain("link", err)
	}
	a.waves.link(connected)
	select {
	case <-a.links: // older news, which nobody has taken
	default:
	}
	a.links <- core.Link{Connected: connected, Since: since}
	a.office.tell(owner.Linked{Connected: connected})
}

// cutSince is when a coordinator was last reached, as far as the spool knows.
func (a *Agent) cutSince() (since time.Time) {
	err := a.spool.Update(func(tx *spool.Tx) error {
		if since = tx.Time(spool.Notes, keyCut); since.IsZero() {
			since = a.now()
			tx.PutTime(spool.Notes, keyCut, since)
		}
		return nil
	})
	if err != nil {
		return a.now()
	}
	return since
}
