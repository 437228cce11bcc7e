package compile

import (
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// Reading reports the forms of p that do more than reading (show, dump, refresh). src
// is what p was compiled from, and file its name.
func Reading(file string, src []byte, p *scl.Program) syntax.Diagnostics {
	tree, _ := syntax.Read(file, src)
	var diags syntax.Diagnostics
	refuse := func(at syntax.Span) {
		diags = append(diags, tree.Diagnose(NotReading, at, "this form does more than reading", "use it with: chiba apply"))
	}
	for _, g := range p.Groups {
		refuse(g.Span)
	}
	for _, c := range p.Configs {
		refuse(c.Span)
	}
	for _, m := range p.Monitors {
		refuse(m.Span)
	}
	for _, step := range p.Steps {
		if len(step.Action) > 0 {
			refuse(step.Span)
		}
	}
	return diags[:min(len(diags), syntax.MaxDiagnostics)]
}
