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
}

// OpenSite reads the CA that Root.EnsureSite has put into dir: key.pem, chain.pem
// and ca.pem.
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
	return &Site{authority: authority{cert: chain[0], key: key, up: chain[1:], now: time.Now}, domain: domain, bundle: bundle}, nil
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
		addHosts(leaf, hosts)
	}
	cert, err := s.sign(op, leaf, public)
	if err != nil {
		return nil, err
	}
	return s.chain(cert), nil
}

func addHosts(leaf *x509.Certificate, hosts []string) {
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, host)
		}
	}
}

// Ensure puts credentials for id into dir, in the files that trust.Load reads,
// unless there are some that this CA issued, for id, with more than half of their
// life left. A key that is there is kept: what was sealed to or pinned on it stays
// good.
func (s *Site) Ensure(dir string, id trust.Identity, hosts ...string) error {
	id = s.In(id)
	op := "issue certificate for " + id.String()
	if err := id.Check(); err != nil {
		return fault.Wrap(fault.BadInput, op, err)
	}
	if s.good(dir, id) {
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

func (s *Site) good(dir string, id trust.Identity) bool {
	creds, err := trust.Load(dir)
	if err != nil {
		return false
	}
	leaf := creds.Certificate.Leaf
	have, err := trust.IdentityOf(leaf)
	return err == nil && have == id && leaf.CheckSignatureFrom(s.cert) == nil && s.now().Before(trust.HalfLife(leaf))
}

// SignRack signs the CA of a rack for the key of a request in PEM form, which
// Rack.CSR makes, and returns its chain up to the root. nets are the networks of
// the rack's BMCs, whose addresses their certificates may name; without any, no
// certificate below can name an address.
func (s *Site) SignRack(csr []byte, domain trust.Domain, nets ...netip.Prefix) ([]*x509.Certificate, error) {
	op := "sign the CA of rack " + domain.Rack
	if domain.Site != s.domain.Site || !trust.ValidLabel(domain.Rack) {
		return nil, fault.New(fault.Denied, op, fmt.Sprintf("%s is no rack of site %s", domain, s.domain.Site))
	}
	public, err := request(op, csr)
	if err != nil {
		return nil, err
	}
	template := rackTemplate(domain, s.now().Add(RackLife))
	if len(nets) == 0 {
		template.ExcludedIPRanges = everyAddress()
	}
	for _, n := range nets {
		template.PermittedIPRanges = append(template.PermittedIPRanges, ipNet(n))
	}
	cert, err := s.sign(op, template, public)
	if err != nil {
		return nil, err
	}
	return s.chain(cert), nil
}

func everyAddress() []*net.IPNet {
	return []*net.IPNet{ipNet(netip.MustParsePrefix("0.0.0.0/0")), ipNet(netip.MustParsePrefix("::/0"))}
}

func ipNet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
