package seal

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/vouch"
)

const proofContext = "chiba-seal-key-v1"

// claim is what an agent vouches for with its certificate.
type claim struct {
	Agent string    `json:"agent"`
	Rack  string    `json:"rack"`
	Epoch uint64    `json:"epoch"`
	Key   PublicKey `json:"key"`
}

// Prove vouches for k with the agent's certificate, so that nobody between the
// agent and who seals can put another key in its place.
func (k *Key) Prove(rack string, identity tls.Certificate) ([]byte, error) {
	id, err := trust.IdentityOf(identity.Leaf)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(claim{Agent: id.Name, Rack: rack, Epoch: k.epoch, Key: k.public})
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "prove sealing key", err)
	}
	return vouch.For(proofContext, text, identity)
}

// Verify is the recipient that a proof vouches for, who must be the agent of a rack of
// our own site: another site below the same root may have one of that name. The
// certificate must lead to one of roots and be valid now.
func Verify(proof []byte, rack trust.Domain, roots *x509.CertPool, now time.Time) (Recipient, error) {
	bad := func(why string) (Recipient, error) {
		return Recipient{}, fault.New(fault.Untrusted, "verify the sealing key of rack "+rack.Rack, why).
			WithHint("the coordinator may be lying, or the agent's certificate is out of date: chiba get agents")
	}
	text, id, err := vouch.Check(proofContext, proof, roots, now)
	if err != nil {
		return bad(err.Error())
	}
	var c claim
	if err = json.Unmarshal(text, &c); err != nil || id.Role != trust.Agent || id.Name != c.Agent {
		return bad("it is vouched for by " + id.String() + ", who is not its agent")
	}
	if c.Rack != rack.Rack || id.Domain != rack {
		return bad(id.String() + " is of " + id.Domain.String() + ", not of " + rack.String())
	}
	return Recipient{Rack: c.Rack, Epoch: c.Epoch, Key: c.Key}, nil
}
