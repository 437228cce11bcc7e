package agent

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Marks of a node in a run in waves, beside those of its units.
const (
	markReleased = "released" // its wave has begun
	markEnded    = "ended"    // it has done its part, and that was recorded
	unitHealthy  = "healthy"  // what each node ends with
)

// waves wakes the nodes that wait for their wave. Which may begin, the spool says.
type waves struct {
	mu     sync.Mutex
	news   chan struct{} // closed when there are some
	linked bool
}

// until is closed when it is time to look again.
func (w *waves) until() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.news == nil {
		w.news = make(chan struct{})
	}
	return w.news
}

func (w *waves) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.news != nil {
		close(w.news)
		w.news = nil
	}
}

// link takes whether a coordinator is reached.
func (w *waves) link(connected bool) {
	w.mu.Lock()
	w.linked = connected
	w.mu.Unlock()
	w.tell()
}

func (w *waves) cutOff() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.linked
}

func waveKey(r *pb.Run, node fleet.NodeName, mark string) string {
	return spool.Key(journal.Key(r), string(node), mark)
}

// release keeps which nodes of the listed runs may begin. That a run is done in
// waves is said by its signed script: a coordinator can hold nodes back, and let
// them go, and nothing else.
func release(tx *spool.Tx, listed []*pb.Run) {
	for _, r := range listed {
		if tx.Has(spool.Finished, journal.Key(r)) || !tx.Has(spool.Runs, journal.Key(r)) {
			continue
		}
		for _, node := range r.GetReleased() {
			if key := waveKey(r, fleet.NodeName(node), markReleased); !tx.Has(spool.Done, key) {
				tx.Put(spool.Done, key, []byte{byte(journal.OK)})
			}
		}
	}
}

// begin returns when a node may begin its part of a run, or when there is nothing
// left to wait for.
func (a *Agent) begin(deadline context.Context, r *run, n *node) error {
	rollout := r.program.Rollout
	if rollout == nil {
		return nil
	}
	for {
		news := a.waves.until()
		released, err := a.has(waveKey(r.Run, n.entry.Name, markReleased))
		held := rollout.Hold && a.waves.cutOff()
		if err != nil || released && !held {
			return err
		}
		select {
		case <-news:
		case <-deadline.Done():
			return nil
		case <-r.canceled.Done():
			return nil
		}
	}
}

func (a *Agent) has(key string) (has bool, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		has = tx.Has(spool.Done, key)
		return nil
	})
	return has, err
}

// endNode tells that a node has done its part of a run in waves, once.
func (a *Agent) endNode(r *run, n *node, ok bool) error {
	if r.program.Rollout == nil {
		return nil
	}
	return a.spool.UpdateSoon(func(tx *spool.Tx) error {
		key := waveKey(r.Run, n.entry.Name, markEnded)
		if tx.Has(spool.Done, key) {
			return nil
		}
		tx.Put(spool.Done, key, []byte{byte(journal.OK)})
		tx.Append(a.now(), &pb.Record{Body: &pb.Record_NodeEnded{NodeEnded: &pb.NodeEnded{Run: r.GetId(), Node: string(n.entry.Name), Ok: ok}}})
		return nil
	})
}

// tellNodes tells which nodes of the rack a run in waves concerns.
func (a *Agent) tellNodes(tx *spool.Tx, r *run, ids journal.Choice) {
	if r.program.Rollout == nil {
		return
	}
	told := &pb.RolloutNodes{Run: r.GetId()}
	for _, node := range slices.Sorted(maps.Keys(ids)) {
		told.Nodes = append(told.Nodes, string(node))
	}
	tx.Append(a.now(), &pb.Record{Body: &pb.Record_Rollout{Rollout: told}})
}

// atWork is how many nodes a run works on at the same time.
func (a *Agent) atWork(p *scl.Program) int {
	if p.Rollout != nil && p.Rollout.Parallel > 0 {
		return min(p.Rollout.Parallel, a.atOnce())
	}
	return a.atOnce()
}

// lastUnit is what each node of a run in waves ends with, nil if nothing.
func lastUnit(p *scl.Program) *unit {
	if p.Rollout == nil || p.Rollout.Healthy == nil {
		return nil
	}
	return &unit{id: unitHealthy, text: p.Rollout.Healthy.Text, cmd: p.Rollout.Healthy}
}
