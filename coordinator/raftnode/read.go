package raftnode

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// hashEvery is how many entries of the log lie between two digests of the
	// state. One costs an encoding of the whole state, beside the log's work.
	hashEvery = 4096
	// hashesKept is how many digests are remembered: others may be behind.
	hashesKept = 8
)

// CatchUp returns when this node has applied everything that was committed, by
// whichever node, before the call. It costs a commit: a command that does nothing
// goes through the log, and what comes before it is applied before it.
func (n *Node) CatchUp(ctx context.Context) error {
	_, err := n.Propose(ctx, &pb.Command{Body: &pb.Command_Mark{Mark: &pb.Mark{}}})
	return err
}

// Leads reports whether this node leads, as far as it knows.
func (n *Node) Leads() bool { return n.raft.State() == raft.Leader }

// hashes are digests of the state at some indexes of the log. Machines that have
// applied the same commands have the same.
type hashes struct {
	every uint64
	work  chan hashWork

	mu   sync.Mutex
	last uint64 // index of the last command
	done []*pb.StateHash
}

type hashWork struct {
	index uint64
	state *pb.Snapshot
}

func newHashes(every uint64) *hashes { return &hashes{every: every, work: make(chan hashWork, 1)} }

// applied is told of every command. Where a multiple of every lies between it and
// the one before, the state is put aside for a digest. It never waits: with work
// to do already, it skips this one.
func (h *hashes) applied(index uint64, m *state.Machine) {
	h.mu.Lock()
	due := h.last != 0 && index/h.every > h.last/h.every
	h.last = index
	h.mu.Unlock()
	if !due || len(h.work) == cap(h.work) {
		return
	}
	h.work <- hashWork{index, m.Snapshot()} // there is room, and nobody else writes
}

// run makes the digests until ctx ends.
func (h *hashes) run(ctx context.Context, n *Node) {
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-h.work:
			began := time.Now()
			sum, err := state.HashOf(w.state)
			if err != nil {
				n.conf.Log.Error("hashing the state", obs.Err, err)
				continue
			}
			n.conf.Log.Debug("state hashed", "index", w.index, obs.Took, time.Since(began))
			h.keep(&pb.StateHash{Index: w.index, Hash: sum})
		}
	}
}

func (h *hashes) keep(s *pb.StateHash) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done = append(h.done, s)
	if len(h.done) > hashesKept {
		h.done = h.done[1:]
	}
}

// Hashes are the last digests of the state, oldest first, and the index of the
// last command that was applied.
func (n *Node) Hashes() (list []*pb.StateHash, applied uint64) {
	h := n.fsm.hashes
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*pb.StateHash(nil), h.done...), h.last
}
