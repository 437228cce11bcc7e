package ca_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

var update = flag.Bool("update", false, "write the golden files anew")

// A BMC's request may ask for anything. Only its key is taken: the certificate that
// is issued is the golden one, whatever the subject and the extensions say.
func TestThreat11RequestAsksForForeignNamesAndRights(t *testing.T) {
	r := rack(t, authority(t, t.TempDir()), "r17")
	greedy := csr(t, newKey(t), func(c *x509.CertificateRequest) {
		isCA, err := asn1.Marshal(struct{ CA bool }{true})
		if err != nil {
			t.Fatal(err)
		}
		root, err := url.Parse("spiffe://osl1.chiba.internal/coordinator/c1")
		if err != nil {
			t.Fatal(err)
		}
		c.Subject = pkix.Name{
			CommonName: "root", Organization: []string{"CA:TRUE"}, OrganizationalUnit: []string{"subjectAltName=DNS:c1"},
			ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: "CA:TRUE"}},
		}
		c.DNSNames, c.URIs = []string{"c1.osl1.chiba.internal"}, []*url.URL{root}
		c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)}
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: isCA}}
	})
	text, err := r.BMCServer(greedy, "node-04")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "bmc-server.txt", describe(certs(t, text)[0]))
}

// describe is all of a certificate that a request could have changed, as prose.
func describe(c *x509.Certificate) string {
	var b strings.Builder
	fmt.Fprintf(&b, "subject        %s\nissuer         %s\nCA             %v\n", c.Subject, c.Issuer, c.IsCA)
	fmt.Fprintf(&b, "URI            %v\nDNS            %v\nIP             %v\nmail           %v\n", c.URIs, c.DNSNames, c.IPAddresses, c.EmailAddresses)
	fmt.Fprintf(&b, "key usage      %d\next key usage  %v %v\nlife           %s\n", c.KeyUsage, c.ExtKeyUsage, c.UnknownExtKeyUsage,
		c.NotAfter.Sub(c.NotBefore).Round(time.Hour))
	for _, e := range c.Extensions {
		fmt.Fprintf(&b, "extension      %s critical %v\n", e.Id, e.Critical)
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestThreat11RequestsThatAreNotTaken(t *testing.T) {
	r := rack(t, authority(t, t.TempDir()), "r17")
	good := csr(t, newKey(t), nil)
	block, _ := pem.Decode(good)
	block.Bytes[len(block.Bytes)-1] ^= 1 // the end of the signature
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		csr  []byte
		node string
	}{
		"its signature is not of its key": {pem.EncodeToMemory(block), "n1"},
		"an RSA key":                      {csr(t, rsaKey, nil), "n1"},
		"an Ed25519 key":                  {csr(t, edKey, nil), "n1"},
		"not a request":                   {[]byte("hello"), "n1"},
		"a certificate":                   {r.Twin(), "n1"},
		"no node":                         {good, ""},
		"a node with a path":              {good, "../agent/x"},
	} {
		if text, err := r.BMCServer(c.csr, c.node); err == nil || text != nil {
			t.Errorf("%s: issued", name)
		}
	}
}

// OpenBMC logs in whom the common name says. The rack's CA refuses, in code, every
// account but Chiba's own.
func TestThreat12ClientCertificateForAnotherAccount(t *testing.T) {
	r := rack(t, authority(t, t.TempDir()), "r17")
	key := newKey(t)
	for _, account := range []string{
		"root", "admin", "Administrator", "", "chiba", "chiba-", "Chiba-r17", "chiba-R17", "chiba-r17\x00", "chiba-r17 ", " chiba-r17",
		"chiba-root/root", "chiba-01234567890", "chiba--", "root,CN=chiba-r17", "chiba-r.17", "chiba-é",
	} {
		if text, err := r.BMCClient(account, key.Public()); !fault.Is(err, fault.Denied) || text != nil {
			t.Errorf("account %q: %v", account, err)
		}
	}
	text, err := r.BMCClient("chiba-0123456789", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if subject := certs(t, text)[0].Subject.String(); subject != "CN=chiba-0123456789" {
		t.Errorf("subject %s", subject)
	}
	if start := certs(t, text)[0].NotBefore; !start.Equal(time.Unix(0, 0)) {
		t.Errorf("good from %s: a BMC that boots in 1970 would refuse it", start)
	}
}

func TestAccountOfAnAgent(t *testing.T) {
	d := trust.Domain{Site: "osl1", Rack: "r17"}
	seen := map[string]bool{}
	for _, name := range []string{"agent-r17", "a", "agent-of-rack-17", "agent-of-rack-18", "Agent.r17", "root", "-"} {
		account := ca.Account(trust.Identity{Role: trust.Agent, Domain: d, Name: name})
		if !ca.ValidAccount(account) || seen[account] {
			t.Errorf("agent %q: account %q", name, account)
		}
		seen[account] = true
	}
	if !seen["chiba-agent-r17"] {
		t.Error("a name that fits is not used")
	}
}

// The trust store of a BMC holds its own rack's twin: another rack's agent, even
// with the same account, is refused, by Go's verifier and by OpenSSL, which is what
// OpenBMC uses.
func TestThreat13OtherRacksAgentAtThisBMC(t *testing.T) {
	site := authority(t, t.TempDir())
	ours, theirs := rack(t, site, "r17"), rack(t, site, "r18")
	key := newKey(t)
	own, err := ours.BMCClient("chiba-a", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := theirs.BMCClient("chiba-a", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		chain, store []byte
		want         bool
	}{
		"our agent at our BMC":              {own, ours.Twin(), true},
		"their agent at our BMC":            {foreign, ours.Twin(), false},
		"their agent at their BMC":          {foreign, theirs.Twin(), true},
		"their agent, if the root were in":  {foreign, trust.EncodePEM(trust.SelfSigned(site.Bundle())), true}, // why it must not be
		"our agent, if a bare rack were in": {own, trust.EncodePEM(certs(t, own)[1:2]), false},                 // why there is a twin
	} {
		t.Run(name, func(t *testing.T) {
			// OpenSSL has no partial chains; Go has, so the store without a
			// self-signed anchor is OpenSSL's alone to refuse.
			if !strings.Contains(name, "bare rack") {
				if got := goVerify(certs(t, c.chain), certs(t, c.store), x509.ExtKeyUsageClientAuth); (got == nil) != c.want {
					t.Errorf("Go: %v, want success %v", got, c.want)
				}
			}
			if got, ran := opensslVerify(t, c.chain, c.store, "sslclient", 0); ran && (got == nil) != c.want {
				t.Errorf("OpenSSL: %v, want success %v", got, c.want)
			}
		})
	}
	t.Run("in 1970", func(t *testing.T) {
		if err, _ := opensslVerify(t, own, ours.Twin(), "sslclient", 3*86400); err != nil {
			t.Errorf("OpenSSL: %v", err)
		}
	})
}

func goVerify(chain, store []*x509.Certificate, usage x509.ExtKeyUsage) error {
	return goVerifyAt(chain, store, usage, time.Now())
}

func goVerifyAt(chain, store []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range store {
		roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: now})
	return err
}

// opensslVerify asks the openssl binary, if there is one.
func opensslVerify(t *testing.T, chain, store []byte, purpose string, at int64, more ...string) (err error, ran bool) {
	t.Helper()
	binary, _ := exec.LookPath("openssl")
	if binary == "" {
		t.Log("there is no openssl here")
		return nil, false
	}
	dir := t.TempDir()
	leaf, rest := pem.Decode(chain)
	files := map[string][]byte{"leaf": pem.EncodeToMemory(leaf), "rest": rest, "store": store}
	for name, text := range files {
		if err = os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"verify", "-x509_strict", "-purpose", purpose, "-CAfile", "store"}
	if len(rest) > 0 {
		args = append(args, "-untrusted", "rest")
	}
	if at != 0 {
		args = append(args, "-attime", strconv.FormatInt(at, 10))
	}
	cmd := exec.CommandContext(t.Context(), binary, append(append(args, more...), "leaf")...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out)), true
	}
	return nil, true
}

// A thief of a rack's CA can forge nothing outside the rack, and in the rack no
// agent.
func TestThreat28RackForges(t *testing.T) {
	site := authority(t, t.TempDir())
	thief := stolen(t, site, "r17")
	agent := credentials(t, site, trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: "r18"}, Name: "a18"})
	coordinator := credentials(t, site, trust.Identity{Role: trust.Coordinator, Name: "c1"}, "127.0.0.1")
	named := func(text string) *x509.Certificate {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return &x509.Certificate{Subject: pkix.Name{CommonName: "c1"}, URIs: []*url.URL{u}}
	}
	forged := map[string]tls.Certificate{
		"a coordinator":               thief.forge(named("spiffe://osl1.chiba.internal/coordinator/c1")),
		"an operator":                 thief.forge(named("spiffe://osl1.chiba.internal/operator/ada")),
		"another rack's agent":        thief.forge(named("spiffe://r18.osl1.chiba.internal/agent/a18")),
		"its own rack's agent":        thief.forge(named("spiffe://r17.osl1.chiba.internal/agent/a17")),
		"a coordinator in its rack":   thief.forge(named("spiffe://r17.osl1.chiba.internal/coordinator/c1")),
		"a name alone":                thief.forge(&x509.Certificate{Subject: pkix.Name{CommonName: "c1"}}),
		"a domain below the rack's":   thief.forge(named("spiffe://x.r17.osl1.chiba.internal/agent/a17")),
		"two names":                   thief.forge(&x509.Certificate{URIs: append(named("spiffe://r17.osl1.chiba.internal/agent/a17").URIs, named("spiffe://r17.osl1.chiba.internal/agent/a18").URIs...)}),
		"the coordinator's address":   thief.forge(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}),
		"the coordinator's host name": thief.forge(&x509.Certificate{DNSNames: []string{"localhost"}}),
	}
	sub := thief.forge(&x509.Certificate{Subject: pkix.Name{CommonName: "sub"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign})
	below := &forger{t: t, key: sub.PrivateKey, chain: append([]*x509.Certificate{sub.Leaf}, thief.chain...)}
	forged["an agent by a CA below"] = below.forge(named("spiffe://r17.osl1.chiba.internal/agent/a17"))
	for name, cert := range forged {
		t.Run(name, func(t *testing.T) {
			as := trust.NewCredentials(cert, site.Bundle())
			server := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}
			if err, _ := handshake(t, agent.Client(), server); err == nil {
				t.Error("an agent takes it for a coordinator")
			}
			client := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true}
			if _, err := handshake(t, client, coordinator.Server(trust.Agent, trust.Operator)); err == nil {
				t.Error("a coordinator lets it in")
			}
			for _, host := range []string{"127.0.0.1", "localhost"} {
				person := &tls.Config{RootCAs: as.Roots, ServerName: host}
				if err, _ := handshake(t, person, server); err == nil {
					t.Errorf("a person's client takes it for %s", host)
				}
			}
		})
	}
}

// Where racks may name the addresses of BMCs, a thief of a rack's CA can name one at
// which a coordinator answers people. Our own client asks who it is all the same.
func TestThreat28RackForgesTheAddressOfACoordinator(t *testing.T) {
	dir := t.TempDir()
	site := authority(t, dir)
	if err := ca.KeepNets(filepath.Join(dir, "site"), []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}); err != nil {
		t.Fatal(err)
	}
	site, err := ca.OpenSite(filepath.Join(dir, "site"))
	if err != nil {
		t.Fatal(err)
	}
	person := t.TempDir()
	if err = site.Ensure(person, trust.Identity{Role: trust.Operator, Name: "ada"}); err != nil {
		t.Fatal(err)
	}
	thief := stolen(t, site, "r17")
	address := []net.IP{net.IPv4(127, 0, 0, 1)}
	posing, err := url.Parse("spiffe://r17.osl1.chiba.internal/coordinator/c1")
	if err != nil {
		t.Fatal(err)
	}
	coordinator := credentials(t, site, trust.Identity{Role: trust.Coordinator, Name: "c1"}, "127.0.0.1").Certificate
	for name, c := range map[string]struct {
		cert tls.Certificate
		want bool
	}{
		"a coordinator":          {coordinator, true},
		"its address":            {thief.forge(&x509.Certificate{IPAddresses: address}), false},
		"its address and a name": {thief.forge(&x509.Certificate{IPAddresses: address, URIs: []*url.URL{posing}}), false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.NotFoundHandler())
			server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
			server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.cert}, ClientAuth: tls.RequestClientCert}
			server.StartTLS()
			defer server.Close()
			cl, err := client.Open(client.Context{
				Address: server.URL, CA: filepath.Join(person, trust.CAFile), Cert: filepath.Join(person, trust.CertFile), Key: filepath.Join(person, trust.KeyFile),
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			// It is no coordinator's API: who is believed gets another error.
			if _, err = cl.Status(t.Context()); fault.Is(err, fault.Untrusted) == c.want || err == nil {
				t.Errorf("%v, want it believed: %v", err, c.want)
			}
		})
	}
}

// A BMC is believed for its own node alone, by the client that speaks to it.
func TestBMCIsKnownByItsNode(t *testing.T) {
	site := authority(t, t.TempDir())
	ours, theirs := rack(t, site, "r17"), rack(t, site, "r18")
	cert := bmc(t, ours, "node-04")
	key := newKey(t)
	text, err := ours.BMCClient("chiba-a", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	for _, twin := range ours.Twins() {
		roots.AddCert(twin)
	}
	for name, c := range map[string]struct {
		server tls.Certificate
		want   bool
	}{
		"itself":                          {cert, true},
		"itself, by leaf alone":           {tls.Certificate{Certificate: cert.Certificate[:1], PrivateKey: cert.PrivateKey, Leaf: cert.Leaf}, true},
		"another node of the rack":        {bmc(t, ours, "node-05"), false},
		"the node's name in another rack": {bmc(t, theirs, "node-04"), false},
		"a client's certificate":          {pair(certs(t, text), key), false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.NotFoundHandler())
			server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
			server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{c.server}}
			server.StartTLS()
			defer server.Close()
			// Whose key it is must not be enough: its pin is known, and its name another.
			known := redfish.Key{Pin: trust.Pin(c.server.Leaf), Roots: roots, URI: ours.NodeIdentity("node-04").URI().String()}
			client, err := redfish.New(redfish.Config{
				Address: server.Listener.Addr().String(), Logins: nobody{}, Terms: func() redfish.Terms { return redfish.Terms{Keys: []redfish.Key{known}} },
			})
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.Root(t.Context())
			if refused := fault.Is(err, fault.Untrusted); refused == c.want || err == nil {
				t.Errorf("%v, want it believed: %v", err, c.want)
			}
			_ = client.Close(t.Context())
		})
	}
}

// nobody logs in.
type nobody struct{}

func (nobody) Candidates(string) ([]redfish.Credentials, error) { return nil, nil }
func (nobody) Prove(string, redfish.Credentials) error          { return nil }

func in(year int) func() time.Time {
	return func() time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }
}

// Addresses go into a BMC's certificate only where the site lets the rack name
// them, and never link-local ones.
func TestAddressesOfABMC(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if _, err := command(t, "site", "osl1", "--root", at("root"), "--dir", at("site"), "--bmc-net", "fd00:17::/64", "--bmc-net", "10.17.3.4/16"); err != nil {
		t.Fatal(err)
	}
	// They stay, also when the site is signed anew.
	if out, err := command(t, "site", "osl1", "--root", at("root"), "--dir", at("site"), "--dns", "example"); err != nil || !strings.Contains(out, "10.17.0.0/16") {
		t.Fatalf("%q, %v", out, err)
	}
	site, err := ca.OpenSite(at("site"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := ca.OpenRack(t.TempDir(), trust.Domain{Site: "osl1", Rack: "r17"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed(t, site, r)
	text, err := r.BMCServer(csr(t, newKey(t), nil), "node-04", netip.MustParseAddr("fd00:17::4"), netip.MustParseAddr("fe80::4%eth0"),
		netip.MustParseAddr("::ffff:10.17.0.4"), netip.MustParseAddr("192.0.2.4"))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(certs(t, text)[0].IPAddresses); got != "[fd00:17::4 10.17.0.4]" {
		t.Errorf("addresses %s", got)
	}
	if err := goVerify(certs(t, text), trust.SelfSigned(site.Bundle()), x509.ExtKeyUsageServerAuth); err != nil {
		t.Error(err)
	}
	for anchor, store := range map[string][]byte{"the root": trust.EncodePEM(trust.SelfSigned(site.Bundle())), "the twin": r.Twin()} {
		for ip, want := range map[string]bool{"10.17.0.4": true, "fd00:17::4": true, "10.17.0.5": false, "192.0.2.4": false} {
			if err, ran := opensslVerify(t, text, store, "sslserver", 0, "-verify_ip", ip); ran && (err == nil) != want {
				t.Errorf("openssl, by %s, at %s: %v", anchor, ip, err)
			}
		}
	}
}

// A network that holds more than BMCs, or is everywhere, confines nothing.
func TestNetworksThatNoRackMayName(t *testing.T) {
	dir := t.TempDir()
	for _, net := range []string{"0.0.0.0/0", "::/0", "fe80::/64", "169.254.0.0/16", "10.0.0.0/7", "10.0.0.5", "here"} {
		_, err := command(t, "site", "osl1", "--root", filepath.Join(dir, "root"), "--dir", filepath.Join(dir, "site"), "--bmc-net", net)
		if cli.Code(err) != cli.Usage || fault.HintOf(err) == "" {
			t.Errorf("%s: %v", net, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "site")); err == nil {
		t.Error("a site was made all the same")
	}
}
