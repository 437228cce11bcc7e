package seal

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
)

// proofContext keeps a signature of the agent's identity key from being taken for
// one that was made for something else.
const proofContext = "chiba-seal-key-v1\x00"

const maxProof = 64 << 10

// claim is what an agent signs with the key of its certificate.
type claim struct {
	Agent string    `json:"agent"`
	Rack  string    `json:"rack"`
	Epoch uint64    `json:"epoch"`
	Key   PublicKey `json:"key"`
}

// proof is a claim with what it takes to verify it.
type proof struct {
	Claim     []byte   `json:"claim"` // JSON, as it was signed
	Signature []byte   `json:"signature"`
	Chain     [][]byte `json:"chain"` // DER, leaf first
}

// Prove vouches for k with the agent's certificate, so that nobody between the
// agent and who seals can put another key in its place.
func (k *Key) Prove(rack string, identity tls.Certificate) ([]byte, error) {
	const op = "prove sealing key"
	id, err := trust.IdentityOf(identity.Leaf)
	if err != nil {
		return nil, err
	}
	signer, ok := identity.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fault.New(fault.BadInput, op, "the certificate's key can't sign")
	}
	text, err := json.Marshal(claim{Agent: id.Name, Rack: rack, Epoch: k.epoch, Key: k.public})
	if err != nil {
		return nil, fault.Wrap(fault.Internal, op, err)
	}
	sum := sha256.Sum256(append([]byte(proofContext), text...))
	signature, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, op, err)
	}
	return json.Marshal(proof{Claim: text, Signature: signature, Chain: identity.Certificate})
}

// Verify is the recipient that a proof vouches for, who must be the agent of rack.
// The certificate must lead to one of roots and be valid now.
func Verify(data []byte, rack string, roots *x509.CertPool, now time.Time) (Recipient, error) {
	op := "verify the sealing key of rack " + rack
	bad := func(format string, args ...any) (Recipient, error) {
		return Recipient{}, fault.New(fault.Untrusted, op, fmt.Sprintf(format, args...)).
			WithHint("the coordinator may be lying, or the agent's certificate is out of date: chiba get agents")
	}
	if len(data) == 0 || len(data) > maxProof {
		return bad("there is no proof that the key is its agent's")
	}
	var p proof
	if err := json.Unmarshal(data, &p); err != nil {
		return bad("the proof is damaged")
	}
	leaf, err := verifyChain(p.Chain, roots, now)
	if err != nil {
		return bad("%v", err)
	}
	id, err := trust.IdentityOf(leaf)
	if err != nil || id.Role != trust.Agent {
		return bad("the certificate is not an agent's")
	}
	if _, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok {
		return bad("the certificate's key is of a kind that is not used here")
	}
	if err = leaf.CheckSignature(x509.ECDSAWithSHA256, append([]byte(proofContext), p.Claim...), p.Signature); err != nil {
		return bad("the signature is wrong")
	}
	var c claim
	if err = json.Unmarshal(p.Claim, &c); err != nil || c.Agent != id.Name {
		return bad("%s speaks for another agent", id)
	}
	if c.Rack != rack {
		return bad("%s is the agent of rack %s", id, c.Rack)
	}
	return Recipient{Rack: c.Rack, Epoch: c.Epoch, Key: c.Key}, nil
}

func verifyChain(chain [][]byte, roots *x509.CertPool, now time.Time) (*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > 8 {
		return nil, fault.New(fault.Untrusted, "", "there is no certificate")
	}
	var leaf *x509.Certificate
	intermediates := x509.NewCertPool()
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			leaf = cert
		} else {
			intermediates.AddCert(cert)
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return leaf, err
}
