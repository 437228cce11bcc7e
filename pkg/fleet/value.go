package fleet

import (
	"math"
	"strconv"
	"strings"
)

// Unit is the unit of a number. Numbers are kept in the base unit of their
// dimension: bytes, seconds, hertz, watts, volts, amperes, °C, rpm, percent.
type Unit uint8

// The base units.
const (
	NoUnit Unit = iota
	Percent
	Celsius
	Watt
	Volt
	Ampere
	RPM
	Byte
	Second
	Hertz
)

var unitText = [...]string{"", "%", "C", "W", "V", "A", "rpm", "B", "s", "Hz"}

// String is the suffix of the base unit as SCL writes it, for example "C".
func (u Unit) String() string {
	if int(u) < len(unitText) {
		return unitText[u]
	}
	return "?"
}

// ParseUnit is the inverse of String. It reports false for no known unit.
func ParseUnit(s string) (Unit, bool) {
	for i, t := range unitText {
		if t == s {
			return Unit(i), true
		}
	}
	return NoUnit, false
}

// Kind is the type of a Value.
type Kind uint8

// The kinds of a value. The zero Value is unknown.
const (
	KindUnknown Kind = iota
	KindNumber
	KindText
	KindBool
)

// Value is what an element reads as, or what a script says it shall be: a
// number with a unit, a text, a truth value, or unknown with a reason. Unknown
// is not zero: a comparison with it is unknown.
type Value struct {
	kind Kind
	unit Unit
	num  float64
	text string
}

// Number is n in the base unit u.
func Number(n float64, u Unit) Value { return Value{kind: KindNumber, unit: u, num: n} }

// Text is the text s.
func Text(s string) Value { return Value{kind: KindText, text: s} }

// Bool is the truth value b.
func Bool(b bool) Value {
	v := Value{kind: KindBool}
	if b {
		v.num = 1
	}
	return v
}

// NoValue is unknown, and says why.
func NoValue(why string) Value { return Value{text: why} }

// Kind is the type of v.
func (v Value) Kind() Kind { return v.kind }

// Known reports whether v is not unknown.
func (v Value) Known() bool { return v.kind != KindUnknown }

// Number is v as a number in its base unit; false if v is not one.
func (v Value) Number() (float64, bool) { return v.num, v.kind == KindNumber }

// Unit is the unit of a number, NoUnit otherwise.
func (v Value) Unit() Unit { return v.unit }

// Text is v as a text; false if v is not one.
func (v Value) Text() (string, bool) { return v.text, v.kind == KindText }

// Bool is v as a truth value; false if v is not one.
func (v Value) Bool() (value, ok bool) { return v.num != 0, v.kind == KindBool }

// Why is the reason of an unknown value.
func (v Value) Why() string {
	if v.kind == KindUnknown {
		return v.text
	}
	return ""
}

// Equal reports whether both are the same known value, or both unknown.
func (v Value) Equal(w Value) bool {
	if v.kind != w.kind {
		return false
	}
	switch v.kind {
	case KindNumber:
		return v.num == w.num && v.unit == w.unit
	case KindText:
		return v.text == w.text
	case KindBool:
		return v.num == w.num
	default:
		return true
	}
}

// String is v for a person: "95C", "500GB", "on", "#t", "—" for unknown.
func (v Value) String() string {
	switch v.kind {
	case KindNumber:
		return formatNumber(v.num, v.unit)
	case KindText:
		return v.text
	case KindBool:
		if v.num != 0 {
			return "#t"
		}
		return "#f"
	default:
		return "—"
	}
}

// Short is String with no more digits than a person reads: four, or as many as
// stand before the point. "5272rpm" is 5271.917.
func (v Value) Short() string {
	if v.kind != KindNumber || v.num == 0 || math.IsNaN(v.num) || math.IsInf(v.num, 0) {
		return v.String()
	}
	decimals := 3 - int(math.Floor(math.Log10(math.Abs(v.num))))
	if v.unit != Byte && v.unit != Hertz { // those are written in G and M
		decimals = max(decimals, 0)
	}
	step := math.Pow(10, float64(decimals))
	return formatNumber(math.Round(v.num*step)/step, v.unit)
}

func formatNumber(n float64, u Unit) string {
	switch u {
	case Byte:
		return scaled(n, []string{"B", "KB", "MB", "GB", "TB", "PB"}, 1000)
	case Hertz:
		return scaled(n, []string{"Hz", "KHz", "MHz", "GHz"}, 1000)
	default:
		return trim(n) + u.String()
	}
}

func scaled(n float64, suffixes []string, step float64) string {
	i := 0
	for math.Abs(n) >= step && i < len(suffixes)-1 {
		n /= step
		i++
	}
	return trim(n) + suffixes[i]
}

// trim writes n with at most three decimals and no trailing zeros.
func trim(n float64) string {
	s := strconv.FormatFloat(n, 'f', 3, 64)
	if !strings.Contains(s, ".") {
		return s
	}
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}
