package ca

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
)

// Site is the CA of a site, which its coordinators hold. It is safe for concurrent
// use, and immutable: after a renewal open it again.
type Site struct {
	authority
	domain trust.Domain
	bundle []*x509.Certificate
	nets   []netip.Prefix // of BMCs
}

// OpenSite reads the CA that Root.EnsureSite has put into dir: key.pem, chain.pem
// and ca.pem; and the networks that KeepNets has.
func OpenSite(dir string) (*Site, error) {
	const op = "open the site's CA"
	key, err := trust.ReadKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, damaged(op, dir, err)
	}
	chain, err := readCerts(filepath.Join(dir, chainFile))
	if err != nil {
		return nil, damaged(op, dir, err)
	}
	bundle, err := readCerts(filepath.Join(dir, trust.CAFile))
	if err != nil {
		return nil, damaged(op, dir, err)
	}
	if len(chain) != 2 || !chain[0].IsCA || len(chain[0].PermittedURIDomains) == 0 || !matches(chain[0], key) {
		return nil, damaged(op, dir, errors.New("its chain and its key are not of one site"))
	}
	domain, err := trust.ParseDomain(chain[0].PermittedURIDomains[0])
	if err != nil {
		return nil, damaged(op, dir, err)
	}
	nets, err := readNets(dir)
	if err != nil {
		return nil, damaged(op, dir, err)
	}
	return &Site{authority: authority{cert: chain[0], key: key, up: chain[1:], now: time.Now}, domain: domain, bundle: bundle, nets: nets}, nil
}

// At is the same CA by another clock.
func (s *Site) At(now func() time.Time) *Site {
	c := *s
	c.now = now
	return &c
}

// Domain is the site's trust domain.
func (s *Site) Domain() trust.Domain { return s.domain }

// NotAfter is when the CA's own certificate ends.
func (s *Site) NotAfter() time.Time { return s.cert.NotAfter }

// Bundle is what everybody is to believe, as Root.Bundle has told. The slice is
// the caller's.
func (s *Site) Bundle() []*x509.Certificate { return slices.Clone(s.bundle) }

// In is the identity with the names that it lacks: this site's, and the default
// rack's.
func (s *Site) In(id trust.Identity) trust.Identity {
	id.Site = cmp.Or(id.Site, s.domain.Site)
	if id.Role == trust.Agent {
		id.Rack = cmp.Or(id.Rack, trust.DefaultRack)
	}
	return id
}

// Issue signs a leaf for a coordinator, operator or agent, and returns its chain up
// to the root. The subject and all names are ours. Coordinators also get the host
// names and addresses in hosts.
func (s *Site) Issue(id trust.Identity, public crypto.PublicKey, hosts ...string) ([]*x509.Certificate, error) {
	return s.issue(nil, id, public, hosts)
}

// NewSerial is a serial number for IssueAgent.
func NewSerial() []byte { return serial().Bytes() }

// IssueAgent signs a leaf for an agent with a serial number and a time that were
// decided before: asked again with both, it signs the same certificate.
func (s *Site) IssueAgent(id trust.Identity, public crypto.PublicKey, number []byte, at time.Time) ([]*x509.Certificate, error) {
	if id.Role != trust.Agent {
		return nil, fault.New(fault.Denied, "issue certificate for "+id.String(), "it is no agent")
	}
	then := s.At(func() time.Time { return at })
	return then.issue(new(big.Int).SetBytes(number), id, public, nil)
}

// Secret is a secret of 32 bytes that all who hold this CA have, and nobody else: one
// for each label.
func (s *Site) Secret(label string) ([]byte, error) {
	const op = "derive a secret of the site"
	key, ok := s.key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fault.New(fault.Unsupported, op, "the CA's key does not lie in a file")
	}
	raw, err := key.Bytes()
	if err != nil {
		return nil, fault.Wrap(fault.Internal, op, err)
	}
	secret, err := hkdf.Key(sha256.New, raw, nil, label, sha256.Size)
	return secret, fault.Wrap(fault.Internal, op, err)
}

func (s *Site) issue(number *big.Int, id trust.Identity, public crypto.PublicKey, hosts []string) ([]*x509.Certificate, error) {
	id = s.In(id)
	op := "issue certificate for " + id.String()
	if err := id.Check(); err != nil {
		return nil, fault.Wrap(fault.BadInput, op, err)
	}
	if id.Site != s.domain.Site {
		return nil, fault.New(fault.Denied, op, fmt.Sprintf("this is the CA of site %s, not of %s", s.domain.Site, id.Site))
	}
	life, ok := map[trust.Role]time.Duration{
		trust.Coordinator: CoordinatorLife, trust.Operator: OperatorLife, trust.Agent: AgentLife,
	}[id.Role]
	if !ok {
		return nil, fault.New(fault.Denied, op, "a site's CA does not issue that role; the rack's does")
	}
	leaf := &x509.Certificate{
		Subject:      pkix.Name{CommonName: id.Name, OrganizationalUnit: []string{string(id.Role)}},
		SerialNumber: number,
		NotAfter:     s.now().Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{id.URI()},
	}
	if id.Role == trust.Coordinator {
		leaf.ExtKeyUsage = append(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		if err := s.addHosts(op, leaf, hosts); err != nil {
			return nil, err
		}
	}
	cert, err := s.sign(op, leaf, public)
	if err != nil {
		return nil, err
	}
	return s.chain(cert), nil
}

// addHosts puts host names and addresses into a certificate. One that the CA may not
// name is refused: nobody could verify any of the certificate with it.
func (s *Site) addHosts(op string, leaf *x509.Certificate, hosts []string) error {
	for _, host := range hosts {
		ip := net.ParseIP(host)
		switch {
		case ip != nil:
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		case !s.names(host):
			return fault.New(fault.Denied, op, fmt.Sprintf("the CA of site %s may not name %q", s.domain.Site, host)).
				WithHint("have it name the domain, and be signed again: chiba ca site " + s.domain.Site + " --dns DOMAIN --root DIR --dir DIR")
		default:
			leaf.DNSNames = append(leaf.DNSNames, host)
		}
	}
	return nil
}

// names reports whether the CA's name constraints let it name a host (RFC 5280,
// 4.2.1.10: a domain and all below it).
func (s *Site) names(host string) bool {
	return slices.ContainsFunc(s.cert.PermittedDNSDomains, func(domain string) bool {
		return strings.EqualFold(host, domain) || strings.HasSuffix(strings.ToLower(host), "."+strings.ToLower(domain))
	})
}

// Ensure puts credentials for id into dir, in the files that trust.Load reads,
// unless there are some that this CA issued, for id and the hosts, with more than half
// of their life left. A key that is there is kept: what was sealed to or pinned on it
// stays good. Without hosts it keeps those that are named already.
func (s *Site) Ensure(dir string, id trust.Identity, hosts ...string) error {
	id = s.In(id)
	op := "issue certificate for " + id.String()
	if err := id.Check(); err != nil {
		return fault.Wrap(fault.BadInput, op, err)
	}
	have := certOf(dir, id)
	if len(hosts) == 0 {
		hosts = hostsOf(have)
	}
	if s.good(dir, have, hosts) {
		return fault.Wrap(fault.Unavailable, op, writeCerts(filepath.Join(dir, trust.CAFile), s.bundle...))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	key, err := ensureKey(filepath.Join(dir, trust.KeyFile))
	if err != nil {
		return fault.Wrap(fault.BadInput, op, err)
	}
	chain, err := s.Issue(id, key.Public(), hosts...)
	if err != nil {
		return err
	}
	return fault.Wrap(fault.Unavailable, op, errors.Join(
		writeCerts(filepath.Join(dir, trust.CAFile), s.bundle...),
		writeCerts(filepath.Join(dir, trust.CertFile), chain...),
	))
}

// certOf is the certificate in dir if it is of id, whoever has issued it; else nil.
func certOf(dir string, id trust.Identity) *x509.Certificate {
	chain, err := readCerts(filepath.Join(dir, trust.CertFile))
	if err != nil {
		return nil
	}
	if have, err := trust.IdentityOf(chain[0]); err != nil || have != id {
		return nil
	}
	return chain[0]
}

func hostsOf(leaf *x509.Certificate) []string {
	if leaf == nil {
		return nil
	}
	hosts := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return hosts
}

// good reports whether the credentials in dir, whose certificate is leaf, can stay.
func (s *Site) good(dir string, leaf *x509.Certificate, hosts []string) bool {
	if _, err := trust.Load(dir); err != nil || leaf == nil {
		return false
	}
	missing := slices.ContainsFunc(hosts, func(host string) bool { return leaf.VerifyHostname(host) != nil })
	return !missing && leaf.CheckSignatureFrom(s.cert) == nil && s.now().Before(trust.HalfLife(leaf))
}

// SignRack signs the CA of a rack for the key of a request in PEM form, which
// Rack.CSR makes, and returns its chain up to the root. Certificates below it may name
// addresses in the site's networks of BMCs; without any, none can name an address.
func (s *Site) SignRack(csr []byte, domain trust.Domain) ([]*x509.Certificate, error) {
	op := "sign the CA of rack " + domain.Rack
	if domain.Site != s.domain.Site || !trust.ValidLabel(domain.Rack) {
		return nil, fault.New(fault.Denied, op, fmt.Sprintf("%s is no rack of site %s", domain, s.domain.Site))
	}
	public, err := request(op, csr)
	if err != nil {
		return nil, err
	}
	template := rackTemplate(domain, s.now().Add(RackLife))
	if len(s.nets) == 0 {
		template.ExcludedIPRanges = everyAddress()
	}
	for _, n := range s.nets {
		template.PermittedIPRanges = append(template.PermittedIPRanges, ipNet(n))
	}
	cert, err := s.sign(op, template, public)
	if err != nil {
		return nil, err
	}
	return s.chain(cert), nil
}
