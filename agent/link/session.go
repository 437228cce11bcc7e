package link

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/agent/link/talk"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// pongWithin is how long a ping may stay unanswered.
	pongWithin = 10 * time.Second
	// pullEvery bounds how long a change is missed if its hint is never sent,
	// for example because a coordinator died after the commit.
	pullEvery = time.Minute
)

// session is one connection to one coordinator. What is said on it, talk decides.
type session struct {
	*Link
	conn    mesh.Session
	control *mesh.Channel
	talk    *talk.Session // from the welcome on
}

// greet says Hello and waits for the Welcome.
func (s *session) greet(ctx context.Context) error {
	opening, cancel := context.WithTimeout(ctx, welcomeTimeout)
	defer cancel()
	var err error
	if s.control, err = s.open(opening, pb.StreamOpen_CONTROL, mesh.MaxMessage); err != nil {
		return err
	}
	now, err := s.now()
	if err != nil {
		return err
	}
	hello, err := s.side.Hello(now)
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
	if w := answer.GetWelcome(); w.GetVersion() == Version && s.cfg.Trust != nil {
		s.cfg.Trust.Time(time.UnixMilli(w.GetTimeUnixMs()))
	}
	s.talk, err = s.side.Answered(time.Now(), hello, &answer)
	return err
}

// now is what a hello says that an earlier one may not have said.
func (s *session) now() (n talk.Now, err error) {
	n.Any = s.any
	if s.cfg.SiteAddrs != nil {
		n.SiteGossip, n.SiteCalls = s.cfg.SiteAddrs()
	}
	n.SealKey, n.SealProof, err = s.cfg.SealKey()
	return n, err
}

func (s *session) open(ctx context.Context, kind pb.StreamOpen_Kind, limit int) (*mesh.Channel, error) {
	stream, err := s.conn.Open(ctx)
	if err != nil {
		return nil, err
	}
	ch := mesh.NewChannel(stream, limit)
	return ch, ch.Send(&pb.StreamOpen{Kind: kind})
}

// run works until one part of the session fails or the session ends.
func (s *session) run(parent context.Context) error {
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
	ask, err := s.talk.Take(ctx, time.Now(), m)
	if err != nil {
		return err
	}
	switch ask {
	case talk.ToPull:
		s.Pull()
	case talk.Kept:
		return s.still()
	case talk.Renewed:
		if s.cfg.Trust != nil {
			s.cfg.Trust.Renewed(m.GetRenewed())
		}
	case talk.Leased:
		s.agent.Leased(m.GetLeased())
	case talk.Nothing:
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
			if err := errors.Join(s.talk.Stalled(now, s.cfg.PingEvery), s.still(), s.renew()); err != nil {
				return err
			}
			m.Body = &pb.FromAgent_Ping{Ping: &pb.Ping{SentUnixMs: now.UnixMilli(), Trouble: s.trouble()}}
		case <-pull.C:
			s.Pull()
			continue
		case <-s.pulls:
			m = s.talk.Pull(s.denied())
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

// replay sends the spool in order, ahead of the acks; flow control bounds it. The
// stream is opened when there is something to send.
func (s *session) replay(ctx context.Context) error {
	var out *mesh.Channel
	for {
		batch, err := s.talk.Next()
		if err != nil {
			return err
		}
		if batch == nil {
			if err = s.outbox.Wait(ctx); err != nil {
				return err
			}
			continue
		}
		if out == nil {
			if out, err = s.open(ctx, pb.StreamOpen_RESULTS, 0); err != nil {
				return err
			}
		}
		if err = out.Send(batch); err != nil {
			return err
		}
	}
}
