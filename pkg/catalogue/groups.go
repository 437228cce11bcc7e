package catalogue

import (
	"strings"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// SCL is the group as a form of SCL on one line.
func (g Group) SCL() string {
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
		program, _ := compile.Source("", []byte(g.SCL()))
		if program != nil && len(program.Groups) == 1 {
			all[g.Name] = program.Groups[0].Members
		}
	}
	return all
}
