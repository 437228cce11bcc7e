package hub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	queryTimeout   = time.Minute // if the context has no deadline
	maxQueryEvent  = 4 << 20     // a dump of 1 MiB and what was read with it
	maxQueryAnswer = 256 << 20   // of one rack: 100 dumps, and more than anybody reads
)

// Query asks the agent of a rack and calls each with every event of its answer
// but the last, in order. It returns the last one, with an error if the agent did
// not do what it was asked, or if each gave one. It ends at the deadline of ctx,
// after a minute if there is none.
func (h *Hub) Query(ctx context.Context, rack string, q *pb.Query, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	op := "ask rack " + rack
	ctx, cancel := context.WithTimeout(ctx, timeLeft(ctx))
	defer cancel()
	select {
	case h.queries <- struct{}{}:
		defer func() { <-h.queries }()
	case <-ctx.Done():
		return nil, fault.Wrap(fault.KindOf(ctx.Err()), op, ended(ctx.Err()))
	}
	s := h.session(rack)
	if s == nil {
		return nil, fault.New(fault.Unavailable, op, "its agent is not connected").
			WithHint("see since when: chiba get agents")
	}
	done, err := s.query(ctx, q, each)
	if ctx.Err() != nil && err != nil {
		return nil, fault.Wrap(fault.KindOf(ctx.Err()), op, ended(ctx.Err()))
	}
	return done, err
}

func ended(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("it did not answer in time")
	}
	return err
}

func timeLeft(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return queryTimeout
}

func (s *session) query(ctx context.Context, q *pb.Query, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	stream, err := s.conn.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }()
	ch := mesh.NewChannel(stream, maxQueryEvent)
	// A deadline in the past is what ends a Receive when nobody waits any more.
	defer context.AfterFunc(ctx, func() { _ = ch.SetReceiveDeadline(time.Unix(1, 0)) })()
	question := shorten(q, timeLeft(ctx))
	if err := ch.Send(&pb.StreamOpen{Kind: pb.StreamOpen_QUERY}); err != nil {
		return nil, err
	}
	if err := ch.Send(question); err != nil {
		return nil, err
	}
	return s.answer(ch, each)
}

// shorten is q with the time that is left.
func shorten(q *pb.Query, left time.Duration) *pb.Query {
	return &pb.Query{Id: q.GetId(), File: q.GetFile(), Source: q.GetSource(), Plan: q.GetPlan(), TimeoutMs: max(1, left.Milliseconds())}
}

func (s *session) answer(ch *mesh.Channel, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	op := "ask rack " + s.rack
	for room := maxQueryAnswer; ; {
		var e pb.QueryEvent
		if err := ch.Receive(&e); err != nil {
			return nil, s.lost(op, err)
		}
		if done := e.GetDone(); done != nil {
			return done, wire.FromFault(done.GetKind(), done.GetError(), done.GetHint())
		}
		if room -= proto.Size(&e) + 64; room < 0 {
			return nil, fault.New(fault.TooLarge, op, fmt.Sprintf("its answer has more than %d MiB", maxQueryAnswer>>20)).WithHint("ask for fewer nodes")
		}
		if err := each(&e); err != nil {
			return nil, err
		}
	}
}

// lost is why an answer has ended before its end. The stream learns of the end
// of its connection before the connection itself says so, so only the error that
// was received counts.
func (s *session) lost(op string, err error) error {
	if fault.Is(err, fault.TooLarge) || fault.Is(err, fault.Garbage) {
		return fault.Wrap(fault.KindOf(err), op, err)
	}
	return &fault.Error{
		Kind: fault.Unavailable, Op: op, Hint: "try again when it is back: chiba get agents",
		Err: fmt.Errorf("its agent was lost in the middle of the answer: %w", err),
	}
}
