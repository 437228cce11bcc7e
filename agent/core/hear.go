package core

import (
	"cmp"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

const (
	// lookGap lies at least between two reads of a node, however much its BMC tells.
	lookGap = time.Second
	// lateFor is how long an event that was pushed may be missing in the log.
	lateFor = 10 * time.Minute
	// maxMarks bounds what is remembered of one BMC. What is pushed beyond it is
	// told, and what the log holds beyond it is not.
	maxMarks = 8192
	// maxPending bounds the events that wait for the values a condition also needs.
	maxPending = 256
)

// Event is something that a BMC tells, or that stands in its log.
type Event struct {
	ID        string // of the push, the same when it is repeated; "" if it has none
	MessageID string
	Text      string
	Time      string // as the BMC's clock has it
}

// Heard is news of a BMC: every element of its node is read at once, and rules
// over events see what is new of them.
type Heard struct {
	Node   fleet.NodeName
	Events []Event // pushed, in their order
	// Log is all that the BMC's log holds, if HasLog. What of it was neither
	// pushed nor there before is news: so nothing is lost while nobody listened.
	Log    []Event
	HasLog bool
	Gap    bool // something may have been missed: look, also if there is no event
}

// Marks are the events of one BMC that rules have seen. They are kept together
// with the states of the rules, so that a restart neither repeats nor loses one
// that stands in the log.
type Marks struct {
	Node   fleet.NodeName
	HasLog bool // the log was read: what it holds beyond Seen is news
	Seen   map[uint64]Mark
}

// Mark is how many events of the same text and second were pushed, and how many
// stood in the log: as many as the larger of the two have been seen, because either
// may come first.
type Mark struct {
	Pushed, Logged int
	At             time.Time // when the last of them came
}

func (m Mark) seen() int { return max(m.Pushed, m.Logged) }

func (h Heard) happen(e *Engine, now time.Time, out *Output) {
	i, ok := slices.BinarySearchFunc(e.nodes, h.Node, (*node).compare)
	if !ok {
		return // no rule watches it
	}
	n := e.nodes[i]
	var fresh []Event
	if n.hears() {
		fresh = e.fresh(h, now, out)
	}
	for _, ev := range fresh {
		n.tell(e, ev, now, out)
	}
	if len(h.Events)+len(fresh) > 0 || h.Gap {
		n.look(now)
		e.agenda.put(n, now)
	}
}

// fresh are the events that no rule has seen, in their order.
func (e *Engine) fresh(h Heard, now time.Time, out *Output) []Event {
	m := e.marks[h.Node]
	if m == nil {
		m = &Marks{Node: h.Node, Seen: make(map[uint64]Mark)}
		e.marks[h.Node] = m
	}
	fresh, changed := m.push(h.Events, now)
	if h.HasLog {
		logged, also := m.fill(h.Log, now)
		fresh, changed = append(fresh, logged...), changed || also
	}
	if changed {
		kept := *m
		kept.Seen = maps.Clone(m.Seen)
		out.Marks = append(out.Marks, kept)
	}
	return fresh
}

// push takes note of events that were pushed, and leaves out repetitions.
func (m *Marks) push(events []Event, now time.Time) (fresh []Event, changed bool) {
	for _, ev := range events {
		if ev.ID != "" {
			once := hash("push", ev.ID, ev.key())
			if m.Seen[once].seen() > 0 {
				continue
			}
			m.put(once, Mark{Pushed: 1, At: now})
		}
		key := hash(ev.key())
		mark := m.Seen[key]
		before := mark.seen()
		mark.Pushed, mark.At = mark.Pushed+1, now
		m.put(key, mark)
		changed = true
		if mark.seen() > before {
			fresh = append(fresh, ev)
		}
	}
	return fresh, changed
}

// put keeps a mark, if there is room.
func (m *Marks) put(key uint64, mark Mark) (kept bool) {
	_, known := m.Seen[key]
	if kept = known || len(m.Seen) < maxMarks; kept {
		m.Seen[key] = mark
	}
	return kept
}

// fill compares the whole log with what was seen. The first time everything in
// it counts as seen: it was there before anybody asked.
func (m *Marks) fill(log []Event, now time.Time) (fresh []Event, changed bool) {
	log = slices.Clone(log)
	slices.SortStableFunc(log, func(a, b Event) int { return cmp.Compare(a.Time, b.Time) })
	there := make(map[uint64]int, len(log))
	for _, ev := range log {
		key := hash(ev.key())
		mark := m.Seen[key]
		before := mark.seen()
		if there[key]++; there[key] <= mark.Logged {
			continue
		}
		mark.Logged, mark.At = there[key], now
		kept := m.put(key, mark)
		changed = true
		if m.HasLog && kept && mark.seen() > before {
			fresh = append(fresh, ev)
		}
	}
	for key, mark := range m.Seen {
		if there[key] == 0 && now.Sub(mark.At) > lateFor {
			delete(m.Seen, key)
			changed = true
		}
	}
	changed = changed || !m.HasLog
	m.HasLog = true
	return fresh, changed
}

// key is the same for an event and for the entry of the log that tells of it: the
// registry of the message and the form of the time differ between the two.
func (ev Event) key() string {
	at := ev.Time
	if t, err := time.Parse(time.RFC3339, at); err == nil {
		at = t.UTC().Format(time.RFC3339)
	}
	return ev.MessageID[strings.LastIndexByte(ev.MessageID, '.')+1:] + "\x00" + at + "\x00" + ev.Text
}

func hash(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		_, _ = h.Write([]byte(p))
		_, _ = h.Write([]byte{0})
	}
	return h.Sum64()
}

// hears reports whether a rule on the node is about events.
func (n *node) hears() bool {
	return slices.ContainsFunc(n.watches, func(w *watch) bool { return w.hears })
}

// tell shows an event to the rules that are about nothing else, and keeps it for
// those that need values of the same moment too.
func (n *node) tell(e *Engine, ev Event, now time.Time, out *Output) {
	values := false
	for _, w := range n.watches {
		switch {
		case !w.wants(ev):
		case w.reads():
			values = true
		default:
			w.moment(e, ev, now, out)
			w.evaluate(e, now, out)
		}
	}
	if values && len(n.pending) < maxPending {
		n.pending = append(n.pending, ev)
	}
}

// moment evaluates a rule as it is while ev arrives.
func (w *watch) moment(e *Engine, ev Event, now time.Time, out *Output) {
	w.event = &ev
	w.evaluate(e, now, out)
	w.event = nil
}

// wants reports whether one of the condition's globs matches ev.
func (w *watch) wants(ev Event) bool {
	return slices.ContainsFunc(w.Condition.Refs, func(r scl.Ref) bool {
		return r.IsEvent() && scl.MatchEvent(r.Param, ev.MessageID)
	})
}

// reads reports whether the condition also needs values.
func (w *watch) reads() bool {
	return slices.ContainsFunc(w.probes, func(p *probe) bool { return p != nil })
}

// look makes everything due now, or as soon as the node may be read again.
func (n *node) look(now time.Time) {
	at := now
	if again := n.asked.Add(lookGap); again.After(now) && !n.asked.After(now) {
		at = again
	}
	for _, p := range n.probes {
		p.due = earlier(p.due, at)
	}
}

// about is what a reading shows of an event that a rule has fired on.
func (ev *Event) about(ref scl.Ref, on fleet.NodeName, now time.Time) fleet.Reading {
	r := fleet.Reading{Node: on, Ref: ref.Text, Value: fleet.NoValue("it did not happen"), At: now}
	if ev != nil && scl.MatchEvent(ref.Param, ev.MessageID) {
		r.Value = fleet.Text(strings.TrimSuffix(ev.MessageID+": "+ev.Text, ": "))
	}
	return r
}
