package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// signer is a CA, or a leaf with its key.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign is a certificate by s; a nil s signs itself.
func sign(tb testing.TB, by *signer, curve elliptic.Curve, template x509.Certificate) *signer {
	tb.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template.SerialNumber, template.BasicConstraintsValid = big.NewInt(1), true
	made := &signer{cert: &template, key: key}
	if by == nil {
		by = made
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, by.cert, &key.PublicKey, by.key)
	if err != nil {
		tb.Fatal(err)
	}
	made.cert, err = x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return made
}

var dawn = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func authorityOf(name string, days, length int) x509.Certificate {
	return x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: dawn, NotAfter: dawn.AddDate(0, 0, days), IsCA: true,
		KeyUsage: x509.KeyUsageCertSign, MaxPathLen: length, MaxPathLenZero: length == 0, PermittedURIDomains: []string{Suffix, "." + Suffix},
	}
}

func leafOf(uri string, days int) x509.Certificate {
	u, _ := url.Parse(uri)
	return x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, NotBefore: dawn, NotAfter: dawn.AddDate(0, 0, days), URIs: []*url.URL{u},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, DNSNames: []string{"a1.example"},
	}
}

const (
	agentURI = "spiffe://r1.osl1.chiba.internal/agent/a1"
	ownURI   = "spiffe://osl1.chiba.internal/coordinator/c1"
)

func siteOf(days int) x509.Certificate {
	s := authorityOf("site", days, 1)
	s.PermittedURIDomains = []string{"osl1.chiba.internal", ".osl1.chiba.internal"}
	return s
}

func endpointOf(tb testing.TB, root, site *signer, now *time.Time) *Endpoint {
	tb.Helper()
	own := sign(tb, site, elliptic.P256(), leafOf(ownURI, 90))
	creds := NewCredentials(tls.Certificate{Leaf: own.cert, PrivateKey: own.key}, []*x509.Certificate{root.cert})
	return NewEndpoint(creds, Options{Now: func() time.Time { return *now }})
}

// Whoever is let in or refused is so for the same reason whether or not the CA that it
// shows was verified before.
func TestARememberedIssuerChangesNothing(t *testing.T) {
	roots := map[string]*signer{"plain": sign(t, nil, elliptic.P384(), authorityOf("root", 100, 2))}
	strict := authorityOf("root", 100, 2)
	strict.ExcludedDNSDomains = []string{"example"}
	roots["strict"] = sign(t, nil, elliptic.P384(), strict)
	for name, root := range roots {
		site := sign(t, root, elliptic.P256(), siteOf(50))
		rack := sign(t, site, elliptic.P256(), authorityOf("rack", 50, 0))
		forged := sign(t, nil, elliptic.P256(), siteOf(50)) // of the same name
		server := leafOf(agentURI, 40)
		server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		good := sign(t, site, elliptic.P256(), leafOf(agentURI, 40))
		for what, c := range map[string]struct {
			chain []*signer
			day   int
		}{
			"good":                       {chain: []*signer{good, site, root}},
			"without the root":           {chain: []*signer{good, site}},
			"alone":                      {chain: []*signer{good}},
			"by another key":             {chain: []*signer{sign(t, forged, elliptic.P256(), leafOf(agentURI, 40)), site, root}},
			"by another site":            {chain: []*signer{sign(t, forged, elliptic.P256(), leafOf(agentURI, 40)), forged, root}},
			"by a rack":                  {chain: []*signer{sign(t, rack, elliptic.P256(), leafOf(agentURI, 40)), rack, site, root}},
			"by a rack behind its site":  {chain: []*signer{sign(t, rack, elliptic.P256(), leafOf(agentURI, 40)), site, rack, root}},
			"a foreign site's name":      {chain: []*signer{sign(t, site, elliptic.P256(), leafOf("spiffe://r1.hel1.chiba.internal/agent/a1", 40)), site, root}},
			"no name of ours":            {chain: []*signer{sign(t, site, elliptic.P256(), leafOf("spiffe://osl1.example/agent/a1", 40)), site, root}},
			"another role":               {chain: []*signer{sign(t, site, elliptic.P256(), leafOf("spiffe://osl1.chiba.internal/operator/ada", 40)), site, root}},
			"for servers":                {chain: []*signer{sign(t, site, elliptic.P256(), server), site, root}},
			"the site itself":            {chain: []*signer{site, root}},
			"the leaf has ended":         {chain: []*signer{good, site, root}, day: 45},
			"the site has ended":         {chain: []*signer{sign(t, site, elliptic.P256(), leafOf(agentURI, 80)), site, root}, day: 60},
			"the root has ended":         {chain: []*signer{sign(t, sign(t, root, elliptic.P256(), siteOf(200)), elliptic.P256(), leafOf(agentURI, 200)), site, root}, day: 150},
			"the clock is before it all": {chain: []*signer{good, site, root}, day: -1},
		} {
			var chain []*x509.Certificate
			for _, s := range c.chain {
				chain = append(chain, s.cert)
			}
			now := dawn.AddDate(0, 0, 1)
			cold, warm := endpointOf(t, root, site, &now), endpointOf(t, root, site, &now)
			_, _ = warm.Verify([]*x509.Certificate{good.cert, site.cert}, x509.ExtKeyUsageClientAuth, Agent)
			if remembered := len(warm.Credentials().issuers.known) == 1; remembered != (name == "plain") {
				t.Fatalf("%s: it is remembered: %v", name, remembered)
			}
			now = dawn.AddDate(0, 0, c.day).Add(time.Hour)
			id1, err1 := cold.Verify(chain, x509.ExtKeyUsageClientAuth, Agent)
			id2, err2 := warm.Verify(chain, x509.ExtKeyUsageClientAuth, Agent)
			if id1 != id2 || fmt.Sprint(err1) != fmt.Sprint(err2) {
				t.Errorf("%s root, %s: at first %v, %v; then %v, %v", name, what, id1, err1, id2, err2)
			}
			if in := err1 == nil; in != (name == "plain" && (what == "good" || what == "without the root")) {
				t.Errorf("%s root, %s: it is let in: %v: %v", name, what, in, err1)
			}
		}
	}
}

// A root that is no longer believed takes those along whose way led to it.
func TestARememberedIssuerGoesWithItsRoot(t *testing.T) {
	root, next := sign(t, nil, elliptic.P384(), authorityOf("root", 100, 2)), sign(t, nil, elliptic.P384(), authorityOf("next", 100, 2))
	site := sign(t, root, elliptic.P256(), siteOf(50))
	now := dawn.Add(time.Hour)
	e := endpointOf(t, root, site, &now)
	chain := []*x509.Certificate{sign(t, site, elliptic.P256(), leafOf(agentURI, 40)).cert, site.cert, root.cert}
	if _, err := e.Verify(chain, x509.ExtKeyUsageClientAuth, Agent); err != nil {
		t.Fatal(err)
	}
	e.Replace(NewCredentials(e.Credentials().Certificate, []*x509.Certificate{next.cert}))
	if id, err := e.Verify(chain, x509.ExtKeyUsageClientAuth, Agent); err == nil {
		t.Errorf("%s is still let in", id)
	}
}

// BenchmarkVerify is the check of a peer's chain in each handshake and with each ping.
func BenchmarkVerify(b *testing.B) {
	root := sign(b, nil, elliptic.P384(), authorityOf("root", 100, 2))
	site := sign(b, root, elliptic.P256(), siteOf(50))
	leaf := sign(b, site, elliptic.P256(), leafOf(agentURI, 40))
	now := dawn.Add(time.Hour)
	chain := []*x509.Certificate{leaf.cert, site.cert, root.cert}
	for _, remembers := range []bool{false, true} {
		b.Run(fmt.Sprint("remembered=", remembers), func(b *testing.B) {
			e := endpointOf(b, root, site, &now)
			if !remembers {
				creds := e.Credentials()
				creds.issuers = nil
				e.Replace(creds)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Verify(chain, x509.ExtKeyUsageClientAuth, Agent); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
