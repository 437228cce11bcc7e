package redfish_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// authority issues certificates for the tests.
type authority struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	a := &authority{tb: tb}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "rack"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Unix(86400, 0), NotAfter: time.Now().Add(time.Hour),
	}
	pair := a.issue(template)
	a.cert, a.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// issue signs template for a new key.
func (a *authority) issue(template *x509.Certificate) tls.Certificate {
	a.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.tb.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) server(uris ...string) tls.Certificate {
	a.tb.Helper()
	template := &x509.Certificate{
		NotBefore: time.Unix(86400, 0), NotAfter: time.Now().Add(time.Minute), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, text := range uris {
		uri, err := url.Parse(text)
		if err != nil {
			a.tb.Fatal(err)
		}
		template.URIs = append(template.URIs, uri)
	}
	return a.issue(template)
}

// A key is believed with the certificate that the rack's authority gave it for
// this node, and with no other; nothing is sent to any other server.
func TestKeyAndChain(t *testing.T) {
	const us, other = "spiffe://r1.s1.test/bmc/n1", "spiffe://r1.s1.test/bmc/n2"
	ours, foreign := newAuthority(t), newAuthority(t)
	self := ours.server()
	for name, tc := range map[string]struct {
		shows tls.Certificate
		pin   string // "": that of what it shows
		ok    bool
	}{
		"ours":              {shows: ours.server(us), ok: true},
		"another node's":    {shows: ours.server(other)},
		"of two nodes":      {shows: ours.server(us, other)},
		"of no node":        {shows: ours.server()},
		"another authority": {shows: foreign.server(us)},
		"another key":       {shows: ours.server(us), pin: redfish.PinOf(self.Leaf)},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				_, _ = w.Write([]byte(`{"Systems":{"@odata.id":"/redfish/v1/Systems"}}`))
			}))
			s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{tc.shows}}
			s.StartTLS()
			defer s.Close()
			key := redfish.Key{Pin: tc.pin, Roots: ours.pool(), URI: us}
			if key.Pin == "" {
				key.Pin = redfish.PinOf(tc.shows.Leaf)
			}
			c := dialChanged(t, s.Listener.Addr().String(), "", rootLogin(), func(cfg *redfish.Config) {
				cfg.Terms = func() redfish.Terms { return redfish.Terms{Keys: []redfish.Key{key}} }
			})
			_, err := c.Root(t.Context())
			if tc.ok != (err == nil) || !tc.ok && (!fault.Is(err, fault.Untrusted) || asked.Load() != 0) {
				t.Errorf("%v, after %d requests", err, asked.Load())
			}
		})
	}
}

// A certificate takes the place of the session, on connections that last and on
// those of uploads and streams; a BMC that does not take it gets a session again.
func TestLoginByCertificate(t *testing.T) {
	b, base, m, first := start(t, bmcsim.Config{})
	ca := newAuthority(t)
	anchor := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}))
	post, err := first.Post(t.Context(), "/redfish/v1/Managers/bmc/Truststore/Certificates", map[string]string{"CertificateString": anchor})
	if err != nil {
		t.Fatal(err)
	}
	cert := ca.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Unix(86400, 0), NotAfter: time.Now().Add(time.Minute),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if asked, tryErr := first.TryCertificate(t.Context(), &cert); tryErr != nil || !asked {
		t.Fatalf("proof: asked %v, %v", asked, tryErr)
	}
	if asked, tryErr := first.TryCertificate(t.Context(), &tls.Certificate{}); !fault.Is(tryErr, fault.Denied) || !asked {
		t.Fatalf("proof without one: asked %v, %v", asked, tryErr)
	}

	// The session of this life is one that an earlier life left to the next.
	now := time.Now()
	c := connect(t, b, base, m, func(cfg *redfish.Config) {
		cfg.Pin, cfg.Now = "", func() time.Time { return now }
		cfg.Terms = func() redfish.Terms {
			return redfish.Terms{Keys: []redfish.Key{{Pin: b.Pin()}}, Certificate: &cert, User: "root"}
		}
	})
	if _, err = c.Root(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err = c.Fetch(t.Context(), "/redfish/v1/Systems/system"); err != nil {
		t.Fatal(err)
	}
	body, err := c.Stream(t.Context(), "/redfish/v1/EventService/SSE", "")
	if err != nil {
		t.Fatal(err)
	}
	_ = body.Close()
	all, err := redfish.Members(t.Context(), c, "/redfish/v1/SessionService/Sessions", 10)
	if err != nil || len(all) != 0 || m.open {
		t.Errorf("sessions: %v, remembered %v, %v", all, m.open, err)
	}
	if creds, in := c.LoggedIn(); !in || creds.User != "root" || !creds.Password.Empty() {
		t.Errorf("logged in as %v %v", creds.User, in)
	}

	// The anchor goes; a new connection is not let in by certificate any longer.
	if _, err = c.Delete(t.Context(), post.Location()); err != nil {
		t.Fatal(err)
	}
	c.Reconnect()
	if _, err = c.Fetch(t.Context(), "/redfish/v1/Systems/system"); err != nil {
		t.Fatalf("without its certificate: %v", err)
	}
	if !m.open {
		t.Error("there is no session")
	}
	if err = c.LogOut(t.Context()); err != nil || m.open {
		t.Errorf("log out: %v", err)
	}
}

// Who stops before anything was asked leaves nothing of an earlier life either.
func TestAShortLifeSweepsToo(t *testing.T) {
	b, base, m, first := start(t, bmcsim.Config{})
	ca := newAuthority(t)
	anchor := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}))
	if _, err := first.Post(t.Context(), "/redfish/v1/Managers/bmc/Truststore/Certificates", map[string]string{"CertificateString": anchor}); err != nil {
		t.Fatal(err)
	}
	cert := ca.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Unix(86400, 0), NotAfter: time.Now().Add(time.Minute),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if b.Stats().Sessions != 1 || !m.open {
		t.Fatal("there is no session to leave behind")
	}
	next := connect(t, b, base, m, func(cfg *redfish.Config) {
		cfg.Pin = ""
		cfg.Terms = func() redfish.Terms {
			return redfish.Terms{Keys: []redfish.Key{{Pin: b.Pin()}}, Certificate: &cert, User: "root"}
		}
	})
	if err := next.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.Stats().Sessions; got != 0 || m.open {
		t.Errorf("%d sessions are left, remembered %v", got, m.open)
	}
}

// A login whose answer nobody waited for may have opened a session: a clean end
// looks for it.
func TestACleanEndSweepsWhatWasCutShort(t *testing.T) {
	b, _, m, c := start(t, bmcsim.Config{Latency: 50 * time.Millisecond})
	if _, err := c.Fetch(t.Context(), "/redfish/v1/Systems/system"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Try(ctx, redfish.Credentials{User: "root", Password: fleet.NewSecret(bmcsim.DefaultPassword)}); err == nil {
		t.Fatal("its answer arrived")
	}
	for over := time.After(5 * time.Second); b.Stats().Sessions != 2; {
		select {
		case <-over:
			t.Fatalf("the BMC has %d sessions", b.Stats().Sessions)
		case <-time.After(time.Millisecond):
		}
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.Stats().Sessions; got != 0 || m.open {
		t.Errorf("%d sessions are left, remembered %v", got, m.open)
	}
}
