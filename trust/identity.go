// Package trust says who may speak. It names identities, reads them from
// certificates, and makes the TLS configurations in which each side checks the
// other. Its children do the rest: ca issues certificates, seal hides secrets for
// one agent.
//
// An identity is a SPIFFE ID (github.com/spiffe/spiffe, SPIFFE-ID.md) in the one
// URI name of the certificate. Every rack is a trust domain of its own, because
// that is what a name constraint of a CA can hold on to:
//
//	spiffe://osl1.chiba.internal/coordinator/c1
//	spiffe://osl1.chiba.internal/operator/ada
//	spiffe://r17.osl1.chiba.internal/agent/agent-r17
//	spiffe://r17.osl1.chiba.internal/bmc/node-04
//	spiffe://r17.osl1.chiba.internal/bmc-client/chiba-r17
package trust

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Suffix is what every trust domain ends with. The name is never looked up.
const Suffix = "chiba.internal"

// The names of a site and of a rack that were given none.
const (
	DefaultSite = "default"
	DefaultRack = "default"
)

// Role is what an identity may be.
type Role string

// The roles. Coordinators and operators live in the site's domain, the others in
// that of their rack.
const (
	Coordinator Role = "coordinator"
	Operator    Role = "operator" // a person or a program of theirs
	Agent       Role = "agent"
	BMC         Role = "bmc"        // the HTTPS server of a node's BMC
	BMCClient   Role = "bmc-client" // an agent towards its BMCs; named as its account there
)

// inRack says of each role whether its domain is a rack's.
func (r Role) inRack() (inRack, known bool) {
	switch r {
	case Coordinator, Operator:
		return false, true
	case Agent, BMC, BMCClient:
		return true, true
	}
	return false, false
}

// Domain is a trust domain: that of a site or, with a rack, that of the rack.
// Both names are DNS labels, see ValidLabel.
type Domain struct {
	Site string
	Rack string // "" for the site's own
}

// String is "r17.osl1.chiba.internal".
func (d Domain) String() string {
	site := cmp.Or(d.Site, DefaultSite) + "." + Suffix
	if d.Rack == "" {
		return site
	}
	return d.Rack + "." + site
}

// ParseDomain reads what String writes.
func ParseDomain(s string) (Domain, error) {
	rest, ok := strings.CutSuffix(s, "."+Suffix)
	rack, site, inRack := strings.Cut(rest, ".")
	if !inRack {
		rack, site = "", rest
	}
	if !ok || !ValidLabel(site) || inRack && !ValidLabel(rack) {
		return Domain{}, fault.New(fault.Untrusted, "read trust domain", fmt.Sprintf("%q is none of this mesh", s))
	}
	return Domain{Site: site, Rack: rack}, nil
}

// Identity is a role and a name in a domain. Identities can be compared.
type Identity struct {
	Role Role
	Domain
	Name string
}

// String is "agent r01".
func (id Identity) String() string { return string(id.Role) + " " + id.Name }

// URI is the SPIFFE ID.
func (id Identity) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.Domain.String(), Path: "/" + string(id.Role) + "/" + id.Name}
}

// Check says what is wrong with an identity, nil if nothing is.
func (id Identity) Check() error {
	const op = "check identity"
	inRack, known := id.Role.inRack()
	switch {
	case !known:
		return fault.New(fault.BadInput, op, fmt.Sprintf("%q is no role", id.Role))
	case !ValidName(id.Name):
		return fault.New(fault.BadInput, op, fmt.Sprintf("%q is no name; it takes 1 to 63 letters, digits, '-', '_' or '.'", id.Name))
	case !ValidLabel(id.Site):
		return fault.New(fault.BadInput, op, fmt.Sprintf("%q is no name of a site; %s", id.Site, LabelRule))
	case inRack && !ValidLabel(id.Rack):
		return fault.New(fault.BadInput, op, fmt.Sprintf("%q is no name of a rack; %s", id.Rack, LabelRule))
	case !inRack && id.Rack != "":
		return fault.New(fault.BadInput, op, fmt.Sprintf("%s can't be in a rack", id.Role))
	}
	return nil
}

// IdentityOf reads the identity of a certificate that has been verified. A
// certificate without exactly one valid SPIFFE ID of ours has none: one that has
// only a common name passes every name constraint.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	const op = "read identity"
	if cert == nil || len(cert.URIs) != 1 {
		return Identity{}, fault.New(fault.Untrusted, op, "the certificate does not name one identity")
	}
	uri := cert.URIs[0]
	none := fault.New(fault.Untrusted, op, fmt.Sprintf("%q is no identity of this mesh", uri)).
		WithHint("a certificate that an older build of chiba issued must be issued anew")
	domain, err := ParseDomain(uri.Host)
	if err != nil {
		return Identity{}, none
	}
	role, name, _ := strings.Cut(strings.TrimPrefix(uri.Path, "/"), "/")
	id := Identity{Role: Role(role), Domain: domain, Name: name}
	if id.Check() != nil || uri.String() != id.URI().String() {
		return Identity{}, none
	}
	return id, nil
}

// LabelRule tells a person what ValidLabel takes.
const LabelRule = "it takes 1 to 63 lower-case letters, digits or '-', not at an end"

// ValidLabel reports whether s can be the name of a site or a rack: one DNS label
// in lower case, because it becomes a part of a trust domain, and two names must
// never become the same.
func ValidLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
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
