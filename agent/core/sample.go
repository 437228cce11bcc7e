package core

import (
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

const (
	// soon bounds the wait for the first sample of a node.
	soon = time.Second
	// defaultEvery stands in for a period that nobody set.
	defaultEvery = 10 * time.Second
)

// node is the sampling plan of one node: each element once, however many rules
// watch it, at the shortest period any of them asks for.
type node struct {
	name    fleet.NodeName
	probes  []*probe // by key
	watches []*watch // in the order of the rules
	busy    bool     // a read is under way
	due     time.Time
	place   int      // in the agenda
	asking  []*probe // by the read under way, in its order
	turn    uint64   // of the samples
	asked   time.Time
	pending []Event // for rules that need values too: wait for the next read
	reading []Event // wait for the read under way

	concerned []*watch // by the last sample
}

// probe is one element that is sampled.
type probe struct {
	key   string
	ref   scl.Ref
	every time.Duration
	due   time.Time
	last  fleet.Reading
	seen  bool   // last holds something
	turn  uint64 // of the last sample that held it
}

// watch is a rule on a node.
type watch struct {
	*rule
	node   fleet.NodeName
	probes []*probe // slot i of the condition reads probes[i]; nil is an event
	slots  []scl.Slot
	hears  bool
	event  *Event // that arrives at this moment
	state  *State // nil: it was not evaluated yet
}

func (n *node) compare(name fleet.NodeName) int { return strings.Compare(string(n.name), string(name)) }

func (p *probe) compare(key string) int { return strings.Compare(p.key, key) }

// keyOf is the same for two references that read the same thing.
func keyOf(r scl.Ref) string {
	if r.URI != "" {
		return "redfish " + r.URI + "#" + r.Pointer
	}
	return r.Element.Name + " " + r.Param
}

func (n *node) watch(r *rule) {
	w := &watch{rule: r, node: n.name, slots: make([]scl.Slot, len(r.Condition.Refs))}
	for _, ref := range r.Condition.Refs {
		if ref.IsEvent() {
			w.probes, w.hears = append(w.probes, nil), true
			continue
		}
		w.probes = append(w.probes, n.probe(ref, r.every()))
	}
	n.watches = append(n.watches, w)
}

func (n *node) probe(ref scl.Ref, every time.Duration) *probe {
	key := keyOf(ref)
	i, ok := slices.BinarySearchFunc(n.probes, key, (*probe).compare)
	if !ok {
		n.probes = slices.Insert(n.probes, i, &probe{key: key, ref: ref, every: every})
	}
	p := n.probes[i]
	p.every = min(p.every, every)
	return p
}

// inherit goes on where the plan before a change of rules was.
func (n *node) inherit(old *node) {
	n.busy, n.asked, n.pending, n.reading = old.busy, old.asked, old.pending, old.reading
	for _, p := range n.probes {
		if i, ok := slices.BinarySearchFunc(old.probes, p.key, (*probe).compare); ok {
			was := old.probes[i]
			p.due, p.last, p.seen = was.due, was.last, was.seen
		}
	}
}

// schedule says when each element is due. What is new is due within a second,
// at a moment that depends on the node's name, so that a rack of BMCs is not
// asked in one burst; what gets a shorter period does not wait out the old one.
func (n *node) schedule(now time.Time) {
	first := now.Add(n.offset())
	for _, p := range n.probes {
		if p.due.IsZero() || p.due.After(now.Add(p.every)) {
			p.due = first
		}
	}
}

func (n *node) offset() time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(n.name))
	return time.Duration(h.Sum64() % uint64(soon))
}

// settle pulls what is due after its period back: the clock was set back. While a
// read is under way nothing is.
func (n *node) settle(now time.Time) {
	if n.busy {
		return
	}
	for _, p := range n.probes {
		p.due = earlier(p.due, now.Add(p.every))
	}
}

// read is the sample to take of a node that is due. It takes along what would be due
// soon after, so that elements with different periods fall into step and cost one
// read.
func (n *node) read(now time.Time) Read {
	shortest := n.probes[0].every
	for _, p := range n.probes {
		shortest = min(shortest, p.every)
	}
	read := Read{Node: n.name}
	n.asking = n.asking[:0]
	for _, p := range n.probes {
		if !p.due.After(now.Add(shortest / 2)) {
			p.due = now.Add(p.every)
			read.Refs = append(read.Refs, p.ref)
			n.asking = append(n.asking, p)
		}
	}
	n.busy, n.asked = true, now
	n.reading, n.pending = append(n.reading, n.pending...), nil
	return read
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// next is when the node is due again; zero while a read is under way.
func (n *node) next() time.Time {
	var next time.Time
	if n.busy {
		return next
	}
	for _, p := range n.probes {
		if next.IsZero() || p.due.Before(next) {
			next = p.due
		}
	}
	return next
}

// take keeps the values of s and returns the rules they concern, until the next one.
func (n *node) take(s Sample) []*watch {
	n.busy = false
	n.turn++
	for i, ref := range s.Refs {
		p := n.answered(i, ref)
		if p == nil {
			continue // no rule watches it any longer
		}
		p.seen, p.turn = true, n.turn
		if i < len(s.Readings) {
			p.last = s.Readings[i]
		} else {
			p.last = fleet.Reading{Node: n.name, Ref: ref.Text, Value: fleet.NoValue("not read")}
		}
	}
	n.concerned = n.concerned[:0]
	for _, w := range n.watches {
		if slices.ContainsFunc(w.probes, func(p *probe) bool { return p != nil && p.turn == n.turn }) {
			n.concerned = append(n.concerned, w)
		}
	}
	return n.concerned
}

// answered is the element that the i-th answer is about: the i-th that was asked for,
// unless the rules have changed since.
func (n *node) answered(i int, ref scl.Ref) *probe {
	if i < len(n.asking) && n.asking[i].ref == ref {
		return n.asking[i]
	}
	if at, ok := slices.BinarySearchFunc(n.probes, keyOf(ref), (*probe).compare); ok {
		return n.probes[at]
	}
	return nil
}
