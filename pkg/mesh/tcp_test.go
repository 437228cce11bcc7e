package mesh_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// gate is a listener over TCP and who it believes.
type gate struct {
	*mesh.TCPListener
	t      *testing.T
	client *tls.Config
}

func newGate(t *testing.T, life time.Duration) *gate {
	t.Helper()
	cert, pool := self(t, life)
	l, err := mesh.ListenTCP("127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return &gate{l, t, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool}}
}

func (g *gate) pair() (client, server mesh.Session) {
	g.t.Helper()
	client, err := mesh.Dial(g.t.Context(), mesh.TCP+g.Addr(), g.client)
	if err != nil {
		g.t.Fatal(err)
	}
	if server, err = g.Accept(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		client.Close("test over")
		server.Close("test over")
		<-client.Done()
		<-server.Done()
	})
	return client, server
}

// Over TCP a session is what it is over QUIC: streams of both sides, an identity, a
// secret of its own, an end that both see.
func TestSessionOverTCP(t *testing.T) {
	client, server := newGate(t, time.Hour).pair()
	works(t, client, server)
	works(t, server, client)
	ours, err := client.Export("EXPORTER-test", 32)
	theirs, other := server.Export("EXPORTER-test", 32)
	if err = errors.Join(err, other); err != nil || string(ours) != string(theirs) {
		t.Errorf("the secrets of the channel differ: %v", err)
	}
	if client.Protocol() != mesh.ALPN || client.Peer() == nil || !strings.HasPrefix(server.Remote(), mesh.TCP) {
		t.Errorf("protocol %q, peer %v, remote %q", client.Protocol(), client.Peer(), server.Remote())
	}
	near, err := client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err = mesh.NewChannel(near, 0).Send(&pb.Ping{}); err != nil {
		t.Fatal(err)
	}
	far, err := server.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := mesh.NewChannel(far, 0)
	if err = errors.Join(in.Receive(&pb.Ping{}), near.Close()); err != nil {
		t.Fatal(err)
	}
	if err := in.Receive(&pb.Ping{}); !errors.Is(err, io.EOF) {
		t.Errorf("after the close: %v, want EOF", err)
	}
	if server.Err() != nil {
		t.Errorf("it lives, and says %v", server.Err())
	}
	client.Close("moving house")
	<-server.Done()
	if client.Err() == nil || !strings.Contains(client.Err().Error(), "moving house") || server.Err() == nil {
		t.Errorf("the ends know %v and %v", client.Err(), server.Err())
	}
	if _, err := server.Open(t.Context()); err == nil {
		t.Error("a stream in a session that has ended")
	}
}

// A stream that we close ends a Read of our own, and gives its place back.
func TestStreamsOverTCPEnd(t *testing.T) {
	client, server := newGate(t, time.Hour).pair()
	for range 100 { // more than there may be at once
		near, err := client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err = mesh.NewChannel(near, 0).Send(&pb.Ping{}); err != nil {
			t.Fatal(err)
		}
		far, err := server.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := near.Read(make([]byte, 1))
			ended <- err
		}()
		if err := errors.Join(near.Close(), far.Close()); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil {
			t.Fatal("the read read something")
		}
	}
	works(t, client, server)
}

// Who opens streams without end loses the session; others feel nothing.
func TestAPeerThatPinsMemoryOverTCP(t *testing.T) {
	g := newGate(t, time.Hour)
	good, goodServer := g.pair()
	bad, server := g.pair()
	sent := 0
	for range 8 {
		s, err := bad.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, _ := s.Write(make([]byte, 1<<20))
		sent += n
		if _, err := server.Accept(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if sent > mesh.SessionWindow {
		t.Errorf("%d bytes were taken that nobody reads", sent)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := bad.Open(ctx); err == nil {
		t.Error("it has opened one stream too many")
	}
	works(t, good, goodServer)
}

// One that connects and says nothing, or garbage, holds up nobody.
func TestGarbageOverTCP(t *testing.T) {
	g := newGate(t, time.Hour)
	silent, err := net.Dial("tcp", g.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	loud, err := net.Dial("tcp", g.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = loud.Close() }()
	_, _ = loud.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	client, server := g.pair()
	works(t, client, server)
}

func TestWhoIsNotBelievedOverTCP(t *testing.T) {
	g := newGate(t, time.Hour)
	foreign, pool := self(t, time.Hour)
	if _, err := mesh.Dial(t.Context(), mesh.TCP+g.Addr(), &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{foreign}, RootCAs: pool,
	}); !fault.Is(err, fault.Untrusted) {
		t.Errorf("a foreign server: %v", err)
	}
	s, err := mesh.Dial(t.Context(), mesh.TCP+g.Addr(), &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{foreign}, RootCAs: g.client.RootCAs,
	})
	if err == nil { // TLS 1.3: the refusal comes later
		<-s.Done()
	}
	client, server := g.pair()
	works(t, client, server)

	short := newGate(t, 3*time.Second)
	client, _ = short.pair()
	select {
	case <-client.Done():
	case <-time.After(20 * time.Second):
		t.Error("the session outlives its certificate")
	}
}

func TestNobodyListensOverTCP(t *testing.T) {
	g := newGate(t, time.Hour)
	addr := g.Addr()
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := mesh.Dial(t.Context(), mesh.TCP+addr, g.client); !fault.Is(err, fault.Unavailable) {
		t.Errorf("nobody is there: %v", err)
	}
}
