package bmcsim_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
)

// dial makes a TLS connection that is not verified: these tests look at what
// the server shows.
func dial(t *testing.T, url string, cfg *tls.Config) (*tls.Conn, error) {
	t.Helper()
	cfg.InsecureSkipVerify = true
	d := &tls.Dialer{Config: cfg}
	conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	c, _ := conn.(*tls.Conn)
	return c, nil
}

func TestTLSIsAsOpenBMCHasIt(t *testing.T) {
	b, url := bmctest.Start(t, bmcsim.Config{Hostname: "bmc9"})
	if _, err := dial(t, url, &tls.Config{MaxVersion: tls.VersionTLS12}); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: %v, want alert protocol version", err)
	}
	for _, tt := range []struct{ offer, want string }{{"h2,http/1.1", "h2"}, {"http/1.1", "http/1.1"}, {"", ""}} {
		cfg := &tls.Config{}
		if tt.offer != "" {
			cfg.NextProtos = strings.Split(tt.offer, ",")
		}
		conn, err := dial(t, url, cfg)
		if err != nil {
			t.Fatalf("offer %q: %v", tt.offer, err)
		}
		if got := conn.ConnectionState().NegotiatedProtocol; got != tt.want {
			t.Errorf("offer %q: %q was taken, want %q", tt.offer, got, tt.want)
		}
	}
	for b.Stats().Handshakes < 3 { // the last ends a little later on the server's side
		<-time.After(time.Millisecond)
	}
}

func TestAClientCertificateIsAskedForAndNotNeeded(t *testing.T) {
	_, url := bmctest.Start(t, bmcsim.Config{})
	asked, cas := 0, -1
	conn, err := dial(t, url, &tls.Config{GetClientCertificate: func(i *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked, cas = asked+1, len(i.AcceptableCAs)
		return &tls.Certificate{}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.HandshakeContext(t.Context()); err != nil || asked != 1 || cas != 0 {
		t.Errorf("asked %d times with %d CAs (%v), want once with none", asked, cas, err)
	}
}

func TestTheCertificateLooksLikeOpenBMCs(t *testing.T) {
	b, url := bmctest.Start(t, bmcsim.Config{Hostname: "bmc9"})
	conn, err := dial(t, url, &tls.Config{})
	if err != nil {
		t.Fatal(err)
	}
	leaf := conn.ConnectionState().PeerCertificates[0]
	key, isEC := leaf.PublicKey.(*ecdsa.PublicKey)
	got := map[string]any{
		"subject": leaf.Subject.String(), "names": leaf.DNSNames, "ca": leaf.IsCA,
		"p384": isEC && key.Curve == elliptic.P384(), "usage": leaf.KeyUsage, "extended": leaf.ExtKeyUsage,
		"years": int(leaf.NotAfter.Sub(leaf.NotBefore).Hours() / 24 / 365), "pin": bmcsim.PinOf(leaf),
	}
	want := map[string]any{
		"subject": "CN=bmc9,O=OpenBMC,C=US", "names": []string{"bmc9"}, "ca": true,
		"p384": true, "usage": x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		"extended": []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, "years": 10, "pin": b.Pin(),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("certificate (-want +got):\n%s", diff)
	}
	// Its key usage does not include signing certificates, so no chain of one.
	if err := leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature); err != nil {
		t.Errorf("it is not self-signed: %v", err)
	}
}

func TestConnection201IsCut(t *testing.T) {
	b, url := bmctest.Start(t, bmcsim.Config{})
	conns := make([]net.Conn, 0, 201)
	for range 200 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conns = append(conns, conn)
	}
	for b.Stats().Open < 200 {
		<-time.After(time.Millisecond)
	}
	if _, err := dial(t, url, &tls.Config{}); err == nil {
		t.Error("connection 201 was served")
	}
	conns[0].Close()
	for b.Stats().Open == 200 {
		<-time.After(time.Millisecond)
	}
	if _, err := dial(t, url, &tls.Config{}); err != nil {
		t.Errorf("after one was closed: %v", err)
	}
}

func TestBodiesAreLimited(t *testing.T) {
	_, c := start(t, bmcsim.Config{})
	big := strings.Repeat(" ", 5000)
	a := c.want(c.do(http.MethodPost, reset, big), http.StatusUnauthorized)
	if len(a.header.Values("Pragma"))+len(a.header.Values("WWW-Authenticate")) > 0 || a.text != "" {
		t.Errorf("a large body before the login is told %v %q", a.header, a.text)
	}
	c.login("root", bmcsim.DefaultPassword)
	c.want(c.do(http.MethodPost, reset, big), http.StatusBadRequest)
	if a, err := c.try(http.MethodPost, reset, strings.Repeat(" ", 31<<20)); err == nil {
		t.Errorf("31 MiB were answered with %d, want a cut connection", a.status)
	}
	c.want(c.get(system), http.StatusOK)
}

func TestHeadersKeepTheirSpelling(t *testing.T) {
	_, url := bmctest.Start(t, bmcsim.Config{})
	conn, err := dial(t, url, &tls.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.WriteString(conn, "GET /redfish HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []string{"\r\nOData-Version: 4.0\r\n", "\r\nETag: \"", "\r\nAllow: GET\r\n"} {
		if !strings.Contains(string(text), header) {
			t.Errorf("no %q in\n%s", header, text)
		}
	}
}

func TestCountersAndRequestLog(t *testing.T) {
	b, c := start(t, bmcsim.Config{})
	c.get(system)
	login := c.login("root", bmcsim.DefaultPassword)
	c.get(system)
	c.do(http.MethodPatch, system, `{"AssetTag":"secret-ish"}`)
	c.do(http.MethodPost, reset, `{"ResetType":"Nmi"}`)
	c.do(http.MethodDelete, login.header.Get("Location"), "")

	got := b.Stats()
	want := bmcsim.Stats{
		Requests: map[string]int{"GET": 2, "POST": 2, "PATCH": 1, "DELETE": 1},
		Writes:   2, Logins: 1, Denied: 1, Handshakes: 1, Connections: 1, Open: 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if got.Total() != 6 {
		t.Errorf("total %d, want 6", got.Total())
	}
	var lines []string
	for _, r := range b.Requests() {
		lines = append(lines, r.Method+" "+http.StatusText(r.Status))
	}
	wantLines := []string{"GET Unauthorized", "POST Created", "GET OK", "PATCH No Content", "POST OK", "DELETE OK"}
	if diff := cmp.Diff(wantLines, lines); diff != "" {
		t.Errorf("request log (-want +got):\n%s", diff)
	}
	b.ResetStats()
	if n := b.Stats().Total(); n != 0 || len(b.Requests()) != 0 {
		t.Errorf("after a reset there are %d requests", n)
	}
	for range 600 {
		c.get("/redfish")
	}
	if n := len(b.Requests()); n != 512 {
		t.Errorf("the log holds %d requests, want 512", n)
	}
}

func TestServeEndsWithItsContextAndCanBeginAgain(t *testing.T) {
	b := newBMC(t, bmcsim.Config{})
	for range 2 {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Serve(ctx, l) }()
		c := &caller{t: t, client: bmctest.Client(t, b), base: "https://" + l.Addr().String()}
		c.want(c.get("/redfish"), http.StatusOK)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if b.Stats().Open != 0 {
			t.Errorf("%d connections are open after the end", b.Stats().Open)
		}
	}
}

func TestServeTellsOfABrokenListener(t *testing.T) {
	b := newBMC(t, bmcsim.Config{})
	if err := b.Serve(t.Context(), brokenListener{}); !errors.Is(err, errBroken) {
		t.Errorf("Serve: %v, want %v", err, errBroken)
	}
}

var errBroken = errors.New("broken")

type brokenListener struct{ net.Listener }

func (brokenListener) Accept() (net.Conn, error) { return nil, errBroken }
func (brokenListener) Close() error              { return nil }
func (brokenListener) Addr() net.Addr            { return &net.TCPAddr{} }

func TestHeadersAreLimited(t *testing.T) {
	_, c := startOver(t, "http/1.1") // over HTTP/2 the client itself obeys the limit
	c.want(c.do(http.MethodGet, "/redfish", "", "X-Filler: "+strings.Repeat("x", 2<<10)), http.StatusOK)
	c.want(c.do(http.MethodGet, "/redfish", "", "X-Filler: "+strings.Repeat("x", 16<<10)), http.StatusRequestHeaderFieldsTooLarge)
}
