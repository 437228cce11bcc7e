// Package author is the operator's side of trust: it seals secrets for agents
// whose keys it has verified, signs orders, and brings the commands around it.
// Nothing of it runs in a coordinator or an agent.
package author

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"time"

	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/seal"
	"github.com/chiba-mesh/chiba/trust/sign"
)

// Files beside a context.
const (
	KeyFile  = "author.key" // the author's key, mode 0600
	RootKey  = "root.key"   // the key that signs the policy of authors, mode 0600
	rootName = "root"
)

// Author seals and signs for one context. It is safe for concurrent use.
type Author struct {
	roots *x509.CertPool // of agents' certificates
	site  string         // whose agents they are; "": it is not known,
	lost  error          // and this is why
	key   *sign.Key      // nil: nothing can be signed,
	noKey error          // and this is why
	now   func() time.Time
}

var _ client.Author = (*Author)(nil)

// Open reads what c names: the CA, and the author's key if there is one.
func Open(c client.Context) (client.Author, error) {
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fault.Wrap(fault.BadInput, "read the CA", err)
	}
	a := &Author{roots: x509.NewCertPool(), now: time.Now}
	if !a.roots.AppendCertsFromPEM(pem) {
		return nil, fault.New(fault.BadInput, "read the CA", "no certificate in "+c.CA)
	}
	a.key, a.noKey = sign.OpenKey(keyPath(c)) // looking needs none
	a.site, a.lost = siteOf(c)
	return a, nil
}

// siteOf is the site of the certificate that stands in the context, or beside its CA.
func siteOf(c client.Context) (string, error) {
	path := c.Cert
	if path == "" {
		path = filepath.Join(filepath.Dir(c.CA), trust.CertFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fault.Wrap(fault.BadInput, "read our certificate", err)
	}
	chain, err := trust.DecodePEM(text)
	if err != nil {
		return "", err
	}
	id, err := trust.IdentityOf(chain[0])
	return id.Site, err
}

// keyPath is where the author's key of a context is: beside that of the certificate,
// if the context does not name it.
func keyPath(c client.Context) string {
	if c.Author != "" {
		return c.Author
	}
	return filepath.Join(filepath.Dir(c.Key), KeyFile)
}

// Seal implements client.Author. Every key must be vouched for by the certificate
// of its rack's agent, which our own CA has issued.
func (a *Author) Seal(racks []client.SealKey, use string, plain fleet.Secret) (string, error) {
	if a.lost != nil {
		return "", a.lost
	}
	recipients := make([]seal.Recipient, 0, len(racks))
	for _, r := range racks {
		recipient, err := seal.Verify(r.Proof, trust.Domain{Site: a.site, Rack: string(r.Rack)}, a.roots, a.now())
		if err != nil {
			return "", err
		}
		recipients = append(recipients, recipient)
	}
	return seal.Seal(recipients, use, plain)
}

// Sign implements client.Author.
func (a *Author) Sign(o order.Order) ([]byte, error) {
	if a.key == nil {
		return nil, fault.Wrap(fault.Denied, "sign "+o.Name, a.noKey)
	}
	return sign.Order(o, a.key)
}
