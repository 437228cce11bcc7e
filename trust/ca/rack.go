package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
)

// Rack is the CA of a rack, whose key lies at the rack's agent, so that work on its
// BMCs goes on while nobody else is reached. It issues with the certificate that
// the site's CA has signed; until that has come once, and when it has ended, it
// issues below its twin alone, which is all that its BMCs and its agent need.
//
// A new key comes in three steps, between which any time may pass: Rekey makes it,
// and Twins are two; Switch issues with it, when every BMC has both; Retire drops
// the old one, when every BMC has a certificate of the new.
//
// It is safe for concurrent use.
type Rack struct {
	shelf  shelf
	domain trust.Domain
	now    func() time.Time

	mu   sync.Mutex
	n    int // the generation that signs
	keys map[int]*rackKey
}

// rackKey is one generation: the key, its twin, and its chain once it is signed.
type rackKey struct {
	key   crypto.Signer
	twin  *x509.Certificate
	chain []*x509.Certificate // rack, site, root; nil: not signed yet
}

// OpenRack opens the CA of a rack in dir, and makes its first key on first use.
// The directory is readable for its owner alone. A nil now is time.Now.
func OpenRack(dir string, domain trust.Domain, now func() time.Time) (*Rack, error) {
	const op = "open the rack's CA"
	if !trust.ValidLabel(domain.Site) || !trust.ValidLabel(domain.Rack) {
		return nil, fault.New(fault.BadInput, op, fmt.Sprintf("%q is no domain of a rack; of each name: %s", domain, trust.LabelRule))
	}
	if now == nil {
		now = time.Now
	}
	r := &Rack{shelf: shelf(dir), domain: domain, now: now, keys: map[int]*rackKey{}}
	n, err := r.shelf.current()
	if errors.Is(err, fs.ErrNotExist) {
		n, err = 1, errors.Join(r.make(1), r.shelf.setCurrent(1))
	}
	if err != nil {
		return nil, damaged(op, dir, err)
	}
	r.n = n
	for _, generation := range []int{n - 1, n, n + 1} {
		if err := r.read(generation); err != nil {
			return nil, damaged(op, dir, err)
		}
	}
	if r.keys[n] == nil {
		return nil, damaged(op, dir, fmt.Errorf("its key %s is missing", r.shelf.path(n, keyFile)))
	}
	return r, nil
}

func (r *Rack) make(generation int) error {
	if err := r.shelf.begin(generation); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := rackTemplate(r.domain, r.now().Add(TwinLife))
	template.NotBefore = bmcEpoch
	twin, err := selfSign("make a rack's twin", template, key)
	if err != nil {
		return err
	}
	return errors.Join(writeCerts(r.shelf.path(generation, certFile), twin), trust.WriteKey(r.shelf.path(generation, keyFile), key))
}

func (r *Rack) read(generation int) error {
	whole, err := r.shelf.whole(generation)
	if !whole || err != nil {
		return err
	}
	k := &rackKey{}
	if k.key, err = trust.ReadKey(r.shelf.path(generation, keyFile)); err != nil {
		return err
	}
	twin, err := readCerts(r.shelf.path(generation, certFile))
	if err != nil {
		return err
	}
	k.twin = twin[0]
	if !matches(k.twin, k.key) || len(k.twin.PermittedURIDomains) == 0 || k.twin.PermittedURIDomains[0] != r.domain.String() {
		return fmt.Errorf("%s is not of %s and the key beside it", r.shelf.path(generation, certFile), r.domain)
	}
	k.chain, err = readCerts(r.shelf.path(generation, chainFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r.keys[generation] = k
	return nil
}

// rackTemplate is what a rack's certificate and its twin have in common. URIs are
// of the rack's domain alone; so are DNS names. The twin does not constrain
// addresses: nobody looks for one below it.
func rackTemplate(d trust.Domain, notAfter time.Time) *x509.Certificate {
	t := caTemplate("Chiba rack "+d.Rack+"."+d.Site, notAfter)
	t.MaxPathLenZero = true
	t.PermittedURIDomains = []string{d.String()}
	t.PermittedDNSDomains = []string{d.String()}
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return t
}

// Domain is the rack's trust domain.
func (r *Rack) Domain() trust.Domain { return r.domain }

// Twin is the anchor for the trust store of a BMC, in PEM form: of the key that
// issues. While the key is being changed a BMC needs all Twins.
func (r *Rack) Twin() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return trust.EncodePEM([]*x509.Certificate{r.keys[r.n].twin})
}

// Next is the twin of the next key in PEM form, nil if no change of key has begun.
func (r *Rack) Next() []byte { return r.twinOf(1) }

// Before is the twin of the key before in PEM form, nil if it is retired.
func (r *Rack) Before() []byte { return r.twinOf(-1) }

func (r *Rack) twinOf(step int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.keys[r.n+step]
	if k == nil {
		return nil
	}
	return trust.EncodePEM([]*x509.Certificate{k.twin})
}

// Generation is the number of the key that issues, from 1 on.
func (r *Rack) Generation() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// Twins are all anchors that BMCs and agent are to have now: the one of the key
// that issues first, and during a change of key the other.
func (r *Rack) Twins() []*x509.Certificate {
	r.mu.Lock()
	defer r.mu.Unlock()
	twins := []*x509.Certificate{r.keys[r.n].twin}
	for _, other := range []int{r.n - 1, r.n + 1} {
		if k := r.keys[other]; k != nil {
			twins = append(twins, k.twin)
		}
	}
	return twins
}

// CSR is the request for a certificate by the site's CA, in PEM form, if one is
// due: there is none yet, or the one there is was issued a week ago. It is for the
// new key while the key is being changed.
func (r *Rack) CSR() (csr []byte, due bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, generation := range []int{r.n + 1, r.n} {
		k := r.keys[generation]
		if k == nil || len(k.chain) > 0 && r.now().Before(k.chain[0].NotBefore.Add(backdate+RackRenew)) {
			continue
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: k.twin.Subject}, k.key)
		if err != nil {
			return nil, false, fault.Wrap(fault.Internal, "request a certificate for the rack's CA", err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), true, nil
	}
	return nil, false, nil
}

// Install takes the chain that the site's CA has signed: rack, site, root. It must
// lead to one of the roots.
func (r *Rack) Install(chain, roots []*x509.Certificate) error {
	const op = "install the certificate of the rack's CA"
	if len(chain) != 3 {
		return fault.New(fault.Garbage, op, fmt.Sprintf("a chain of %d, not of rack, site and root", len(chain)))
	}
	if err := r.fits(chain, roots); err != nil {
		return fault.Wrap(fault.Untrusted, op, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for generation, k := range r.keys {
		if !matches(chain[0], k.key) {
			continue
		}
		if err := writeCerts(r.shelf.path(generation, chainFile), chain...); err != nil {
			return fault.Wrap(fault.Unavailable, op, err)
		}
		k.chain = chain
		return nil
	}
	return fault.New(fault.Untrusted, op, "it is of another key than ours")
}

func (r *Rack) fits(chain, roots []*x509.Certificate) error {
	anchors, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		anchors.AddCert(c)
	}
	between.AddCert(chain[1])
	c := chain[0]
	_, err := c.Verify(x509.VerifyOptions{
		Roots: anchors, Intermediates: between, CurrentTime: r.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return err
	}
	if !c.IsCA || len(c.PermittedURIDomains) != 1 || c.PermittedURIDomains[0] != r.domain.String() {
		return errors.New("it is not for the CA of " + r.domain.String())
	}
	return nil
}

// Chain is the chain that issues now, from the rack's certificate up to the root,
// and whether there is one that has not ended.
func (r *Rack) Chain() ([]*x509.Certificate, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.keys[r.n]
	return k.chain, k.good(r.now())
}

// good reports whether the site's CA has signed the key, for now.
func (k *rackKey) good(now time.Time) bool {
	return len(k.chain) > 0 && !now.Before(k.chain[0].NotBefore) && now.Before(k.chain[0].NotAfter)
}

// Rekey makes the next key, unless there is one already.
func (r *Rack) Rekey() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	const op = "change the key of the rack's CA"
	if r.keys[r.n+1] != nil {
		return nil
	}
	if r.keys[r.n-1] != nil {
		return fault.New(fault.Conflict, op, "the change before is not over: a BMC may still need the old one")
	}
	return fault.Wrap(fault.Unavailable, op, errors.Join(r.make(r.n+1), r.read(r.n+1)))
}

// Abort ends a change of key that has not come to Switch: the next key is deleted.
func (r *Rack) Abort() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	const op = "abort the change of key of the rack's CA"
	if r.keys[r.n+1] == nil && r.keys[r.n-1] != nil {
		return fault.New(fault.Conflict, op, "the new key issues already").WithHint("it goes on by itself; change the key again when it is over")
	}
	if err := os.RemoveAll(r.shelf.path(r.n+1, "")); err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	delete(r.keys, r.n+1)
	return nil
}

// Switch issues with the next key from now on. It is for when every BMC has its
// twin.
func (r *Rack) Switch() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	const op = "switch to the next key of the rack's CA"
	if r.keys[r.n+1] == nil {
		return fault.New(fault.Conflict, op, "there is none")
	}
	if err := r.shelf.setCurrent(r.n + 1); err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	r.n++
	return nil
}

// Retire deletes the key before, if there is one. It is for when every BMC has a
// certificate of the new one.
func (r *Rack) Retire() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.RemoveAll(r.shelf.path(r.n-1, "")); err != nil {
		return fault.Wrap(fault.Unavailable, "retire the old key of the rack's CA", err)
	}
	delete(r.keys, r.n-1)
	return nil
}

// issuer is who signs now: below the site's certificate if that is good, else
// below the twin.
func (r *Rack) issuer() authority {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.keys[r.n]
	if !k.good(r.now()) {
		return authority{cert: k.twin, key: k.key, now: r.now}
	}
	return authority{cert: k.chain[0], key: k.key, up: k.chain[1:], now: r.now}
}

// NodeIdentity is that of the BMC of a node of the rack.
func (r *Rack) NodeIdentity(node string) trust.Identity {
	return trust.Identity{Role: trust.BMC, Domain: r.domain, Name: node}
}

// BMCServer signs the certificate of a BMC's HTTPS server, for the key of a request
// in PEM form, and returns its chain in PEM form, leaf first, without the root. Of
// addresses those go in that the rack may name and that are not link-local: a BMC is
// known by its node's name, not by where it is reached.
func (r *Rack) BMCServer(csr []byte, node string, addresses ...netip.Addr) ([]byte, error) {
	id := r.NodeIdentity(node)
	op := "issue certificate for " + id.String()
	if err := id.Check(); err != nil {
		return nil, fault.Wrap(fault.BadInput, op, err)
	}
	public, err := request(op, csr)
	if err != nil {
		return nil, err
	}
	by := r.issuer()
	leaf := &x509.Certificate{
		// With its blank it is nobody's account, if ever it were shown as a client's.
		Subject:     pkix.Name{CommonName: clip("BMC of " + node)},
		NotAfter:    r.now().Add(BMCLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{id.URI()},
		IPAddresses: permitted(by.cert, addresses),
	}
	if name := strings.ToLower(node); trust.ValidLabel(name) {
		leaf.DNSNames = []string{name + "." + r.domain.String()}
	}
	cert, err := by.sign(op, leaf, public)
	if err != nil {
		return nil, err
	}
	return below(by, cert), nil
}

// permitted are the addresses that the issuer may name.
func permitted(by *x509.Certificate, addresses []netip.Addr) []net.IP {
	var ips []net.IP
	for _, a := range addresses {
		ip := net.IP(a.WithZone("").Unmap().AsSlice())
		for _, n := range by.PermittedIPRanges {
			if n.Contains(ip) && !ip.IsLinkLocalUnicast() {
				ips = append(ips, ip)
				break
			}
		}
	}
	return ips
}

// BMCClient signs the certificate by which an agent logs in on its BMCs, and
// returns its chain in PEM form, leaf first, without the root. OpenBMC lets in whom
// the common name says, whatever else a certificate holds, even if the account is
// disabled: so the account is one of Chiba's (ValidAccount), and nobody else's.
func (r *Rack) BMCClient(account string, public crypto.PublicKey) ([]byte, error) {
	op := fmt.Sprintf("issue certificate for account %q", account)
	if !ValidAccount(account) {
		return nil, fault.New(fault.Denied, op, "only accounts of Chiba's own are let in by certificate").
			WithHint("the account is chiba- and at most 10 lower-case letters, digits or '-'")
	}
	id := trust.Identity{Role: trust.BMCClient, Domain: r.domain, Name: account}
	by := r.issuer()
	cert, err := by.sign(op, &x509.Certificate{
		Subject:     pkix.Name{CommonName: account},
		NotBefore:   bmcEpoch,
		NotAfter:    r.now().Add(BMCLife),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{id.URI()},
	}, public)
	if err != nil {
		return nil, err
	}
	return below(by, cert), nil
}

// below is a leaf and what lies between it and the anchor.
func below(by authority, leaf *x509.Certificate) []byte {
	chain := []*x509.Certificate{leaf}
	if len(by.up) > 0 {
		chain = append(chain, by.cert)
		chain = append(chain, by.up[:len(by.up)-1]...)
	}
	return trust.EncodePEM(chain)
}

const (
	accountPrefix = "chiba-"
	accountLength = 16 // of IPMI, which OpenBMC keeps to
)

// ValidAccount reports whether a rack may issue a client certificate for the
// account: chiba- and a DNS label, 16 characters at most.
func ValidAccount(account string) bool {
	rest, ok := strings.CutPrefix(account, accountPrefix)
	return ok && len(account) <= accountLength && trust.ValidLabel(rest)
}

// Account is the account of an agent on its BMCs: chiba-NAME if that fits, else
// with a hash in place of the name. Each agent has its own, so that one can shut
// out the other.
func Account(agent trust.Identity) string {
	if plain := accountPrefix + agent.Name; ValidAccount(plain) {
		return plain
	}
	sum := sha256.Sum256([]byte(agent.URI().String()))
	hash := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))
	return accountPrefix + hash[:accountLength-len(accountPrefix)]
}
