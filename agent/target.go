package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// atOnce is how many nodes an agent works on at the same time.
const atOnce = 64

// chooser resolves targets: it knows the groups, and what was read for wheres.
type chooser struct {
	groups map[string]scl.Target
	slots  map[fleet.NodeName]map[string]scl.Slot // by the text of the reference
	view   func(*node) fleet.Node
}

// chooser knows the groups of the site catalogue, of the standing scripts and of p,
// which may be nil and whose own come first. Where two scripts make the same one, the later in the order
// of names counts, as for the coordinator.
func (a *Agent) chooser(p *scl.Program) *chooser {
	c := &chooser{groups: make(map[string]scl.Target), slots: make(map[fleet.NodeName]map[string]scl.Slot), view: a.view}
	maps.Copy(c.groups, a.listing.members())
	standing := a.programs()
	for _, name := range slices.Sorted(maps.Keys(standing)) {
		c.add(standing[name])
	}
	if p != nil {
		c.add(p)
	}
	return c
}

func (c *chooser) add(p *scl.Program) {
	for _, g := range p.Groups {
		c.groups[g.Name] = g.Members
	}
}

func (c *chooser) group(name string) (scl.Target, bool) {
	members, ok := c.groups[name]
	return members, ok
}

func (c *chooser) match(t scl.Target, n *node) scl.Truth {
	summary := c.view(n)
	return t.Match(scl.Subject{
		Node: summary, Group: c.group,
		Slot: func(r scl.Ref) scl.Slot { return c.slots[summary.Name][r.Text] },
	})
}

// learn reads what the wheres of targets ask for, on every node at once. What
// can't be read stays unknown, and selects nothing.
func (a *Agent) learn(ctx context.Context, c *chooser, targets []scl.Target, patience time.Duration) {
	refs := c.wheres(targets)
	if len(refs) == 0 {
		return
	}
	answers := make([][]fleet.Reading, len(a.rack.members()))
	var group errgroup.Group
	group.SetLimit(a.atOnce())
	for i, n := range a.rack.members() {
		group.Go(func() error {
			asking, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			answers[i], _ = a.read(asking, n, bmc.Person, refs) // unknown where it failed
			return nil
		})
	}
	_ = group.Wait()
	for i, n := range a.rack.members() {
		slots := make(map[string]scl.Slot, len(refs))
		for j, r := range answers[i] {
			slots[refs[j].Text] = slotOf(r)
		}
		c.slots[n.entry.Name] = slots
	}
}

func slotOf(r fleet.Reading) scl.Slot {
	s := scl.Slot{Value: r.Value}
	for _, in := range r.Instances {
		s.All = append(s.All, in.Value)
	}
	return s
}

// wheres are the references in the wheres of targets and of the groups that they
// name, each once, without those that the mesh answers itself.
func (c *chooser) wheres(targets []scl.Target) []scl.Ref {
	var refs []scl.Ref
	seen, groups := map[string]bool{}, map[string]bool{}
	var walk func(t scl.Target)
	walk = func(t scl.Target) {
		if t.Kind == scl.TargetGroup && !groups[t.Name] {
			groups[t.Name] = true
			walk(c.groups[t.Name])
		}
		if t.Where != nil {
			for _, r := range t.Where.Refs {
				if !seen[r.Text] && !r.Element.OfMesh() {
					seen[r.Text] = true
					refs = append(refs, r)
				}
			}
		}
		for _, of := range t.Of {
			walk(of)
		}
	}
	for _, t := range targets {
		walk(t)
	}
	return refs
}
