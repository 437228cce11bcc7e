package link

import (
	"context"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// maxQueries is how many questions an agent answers at once; each reads
	// up to a whole rack.
	maxQueries      = 8
	maxQuerySize    = 5 << 20 // a script of the largest size and its frame
	queryTimeout    = time.Minute
	maxQueryTimeout = 10 * time.Minute
	openTimeout     = 10 * time.Second
)

// answer takes the streams that the coordinator opens.
func (s *session) answer(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxQueries)
	for {
		stream, err := s.conn.Accept(ctx)
		if err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
			running.Go(func() {
				defer func() { <-slots }()
				s.query(ctx, stream)
			})
		default:
			running.Go(func() { refuse(stream) })
		}
	}
}

// refuse says that there are too many questions. The stream limit of a session
// bounds how many refusals there can be at once.
func refuse(stream mesh.Stream) {
	defer func() { _ = stream.Close() }()
	kind, text, hint := wire.ToFault(fault.New(fault.Unavailable, "ask the agent", "it answers 8 questions at once").WithHint("try again in a moment"))
	_ = mesh.NewChannel(stream, 0).Send(done(&pb.QueryEvent_Done{Kind: kind, Error: text, Hint: hint}))
}

func done(d *pb.QueryEvent_Done) *pb.QueryEvent {
	return &pb.QueryEvent{Body: &pb.QueryEvent_Done_{Done: d}}
}

// query answers one question. Whoever asked ends it early by closing the stream.
func (s *session) query(ctx context.Context, stream mesh.Stream) {
	defer func() { _ = stream.Close() }()
	ch := mesh.NewChannel(stream, maxQuerySize)
	var open pb.StreamOpen
	var q pb.Query
	if err := ch.SetReceiveDeadline(time.Now().Add(openTimeout)); err != nil {
		return
	}
	if ch.Receive(&open) != nil || open.GetKind() != pb.StreamOpen_QUERY || ch.Receive(&q) != nil {
		return // not a question, or nobody waits for its answer any longer
	}
	if err := ch.SetReceiveDeadline(time.Time{}); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout(&q))
	defer cancel()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer cancel()
		var nothing pb.Query
		_ = ch.Receive(&nothing) // returns when the stream ends, on either side
	}()
	end := s.agent.Query(ctx, &q, func(e *pb.QueryEvent) error { return ch.Send(e) })
	_ = ch.Send(done(end))
	_ = stream.Close()
	<-gone
}

func timeout(q *pb.Query) time.Duration {
	d := time.Duration(q.GetTimeoutMs()) * time.Millisecond
	if d <= 0 {
		return queryTimeout
	}
	return min(d, maxQueryTimeout)
}
