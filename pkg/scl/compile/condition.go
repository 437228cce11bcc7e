package compile

import (
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// What an expression becomes: a closure over the slots of a condition's
// references. at selects one instance of every reference; at < 0 means the
// reduced value. ok is false, or the truth Unknown, if a value is missing.
type (
	pred   func(slots []scl.Slot, at int) scl.Truth
	number func(slots []scl.Slot, at int) (n float64, ok bool)
	text   func(slots []scl.Slot, at int) (s string, ok bool)
)

// expr is a checked expression. Those of num, text and pred are set that its
// type allows; an expression without a type, whose type only the BMC tells, has
// all of them.
type expr struct {
	node    *syntax.Node
	typ     scl.Type // 0: told by the BMC
	unit    fleet.Unit
	bare    bool         // a number without a unit, which takes that of the other side
	literal bool         // the same whatever the slots hold
	ref     int          // slot of a plain reference, else -1
	element *scl.Element // of a plain reference
	num     number
	text    text
	pred    pred
	test    *test // of a comparison that is a plain test
	tests   anyOf // of an or of plain tests
}

func operators() []string {
	return []string{
		"and", "or", "not", "=", "!=", "<", "<=", ">", ">=", "in", "matches", "any", "every", "known?",
		"+", "-", "*", "/", "min", "max", "avg", "sum", "count", "redfish", "event",
	}
}

// laterOperators look at more than the present values.
func laterOperators() []string { return []string{"over", "rate", "for", "changed"} }

// checker checks one condition and gathers its references.
type checker struct {
	*compiler
	refs  []scl.Ref
	index map[string]int // of refs by text
	used  []int          // slots in the order of use
	each  bool           // inside any, every or count
	heard bool           // events may stand here
}

// condition checks predicates that shall all hold. It is never nil.
func (c *compiler) condition(preds []*syntax.Node) *scl.Condition {
	return (&checker{compiler: c, index: map[string]int{}}).condition(preds)
}

func (e *checker) condition(preds []*syntax.Node) *scl.Condition {
	c := e.compiler
	of := e.preds(preds)
	texts := make([]string, len(preds))
	for i, n := range preds {
		texts[i] = c.tree.Show(n)
	}
	cond := &scl.Condition{Text: strings.Join(texts, " "), Refs: e.refs}
	if len(preds) > 1 {
		cond.Text = "(and " + cond.Text + ")"
	}
	holds := and(of)
	cond.Test = func(slots []scl.Slot) scl.Truth { return holds(slots, -1) }
	if len(of) == 1 && of[0].tests != nil { // saves a call
		tests := of[0].tests
		cond.Test = func(slots []scl.Slot) scl.Truth { return tests.try(slots, -1) }
	}
	return cond
}

func (e *checker) preds(nodes []*syntax.Node) []expr {
	all := make([]expr, len(nodes))
	for i, n := range nodes {
		all[i] = e.pred(n)
	}
	return all
}

// pred checks an expression that shall be true or false. Of what is returned
// pred is always set.
func (e *checker) pred(n *syntax.Node) expr {
	x, ok := e.expr(n)
	if ok && x.pred == nil {
		e.fail(WrongType, n, e.say(n)+" is "+x.kind()+" and no condition", "compare it with something, as in (> cpu.temp 90)")
		ok = false
	}
	if !ok {
		return condition(n, never)
	}
	return x
}

func never([]scl.Slot, int) scl.Truth { return scl.Unknown }

// kind is what x is, for a message.
func (x expr) kind() string {
	switch x.typ {
	case scl.NumberType:
		return dimension(x.unit)
	case scl.TextType:
		return "a text"
	case scl.BoolType:
		return "true or false"
	}
	return "of no known type"
}

// expr checks an expression; false means that it was reported.
func (e *checker) expr(n *syntax.Node) (expr, bool) {
	switch n.Kind {
	case syntax.Number:
		l, ok := e.number(n)
		if !ok {
			e.badUnit(n)
			return expr{}, false
		}
		return numberLiteral(n, l), true
	case syntax.String:
		return textLiteral(n), true
	case syntax.Bool:
		value := truth(n.Text == "#t")
		return expr{
			node: n, typ: scl.BoolType, literal: true, ref: -1,
			pred: func([]scl.Slot, int) scl.Truth { return value },
		}, true
	case syntax.Symbol:
		return e.reference(n)
	case syntax.List:
		if !e.headed(n, "a condition", "(> cpu.temp 90)") {
			return expr{}, false
		}
		return e.operation(n)
	}
	return expr{}, false
}

func numberLiteral(n *syntax.Node, l literal) expr {
	value := l.num
	return expr{
		node: n, typ: scl.NumberType, unit: l.unit, bare: l.bare, literal: true, ref: -1,
		num: func([]scl.Slot, int) (float64, bool) { return value, true },
	}
}

func textLiteral(n *syntax.Node) expr {
	value := n.Text
	return expr{
		node: n, typ: scl.TextType, literal: true, ref: -1,
		text: func([]scl.Slot, int) (string, bool) { return value, true },
	}
}

// reference checks an element reference in an expression and gives it a slot.
func (e *checker) reference(n *syntax.Node) (expr, bool) {
	ref, ok := e.ref(n)
	if !ok {
		return expr{}, false
	}
	i := e.slot(ref)
	x := expr{node: n, typ: ref.Element.Type, unit: ref.Element.Unit, ref: i, element: ref.Element}
	if x.typ == 0 || x.typ == scl.NumberType {
		x.num = func(s []scl.Slot, at int) (float64, bool) { return value(s, i, at).Number() }
	}
	if x.typ == 0 || x.typ == scl.TextType {
		x.text = func(s []scl.Slot, at int) (string, bool) { return value(s, i, at).Text() }
	}
	if x.typ == 0 || x.typ == scl.BoolType {
		x.pred = func(s []scl.Slot, at int) scl.Truth {
			b, known := value(s, i, at).Bool()
			if !known {
				return scl.Unknown
			}
			return truth(b)
		}
	}
	return x, true
}

// slot is the slot of a reference, the same for the same text.
func (e *checker) slot(ref scl.Ref) int {
	i, seen := e.index[ref.Text]
	if !seen {
		i = len(e.refs)
		e.index[ref.Text] = i
		e.refs = append(e.refs, ref)
	}
	e.used = append(e.used, i)
	return i
}

// event checks (event "GLOB").
func (e *checker) event(n *syntax.Node) (expr, bool) {
	const usage = `(event "*.PowerSupplyFanFailed")`
	if !e.args(n, 1, 1, usage) {
		return expr{}, false
	}
	glob, ok := e.text(n.Args()[0], "a message id")
	switch {
	case !ok:
		return expr{}, false
	case !e.heard:
		e.fail(Misplaced, n, "an event is over at once, and only a monitor waits for one", "put it into the condition of a monitor")
		return expr{}, false
	case e.each:
		e.fail(Misplaced, n, "an event has no instances", "write "+usage+" without any, every or count around it")
		return expr{}, false
	}
	i := e.slot(scl.Ref{Text: syntax.Print(n), Element: scl.EventElement(), Param: glob})
	return condition(n, func(s []scl.Slot, _ int) scl.Truth {
		arrived, known := s[i].Value.Bool()
		return truth(known && arrived)
	}), true
}

// value is the instance at of slot i, or its reduced value.
func value(s []scl.Slot, i, at int) *fleet.Value {
	if slot := &s[i]; at < 0 || at >= len(slot.All) {
		return &slot.Value
	}
	return &s[i].All[at]
}

// operation checks a list in an expression.
func (e *checker) operation(n *syntax.Node) (expr, bool) {
	switch n.Head() {
	case "redfish":
		return e.reference(n)
	case "event":
		return e.event(n)
	case "and", "or":
		if !e.args(n, 1, -1, "("+n.Head()+" (> cpu.temp 90) (> cpu.rate 80))") {
			return expr{}, false
		}
		of := e.preds(n.Args())
		if n.Is("and") {
			return condition(n, and(of)), true
		}
		x := condition(n, or(of))
		x.tests = plainTests(of)
		return x, true
	case "not":
		if !e.args(n, 1, 1, "(not (> cpu.temp 90))") {
			return expr{}, false
		}
		p := e.pred(n.Args()[0]).pred
		return condition(n, func(s []scl.Slot, at int) scl.Truth { return scl.Not(p(s, at)) }), true
	case "=", "!=", "<", "<=", ">", ">=":
		return e.comparison(n)
	case "in":
		return e.membership(n)
	case "matches":
		return e.matches(n)
	case "known?":
		return e.known(n)
	case "any", "every":
		return e.instances(n)
	case "+", "-", "*", "/":
		return e.arithmetic(n)
	case "min", "max", "avg", "sum":
		return e.reduction(n)
	case "count":
		return e.count(n)
	}
	e.unknown(UnknownOperator, n.List[0], "operator", operators(), laterOperators())
	return expr{}, false
}

func condition(n *syntax.Node, p pred) expr {
	return expr{node: n, typ: scl.BoolType, ref: -1, pred: p}
}

// and is true if all are.
func and(of []expr) pred {
	if len(of) == 1 {
		return of[0].pred
	}
	return func(s []scl.Slot, at int) scl.Truth {
		all := scl.True
		for i := range of {
			if all = scl.And(all, of[i].pred(s, at)); all == scl.False {
				break
			}
		}
		return all
	}
}

// or is true if one is.
func or(of []expr) pred {
	if len(of) == 1 {
		return of[0].pred
	}
	if tests := plainTests(of); tests != nil {
		return tests.try
	}
	return func(s []scl.Slot, at int) scl.Truth {
		one := scl.False
		for i := range of {
			if one = scl.Or(one, of[i].pred(s, at)); one == scl.True {
				break
			}
		}
		return one
	}
}

// test is the comparison of a reference with a number, which is what nearly all
// rules are made of. As data, and not as a closure, an or tries it without a
// call.
type test struct {
	slot   int
	sign   float64 // -1 turns < and <= into > and >=
	limit  float64 // times sign
	orSame bool    // >= rather than >
}

func (t *test) try(s []scl.Slot, at int) scl.Truth {
	n, ok := value(s, t.slot, at).Number()
	n *= t.sign
	return known(ok, n > t.limit || t.orSame && n == t.limit)
}

// anyOf is an or of plain tests.
type anyOf []test

func (tests anyOf) try(s []scl.Slot, at int) scl.Truth {
	result := scl.False
	for i := range tests {
		t := &tests[i]
		switch n, ok := value(s, t.slot, at).Number(); {
		case !ok:
			result = scl.Unknown
		case n*t.sign > t.limit || t.orSame && n*t.sign == t.limit:
			return scl.True
		}
	}
	return result
}

// plainTests are the tests that of consists of, nil if there is more to it.
func plainTests(of []expr) anyOf {
	tests := make(anyOf, len(of))
	for i, x := range of {
		if x.test == nil {
			return nil
		}
		tests[i] = *x.test
	}
	return tests
}

func truth(b bool) scl.Truth {
	if b {
		return scl.True
	}
	return scl.False
}
