package compile

import (
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// unit is how a source writes a unit: a multiple of a base unit.
type unit struct {
	name   string
	factor float64
	base   fleet.Unit
}

// units are all units, the one a message names first of its dimension.
func units() []unit {
	const (
		kilo = 1e3
		kibi = 1 << 10
	)
	return []unit{
		{"%", 1, fleet.Percent},
		{"C", 1, fleet.Celsius},
		{"W", 1, fleet.Watt},
		{"kW", kilo, fleet.Watt},
		{"V", 1, fleet.Volt},
		{"mV", 1 / kilo, fleet.Volt},
		{"A", 1, fleet.Ampere},
		{"mA", 1 / kilo, fleet.Ampere},
		{"rpm", 1, fleet.RPM},
		{"B", 1, fleet.Byte},
		{"KB", kilo, fleet.Byte},
		{"MB", kilo * kilo, fleet.Byte},
		{"GB", kilo * kilo * kilo, fleet.Byte},
		{"TB", kilo * kilo * kilo * kilo, fleet.Byte},
		{"PB", kilo * kilo * kilo * kilo * kilo, fleet.Byte},
		{"KiB", kibi, fleet.Byte},
		{"MiB", kibi * kibi, fleet.Byte},
		{"GiB", kibi * kibi * kibi, fleet.Byte},
		{"TiB", kibi * kibi * kibi * kibi, fleet.Byte},
		{"PiB", kibi * kibi * kibi * kibi * kibi, fleet.Byte},
		{"s", 1, fleet.Second},
		{"ms", 1 / kilo, fleet.Second},
		{"m", 60, fleet.Second},
		{"h", 60 * 60, fleet.Second},
		{"d", 24 * 60 * 60, fleet.Second},
		{"Hz", 1, fleet.Hertz},
		{"kHz", kilo, fleet.Hertz},
		{"KHz", kilo, fleet.Hertz},
		{"MHz", kilo * kilo, fleet.Hertz},
		{"GHz", kilo * kilo * kilo, fleet.Hertz},
	}
}

func unitNames() []string {
	var names []string
	for _, u := range units() {
		names = append(names, u.name)
	}
	return names
}

// dimension is what a unit measures, for a message.
func dimension(u fleet.Unit) string {
	switch u {
	case fleet.NoUnit:
		return "a plain number"
	case fleet.Percent:
		return "a percentage"
	case fleet.Celsius:
		return "a temperature (C)"
	case fleet.Watt:
		return "a power (W)"
	case fleet.Volt:
		return "a voltage (V)"
	case fleet.Ampere:
		return "a current (A)"
	case fleet.RPM:
		return "a speed (rpm)"
	case fleet.Byte:
		return "a size (B, GB)"
	case fleet.Second:
		return "a time (s, m, h)"
	case fleet.Hertz:
		return "a frequency (Hz)"
	}
	return "a number"
}

// literal is a number as a source writes it, in its base unit.
type literal struct {
	num  float64
	unit fleet.Unit
	bare bool // it was written without a unit
}

// number reads a number, or a string that holds one. ok is false if n is
// neither, and if its unit is none or too large for it.
func (c *compiler) number(n *syntax.Node) (l literal, ok bool) {
	num, suffix := n.Num, n.Unit
	switch n.Kind {
	case syntax.Number:
	case syntax.String:
		if num, suffix, ok = syntax.ParseNumber(strings.TrimSpace(n.Text)); !ok {
			return literal{}, false
		}
	case syntax.List, syntax.Symbol, syntax.Bool:
		return literal{}, false
	}
	if suffix == "" {
		return literal{num: num, bare: true}, true
	}
	for _, u := range units() {
		if u.name == suffix && finite(num*u.factor) {
			return literal{num: num * u.factor, unit: u.base}, true
		}
	}
	return literal{}, false
}

// quantity reads a number in the unit want; a bare number is taken for one.
func (c *compiler) quantity(n *syntax.Node, want fleet.Unit) (float64, bool) {
	l, ok := c.number(n)
	switch {
	case !ok && n.Kind == syntax.Number:
		c.badUnit(n)
	case !ok:
		c.fail(WrongType, n, "expected "+dimension(want)+" and found "+c.found(n), "write a number with its unit directly behind it")
	case !l.bare && l.unit != want:
		c.fail(WrongUnit, n, c.say(n)+" is "+dimension(l.unit)+", and "+dimension(want)+" is wanted here", "write it in "+want.String()+", or without a unit")
	default:
		return l.num, true
	}
	return 0, false
}

func (c *compiler) badUnit(n *syntax.Node) {
	if slices.Contains(unitNames(), n.Unit) {
		c.fail(BadValue, n, c.say(n)+" is too large a number", "write a smaller one")
		return
	}
	help := allOf(unitNames())
	if near, ok := syntax.Nearest(n.Unit, unitNames()); ok {
		help = "did you mean " + strings.TrimSuffix(n.Text, n.Unit) + near + "?"
	}
	c.fail(UnknownUnit, n, c.say(n)+" has an unknown unit", help)
}

// duration reads a time of at least least and at most ten years.
func (c *compiler) duration(n *syntax.Node, least time.Duration) (time.Duration, bool) {
	const most = 10 * 365 * 24 * time.Hour
	s, ok := c.quantity(n, fleet.Second)
	if !ok {
		return 0, false
	}
	if s < least.Seconds() || s > most.Seconds() {
		c.fail(BadValue, n, c.say(n)+" is out of range", "write a time from "+shortest(least)+" to 3650d")
		return 0, false
	}
	return time.Duration(s * float64(time.Second)), true
}

func shortest(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	return d.String()
}

// text reads a string; what names what is wanted.
func (c *compiler) text(n *syntax.Node, what string) (string, bool) {
	if n.Kind == syntax.String {
		if n.Text == "" {
			c.fail(BadValue, n, "expected "+what+" and found an empty string", "write something between the quotes")
			return "", false
		}
		return n.Text, true
	}
	c.fail(WrongType, n, "expected "+what+" and found "+c.found(n), "write it in double quotes")
	return "", false
}

// choice reads one of a few words, with or without quotes and in any case.
func (c *compiler) choice(n *syntax.Node, what string, choices []string) (string, bool) {
	if n.Kind != syntax.String && n.Kind != syntax.Symbol {
		c.fail(WrongType, n, "expected a "+what+" and found "+c.found(n), "write "+list(choices, "or"))
		return "", false
	}
	for _, choice := range choices {
		if strings.EqualFold(choice, n.Text) {
			return choice, true
		}
	}
	help := "write " + list(choices, "or")
	if near, ok := syntax.Nearest(n.Text, choices); ok {
		help = "did you mean " + near + "?"
	}
	c.fail(BadValue, n, "unknown "+what+" "+c.say(n), help)
	return "", false
}

// boolean reads #t, #f, on or off.
func (c *compiler) boolean(n *syntax.Node) (value, ok bool) {
	if n.Kind == syntax.Bool {
		return n.Text == "#t", true
	}
	if n.Kind == syntax.Symbol || n.Kind == syntax.String {
		switch n.Text {
		case "on":
			return true, true
		case "off":
			return false, true
		}
	}
	c.fail(WrongType, n, "expected a truth value and found "+c.found(n), "write #t or #f")
	return false, false
}
