package compile

import (
	"math"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// numbers checks expressions that shall be numbers.
func (e *checker) numbers(op string, nodes []*syntax.Node) ([]expr, bool) {
	all := make([]expr, 0, len(nodes))
	ok := true
	for _, n := range nodes {
		x, xOK := e.expr(n)
		if xOK {
			x = e.asNumber(x, expr{typ: scl.NumberType})
		}
		ok = xOK && e.numeric(op, x) && ok
		all = append(all, x)
	}
	return all, ok
}

// arithmetic checks (+ A B …), (- A …), (* A B …) and (/ A B).
func (e *checker) arithmetic(n *syntax.Node) (expr, bool) {
	op := n.Head()
	least, most := 2, -1
	switch op {
	case "-":
		least = 1
	case "/":
		most = 2
	}
	if !e.args(n, least, most, "("+op+" temp.exhaust temp.inlet)") {
		return expr{}, false
	}
	of, ok := e.numbers(op, n.Args())
	if !ok {
		return expr{}, false
	}
	result := expr{node: n, typ: scl.NumberType, ref: -1, num: calculate(op, of)}
	switch op {
	case "+", "-":
		ok = e.oneUnit(&result, of)
	case "*":
		ok = e.productUnit(&result, of)
	case "/":
		ok = e.quotientUnit(&result, of[0], of[1])
	}
	return result, ok
}

// oneUnit gives result the unit that all of its parts share.
func (e *checker) oneUnit(result *expr, of []expr) bool {
	first := of[0]
	for i := range of[1:] {
		if !e.sameUnit(&first, &of[i+1]) {
			return false
		}
		first.bare = first.bare && of[i+1].bare
		if first.typ == 0 {
			first = of[i+1]
		}
	}
	result.unit, result.bare = first.unit, first.bare
	return true
}

func (e *checker) productUnit(result *expr, of []expr) bool {
	result.bare = true
	for _, x := range of {
		result.bare = result.bare && x.bare
		switch {
		case x.unit == fleet.NoUnit:
		case result.unit != fleet.NoUnit:
			e.fail(WrongUnit, x.node, e.say(x.node)+" is "+dimension(x.unit)+", and can't be multiplied by "+dimension(result.unit), "multiply by a plain number")
			return false
		default:
			result.unit = x.unit
		}
	}
	return true
}

func (e *checker) quotientUnit(result *expr, a, b expr) bool {
	result.bare = a.bare && b.bare
	switch {
	case b.unit == fleet.NoUnit:
		result.unit = a.unit
	case a.unit != b.unit:
		e.fail(WrongUnit, b.node, e.say(b.node)+" is "+dimension(b.unit)+", and "+e.say(a.node)+" is "+dimension(a.unit), "divide by a plain number or by the same unit")
		return false
	}
	return true
}

// calculate is the closure of an operation. What is no finite number, such as a
// division by zero, is unknown.
func calculate(op string, of []expr) number {
	nums := make([]number, len(of))
	for i, x := range of {
		nums[i] = x.num
	}
	return func(s []scl.Slot, at int) (float64, bool) {
		total, ok := nums[0](s, at)
		if !ok {
			return 0, false
		}
		if len(nums) == 1 {
			return -total, true // only "-" takes one
		}
		for _, num := range nums[1:] {
			n, ok := num(s, at)
			if !ok {
				return 0, false
			}
			total = calculateTwo(op, total, n)
		}
		return total, finite(total)
	}
}

func calculateTwo(op string, a, b float64) float64 {
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	}
	return a / b
}

func finite(n float64) bool { return !math.IsNaN(n) && !math.IsInf(n, 0) }

// reduction checks (max REF), over the instances of an element, and (max A B
// …), over several numbers; min, avg and sum likewise.
func (e *checker) reduction(n *syntax.Node) (expr, bool) {
	op := n.Head()
	if !e.args(n, 1, -1, "("+op+" cpu.temp)") {
		return expr{}, false
	}
	of, ok := e.numbers(op, n.Args())
	if !ok {
		return expr{}, false
	}
	result := expr{node: n, typ: scl.NumberType, ref: -1}
	if len(of) == 1 {
		if of[0].ref < 0 {
			e.fail(WrongType, of[0].node, op+" goes over the instances of an element, and "+e.say(of[0].node)+" is none", "write ("+op+" cpu.temp)")
			return expr{}, false
		}
		result.typ, result.unit, result.num = scl.NumberType, of[0].unit, reduceInstances(op, of[0].ref)
		return result, true
	}
	if !e.oneUnit(&result, of) {
		return expr{}, false
	}
	result.num = reduceNumbers(op, of)
	return result, true
}

// tally gathers numbers for a reduction.
type tally struct {
	sum, least, most float64
	count            int
}

func (t *tally) add(n float64) {
	if t.count == 0 {
		t.least, t.most = n, n
	}
	t.sum += n
	t.least, t.most = min(t.least, n), max(t.most, n)
	t.count++
}

func (t *tally) result(op string) (float64, bool) {
	n := t.sum
	switch op {
	case "min":
		n = t.least
	case "max":
		n = t.most
	case "avg":
		n = t.sum / float64(max(1, t.count))
	}
	return n, t.count > 0 && finite(n)
}

// reduceInstances goes over the instances whose value is known.
func reduceInstances(op string, i int) number {
	return func(s []scl.Slot, _ int) (float64, bool) {
		var t tally
		for j := first(s, i); j < len(s[i].All); j++ {
			if n, ok := value(s, i, j).Number(); ok {
				t.add(n)
			}
		}
		return t.result(op)
	}
}

// first is where a loop over the instances of slot i begins: at -1, which is
// the reduced value, if no instances are given.
func first(s []scl.Slot, i int) int {
	if len(s[i].All) == 0 {
		return -1
	}
	return 0
}

func reduceNumbers(op string, of []expr) number {
	nums := make([]number, len(of))
	for i, x := range of {
		nums[i] = x.num
	}
	return func(s []scl.Slot, at int) (float64, bool) {
		var t tally
		for _, num := range nums {
			n, ok := num(s, at)
			if !ok {
				return 0, false
			}
			t.add(n)
		}
		return t.result(op)
	}
}

// eachPred checks the predicate of any, every and count, which is tried on each
// instance of the one element in it; i is that element's slot. They don't nest,
// so that the cost stays a product of what is written and what is there.
func (e *checker) eachPred(op, n *syntax.Node) (p pred, i int, ok bool) {
	if e.each {
		e.fail(Misplaced, op, e.say(op)+" inside any, every or count", "write the conditions side by side, joined by and or or")
		return nil, 0, false
	}
	before, used := len(e.diags), len(e.used)
	e.each = true
	p = e.pred(n).pred
	e.each = false
	inner := e.used[used:]
	if len(e.diags) > before {
		return nil, 0, false
	}
	for _, j := range inner {
		if j != inner[0] {
			inner = nil
			break
		}
	}
	if len(inner) == 0 {
		e.fail(WrongType, n, e.say(op)+" goes over the instances of one element, and there is not one here", "write it like (any (> cpu.temp 90))")
		return nil, 0, false
	}
	return p, inner[0], true
}

// instances checks (any PRED) and (every PRED).
func (e *checker) instances(n *syntax.Node) (expr, bool) {
	op := n.Head()
	if !e.args(n, 1, 1, "("+op+" (> cpu.temp 90))") {
		return expr{}, false
	}
	p, i, ok := e.eachPred(n.List[0], n.Args()[0])
	if !ok {
		return expr{}, false
	}
	return condition(n, func(s []scl.Slot, _ int) scl.Truth {
		result := truth(op == "every")
		for j := first(s, i); j < len(s[i].All); j++ {
			if op == "any" {
				result = scl.Or(result, p(s, j))
			} else {
				result = scl.And(result, p(s, j))
			}
		}
		return result
	}), true
}

// count checks (count REF), which counts the known instances, and (count PRED),
// which counts those it holds for.
func (e *checker) count(n *syntax.Node) (expr, bool) {
	if !e.args(n, 1, 1, "(count (> cpu.temp 90))") {
		return expr{}, false
	}
	arg := n.Args()[0]
	result := expr{node: n, typ: scl.NumberType, ref: -1}
	if arg.Kind == syntax.Symbol || arg.Is("redfish") {
		x, ok := e.reference(arg)
		if ok {
			result.num = countKnown(x.ref)
		}
		return result, ok
	}
	p, i, ok := e.eachPred(n.List[0], arg)
	if ok {
		result.num = countTrue(p, i)
	}
	return result, ok
}

func countKnown(i int) number {
	return func(s []scl.Slot, _ int) (float64, bool) {
		n := 0
		for j := first(s, i); j < len(s[i].All); j++ {
			if value(s, i, j).Known() {
				n++
			}
		}
		return float64(n), n > 0
	}
}

// countTrue is unknown if it is unknown for one instance.
func countTrue(p pred, i int) number {
	return func(s []scl.Slot, _ int) (float64, bool) {
		n := 0
		for j := first(s, i); j < len(s[i].All); j++ {
			switch p(s, j) {
			case scl.True:
				n++
			case scl.Unknown:
				return 0, false
			case scl.False:
			}
		}
		return float64(n), true
	}
}
