package mesh_test

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
)

// Neither side speaks an older protocol, or none.
func TestThreat34OlderALPN(t *testing.T) {
	cert, pool := self(t, time.Hour)
	conf := func(protocols ...string) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool,
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, NextProtos: protocols, ServerName: "127.0.0.1",
		}
	}
	ours, err := mesh.Listen("127.0.0.1:0", conf(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ours.Close() }()
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	caller := &quic.Transport{Conn: socket}
	defer func() { _ = caller.Close(); _ = socket.Close() }() // quic.DialAddr's own would go on for a while
	at, err := net.ResolveUDPAddr("udp", ours.Addr())
	if err != nil {
		t.Fatal(err)
	}
	for _, protocols := range [][]string{nil, {"chiba/0"}, {"h3", "chiba/0"}} {
		if conn, refused := caller.Dial(t.Context(), at, conf(protocols...), nil); refused == nil {
			t.Errorf("%q was let in with %q", protocols, conn.ConnectionState().TLS.NegotiatedProtocol)
		}
	}
	theirs, err := caller.Listen(conf("chiba/0"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = theirs.Close() }()
	if _, err := mesh.Dial(t.Context(), theirs.Addr().String(), conf("chiba/0")); !fault.Is(err, fault.Untrusted) {
		t.Errorf("an older listener: %v", err)
	}
	if conn, err := caller.Dial(t.Context(), at, conf(mesh.ALPN), nil); err != nil {
		t.Errorf("our own protocol: %v", err)
	} else {
		_ = conn.CloseWithError(0, "")
	}
}
