package client

import (
	"context"
	"iter"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
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
		query(stream(ctx, c, "plan "+s.File, pbconnect.FleetClient.Plan, q))(yield)
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
		query(stream(ctx, c, "read", pbconnect.FleetClient.Show, q))(yield)
	}
}

// WatchRun tells of a run from its beginning until it has ended.
func (c *Client) WatchRun(ctx context.Context, id fleet.RunID) iter.Seq2[*RunEvent, error] {
	q := &pb.WatchRunRequest{Id: string(id)}
	return converted(stream(ctx, c, "watch run "+string(id), pbconnect.FleetClient.WatchRun, q), toRunEvent)
}

// Watch tells what happens in the fleet, without end; with past, the last
// firings come first.
func (c *Client) Watch(ctx context.Context, past bool) iter.Seq2[*Event, error] {
	return converted(stream(ctx, c, "watch", pbconnect.FleetClient.Watch, &pb.WatchRequest{Past: past}), toEvent)
}

// streaming is a method of the API that answers with a stream.
type streaming[Q, A any] func(pbconnect.FleetClient, context.Context, *connect.Request[Q]) (*connect.ServerStreamForClient[A], error)

// stream reads a server's stream to its end. A coordinator that is lost before its
// first message is replaced by the next one; later it is for the caller to begin
// again, which then asks the next one.
func stream[Q, A any](ctx context.Context, c *Client, op string, f streaming[Q, A], q *Q) iter.Seq2[*A, error] {
	return func(yield func(*A, error) bool) {
		r := reading[A]{yield: yield}
		err := c.around(ctx, func(w way) error {
			at := c.at.Load()
			err := c.fromRPC(op, w, r.read(ctx, func(ctx context.Context) (*connect.ServerStreamForClient[A], error) {
				return f(w.rpc, ctx, request(c, q))
			}))
			if !r.begun {
				return err
			}
			if elsewhere(err) {
				c.leave(at)
			}
			r.err = err
			return nil
		})
		if err == nil {
			err = r.err
		}
		if err != nil && !r.enough {
			yield(nil, err)
		}
	}
}

// reading is the reading of one stream.
type reading[A any] struct {
	yield  func(*A, error) bool
	begun  bool  // something was read
	enough bool  // nobody wants the rest
	err    error // the end of one that had begun
}

func (r *reading[A]) read(ctx context.Context, open func(context.Context) (*connect.ServerStreamForClient[A], error)) error {
	ours, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := open(ours)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // it was read to its end, or nobody wants the rest
	for s.Receive() {
		r.begun = true
		if !r.yield(s.Msg(), nil) {
			r.enough = true
			cancel() // or Close would read on to the end
			return nil
		}
	}
	return s.Err()
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
