package agent

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/level"
)

const (
	keyClashes     = "clashes"
	byCoordinators = "the coordinators"
)

// clashes are the identities that BMCs of several racks claim, as the coordinators
// have told. They are kept, for a rack that is cut off.
type clashes struct {
	mu   sync.Mutex
	told *pb.Desired
}

// heedClashes takes what the coordinators tell in place of what they told before.
func (a *Agent) heedClashes(all []*pb.Conflict) error {
	a.clashes.mu.Lock()
	defer a.clashes.mu.Unlock()
	next := &pb.Desired{Conflicts: all}
	if proto.Equal(next, a.clashes.told) || a.clashes.told == nil && len(all) == 0 {
		return nil
	}
	err := a.spool.Update(func(tx *spool.Tx) error {
		tx.PutMessage(spool.Notes, keyClashes, next)
		return nil
	})
	if err == nil {
		a.clashes.told = next
	}
	return err
}

func (a *Agent) recallClashes() error {
	told := &pb.Desired{}
	err := a.spool.View(func(tx *spool.Tx) error {
		return proto.Unmarshal(tx.Get(spool.Notes, keyClashes), told)
	})
	a.clashes.told = told
	return fault.Wrap(fault.Garbage, "read what BMCs of several racks claim", err)
}

// clash is who else claims what a node's BMC does, here or in another rack.
func (a *Agent) clash(n *node, s noticed) level.Fact[string] {
	if s.clash.Known() {
		return s.clash
	}
	a.clashes.mu.Lock()
	defer a.clashes.mu.Unlock()
	me := string(a.cfg.Rack) + "/" + string(n.entry.Name)
	for _, c := range a.clashes.told.GetConflicts() {
		if !slices.Contains(c.GetBad(), me) {
			continue
		}
		others := slices.DeleteFunc(slices.Clone(c.GetNodes()), func(name string) bool { return name == me })
		return level.Fact[string]{
			Is: fmt.Sprintf("the %s %s is also that of %s", c.GetWhat(), c.GetIs(), strings.Join(others, ", ")),
			At: a.cfg.Written, From: byCoordinators,
		}
	}
	return level.Fact[string]{}
}
