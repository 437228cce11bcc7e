package certs_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/certs"
)

var now = time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)

func ask(change func(*certs.Request)) certs.Request {
	r := certs.Request{
		CommonName: "bmc1", City: "Berlin", State: "BE", Country: "DE", Organization: "Acme", Unit: "DC",
		Usage: "ServerAuthentication", Algorithm: certs.EC,
	}
	if change != nil {
		change(&r)
	}
	return r
}

func makeRequest(t *testing.T, r certs.Request, keys *certs.Keys) *x509.CertificateRequest {
	t.Helper()
	text, err := r.Make(keys, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		t.Fatalf("no request: %q", text)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := csr.CheckSignature(); err != nil {
		t.Errorf("signature: %v", err)
	}
	return csr
}

// A request has no extensions: what should be some are parts of its subject.
func TestARequestIsAsOddAsOpenBMCs(t *testing.T) {
	keys := certs.Keys{}
	csr := makeRequest(t, ask(func(r *certs.Request) { r.Alternatives = []string{"bmc1.test", "192.0.2.1"} }), &keys)
	var got []string
	for _, name := range csr.Subject.Names {
		text, _ := name.Value.(string)
		got = append(got, name.Type.String()+" "+text)
	}
	want := []string{
		"2.5.29.17 bmc1.test", "2.5.29.17 192.0.2.1", "2.5.4.7 Berlin", "2.5.4.3 bmc1", "2.5.4.6 DE", "1.3.14.3.2 EC",
		"2.5.29.37 ServerAuthentication", "2.5.4.10 Acme", "2.5.4.11 DC", "2.5.4.8 BE",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("subject (-want +got):\n%s", diff)
	}
	if len(csr.Extensions) > 0 || csr.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("extensions %v, signed with %v", csr.Extensions, csr.SignatureAlgorithm)
	}
	if key, isEC := csr.PublicKey.(*ecdsa.PublicKey); !isEC || key.Curve != elliptic.P384() {
		t.Errorf("the default key is %T, want P-384", csr.PublicKey)
	}
}

func TestRequestsThatCannotBeMade(t *testing.T) {
	for name, change := range map[string]func(*certs.Request){
		"country of three letters": func(r *certs.Request) { r.Country = "DEU" },
		"unknown curve":            func(r *certs.Request) { r.Curve = "nocurve" },
	} {
		if _, err := ask(change).Make(&certs.Keys{}, rand.Reader); err == nil {
			t.Errorf("%s: a request was made", name)
		}
	}
}

// ca is a certificate authority of the test.
type ca struct {
	cert *x509.Certificate
	key  crypto.Signer
	text string
}

func newCA(t *testing.T, name string, by *ca) *ca {
	t.Helper()
	c := &ca{}
	c.cert, c.key, c.text = issue(t, by, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	return c
}

func issue(t *testing.T, by *ca, template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, crypto.Signer, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if public == nil {
		public = key.Public()
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
	}
	parent, signer := template, crypto.Signer(key)
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func keyText(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func TestOnlyTheLastRequestCanBeAnswered(t *testing.T) {
	root, keys := newCA(t, "root", nil), certs.Keys{}
	first := makeRequest(t, ask(nil), &keys)
	second := makeRequest(t, ask(nil), &keys)
	_, _, forFirst := issue(t, root, &x509.Certificate{}, first.PublicKey)
	_, _, forSecond := issue(t, root, &x509.Certificate{}, second.PublicKey)
	if _, err := certs.Install(forFirst, keys); err == nil {
		t.Error("the certificate for the first request was installed")
	}
	for range 2 { // and can be renewed
		if _, err := certs.Install(forSecond, keys); err != nil {
			t.Errorf("the certificate for the last request: %v", err)
		}
	}
}

func TestTheRSAKeyStaysForEver(t *testing.T) {
	keys := certs.Keys{}
	rsa := func(r *certs.Request) { r.Algorithm = certs.RSA }
	first, second := makeRequest(t, ask(rsa), &keys), makeRequest(t, ask(rsa), &keys)
	if diff := cmp.Diff(first.RawSubjectPublicKeyInfo, second.RawSubjectPublicKeyInfo); diff != "" {
		t.Error("two RSA requests have two keys")
	}
}

func TestInstall(t *testing.T) {
	root := newCA(t, "root", nil)
	between := newCA(t, "between", root)
	_, key, leaf := issue(t, between, &x509.Certificate{Subject: pkix.Name{CommonName: "bmc"}}, nil)
	_, oldKey, old := issue(t, root, &x509.Certificate{NotBefore: now.AddDate(-3, 0, 0), NotAfter: now.AddDate(-2, 0, 0)}, nil)
	secret := keyText(t, key)
	for _, tt := range []struct {
		name, text string
		good       bool
		chain      int
	}{
		{"leaf, key, chain", leaf + secret + between.text, true, 2},
		{"key first", secret + leaf + between.text, true, 2},
		{"leaf and key", leaf + secret, true, 1},
		{"expired, and nobody minds", old + keyText(t, oldKey), true, 1},
		{"a foreign key", leaf + keyText(t, oldKey), false, 0},
		{"no key at all", leaf, false, 0},
		{"a key alone", secret, false, 0},
		{"garbage", "garbage", false, 0},
		{"broken", strings.Replace(leaf, "MII", "AAA", 1), false, 0},
	} {
		p, err := certs.Install(tt.text, certs.Keys{})
		if (err == nil) != tt.good {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := strings.Count(p.Chain, "BEGIN CERTIFICATE"); got != tt.chain {
			t.Errorf("%s: %d certificates are served, want %d", tt.name, got, tt.chain)
		}
	}
}

func TestACAOfTheTruststoreIsServedToo(t *testing.T) {
	root := newCA(t, "root", nil)
	_, key, leaf := issue(t, root, &x509.Certificate{}, nil)
	p := certs.Pair{Chain: leaf, Key: keyText(t, key)}
	var with certs.Store
	if _, err := with.Add(root.text); err != nil {
		t.Fatal(err)
	}
	for want, s := range map[int]certs.Store{1: {}, 2: with} {
		served, err := p.Served(s)
		if err != nil {
			t.Fatal(err)
		}
		if len(served.Certificate) != want {
			t.Errorf("%d certificates are served, want %d", len(served.Certificate), want)
		}
	}
}

func TestTheTruststoreTakesTen(t *testing.T) {
	var s certs.Store
	first := newCA(t, "ca", nil)
	for i := range 10 {
		text := first.text
		if i > 0 {
			text = newCA(t, "ca", nil).text
		}
		if _, err := s.Add(text); err != nil {
			t.Fatalf("certificate %d: %v", i+1, err)
		}
	}
	if _, err := s.Add(newCA(t, "ca", nil).text); err == nil {
		t.Error("the eleventh was taken")
	}
	if err := s.Delete("3"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(first.text); err == nil {
		t.Error("one that is there already was taken")
	}
	if id, err := s.Add(newCA(t, "ca", nil).text); id != "11" || err != nil {
		t.Errorf("the next id is %q (%v), want 11: ids are not used again", id, err)
	}
	if diff := cmp.Diff([]string{"1", "10", "11", "2", "4", "5", "6", "7", "8", "9"}, s.IDs()); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	if err := s.Delete("3"); !errors.Is(err, certs.ErrNoEntry) {
		t.Errorf("delete one that is gone: %v", err)
	}
}

func TestWhoIsTrusted(t *testing.T) {
	root := newCA(t, "root", nil)
	between := newCA(t, "between", root)
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	fromRoot, _, _ := issue(t, root, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, ExtKeyUsage: client}, nil)
	fromBetween, _, _ := issue(t, between, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, ExtKeyUsage: client}, nil)
	noUsage, _, _ := issue(t, root, &x509.Certificate{}, nil)
	server, _, _ := issue(t, root, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, nil)
	for _, tt := range []struct {
		name  string
		store []*ca
		chain []*x509.Certificate
		good  bool
	}{
		{"from a root", []*ca{root}, []*x509.Certificate{fromRoot}, true},
		{"without usages", []*ca{root}, []*x509.Certificate{noUsage}, true},
		{"for servers alone", []*ca{root}, []*x509.Certificate{server}, false},
		{"nothing is trusted", nil, []*x509.Certificate{fromRoot}, false},
		{"the intermediate is missing", []*ca{root}, []*x509.Certificate{fromBetween}, false},
		{"the intermediate is sent", []*ca{root}, []*x509.Certificate{fromBetween, between.cert}, true},
		{"the intermediate is in the store", []*ca{root, between}, []*x509.Certificate{fromBetween}, true},
		{"an intermediate is no anchor", []*ca{between}, []*x509.Certificate{fromBetween, between.cert}, false},
		{"no certificate", []*ca{root}, nil, false},
	} {
		var s certs.Store
		for _, c := range tt.store {
			if _, err := s.Add(c.text); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Verify(tt.chain, now); (err == nil) != tt.good {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	var s certs.Store
	if _, err := s.Add(root.text); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify([]*x509.Certificate{fromRoot}, now.AddDate(1, 0, 0)); err == nil {
		t.Error("an expired certificate is trusted")
	}
}

func TestMapping(t *testing.T) {
	root := newCA(t, "root", nil)
	plain, _, _ := issue(t, root, &x509.Certificate{Subject: pkix.Name{CommonName: "alice"}}, nil)
	named, _, _ := issue(t, root, &x509.Certificate{
		Subject: pkix.Name{CommonName: "x"}, ExtraExtensions: []pkix.Extension{upn(t, "bob@dc.test")},
	}, nil)
	empty, _, _ := issue(t, root, &x509.Certificate{}, nil)
	for _, tt := range []struct {
		mapping  certs.Mapping
		cert     *x509.Certificate
		hostname string
		want     string
	}{
		{certs.CommonName, plain, "bmc1", "alice"},
		{certs.CommonName, empty, "bmc1", ""},
		{certs.UserPrincipalName, named, "bmc1.dc.test", "bob"},
		{certs.UserPrincipalName, named, "bmc1.other.test", ""},
		{certs.UserPrincipalName, named, "xdc.test", ""},
		{certs.UserPrincipalName, plain, "bmc1.dc.test", ""},
	} {
		got, err := tt.mapping.User(tt.cert, tt.hostname)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s of %s on %s: %q %v, want %q", tt.mapping, tt.cert.Subject, tt.hostname, got, err, tt.want)
		}
	}
}

func upn(t *testing.T, name string) pkix.Extension {
	t.Helper()
	must := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tagged := func(b []byte) []byte {
		return must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: b}))
	}
	oid := must(asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}))
	other := tagged(append(oid, tagged(must(asn1.MarshalWithParams(name, "utf8")))...))
	value := must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: other}))
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
}

func TestOwnKnowsTheStartCertificate(t *testing.T) {
	text, _, err := certs.SelfSigned("bmc1", now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own, _, err := certs.First(string(text))
	if err != nil || !certs.Own(own) {
		t.Errorf("the start certificate is not known as such (%v)", err)
	}
	if c := newCA(t, "x", nil); certs.Own(c.cert) {
		t.Error("another self-signed certificate is taken for the start certificate")
	}
}

// FuzzInstall looks for a text from a client that breaks what reads it.
func FuzzInstall(f *testing.F) {
	text, key, err := certs.SelfSigned("bmc1", now, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text) + string(key))
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := certs.Install(text, certs.Keys{})
		if err != nil {
			return
		}
		if _, err := p.Served(certs.Store{}); err != nil {
			t.Errorf("what was installed can't be served: %v", err)
		}
	})
}
