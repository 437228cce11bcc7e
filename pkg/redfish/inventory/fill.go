package inventory

import (
	"fmt"
	"iter"
	"reflect"
	"strconv"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// node is an object of a document and where it stands.
type node struct {
	uri  string // its own
	at   string // where it was read: a URI, perhaps with '#' and a pointer
	typ  string
	data map[string]any
	err  string // why there is no data
}

// Hide passes every text in the inventory through hide, which takes the secrets
// out of it: a BMC may say a password anywhere.
func (inv *Inventory) Hide(hide func(string) string) {
	for _, k := range kinds() {
		for _, p := range k.parts(inv) {
			for _, fact := range fields(p) {
				fact.hide(hide)
			}
			part := partOf(p)
			part.URI, part.Type = hide(part.URI), hide(part.Type)
		}
	}
	for i, o := range inv.Others {
		inv.Others[i] = Other{URI: hide(o.URI), Type: hide(o.Type)}
	}
	for i, u := range inv.Unread {
		inv.Unread[i].URI, inv.Unread[i].Why = hide(u.URI), hide(u.Why)
	}
	for i, o := range inv.Oddities {
		inv.Oddities[i] = Oddity{URI: hide(o.URI), What: hide(o.What)}
	}
	inv.Cut = hide(inv.Cut)
}

func (f *Fact) hide(hide func(string) string) {
	f.Source = hide(f.Source)
	if text, isText := f.Text(); isText {
		f.Value = fleet.Text(hide(text))
	} else if why := f.Why(); why != "" {
		f.Value = fleet.NoValue(hide(why))
	}
}

var factType = reflect.TypeFor[Fact]()

// fields are the facts of a part, by reflection over its struct, so that a fact
// is declared in one place.
func fields(p any) iter.Seq2[reflect.StructField, *Fact] {
	return func(yield func(reflect.StructField, *Fact) bool) {
		walk(reflect.ValueOf(p).Elem(), yield)
	}
}

func walk(v reflect.Value, yield func(reflect.StructField, *Fact) bool) bool {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		switch {
		case field.Type == factType:
			// An embedded struct that is not exported still has exported fields.
			if fact, ok := reflect.TypeAssert[*Fact](v.Field(i).Addr()); !ok || !yield(field, fact) {
				return false
			}
		case field.Anonymous:
			if !walk(v.Field(i), yield) {
				return false
			}
		}
	}
	return true
}

// fill reads the facts of p out of n.
func fill(p interface{ part() *Part }, n node) {
	p.part().URI, p.part().Type = n.uri, n.typ
	for field, fact := range fields(p) {
		*fact = n.fact(field.Tag)
	}
}

// fact is the first known value of those that the tag names, or else unknown
// with the reason.
func (n node) fact(tag reflect.StructTag) Fact {
	if n.err != "" {
		return Fact{Value: fleet.NoValue(n.err), Source: n.at}
	}
	var first Fact
	for i, path := range strings.Split(tag.Get("at"), "|") {
		f := Fact{Value: value(n.data, path, tag), Source: n.pointer(path)}
		if f.Known() {
			return f
		}
		if i == 0 || first.Why() == missing && f.Why() != missing {
			first = f
		}
	}
	return first
}

func (n node) pointer(path string) string {
	if strings.Contains(n.at, "#") {
		return n.at + "/" + path
	}
	return n.at + "#/" + path
}

// missing is the reason of a property that is not there.
const missing = "the BMC does not tell"

func value(data map[string]any, path string, tag reflect.StructTag) fleet.Value {
	v, found := find(data, path)
	if !found {
		return fleet.NoValue(missing)
	}
	if list, isList := v.([]any); isList && len(list) == 1 {
		v = list[0] // some wrap a single value
	}
	if unit := tag.Get("unit"); unit != "" {
		return number(v, unit)
	}
	switch x := v.(type) {
	case nil:
		return fleet.NoValue("the BMC says null")
	case bool:
		return fleet.Bool(x)
	case float64:
		return fleet.Number(x, fleet.NoUnit)
	case string:
		if tag.Get("as") == "presence" {
			return fleet.Bool(x != "Absent")
		}
		return words(x)
	case []any:
		return listed(x)
	default:
		return fleet.NoValue("the BMC gives an object")
	}
}

// listed is a list of texts as one.
func listed(list []any) fleet.Value {
	texts := make([]string, len(list))
	for i, item := range list {
		text, isText := item.(string)
		if !isText {
			return fleet.NoValue(fmt.Sprintf("the BMC gives a list of %d", len(list)))
		}
		texts[i] = text
	}
	return words(strings.Join(texts, ", "))
}

// find follows a path of names and indices; where an object is due, a list of
// one object will do.
func find(node any, path string) (any, bool) {
	for name := range strings.SplitSeq(path, "/") {
		index, err := strconv.Atoi(name)
		list, isList := node.([]any)
		switch {
		case isList && err == nil && index < len(list):
			node = list[index]
			continue
		case isList && len(list) == 1:
			node = list[0]
		}
		object, isObject := node.(map[string]any)
		if !isObject {
			return nil, false
		}
		var found bool
		if node, found = object[name]; !found {
			return nil, false
		}
	}
	return node, true
}

// words is a text, unless it stands for there being none.
func words(s string) fleet.Value {
	s = strings.TrimSpace(s)
	switch strings.ToLower(s) {
	case "", "n/a", "na", "none", "null", "unknown", "not available", "not specified", "not applicable", "to be filled by o.e.m.":
		return fleet.NoValue(fmt.Sprintf("the BMC says %q", s))
	}
	return fleet.Text(s)
}

// units are the multiples in which Redfish counts (DSP0268).
var units = map[string]struct {
	factor float64
	unit   fleet.Unit
}{
	"B": {1, fleet.Byte}, "MiB": {1 << 20, fleet.Byte}, "GiB": {1 << 30, fleet.Byte},
	"MHz": {1e6, fleet.Hertz}, "W": {1, fleet.Watt}, "rpm": {1, fleet.RPM}, "%": {1, fleet.Percent},
}

// number is a quantity; a text that is a number will do.
func number(v any, unit string) fleet.Value {
	n, isNumber := v.(float64)
	if text, isText := v.(string); isText {
		parsed, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if n, isNumber = parsed, err == nil && parsed-parsed == 0; !isNumber {
			return fleet.NoValue(fmt.Sprintf("the BMC says %q, which is no number", text))
		}
	}
	if !isNumber {
		if v == nil {
			return fleet.NoValue("the BMC says null")
		}
		return fleet.NoValue("the BMC gives no number")
	}
	u := units[unit]
	return fleet.Number(n*u.factor, u.unit)
}
