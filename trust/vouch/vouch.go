// Package vouch lets the key of a certificate say something, to whoever believes
// the authority that has issued it: "this is my sealing key". Who hears it needs no
// connection to the speaker, and who carries it can't change it.
package vouch

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
)

const (
	maxSize  = 64 << 10
	maxChain = 8
)

// statement is what was said, with what it takes to verify it.
type statement struct {
	Claim     []byte   `json:"claim"` // as it was signed
	Signature []byte   `json:"signature"`
	Chain     [][]byte `json:"chain"` // DER, leaf first
}

// signed is what the signature is over. The context keeps what was said for one
// thing from being taken for another.
func signed(context string, claim []byte) []byte {
	return append([]byte(context+"\x00"), claim...)
}

// For signs claim, in a context, with the key of identity.
func For(context string, claim []byte, identity tls.Certificate) ([]byte, error) {
	const op = "vouch"
	signer, ok := identity.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fault.New(fault.BadInput, op, "the certificate's key can't sign")
	}
	sum := sha256.Sum256(signed(context, claim))
	signature, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, op, err)
	}
	return json.Marshal(statement{Claim: claim, Signature: signature, Chain: identity.Certificate})
}

// Check tells who vouches for what. The certificate must lead to one of roots and
// be valid now.
func Check(context string, data []byte, roots *x509.CertPool, now time.Time) (claim []byte, by trust.Identity, err error) {
	bad := func(why string) ([]byte, trust.Identity, error) {
		return nil, trust.Identity{}, fault.New(fault.Untrusted, "", why)
	}
	if len(data) == 0 || len(data) > maxSize {
		return bad("there is no proof")
	}
	var s statement
	if err = json.Unmarshal(data, &s); err != nil {
		return bad("the proof is damaged")
	}
	chain, err := parse(s.Chain)
	if err != nil {
		return bad(err.Error())
	}
	if by, err = trust.Signer(chain, roots, now); err != nil {
		return nil, trust.Identity{}, err
	}
	leaf := chain[0]
	if _, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok {
		return bad("the certificate's key is of a kind that is not used here")
	}
	if leaf.CheckSignature(x509.ECDSAWithSHA256, signed(context, s.Claim), s.Signature) != nil {
		return bad("the signature is wrong")
	}
	return s.Claim, by, nil
}

func parse(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, fault.New(fault.Untrusted, "", "there is no certificate")
	}
	all := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		var err error
		if all[i], err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Peek reads what is said, and by what chain, without verifying anything: for who
// must first learn which root to believe.
func Peek(data []byte) (claim []byte, chain []*x509.Certificate, err error) {
	if len(data) > maxSize {
		return nil, nil, fault.New(fault.TooLarge, "read what is vouched for", "it is too large")
	}
	var s statement
	if err = json.Unmarshal(data, &s); err != nil {
		return nil, nil, fault.Wrap(fault.Garbage, "read what is vouched for", err)
	}
	chain, err = parse(s.Chain)
	return s.Claim, chain, err
}
