package level

import (
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// Of is the policy that a script's (trust-policy …) forms make for the BMC of one
// node, united. What admit asks of the node itself comes from its summary. A form
// that says nothing of admit is content with what the others let in.
func Of(forms []scl.TrustPolicy, node fleet.Node) Policy {
	all := make([]Policy, 0, len(forms))
	for _, form := range forms {
		all = append(all, one(form, node))
	}
	return Unite(all...)
}

func one(form scl.TrustPolicy, node fleet.Node) Policy {
	p := Policy{Ask: form.Ask, Fresh: form.Fresh, Require: map[Deed]Level{}, Assets: form.Assets, Approve: form.Approve}
	for _, r := range form.Require {
		l, err := Parse(r.Level)
		if err != nil {
			l = Attested // a newer compiler's word for more than is known here
		}
		p.Require[Deed(r.Deed)] = max(l, p.Require[Deed(r.Deed)])
	}
	p.Admit, p.Refuse = holds(form.Admit, node), holds(form.Refuse, node)
	return p
}

// holds asks a condition of a node's facts; nil if there is none.
func holds(c *scl.Condition, node fleet.Node) func(Facts) bool {
	if c == nil {
		return nil
	}
	return func(f Facts) bool {
		slots := make([]scl.Slot, len(c.Refs))
		for i, ref := range c.Refs {
			v := f.Value(ref, node)
			slots[i] = scl.Slot{Value: v, All: []fleet.Value{v}}
		}
		return c.Test(slots) == scl.True
	}
}

// Value is what an element of the namespace trust reads as, trust.level left out;
// any other element is answered from the node's summary.
func (f Facts) Value(ref scl.Ref, node fleet.Node) fleet.Value {
	switch ref.Element.Name {
	case "trust.key":
		return text(f.Key, [...]string{"new", "same", "changed"}[min(f.Key.Is, KeyChanged)])
	case "trust.vouched-by":
		return fleet.Text([...]string{"nobody", "person", "rack", "maker"}[min(f.By.Is, Maker)])
	case "trust.listed":
		return fleet.Bool(f.Asset.Is != Unlisted)
	case "trust.serial-confirmed":
		return fleet.Bool(f.Asset.Is == Confirmed)
	case "trust.on-link":
		if !f.OnLink.Known() {
			return fleet.NoValue("not heard of on the BMC network")
		}
		return fleet.Bool(f.OnLink.Is)
	case "trust.access":
		return text(f.Access, f.Access.Is.String())
	}
	return ref.Of(node)
}

func text[T any](f Fact[T], is string) fleet.Value {
	if !f.Known() {
		return fleet.NoValue("not seen yet")
	}
	return fleet.Text(is)
}
