package compile

import (
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

const rolloutUsage = `(rollout "name" (canary 2) (wave 10%) (action "all" (power cycle)))`

func rolloutOptions() []string {
	return []string{"canary", "wave", "parallel", "max-failures", "pause-between", "healthy", "approve", "when-cut-off", "lost-after"}
}

// rolledForms are the forms that can be carried out in waves.
func rolledForms() []string { return []string{"server", "config", "action"} }

// rolloutForm checks (rollout NAME {option} FORM {FORM}).
func (c *compiler) rolloutForm(n *syntax.Node) {
	if !c.args(n, 2, -1, rolloutUsage) {
		return
	}
	if c.prog.Rollout != nil {
		c.fail(Duplicate, n.List[0], "there are two rollouts in this script", "put the second one into a script of its own")
		return
	}
	r := &scl.Rollout{Span: n.Span}
	c.prog.Rollout = r
	r.Name, _ = c.text(n.Args()[0], "a rollout's name")
	seen, forms := map[string]bool{}, 0
	for _, part := range n.Args()[1:] {
		switch {
		case !c.headed(part, "an option or a form", "(canary 2)"):
		case slices.Contains(rolledForms(), part.Head()):
			forms++
			c.form(part)
		case seen[part.Head()]:
			c.fail(Duplicate, part, c.say(part.List[0])+" stands here twice", "keep one of them")
		default:
			seen[part.Head()] = true
			c.rolloutOption(r, part)
		}
	}
	if forms == 0 {
		c.fail(WrongCount, n.List[0], "a rollout without anything to do", "write "+rolloutUsage)
	}
	for _, m := range c.prog.Monitors {
		c.failAt(Misplaced, m.Span, "a monitor is not carried out in waves", "move it into a script of its own")
	}
}

func (c *compiler) rolloutOption(r *scl.Rollout, n *syntax.Node) {
	switch n.Head() {
	case "canary":
		if c.args(n, 1, 1, "(canary 2)") {
			r.Canary = c.wholeNumber(n.Args()[0])
		}
	case "wave":
		c.share(&r.Wave, n, 1)
	case "parallel":
		c.parallel(r, n)
	case "max-failures":
		c.share(&r.MaxFailures, n, 0)
	case "pause-between":
		c.durationOption(&r.Pause, n, 0)
	case "healthy":
		c.healthy(r, n)
	case "approve":
		if c.args(n, 1, 1, `(approve "operators")`) {
			r.Approve, _ = c.text(n.Args()[0], "who approves")
		}
	case "when-cut-off":
		if c.args(n, 1, 1, "(when-cut-off hold)") {
			choice, _ := c.choice(n.Args()[0], "choice", []string{"run", "hold"})
			r.Hold = choice == "hold"
		}
	case "lost-after":
		c.durationOption(&r.LostAfter, n, time.Minute)
	default:
		known := append(rolloutOptions(), rolledForms()...)
		if slices.Contains(forms(), n.Head()) {
			c.fail(Misplaced, n.List[0], c.say(n.List[0])+" is not carried out in waves", "move it into a script of its own")
			return
		}
		c.unknown(UnknownField, n.List[0], "option of a rollout", known, nil)
	}
}

// share checks (wave 10%) and (wave 4).
func (c *compiler) share(s *scl.Share, n *syntax.Node, least float64) {
	const most = 1_000_000
	if !c.args(n, 1, 1, "("+n.Head()+" 10%)") {
		return
	}
	arg := n.Args()[0]
	l, ok := c.number(arg)
	switch {
	case arg.Kind != syntax.Number || !ok || !l.bare && l.unit != fleet.Percent:
		c.fail(BadValue, arg, "expected a count or a percentage and found "+c.found(arg), "write ("+n.Head()+" 4) or ("+n.Head()+" 10%)")
	case !l.bare && (l.num <= 0 || l.num > 100):
		c.fail(BadValue, arg, c.say(arg)+" is no share of a whole", "write more than 0% and at most 100%")
	case !l.bare:
		s.Percent = l.num
	case l.num < least || l.num > most || l.num != float64(int(l.num)):
		c.fail(BadValue, arg, c.say(arg)+" is no count that is possible here", "write a whole number from "+strconv.Itoa(int(least))+" to a million")
	default:
		s.Count = int(l.num)
	}
}

// parallel checks (parallel 4 (per rack)).
func (c *compiler) parallel(r *scl.Rollout, n *syntax.Node) {
	const usage = "(parallel 4 (per rack))"
	if !c.args(n, 1, 2, usage) {
		return
	}
	r.Parallel = c.wholeNumber(n.Args()[0])
	if len(n.Args()) < 2 {
		return
	}
	if per := n.Args()[1]; !per.Is("per") || len(per.List) != 2 {
		c.fail(BadValue, per, c.say(per)+" does not belong to parallel", "write "+usage)
	} else {
		_, _ = c.choice(per.List[1], "range", []string{"rack"})
	}
}

// healthy checks (healthy PRED [(timeout TIME)]).
func (c *compiler) healthy(r *scl.Rollout, n *syntax.Node) {
	wait := &scl.Command{Verb: scl.DoWait, Timeout: 10 * time.Minute, Text: c.tree.Show(n), Span: n.Span}
	if !c.args(n, 1, 2, `(healthy (= system.health "OK") (timeout 10m))`) {
		return
	}
	c.until(wait, n)
	r.Healthy = wait
}

// alone reports what stands beside a rollout, where nothing would hold it back.
// Groups do nothing by themselves.
func (c *compiler) alone() {
	if c.prog.Rollout == nil {
		return
	}
	for _, n := range c.tree.Forms {
		if n.Kind == syntax.List && len(n.List) > 0 && !n.Is("rollout") && !n.Is("group") {
			c.fail(Misplaced, n.List[0], c.say(n.List[0])+" stands beside a rollout, where nothing holds it back",
				"move it into the rollout, or into a script of its own")
		}
	}
}
