// Package peers connects coordinators: one listener for the sessions of the
// others, one session to each of them, opened when it is needed and again when it
// has ended. A stream of a session carries Raft's own protocol, one call, or one
// question to an agent. It knows neither Raft nor what a call means.
//
// A peer is who its certificate says it is: a coordinator of this mesh. Whether
// it is one of the group, the handlers decide.
package peers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

const (
	// callTimeout bounds one call without a deadline of its own, at both ends.
	callTimeout = 10 * time.Second
	// openTimeout bounds the first message of a stream.
	openTimeout = 5 * time.Second
	// restAfter is how long a peer that was not reached is left alone.
	restAfter = 100 * time.Millisecond
	// maxCall is the largest call: a command of 10 MiB.
	maxCall = 12 << 20
	// maxSessions and maxStreams bound what others can make us hold.
	maxSessions = 64
	maxStreams  = 256
	// backlog is how many of Raft's streams wait to be accepted.
	backlog = 16
)

// Handler answers what other coordinators ask. Its methods are called by many
// goroutines; ctx ends when the caller has gone or we stop.
type Handler interface {
	// Member reports whether the coordinator of that name may speak Raft to us.
	Member(name string) bool
	// Call answers a call of the coordinator named from.
	Call(ctx context.Context, from string, c *pb.PeerCall) *pb.PeerReply
	// Artifact answers one pull of an artifact, by a member.
	Artifact(ctx context.Context, ch *mesh.Channel)
	// Query asks an agent that is connected here; each is told its events.
	Query(ctx context.Context, rack string, q *pb.Query, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error)
}

// Config is what Peers need.
type Config struct {
	Name      string // of this coordinator
	Addr      string // host:port (UDP) to listen at
	Advertise string // host:port at which the others reach it; default: Addr as bound
	Server    *tls.Config
	Client    *tls.Config    // both must demand the role of a coordinator
	Denied    *trust.Denials // whose sessions Cut ends; nil: nobody's
	Log       *slog.Logger
}

// Peers are the other coordinators. All methods are safe for concurrent use.
type Peers struct {
	conf     Config
	listener *mesh.Listener
	raft     chan net.Conn
	streams  chan struct{} // slots
	closed   chan struct{}
	close    func() error
	cuts     chan struct{} // one waits at most

	mu     sync.Mutex
	byAt   map[string]*peer
	served map[mesh.Session]bool
}

// peer is the way to one coordinator. Each has a lock of its own: while one is
// dialled that does not answer, the others are reached.
type peer struct {
	mu      sync.Mutex
	session mesh.Session
	failed  time.Time // when it was last not reached, and why
	err     error
}

// Listen opens the socket. Call Run, and Close.
func Listen(c Config) (*Peers, error) {
	l, err := mesh.ListenPeers(c.Addr, c.Server, nil)
	if err != nil {
		return nil, err
	}
	if c.Advertise == "" {
		c.Advertise = l.Addr()
	}
	p := &Peers{
		conf: c, listener: l, raft: make(chan net.Conn, backlog), streams: make(chan struct{}, maxStreams),
		closed: make(chan struct{}), byAt: map[string]*peer{}, cuts: make(chan struct{}, 1), served: map[mesh.Session]bool{},
	}
	p.close = sync.OnceValue(p.shut)
	return p, nil
}

// Addr is where the others reach this coordinator.
func (p *Peers) Addr() string { return p.conf.Advertise }

// Close ends all sessions. It may be called again.
func (p *Peers) Close() error { return p.close() }

func (p *Peers) shut() error {
	close(p.closed)
	err := p.listener.Close()
	for _, s := range p.sessions() {
		s.Close("the coordinator stops")
	}
	return err
}

// Run serves the others until ctx ends or Peers are closed.
func (p *Peers) Run(ctx context.Context, h Handler) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sessions.Go(func() { p.cutter(ctx) })
	slots := make(chan struct{}, maxSessions)
	for {
		session, err := p.listener.Accept(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-p.closed:
			return nil
		default:
		}
		if err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
			sessions.Go(func() {
				defer func() { <-slots }()
				p.serve(ctx, session, h)
			})
		default:
			session.Close("too many sessions")
		}
	}
}

// serve takes the streams of one session.
func (p *Peers) serve(ctx context.Context, session mesh.Session, h Handler) {
	defer session.Close("session over")
	id, err := trust.IdentityOf(session.Peer())
	if err != nil || id.Role != trust.Coordinator {
		p.conf.Log.Warn("a session that is no coordinator's", obs.Addr, session.Remote(), obs.Err, err)
		return
	}
	defer context.AfterFunc(ctx, func() { session.Close("the coordinator stops") })()
	defer p.serving(session)()
	p.cut(session) // a denial that came since the handshake has not met it yet
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		stream, err := session.Accept(ctx)
		if err != nil {
			return
		}
		select {
		case p.streams <- struct{}{}:
			streams.Go(func() {
				defer func() { <-p.streams }()
				p.stream(ctx, served{session, stream, id.Name}, h)
			})
		default:
			_ = stream.Close()
		}
	}
}

// served is a stream that another coordinator has opened.
type served struct {
	session mesh.Session
	stream  mesh.Stream
	from    string
}

func (p *Peers) stream(ctx context.Context, s served, h Handler) {
	ch := mesh.NewChannel(s.stream, maxCall)
	keep := false
	defer func() {
		if !keep {
			_ = s.stream.Close()
		}
	}()
	var open pb.PeerOpen
	if ch.SetReceiveDeadline(time.Now().Add(openTimeout)) != nil || ch.Receive(&open) != nil {
		return
	}
	switch open.GetKind() {
	case pb.PeerOpen_RAFT:
		s.stream = ch.Stream()
		keep = p.hand(ctx, s, h)
	case pb.PeerOpen_CALL:
		p.answer(ctx, s, ch, h)
	case pb.PeerOpen_QUERY:
		p.ask(ctx, s, ch, h)
	case pb.PeerOpen_ARTIFACT:
		if h.Member(s.from) {
			h.Artifact(ctx, ch)
		}
	case pb.PeerOpen_KIND_UNSPECIFIED:
	}
}

// hand gives a stream to Raft, and waits until Raft is done with it.
func (p *Peers) hand(ctx context.Context, s served, h Handler) bool {
	if !h.Member(s.from) {
		p.conf.Log.Warn("a coordinator that is not of the group", obs.Peer, s.from, obs.Addr, s.session.Remote())
		return false
	}
	c := newConn(s.stream, p.conf.Advertise, s.session.Remote())
	if c.SetDeadline(time.Time{}) != nil {
		return false
	}
	select {
	case p.raft <- c:
	case <-ctx.Done():
		return false
	case <-p.closed:
		return false
	}
	select {
	case <-c.done:
	case <-s.session.Done():
	}
	return true
}

func (p *Peers) answer(ctx context.Context, s served, ch *mesh.Channel, h Handler) {
	var call pb.PeerCall
	if ch.SetReceiveDeadline(time.Now().Add(callTimeout)) != nil || ch.Receive(&call) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := ch.Send(h.Call(ctx, s.from, &call)); err != nil {
		p.conf.Log.Debug("answering a coordinator", obs.Peer, s.from, obs.Err, err)
	}
}

func (p *Peers) ask(ctx context.Context, s served, ch *mesh.Channel, h Handler) {
	var q pb.PeerQuery
	if ch.SetReceiveDeadline(time.Now().Add(openTimeout)) != nil || ch.Receive(&q) != nil {
		return
	}
	done, err := h.Query(ctx, q.GetRack(), q.GetQuery(), func(e *pb.QueryEvent) error { return ch.Send(e) })
	if done == nil {
		done = &pb.QueryEvent_Done{}
	}
	if err != nil {
		done.Kind, done.Error, done.Hint = string(fault.KindOf(err)), err.Error(), fault.HintOf(err)
	}
	if err := ch.Send(&pb.QueryEvent{Body: &pb.QueryEvent_Done_{Done: done}}); err != nil {
		p.conf.Log.Debug("answering a coordinator", obs.Peer, s.from, obs.Err, err)
	}
}

// open opens a stream to the coordinator at addr.
func (p *Peers) open(ctx context.Context, addr string, k pb.PeerOpen_Kind) (mesh.Session, mesh.Stream, error) {
	session, err := p.session(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	stream, err := session.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := mesh.NewChannel(stream, maxCall).Send(&pb.PeerOpen{Kind: k}); err != nil {
		return nil, nil, errors.Join(err, stream.Close())
	}
	return session, stream, nil
}

// session is the living session to addr.
func (p *Peers) session(ctx context.Context, addr string) (mesh.Session, error) {
	p.mu.Lock()
	one := p.byAt[addr]
	if one == nil {
		one = &peer{}
		p.byAt[addr] = one
	}
	p.mu.Unlock()
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.session != nil && one.session.Err() == nil {
		return one.session, nil
	}
	select {
	case <-p.closed:
		return nil, net.ErrClosed
	default:
	}
	if time.Since(one.failed) < restAfter {
		return nil, one.err // all who waited for that dial share its end
	}
	session, err := mesh.DialPeer(ctx, addr, p.conf.Client)
	if err != nil {
		one.failed, one.err = time.Now(), err
		return nil, err
	}
	one.session = session
	return session, nil
}

// Connect opens a session to the coordinator at addr for the caller alone: what is
// carried in bulk must not be before Raft's messages.
func (p *Peers) Connect(ctx context.Context, addr string) (mesh.Session, error) {
	return mesh.DialPeer(ctx, addr, p.conf.Client)
}

// Call asks the coordinator at addr. An error means that there is no answer; it
// is of kind Unavailable if the call was certainly not heard, and of kind Timeout
// if it may have been.
func (p *Peers) Call(ctx context.Context, addr string, c *pb.PeerCall) (*pb.PeerReply, error) {
	op := "call the coordinator at " + addr
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, stream, err := p.open(ctx, addr, pb.PeerOpen_CALL)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	defer func() { _ = stream.Close() }()
	defer context.AfterFunc(ctx, func() { _ = stream.Close() })()
	ch := mesh.NewChannel(stream, maxCall)
	if err = ch.Send(c); err != nil {
		return nil, fault.Wrap(fault.Timeout, op, err)
	}
	var reply pb.PeerReply
	if err = ch.Receive(&reply); err != nil {
		return nil, fault.Wrap(fault.Timeout, op, errors.Join(ctx.Err(), err))
	}
	return &reply, nil
}

// Query asks the agent of a rack that is connected to the coordinator at addr.
func (p *Peers) Query(ctx context.Context, addr string, q *pb.PeerQuery, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	op := "ask through the coordinator at " + addr
	_, stream, err := p.open(ctx, addr, pb.PeerOpen_QUERY)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	defer func() { _ = stream.Close() }()
	defer context.AfterFunc(ctx, func() { _ = stream.Close() })()
	ch := mesh.NewChannel(stream, maxCall)
	if err = ch.Send(q); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	for {
		var e pb.QueryEvent
		if err = ch.Receive(&e); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, fault.Wrap(fault.KindOf(err), op, err)
		}
		if done := e.GetDone(); done != nil {
			return done, nil
		}
		if err = each(&e); err != nil {
			return nil, err
		}
	}
}

// Dial opens a stream for Raft to the coordinator at addr, within timeout.
func (p *Peers) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	session, stream, err := p.open(ctx, addr, pb.PeerOpen_RAFT)
	if err != nil {
		return nil, err
	}
	return newConn(stream, p.conf.Advertise, session.Remote()), nil
}

// Accept waits for the next stream that another coordinator opens for Raft.
func (p *Peers) Accept() (net.Conn, error) {
	select {
	case c := <-p.raft:
		return c, nil
	case <-p.closed:
		return nil, fmt.Errorf("accept: %w", net.ErrClosed)
	}
}

// conn is a stream as Raft wants it.
type conn struct {
	mesh.Stream
	local, remote address
	once          sync.Once
	done          chan struct{}
}

func newConn(s mesh.Stream, local, remote string) *conn {
	return &conn{Stream: s, local: address(local), remote: address(remote), done: make(chan struct{})}
}

func (c *conn) Close() error {
	err := io.ErrClosedPipe
	c.once.Do(func() {
		err = c.Stream.Close()
		close(c.done)
	})
	return err
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

type address string

func (address) Network() string  { return "quic" }
func (a address) String() string { return string(a) }
