package source

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

// groups reads the groups, and compiles their members.
func (r *reader) groups(n *yaml.Node) (all []catalogue.Group) {
	names := placed{}
	r.list(n, "groups", catalogue.MaxGroups, func(n *yaml.Node) {
		var g catalogue.Group
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
func (r *reader) circles(all []catalogue.Group, names placed) {
	var source strings.Builder
	for _, g := range all {
		if g.Name == "" || len(g.Members) == 0 {
			return // which is told already
		}
		source.WriteString(g.SCL() + "\n")
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
	program, found := compile.Source("", []byte(catalogue.Group{Name: "g", Members: []string{n.Value}}.SCL()))
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
