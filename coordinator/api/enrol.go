package api

import (
	"context"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/enroll"
)

const (
	maxGuesses = 10 // wrong codes of one operator
	guessEvery = 10 * time.Minute
)

// CreateToken implements pbconnect.FleetHandler.
func (s *Server) CreateToken(ctx context.Context, r *connect.Request[pb.CreateTokenRequest]) (*connect.Response[pb.CreateTokenReply], error) {
	const op = "create join token"
	if s.conf.Site == "" {
		return nil, fault.New(fault.Unavailable, op, "this coordinator holds no CA of its site").WithHint("start it with --site-ca DIR")
	}
	q, ttl := r.Msg.GetToken(), time.Duration(r.Msg.GetTtlMs())*time.Millisecond
	id := trust.Identity{Role: trust.Agent, Domain: trust.Domain{Site: s.conf.Site, Rack: q.GetRack()}, Name: q.GetName()}
	if err := id.Check(); err != nil {
		return nil, err
	}
	if ttl <= 0 || ttl > enroll.MaxTokenLife {
		return nil, fault.New(fault.BadInput, op, fmt.Sprintf("it can be good for up to %s, not for %s", enroll.MaxTokenLife, ttl))
	}
	if !q.GetReplace() {
		if err := s.conf.Machine.MayEnrol(time.Now().UnixMilli(), &pb.EnrolAgent{Name: id.Name, Rack: id.Rack}); err != nil {
			return nil, err
		}
	}
	by := callerOf(ctx).name
	o, err := s.commit(ctx, &pb.Command{Body: &pb.Command_PutToken{PutToken: &pb.PutToken{Token: &pb.JoinToken{
		Id: q.GetId(), Key: q.GetKey(), Rack: id.Rack, Name: id.Name, Replace: q.GetReplace(), By: by,
		UntilUnixMs: time.Now().Add(ttl).UnixMilli(),
	}}}})
	if err != nil {
		return nil, err
	}
	s.conf.Log.Info("join token created", obs.Agent, id.Name, obs.Rack, id.Rack, "by", by)
	return connect.NewResponse(&pb.CreateTokenReply{Token: o.Token, Site: s.conf.Site, MeshAddr: s.conf.MeshAddr()}), nil
}

// ListTokens implements pbconnect.FleetHandler.
func (s *Server) ListTokens(context.Context, *connect.Request[pb.ListTokensRequest]) (*connect.Response[pb.ListTokensReply], error) {
	return connect.NewResponse(&pb.ListTokensReply{Tokens: s.conf.Machine.Tokens()}), nil
}

// RevokeToken implements pbconnect.FleetHandler.
func (s *Server) RevokeToken(ctx context.Context, r *connect.Request[pb.RevokeTokenRequest]) (*connect.Response[pb.RevokeTokenReply], error) {
	o, err := s.commit(ctx, &pb.Command{Body: &pb.Command_RevokeToken{RevokeToken: &pb.RevokeToken{Id: r.Msg.GetId()}}})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RevokeTokenReply{Token: o.Token}), nil
}

// ListPending implements pbconnect.FleetHandler.
func (s *Server) ListPending(context.Context, *connect.Request[pb.ListPendingRequest]) (*connect.Response[pb.ListPendingReply], error) {
	return connect.NewResponse(&pb.ListPendingReply{Pending: s.conf.Machine.Pending(time.Now().UnixMilli())}), nil
}

// JudgeJoin implements pbconnect.FleetHandler.
func (s *Server) JudgeJoin(ctx context.Context, r *connect.Request[pb.JudgeJoinRequest]) (*connect.Response[pb.JudgeJoinReply], error) {
	const op = "judge the request"
	code, err := enroll.ParseCode(r.Msg.GetCode())
	if err != nil {
		return nil, err
	}
	by := callerOf(ctx).name
	if err = s.guesses.may(by, time.Now()); err != nil {
		return nil, err
	}
	p, ok := s.conf.Machine.PendingWith(code, time.Now().UnixMilli())
	if !ok {
		s.guesses.wrong(by, time.Now())
		return nil, state.NoCode(op)
	}
	if !r.Msg.GetLook() {
		o, err := s.commit(ctx, &pb.Command{Body: &pb.Command_JudgeJoin{JudgeJoin: &pb.JudgeJoin{Code: code, Approve: r.Msg.GetApprove()}}})
		if err != nil {
			return nil, err
		}
		p = o.Pending
		s.conf.Log.Info("request to join judged", obs.Agent, p.GetName(), obs.Rack, p.GetRack(), "approved", p.GetApproved(), "by", by)
	}
	return connect.NewResponse(&pb.JudgeJoinReply{Pending: p}), nil
}

// guesses counts the wrong codes of each operator: a code has 34 bits, and lives ten
// minutes.
type guesses struct {
	mu sync.Mutex
	by map[string]guessed
}

type guessed struct {
	since time.Time
	wrong int
}

func (g *guesses) may(who string, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.by[who]; h.wrong >= maxGuesses && now.Sub(h.since) < guessEvery {
		return fault.New(fault.Denied, "judge the request", fmt.Sprintf("%s has typed %d wrong codes", who, h.wrong)).
			WithHint("wait until " + h.since.Add(guessEvery).UTC().Format(time.RFC3339))
	}
	return nil
}

func (g *guesses) wrong(who string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.by[who]
	if g.by == nil {
		g.by = map[string]guessed{}
	}
	if now.Sub(h.since) >= guessEvery {
		h = guessed{since: now}
	}
	h.wrong++
	g.by[who] = h
}
