package ca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// csr is a request as a BMC makes it, changed by edit.
func csr(t *testing.T, key any, edit func(*x509.CertificateRequest)) []byte {
	t.Helper()
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "bmc"}}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// rack opens the CA of a rack and has the site sign it.
func rack(t *testing.T, site *ca.Site, name string) *ca.Rack {
	t.Helper()
	r, err := ca.OpenRack(filepath.Join(t.TempDir(), name), trust.Domain{Site: site.Domain().Site, Rack: name}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed(t, site, r)
	return r
}

func signed(t *testing.T, site *ca.Site, r *ca.Rack) {
	t.Helper()
	request, due, err := r.CSR()
	if err != nil || !due {
		t.Fatalf("a request is due: %v, %v", due, err)
	}
	chain, err := site.SignRack(request, r.Domain())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Install(chain, site.Bundle()); err != nil {
		t.Fatal(err)
	}
}

func certs(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	chain, err := trust.DecodePEM(text)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// bmc is the credentials of a BMC's server.
func bmc(t *testing.T, r *ca.Rack, node string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	text, err := r.BMCServer(csr(t, key, nil), node)
	if err != nil {
		t.Fatal(err)
	}
	return pair(certs(t, text), key)
}

func pair(chain []*x509.Certificate, key any) tls.Certificate {
	c := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, x := range chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

// forger is a rack's CA in the hands of a thief: it signs what it is asked to.
type forger struct {
	t     *testing.T
	key   any
	chain []*x509.Certificate
}

func stolen(t *testing.T, site *ca.Site, name string) *forger {
	t.Helper()
	dir := t.TempDir()
	r, err := ca.OpenRack(dir, trust.Domain{Site: site.Domain().Site, Rack: name}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed(t, site, r)
	chain, _ := r.Chain()
	text, err := os.ReadFile(filepath.Join(dir, "1", "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &forger{t: t, key: key, chain: chain}
}

// forge signs the template and gives credentials of it, with the chain that leads
// to the real root.
func (f *forger) forge(template *x509.Certificate) tls.Certificate {
	f.t.Helper()
	key := newKey(f.t)
	template.SerialNumber = big.NewInt(4711)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, f.chain[0], key.Public(), f.key)
	if err != nil {
		f.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	return pair(append([]*x509.Certificate{cert}, f.chain...), key)
}
