package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Options of an Endpoint.
type Options struct {
	// Denied are those who are refused whatever they show; nil: nobody.
	Denied *Denials
	// Now is the time at which certificates are judged, usually Clock.Now; nil:
	// time.Now.
	Now func() time.Time
}

// Endpoint is what a process is on the wire: its credentials of the moment, the
// deny list and the clock that it judges others by. Its TLS configurations read
// all three anew for each handshake, so that renewed credentials and a new
// denial count from the next one on. It is safe for concurrent use.
type Endpoint struct {
	creds  atomic.Pointer[Credentials]
	denied *Denials
	now    func() time.Time
}

// NewEndpoint is an endpoint with its first credentials.
func NewEndpoint(c Credentials, o Options) *Endpoint {
	e := &Endpoint{denied: o.Denied, now: o.Now}
	if e.now == nil {
		e.now = time.Now
	}
	e.creds.Store(&c)
	return e
}

// Credentials are those of the moment.
func (e *Endpoint) Credentials() Credentials { return *e.creds.Load() }

// Replace puts renewed credentials in place for the handshakes to come.
func (e *Endpoint) Replace(c Credentials) { e.creds.Store(&c) }

// Server is the configuration of a listener that lets in only certificates of
// the given roles, of our own site.
func (e *Endpoint) Server(clients ...Role) *tls.Config {
	conf := e.config(x509.ExtKeyUsageClientAuth, clients)
	// VerifyConnection does the whole check of the chain, for both directions in
	// one place, with the roots of the moment.
	conf.ClientAuth = tls.RequireAnyClientCert
	return conf
}

// Newcomers is the configuration of a door for machines that have no identity yet:
// it proves ours, and takes any one certificate, because only its key matters, which
// the handshake proves. Whom to believe what is decided behind the door.
func (e *Endpoint) Newcomers() *tls.Config {
	conf := e.config(x509.ExtKeyUsageClientAuth, nil)
	conf.ClientAuth = tls.RequireAnyClientCert
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		const op = "let a newcomer in"
		if len(state.PeerCertificates) != 1 {
			return fault.New(fault.Untrusted, op, "it sends more than one certificate")
		}
		if key, ok := state.PeerCertificates[0].PublicKey.(*ecdsa.PublicKey); !ok || key.Curve == elliptic.P224() {
			return fault.New(fault.Untrusted, op, "its key is of a kind that is not certified")
		}
		return nil
	}
	return conf
}

// Client is the configuration of a caller that believes only a coordinator of its
// own site. A coordinator is known by its identity, not by its address: racks
// reach it by whatever address their site gives it.
func (e *Endpoint) Client() *tls.Config {
	conf := e.config(x509.ExtKeyUsageServerAuth, []Role{Coordinator})
	conf.InsecureSkipVerify = true // VerifyConnection does the whole check, as above
	return conf
}

// Agents is the configuration of both ends of a connection between two agents of
// our site; name is whom a caller expects, "" for a listener. Agents have no
// certificate for servers: which of two calls the other is chance here, and their
// certificate says who they are either way.
func (e *Endpoint) Agents(name string) *tls.Config {
	conf := e.config(x509.ExtKeyUsageClientAuth, []Role{Agent})
	conf.ClientAuth = tls.RequireAnyClientCert
	conf.InsecureSkipVerify = true // VerifyConnection does the whole check
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		id, err := e.Verify(state.PeerCertificates, x509.ExtKeyUsageClientAuth, Agent)
		if err == nil && name != "" && id.Name != name {
			err = fault.New(fault.Untrusted, "verify peer", fmt.Sprintf("%s answers in place of agent %s", id, name))
		}
		return err
	}
	return conf
}

// config is common to both sides: TLS 1.3, no resumption, and the check of the
// peer in VerifyConnection, which would also run for a resumed session.
func (e *Endpoint) config(usage x509.ExtKeyUsage, roles []Role) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		Time:                   e.now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &e.creds.Load().Certificate, nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &e.creds.Load().Certificate, nil
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := e.Verify(state.PeerCertificates, usage, roles...)
			return err
		},
	}
}

// Verify checks a chain as it was sent, leaf first: that it leads to a root of
// ours and is good now for the usage, that a site issued the leaf itself, that
// the leaf is of one of the roles in our own site, and that nobody in it is denied.
func (e *Endpoint) Verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, roles ...Role) (Identity, error) {
	const op = "verify peer"
	creds := e.creds.Load()
	id, path, err := identify(chain, creds, usage, e.now())
	if err != nil {
		return Identity{}, err
	}
	own, err := IdentityOf(creds.Certificate.Leaf)
	switch {
	case err != nil:
		return Identity{}, err
	case !slices.Contains(roles, id.Role):
		return Identity{}, fault.New(fault.Untrusted, op, fmt.Sprintf("%s may not speak here", id))
	case id.Site != own.Site:
		return Identity{}, fault.New(fault.Untrusted, op, fmt.Sprintf("%s is of site %s, not of %s", id, id.Site, own.Site))
	}
	return id, e.denied.Check(path, id)
}

// Signer is whose chain that is, leaf first, of somebody who has signed something
// that came over others: it must lead to one of roots, through a site's CA.
func Signer(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) (Identity, error) {
	id, _, err := identify(chain, &Credentials{Roots: roots}, x509.ExtKeyUsageClientAuth, now)
	return id, err
}

// identify checks a chain by the roots of creds, and tells whose it is and the way to
// the root.
func identify(chain []*x509.Certificate, creds *Credentials, usage x509.ExtKeyUsage, now time.Time) (Identity, []*x509.Certificate, error) {
	const op = "verify peer"
	if len(chain) == 0 {
		return Identity{}, nil, fault.New(fault.Untrusted, op, "it sent no certificate")
	}
	path := creds.issuers.path(chain, usage, now)
	if path == nil {
		verified, err := verify(chain, creds.Roots, usage, now)
		if err != nil {
			return Identity{}, nil, err
		}
		if path = issuedBySite(verified); path != nil {
			creds.issuers.remember(path)
		}
	}
	id, err := IdentityOf(chain[0])
	if err != nil {
		return Identity{}, nil, err
	}
	if path == nil {
		// A rack CA may name only its own rack, but it must not make agents either:
		// it lies in the rack, and a denied agent could make itself a new one.
		return Identity{}, nil, fault.New(fault.Untrusted, op, fmt.Sprintf("the certificate of %s was not issued by a site CA", id))
	}
	return id, path, nil
}

// issuedBySite is the chain in which the leaf was issued by a site CA, which is
// itself issued by a root; nil if there is none.
func issuedBySite(chains [][]*x509.Certificate) []*x509.Certificate {
	for _, c := range chains {
		if len(c) == 3 {
			return c
		}
	}
	return nil
}

func verify(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) ([][]*x509.Certificate, error) {
	chains, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: pool(chain[1:]), KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: now,
	})
	if err != nil {
		return nil, judged(err, now)
	}
	return chains, nil
}

// judged makes an error of verification readable: one of time names both times,
// because mostly it is a clock that is wrong.
func judged(err error, now time.Time) error {
	const op = "verify peer"
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		c := invalid.Cert
		return fault.New(fault.Untrusted, op, fmt.Sprintf("the certificate %q is good from %s to %s, and here it is %s",
			c.Subject.CommonName, stamp(c.NotBefore), stamp(c.NotAfter), stamp(now))).
			WithHint("compare the clocks of the two machines; if they are right, renew that certificate")
	}
	return fault.Wrap(fault.Untrusted, op, err)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
