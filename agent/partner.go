package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

// partner is the other agent of the rack, asked directly.
type partner interface {
	// Ask asks one question. The answer is the partner's own: its certificate was
	// verified.
	Ask(ctx context.Context, call *pb.PairCall) (*pb.PairReply, error)
}

// neighbours are the other agents of the site. What they see of the partner is a
// hint that can only keep us from taking the rack over.
type neighbours interface {
	// Alive reports whether somebody has heard of an agent lately.
	Alive(agent fleet.AgentName) bool
}

const (
	shareTimeout = 5 * time.Second
	maxAsked     = 16 // questions of the partner that are answered at once
)

// pairLink is the way to the other agent of the pair: each listens, and each dials
// for its own questions. It is safe for concurrent use.
type pairLink struct {
	pair           Pair
	rack           fleet.RackName
	server, client *tls.Config

	mu   sync.Mutex
	conn mesh.Session // nil: none is open
}

func newPairLink(cfg Config, endpoint *trust.Endpoint) *pairLink {
	return &pairLink{pair: cfg.Pair, rack: cfg.Rack, server: endpoint.Agents(""), client: endpoint.Agents(string(cfg.Pair.Name))}
}

// known refuses every agent of the site but the partner.
func (l *pairLink) known(conn mesh.Session) error {
	id, err := trust.IdentityOf(conn.Peer())
	if err == nil && (id.Name != string(l.pair.Name) || id.Rack != string(l.rack)) {
		err = fault.New(fault.Untrusted, "meet the other agent", fmt.Sprintf("it is %s of rack %s, not %s of rack %s", id, id.Rack, l.pair.Name, l.rack))
	}
	if err != nil {
		conn.Close("not the other agent of the rack")
	}
	return err
}

// session is the open one, or a new one.
func (l *pairLink) session(ctx context.Context) (mesh.Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil && l.conn.Err() == nil {
		return l.conn, nil
	}
	conn, err := mesh.Dial(ctx, l.pair.Peer, l.client)
	if err != nil {
		return nil, err
	}
	if err = l.known(conn); err != nil {
		return nil, err
	}
	l.conn = conn
	return conn, nil
}

// drop closes a session that has not answered: the next question dials anew.
func (l *pairLink) drop(conn mesh.Session) {
	conn.Close("no answer")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == conn {
		l.conn = nil
	}
}

// Ask implements partner. Without a deadline in ctx it waits shareTimeout.
func (l *pairLink) Ask(ctx context.Context, call *pb.PairCall) (*pb.PairReply, error) {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	conn, err := l.session(ctx)
	if err != nil {
		return nil, err
	}
	reply, err := ask(ctx, conn, call)
	if err != nil {
		l.drop(conn)
	}
	return reply, err
}

func ask(ctx context.Context, conn mesh.Session, call *pb.PairCall) (*pb.PairReply, error) {
	stream, err := conn.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }()
	deadline, _ := ctx.Deadline()
	ch := mesh.NewChannel(stream, 0)
	if err = ch.SetReceiveDeadline(deadline); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = ch.SetReceiveDeadline(time.Unix(1, 0)) })()
	if err = ch.Send(call); err != nil {
		return nil, err
	}
	reply := &pb.PairReply{}
	if err = ch.Receive(reply); err != nil {
		return nil, err
	}
	if reply.GetKind() != "" {
		return reply, fault.New(fault.Kind(reply.GetKind()), "ask the other agent", reply.GetError())
	}
	return reply, nil
}

// serve answers the partner until ctx ends.
func (l *pairLink) serve(ctx context.Context, answer func(context.Context, *pb.PairCall) *pb.PairReply) error {
	listener, err := mesh.Listen(l.pair.Listen, l.server, nil)
	if err != nil {
		return fault.Wrap(fault.BadInput, "listen for the other agent of the rack", err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	defer l.leave()
	for {
		conn, err := listener.Accept(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		if l.known(conn) != nil {
			continue
		}
		serving.Go(func() { answerAll(ctx, conn, answer) })
	}
}

func (l *pairLink) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		l.conn.Close("the agent leaves")
	}
}

// answerAll answers the questions of one session.
func answerAll(ctx context.Context, conn mesh.Session, answer func(context.Context, *pb.PairCall) *pb.PairReply) {
	defer context.AfterFunc(ctx, func() { conn.Close("the agent leaves") })()
	defer conn.Close("session over")
	var answering sync.WaitGroup
	defer answering.Wait()
	slots := make(chan struct{}, maxAsked)
	for {
		stream, err := conn.Accept(ctx)
		if err != nil {
			return
		}
		slots <- struct{}{}
		answering.Go(func() {
			defer func() { <-slots; _ = stream.Close() }()
			ch := mesh.NewChannel(stream, 0)
			call := &pb.PairCall{}
			if ch.SetReceiveDeadline(time.Now().Add(shareTimeout)) == nil && ch.Receive(call) == nil {
				_ = ch.Send(answer(ctx, call)) // who is gone asks again
			}
		})
	}
}

// servePartner answers the other agent of the rack, if there is one.
func (a *Agent) servePartner(ctx context.Context) error {
	if a.pairLink == nil {
		return nil
	}
	a.log.Info("listening for the other agent of the rack", obs.Addr, a.cfg.Pair.Listen, obs.Peer, string(a.cfg.Pair.Name))
	return a.pairLink.serve(ctx, a.answerPartner)
}
