package trust

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Pinned are the self-signed certificates among chain whose key is pinned: the only
// roots for who knows pins and nothing else.
func Pinned(chain []*x509.Certificate, pins []string) []*x509.Certificate {
	return slices.DeleteFunc(SelfSigned(chain), func(c *x509.Certificate) bool { return !slices.Contains(pins, Pin(c)) })
}

// VerifyPinned is whose chain a server has sent, leaf first: that of a coordinator
// below a root whose key is pinned, good now. The root comes with the chain.
func VerifyPinned(chain []*x509.Certificate, pins []string, now time.Time) (Identity, error) {
	const op = "verify the coordinator"
	roots := Pinned(chain, pins)
	if len(roots) == 0 {
		return Identity{}, fault.New(fault.Untrusted, op, "no root that is pinned here has signed its certificate").
			WithHint("it is another mesh's, or somebody stands between: compare the pins with chiba ca root --root DIR")
	}
	id, _, err := identify(chain, &Credentials{Roots: pool(roots)}, x509.ExtKeyUsageServerAuth, now)
	if err == nil && id.Role != Coordinator {
		err = fault.New(fault.Untrusted, op, fmt.Sprintf("its certificate is of %s", id))
	}
	return id, err
}

// FirstCredentials are the credentials of a key that has just been certified, by the
// roots whose keys are pinned and those that they vouch for. own has the key, with any
// certificate of it; id is whom the chain must name.
func FirstCredentials(own Credentials, chain, bundle []*x509.Certificate, pins []string, id Identity) (Credentials, error) {
	const op = "take the first certificate"
	known := Pinned(bundle, pins)
	if len(chain) == 0 || len(known) == 0 {
		return own, fault.New(fault.Untrusted, op, "no root that is pinned here is among those that came with it")
	}
	if string(chain[0].RawSubjectPublicKeyInfo) != string(own.Certificate.Leaf.RawSubjectPublicKeyInfo) {
		return own, fault.New(fault.Untrusted, op, "it is not of our key")
	}
	got, err := IdentityOf(chain[0])
	if err != nil {
		return own, err
	}
	if got != id {
		return own, fault.New(fault.Untrusted, op, fmt.Sprintf("it is of %s, not of %s", got.URI(), id.URI()))
	}
	own.Certificate.Leaf, own.Anchors = chain[0], known
	return own.Renewed(chain, bundle)
}
