package raftnode

import (
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// fsm puts a state.Machine behind Raft's interface.
type fsm struct {
	machine *state.Machine
	applied func(state.Outcome)
	failed  chan error    // the first command that can't be applied
	halted  chan struct{} // closed with it
	hashes  *hashes
	session string // of the proposals made here

	mu      sync.Mutex
	broken  error
	waiting map[uint64]chan state.Outcome // of proposals made here, by number
}

// response is what Raft carries back to commit; outcomes go to who awaits them.
type response struct {
	term uint64 // of the entry
	err  error
}

func newFSM(m *state.Machine, session string, applied func(state.Outcome)) *fsm {
	return &fsm{
		machine: m, session: session, applied: applied, failed: make(chan error, 1), halted: make(chan struct{}),
		waiting: map[uint64]chan state.Outcome{}, hashes: newHashes(),
	}
}

// await gives the outcome of the command with that number when it is applied.
func (f *fsm) await(seq uint64) <-chan state.Outcome {
	c := make(chan state.Outcome, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting[seq] = c
	return c
}

func (f *fsm) forget(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.waiting, seq)
}

// tell gives outcomes to who waits for them.
func (f *fsm) tell(list []*pb.Command, all []state.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, c := range list {
		if all[i].Repeated || c.GetSession() != f.session {
			continue
		}
		if waits := f.waiting[c.GetSeq()]; waits != nil {
			waits <- all[i]
			delete(f.waiting, c.GetSeq())
		}
	}
}

// Apply implements raft.FSM.
func (f *fsm) Apply(l *raft.Log) any { return f.apply(l) }

// ApplyBatch implements raft.BatchingFSM.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			out[i] = f.apply(l)
		}
	}
	return out
}

func (f *fsm) apply(l *raft.Log) response {
	if err := f.stopped(); err != nil {
		return response{err: err}
	}
	list, err := state.Commands(l.Index, l.Data)
	if err != nil {
		return response{err: f.stop(err)}
	}
	all, err := f.machine.ApplyAll(l.Index, list)
	if err != nil {
		return response{err: f.stop(err)}
	}
	f.hashes.note(l.Index)
	for i, o := range all {
		if list[i].GetMark().GetCheck() {
			f.hashes.take(l.Index, f.machine)
		}
		if !o.Repeated {
			f.applied(o)
		}
	}
	f.tell(list, all)
	return response{term: l.Term}
}

// stop keeps the first error and tells Run.
func (f *fsm) stop(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken == nil {
		f.broken = err
		f.failed <- err
		close(f.halted)
	}
	return f.broken
}

func (f *fsm) stopped() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

// Snapshot implements raft.FSM. A machine that has stopped has no snapshot: it
// would claim to hold commands that were not applied.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.stopped(); err != nil {
		return nil, err
	}
	return snapshot{f.machine.Snapshot()}, nil
}

// Restore implements raft.FSM.
func (f *fsm) Restore(from io.ReadCloser) error {
	defer from.Close()
	s, err := state.Read(from)
	if err != nil {
		return fault.Wrap(fault.Garbage, "read snapshot", err)
	}
	return f.machine.Restore(s)
}

type snapshot struct{ s *pb.Snapshot }

// Persist implements raft.FSMSnapshot. Commands are applied meanwhile.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := state.Write(sink, s.s); err != nil {
		_ = sink.Cancel() // the first error is the one to tell
		return fault.Wrap(fault.Unavailable, "write snapshot", err)
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (snapshot) Release() {}
