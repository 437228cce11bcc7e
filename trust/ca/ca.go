// Package ca is the hierarchy of certificate authorities of a mesh:
//
//	Root    offline, P-384; the next one is made with it, and pinned ahead
//	 Site   at the coordinators; issues coordinators, operators and agents
//	  Rack  at a rack's agent; issues its BMCs and the agent's way into them
//
// A Rack has a second certificate, its twin: self-signed, with the same key and
// subject. It is what the trust store of a BMC holds, because OpenSSL wants an
// anchor that is self-signed, and because the root would let in every rack.
//
// What a CA may name is in its certificate, as critical name constraints: a rack
// can't name another rack, an agent can't be made by a rack (trust.Endpoint sees to
// it). All subjects and names are ours; of a request only the key is taken, after
// its signature was checked.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
)

// How long certificates live. What is issued never outlives who issues it.
const (
	day = 24 * time.Hour

	RootLife        = 15 * 365 * day
	SiteLife        = 548 * day // 18 months, renewed when a third is over
	CoordinatorLife = 7 * day
	OperatorLife    = 90 * day
	AgentLife       = day
	RackLife        = 90 * day // issued again weekly: RackRenew
	RackRenew       = 7 * day
	TwinLife        = 730 * day // of a rack's key: a new one in time is Rack.Rekey
	BMCLife         = 30 * day  // server and client; renewed after 10: BMCRenew
	BMCRenew        = 10 * day

	// backdate lets a machine whose clock is behind believe a fresh certificate.
	backdate = time.Hour
)

// bmcEpoch is the start of what a BMC must believe: a clock without a battery says
// midnight of this day when it starts, and who can't log in can't set it.
var bmcEpoch = time.Unix(0, 0).UTC()

// authority is a certificate that may sign, with its key, and the way up to the
// root.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	up   []*x509.Certificate // its issuer first
	now  func() time.Time
}

// sign completes the template, which says its names, usages and NotAfter, and signs it for the key.
func (a *authority) sign(op string, template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	if err := keyOK(public); err != nil {
		return nil, fault.Wrap(fault.BadInput, op, err)
	}
	now := a.now()
	if now.Before(a.cert.NotBefore) || now.After(a.cert.NotAfter) {
		return nil, fault.New(fault.Conflict, op, fmt.Sprintf("the certificate of %q is good from %s to %s, and here it is %s",
			a.cert.Subject.CommonName, stamp(a.cert.NotBefore), stamp(a.cert.NotAfter), stamp(now))).
			WithHint("check this machine's clock; if it is right, renew the authority")
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = now.Add(-backdate)
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	if template.SerialNumber == nil {
		template.SerialNumber = serial()
	}
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, op, err)
	}
	cert, err := x509.ParseCertificate(der)
	return cert, fault.Wrap(fault.Internal, op, err)
}

// chain is a certificate that a has signed, with the way up to the root.
func (a *authority) chain(leaf *x509.Certificate) []*x509.Certificate {
	return append([]*x509.Certificate{leaf, a.cert}, a.up...)
}

// keyOK says what is wrong with a public key: elliptic curves of NIST are taken,
// which TPMs, BMCs and OpenSSL all have.
func keyOK(public crypto.PublicKey) error {
	key, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("the key is a %T; only EC keys are taken", public)
	}
	switch key.Curve {
	case elliptic.P256(), elliptic.P384(), elliptic.P521():
		return nil
	}
	return errors.New("the key is on another curve than P-256, P-384 or P-521")
}

// request reads a certificate request in PEM form and gives its key, and nothing
// else of it: BMCs put all sorts of things into the subject.
func request(op string, text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, fault.New(fault.BadInput, op, "the certificate request is not in PEM form")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fault.Wrap(fault.BadInput, op, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fault.Wrap(fault.Untrusted, op+": check the request's signature", err)
	}
	return csr.PublicKey, nil
}

// caTemplate is what all our authorities have in common.
func caTemplate(name string, notAfter time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:                     pkix.Name{CommonName: clip(name)},
		NotAfter:                    notAfter,
		IsCA:                        true,
		BasicConstraintsValid:       true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PermittedDNSDomainsCritical: true,
	}
}

// selfSign is a certificate that its own key has signed.
func selfSign(op string, template *x509.Certificate, key crypto.Signer) (*x509.Certificate, error) {
	template.SerialNumber = serial()
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, op, err)
	}
	cert, err := x509.ParseCertificate(der)
	return cert, fault.Wrap(fault.Internal, op, err)
}

// clip keeps a common name within the 64 characters of X.520.
func clip(s string) string { return s[:min(len(s), 64)] }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func serial() *big.Int {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails: crypto/rand ends the process instead
	raw[0] &= 0x7f           // RFC 5280 4.1.2.2: positive, at most 20 octets
	return new(big.Int).SetBytes(raw[:])
}

func readCerts(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := trust.DecodePEM(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}

func writeCerts(path string, certs ...*x509.Certificate) error {
	return trust.WriteFile(path, 0o644, trust.EncodePEM(certs))
}

// matches reports whether the certificate is of the key.
func matches(cert *x509.Certificate, key crypto.Signer) bool {
	public, ok := cert.PublicKey.(*ecdsa.PublicKey)
	return ok && public.Equal(key.Public())
}

// damaged says what to do about an authority that can't be read, unless the error
// says so itself.
func damaged(op, dir string, err error) error {
	if fault.HintOf(err) != "" {
		return fault.Wrap(fault.KindOf(err), op, err)
	}
	return fault.New(fault.BadInput, op, err.Error()).
		WithHint("restore " + dir + " from a copy; a new authority would need new certificates for everybody below it")
}

// Open opens the root and the site's CA that lie together in dir, and makes them on
// first use: for a mesh on one machine, as `chiba dev` and tests make it. Elsewhere
// the root lies offline, and the site's CA is opened by OpenSite.
func Open(dir, site string) (*Site, error) {
	const op = "open the authorities"
	if _, err := os.Stat(filepath.Join(dir, "ca-key.pem")); err == nil {
		return nil, fault.New(fault.Conflict, op, dir+" was made by an older build of chiba, whose certificates this one does not take").
			WithHint("start with a new directory: chiba dev --state DIR; or remove the old one")
	}
	root, err := OpenRoot(filepath.Join(dir, "root"))
	if err != nil {
		return nil, err
	}
	at := filepath.Join(dir, "site")
	if err := root.EnsureSite(at, site, "localhost"); err != nil {
		return nil, err
	}
	return OpenSite(at)
}
