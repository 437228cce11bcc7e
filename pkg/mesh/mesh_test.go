package mesh_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// self makes a self-signed certificate that both sides trust.
func self(tb testing.TB, life time.Duration) (tls.Certificate, *x509.CertPool) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// pair is a client and a server session over real QUIC on loopback.
func pair(t *testing.T, life time.Duration) (client, server mesh.Session) {
	t.Helper()
	cert, pool := self(t, life)
	listener, err := mesh.Listen("127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}, &[32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	client, err = mesh.Dial(t.Context(), listener.Addr(), &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close("test over") })
	server, err = listener.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func streams(t *testing.T) (near, far mesh.Stream) {
	t.Helper()
	client, server := pair(t, time.Hour)
	near, err := client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err = mesh.NewChannel(near, 0).Send(&pb.StreamOpen{Kind: pb.StreamOpen_CONTROL}); err != nil {
		t.Fatal(err)
	}
	far, err = server.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var open pb.StreamOpen
	if err := mesh.NewChannel(far, 0).Receive(&open); err != nil || open.GetKind() != pb.StreamOpen_CONTROL {
		t.Fatalf("first message: %v, %v", open.GetKind(), err)
	}
	return near, far
}

func TestMessagesArriveInOrder(t *testing.T) {
	near, far := streams(t)
	go func() {
		out := mesh.NewChannel(near, 0)
		for i := range int64(1000) {
			if out.Send(&pb.Ping{SentUnixMs: i}) != nil {
				return
			}
		}
		_ = near.Close()
	}()
	in := mesh.NewChannel(far, 0)
	var ping pb.Ping
	for want := range int64(1000) {
		if err := in.Receive(&ping); err != nil || ping.GetSentUnixMs() != want {
			t.Fatalf("got %d, %v, want %d", ping.GetSentUnixMs(), err, want)
		}
	}
	if err := in.Receive(&ping); !errors.Is(err, io.EOF) {
		t.Errorf("after the close: %v, want EOF", err)
	}
}

// Who goes on without the channel misses nothing of what it has read ahead.
func TestTheRestOfAStream(t *testing.T) {
	near, far := streams(t)
	for i := range int64(2) {
		if err := mesh.NewChannel(near, 0).Send(&pb.Ping{SentUnixMs: i}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := near.Write([]byte("and so on")); err != nil {
		t.Fatal(err)
	}
	_ = near.Close()
	ch := mesh.NewChannel(far, 0)
	for range 2 {
		if err := ch.Receive(&pb.Ping{}); err != nil {
			t.Fatal(err)
		}
	}
	rest, err := io.ReadAll(ch.Stream())
	if err != nil || string(rest) != "and so on" {
		t.Errorf("the rest is %q, %v", rest, err)
	}
}

func TestMessageOverTheLimit(t *testing.T) {
	near, far := streams(t)
	if err := mesh.NewChannel(near, 0).Send(&pb.Drain{Reason: strings.Repeat("x", 2000)}); err != nil {
		t.Fatal(err)
	}
	if err := mesh.NewChannel(far, 1000).Receive(&pb.Drain{}); !fault.Is(err, fault.TooLarge) {
		t.Errorf("got %v, want too large", err)
	}
}

func TestLengthWithoutABody(t *testing.T) {
	near, far := streams(t)
	head := binary.BigEndian.AppendUint32(nil, 16<<20)
	if _, err := near.Write(head); err != nil {
		t.Fatal(err)
	}
	_ = near.Close()
	if err := mesh.NewChannel(far, 0).Receive(&pb.Drain{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
}

func TestGarbageIsGarbage(t *testing.T) {
	near, far := streams(t)
	if _, err := near.Write([]byte{0, 0, 0, 3, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if err := mesh.NewChannel(far, 0).Receive(&pb.Drain{}); !fault.Is(err, fault.Garbage) {
		t.Errorf("got %v, want garbage", err)
	}
}

func TestCloseTellsThePeer(t *testing.T) {
	client, server := pair(t, time.Hour)
	client.Close("moving house")
	<-server.Done()
	if err := server.Err(); err == nil || !strings.Contains(err.Error(), "moving house") {
		t.Errorf("the peer knows %v", err)
	}
}

func TestExpiredCertificateEndsTheSession(t *testing.T) {
	_, server := pair(t, 3*time.Second)
	select {
	case <-server.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the session outlived its certificate")
	}
}

func TestNobodyThere(t *testing.T) {
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	cert, pool := self(t, time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = mesh.Dial(ctx, socket.LocalAddr().String(), &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool,
	})
	if !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
}

func BenchmarkSend(b *testing.B) {
	for name, size := range map[string]int{"256B": 256, "32KiB": 32 << 10} {
		b.Run(name, func(b *testing.B) {
			m := &pb.Drain{Reason: strings.Repeat("x", size)}
			channel := mesh.NewChannel(discard{}, 0)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := channel.Send(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type discard struct{}

func (discard) Read([]byte) (int, error)         { return 0, io.EOF }
func (discard) Write(p []byte) (int, error)      { return len(p), nil }
func (discard) Close() error                     { return nil }
func (discard) SetReadDeadline(time.Time) error  { return nil }
func (discard) SetWriteDeadline(time.Time) error { return nil }
