package compile

import (
	"slices"
	"strconv"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// actedOn checks the nodes that the action of a rule is done on. They are named one by
// one: what a rule does to others shall be seen in it.
func (c *compiler) actedOn(n *syntax.Node) scl.Target {
	t := c.target(n)
	if t.Kind == 0 {
		return t
	}
	names := t.Names()
	seen := map[string]bool{}
	for _, leaf := range names {
		if leaf.Kind == scl.TargetName && !seen[leaf.Name] {
			seen[leaf.Name] = true
			continue
		}
		c.failAt(BadValue, leaf.Span, "the action of a rule names each node that it is done on, once", `write names, as in "r02-u05", "r02-u[05-08]" or ("r02-u05" "r03-u01")`)
		return scl.Target{}
	}
	plain := t.Kind == scl.TargetName || t.Kind == scl.TargetOr
	switch {
	case len(names) == 0 || !plain:
		c.fail(BadValue, n, "the action of a rule names each node that it is done on", `write names, as in "r02-u05", "r02-u[05-08]" or ("r02-u05" "r03-u01")`)
		return scl.Target{}
	case len(names) > scl.MostActedOn:
		c.fail(BadValue, n, "the action of a rule is done on at most "+strconv.Itoa(scl.MostActedOn)+" nodes, and this names "+strconv.Itoa(len(names)), "make several rules of it")
		return scl.Target{}
	}
	return t
}

// fitElsewhere refuses, in an action that names its nodes, what is about the trust
// between an agent and its own BMC, and what names a node itself.
func (c *compiler) fitElsewhere(commands []scl.Command) {
	for _, cmd := range commands {
		switch cmd.Verb {
		case scl.DoTakeOver, scl.DoRelease, scl.DoAccept, scl.DoRekey, scl.DoRekeyAbort:
			c.failAt(Misplaced, cmd.Span, string(cmd.Verb)+" is not done on other nodes by a rule", "do it yourself: chiba bmc --help")
		case scl.DoStartImage:
			c.failAt(Misplaced, cmd.Span, string(cmd.Verb)+" names its own node", "leave the names before the commands out")
		case scl.DoSequence:
			c.fitElsewhere(cmd.Commands)
		case scl.DoPower, scl.DoReboot, scl.DoBoot, scl.DoIndicator, scl.DoClearLog, scl.DoBMCReset, scl.DoLog, scl.DoWait, scl.DoFirmware,
			scl.DoAdmit, scl.DoRefuse, scl.DoForget:
		}
	}
}

// Across reports the nodes that rules of p act upon and that are at another site than a
// node that the rule watches: agents ask each other within one site only. src is what
// p was compiled from; nodes are those of the fleet. A name that is none of theirs is
// for Names to report.
func Across(src []byte, p *scl.Program, nodes []fleet.Node, group func(string) (scl.Target, bool)) syntax.Diagnostics {
	a := &across{nodes: nodes, group: group, sites: make(map[fleet.NodeName]fleet.SiteName, len(nodes))}
	for _, n := range nodes {
		a.sites[n.Name] = n.Site
	}
	for _, m := range p.Monitors {
		for _, leaf := range m.On.Names() {
			a.acts(m, fleet.NodeName(leaf.Name), leaf.Span)
		}
		a.commands(m, m.Commands)
	}
	if len(a.far) == 0 {
		return nil
	}
	tree, _ := syntax.Read(p.File, src)
	var diags syntax.Diagnostics
	for _, f := range a.far[:min(len(a.far), syntax.MaxDiagnostics)] {
		diags = append(diags, tree.Diagnose(OtherSite, f.span, f.text, f.help))
	}
	return diags
}

type across struct {
	nodes []fleet.Node
	group func(string) (scl.Target, bool)
	sites map[fleet.NodeName]fleet.SiteName
	far   []far
}

// far is something that is out of reach.
type far struct {
	span       syntax.Span
	text, help string
}

func (a *across) commands(m scl.Monitor, commands []scl.Command) {
	for _, c := range commands {
		if name := c.Elsewhere(); name != "" {
			a.acts(m, name, c.Span)
		}
		a.commands(m, c.Commands)
	}
}

// acts notes that a rule acts upon a node, if it can't everywhere.
func (a *across) acts(m scl.Monitor, on fleet.NodeName, at syntax.Span) {
	there, known := a.sites[on]
	if !known || slices.ContainsFunc(a.far, func(f far) bool { return f.span == at }) {
		return
	}
	i := slices.IndexFunc(a.nodes, func(n fleet.Node) bool {
		return n.Site != there && m.Target.Match(scl.Subject{Node: n, Group: a.group}) != scl.False
	})
	if i < 0 {
		return
	}
	n := a.nodes[i]
	a.far = append(a.far, far{
		at,
		"a rule can't act upon " + syntax.Quote(string(on)) + " at site " + syntax.Quote(string(there)) + " from site " +
			syntax.Quote(string(n.Site)) + ", where it watches " + syntax.Quote(string(n.Name)),
		"name a node of the same site, or narrow what the rule watches, as in (and … (site " + syntax.Quote(string(there)) + "))",
	})
}
