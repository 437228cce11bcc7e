package inventory

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Doc is an inventory as it is written down and sent: a contract with programs,
// and the same for every kind of part, so that a reader needs no table of kinds.
type Doc struct {
	At        time.Time   `json:"at,omitzero"`     // when it was read, if somebody noted it
	Stale     string      `json:"stale,omitempty"` // why it could not be read again since
	Digest    string      `json:"digest"`
	Resources int         `json:"resources"`     // that were read
	Cut       string      `json:"cut,omitempty"` // why it is not whole
	Parts     []DocPart   `json:"parts"`
	Others    []DocOther  `json:"others"`
	Unread    []DocUnread `json:"unread"`
	Oddities  []DocOddity `json:"oddities,omitempty"`
}

// DocPart is one part of a Doc.
type DocPart struct {
	Kind  string             `json:"kind"` // "drive"
	URI   string             `json:"uri"`
	Type  string             `json:"type,omitempty"`
	Facts map[string]DocFact `json:"facts"` // by their names, "part_number"
}

// DocFact is one fact of a part.
type DocFact struct {
	Value  any    `json:"value"`            // number in its base unit, text, truth value, or null
	Unit   string `json:"unit,omitempty"`   // "B", "Hz", "W", "rpm", "%"
	Reason string `json:"reason,omitempty"` // why the value is null
	Source string `json:"source"`           // URI of what was read, '#' and a JSON pointer
}

// DocOther is a resource without a place in the model.
type DocOther struct {
	URI  string `json:"uri"`
	Type string `json:"type,omitempty"`
}

// DocUnread is a resource to which a link leads and that could not be read.
type DocUnread struct {
	URI    string `json:"uri"`
	Why    string `json:"why"`
	Inline bool   `json:"inline,omitempty"` // another resource holds its content
}

// DocOddity is something about a resource that DSP0266 does not allow.
type DocOddity struct {
	URI  string `json:"uri"`
	What string `json:"what"`
}

// value is the fact as it was.
func (f DocFact) value() (fleet.Value, error) {
	switch x := f.Value.(type) {
	case nil:
		return fleet.NoValue(f.Reason), nil
	case bool:
		return fleet.Bool(x), nil
	case string:
		return fleet.Text(x), nil
	case float64:
		unit, known := fleet.ParseUnit(f.Unit)
		if !known {
			return fleet.Value{}, fmt.Errorf("%q is no unit", f.Unit)
		}
		return fleet.Number(x, unit), nil
	}
	return fleet.Value{}, fmt.Errorf("a fact is a %T", f.Value)
}

// String is the fact for a person, "" if it is unknown.
func (f DocFact) String() string {
	v, err := f.value()
	if err != nil || !v.Known() {
		return ""
	}
	return v.Short()
}

func docFact(f Fact) DocFact {
	d := DocFact{Unit: f.Unit().String(), Source: f.Source, Reason: f.Why()}
	if n, ok := f.Number(); ok {
		d.Value = n
	} else if t, ok := f.Text(); ok {
		d.Value = t
	} else if b, ok := f.Bool(); ok {
		d.Value = b
	}
	return d
}

// Doc is the inventory as it is written down.
func (inv *Inventory) Doc() Doc {
	d := Doc{Digest: inv.Digest(), Resources: inv.Resources, Cut: inv.Cut, Parts: []DocPart{}, Others: []DocOther{}, Unread: []DocUnread{}}
	for _, k := range kinds() {
		for _, p := range k.parts(inv) {
			part := DocPart{Kind: k.name, URI: partOf(p).URI, Type: partOf(p).Type, Facts: map[string]DocFact{}}
			for field, fact := range fields(p) {
				part.Facts[snake(field.Name)] = docFact(*fact)
			}
			d.Parts = append(d.Parts, part)
		}
	}
	for _, o := range inv.Others {
		d.Others = append(d.Others, DocOther(o))
	}
	for _, u := range inv.Unread {
		d.Unread = append(d.Unread, DocUnread(u))
	}
	for _, o := range inv.Oddities {
		d.Oddities = append(d.Oddities, DocOddity(o))
	}
	return d
}

// JSON is the inventory's Doc.
func (inv *Inventory) JSON() ([]byte, error) { return json.Marshal(inv.Doc()) }

// ReadDoc reads what JSON wrote.
func ReadDoc(text []byte) (Doc, error) {
	var d Doc
	if err := json.Unmarshal(text, &d); err != nil {
		return Doc{}, fault.Wrap(fault.Garbage, "read inventory", err)
	}
	return d, nil
}

// Inventory is the inventory that was written down. What a later version wrote
// and this one does not know is left out.
func (d Doc) Inventory() (*Inventory, error) {
	inv := &Inventory{Cut: d.Cut, Resources: d.Resources}
	byName := map[string]kind{}
	for _, k := range kinds() {
		byName[k.name] = k
	}
	for _, p := range d.Parts {
		k, known := byName[p.Kind]
		if !known {
			continue
		}
		k.add(inv, node{uri: p.URI, typ: p.Type})
		parts := k.parts(inv)
		for field, fact := range fields(parts[len(parts)-1]) {
			said := p.Facts[snake(field.Name)]
			value, err := said.value()
			if err != nil {
				return nil, fault.Wrap(fault.Garbage, "read inventory of "+p.URI, err)
			}
			*fact = Fact{Value: value, Source: said.Source}
		}
	}
	for _, o := range d.Others {
		inv.Others = append(inv.Others, Other(o))
	}
	for _, u := range d.Unread {
		inv.Unread = append(inv.Unread, Unread(u))
	}
	for _, o := range d.Oddities {
		inv.Oddities = append(inv.Oddities, Oddity(o))
	}
	return inv, nil
}

// snake is a field's name in a Doc: PartNumber is part_number, CPUModel cpu_model.
func snake(name string) string {
	letters := []rune(name)
	var b strings.Builder
	for i, r := range letters {
		upper := unicode.IsUpper(r)
		after := i > 0 && (!unicode.IsUpper(letters[i-1]) || i+1 < len(letters) && unicode.IsLower(letters[i+1]))
		if upper && after {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
