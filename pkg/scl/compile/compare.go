package compile

import (
	"errors"
	"regexp"
	resyntax "regexp/syntax"
	"strconv"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// comparison checks (OP A B).
func (e *checker) comparison(n *syntax.Node) (expr, bool) {
	op := n.Head()
	if !e.args(n, 2, 2, "("+op+" cpu.temp 90)") {
		return expr{}, false
	}
	a, aOK := e.expr(n.Args()[0])
	b, bOK := e.expr(n.Args()[1])
	if !aOK || !bOK {
		return expr{}, false
	}
	switch op {
	case "=":
		same := e.equal(a, b)
		return condition(n, same), same != nil
	case "!=":
		same := e.equal(a, b)
		differs := func(s []scl.Slot, at int) scl.Truth { return scl.Not(same(s, at)) }
		return condition(n, differs), same != nil
	}
	return e.order(n, a, b)
}

// order checks the comparison n of the numbers a and b.
func (e *checker) order(n *syntax.Node, a, b expr) (expr, bool) {
	op := n.Head()
	if a, b = e.asNumber(a, b), e.asNumber(b, a); !e.numeric(op, a) || !e.numeric(op, b) || !e.sameUnit(&a, &b) {
		return expr{}, false
	}
	if a.literal {
		a, b, op = b, a, flipped(op)
	}
	if a.ref < 0 || !b.literal {
		return condition(n, order(op, a.num, b.num)), true
	}
	limit, _ := b.num(nil, -1)
	t := &test{slot: a.ref, sign: 1, limit: limit, orSame: op == ">=" || op == "<="}
	if op == "<" || op == "<=" {
		t.sign, t.limit = -1, -limit
	}
	x := condition(n, t.try)
	x.test = t
	return x, true
}

// asNumber takes the text x for the number that it holds if other is a number:
// (> memory.size "64GiB").
func (e *checker) asNumber(x, other expr) expr {
	if x.literal && x.typ == scl.TextType && other.typ == scl.NumberType {
		if l, ok := e.number(x.node); ok {
			return numberLiteral(x.node, l)
		}
	}
	return x
}

func (e *checker) numeric(op string, x expr) bool {
	if x.num == nil {
		e.fail(WrongType, x.node, e.say(x.node)+" is "+x.kind()+", and "+op+" takes numbers", "write a number, or an element that is one, such as cpu.temp")
		return false
	}
	return true
}

// sameUnit gives a bare number the unit of the other side and reports units
// that don't go together.
func (e *checker) sameUnit(a, b *expr) bool {
	switch {
	case a.typ == 0 || b.typ == 0 || a.unit == b.unit:
	case a.bare:
		a.unit = b.unit
	case b.bare:
		b.unit = a.unit
	default:
		if a.literal {
			a, b = b, a
		}
		help := "compare what is measured in the same unit"
		if b.literal {
			help = "write it in " + a.unit.String() + ", or without a unit"
			if a.unit == fleet.NoUnit {
				help = "write it without a unit"
			}
		}
		e.fail(WrongUnit, b.node, e.say(b.node)+" is "+dimension(b.unit)+", and "+e.say(a.node)+" is "+dimension(a.unit), help)
		return false
	}
	return true
}

func flipped(op string) string {
	switch op {
	case "<":
		return ">"
	case "<=":
		return ">="
	case ">":
		return "<"
	case ">=":
		return "<="
	}
	return op
}

// order compares any two numbers.
func order(op string, a, b number) pred {
	return func(s []scl.Slot, at int) scl.Truth {
		x, ok1 := a(s, at)
		y, ok2 := b(s, at)
		ok := ok1 && ok2
		switch op {
		case ">":
			return known(ok, x > y)
		case ">=":
			return known(ok, x >= y)
		case "<":
			return known(ok, x < y)
		default:
			return known(ok, x <= y)
		}
	}
}

// known is result if ok, else unknown.
func known(ok, result bool) scl.Truth {
	switch {
	case !ok:
		return scl.Unknown
	case result:
		return scl.True
	}
	return scl.False
}

// equal compares two expressions of one type; nil means that it was reported.
func (e *checker) equal(a, b expr) pred {
	a, b = e.asNumber(a, b), e.asNumber(b, a)
	switch {
	case a.typ != 0 && b.typ != 0 && a.typ != b.typ:
		e.fail(WrongType, b.node, e.say(b.node)+" is "+b.kind()+", and "+e.say(a.node)+" is "+a.kind(), "compare things of one type")
		return nil
	case a.typ == 0 && b.typ == 0:
		return equalValues(a.ref, b.ref)
	case a.pred != nil && b.pred != nil:
		return equalTruths(a.pred, b.pred)
	case a.num != nil && b.num != nil:
		if !e.sameUnit(&a, &b) {
			return nil
		}
		return equalNumbers(a.num, b.num)
	case a.text != nil && b.text != nil:
		if !e.possible(a, b) || !e.possible(b, a) {
			return nil
		}
		return equalTexts(a, b)
	}
	return never
}

// possible reports a literal that an element of few values never has.
func (e *checker) possible(ref, lit expr) bool {
	if ref.element == nil || len(ref.element.Values) == 0 || !lit.literal {
		return true
	}
	_, ok := e.choice(lit.node, "value of "+ref.element.Name, ref.element.Values)
	return ok
}

func equalNumbers(a, b number) pred {
	return func(s []scl.Slot, at int) scl.Truth {
		x, ok1 := a(s, at)
		y, ok2 := b(s, at)
		return known(ok1 && ok2, x == y)
	}
}

// equalTexts goes without regard to case where an element has few values: BMCs
// don't agree on "on" and "On".
func equalTexts(a, b expr) pred {
	fold := a.element != nil && len(a.element.Values) > 0 || b.element != nil && len(b.element.Values) > 0
	p, q := a.text, b.text
	return func(s []scl.Slot, at int) scl.Truth {
		x, ok1 := p(s, at)
		y, ok2 := q(s, at)
		return known(ok1 && ok2, x == y || fold && strings.EqualFold(x, y))
	}
}

func equalTruths(a, b pred) pred {
	return func(s []scl.Slot, at int) scl.Truth {
		x, y := a(s, at), b(s, at)
		return known(x != scl.Unknown && y != scl.Unknown, x == y)
	}
}

func equalValues(a, b int) pred {
	return func(s []scl.Slot, at int) scl.Truth {
		x, y := value(s, a, at), value(s, b, at)
		return known(x.Known() && y.Known(), x.Equal(*y))
	}
}

// membership checks (in X A B …) and (in X (A B …)).
func (e *checker) membership(n *syntax.Node) (expr, bool) {
	if !e.args(n, 2, -1, `(in power.state "on" "paused")`) {
		return expr{}, false
	}
	x, ok := e.expr(n.Args()[0])
	items := n.Args()[1:]
	if l := items[0]; len(items) == 1 && l.Kind == syntax.List && len(l.List) > 0 && l.List[0].Kind != syntax.Symbol {
		items = l.List
	}
	one := make([]expr, 0, len(items))
	for _, item := range items {
		y, itemOK := e.expr(item)
		if !ok || !itemOK {
			ok = false
			continue
		}
		p := e.equal(x, y)
		if p == nil {
			ok = false
		}
		one = append(one, condition(item, p))
	}
	return condition(n, or(one)), ok
}

// matches checks (matches TEXT "regular expression").
func (e *checker) matches(n *syntax.Node) (expr, bool) {
	const longest = 1000
	if !e.args(n, 2, 2, `(matches system.model "^PowerEdge")`) {
		return expr{}, false
	}
	x, ok := e.expr(n.Args()[0])
	pattern, patternOK := e.text(n.Args()[1], "a regular expression")
	if !ok || !patternOK {
		return expr{}, false
	}
	if x.text == nil {
		e.fail(WrongType, x.node, e.say(x.node)+" is "+x.kind()+", and matches takes a text", "write an element that is a text, such as system.model")
		return expr{}, false
	}
	if len(pattern) > longest {
		e.fail(BadPattern, n.Args()[1], "this regular expression is longer than "+strconv.Itoa(longest)+" bytes", "write a shorter one")
		return expr{}, false
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		e.fail(BadPattern, n.Args()[1], "this is no regular expression: "+patternFault(err), "they are written as in RE2: ^PowerEdge, R[67]40, (?i)dell")
		return expr{}, false
	}
	of := x.text
	return condition(n, func(s []scl.Slot, at int) scl.Truth {
		t, textOK := of(s, at)
		return known(textOK, textOK && re.MatchString(t))
	}), true
}

func patternFault(err error) string {
	if fault, ok := errors.AsType[*resyntax.Error](err); ok {
		return fault.Code.String()
	}
	return "it does not parse"
}

// known checks (known? X).
func (e *checker) known(n *syntax.Node) (expr, bool) {
	if !e.args(n, 1, 1, "(known? cpu.temp)") {
		return expr{}, false
	}
	x, ok := e.expr(n.Args()[0])
	if !ok {
		return expr{}, false
	}
	return condition(n, func(s []scl.Slot, at int) scl.Truth { return truth(x.known(s, at)) }), true
}

func (x *expr) known(s []scl.Slot, at int) (ok bool) {
	switch {
	case x.ref >= 0:
		return value(s, x.ref, at).Known()
	case x.num != nil:
		_, ok = x.num(s, at)
	case x.text != nil:
		_, ok = x.text(s, at)
	default:
		ok = x.pred(s, at) != scl.Unknown
	}
	return ok
}
