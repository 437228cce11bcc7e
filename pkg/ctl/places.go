package ctl

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/catalogue/source"
	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

func getRacks() *cobra.Command {
	return &cobra.Command{
		Use:   "racks",
		Short: "list the racks: those of the catalogue, and those that an agent serves",
		Long: `List the racks: those of the site catalogue, and those that an agent serves. CATALOGUE
says whether the agent has its part of it: yes; behind, if it is cut off or about to
get it; unserved, if there is no agent yet; nothing for a rack that is in no catalogue.`,
		Example: "  chiba get racks\n  chiba get racks -o wide",
		Aliases: []string{"rack"},
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error { return listRacks(cmd, c, false) })
		},
	}
}

// rackView is a rack as the catalogue, its agents and its nodes say.
type rackView struct {
	Name      fleet.RackName    `json:"name"`
	Site      fleet.SiteName    `json:"site,omitempty"`
	Position  string            `json:"position,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Agents    []fleet.AgentName `json:"agents"`
	Connected bool              `json:"connected"`
	Nodes     int               `json:"nodes"`
	Ready     int               `json:"ready"`
	Networks  []string          `json:"networks,omitempty"`
	Catalogue string            `json:"catalogue,omitempty"`
}

// places are the sites and racks of a fleet.
type places struct {
	racks map[fleet.RackName]*rackView
	sites map[fleet.SiteName]*siteView
}

func (p *places) rack(name fleet.RackName) *rackView {
	if p.racks[name] == nil {
		p.racks[name] = &rackView{Name: name, Agents: []fleet.AgentName{}}
	}
	return p.racks[name]
}

func (p *places) site(name fleet.SiteName) *siteView {
	if p.sites[name] == nil {
		p.sites[name] = &siteView{Name: name, Racks: []fleet.RackName{}}
	}
	return p.sites[name]
}

// gatherPlaces asks what there is to know of racks and sites. An agent has its part of
// the catalogue if it has the desired state of when that came into force.
func gatherPlaces(ctx context.Context, c *client.Client) (*places, error) {
	last, err := c.Catalogue(ctx)
	if err != nil {
		return nil, err
	}
	agents, err := c.Agents(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	p := &places{racks: map[fleet.RackName]*rackView{}, sites: map[fleet.SiteName]*siteView{}}
	if book, _ := source.Read(last.File, last.Source); last.Version > 0 && book != nil {
		p.catalogue(book)
	}
	for _, a := range agents {
		r := p.rack(a.Rack)
		r.Agents, r.Connected = append(r.Agents, a.Name), r.Connected || a.Connected
		if r.Site == "" {
			r.Site = a.Site
		}
		if r.Catalogue != "" && a.Revision >= last.Revision {
			r.Catalogue = "yes"
		}
	}
	for _, n := range nodes {
		r := p.rack(n.Rack)
		if r.Nodes++; n.State == fleet.Ready {
			r.Ready++
		}
	}
	for _, r := range p.racks {
		if r.Catalogue != "" && len(r.Agents) == 0 {
			r.Catalogue = "unserved"
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.racks)) {
		p.site(p.racks[name].Site).add(p.racks[name])
	}
	return p, nil
}

func (p *places) catalogue(book *catalogue.Catalogue) {
	for _, s := range book.Sites {
		v := p.site(s.Name)
		v.Address, v.Labels = s.Address, s.Labels
	}
	for i := range book.Racks {
		k := &book.Racks[i]
		r := p.rack(k.Name)
		r.Site, r.Position, r.Labels, r.Catalogue = k.Site, k.Position, k.Labels, "behind"
		for _, n := range k.Networks {
			r.Networks = append(r.Networks, n.CIDR.String())
		}
	}
}

func listRacks(cmd *cobra.Command, c *client.Client, listed bool) error {
	p, err := gatherPlaces(cmd.Context(), c)
	if err != nil {
		return err
	}
	racks := []rackView{}
	for _, name := range slices.Sorted(maps.Keys(p.racks)) {
		if r := p.racks[name]; !listed || r.Catalogue != "" {
			racks = append(racks, *r)
		}
	}
	l := cli.List{Data: racks, Names: []string{}}
	l.Table.Columns = cli.Columns("=NAME", "SITE", "POSITION", "AGENT", "LINK", "NODES", "READY", "CATALOGUE", "+LABELS", "+NETWORKS")
	for _, r := range racks {
		l.Names = append(l.Names, string(r.Name))
		link := cli.Cell{}
		switch {
		case r.Connected:
			link = cli.Cell{Text: "connected", Colour: cli.Good}
		case len(r.Agents) > 0:
			link = cli.Cell{Text: "cut off", Colour: cli.Bad}
		}
		state := cli.Cell{Text: r.Catalogue}
		if r.Catalogue == "behind" {
			state.Colour = cli.Warn
		}
		l.Table.Add(string(r.Name), string(r.Site), r.Position, commas(r.Agents), link, r.Nodes, r.Ready, state, labelsText(r.Labels), strings.Join(r.Networks, ","))
	}
	return l.Print(cmd)
}

func commas[N ~string](all []N) string {
	return strings.Join(mapped(all, func(n N) string { return string(n) }), ",")
}

// labelsText is labels as people write them: "purpose=ai,row=c".
func labelsText(labels map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, k+"="+labels[k])
	}
	return strings.Join(all, ",")
}

type siteView struct {
	Name      fleet.SiteName    `json:"name"`
	Address   string            `json:"address,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Racks     []fleet.RackName  `json:"racks"`
	Connected int               `json:"connected"` // racks
	Nodes     int               `json:"nodes"`
	Ready     int               `json:"ready"`
}

func (s *siteView) add(r *rackView) {
	s.Racks = append(s.Racks, r.Name)
	if r.Connected {
		s.Connected++
	}
	s.Nodes, s.Ready = s.Nodes+r.Nodes, s.Ready+r.Ready
}

func getSites() *cobra.Command {
	return &cobra.Command{
		Use:     "sites",
		Short:   "list the sites, and how many of their racks are connected",
		Example: "  chiba get sites\n  chiba get sites -o wide",
		Aliases: []string{"site"},
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				p, err := gatherPlaces(cmd.Context(), c)
				if err != nil {
					return err
				}
				sites := []siteView{}
				l := cli.List{Names: []string{}}
				l.Table.Columns = cli.Columns("=NAME", "ADDRESS", "RACKS", "CONNECTED", "NODES", "READY", "+LABELS")
				for _, name := range slices.Sorted(maps.Keys(p.sites)) {
					s := p.sites[name]
					sites, l.Names = append(sites, *s), append(l.Names, string(name))
					l.Table.Add(string(name), s.Address, len(s.Racks), s.Connected, s.Nodes, s.Ready, labelsText(s.Labels))
				}
				l.Data = sites
				return l.Print(cmd)
			})
		},
	}
}

// groupView is a group and which nodes it selects by what is known without asking them.
type groupView struct {
	Name    string           `json:"name"`
	Of      string           `json:"of"` // "catalogue", or the script that makes it
	Members string           `json:"members"`
	Nodes   []fleet.NodeName `json:"nodes"`
	Open    int              `json:"open,omitempty"` // of so many more only their BMCs can tell
}

func getGroups() *cobra.Command {
	return &cobra.Command{
		Use:   "groups",
		Short: "list the groups, who makes them, and whom they select",
		Long: `List the groups of the site catalogue and of the scripts in force, and whom they
select, by what is known without asking a BMC. A script's group counts more than one
of the catalogue that has its name.`,
		Example: "  chiba get groups\n  chiba get nodes '(group \"web\")'",
		Aliases: []string{"group"},
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				nodes, err := c.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				all, err := fleetGroups(cmd.Context(), c)
				if err != nil {
					return err
				}
				views := []groupView{}
				l := cli.List{Names: []string{}}
				l.Table.Columns = cli.Columns("=NAME", "NODES", "OF", "MEMBERS", "+SELECTS")
				for _, name := range slices.Sorted(maps.Keys(all)) {
					v := all.view(name, nodes)
					views, l.Names = append(views, v), append(l.Names, name)
					count := fmt.Sprint(len(v.Nodes))
					if v.Open > 0 {
						count += fmt.Sprintf(" to %d", len(v.Nodes)+v.Open)
					}
					l.Table.Add(name, count, v.Of, v.Members, nodeList(v.Nodes))
				}
				l.Data = views
				return l.Print(cmd)
			})
		},
	}
}

// groups are those of the catalogue and of the scripts in force, by name.
type groups map[string]namedGroup

type namedGroup struct {
	of      string
	members scl.Target
}

// fleetGroups are all groups that a script can name.
func fleetGroups(ctx context.Context, c *client.Client) (groups, error) {
	all := groups{}
	last, err := c.Catalogue(ctx)
	if err != nil {
		return nil, err
	}
	if book, _ := source.Read(last.File, last.Source); last.Version > 0 && book != nil {
		for name, members := range catalogue.Targets(book.Groups) {
			all[name] = namedGroup{"the catalogue", members}
		}
	}
	scripts, err := c.Scripts(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(scripts, func(a, b client.Script) int { return strings.Compare(string(a.Name), string(b.Name)) })
	for _, s := range scripts {
		if s.Rack != "" {
			continue
		}
		full, err := c.Script(ctx, s.Name)
		if err != nil {
			return nil, err
		}
		if program, _ := compile.Source(full.File, full.Source); program != nil {
			for _, g := range program.Groups {
				all[g.Name] = namedGroup{"script " + string(s.Name), g.Members}
			}
		}
	}
	return all, nil
}

// lookup is for scl.Subject.
func (g groups) lookup(name string) (scl.Target, bool) {
	found, ok := g[name]
	return found.members, ok
}

// missing is an error if a target names a group that is none.
func (g groups) missing(t scl.Target) error {
	for _, n := range t.Names() {
		if _, ok := g[n.Name]; ok || n.Kind != scl.TargetGroup {
			continue
		}
		hint := "see them: chiba get groups"
		if near, ok := syntax.Nearest(n.Name, slices.Sorted(maps.Keys(g))); ok {
			hint = "did you mean " + near + "?"
		}
		return fault.New(fault.NotFound, "", "there is no group "+n.Name).WithHint(hint)
	}
	return nil
}

func (g groups) view(name string, nodes []fleet.Node) groupView {
	v := groupView{Name: name, Of: g[name].of, Nodes: []fleet.NodeName{}}
	var texts []string
	for _, t := range g[name].members.Of {
		texts = append(texts, t.Text)
	}
	v.Members = strings.Join(texts, " ")
	self := scl.Target{Kind: scl.TargetGroup, Name: name}
	known := labelled(self, g)
	for _, n := range nodes {
		switch self.Match(scl.Subject{Node: n, Group: g.lookup}) {
		case scl.True:
			v.Nodes = append(v.Nodes, n.Name)
		case scl.Unknown:
			if !known {
				v.Open++
			}
		case scl.False:
		}
	}
	return v
}

// labelled reports whether a target asks for nothing but what the mesh itself knows.
// A node of which that is not known, a label that it has not, is merely not selected.
func labelled(t scl.Target, known groups) bool {
	seen := map[string]bool{}
	var of func(t scl.Target) bool
	of = func(t scl.Target) bool {
		if t.Kind == scl.TargetGroup && !seen[t.Name] {
			seen[t.Name] = true
			members, ok := known.lookup(t.Name)
			return ok && of(members)
		}
		if t.Where != nil && slices.ContainsFunc(t.Where.Refs, func(r scl.Ref) bool { return !r.Element.OfMesh() }) {
			return false
		}
		return !slices.ContainsFunc(t.Of, func(sub scl.Target) bool { return !of(sub) })
	}
	return of(t)
}
