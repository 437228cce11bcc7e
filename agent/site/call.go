package site

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

const (
	// callTimeout bounds one call at either end; a caller's context may end it sooner.
	callTimeout = 10 * time.Second
	dialTimeout = 2 * time.Second // of one address
	openTimeout = 5 * time.Second // of a stream's first message
	maxCall     = 1 << 20         // bytes of a call or an answer
	maxSessions = 512             // that others have opened
	maxOfOne    = 12              // of them, one agent's: calls, and what is carried in bulk
	maxStreams  = 256             // that are answered at once
)

// way is our session to one agent, opened when it is needed. Each has a lock of its
// own: while one is dialled that does not answer, the others are reached.
type way struct {
	dialling sync.Mutex
	mu       sync.Mutex
	session  mesh.Session
}

// drop ends the session, if there is one.
func (w *way) drop(reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.session != nil {
		w.session.Close(reason)
		w.session = nil
	}
}

func (w *way) living() mesh.Session {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.session == nil || w.session.Err() != nil {
		return nil
	}
	return w.session
}

// Ask asks an agent of the site, which has proven to be it, and waits at most 10 s.
// What it answers with a kind of failure is an error of that kind. Without an answer
// the error is of kind Unavailable if the call was certainly not heard, and of kind
// Timeout if it may have been.
func (s *Site) Ask(ctx context.Context, agent fleet.AgentName, c *pb.SiteCall) (*pb.SiteReply, error) {
	op := "ask agent " + string(agent)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	session, err := s.session(ctx, agent)
	if err != nil {
		return nil, fault.Wrap(fault.KindOf(err), op, err)
	}
	reply, err := ask(ctx, session, c)
	if err != nil {
		s.forget(agent, session) // the next call tries another one
		return nil, fault.Wrap(fault.KindOf(err), op, err)
	}
	if reply.GetKind() != "" {
		return nil, fault.Wrap(fault.Kind(reply.GetKind()), op, wire.FromFault(reply.GetKind(), reply.GetError(), reply.GetHint()))
	}
	return reply, nil
}

// Ping asks an agent whether it lives, over a session that is opened for it: an
// answer proves that it can be reached now, and that it is the one.
func (s *Site) Ping(ctx context.Context, agent fleet.AgentName) (*pb.SitePong, error) {
	op := "ping agent " + string(agent)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	session, err := s.Dial(ctx, agent)
	if err != nil {
		return nil, fault.Wrap(fault.KindOf(err), op, err)
	}
	defer session.Close("pinged")
	reply, err := ask(ctx, session, &pb.SiteCall{Body: &pb.SiteCall_Ping{Ping: &pb.SitePing{}}})
	if err == nil && reply.GetPong() == nil {
		err = fault.New(fault.Garbage, "", "it answers a ping with "+reply.GetError())
	}
	return reply.GetPong(), fault.Wrap(fault.KindOf(err), op, err)
}

func ask(ctx context.Context, session mesh.Session, c *pb.SiteCall) (*pb.SiteReply, error) {
	stream, err := session.Open(ctx)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "", err)
	}
	defer func() { _ = stream.Close() }()
	defer context.AfterFunc(ctx, func() { _ = stream.Close() })()
	ch := mesh.NewChannel(stream, maxCall)
	if err = ch.Send(&pb.StreamOpen{Kind: pb.StreamOpen_SITE}); err != nil {
		return nil, err
	}
	if err = ch.Send(c); err != nil {
		return nil, fault.Wrap(fault.Timeout, "", errors.Join(ctx.Err(), err))
	}
	var reply pb.SiteReply
	if deadline, ok := ctx.Deadline(); ok {
		if err = ch.SetReceiveDeadline(deadline); err != nil {
			return nil, fault.Wrap(fault.Timeout, "", err)
		}
	}
	if err = ch.Receive(&reply); err != nil {
		return nil, fault.Wrap(fault.Timeout, "", errors.Join(ctx.Err(), err))
	}
	return &reply, nil
}

// session is the living session to an agent that is still believed.
func (s *Site) session(ctx context.Context, agent fleet.AgentName) (mesh.Session, error) {
	s.mu.Lock()
	w := s.dialled[agent]
	if w == nil {
		w = &way{}
		s.dialled[agent] = w
	}
	s.mu.Unlock()
	w.dialling.Lock()
	defer w.dialling.Unlock()
	if living := w.living(); living != nil {
		_, err := s.conf.Endpoint.Verify(living.Chain(), x509.ExtKeyUsageClientAuth, trust.Agent)
		if err == nil {
			return living, nil
		}
		w.drop("denied")
		return nil, err
	}
	fresh, err := s.Dial(ctx, agent)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.session = fresh
	w.mu.Unlock()
	return fresh, nil
}

// forget has the next call to an agent open a session of its own. This one ends when
// it is idle: others may still use it.
func (s *Site) forget(agent fleet.AgentName, session mesh.Session) {
	s.mu.Lock()
	w := s.dialled[agent]
	s.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.session == session {
		w.session = nil
	}
}

// Dial opens a session to an agent of the site for the caller alone, who closes it.
// What is carried in bulk goes over sessions of its own, so that no call waits for it.
func (s *Site) Dial(ctx context.Context, agent fleet.AgentName) (mesh.Session, error) {
	s.mu.Lock()
	addrs, meta := s.addresses(agent), s.heard[agent].meta
	s.mu.Unlock()
	if len(addrs) == 0 {
		return nil, fault.New(fault.NotFound, "reach agent "+string(agent), "nobody has told where it listens")
	}
	var errs []error
	for _, at := range addrs {
		session, err := s.dial(ctx, agent, at)
		if err == nil {
			s.compare(session, agent, meta)
			return session, nil
		}
		errs = append(errs, err)
	}
	return nil, fault.Wrap(fault.KindOf(errs[0]), "", errors.Join(errs...))
}

func (s *Site) dial(ctx context.Context, agent fleet.AgentName, at string) (mesh.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return mesh.DialSite(ctx, at, s.conf.Endpoint.Agents(string(agent)))
}

// compare warns of an agent that has proven another key than the one that is told in
// the gossip: somebody speaks there in its name, or it runs twice.
func (s *Site) compare(session mesh.Session, agent fleet.AgentName, meta *pb.SiteMeta) {
	sum := sha256.Sum256(session.Peer().RawSubjectPublicKeyInfo)
	if told := meta.GetKey(); len(told) > 0 && string(told) != string(sum[:keyPrefix]) {
		s.conf.Log.Warn("the gossip tells of another key than the agent has proven", obs.Peer, string(agent), obs.Addr, session.Remote())
	}
}

// serve takes the sessions of others until ctx ends.
func (s *Site) serve(ctx context.Context) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	slots, streams := make(chan struct{}, maxSessions), make(chan struct{}, maxStreams)
	for {
		session, err := s.listener.Accept(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
			sessions.Go(func() {
				defer func() { <-slots }()
				s.host(ctx, session, streams)
			})
		default:
			session.Close("too many sessions")
		}
	}
}

// host takes the streams of one session.
func (s *Site) host(ctx context.Context, session mesh.Session, slots chan struct{}) {
	defer session.Close("session over")
	id, err := trust.IdentityOf(session.Peer())
	if err != nil || !s.enter(id.Name) {
		session.Close("too many sessions of this agent")
		return
	}
	defer s.leave(id.Name)
	defer context.AfterFunc(ctx, func() { session.Close("the agent stops") })()
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		stream, err := session.Accept(ctx)
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
			streams.Go(func() {
				defer func() { <-slots }()
				s.stream(ctx, session, stream, id)
			})
		default:
			_ = stream.Close()
		}
	}
}

func (s *Site) enter(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guests[name] >= maxOfOne {
		return false
	}
	s.guests[name]++
	return true
}

func (s *Site) leave(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guests[name]--; s.guests[name] == 0 {
		delete(s.guests, name)
	}
}

// stream answers one stream. Its caller is judged anew: it may have been denied since
// the handshake.
func (s *Site) stream(ctx context.Context, session mesh.Session, stream mesh.Stream, from trust.Identity) {
	defer func() { _ = stream.Close() }()
	if _, err := s.conf.Endpoint.Verify(session.Chain(), x509.ExtKeyUsageClientAuth, trust.Agent); err != nil {
		s.conf.Log.Warn("an agent of the site is refused", obs.Peer, from.Name, obs.Err, err)
		session.Close("denied")
		return
	}
	ch := mesh.NewChannel(stream, maxCall)
	var open pb.StreamOpen
	if ch.SetReceiveDeadline(time.Now().Add(openTimeout)) != nil || ch.Receive(&open) != nil {
		return
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = stream.Close() })()
	watching.Go(func() { // ends with the session, or with us
		select {
		case <-session.Done():
			cancel()
		case <-ctx.Done():
		}
	})
	if open.GetKind() == pb.StreamOpen_SITE {
		s.answer(ctx, ch, from)
		return
	}
	if s.conf.Serve != nil {
		s.conf.Serve(ctx, from, open.GetKind(), ch)
	}
}

func (s *Site) answer(ctx context.Context, ch *mesh.Channel, from trust.Identity) {
	var call pb.SiteCall
	if ch.Receive(&call) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := s.reply(ctx, from, &call)
	if err != nil {
		reply = &pb.SiteReply{}
		reply.Kind, reply.Error, reply.Hint = wire.ToFault(err)
	}
	if err := ch.Send(reply); err != nil {
		s.conf.Log.Debug("answering an agent of the site", obs.Peer, from.Name, obs.Err, err)
	}
}

func (s *Site) reply(ctx context.Context, from trust.Identity, c *pb.SiteCall) (*pb.SiteReply, error) {
	switch {
	case c.GetPing() != nil:
		return &pb.SiteReply{Body: &pb.SiteReply_Pong{Pong: s.pong()}}, nil
	case c.GetBody() == nil || s.conf.Answer == nil:
		return nil, fault.New(fault.Unsupported, "answer an agent of the site", "this version does not know what it is asked").
			WithHint("run the same build of chiba on all agents")
	}
	return s.conf.Answer(ctx, from, c)
}

// pong is how we see ourselves and the site.
func (s *Site) pong() *pb.SitePong {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &pb.SitePong{Agent: string(s.conf.Agent), Role: s.me.GetRole(), Epoch: s.me.GetEpoch()}
	for name := range s.members {
		if s.heard[name].alive {
			p.Alive = append(p.Alive, string(name))
		}
	}
	return p
}
