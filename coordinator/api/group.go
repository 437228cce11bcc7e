package api

import (
	"context"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// readHeader asks, with readLatest, for an answer that misses nothing that was
	// committed before. Without it a coordinator tells what it knows.
	readHeader = "Chiba-Read"
	readLatest = "linearizable"
	// remarkHeader is what a person should know about an answer.
	remarkHeader = "Chiba-Remark"
)

// reads sees to it that an answer is as fresh as was asked for, or says that it
// may be old.
type reads struct{ group Group }

// WrapUnary implements connect.Interceptor.
func (i reads) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		if r.Header().Get(readHeader) == readLatest {
			if err := i.group.CatchUp(ctx); err != nil {
				return nil, err
			}
		}
		answer, err := next(ctx, r)
		if err != nil {
			return answer, err
		}
		if remark := i.group.Remark(); remark != "" {
			answer.Header().Set(remarkHeader, remark)
		}
		return answer, nil
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (reads) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// WrapStreamingClient implements connect.Interceptor; a server has none.
func (reads) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// meet waits until a run that another coordinator has told of is known here. One
// that nobody knows is the caller's to tell.
func (s *Server) meet(ctx context.Context, run string) error {
	if _, _, known := s.conf.Machine.Run(run, state.NoResults); known || len(s.conf.Group.Coordinators()) < 2 {
		return nil
	}
	return s.conf.Group.CatchUp(ctx)
}

// ListCoordinators implements pbconnect.FleetHandler.
func (s *Server) ListCoordinators(context.Context, *connect.Request[pb.ListCoordinatorsRequest]) (*connect.Response[pb.ListCoordinatorsReply], error) {
	return connect.NewResponse(&pb.ListCoordinatorsReply{Coordinators: s.conf.Group.Coordinators()}), nil
}

// RemoveCoordinator implements pbconnect.FleetHandler.
func (s *Server) RemoveCoordinator(ctx context.Context, r *connect.Request[pb.RemoveCoordinatorRequest]) (*connect.Response[pb.RemoveCoordinatorReply], error) {
	name := r.Msg.GetName()
	if name == "" {
		return nil, fault.New(fault.BadInput, "remove a coordinator", "it has no name").WithHint("see them: chiba get coordinators")
	}
	if err := s.conf.Group.Remove(ctx, name); err != nil {
		return nil, err
	}
	s.conf.Log.Info("coordinator removed", obs.Peer, name, "by", callerOf(ctx).name)
	return connect.NewResponse(&pb.RemoveCoordinatorReply{}), nil
}
