package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// TCP before an address dials over TLS and TCP instead of QUIC, for sites that block
// UDP: "tcp://c1.example:7445". Streams share one connection there, so a lost packet
// holds up all of them, and nothing survives a change of address.
const TCP = "tcp://"

const (
	// tcpStreams is how many streams a peer may have open: each may have us buffer
	// 256 KiB, so a session is bounded as one over QUIC is.
	tcpStreams   = maxSessionWindow / (256 << 10)
	tcpHandshake = 5 * time.Second
	// tcpPending is how many handshakes are under way at once.
	tcpPending = 128
	// tcpLinger is how long a stream that we have closed may stay open at the other
	// end before it is reset.
	tcpLinger = 10 * time.Second
)

// dialTCP is Dial over TLS and TCP.
func (k kind) dialTCP(ctx context.Context, addr string, conf *tls.Config) (Session, error) {
	op := "connect to " + TCP + addr
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fault.Wrap(kindOf(err), op, err)
	}
	conn := tls.Client(raw, named(k.offer(conf), addr))
	if err = conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fault.Wrap(kindOfTLS(err), op, err), raw.Close())
	}
	mux, err := yamux.Client(conn, k.mux(k.keepAlive > 0))
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Internal, op, err), conn.Close())
	}
	return newTCPSession(conn, mux, conf.Time), nil
}

func (k kind) mux(keepAlive bool) *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = maxStreams // Open never waits for it: it has as many slots
	c.EnableKeepAlive = keepAlive
	if keepAlive {
		c.KeepAliveInterval = k.keepAlive
	}
	c.StreamOpenTimeout, c.StreamCloseTimeout = k.idle, tcpLinger
	c.LogOutput = io.Discard
	return c
}

// kindOfTLS tells a certificate that is not believed from a network that fails.
func kindOfTLS(err error) fault.Kind {
	var alert tls.AlertError
	var verify *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case errors.As(err, &alert), errors.As(err, &verify), fault.Is(err, fault.Untrusted):
		return fault.Untrusted
	case errors.As(err, &op) && op.Op == "remote error": // an alert of the peer's
		return fault.Untrusted
	default:
		return kindOf(err)
	}
}

// TCPListener accepts sessions over TLS and TCP.
type TCPListener struct {
	socket   net.Listener
	conf     *tls.Config
	kind     kind
	limits   *limits
	sessions chan Session
	closing  context.Context
	close    context.CancelFunc
	working  sync.WaitGroup
}

// ListenTCP is Listen over TLS and TCP: at addr (host:port), for those who dial with
// TCP before their address. Call Close.
func ListenTCP(addr string, conf *tls.Config) (*TCPListener, error) {
	socket, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "listen at "+TCP+addr, err)
	}
	k := ofAgents()
	l := &TCPListener{socket: socket, conf: k.offer(conf), kind: k, limits: newLimits(), sessions: make(chan Session)}
	l.closing, l.close = context.WithCancel(context.Background())
	l.working.Go(l.accept)
	return l, nil
}

// Addr is the address that agents dial, without TCP before it.
func (l *TCPListener) Addr() string { return l.socket.Addr().String() }

// Accept waits for the next session whose TLS handshake is complete.
func (l *TCPListener) Accept(ctx context.Context) (Session, error) {
	select {
	case s := <-l.sessions:
		return s, nil
	case <-ctx.Done():
		return nil, fault.Wrap(fault.Canceled, "accept a session", ctx.Err())
	case <-l.closing.Done():
		return nil, fault.New(fault.Unavailable, "accept a session", "the listener is closed")
	}
}

// Close ends the listener, and waits for what it does. Sessions that were accepted go
// on. It may be called again.
func (l *TCPListener) Close() error {
	l.close()
	err := l.socket.Close()
	l.working.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fault.Wrap(fault.Unavailable, "stop listening", err)
}

// accept begins a handshake with everybody, each on its own: one that is slow holds up
// nobody.
func (l *TCPListener) accept() {
	slots := make(chan struct{}, tcpPending)
	for l.closing.Err() == nil {
		conn, err := l.socket.Accept()
		if err != nil {
			select { // out of file descriptors, or closed
			case <-time.After(50 * time.Millisecond):
			case <-l.closing.Done():
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		if !l.limits.begin.take(time.Now()) {
			<-slots
			_ = conn.Close()
			continue
		}
		l.working.Go(func() {
			defer func() { <-slots }()
			l.welcome(conn)
		})
	}
}

func (l *TCPListener) welcome(raw net.Conn) {
	ctx, cancel := context.WithTimeout(l.closing, tcpHandshake)
	defer cancel()
	conn := tls.Server(raw, l.conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return
	}
	mux, err := yamux.Server(conn, l.kind.mux(false))
	if err != nil {
		_ = conn.Close()
		return
	}
	s := newTCPSession(conn, mux, l.conf.Time)
	select {
	case l.sessions <- s:
	case <-ctx.Done():
		s.Close("too many sessions")
	}
}

// tcpSession is a TLS connection that is shared by streams.
type tcpSession struct {
	conn  *tls.Conn
	mux   *yamux.Session
	ours  chan struct{} // slots of streams that we open
	their chan struct{} // and the peer

	mu  sync.Mutex
	why error
}

func newTCPSession(conn *tls.Conn, mux *yamux.Session, now func() time.Time) *tcpSession {
	s := &tcpSession{conn: conn, mux: mux, ours: make(chan struct{}, tcpStreams), their: make(chan struct{}, tcpStreams)}
	ctx, cancel := context.WithCancel(context.Background())
	endWith(ctx, s, now)
	go func() { // yamux has no call-back
		<-mux.CloseChan()
		cancel()
		_ = conn.Close()
	}()
	return s
}

func (s *tcpSession) Open(ctx context.Context) (Stream, error) {
	const op = "open stream"
	select {
	case s.ours <- struct{}{}:
	case <-ctx.Done():
		return nil, fault.Wrap(kindOf(ctx.Err()), op, ctx.Err())
	case <-s.mux.CloseChan():
		return nil, fault.Wrap(fault.Unavailable, op, s.Err())
	}
	st, err := s.mux.OpenStream()
	if err != nil {
		<-s.ours
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	return newTCPStream(st, s.ours), nil
}

func (s *tcpSession) Accept(ctx context.Context) (Stream, error) {
	const op = "accept stream"
	st, err := s.mux.AcceptStreamWithContext(ctx)
	if err != nil {
		return nil, fault.Wrap(kindOf(err), op, err)
	}
	select {
	case s.their <- struct{}{}:
		return newTCPStream(st, s.their), nil
	default: // one of us never does that
		s.Close("too many streams")
		return nil, fault.New(fault.Garbage, op, "the peer has opened too many")
	}
}

func (s *tcpSession) Close(reason string) {
	s.ended(errors.New("we have ended it: " + reason))
	_ = s.mux.Close()
}

// ended keeps the first reason.
func (s *tcpSession) ended(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		s.why = why
	}
}

func (s *tcpSession) Done() <-chan struct{} { return s.mux.CloseChan() }

func (s *tcpSession) Err() error {
	if !s.mux.IsClosed() {
		return nil
	}
	s.ended(errors.New("the connection has ended"))
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

func (s *tcpSession) Peer() *x509.Certificate { return s.Chain()[0] }

func (s *tcpSession) Chain() []*x509.Certificate { return s.conn.ConnectionState().PeerCertificates }

func (s *tcpSession) Protocol() string { return s.conn.ConnectionState().NegotiatedProtocol }

func (s *tcpSession) Export(label string, size int) ([]byte, error) {
	state := s.conn.ConnectionState()
	secret, err := state.ExportKeyingMaterial(label, nil, size)
	return secret, fault.Wrap(fault.Internal, "export a secret of the session", err)
}

func (s *tcpSession) Remote() string { return TCP + s.conn.RemoteAddr().String() }

// tcpStream closes both directions: yamux's own Close ends only the sending one, and
// leaves a Read waiting.
type tcpStream struct {
	*yamux.Stream
	close func() error
}

func newTCPStream(st *yamux.Stream, slots chan struct{}) tcpStream {
	return tcpStream{Stream: st, close: sync.OnceValue(func() error {
		defer func() { <-slots }()
		return errors.Join(st.Close(), st.SetReadDeadline(time.Unix(1, 0)))
	})}
}

func (s tcpStream) Close() error { return s.close() }

// isTCP is the address behind TCP.
func isTCP(addr string) (rest string, is bool) { return strings.CutPrefix(addr, TCP) }
