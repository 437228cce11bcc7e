package link

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	batchSize = 32 << 10
	// pongWithin is how long a ping may stay unanswered.
	pongWithin = 10 * time.Second
	// pullEvery bounds how long a change is missed if its hint is never sent,
	// for example because a coordinator died after the commit.
	pullEvery = time.Minute
	// patience is how many welcomes in a row may ask for records that are
	// acknowledged already. A coordinator that lags catches up; one that was
	// restored from an old backup does not.
	patience = 3
)

// session is one connection to one coordinator.
type session struct {
	*Link
	conn        mesh.Session
	control     *mesh.Channel
	coordinator string
	start       uint64 // the first record to send
	began       time.Time
	acked       atomic.Int64 // when an ack last came, since began: a clock that is set changes nothing
}

// greet says Hello and waits for the Welcome.
func (s *session) greet(ctx context.Context) error {
	opening, cancel := context.WithTimeout(ctx, welcomeTimeout)
	defer cancel()
	var err error
	if s.control, err = s.open(opening, pb.StreamOpen_CONTROL, mesh.MaxMessage); err != nil {
		return err
	}
	hello, err := s.hello()
	if err != nil {
		return err
	}
	if err = s.control.Send(&pb.FromAgent{Body: &pb.FromAgent_Hello{Hello: hello}}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { s.conn.Close("agent stops") })
	defer stop()
	if err = s.control.SetReceiveDeadline(time.Now().Add(welcomeTimeout)); err != nil {
		return err
	}
	var answer pb.FromCoordinator
	if err = s.control.Receive(&answer); err != nil {
		return err
	}
	switch body := answer.GetBody().(type) {
	case *pb.FromCoordinator_Welcome:
		return s.welcome(hello, body.Welcome)
	case *pb.FromCoordinator_Refusal:
		return wire.FromFault(body.Refusal.GetKind(), body.Refusal.GetError(), body.Refusal.GetHint())
	default:
		return fault.New(fault.Garbage, "greet coordinator", fmt.Sprintf("it answers a hello with %T", body))
	}
}

func (s *session) open(ctx context.Context, kind pb.StreamOpen_Kind, limit int) (*mesh.Channel, error) {
	stream, err := s.conn.Open(ctx)
	if err != nil {
		return nil, err
	}
	ch := mesh.NewChannel(stream, limit)
	return ch, ch.Send(&pb.StreamOpen{Kind: kind})
}

func (s *session) hello() (*pb.Hello, error) {
	c, err := s.outbox.Cursor()
	if err != nil {
		return nil, err
	}
	revision, _ := s.agent.Have()
	sealKey, proof, err := s.cfg.SealKey()
	if err != nil {
		return nil, err
	}
	gossip, calls := "", ""
	if s.cfg.SiteAddrs != nil {
		gossip, calls = s.cfg.SiteAddrs()
	}
	return &pb.Hello{
		SiteGossip: gossip, SiteCalls: calls,
		Version: Version, Agent: string(s.cfg.Agent), Rack: string(s.cfg.Rack), Site: string(s.cfg.Site),
		SpoolEpoch: c.Epoch, FirstUnacked: c.First, NextSeq: c.Next,
		Revision: revision, SealKey: sealKey, SealProof: proof, Build: s.cfg.Build, Pair: s.cfg.Pair, Any: s.any,
	}, nil
}

// welcome compares what the coordinator has recorded with what the spool holds.
func (s *session) welcome(hello *pb.Hello, w *pb.Welcome) error {
	const op = "compare the spool with the coordinator"
	if w.GetVersion() != Version {
		return fault.New(fault.Unsupported, "greet coordinator", fmt.Sprintf("it speaks version %d, we speak %d", w.GetVersion(), Version)).
			WithHint("run the same build of chiba on agents and coordinators")
	}
	s.coordinator, s.start = w.GetCoordinator(), w.GetNextWanted()
	if s.cfg.Trust != nil {
		s.cfg.Trust.Time(time.UnixMilli(w.GetTimeUnixMs()))
	}
	switch {
	case w.GetNextWanted() > hello.GetNextSeq():
		s.cfg.Log.Warn("the spool is an old copy of itself; a new epoch begins", obs.Epoch, hello.GetSpoolEpoch(), obs.Seq, w.GetNextWanted())
		return s.restart(op, w.GetSpoolEpoch())
	case w.GetNextWanted() < hello.GetFirstUnacked():
		if s.behind++; s.behind < patience {
			return fault.New(fault.Conflict, op, "it has not yet what another one has acknowledged")
		}
		s.cfg.Log.Warn("the coordinators have lost records; a new epoch begins", obs.Epoch, hello.GetSpoolEpoch(), obs.Seq, w.GetNextWanted())
		return s.restart(op, w.GetSpoolEpoch())
	}
	s.behind = 0
	if err := s.outbox.Ack(hello.GetSpoolEpoch(), w.GetNextWanted()); err != nil {
		return err
	}
	if w.GetFirstMeeting() {
		return s.agent.Introduce()
	}
	return nil
}

// restart begins a new epoch, above the one that the coordinator knows, and ends
// the session, which was opened for the old.
func (s *session) restart(op string, known uint64) error {
	s.behind = 0
	if err := s.outbox.Restart(known); err != nil {
		return err
	}
	return fault.New(fault.Conflict, op, "a new epoch begins with the next session")
}

// run works until one part of the session fails or the session ends.
func (s *session) run(parent context.Context) error {
	s.began = time.Now()
	group, ctx := errgroup.WithContext(parent)
	// Closing the connection is what ends every Receive and Send.
	defer context.AfterFunc(ctx, func() { s.conn.Close("agent leaves") })()
	for _, part := range []func(context.Context) error{s.listen, s.tick, s.replay, s.answer} {
		group.Go(func() error { return because(s.conn, part(ctx)) })
	}
	return group.Wait()
}

// listen takes what comes on the control stream. Every message puts off the
// deadline; the pongs alone keep a healthy session within it.
func (s *session) listen(ctx context.Context) error {
	s.Pull()
	for {
		if err := s.control.SetReceiveDeadline(time.Now().Add(s.cfg.PingEvery + min(s.cfg.PingEvery, pongWithin))); err != nil {
			return err
		}
		var m pb.FromCoordinator
		if err := s.control.Receive(&m); err != nil {
			return err
		}
		if err := s.take(ctx, &m); err != nil {
			return err
		}
	}
}

func (s *session) take(ctx context.Context, m *pb.FromCoordinator) error {
	switch body := m.GetBody().(type) {
	case *pb.FromCoordinator_Hint:
		s.Pull()
	case *pb.FromCoordinator_Desired:
		if err := s.agent.Desired(ctx, body.Desired); err != nil {
			return err
		}
		return s.still()
	case *pb.FromCoordinator_Renewed:
		if s.cfg.Trust != nil {
			s.cfg.Trust.Renewed(body.Renewed)
		}
	case *pb.FromCoordinator_Leased:
		s.agent.Leased(body.Leased)
	case *pb.FromCoordinator_Ack:
		s.acked.Store(int64(time.Since(s.began)))
		return s.outbox.Ack(body.Ack.GetSpoolEpoch(), body.Ack.GetNextWanted())
	case *pb.FromCoordinator_Drain:
		return fault.New(fault.Unavailable, "coordinator drains", body.Drain.GetReason())
	case *pb.FromCoordinator_Refusal:
		return wire.FromFault(body.Refusal.GetKind(), body.Refusal.GetError(), body.Refusal.GetHint())
	default: // a pong, or something that a later version says
	}
	return nil
}

// tick sends what is due by the clock, and the pulls.
func (s *session) tick(ctx context.Context) error {
	ping, pull := time.NewTicker(s.cfg.PingEvery), time.NewTicker(pullEvery)
	defer ping.Stop()
	defer pull.Stop()
	if err := s.renew(); err != nil {
		return err
	}
	for {
		m := &pb.FromAgent{}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-ping.C:
			if err := errors.Join(s.stalled(now), s.still(), s.renew()); err != nil {
				return err
			}
			m.Body = &pb.FromAgent_Ping{Ping: &pb.Ping{SentUnixMs: now.UnixMilli(), Trouble: s.trouble()}}
		case <-pull.C:
			s.Pull()
			continue
		case <-s.pulls:
			_, have := s.agent.Have()
			m.Body = &pb.FromAgent_Pull{Pull: &pb.Pull{
				Have: have, Denied: s.denied(), PolicyVersion: s.agent.PolicyVersion(), AuditSize: s.agent.AuditSize(),
			}}
		case q := <-s.leases:
			m.Body = &pb.FromAgent_Lease{Lease: q}
		case p := <-s.progress:
			m.Body = &pb.FromAgent_Progress{Progress: p}
		}
		if err := s.control.Send(m); err != nil {
			return err
		}
	}
}

func (s *session) trouble() string {
	if s.cfg.Trouble == nil {
		return ""
	}
	return s.cfg.Trouble()
}

// still is an error if the coordinator is believed no longer.
func (s *session) still() error {
	if s.cfg.Trust == nil {
		return nil
	}
	return s.cfg.Trust.Still(s.conn.Chain())
}

// renew asks for what is due.
func (s *session) renew() error {
	if s.cfg.Trust == nil {
		return nil
	}
	due := s.cfg.Trust.Renewal()
	if due == nil {
		return nil
	}
	return s.control.Send(&pb.FromAgent{Body: &pb.FromAgent_Renew{Renew: due}})
}

func (s *session) denied() []*pb.Denial {
	if s.cfg.Trust == nil {
		return nil
	}
	return s.cfg.Trust.Denied()
}

// stalled is an error if records wait and no ack comes for them: whoever has them
// may have lost them, and another session replays them.
func (s *session) stalled(now time.Time) error {
	c, err := s.outbox.Cursor()
	if err != nil {
		return err
	}
	if c.First == c.Next {
		s.acked.Store(int64(now.Sub(s.began)))
		return nil
	}
	if idle := now.Sub(s.began) - time.Duration(s.acked.Load()); idle > 3*s.cfg.PingEvery {
		return fault.New(fault.Timeout, "send results", fmt.Sprintf("no acknowledgement for %s", idle.Truncate(time.Second)))
	}
	return nil
}

// replay sends the spool in order, ahead of the acks; flow control bounds it.
func (s *session) replay(ctx context.Context) error {
	out, err := s.open(ctx, pb.StreamOpen_RESULTS, 0)
	if err != nil {
		return err
	}
	for next := s.start; ; {
		batch, err := s.outbox.Batch(next, batchSize)
		if err != nil {
			return err
		}
		if len(batch.GetRecords()) == 0 {
			if err := s.outbox.Wait(ctx); err != nil {
				return err
			}
			continue
		}
		if err := out.Send(batch); err != nil {
			return err
		}
		next += uint64(len(batch.GetRecords()))
	}
}
