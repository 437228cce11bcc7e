package sim

import (
	"fmt"

	"github.com/chiba-mesh/chiba/agent/link/talk"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Mutant is a bug that is planted where the world meets the product, to see that the
// judge finds it.
type Mutant string

// The mutants.
const (
	None Mutant = ""
	// NoDedupe: coordinators forget which record comes next when one comes again.
	NoDedupe Mutant = "no dedupe"
	// AckBeforeCommit: a coordinator acknowledges what it has read.
	AckBeforeCommit Mutant = "ack before commit"
	// LostJournal: intents do not reach the disk.
	LostJournal Mutant = "lost journal"
	// SameEpoch: an agent whose disk is an old copy goes on as if it were not.
	SameEpoch Mutant = "same epoch"
	// WrittenIsTold: an agent takes what it has written since it began for what it
	// may have told, so a disk that was put back is not noticed.
	WrittenIsTold Mutant = "written is told"
	// LateBatches: coordinators take batches of an earlier process of an agent.
	LateBatches Mutant = "late batches"
	// SkippedCommand: one coordinator leaves out a command.
	SkippedCommand Mutant = "skipped command"
	// NoFence: a new owner takes the other one for shut out, and does nothing.
	NoFence Mutant = "no fence"
	// TwoOwners: a coordinator lends a rack to whoever asks.
	TwoOwners Mutant = "two owners"
)

// Mutants are all of them.
func Mutants() []Mutant {
	return []Mutant{NoDedupe, AckBeforeCommit, LostJournal, SameEpoch, WrittenIsTold, LateBatches, SkippedCommand, NoFence, TwoOwners}
}

const intentsTable = spool.Intents

func (w *World) newMachine() machine {
	m := state.New()
	switch w.mutant {
	case NoDedupe:
		return forgetful{m}
	case SkippedCommand:
		w.machines++
		if w.machines == 2 { // the first is the judge's
			return &skipping{Machine: m}
		}
	default: // planted elsewhere
	}
	return m
}

// forgetful is a machine that takes any batch as new.
type forgetful struct{ *state.Machine }

func (f forgetful) Apply(index uint64, c *pb.Command) (state.Outcome, error) {
	b := c.GetRecordResults()
	known, _ := f.Agent(b.GetAgent())
	if b == nil || known.GetSpoolEpoch() != b.GetSpoolEpoch() || b.GetRecords()[0].GetSeq() >= known.GetNextSeq() {
		return f.Machine.Apply(index, c)
	}
	s := f.Snapshot()
	for i, a := range s.GetAgents() {
		if a.GetName() == b.GetAgent() {
			s.Agents[i] = &pb.AgentInfo{
				Name: a.GetName(), Rack: a.GetRack(), Site: a.GetSite(), Build: a.GetBuild(), SpoolEpoch: a.GetSpoolEpoch(), NextSeq: b.GetRecords()[0].GetSeq(),
			}
		}
	}
	if err := f.Restore(s); err != nil {
		return state.Outcome{}, fmt.Errorf("forget a cursor: %w", err)
	}
	return f.Machine.Apply(index, c)
}

// skipping is a machine that leaves out the hundredth command.
type skipping struct {
	*state.Machine
	applied int
}

func (s *skipping) Apply(index uint64, c *pb.Command) (state.Outcome, error) {
	if s.applied++; s.applied == 50 {
		return state.Outcome{}, nil
	}
	return s.Machine.Apply(index, c)
}

// outbox is the spool of the present process, as talk sees it.
func outbox(a *agent) talk.Outbox {
	switch a.w.mutant {
	case SameEpoch:
		return noRestart{a.spool}
	case WrittenIsTold:
		return eager{a.spool}
	default:
		return a.spool
	}
}

// eager is an outbox that was opened when it is asked.
type eager struct{ *spool.Spool }

func (e eager) Opened() spool.Cursor {
	c, _ := e.Cursor()
	return c
}

// boot is the number of an agent's process.
func boot(a *agent) uint64 {
	if a.w.mutant == LateBatches {
		return 1
	}
	return a.rnd.Uint64() | 1
}

// noRestart is an outbox that keeps its epoch.
type noRestart struct{ *spool.Spool }

func (noRestart) Restart(uint64) error { return nil }
