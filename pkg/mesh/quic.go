package mesh

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

const (
	// quic-go's defaults would let one peer pin 15 MB of receive buffers.
	streamWindow     = 64 << 10
	maxStreamWindow  = 1 << 20
	maxSessionWindow = 2 << 20
	maxStreams       = 64

	connectionID = 12 // bytes
)

// kind is what differs between the two kinds of session.
type kind struct {
	alpn                       string
	handshake, idle, keepAlive time.Duration
	// still says that who dials sends little: it does not look for the largest packet
	// that passes, which takes several each way.
	still bool
}

// ofAgents are the sessions of agents. An agent's keepalive holds NAT bindings
// open; both ends sending them would double the cost for nothing. It comes after the
// ping of a link, every 15 s, so that it is sent only where nobody pings.
func ofAgents() kind {
	return kind{alpn: ALPN, handshake: 5 * time.Second, idle: 45 * time.Second, keepAlive: 20 * time.Second, still: true}
}

// ofPeers are the sessions among coordinators. A dead one must be noticed before
// an election is over: with quic-go's own idle time it would stay "open" for long.
func ofPeers() kind {
	return kind{alpn: PeerALPN, handshake: time.Second, idle: 3 * time.Second, keepAlive: time.Second}
}

// ofNewcomers are the short sessions in which a machine becomes an agent.
func ofNewcomers() kind {
	return kind{alpn: EnrollALPN, handshake: 5 * time.Second, idle: 30 * time.Second, keepAlive: 0}
}

// ofBulk are the sessions over which an agent pulls artifacts. One that is cut must
// be given up soon, so that another goes on.
func ofBulk() kind {
	return kind{alpn: BulkALPN, handshake: 5 * time.Second, idle: 10 * time.Second, keepAlive: 3 * time.Second}
}

// ofSite are the sessions among the agents of a site. They are many and mostly idle,
// so none is kept alive: one that nobody uses ends, and the next call opens another.
func ofSite() kind {
	return kind{alpn: SiteALPN, handshake: 2 * time.Second, idle: 15 * time.Second, keepAlive: 0}
}

func (k kind) config() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           k.handshake,
		MaxIdleTimeout:                 k.idle,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         maxStreamWindow,
		InitialConnectionReceiveWindow: streamWindow,
		MaxConnectionReceiveWindow:     maxSessionWindow,
		MaxIncomingStreams:             maxStreams,
		MaxIncomingUniStreams:          -1,
	}
}

// Dial opens a session to a coordinator at addr: host:port (UDP), or with TCP before it
// over TLS and TCP. The TLS
// configuration must verify the server and hold our certificate. A nil error
// does not mean that the server has accepted that certificate: in TLS 1.3 the
// refusal arrives later, so a caller counts as connected only when it has read
// the server's first message.
func Dial(ctx context.Context, addr string, conf *tls.Config) (Session, error) {
	return ofAgents().dial(ctx, addr, conf)
}

// DialPeer is Dial from one coordinator to another.
func DialPeer(ctx context.Context, addr string, conf *tls.Config) (Session, error) {
	return ofPeers().dial(ctx, addr, conf)
}

// DialBulk is Dial for a session over which artifacts are pulled.
func DialBulk(ctx context.Context, addr string, conf *tls.Config) (Session, error) {
	return ofBulk().dial(ctx, addr, conf)
}

// DialSite is Dial from one agent to another of its site.
func DialSite(ctx context.Context, addr string, conf *tls.Config) (Session, error) {
	return ofSite().dial(ctx, addr, conf)
}

// DialEnroll is Dial by a machine that is no agent yet.
func DialEnroll(ctx context.Context, addr string, conf *tls.Config) (Session, error) {
	return ofNewcomers().dial(ctx, addr, conf)
}

func (k kind) dial(ctx context.Context, addr string, conf *tls.Config) (Session, error) {
	if rest, is := isTCP(addr); is {
		return k.dialTCP(ctx, rest, conf)
	}
	op := "connect to " + addr
	remote, err := resolve(ctx, addr)
	if err != nil {
		return nil, fault.Wrap(kindOf(err), op, err)
	}
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	// quic.DialAddr would use connection ids of no length, and then takes a
	// stateless reset for a damaged packet: a coordinator that was killed and is
	// back would be missed until the idle timeout.
	transport := &quic.Transport{Conn: socket, ConnectionIDLength: connectionID}
	quicConf := k.config()
	quicConf.KeepAlivePeriod, quicConf.DisablePathMTUDiscovery = k.keepAlive, k.still
	conn, err := transport.Dial(ctx, remote, named(k.offer(conf), addr), quicConf)
	if err != nil {
		return nil, errors.Join(fault.Wrap(kindOf(err), op, err), transport.Close(), socket.Close())
	}
	context.AfterFunc(conn.Context(), func() {
		_ = transport.Close()
		_ = socket.Close()
	})
	return newSession(conn, conf.Time), nil
}

// resolve is net.ResolveUDPAddr within the time of ctx; like it, it prefers IPv4, but
// not where there is no way by it, as at a site with IPv6 alone.
func resolve(ctx context.Context, addr string) (*net.UDPAddr, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, err
	}
	found, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, err
	}
	return preferred(found, port, routable), nil
}

// preferred is the first address, IPv4 before IPv6, to which there is a way; without
// one it is the first of them, and dialing tells why.
func preferred(found []net.IPAddr, port int, routable func(*net.UDPAddr) bool) *net.UDPAddr {
	addrs := make([]*net.UDPAddr, len(found))
	for i, ip := range found {
		addrs[i] = &net.UDPAddr{IP: ip.IP, Port: port, Zone: ip.Zone}
	}
	slices.SortStableFunc(addrs, func(a, b *net.UDPAddr) int { return cmp.Compare(len(b.IP.To4()), len(a.IP.To4())) })
	if i := slices.IndexFunc(addrs, routable); i >= 0 {
		return addrs[i]
	}
	return addrs[0] // there is one, or looking it up was an error
}

// routable asks the kernel for a way; it sends nothing.
func routable(addr *net.UDPAddr) bool {
	conn, err := net.DialUDP("udp", nil, addr)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// named is conf with the name that a certificate of addr must have.
func named(conf *tls.Config, addr string) *tls.Config {
	if host, _, err := net.SplitHostPort(addr); err == nil && conf.ServerName == "" {
		conf.ServerName = host
	}
	return conf
}

func (k kind) offer(conf *tls.Config) *tls.Config {
	conf = conf.Clone()
	conf.NextProtos = []string{k.alpn}
	conf.MinVersion = tls.VersionTLS13
	return conf
}

// Listener accepts sessions on one UDP socket.
type Listener struct {
	transport *quic.Transport
	listener  *quic.Listener
	limits    *limits
	now       func() time.Time // by which certificates are judged; nil: time.Now
}

// Listen accepts sessions at addr (host:port, UDP). The TLS configuration must
// require and verify client certificates. resetKey lets a restarted process end
// stale connections at once; it is a secret of the process's, nil for none.
func Listen(addr string, conf *tls.Config, resetKey *[32]byte) (*Listener, error) {
	return ofAgents().listen(addr, conf, resetKey)
}

// ListenPeers accepts the sessions of other coordinators, as Listen does those of
// agents.
func ListenPeers(addr string, conf *tls.Config, resetKey *[32]byte) (*Listener, error) {
	return ofPeers().listen(addr, conf, resetKey)
}

// ListenSite accepts the sessions of the other agents of a site, as Listen does.
func ListenSite(addr string, conf *tls.Config) (*Listener, error) {
	return ofSite().listen(addr, conf, nil)
}

// ListenWithEnrolment is Listen with a second door in the same port, for those who
// offer EnrollALPN. newcomers is its TLS configuration, which requires any client
// certificate; who comes in by one door has no way to the other.
func ListenWithEnrolment(addr string, agents, newcomers *tls.Config, resetKey *[32]byte) (*Listener, error) {
	agents, newcomers = agents.Clone(), ofNewcomers().offer(newcomers)
	agents.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, EnrollALPN) {
			return newcomers, nil
		}
		return nil, nil // as the agents
	}
	return ofAgents().listen(addr, agents, resetKey)
}

func (k kind) listen(addr string, conf *tls.Config, resetKey *[32]byte) (*Listener, error) {
	udp, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, fault.Wrap(fault.BadInput, "listen at "+addr, err)
	}
	socket, err := net.ListenUDP("udp", udp)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "listen at "+addr, err)
	}
	// With ids of this length a ping is large enough to be answered by a reset.
	limits := newLimits()
	transport := &quic.Transport{
		Conn: socket, ConnectionIDLength: connectionID, VerifySourceAddress: limits.retry, ConnContext: limits.admit,
	}
	if resetKey != nil {
		key := quic.StatelessResetKey(*resetKey)
		transport.StatelessResetKey = &key
	}
	conf = k.offer(conf)
	if k.alpn == ALPN {
		conf.NextProtos = append(conf.NextProtos, BulkALPN) // at the same door, by the same certificates
	}
	quicConf := k.config()
	quicConf.AllowConnectionWindowIncrease = limits.widen
	listener, err := transport.Listen(conf, quicConf)
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Unavailable, "listen at "+addr, err), transport.Close(), socket.Close())
	}
	return &Listener{transport: transport, listener: listener, limits: limits, now: conf.Time}, nil
}

// Addr is the address that agents dial.
func (l *Listener) Addr() string { return l.listener.Addr().String() }

// Accept waits for the next session whose TLS handshake is complete.
func (l *Listener) Accept(ctx context.Context) (Session, error) {
	conn, err := l.listener.Accept(ctx)
	if err != nil {
		return nil, fault.Wrap(kindOf(err), "accept a session", err)
	}
	accepted(conn.Context())
	return newSession(conn, l.now), nil
}

// Close ends the listener and every session it has accepted.
func (l *Listener) Close() error {
	return errors.Join(l.listener.Close(), l.transport.Close(), l.transport.Conn.Close())
}

// session is a quic connection.
type session struct{ conn *quic.Conn }

func newSession(conn *quic.Conn, now func() time.Time) *session {
	s := &session{conn: conn}
	endWith(conn.Context(), s, now)
	return s
}

func (s *session) Open(ctx context.Context) (Stream, error) {
	st, err := s.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, fault.Wrap(kindOf(err), "open stream", err)
	}
	return stream{st}, nil
}

func (s *session) Accept(ctx context.Context) (Stream, error) {
	st, err := s.conn.AcceptStream(ctx)
	if err != nil {
		return nil, fault.Wrap(kindOf(err), "accept stream", err)
	}
	return stream{st}, nil
}

func (s *session) Close(reason string) { _ = s.conn.CloseWithError(0, reason) }

func (s *session) Done() <-chan struct{} { return s.conn.Context().Done() }

func (s *session) Err() error {
	if s.conn.Context().Err() == nil {
		return nil
	}
	return context.Cause(s.conn.Context())
}

// Peer is the leaf: both sides always require a certificate, so there is one.
func (s *session) Peer() *x509.Certificate { return s.Chain()[0] }

func (s *session) Chain() []*x509.Certificate { return s.conn.ConnectionState().TLS.PeerCertificates }

func (s *session) Protocol() string { return s.conn.ConnectionState().TLS.NegotiatedProtocol }

func (s *session) Export(label string, size int) ([]byte, error) {
	state := s.conn.ConnectionState().TLS
	secret, err := state.ExportKeyingMaterial(label, nil, size)
	return secret, fault.Wrap(fault.Internal, "export a secret of the session", err)
}

func (s *session) Remote() string { return s.conn.RemoteAddr().String() }

// stream closes both directions: quic's own Close ends only the sending one,
// and an unread direction would hold its place in the stream limit.
type stream struct{ *quic.Stream }

func (s stream) Close() error {
	s.CancelRead(0)
	return s.Stream.Close()
}

// Refused reports whether err says that the listener has too much to do just now: it
// lives, and is worth another try soon.
func Refused(err error) bool {
	transport, ok := errors.AsType[*quic.TransportError](err)
	return ok && transport.ErrorCode == quic.ConnectionRefused
}

// kindOf tells a refusal by TLS from a network that does not answer.
func kindOf(err error) fault.Kind {
	var transport *quic.TransportError
	var application *quic.ApplicationError
	switch {
	case errors.As(err, &transport) && transport.ErrorCode.IsCryptoError():
		return fault.Untrusted
	case errors.As(err, &application):
		return fault.Unavailable
	case errors.Is(err, context.Canceled):
		return fault.Canceled
	default:
		return fault.Unavailable
	}
}
