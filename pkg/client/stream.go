package client

import (
	"context"
	"iter"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// The sequences below are read once, by one goroutine. An error is the last
// thing they yield; leaving the loop ends the call. None of them has a deadline
// but that of ctx: a coordinator that is silent is told from one that is gone by
// pings.

// Plan compares a script with reality and changes nothing. The name is the one
// under which it would be applied; default: the file's base name without .scl.
func (c *Client) Plan(ctx context.Context, s Source, name string) iter.Seq2[*Reply, error] {
	return func(yield func(*Reply, error) bool) {
		x, _, err := blank(s)
		if err == nil && x.secrets {
			x, _, err = c.seal(ctx, s, name)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		q := &pb.PlanRequest{File: s.File, Source: x.source, AllowEmpty: s.AllowEmpty, Name: name}
		query(stream(ctx, c, "plan "+s.File, c.rpc.Plan, q))(yield)
	}
}

// Show runs the reading forms of a script (show, dump, refresh) now.
func (c *Client) Show(ctx context.Context, s Source) iter.Seq2[*Reply, error] {
	return func(yield func(*Reply, error) bool) {
		x, _, err := blank(s)
		if err != nil {
			yield(nil, err)
			return
		}
		q := &pb.ShowRequest{File: s.File, Source: x.source, AllowEmpty: s.AllowEmpty}
		query(stream(ctx, c, "read", c.rpc.Show, q))(yield)
	}
}

// WatchRun tells of a run from its beginning until it has ended.
func (c *Client) WatchRun(ctx context.Context, id fleet.RunID) iter.Seq2[*RunEvent, error] {
	q := &pb.WatchRunRequest{Id: string(id)}
	return converted(stream(ctx, c, "watch run "+string(id), c.rpc.WatchRun, q), toRunEvent)
}

// Watch tells what happens in the fleet, without end; with past, the last
// firings come first.
func (c *Client) Watch(ctx context.Context, past bool) iter.Seq2[*Event, error] {
	return converted(stream(ctx, c, "watch", c.rpc.Watch, &pb.WatchRequest{Past: past}), toEvent)
}

// stream reads a server's stream to its end.
func stream[Q, A any](ctx context.Context, c *Client, op string, f func(context.Context, *connect.Request[Q]) (*connect.ServerStreamForClient[A], error), q *Q) iter.Seq2[*A, error] {
	return func(yield func(*A, error) bool) {
		ours, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := f(ours, connect.NewRequest(q))
		if err != nil {
			yield(nil, c.fromRPC(op, err))
			return
		}
		defer s.Close() //nolint:errcheck // it was read to its end, or nobody wants the rest
		for s.Receive() {
			if !yield(s.Msg(), nil) {
				cancel() // or Close would read on to the end
				return
			}
		}
		if err := s.Err(); err != nil {
			yield(nil, c.fromRPC(op, err))
		}
	}
}

// converted leaves out what a later version sends and this one doesn't know.
func converted[M, T any](in iter.Seq2[*M, error], to func(*M) *T) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		for m, err := range in {
			if err != nil {
				yield(nil, err)
				return
			}
			if t := to(m); t != nil && !yield(t, nil) {
				return
			}
		}
	}
}

func query(in iter.Seq2[*pb.QueryReply, error]) iter.Seq2[*Reply, error] {
	return func(yield func(*Reply, error) bool) {
		for m, err := range in {
			if d := m.GetDiagnostics(); d.GetErrors() > 0 {
				err = scriptError(d)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if r := toReply(m); r != nil && !yield(r, nil) {
				return
			}
		}
	}
}
