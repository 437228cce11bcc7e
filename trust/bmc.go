package trust

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// BMCPeer is one node's BMC as an agent expects it after take-over: a server
// certificate of its own rack CA, for exactly this node. It is known by its name
// in that certificate and dialled by address.
type BMCPeer struct {
	// Identity is the node's: role BMC, the rack's domain, the node's name.
	Identity Identity
	// Anchors are the self-signed twins of the rack CA, the current one and,
	// while its key is being changed, the other; or the mesh's roots.
	Anchors []*x509.Certificate
	// Pins, if there are any, are the only public keys that are taken.
	Pins []string
	// Certificate is our client certificate; nil: none is shown.
	Certificate func() (*tls.Certificate, error)
	// Now is the time at which certificates are judged; nil: time.Now.
	Now func() time.Time
	// Asked, if set, is called when the BMC asks for a client certificate: one
	// whose web server does not ask can't be logged in to by one.
	Asked func()
}

// Client is the TLS configuration of a connection to the BMC. Sessions are not
// resumed, so that a changed trust store bites at once. TLS 1.2 is the least that
// BMCs speak.
func (b BMCPeer) Client() *tls.Config {
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12,
		Time:       b.Now,
		// The address is no name of a BMC; VerifyConnection does the whole check:
		// chain, time, usage, identity, pin.
		InsecureSkipVerify:     true, //nolint:gosec // see above
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			return b.Verify(state.PeerCertificates)
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if b.Asked != nil {
				b.Asked()
			}
			if b.Certificate == nil {
				return &tls.Certificate{}, nil // TLS for: we have none
			}
			return b.Certificate()
		},
	}
	return conf
}

// Verify checks the chain that a BMC has sent, leaf first. An error has the kind
// fault.Untrusted.
func (b BMCPeer) Verify(chain []*x509.Certificate) error {
	const op = "verify the BMC"
	if len(chain) == 0 {
		return fault.New(fault.Untrusted, op, "it sent no certificate")
	}
	now := time.Now()
	if b.Now != nil {
		now = b.Now()
	}
	if _, err := verify(chain, pool(b.Anchors), x509.ExtKeyUsageServerAuth, now); err != nil {
		return err
	}
	id, err := IdentityOf(chain[0])
	switch {
	case err != nil:
		return err
	case b.Identity.Role != BMC || id != b.Identity:
		return fault.New(fault.Untrusted, op, fmt.Sprintf("its certificate is of %s, not of %s", id.URI(), b.Identity.URI()))
	case len(b.Pins) > 0 && !slices.Contains(b.Pins, Pin(chain[0])):
		return fault.New(fault.Untrusted, op, fmt.Sprintf("its key is %s, not the one that is known", Pin(chain[0])))
	}
	return nil
}

// decodePin is the hash in a pin.
func decodePin(pin string) ([]byte, error) {
	text, ok := strings.CutPrefix(pin, "sha256/")
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || !ok || len(raw) != sha256.Size {
		return nil, errors.New("a pin is sha256/ and 32 bytes in base64")
	}
	return raw, nil
}
