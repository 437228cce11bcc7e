package catalogue

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// groups reads the groups, and compiles their members.
func (r *reader) groups(n *yaml.Node) (all []Group) {
	names := placed{}
	r.list(n, "groups", MaxGroups, func(n *yaml.Node) {
		var g Group
		r.fields(n, "a group",
			field{name: "name", need: true, read: func(n *yaml.Node) {
				if r.name(n, "a group's name") && r.once(names, n, "group") {
					g.Name = n.Value
				}
			}},
			field{name: "members", need: true, read: func(n *yaml.Node) {
				r.list(n, "members", maxMembers, func(n *yaml.Node) {
					if m, ok := r.text(n, "a member"); ok && r.member(n) {
						g.Members = append(g.Members, m)
					}
				})
				if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
					r.fail(n, Missing, "the group has no members", `write some, as in ["r01-*", '(rack "r02")']`)
				}
			}},
		)
		all = append(all, g)
	})
	r.circles(all, names)
	return all
}

// circles tells of groups that hold themselves.
func (r *reader) circles(all []Group, names placed) {
	var source strings.Builder
	for _, g := range all {
		if g.Name == "" || len(g.Members) == 0 {
			return // which is told already
		}
		source.WriteString(g.scl() + "\n")
	}
	_, found := compile.Source("", []byte(source.String()))
	for _, d := range found {
		if line := d.Span.Start.Line - 1; d.Code == compile.Circle && line < len(all) {
			r.fail(names[all[line].Name], BadTarget, d.Text, d.Help)
		}
	}
}

// member compiles one member of a group.
func (r *reader) member(n *yaml.Node) bool {
	program, found := compile.Source("", []byte(Group{Name: "g", Members: []string{n.Value}}.scl()))
	if found.Errors() > 0 {
		r.fail(n, BadTarget, found[0].Text, found[0].Help)
		return false
	}
	if len(program.Groups) != 1 || len(program.Configs)+len(program.Monitors)+len(program.Trust)+len(program.Steps) > 0 || program.Rollout != nil {
		r.fail(n, BadTarget, "this is more than a target", `a member is one, as in "r01-*" or '(rack "r02")'`)
		return false
	}
	return true
}

// scl is the group as SCL.
func (g Group) scl() string {
	var b strings.Builder
	b.WriteString("(group " + syntax.Quote(g.Name))
	for _, m := range g.Members {
		if !strings.HasPrefix(m, "(") {
			m = syntax.Quote(m)
		}
		b.WriteString(" " + m)
	}
	return b.String() + ")"
}

// Targets are what groups select, by name. They were compiled before; one that this
// version can't compile is left out, and selects nothing.
func Targets(groups []Group) map[string]scl.Target {
	all := make(map[string]scl.Target, len(groups))
	for _, g := range groups {
		program, _ := compile.Source("", []byte(g.scl()))
		if program != nil && len(program.Groups) == 1 {
			all[g.Name] = program.Groups[0].Members
		}
	}
	return all
}
