package mesh

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// A listener that was killed tells nobody. When it is back with the same key, the
// first packet of an old session is answered by its end.
func TestKilledListenerEndsOldSessions(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	certs := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	server := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: certs, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	secret := [32]byte{7}
	listener, err := Listen("127.0.0.1:0", server, &secret)
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr()
	client, err := Dial(t.Context(), addr, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: certs, RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close("test over")
	if _, err = listener.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = listener.transport.Conn.Close() // as a kill does: no goodbye
	again, err := Listen(addr, server, &secret)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	defer func() { _ = listener.Close() }()
	stream, err := client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := NewChannel(stream, 0).Send(&pb.FromAgent{Body: &pb.FromAgent_Ping{Ping: &pb.Ping{SentUnixMs: time.Now().UnixMilli()}}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-client.Done():
	case <-time.After(5 * time.Second):
		t.Error("the old session lives on")
	}
}
