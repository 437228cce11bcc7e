package compile

import (
	"time"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

const trustUsage = `(trust-policy (admit (and trust.on-link trust.listed)) (require T4 firmware))`

func trustParts() []string {
	return []string{"admit", "approve", "ask", "asset", "fresh", "refuse", "require"}
}

// trustForm checks (trust-policy {part}).
func (c *compiler) trustForm(n *syntax.Node) {
	if !c.args(n, 1, -1, trustUsage) {
		return
	}
	p := scl.TrustPolicy{Span: n.Span}
	seen := map[string]bool{}
	for _, part := range n.Args() {
		if !c.headed(part, "a part of the policy", "(require T4 firmware)") {
			continue
		}
		if part.Head() != "require" && part.Head() != "asset" && c.twice(seen, part) {
			continue
		}
		c.trustPart(&p, part)
	}
	c.prog.Trust = append(c.prog.Trust, p)
}

func (c *compiler) trustPart(p *scl.TrustPolicy, n *syntax.Node) {
	switch n.Head() {
	case "admit":
		p.Admit = c.outside(n)
	case "refuse":
		p.Refuse = c.outside(n)
	case "asset":
		c.asset(p, n)
	case "approve":
		if c.args(n, 1, 1, "(approve 2)") {
			p.Approve = c.wholeNumber(n.Args()[0])
		}
	case "ask":
		if c.args(n, 1, 1, "(ask #t)") {
			p.Ask, _ = c.boolean(n.Args()[0])
		}
	case "require":
		c.require(p, n)
	case "fresh":
		c.durationOption(&p.Fresh, n, time.Minute)
	default:
		c.unknown(UnknownField, n.List[0], "part of a trust-policy", trustParts(), nil)
	}
}

// outside checks (admit PRED …) and (refuse PRED …). They are asked before anything
// was read from a BMC, so that they can only speak of what was seen of it from
// outside.
func (c *compiler) outside(n *syntax.Node) *scl.Condition {
	if !c.args(n, 1, -1, "("+n.Head()+` (= trust.make "OpenBMC"))`) {
		return nil
	}
	condition := c.condition(n.Args())
	for _, ref := range condition.Refs {
		switch {
		case ref.Element.Name == "trust.level":
			c.fail(Misplaced, n, "trust.level is what a trust-policy decides and can't be asked in it", "ask for the facts, such as trust.listed")
		case !ref.Element.OfMesh():
			c.fail(Misplaced, n, ref.Text+" is not known before a BMC is let in: nothing is read from it until then", "ask for what is seen from outside, such as trust.on-link")
		}
	}
	return condition
}

// require checks (require LEVEL DEED …).
func (c *compiler) require(p *scl.TrustPolicy, n *syntax.Node) {
	if !c.args(n, 2, -1, "(require T4 firmware)") {
		return
	}
	level, ok := c.choice(n.Args()[0], "trust level", scl.TrustLevels())
	for _, arg := range n.Args()[1:] {
		if deed, known := c.choice(arg, "deed", scl.Deeds()); known && ok {
			p.Require = append(p.Require, scl.Requirement{Deed: deed, Level: level})
		}
	}
}
