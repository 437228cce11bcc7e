package compile

import (
	"slices"
	"strconv"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// Known are the names of a fleet.
type Known struct {
	Nodes, Racks, Sites, Groups []string
	// Alone is set if these are the names of one rack, for which alone the script
	// would be: it can't have anything done elsewhere.
	Alone bool
}

// Names reports every name, glob, group, rack and site in the targets of p that
// means nothing in known. src is what p was compiled from; groups that p makes
// itself are known.
func Names(src []byte, p *scl.Program, known Known) syntax.Diagnostics {
	n := newNames(src, p, known)
	for _, g := range p.Groups {
		n.target(g.Members)
	}
	for _, c := range p.Configs {
		n.target(c.Target)
	}
	for _, m := range p.Monitors {
		n.target(m.Target)
		n.target(m.On)
		for _, leaf := range m.On.Names() {
			n.places[leaf.Span].actedOn = true
		}
	}
	for _, s := range p.Steps {
		n.target(s.Target)
	}
	return n.diags()
}

// names gathers names that mean nothing, by the place that holds them: a range
// makes many names in one place.
type names struct {
	tree   *syntax.Tree
	known  Known
	sets   map[scl.TargetKind]map[string]bool
	places map[syntax.Span]*place
	order  []*place
}

type place struct {
	span    syntax.Span
	kind    scl.TargetKind
	total   int
	missing []string
	actedOn bool // by a rule
}

func newNames(src []byte, p *scl.Program, known Known) *names {
	tree, _ := syntax.Read(p.File, src)
	for _, g := range p.Groups {
		known.Groups = append(slices.Clip(known.Groups), g.Name)
	}
	n := &names{tree: tree, known: known, places: map[syntax.Span]*place{}}
	n.sets = map[scl.TargetKind]map[string]bool{}
	for _, kind := range []scl.TargetKind{scl.TargetName, scl.TargetGroup, scl.TargetRack, scl.TargetSite} {
		set := map[string]bool{}
		for _, name := range n.list(kind) {
			set[name] = true
		}
		n.sets[kind] = set
	}
	return n
}

// list is what names of a kind are known.
func (n *names) list(kind scl.TargetKind) []string {
	switch kind {
	case scl.TargetGroup:
		return n.known.Groups
	case scl.TargetRack:
		return n.known.Racks
	case scl.TargetSite:
		return n.known.Sites
	default:
		return n.known.Nodes
	}
}

func (n *names) target(t scl.Target) {
	for _, leaf := range t.Names() {
		at := n.places[leaf.Span]
		if at == nil {
			at = &place{span: leaf.Span, kind: leaf.Kind}
			n.places[leaf.Span] = at
			n.order = append(n.order, at)
		}
		at.total++
		if !n.exists(leaf) {
			at.missing = append(at.missing, leaf.Name)
		}
	}
}

func (n *names) exists(t scl.Target) bool {
	if n.sets[t.Kind][t.Name] {
		return true
	}
	if t.Kind == scl.TargetName || t.Kind == scl.TargetGroup {
		return false
	}
	return slices.ContainsFunc(n.list(t.Kind), func(name string) bool { return scl.Glob(t.Name, name) })
}

func (n *names) diags() syntax.Diagnostics {
	var diags syntax.Diagnostics
	for _, at := range n.order {
		if len(at.missing) > 0 && len(diags) < syntax.MaxDiagnostics {
			diags = append(diags, n.diagnose(at))
		}
	}
	return diags
}

func (n *names) diagnose(at *place) syntax.Diagnostic {
	first := at.missing[0]
	what := map[scl.TargetKind]string{
		scl.TargetName: "node", scl.TargetGlob: "node", scl.TargetGroup: "group", scl.TargetRack: "rack", scl.TargetSite: "site",
	}[at.kind]
	text := "there is no " + what + " " + syntax.Quote(first)
	if at.actedOn && n.known.Alone {
		return n.tree.Diagnose(NoSuchName, at.span, syntax.Quote(first)+" is not in this rack, and what is put into force on a rack is for that rack alone",
			"apply it at a coordinator")
	}
	switch {
	case len(at.missing) > 1:
		text = strconv.Itoa(len(at.missing)) + " of " + strconv.Itoa(at.total) + " names are no " + what + ", the first is " + syntax.Quote(first)
	case at.kind == scl.TargetGlob:
		text = "no node matches " + syntax.Quote(first)
	}
	known := n.list(at.kind)
	help := "none is known yet"
	if near, ok := syntax.Nearest(first, known); ok {
		help = "did you mean " + syntax.Quote(near) + "?"
	} else if len(known) > 0 {
		help = "known is, for example, " + syntax.Quote(known[0])
	}
	return n.tree.Diagnose(NoSuchName, at.span, text, help)
}
