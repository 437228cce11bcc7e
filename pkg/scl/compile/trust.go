package compile

import (
	"time"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

const trustUsage = `(trust-policy (admit (and trust.on-link trust.listed)) (require T4 firmware))`

func trustParts() []string { return []string{"admit", "ask", "require", "fresh"} }

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
		if part.Head() != "require" && seen[part.Head()] {
			c.fail(Duplicate, part, c.say(part.List[0])+" stands here twice", "keep one of them")
			continue
		}
		seen[part.Head()] = true
		c.trustPart(&p, part)
	}
	c.prog.Trust = append(c.prog.Trust, p)
}

func (c *compiler) trustPart(p *scl.TrustPolicy, n *syntax.Node) {
	switch n.Head() {
	case "admit":
		c.admit(p, n)
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

// admit checks (admit PRED …). It is asked before anything was read from a BMC,
// so that it can only speak of what was seen of it from outside.
func (c *compiler) admit(p *scl.TrustPolicy, n *syntax.Node) {
	if !c.args(n, 1, -1, "(admit (and trust.on-link trust.listed))") {
		return
	}
	p.Admit = c.condition(n.Args())
	for _, ref := range p.Admit.Refs {
		switch {
		case ref.Element.Name == "trust.level":
			c.fail(Misplaced, n, "trust.level is what a trust-policy decides and can't be asked in it", "ask for the facts, such as trust.listed")
		case !ref.Element.OfMesh():
			c.fail(Misplaced, n, ref.Text+" is not known before a BMC is let in: nothing is read from it until then", "ask for what is seen from outside, such as trust.on-link")
		}
	}
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
