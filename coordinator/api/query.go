package api

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// queryTimeout bounds a plan or show over all racks; those that have not
	// answered by then are told as such.
	queryTimeout = 2 * time.Minute
	// parallel is how many racks one plan or show asks at once.
	parallel = 64
)

// Plan implements pbconnect.FleetHandler.
func (s *Server) Plan(ctx context.Context, r *connect.Request[pb.PlanRequest], stream *connect.ServerStream[pb.QueryReply]) error {
	return s.ask(ctx, request{name: r.Msg.GetName(), file: r.Msg.GetFile(), source: r.Msg.GetSource(), allowEmpty: r.Msg.GetAllowEmpty()}, stream)
}

// Show implements pbconnect.FleetHandler.
func (s *Server) Show(ctx context.Context, r *connect.Request[pb.ShowRequest], stream *connect.ServerStream[pb.QueryReply]) error {
	return s.ask(ctx, request{file: r.Msg.GetFile(), source: r.Msg.GetSource(), allowEmpty: r.Msg.GetAllowEmpty(), readOnly: true}, stream)
}

// ask asks every rack that the script concerns, all at once, and passes on what
// they say as it comes.
func (s *Server) ask(ctx context.Context, r request, stream *connect.ServerStream[pb.QueryReply]) error {
	release, err := s.streaming()
	if err != nil {
		return err
	}
	defer release()
	sc, wrong, err := s.check(r)
	if err != nil {
		return err
	}
	if wrong != nil {
		return send(ctx, stream, &pb.QueryReply{Body: &pb.QueryReply_Diagnostics{Diagnostics: wrong}})
	}
	asked, cutOff := s.split(sc.racks)
	racks := &pb.QueryReply_Racks{Asked: asked, CutOff: cutOff}
	if err = send(ctx, stream, &pb.QueryReply{Body: &pb.QueryReply_Racks_{Racks: racks}}); err != nil {
		return err
	}
	query := &pb.Query{File: sc.file, Source: sc.source, Plan: !r.readOnly, Script: r.name}
	return s.fanOut(ctx, asked, query, func(reply *pb.QueryReply) error { return send(ctx, stream, reply) })
}

// split tells the racks that can be asked from those that are cut off.
func (s *Server) split(racks []string) (connected, cutOff []string) {
	for _, rack := range racks {
		if s.conf.Agents.Connected(rack) {
			connected = append(connected, rack)
		} else {
			cutOff = append(cutOff, rack)
		}
	}
	return connected, cutOff
}

// fanOut asks the racks and gives each of their replies to tell, one at a time.
// Only an error of tell is an error: what goes wrong on a rack is a reply.
func (s *Server) fanOut(ctx context.Context, racks []string, q *pb.Query, tell func(*pb.QueryReply) error) error {
	answers, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var mu sync.Mutex
	locked := func(r *pb.QueryReply) error {
		mu.Lock()
		defer mu.Unlock()
		return tell(r)
	}
	group, asking := errgroup.WithContext(answers)
	group.SetLimit(parallel)
	for _, rack := range racks {
		group.Go(func() error {
			done, err := s.conf.Agents.Query(asking, rack, q, func(e *pb.QueryEvent) error {
				if reply := replyOf(rack, e); reply != nil {
					return locked(reply)
				}
				return nil
			})
			if ctx.Err() != nil {
				return ctx.Err() // nobody is there to be told
			}
			kind, text, hint := wire.ToFault(err)
			return locked(&pb.QueryReply{Rack: rack, Body: &pb.QueryReply_Ended_{Ended: &pb.QueryReply_Ended{
				Nodes: done.GetNodes(), Failed: done.GetFailed(), Kind: kind, Error: text, Hint: hint,
			}}})
		})
	}
	return group.Wait()
}

// replyOf is an event of a rack as the caller sees it; nil for one that a later
// version knows.
func replyOf(rack string, e *pb.QueryEvent) *pb.QueryReply {
	r := &pb.QueryReply{Rack: rack}
	switch b := e.GetBody().(type) {
	case *pb.QueryEvent_Started_:
		r.Body = &pb.QueryReply_Started_{Started: &pb.QueryReply_Started{Nodes: b.Started.GetNodes()}}
	case *pb.QueryEvent_Change:
		r.Body = &pb.QueryReply_Change{Change: b.Change}
	case *pb.QueryEvent_Result:
		r.Body = &pb.QueryReply_Result{Result: b.Result}
	default:
		return nil
	}
	return r
}
