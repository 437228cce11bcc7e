package trust

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Credentials are what a process proves its identity with, and whom it
// believes. They are immutable.
type Credentials struct {
	// Certificate is our chain, leaf first, up to and with the root, and our key.
	Certificate tls.Certificate
	// Anchors are the roots we believe: the current one and the next, so that a
	// change of the root finds everybody prepared.
	Anchors []*x509.Certificate
	// Roots holds the Anchors.
	Roots *x509.CertPool

	issuers *issuers // that the Roots were seen to vouch for; copies share it
}

// NewCredentials are credentials of a chain with its key and of the roots that
// are believed.
func NewCredentials(certificate tls.Certificate, anchors []*x509.Certificate) Credentials {
	return Credentials{Certificate: certificate, Anchors: anchors, Roots: pool(anchors), issuers: &issuers{}}
}

// Identity is whom these credentials are of.
func (c Credentials) Identity() (Identity, error) { return IdentityOf(c.Certificate.Leaf) }

// Chain is our certificate with its way up to the root, leaf first. What can't be
// read is left out.
func (c Credentials) Chain() []*x509.Certificate {
	var chain []*x509.Certificate
	for _, der := range c.Certificate.Certificate {
		if cert, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, cert)
		}
	}
	return chain
}

// Renewed are the same credentials with a new certificate of the same key and the
// same identity, and with what is believed of the roots offered (see Successors).
func (c Credentials) Renewed(chain, offered []*x509.Certificate) (Credentials, error) {
	const op = "take a renewed certificate"
	anchors, err := Successors(c.Anchors, offered)
	if err != nil {
		return c, err
	}
	if len(chain) == 0 || string(chain[0].RawSubjectPublicKeyInfo) != string(c.Certificate.Leaf.RawSubjectPublicKeyInfo) {
		return c, fault.New(fault.Untrusted, op, "it is not of our key")
	}
	was, wasErr := IdentityOf(c.Certificate.Leaf)
	id, err := IdentityOf(chain[0])
	if err = errors.Join(wasErr, err); err != nil {
		return c, err
	}
	if id != was {
		return c, fault.New(fault.Untrusted, op, fmt.Sprintf("it is of %s, not of %s", id.URI(), was.URI()))
	}
	fresh := tls.Certificate{PrivateKey: c.Certificate.PrivateKey, Leaf: chain[0]}
	for _, x := range chain {
		fresh.Certificate = append(fresh.Certificate, x.Raw)
	}
	renewed := NewCredentials(fresh, anchors)
	// By its own time: whether our clock is right is not asked here.
	_, err = verify(chain, renewed.Roots, x509.ExtKeyUsageClientAuth, HalfLife(chain[0]))
	return renewed, err
}

// Server is NewEndpoint(c, Options{}).Server: for a listener whose credentials
// stay as they are, and who denies nobody.
func (c Credentials) Server(clients ...Role) *tls.Config {
	return NewEndpoint(c, Options{}).Server(clients...)
}

// Client is NewEndpoint(c, Options{}).Client.
func (c Credentials) Client() *tls.Config { return NewEndpoint(c, Options{}).Client() }

// Pins are the pins of the Anchors.
func (c Credentials) Pins() []string {
	pins := make([]string, len(c.Anchors))
	for i, a := range c.Anchors {
		pins[i] = Pin(a)
	}
	return pins
}

// Pin is the pin of a certificate's public key: "sha256/" and the base64 SHA-256
// of its SubjectPublicKeyInfo. It outlives the certificate.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256/" + base64.StdEncoding.EncodeToString(sum[:])
}

// Successors is the anchors that are believed after a coordinator has offered
// some: those of offered that are known, and each other one that a believed one
// vouches for by a certificate for the same name and key among offered. So who
// holds a site can't put a root of its own in place of ours. An offer that
// vouches for nothing is an error.
func Successors(known, offered []*x509.Certificate) ([]*x509.Certificate, error) {
	var believed []*x509.Certificate
	for _, c := range offered {
		if selfSigned(c) && slices.ContainsFunc(known, c.Equal) {
			believed = append(believed, c)
		}
	}
	for grown := true; grown; {
		grown = false
		for _, c := range offered {
			if selfSigned(c) && !slices.ContainsFunc(believed, c.Equal) && vouched(c, believed, offered) {
				believed, grown = append(believed, c), true
			}
		}
	}
	if len(believed) == 0 {
		return nil, fault.New(fault.Untrusted, "take new roots", "none of them is one that we believe, or is vouched for by one")
	}
	return believed, nil
}

// SelfSigned are the roots of a bundle: without the certificates by which one
// vouches for the next.
func SelfSigned(bundle []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(bundle), func(c *x509.Certificate) bool { return !selfSigned(c) })
}

func selfSigned(c *x509.Certificate) bool {
	return c.IsCA && string(c.RawIssuer) == string(c.RawSubject) && c.CheckSignatureFrom(c) == nil
}

func vouched(root *x509.Certificate, believed, offered []*x509.Certificate) bool {
	return slices.ContainsFunc(offered, func(cross *x509.Certificate) bool {
		same := string(cross.RawSubject) == string(root.RawSubject) &&
			string(cross.RawSubjectPublicKeyInfo) == string(root.RawSubjectPublicKeyInfo)
		return same && slices.ContainsFunc(believed, func(by *x509.Certificate) bool { return cross.CheckSignatureFrom(by) == nil })
	})
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// EncodePEM is a chain of certificates in PEM form, in its order.
func EncodePEM(chain []*x509.Certificate) []byte {
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// DecodePEM reads the certificates of a text in PEM form. A text without any is
// an error.
func DecodePEM(text []byte) ([]*x509.Certificate, error) {
	const op = "read certificates"
	var chain []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.Wrap(fault.BadInput, op, err)
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return nil, fault.New(fault.BadInput, op, "there is no certificate in PEM form")
	}
	return chain, nil
}

// HalfLife is the middle of a certificate's life, when it is renewed.
func HalfLife(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
}
