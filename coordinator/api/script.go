package api

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// script is a checked script and what it means in this fleet.
type script struct {
	file     string
	program  *scl.Program
	warnings syntax.Diagnostics
	racks    []string // that have a node it concerns, sorted
	source   []byte   // in which no secret can be read
}

// request is what a caller sent.
type request struct {
	name       string // under which it would be applied; empty: the file's
	file       string
	source     []byte
	allowEmpty bool
	readOnly   bool
}

// check makes a script of r, or tells what is wrong with it. Secrets are sealed
// where they are written; one that can be read goes no further.
func (s *Server) check(r request) (*script, *pb.Diagnostics, error) {
	if err := r.named(); err != nil {
		return nil, nil, err
	}
	program, diags := compile.Source(r.file, r.source)
	if diags.Errors() > 0 {
		return nil, diagnostics(diags), nil
	}
	nodes := s.nodes()
	groups := s.groups.standing(s.conf.Machine)
	if !r.allowEmpty {
		diags = append(diags, compile.Names(r.source, program, s.known(nodes, groups))...)
	}
	if r.readOnly {
		diags = append(diags, compile.Reading(r.file, r.source, program)...)
	}
	if diags.Errors() > 0 {
		return nil, diagnostics(diags), nil
	}
	if program.Readable() {
		return nil, nil, fault.New(fault.BadInput, "read the script", "a secret in it can be read by anybody on its way").
			WithHint("send it with chiba, which seals secrets before they leave this machine")
	}
	return &script{file: r.file, program: program, warnings: diags, racks: racksOf(program, nodes, groups), source: r.source}, nil, nil
}

// named sees to it that the file has a name that can be kept and shown.
func (r *request) named() error {
	const longest = 1024
	if r.file == "" {
		r.file = "script"
	}
	if len(r.file) > longest || strings.ContainsFunc(r.file, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return fault.New(fault.BadInput, "read the script", "the name of its file is too long or can't be printed").WithHint("rename the file")
	}
	return nil
}

func diagnostics(ds syntax.Diagnostics) *pb.Diagnostics {
	return &pb.Diagnostics{Text: ds.String(), Json: ds.JSON(), Errors: int32(ds.Errors())}
}

// nodes are all that a script can name: those of the fleet and BMCs that were found
// and are none of it, which nothing but their own names selects.
func (s *Server) nodes() []fleet.Node {
	known := append(s.conf.Machine.Nodes(), s.conf.Machine.Candidates()...)
	nodes := make([]fleet.Node, len(known))
	for i, n := range known {
		nodes[i] = wire.FromNode(n)
	}
	return nodes
}

// known are the names that a script may use.
func (s *Server) known(nodes []fleet.Node, groups map[string]scl.Target) compile.Known {
	var k compile.Known
	for _, n := range nodes {
		k.Nodes = append(k.Nodes, string(n.Name))
	}
	for _, a := range s.conf.Machine.Agents() {
		k.Racks = append(k.Racks, a.GetRack())
		k.Sites = append(k.Sites, a.GetSite())
	}
	listed(s.conf.Machine.Catalogue(), &k.Racks, &k.Sites)
	for name := range groups {
		k.Groups = append(k.Groups, name)
	}
	for _, list := range []*[]string{&k.Racks, &k.Sites, &k.Groups} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return k
}

// targets are all targets of a program but those of its groups, which concern a
// node only where they are used.
func targets(p *scl.Program) []scl.Target {
	var all []scl.Target
	for _, c := range p.Configs {
		all = append(all, c.Target)
	}
	for _, m := range p.Monitors {
		all = append(all, m.Target)
	}
	for _, s := range p.Steps {
		all = append(all, s.Target)
	}
	return all
}

// racksOf are the racks that have a node the program may concern. What a where
// reads is known on the rack alone, so a node that it may select counts.
func racksOf(p *scl.Program, nodes []fleet.Node, groups map[string]scl.Target) []string {
	own := map[string]scl.Target{}
	for _, g := range p.Groups {
		own[g.Name] = g.Members
	}
	group := func(name string) (scl.Target, bool) {
		if t, ok := own[name]; ok {
			return t, true
		}
		t, ok := groups[name]
		return t, ok
	}
	found := map[string]bool{}
	var racks []string
	all := targets(p)
	for _, n := range nodes {
		rack := string(n.Rack)
		if found[rack] || !concerns(all, scl.Subject{Node: n, Group: group}) {
			continue
		}
		found[rack] = true
		racks = append(racks, rack)
	}
	slices.Sort(racks)
	return racks
}

func concerns(targets []scl.Target, s scl.Subject) bool {
	return slices.ContainsFunc(targets, func(t scl.Target) bool { return t.Match(s) != scl.False })
}

// groups remembers the groups of standing scripts, so that a script is compiled
// for them once.
type groups struct {
	mu    sync.Mutex
	known map[string][]scl.Group // by the script's digest

	version uint64 // of the site catalogue
	listed  map[string]scl.Target
}

// standing are the groups of the site catalogue and of all standing scripts, by name.
// A script's counts more; where two make the same one, the later in the order of names.
func (g *groups) standing(m *state.Machine) map[string]scl.Target {
	g.mu.Lock()
	defer g.mu.Unlock()
	book := m.Catalogue()
	if v := book.Message().GetVersion(); v != g.version || g.listed == nil {
		g.version, g.listed = v, catalogue.Targets(book.Groups())
	}
	fresh, all := map[string][]scl.Group{}, maps.Clone(g.listed)
	for _, sc := range m.Sources() {
		found, ok := g.known[sc.GetDigest()]
		if !ok {
			if program, _ := compile.Source(sc.GetFile(), sc.GetSource()); program != nil {
				found = program.Groups
			}
		}
		fresh[sc.GetDigest()] = found
		for _, group := range found {
			all[group.Name] = group.Members
		}
	}
	g.known = fresh
	return all
}
