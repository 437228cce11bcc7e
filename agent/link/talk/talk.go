// Package talk is an agent's part of the protocol with a coordinator: what it says
// of its spool, what it makes of the answer, which record goes next. It decides and
// calls who keeps things; it has no connection, clock or goroutine of its own. Link
// carries it over QUIC, the simulator over streams in memory.
//
// # The protocol
//
// Records have a number in an epoch, which is one life of the spool's file. A hello
// tells (epoch, first that is not acknowledged, next to be written), the welcome
// the record that is wanted next. Wanted above what can have been sent: the disk is
// an old copy of itself, and another life of it has told more. Wanted below what was
// acknowledged: the coordinator lags, or its disk is an old copy. In both cases at
// last the agent begins a new epoch above the one that the coordinator knows, and
// takes along what is not acknowledged.
//
// What can have been sent is what this process has sent, and what the file held when
// it was opened, but for what was written by a process that nobody has welcomed. A
// disk that was put back may have been written to before the first welcome, under
// numbers that its other life has used: that must not hide it. So that nothing of that other life comes later, a hello tells
// the process, and batches of an earlier one are refused from then on.
package talk

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Version is the version of the protocol that this package speaks.
const Version = 1

const (
	batchSize = 32 << 10
	// patience is how many welcomes in a row may ask for records that are
	// acknowledged already. A coordinator that lags catches up; one that was
	// restored from an old backup does not.
	patience = 3
	// stallAfter is how many pings may go by without an ack while records wait.
	stallAfter = 3
)

// Agent is whom a session serves.
type Agent interface {
	// Have is the desired state the agent holds: its revision, and the digest
	// of each standing script, as wire.Mark writes it.
	Have() (revision uint64, scripts map[string]string)
	// PolicyVersion is that of the policy of authors it holds, 0 without one.
	PolicyVersion() uint64
	// CatalogueVersion is that of the site catalogue it has its part of, 0 without one.
	CatalogueVersion() uint64
	// AuditSize is that of the audit log whose checkpoint it holds.
	AuditSize() int64
	// Desired takes the desired state of the rack. When it returns nil it is
	// durable.
	Desired(ctx context.Context, d *pb.Desired) error
	// Introduce records again what a coordinator must know of the rack: one was
	// met that knows nothing, being new or having lost its disk.
	Introduce() error
}

// Outbox is where the records for the coordinators wait; a *spool.Spool is one.
type Outbox interface {
	Cursor() (spool.Cursor, error)
	// Opened is what was told of it before this process.
	Opened() spool.Cursor
	// Talks notes durably that records are sent from now on.
	Talks() error
	Batch(from uint64, size int) (*pb.RecordBatch, error)
	Ack(epoch, next uint64) error
	Restart(above uint64) error
}

// Self is who the agent says it is.
type Self struct {
	Agent fleet.AgentName
	Rack  fleet.RackName
	Site  fleet.SiteName
	Build string
	Pair  string // the other agent of its rack, "" if there is none
	Boot  uint64 // of this process: random, not 0
}

// Now is what may be different from one hello to the next.
type Now struct {
	SealKey, SealProof    []byte // what secrets for the agent are sealed to, and that it is its own
	SiteGossip, SiteCalls string // ip:port for the agents of its site; empty: nowhere
	Any                   bool   // a coordinator without a leader will do: no other was found
}

// Side is the agent's side of its sessions, one after the other. It is not safe for
// concurrent use; its Sessions are.
type Side struct {
	self   Self
	agent  Agent
	outbox Outbox
	behind int // consecutive coordinators that had forgotten records

	epoch uint64        // of the outbox at the last hello
	told  atomic.Uint64 // of that epoch: no record from here on can have been sent
}

// New is a side that has met nobody yet.
func New(self Self, agent Agent, outbox Outbox) *Side {
	return &Side{self: self, agent: agent, outbox: outbox}
}

// Hello is what a session begins with.
func (s *Side) Hello(now Now) (*pb.Hello, error) {
	c, err := s.outbox.Cursor()
	if err != nil {
		return nil, err
	}
	s.enter(c.Epoch)
	revision, _ := s.agent.Have()
	return &pb.Hello{
		Version: Version, Boot: s.self.Boot, Agent: string(s.self.Agent), Rack: string(s.self.Rack), Site: string(s.self.Site),
		SpoolEpoch: c.Epoch, FirstUnacked: c.First, NextSeq: c.Next,
		Revision: revision, SealKey: now.SealKey, SealProof: now.SealProof, Build: s.self.Build, Pair: s.self.Pair,
		SiteGossip: now.SiteGossip, SiteCalls: now.SiteCalls, Any: now.Any,
	}, nil
}

// enter notes the epoch that is spoken of from now on.
func (s *Side) enter(epoch uint64) {
	if epoch == s.epoch {
		return
	}
	s.epoch = epoch
	s.told.Store(1)
	if opened := s.outbox.Opened(); opened.Epoch == epoch {
		s.told.Store(opened.Next)
	}
}

// Answered takes the first message of a coordinator, the answer to hello. An error
// ends the session before it has begun.
func (s *Side) Answered(now time.Time, hello *pb.Hello, answer *pb.FromCoordinator) (*Session, error) {
	switch body := answer.GetBody().(type) {
	case *pb.FromCoordinator_Welcome:
		return s.welcomed(now, hello, body.Welcome)
	case *pb.FromCoordinator_Refusal:
		return nil, refusal(body.Refusal)
	default:
		return nil, fault.New(fault.Garbage, "greet coordinator", fmt.Sprintf("it answers a hello with %T", body))
	}
}

// welcomed compares what the coordinator has recorded with what the spool holds.
func (s *Side) welcomed(now time.Time, hello *pb.Hello, w *pb.Welcome) (*Session, error) {
	const op = "compare the spool with the coordinator"
	if w.GetVersion() != Version {
		return nil, fault.New(fault.Unsupported, "greet coordinator", fmt.Sprintf("it speaks version %d, we speak %d", w.GetVersion(), Version)).
			WithHint("run the same build of chiba on agents and coordinators")
	}
	wanted := w.GetNextWanted()
	switch {
	case wanted > s.told.Load():
		return nil, s.restart(op, "the spool is an old copy of itself", w)
	case wanted < hello.GetFirstUnacked():
		if s.behind++; s.behind < patience {
			return nil, fault.New(fault.Conflict, op, "it has not yet what another one has acknowledged")
		}
		return nil, s.restart(op, "the coordinators have lost records", w)
	}
	s.behind = 0
	if err := s.outbox.Talks(); err != nil {
		return nil, err
	}
	if err := s.outbox.Ack(hello.GetSpoolEpoch(), wanted); err != nil {
		return nil, err
	}
	if w.GetFirstMeeting() {
		if err := s.agent.Introduce(); err != nil {
			return nil, err
		}
	}
	return &Session{side: s, Coordinator: w.GetCoordinator(), next: wanted, since: now}, nil
}

// restart begins a new epoch, above the one that the coordinator knows, and ends
// the session, which was opened for the old.
func (s *Side) restart(op, why string, w *pb.Welcome) error {
	s.behind = 0
	if err := s.outbox.Restart(w.GetSpoolEpoch()); err != nil {
		return err
	}
	return fault.New(fault.Conflict, op, fmt.Sprintf("%s: record %d is wanted; a new epoch begins with the next session", why, w.GetNextWanted()))
}

func refusal(r *pb.Refusal) error {
	return wire.FromFault(r.GetKind(), r.GetError(), r.GetHint())
}

// Session is one session after its welcome. Next is for one caller, the others are
// safe for concurrent use.
type Session struct {
	Coordinator string // its name

	side  *Side
	next  uint64       // the record to send next
	since time.Time    // the welcome
	acked atomic.Int64 // when an ack last came: ns since then, whatever becomes of the clock
}

// Ask is what the agent owes the coordinator after a message.
type Ask int

// What there is to do.
const (
	Nothing Ask = iota
	ToPull      // ask for the desired state, soon; it is owed at the beginning too
	Kept        // a desired state is kept: is the coordinator still believed?
	Renewed     // what the message says of certificates is for who asked for it
	Leased      // likewise what it says of whose the rack is
)

// Take does what a message of the coordinator says. An error ends the session.
func (s *Session) Take(ctx context.Context, now time.Time, m *pb.FromCoordinator) (Ask, error) {
	switch body := m.GetBody().(type) {
	case *pb.FromCoordinator_Hint:
		return ToPull, nil
	case *pb.FromCoordinator_Desired:
		return Kept, s.side.agent.Desired(ctx, body.Desired)
	case *pb.FromCoordinator_Renewed:
		return Renewed, nil
	case *pb.FromCoordinator_Leased:
		return Leased, nil
	case *pb.FromCoordinator_Ack:
		s.acked.Store(int64(now.Sub(s.since)))
		return Nothing, s.side.outbox.Ack(body.Ack.GetSpoolEpoch(), body.Ack.GetNextWanted())
	case *pb.FromCoordinator_Drain:
		return Nothing, fault.New(fault.Unavailable, "coordinator drains", body.Drain.GetReason())
	case *pb.FromCoordinator_Refusal:
		return Nothing, refusal(body.Refusal)
	default: // a pong, or something that a later version says
		return Nothing, nil
	}
}

// Pull asks for the desired state; denied are the denials that were made here.
func (s *Session) Pull(denied []*pb.Denial) *pb.FromAgent {
	_, have := s.side.agent.Have()
	return &pb.FromAgent{Body: &pb.FromAgent_Pull{Pull: &pb.Pull{
		Have: have, Denied: denied, PolicyVersion: s.side.agent.PolicyVersion(), AuditSize: s.side.agent.AuditSize(),
		Catalogue: s.side.agent.CatalogueVersion(),
	}}}
}

// Stalled is an error if records wait and no ack comes for them: whoever has them
// may have lost them, and another session replays them. It is asked with every ping.
func (s *Session) Stalled(now time.Time, pingEvery time.Duration) error {
	c, err := s.side.outbox.Cursor()
	if err != nil {
		return err
	}
	if c.First == c.Next {
		s.acked.Store(int64(now.Sub(s.since)))
		return nil
	}
	if idle := now.Sub(s.since) - time.Duration(s.acked.Load()); idle > stallAfter*pingEvery {
		return fault.New(fault.Timeout, "send results", fmt.Sprintf("no acknowledgement for %s", idle.Truncate(time.Second)))
	}
	return nil
}

// Next is the batch to send next, in order and ahead of the acks; nil: none waits.
func (s *Session) Next() (*pb.RecordBatch, error) {
	batch, err := s.side.outbox.Batch(s.next, batchSize)
	if err != nil || len(batch.GetRecords()) == 0 {
		return nil, err
	}
	s.next += uint64(len(batch.GetRecords()))
	s.side.told.Store(max(s.side.told.Load(), s.next))
	return batch, nil
}
