package api

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// readHeader asks how fresh an answer shall be.
	readHeader = "Chiba-Read"
	// readStale: what this coordinator knows, at once.
	readStale = "stale"
	// readDefault: what the leader knows. If none is reached, as readStale.
	readDefault = "default"
	// readLatest: it misses nothing that was committed before it was asked for, or
	// there is none.
	readLatest = "linearizable"
	// leaderTimeout is how long a readDefault waits for the leader.
	leaderTimeout = time.Second
	// remarkHeader is what a person should know about an answer.
	remarkHeader = "Chiba-Remark"
)

// reads sees to it that an answer is as fresh as was asked for, or says that it
// may be old.
type reads struct{ group Group }

// WrapUnary implements connect.Interceptor.
func (i reads) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		if err := i.fresh(ctx, r.Header().Get(readHeader)); err != nil {
			return nil, err
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

// fresh waits until what is known here is as fresh as was asked for.
func (i reads) fresh(ctx context.Context, level string) error {
	switch level {
	case readStale:
		return nil
	case readLatest:
		return i.group.CatchUp(ctx, true)
	case "", readDefault:
		soon, cancel := context.WithTimeout(ctx, leaderTimeout)
		defer cancel()
		_ = i.group.CatchUp(soon, false) // the remark says how old it is
		return nil
	default:
		return fault.New(fault.BadInput, "", fmt.Sprintf("%q is no consistency", level)).
			WithHint("it is " + readStale + ", " + readDefault + " or " + readLatest)
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
	return s.conf.Group.CatchUp(ctx, true)
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
