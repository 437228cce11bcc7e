package core

import (
	"fmt"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

type rule struct {
	script fleet.ScriptName
	*scl.Monitor
	barred map[fleet.NodeName]string
}

func (r *rule) every() time.Duration {
	if r.Options.Every <= 0 {
		return defaultEvery
	}
	return r.Options.Every
}

// evaluate moves the state of a rule on a node by what was just sampled.
func (w *watch) evaluate(e *Engine, now time.Time, out *Output) {
	s := e.state(w)
	before := *s
	s.settle(now)
	switch w.test() {
	case scl.False:
		s.Armed, s.Since, s.Held = true, time.Time{}, ""
	case scl.Unknown:
		s.Since = time.Time{}
	case scl.True:
		w.hold(e, s, now, out)
	}
	if s.differs(before) {
		kept := *s
		kept.Fired = slices.Clone(s.Fired)
		out.Changed = append(out.Changed, kept)
	}
}

// hold is called while the condition is true.
func (w *watch) hold(e *Engine, s *State, now time.Time, out *Output) {
	if s.Since.IsZero() {
		s.Since = now
	}
	if !s.Armed || now.Sub(s.Since) < w.Options.For {
		return
	}
	why := e.held(w, s, now)
	if why.name != "" && why.name == s.Held {
		return // pending, and reported
	}
	out.Fire = append(out.Fire, w.fire(e, now, why))
	s.Held = why.name
	if why.name == "" {
		s.Armed = false
		if len(s.Fired) == 0 {
			e.fired[s.named()] = append(e.fired[s.named()], s)
		}
		s.Fired = append(w.recent(s, now), now)
	}
}

// reason is why an edge is held: its name, and the text for a person.
type reason struct{ name, text string }

// held says what holds an edge back. The cut-off comes first: it says more
// about the site than a cooldown does.
func (e *Engine) held(w *watch, s *State, now time.Time) reason {
	o := w.Options
	if !e.link.Connected {
		cut := now.Sub(e.link.Since).Truncate(time.Second)
		switch {
		case o.CutOff.Hold:
			return reason{"cut-off", "(when-cut-off hold): no coordinator is reached"}
		case o.CutOff.RunFor > 0 && cut >= o.CutOff.RunFor:
			return reason{"cut-off", fmt.Sprintf("(when-cut-off (run-for %s)): no coordinator is reached for %s", o.CutOff.RunFor, cut)}
		}
	}
	if why := w.barred[w.node]; why != "" {
		return reason{"untrusted", why}
	}
	if n := len(s.Fired); n > 0 && now.Sub(s.Fired[n-1]) < o.Cooldown {
		return reason{"cooldown", fmt.Sprintf("(cooldown %s): it fired %s ago", o.Cooldown, now.Sub(s.Fired[n-1]).Truncate(time.Second))}
	}
	if o.Limit.Count > 0 && e.spent(w, now) >= o.Limit.Count {
		return reason{"limit", fmt.Sprintf("(limit %d (in %s)): it fired that often in this rack", o.Limit.Count, o.Limit.Window)}
	}
	return reason{}
}

// spent counts the firings of w's rule on all nodes within the limit's window.
func (e *Engine) spent(w *watch, now time.Time) int {
	n := 0
	for _, s := range e.fired[named{w.script, w.Name}] {
		for _, at := range s.Fired {
			if now.Sub(at) < w.Options.Limit.Window {
				n++
			}
		}
	}
	return n
}

// recent are the firings that the cooldown and the limit still need to know of.
func (w *watch) recent(s *State, now time.Time) []time.Time {
	need := w.Options.Limit.Window
	return slices.DeleteFunc(slices.Clone(s.Fired), func(at time.Time) bool { return now.Sub(at) >= need })
}

func (w *watch) fire(e *Engine, now time.Time, why reason) Fire {
	f := Fire{Firing: fleet.Firing{
		Script:    w.script,
		Rule:      w.Name,
		Node:      w.node,
		Condition: w.Condition.Text,
		At:        now,
		CutOff:    !e.link.Connected,
		Held:      why.text,
	}}
	for i, p := range w.probes {
		if p == nil {
			f.Firing.Readings = append(f.Firing.Readings, w.event.about(w.Condition.Refs[i], w.node, now))
			continue
		}
		f.Firing.Readings = append(f.Firing.Readings, p.last)
	}
	if why.name == "" {
		f.Commands = w.Commands
	}
	return f
}

// test evaluates the condition over the latest values.
func (w *watch) test() scl.Truth {
	for i, p := range w.probes {
		w.slots[i] = scl.Slot{All: w.slots[i].All[:0]} // in the room of the last time
		if p == nil {
			w.slots[i].Value = fleet.Bool(w.event != nil && scl.MatchEvent(w.Condition.Refs[i].Param, w.event.MessageID))
			continue
		}
		if !p.seen {
			continue
		}
		w.slots[i].Value = p.last.Value
		for _, in := range p.last.Instances {
			w.slots[i].All = append(w.slots[i].All, in.Value)
		}
	}
	return w.Condition.Test(w.slots)
}

func (e *Engine) state(w *watch) *State {
	if w.state != nil {
		return w.state
	}
	k := Key{w.script, w.Name, w.node}
	s, ok := e.states[k]
	if !ok {
		s = &State{Key: k, Condition: w.Condition.Text, Armed: true}
		e.states[k] = s
	}
	w.state = s
	return s
}

// settle pulls times of the future back to now: the clock was set back, and
// nothing shall wait longer for it than its own duration.
func (s *State) settle(now time.Time) {
	s.Since = earlier(s.Since, now)
	for i, at := range s.Fired {
		s.Fired[i] = earlier(at, now)
	}
}

func (s *State) differs(o State) bool {
	return s.Armed != o.Armed || !s.Since.Equal(o.Since) || s.Held != o.Held || len(s.Fired) != len(o.Fired) ||
		len(s.Fired) > 0 && !s.Fired[len(s.Fired)-1].Equal(o.Fired[len(o.Fired)-1])
}
