package api

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

// Deny implements pbconnect.FleetHandler.
func (s *Server) Deny(ctx context.Context, r *connect.Request[pb.DenyRequest]) (*connect.Response[pb.DenyReply], error) {
	const op = "deny"
	subject, err := trust.ParseSubject(r.Msg.GetSubject())
	if err != nil {
		return nil, err
	}
	c := callerOf(ctx)
	if slices.Contains(trust.SubjectsOf(c.chain, c.id), subject) {
		return nil, fault.New(fault.Conflict, op, subject+" is you, or what you are trusted by: nobody could take it back as you").
			WithHint("have another operator do it")
	}
	d := &pb.Denial{Subject: subject, Reason: r.Msg.GetReason(), By: c.name}
	o, err := s.commit(ctx, &pb.Command{Body: &pb.Command_Deny{Deny: &pb.Deny{Denials: []*pb.Denial{d}}}})
	if err != nil {
		return nil, err
	}
	s.conf.Log.Info("denied", obs.Peer, subject, obs.Reason, r.Msg.GetReason(), "by", c.name)
	return connect.NewResponse(&pb.DenyReply{Denial: o.Denial}), nil
}

// Allow implements pbconnect.FleetHandler.
func (s *Server) Allow(ctx context.Context, r *connect.Request[pb.AllowRequest]) (*connect.Response[pb.AllowReply], error) {
	subject, err := trust.ParseSubject(r.Msg.GetSubject())
	if err != nil {
		return nil, err
	}
	by := callerOf(ctx).name
	o, err := s.commit(ctx, &pb.Command{Body: &pb.Command_Allow{Allow: &pb.Allow{Subject: subject, By: by}}})
	if err != nil {
		return nil, err
	}
	s.conf.Log.Info("allowed again", obs.Peer, subject, "by", by)
	return connect.NewResponse(&pb.AllowReply{Denial: o.Denial}), nil
}

// ListDenied implements pbconnect.FleetHandler.
func (s *Server) ListDenied(context.Context, *connect.Request[pb.ListDeniedRequest]) (*connect.Response[pb.ListDeniedReply], error) {
	return connect.NewResponse(&pb.ListDeniedReply{Denied: s.conf.Machine.Denied()}), nil
}

// live are the calls under way, so that those of somebody who is denied end.
type live struct {
	mu    sync.Mutex
	calls map[*caller]context.CancelCauseFunc
}

// begin registers a call; end forgets it.
func (l *live) begin(parent context.Context, c *caller) (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(parent)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls == nil {
		l.calls = map[*caller]context.CancelCauseFunc{}
	}
	l.calls[c] = cancel
	return ctx, func() {
		cancel(nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.calls, c)
	}
}

// Denied ends the calls of those who are denied now. It never waits.
func (s *Server) Denied() {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	for c, cancel := range s.live.calls {
		if err := s.conf.Denied.Check(c.chain, c.id); err != nil {
			cancel(err)
		}
	}
}

// admit says who calls, if they may.
func (s *Server) admit(chain []*x509.Certificate) (trust.Identity, error) {
	id, err := trust.IdentityOf(chain[0])
	if err != nil {
		return id, err
	}
	if id.Role != trust.Operator {
		return id, fault.New(fault.Denied, "", fmt.Sprintf("the certificate is of %s, not of an operator", id))
	}
	// The handshake has checked it too, but a connection lives longer than that.
	return id, s.conf.Denied.Check(chain, id)
}

// refuseCall answers somebody who may not call.
func refuseCall(w http.ResponseWriter, err error) { http.Error(w, err.Error(), http.StatusForbidden) }
