package ctl

import (
	"bytes"
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
)

// comparison is what a catalogue changes, and whom that touches.
type comparison struct {
	changes []catalogue.Change
	touches []string // what is running, for which a person is asked
	notes   []string // what a person may want to know
	away    []string // racks that are cut off
}

// compareCatalogues compares a catalogue with the one in force and with the fleet.
func compareCatalogues(ctx context.Context, c *client.Client, last *client.Catalogue, next *catalogue.Catalogue) (*comparison, error) {
	before := &catalogue.Catalogue{}
	if last.Version > 0 {
		var found interface{ Errors() int }
		if before, found = source.Read(last.File, last.Source); found.Errors() > 0 {
			before = &catalogue.Catalogue{} // another build wrote it: all is new
		}
	}
	agents, err := c.Agents(ctx)
	if err != nil {
		return nil, err
	}
	runs, err := c.Runs(ctx)
	if err != nil {
		return nil, err
	}
	scripts, err := c.Scripts(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	v := &comparison{changes: catalogue.Diff(before, next)}
	was, is, err := partsByRack(before, next)
	if err != nil {
		return nil, err
	}
	v.leaves(was, is, agents)
	v.atWork(was, is, runs)
	v.selects(was, is, nodes, scripts)
	v.served(is, agents)
	return v, nil
}

func partsByRack(before, next *catalogue.Catalogue) (was, is map[fleet.RackName][]byte, err error) {
	all := [2]map[fleet.RackName][]byte{}
	for i, c := range []*catalogue.Catalogue{before, next} {
		parts, err := c.Parts(nil)
		if err != nil {
			return nil, nil, err
		}
		all[i] = map[fleet.RackName][]byte{}
		for _, text := range parts {
			p, err := catalogue.ReadPart(text)
			if err != nil {
				return nil, nil, err
			}
			all[i][p.Name] = text
		}
	}
	return all[0], all[1], nil
}

// leaves tells of racks that are no longer in the catalogue and are served.
func (v *comparison) leaves(was, is map[fleet.RackName][]byte, agents []client.Agent) {
	for _, a := range agents {
		if was[a.Rack] != nil && is[a.Rack] == nil {
			v.touches = append(v.touches, fmt.Sprintf(
				"rack %s is no longer in it, and %s serves it: nothing is lost, the agent goes on without the site, labels, networks and limits of the catalogue", a.Rack, a.Name))
		}
		if !a.Connected && !bytes.Equal(was[a.Rack], is[a.Rack]) {
			v.away = append(v.away, string(a.Rack))
		}
	}
	slices.Sort(v.away)
	v.away = slices.Compact(v.away)
}

// atWork tells of runs that are at work on racks of which something else is said.
func (v *comparison) atWork(was, is map[fleet.RackName][]byte, runs []client.Run) {
	for _, r := range runs {
		if r.State.Ended() {
			continue
		}
		var racks []string
		for _, part := range r.Racks {
			if !bytes.Equal(was[part.Rack], is[part.Rack]) || !bytes.Equal(was[""], is[""]) {
				racks = append(racks, string(part.Rack))
			}
		}
		if len(racks) > 0 {
			v.touches = append(v.touches, fmt.Sprintf("run %s of %s is at work on %s", r.ID, r.Script, strings.Join(racks, ", ")))
		}
	}
}

// selects tells whether scripts in force may select other nodes.
func (v *comparison) selects(was, is map[fleet.RackName][]byte, nodes []fleet.Node, scripts []client.Script) {
	if len(scripts) == 0 {
		return
	}
	inForce := cli.Count(len(scripts), "script") + " in force may select others"
	other := 0
	for _, n := range nodes {
		if !maps.Equal(given(was, n), given(is, n)) {
			other++
		}
	}
	if other > 0 {
		v.touches = append(v.touches, fmt.Sprintf("%s other labels or another site: %s", cli.Count(other, "node")+" get"+map[bool]string{true: "s", false: ""}[other == 1], inForce))
	}
	if !bytes.Equal(was[""], is[""]) {
		v.touches = append(v.touches, "the groups are others: "+inForce)
	}
}

// given is what a catalogue says of a node.
func given(parts map[fleet.RackName][]byte, n fleet.Node) map[string]string {
	p, err := catalogue.ReadPart(parts[n.Rack])
	if err != nil || !p.Listed() {
		return nil
	}
	labels := p.Over(fleet.Node{Name: n.Name, Rack: n.Rack}).Labels
	if labels == nil {
		labels = map[string]string{}
	}
	labels["(site)"] = string(p.Site.Name) // no label has such a name
	return labels
}

// served notes who serves racks that are in no catalogue, and who should and does not.
func (v *comparison) served(is map[fleet.RackName][]byte, agents []client.Agent) {
	serving := map[fleet.RackName][]string{}
	for _, a := range agents {
		serving[a.Rack] = append(serving[a.Rack], string(a.Name))
	}
	for _, rack := range slices.Sorted(maps.Keys(serving)) {
		if is[rack] == nil {
			v.notes = append(v.notes, fmt.Sprintf("rack %s is not in it; %s serves it all the same", rack, strings.Join(serving[rack], " and ")))
		}
	}
	var nobody []string
	for _, rack := range slices.Sorted(maps.Keys(is)) {
		p, err := catalogue.ReadPart(is[rack])
		switch {
		case err != nil || !p.Listed():
		case serving[rack] == nil:
			nobody = append(nobody, string(rack))
		case p.Rack.Standby != "" && !slices.Contains(serving[rack], string(p.Rack.Standby)):
			v.notes = append(v.notes, fmt.Sprintf("rack %s should have %s as its standby; %s alone serves it", rack, p.Rack.Standby, strings.Join(serving[rack], " and ")))
		}
	}
	if len(nobody) > 0 {
		v.notes = append(v.notes, "no agent serves yet: "+someOf(nobody))
	}
}

// someOf is the first of many names, and how many more there are.
func someOf(names []string) string {
	const most = 8
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

func (v *comparison) print(cmd *cobra.Command) {
	const most = 200
	out := cmd.OutOrStdout()
	screen := cli.ScreenOf(out)
	for i, c := range v.changes {
		if i == most {
			fmt.Fprintf(out, "… and %d more\n", len(v.changes)-most)
			break
		}
		colour := map[rune]cli.Colour{'+': cli.Good, '-': cli.Bad, '~': cli.Warn}[c.Sign]
		fmt.Fprintln(out, screen.Paint(colour, cli.Clean(c.String())))
	}
	if len(v.changes) == 0 {
		fmt.Fprintln(out, "nothing changes but the text")
	}
	for _, n := range v.notes {
		cli.Note(cmd, "%s", n)
	}
	for _, t := range v.touches {
		fmt.Fprintln(cmd.ErrOrStderr(), "chiba: warning: "+cli.Clean(t))
	}
}

// consent asks if something that is running is touched.
func (v *comparison) consent(cmd *cobra.Command, yes bool) error {
	switch {
	case yes || len(v.touches) == 0:
		return nil
	case !cli.Asks(cmd):
		return cli.UsageError("it needs your consent: "+some(v.touches), "look at it with --dry-run, then add --yes")
	case !cli.Ask(cmd, "apply this?"):
		return &cli.Exit{Code: cli.Fail, Err: fault.New(fault.Canceled, "", "nothing was done")}
	}
	return nil
}
