// Package trust says who may speak. It names identities, reads them from
// certificates, and makes the TLS configurations in which each side checks the
// other's role. Its children do the rest: ca issues certificates, seal hides
// secrets for one agent.
//
// An identity is a SPIFFE ID (github.com/spiffe/spiffe, SPIFFE-ID.md) in the
// one URI name of the certificate: spiffe://chiba/agent/r01.
package trust

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Domain is the SPIFFE trust domain of every identity.
const Domain = "chiba"

// Role is what an identity may be.
type Role string

// The roles.
const (
	Coordinator Role = "coordinator"
	Agent       Role = "agent"
	Operator    Role = "operator" // a person or a program of theirs
)

// Identity is a role and a name in it.
type Identity struct {
	Role Role
	Name string
}

// String is "agent r01".
func (id Identity) String() string { return string(id.Role) + " " + id.Name }

// URI is the SPIFFE ID.
func (id Identity) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: Domain, Path: "/" + string(id.Role) + "/" + id.Name}
}

// IdentityOf reads the identity of a certificate that has been verified. A
// certificate without exactly one valid SPIFFE ID of ours has none.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	if cert == nil || len(cert.URIs) != 1 {
		return Identity{}, fault.New(fault.Untrusted, "read identity", "the certificate does not name one identity")
	}
	uri := cert.URIs[0]
	role, name, ok := strings.Cut(strings.TrimPrefix(uri.Path, "/"), "/")
	id := Identity{Role: Role(role), Name: name}
	if !ok || uri.Scheme != "spiffe" || uri.Host != Domain || !id.valid() {
		return Identity{}, fault.New(fault.Untrusted, "read identity", fmt.Sprintf("%q is no identity of this mesh", uri))
	}
	return id, nil
}

func (id Identity) valid() bool {
	return ValidName(id.Name) && slices.Contains([]Role{Coordinator, Agent, Operator}, id.Role)
}

// ValidName reports whether s can be the name of an identity: 1 to 63 of
// letters, digits, '-', '_' and '.', as host names and rack labels use them.
func ValidName(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	})
}

// Credentials are what a process proves its identity with, and whom it
// believes. They are immutable.
type Credentials struct {
	Certificate tls.Certificate
	Roots       *x509.CertPool
}

// Server is the configuration of a listener that lets in only certificates of
// the given roles. The peer's role is checked in VerifyConnection, which also
// runs where a session is resumed; resumption is off all the same.
func (c Credentials) Server(clients ...Role) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{c.Certificate},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              c.Roots,
		SessionTicketsDisabled: true,
		VerifyConnection:       requireRole(clients),
	}
}

// Client is the configuration of a caller that believes only a coordinator. A
// coordinator is known by its identity, not by its address: racks reach it by
// whatever address their site gives it, so the chain is checked here against our
// own roots instead of the host name.
func (c Credentials) Client() *tls.Config {
	checkRole := requireRole([]Role{Coordinator})
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{c.Certificate},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does the whole chain check, see above
		VerifyConnection: func(state tls.ConnectionState) error {
			if err := verifyChain(state, c.Roots, x509.ExtKeyUsageServerAuth); err != nil {
				return err
			}
			return checkRole(state)
		},
	}
}

func verifyChain(state tls.ConnectionState, roots *x509.CertPool, usage x509.ExtKeyUsage) error {
	if len(state.PeerCertificates) == 0 {
		return fault.New(fault.Untrusted, "verify server", "it sent no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	return fault.Wrap(fault.Untrusted, "verify server", err)
}

func requireRole(roles []Role) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return fault.New(fault.Untrusted, "verify peer", "it sent no certificate")
		}
		id, err := IdentityOf(state.PeerCertificates[0])
		if err != nil {
			return err
		}
		if !slices.Contains(roles, id.Role) {
			return fault.New(fault.Untrusted, "verify peer", fmt.Sprintf("%s may not speak here", id))
		}
		return nil
	}
}
