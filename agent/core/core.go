// Package core is the rule engine of an agent: which sensors to sample when,
// and which rules fire. It decides and does nothing: it has no clock, network,
// disk or goroutine. What happens comes in through [Engine.Step] together with
// the time at which it happened; what is to be done comes back.
//
// # What a rule does
//
// A rule is watched on each of its nodes apart. It starts armed. Once its
// condition has been true for as long as (for …) says, it fires: that is the
// edge. It re-arms when its condition has been false once. An unknown condition
// neither fires nor re-arms, and it interrupts (for …): what could not be seen
// does not count as held.
//
// Four things can hold an edge back: the cooldown since the rule last fired on
// that node, the limit of firings per rack, (when-cut-off …) while no coordinator
// is reached, and that the node's BMC may not be used for it. A held edge is reported once per reason and stays
// pending: it fires when nothing holds it any longer, if the condition is still
// true then, and is forgotten when the condition becomes false.
//
// # Events
//
// An (event …) in a condition is true for the one moment at which an event
// arrived, and false before and after. Each event is such a moment of its own, in
// the order in which they came; a condition that also needs values is evaluated
// with values that were read after it. Whatever a BMC tells has every element of
// its node read at once: rules over values see it before their period is over.
package core

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// Rule is a standing monitor and the nodes of this rack it watches.
type Rule struct {
	Script  fleet.ScriptName
	Monitor *scl.Monitor
	Nodes   []fleet.NodeName
	// Barred are the nodes on which its commands may not be done at present, and
	// why: their BMCs are not believed far enough.
	Barred map[fleet.NodeName]string
}

// Key names a rule on one node.
type Key struct {
	Script fleet.ScriptName
	Rule   string
	Node   fleet.NodeName
}

// State is what must outlive a restart, so that a rule neither fires twice nor
// forgets that it has fired.
type State struct {
	Key
	Condition string      // canonical text; another condition is another rule
	Armed     bool        // the next edge fires
	Since     time.Time   // the condition has been true since; zero: it is not
	Held      string      // why the pending edge was held, as already reported
	Fired     []time.Time // oldest first; no more than cooldown and limit need
}

// Input is one thing that happened: [Rules], [Link], [Sample], [Heard] or [Tick].
type Input interface {
	happen(e *Engine, now time.Time, out *Output)
}

// Rules replaces the rules in force.
type Rules []Rule

// Link says whether a coordinator is reached, and since when it is so.
type Link struct {
	Connected bool
	Since     time.Time
}

// Sample answers a [Read]: Readings[i] is what Refs[i] reads as. Every Read
// must be answered, a failed one with unknown values; until then the node is
// not sampled again.
type Sample struct {
	Node     fleet.NodeName
	Refs     []scl.Ref
	Readings []fleet.Reading
}

// Tick is nothing but the passing of time.
type Tick struct{}

// Read asks for a sample of one node, in one go.
type Read struct {
	Node fleet.NodeName
	Refs []scl.Ref
}

// Fire is an edge. With Firing.Held set nothing is to be done, else Commands
// are to be executed on the node.
type Fire struct {
	Firing   fleet.Firing
	Commands []scl.Command
}

// Output is what is to be done after a step.
type Output struct {
	Read    []Read
	Fire    []Fire
	Changed []State   // to be kept, before anything of Fire is done
	Gone    []Key     // states to be forgotten
	Marks   []Marks   // to be kept with Changed
	Deaf    bool      // no rule is about events: all marks are to be forgotten
	Next    time.Time // when to step again at the latest; zero: not by itself
}

// Engine holds the rules of one rack. It is not safe for concurrent use.
type Engine struct {
	rules  []*rule
	nodes  []*node // by name
	agenda agenda  // of the nodes
	last   time.Time
	states map[Key]*State
	fired  map[named][]*State // those that remember firings
	marks  map[fleet.NodeName]*Marks
	link   Link
}

// named is a rule, on whatever node.
type named struct {
	script fleet.ScriptName
	rule   string
}

func (k Key) named() named { return named{k.Script, k.Rule} }

// New is an engine with no rules that remembers states and marks. It counts as cut
// off until a [Link] says otherwise.
func New(states []State, marks []Marks) *Engine {
	e := &Engine{states: make(map[Key]*State, len(states)), marks: make(map[fleet.NodeName]*Marks, len(marks))}
	for _, m := range marks {
		if m.Seen = maps.Clone(m.Seen); m.Seen == nil {
			m.Seen = make(map[uint64]Mark)
		}
		e.marks[m.Node] = &m
	}
	for _, s := range states {
		s.Fired = slices.Clone(s.Fired)
		e.states[s.Key] = &s
	}
	e.index()
	return e
}

// Step takes one input at the time now and says what is to be done. Time does
// not have to be monotonic: a clock that is set back delays nothing for longer
// than the period or the cooldown in question. It costs what the nodes cost that the
// input is about or that are due, and the logarithm of all.
func (e *Engine) Step(now time.Time, in Input) Output {
	var out Output
	e.link.Since = earlier(e.link.Since, now)
	in.happen(e, now, &out)
	if now.Before(e.last) {
		e.agenda.anew(e.nodes, now)
	}
	e.last = now
	out.Read = e.agenda.begin(now)
	out.Next = e.agenda.next()
	return out
}

// index finds the states that remember firings.
func (e *Engine) index() {
	e.fired = make(map[named][]*State)
	for k, s := range e.states {
		if len(s.Fired) > 0 {
			e.fired[k.named()] = append(e.fired[k.named()], s)
		}
	}
}

// States is everything that must outlive a restart, in a stable order.
func (e *Engine) States() []State {
	all := make([]State, 0, len(e.states))
	for _, s := range e.states {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b State) int { return a.compare(b.Key) })
	return all
}

func (k Key) compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Script, o.Script), cmp.Compare(k.Rule, o.Rule), cmp.Compare(k.Node, o.Node))
}

func (Tick) happen(*Engine, time.Time, *Output) {}

func (l Link) happen(e *Engine, now time.Time, _ *Output) {
	l.Since = earlier(l.Since, now)
	e.link = l
}

func (s Sample) happen(e *Engine, now time.Time, out *Output) {
	i, ok := slices.BinarySearchFunc(e.nodes, s.Node, (*node).compare)
	if !ok {
		return // it left while the read was under way
	}
	n := e.nodes[i]
	read := n.take(s)
	for _, ev := range n.reading {
		for _, w := range read {
			if w.wants(ev) {
				w.moment(e, ev, now, out)
				w.evaluate(e, now, out)
			}
		}
	}
	n.reading = nil
	for _, w := range read {
		w.evaluate(e, now, out)
	}
	e.agenda.put(n, now)
}

func (rs Rules) happen(e *Engine, now time.Time, out *Output) {
	old := e.nodes
	e.rules, e.nodes = nil, nil
	for _, r := range rs {
		e.add(&rule{script: r.Script, Monitor: r.Monitor, barred: r.Barred}, r.Nodes)
	}
	for _, n := range e.nodes {
		i, known := slices.BinarySearchFunc(old, n.name, (*node).compare)
		if known {
			n.inherit(old[i])
		}
		n.schedule(now)
	}
	e.agenda.anew(e.nodes, now)
	e.forget(out)
}

// add watches r on nodes.
func (e *Engine) add(r *rule, nodes []fleet.NodeName) {
	e.rules = append(e.rules, r)
	for _, name := range nodes {
		i, ok := slices.BinarySearchFunc(e.nodes, name, (*node).compare)
		if !ok {
			e.nodes = slices.Insert(e.nodes, i, &node{name: name, place: nowhere})
		}
		e.nodes[i].watch(r)
	}
}

// forget drops the states of rules that are gone or have another condition. A
// node that a rule does not select at the moment keeps its state: it may come
// back, and its cooldown goes on.
func (e *Engine) forget(out *Output) {
	conditions := make(map[named]string, len(e.rules))
	for _, r := range e.rules {
		conditions[named{r.script, r.Name}] = r.Condition.Text
	}
	for k, s := range e.states {
		if text, ok := conditions[k.named()]; !ok || text != s.Condition {
			delete(e.states, k)
			out.Gone = append(out.Gone, k)
		}
	}
	slices.SortFunc(out.Gone, Key.compare)
	e.index()
	hears := func(r *rule) bool { return slices.ContainsFunc(r.Condition.Refs, scl.Ref.IsEvent) }
	if len(e.marks) > 0 && !slices.ContainsFunc(e.rules, hears) {
		clear(e.marks)
		out.Deaf = true
	}
}
