package compile

import (
	"slices"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// The forms of the top level: those of this version, and those it knows of.
func forms() []string {
	return []string{"server", "config", "monitor", "action", "show", "dump", "refresh", "group", "rollout", "trust-policy"}
}

func laterForms() []string {
	return []string{"create", "define", "param"}
}

// form checks a form of the top level.
func (c *compiler) form(n *syntax.Node) {
	if !c.headed(n, "a form", `(show "r07-u01" cpu.temp)`) {
		return
	}
	switch n.Head() {
	case "server":
		c.server(n)
	case "config":
		c.configForm(n)
	case "monitor":
		c.monitorForm(n)
	case "action":
		c.actionForm(n)
	case "show":
		c.showForm(n)
	case "dump":
		c.dumpForm(n)
	case "refresh":
		c.refreshForm(n)
	case "group":
		c.groupForm(n)
	case "rollout":
		c.rolloutForm(n)
	case "trust-policy":
		c.trustForm(n)
	default:
		c.unknown(UnknownForm, n.List[0], "form", forms(), laterForms())
	}
}

// server checks (server NAME …): what stands in it is about that server.
// Resources may stand in it without a config around them.
func (c *compiler) server(n *syntax.Node) {
	if !c.args(n, 1, -1, `(server "name" …)`) {
		return
	}
	target := c.target(n.Args()[0])
	bare := &syntax.Node{Kind: syntax.List, Span: n.Span, List: n.List[:1:1]}
	for _, sub := range n.Args()[1:] {
		switch {
		case !c.headed(sub, "a form", `(power (state "on"))`):
		case sub.Head() == "config":
			c.config(target, sub, sub.Args())
		case sub.Head() == "monitor":
			c.monitorIn(target, n.Args()[0], sub)
		case sub.Head() == "action":
			c.action(target, sub, sub.Args())
		case sub.Head() == "create":
			c.later(sub.List[0], "create")
		case slices.Contains(forms(), sub.Head()) || slices.Contains(laterForms(), sub.Head()):
			c.fail(Misplaced, sub.List[0], c.say(sub.List[0])+" does not stand inside a server", "move it out of the server")
		default:
			bare.List = append(bare.List, sub)
		}
	}
	if len(bare.List) > 1 {
		c.config(target, bare, bare.Args())
	}
}

func (c *compiler) configForm(n *syntax.Node) {
	if !c.args(n, 1, -1, `(config "name" (power (state "on")))`) {
		return
	}
	target := c.target(n.Args()[0])
	c.config(target, n, n.Args()[1:])
}

func (c *compiler) monitorForm(n *syntax.Node) {
	if !c.args(n, 1, -1, `(monitor "name" (condition …) (action …))`) {
		return
	}
	first := n.Args()[0]
	if !looksLikeTarget(first) {
		c.fail(WrongCount, n.List[0], "a monitor outside a server needs a target", `write (monitor "name" …), or "all"`)
		c.monitor(scl.Target{}, n, n.Args())
		return
	}
	target := c.target(first)
	c.monitor(target, n, n.Args()[1:])
}

// monitorIn checks a monitor inside a server, whose target it may repeat.
func (c *compiler) monitorIn(server scl.Target, name, n *syntax.Node) {
	args := n.Args()
	if len(args) > 0 && looksLikeTarget(args[0]) {
		if !args[0].Equal(name) {
			c.fail(Misplaced, args[0], "this monitor stands in the server "+c.say(name)+" and can't watch another one",
				"leave the name out, or move the monitor out of the server")
		}
		args = args[1:]
	}
	c.monitor(server, n, args)
}

func (c *compiler) actionForm(n *syntax.Node) {
	if !c.args(n, 2, -1, `(action "name" (power cycle))`) {
		return
	}
	target := c.target(n.Args()[0])
	c.action(target, n, n.Args()[1:])
}

func (c *compiler) action(target scl.Target, n *syntax.Node, commands []*syntax.Node) {
	if len(commands) == 0 {
		c.fail(WrongCount, n, "an action without a command", "write (action (power cycle))")
		return
	}
	c.step(n, scl.Step{Target: target, Action: c.commands(commands)})
}

func (c *compiler) step(n *syntax.Node, s scl.Step) {
	s.Text = c.tree.Show(n)
	s.Span = n.Span
	c.prog.Steps = append(c.prog.Steps, s)
}

func (c *compiler) showForm(n *syntax.Node) {
	if !c.args(n, 1, -1, `(show "name" cpu.temp)`) {
		return
	}
	target := c.target(n.Args()[0])
	show := &scl.Show{}
	for _, arg := range n.Args()[1:] {
		if ref, ok := c.ref(arg); ok {
			show.Refs = append(show.Refs, ref)
		}
	}
	c.step(n, scl.Step{Target: target, Show: show})
}

func (c *compiler) dumpForm(n *syntax.Node) {
	if !c.args(n, 1, 2, `(dump json "name")`) {
		return
	}
	format, _ := c.choice(n.Args()[0], "format", []string{"json", "xml", scl.InventoryFormat, scl.TrustFormat})
	target := scl.Target{Kind: scl.TargetAll, Text: `"all"`, Span: n.Span}
	if len(n.Args()) > 1 {
		target = c.target(n.Args()[1])
	}
	c.step(n, scl.Step{Target: target, Dump: &scl.Dump{Format: format}})
}

func (c *compiler) refreshForm(n *syntax.Node) {
	if !c.args(n, 1, 1, `(refresh "name"), or (refresh "all")`) {
		return
	}
	target := c.target(n.Args()[0])
	c.step(n, scl.Step{Target: target, Refresh: true})
}

func (c *compiler) groupForm(n *syntax.Node) {
	if !c.args(n, 2, -1, `(group "name" "node" …)`) {
		return
	}
	name, ok := c.text(n.Args()[0], "a group's name")
	if ok {
		c.once("group", name, n.Args()[0])
	}
	members := c.targets(scl.TargetOr, n.Args()[1:], n)
	c.prog.Groups = append(c.prog.Groups, scl.Group{Name: name, Members: members, Span: n.Span})
}

// circles reports groups of the script that hold themselves.
func (c *compiler) circles() {
	members := map[string]scl.Target{}
	for _, g := range c.prog.Groups {
		members[g.Name] = g.Members
	}
	const (
		open = iota + 1
		done
	)
	state := map[string]int{}
	var visit func(name string)
	visit = func(name string) {
		state[name] = open
		for _, t := range members[name].Names() {
			if t.Kind != scl.TargetGroup {
				continue
			}
			switch state[t.Name] {
			case open:
				c.failAt(Circle, t.Span, "the group "+syntax.Quote(t.Name)+" holds itself", "leave it out here")
			case 0:
				visit(t.Name)
			}
		}
		state[name] = done
	}
	for _, g := range c.prog.Groups {
		if state[g.Name] == 0 {
			visit(g.Name)
		}
	}
}
