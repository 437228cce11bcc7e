package mesh_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// port is a listener that accepts whom its certificate believes.
type port struct {
	*mesh.Listener
	t    testing.TB
	cert tls.Certificate
	pool *x509.CertPool
}

func newPort(tb testing.TB) *port {
	tb.Helper()
	p := &port{t: tb}
	p.cert, p.pool = self(tb, time.Hour)
	var err error
	p.Listener, err = mesh.Listen("127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{p.cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.pool,
	}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = p.Close() })
	return p
}

func (p *port) dial(ctx context.Context, certs ...tls.Certificate) (mesh.Session, error) {
	s, err := mesh.Dial(ctx, p.Addr(), &tls.Config{MinVersion: tls.VersionTLS13, Certificates: certs, RootCAs: p.pool})
	if err == nil {
		p.t.Cleanup(func() { s.Close("test over") })
	}
	return s, err
}

// pair is a session of one who is believed.
func (p *port) pair() (client, server mesh.Session) {
	p.t.Helper()
	client, err := p.dial(p.t.Context(), p.cert)
	if err != nil {
		p.t.Fatal(err)
	}
	if server, err = p.Accept(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	return client, server
}

// works sees that messages pass.
func works(t *testing.T, client, server mesh.Session) {
	t.Helper()
	near, err := client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = near.Close() }()
	if err = mesh.NewChannel(near, 0).Send(&pb.Ping{SentUnixMs: 7}); err != nil {
		t.Fatal(err)
	}
	far, err := server.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	var ping pb.Ping
	if err := mesh.NewChannel(far, 0).Receive(&ping); err != nil || ping.GetSentUnixMs() != 7 {
		t.Errorf("heard %v, %v", &ping, err)
	}
}

// Whatever a peer sends, we hold no more of it than the windows allow, and it opens no
// more streams than it may.
func TestAPeerThatPinsMemory(t *testing.T) {
	p := newPort(t)
	good, goodServer := p.pair()
	bad, _ := p.pair()
	sent := 0
	for range mesh.MaxStreams {
		s, err := bad.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, _ := s.Write(make([]byte, 1<<20))
		sent += n
	}
	if sent > mesh.FirstWindow {
		t.Errorf("%d bytes were taken that nobody reads, the window is %d", sent, mesh.FirstWindow)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := bad.Open(ctx); err == nil {
		t.Error("it has opened one stream too many")
	}
	works(t, good, goodServer)
}

// Datagrams that are no QUIC, or look like it, cost the others nothing.
func TestGarbageOnThePort(t *testing.T) {
	p := newPort(t)
	good, goodServer := p.pair()
	socket, err := net.Dial("udp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	packet := make([]byte, 1200)
	for i := range 2000 {
		_, _ = rand.Read(packet)
		if i%2 == 0 {
			packet[0] |= 0xc0 // a long header
		}
		if i%4 == 0 {
			copy(packet[1:], []byte{0, 0, 0, 1}) // of QUIC 1
		}
		_, _ = socket.Write(packet[:1+i%len(packet)])
	}
	works(t, good, goodServer)
	works2, works2Server := p.pair()
	works(t, works2, works2Server)
}

// Beyond the rate handshakes are refused, at once and with a reason; those who are in
// feel nothing. Below it, who knocks in a crowd proves its address and comes in.
func TestTooManyHandshakes(t *testing.T) {
	p := newPort(t)
	good, goodServer := p.pair()
	p.Limit(3, 0)
	in, refused := 0, 0
	for range 20 {
		_, err := p.dial(t.Context(), p.cert)
		switch {
		case err == nil:
			in++
		case fault.Is(err, fault.Unavailable) && strings.Contains(err.Error(), "CONNECTION_REFUSED"):
			refused++
		default:
			t.Errorf("it is told %v", err)
		}
	}
	if in < 3 || refused < 10 {
		t.Errorf("%d came in, %d were refused", in, refused)
	}
	for range in { // they wait to be accepted
		if _, err := p.Accept(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	works(t, good, goodServer)
	p.Limit(1000, 0) // everybody must prove its address
	another, server := p.pair()
	works(t, another, server)
}

// Who can't prove who it is learns why, and nobody else feels it.
func TestCertificatesThatAreNotBelieved(t *testing.T) {
	p := newPort(t)
	good, goodServer := p.pair()
	foreign, _ := self(t, time.Hour)
	expired, _ := self(t, -time.Minute)
	for name, c := range map[string]struct {
		certs []tls.Certificate
		says  string
	}{
		"none":               {nil, "certificate required"},
		"of a foreign mesh":  {[]tls.Certificate{foreign}, "certificate"},
		"one that has ended": {[]tls.Certificate{expired}, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := p.dial(t.Context(), c.certs...)
			if err == nil { // TLS 1.3: the refusal comes later
				<-s.Done()
				err = s.Err()
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("it is told %v", err)
			}
		})
	}
	works(t, good, goodServer)

	// And a server that is not the one that was meant is not spoken to.
	_, other := self(t, time.Hour)
	_, err := mesh.Dial(t.Context(), p.Addr(), &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{p.cert}, RootCAs: other})
	if !fault.Is(err, fault.Untrusted) {
		t.Errorf("a foreign server: %v", err)
	}
}

// A peer that never reads is given up; the writer does not wait for the idle timeout.
func TestAPeerThatNeverReads(t *testing.T) {
	p := newPort(t)
	client, _ := p.pair()
	s, err := client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err = s.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err = s.Write(make([]byte, 8<<20))
	var slow net.Error
	if !errors.As(err, &slow) || !slow.Timeout() {
		t.Errorf("the write ended with %v", err)
	}
}
