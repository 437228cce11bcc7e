package raftnode

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// checkEvery is how many entries of the log lie between two checks, and checkAfter
	// how long it takes at most until what was committed is checked. A check costs an
	// encoding of the whole state and reading the log since the last, beside its work.
	checkEvery = 4096
	checkAfter = 5 * time.Minute
	// hashesKept is how many digests are remembered: others may be behind.
	hashesKept = 8
	// checkRest is how many times as long as a check takes there is none: so they take
	// no more than 2 % of a processor.
	checkRest = 50
)

// check has all members check, now and then, whether their logs and their states are
// the same: the leader commits a mark. Where it lies in the log each compares the sum of
// the entries that it reads with the leader's, and keeps a digest of its state.
func (n *Node) check() {
	if !n.Leads() {
		return
	}
	commit, last := n.raft.CommitIndex(), max(n.asked, n.fsm.hashes.checked())
	if !due(int64(commit)-int64(last), n.conf.CheckEvery, time.Since(n.askedAt), n.fsm.hashes.cost()) {
		return
	}
	c := &pb.Command{Version: state.Version, AtUnixMs: n.clock(), Body: &pb.Command_Mark{Mark: &pb.Mark{Check: true}}}
	data, err := proto.Marshal(c)
	if err != nil || n.full.Load() != nil {
		return
	}
	n.asked, n.askedAt = commit+1, time.Now()
	n.raft.Apply(data, n.conf.Patience) // nobody waits: there is a next time
}

// due reports whether to check again, so many entries and so long after the last time,
// which has taken cost. The state of a million nodes takes seconds to encode.
func due(entries int64, every uint64, since, cost time.Duration) bool {
	if entries <= 0 || since < cost*checkRest {
		return false
	}
	return uint64(entries) >= every || since >= checkAfter
}

// hashes are digests of the state where the log was checked. Machines that have
// applied the same commands have the same.
type hashes struct {
	work chan hashWork

	mu   sync.Mutex
	last uint64 // index of the last command
	at   uint64 // of the last check
	took time.Duration
	done []*pb.StateHash
}

type hashWork struct {
	index uint64
	state *pb.Snapshot
}

func newHashes() *hashes { return &hashes{work: make(chan hashWork, 1)} }

// note is told of every command.
func (h *hashes) note(index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = index
}

// applied is the index of the last command.
func (h *hashes) applied() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// cost is how long the last digest took to make.
func (h *hashes) cost() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.took
}

// checked is the index of the last check.
func (h *hashes) checked() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

// take puts the state aside for a digest. It never waits: with work to do already, it
// skips this one.
func (h *hashes) take(index uint64, m *state.Machine) {
	h.mu.Lock()
	h.at = index
	h.mu.Unlock()
	if len(h.work) < cap(h.work) {
		h.work <- hashWork{index, m.Snapshot()} // there is room, and nobody else writes
	}
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
			h.keep(&pb.StateHash{Index: w.index, Hash: sum}, time.Since(began))
		}
	}
}

func (h *hashes) keep(s *pb.StateHash, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.took = took
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
