package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
)

// Root is the root of a mesh, and the next one, which everybody believes already.
// Its directory belongs offline: it is needed to sign a site's CA, twice a year.
// A Root is not safe for concurrent use.
type Root struct {
	shelf   shelf
	current authority
	next    *x509.Certificate
	cross   *x509.Certificate // next, signed by the current one
	old     *x509.Certificate // the one before, until Retire
}

// OpenRoot reads the root in dir, and makes it and the next one on first use. The
// directory is readable for its owner alone.
func OpenRoot(dir string) (*Root, error) {
	const op = "open the root"
	r := &Root{shelf: shelf(dir)}
	n, err := r.shelf.current()
	if errors.Is(err, fs.ErrNotExist) {
		n, err = 1, r.create()
	}
	if err != nil {
		return nil, damaged(op, dir, err)
	}
	if err := r.read(n); err != nil {
		return nil, damaged(op, dir, err)
	}
	return r, nil
}

// create makes the first two generations.
func (r *Root) create() error {
	if err := errors.Join(r.make(1), r.make(2)); err != nil {
		return err
	}
	return errors.Join(r.vouch(1), r.shelf.setCurrent(1))
}

func (r *Root) make(generation int) error {
	if whole, err := r.shelf.whole(generation); whole || err != nil {
		return err
	}
	if err := r.shelf.begin(generation); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := caTemplate("Chiba root", now.Add(RootLife))
	template.NotBefore = now.Add(-backdate)
	// Only identities of a mesh, whatever is asked of it.
	template.PermittedURIDomains = uriDomains(trust.Suffix)
	template.MaxPathLen = 2
	// The subject tells the generations apart for a person.
	template.Subject.SerialNumber = serial().Text(16)
	cert, err := selfSign("make a root", template, key)
	if err != nil {
		return err
	}
	return errors.Join(writeCerts(r.shelf.path(generation, certFile), cert), trust.WriteKey(r.shelf.path(generation, keyFile), key))
}

// vouch has a generation sign the next one, which is how a change of the root is
// believed by those who know only the present one.
func (r *Root) vouch(generation int) error {
	by, err := r.authority(generation)
	if err != nil {
		return err
	}
	next, err := readCerts(r.shelf.path(generation+1, certFile))
	if err != nil {
		return err
	}
	template := caTemplate("", next[0].NotAfter)
	template.Subject = next[0].Subject
	template.PermittedURIDomains, template.MaxPathLen = next[0].PermittedURIDomains, next[0].MaxPathLen
	cross, err := by.sign("vouch for the next root", template, next[0].PublicKey)
	if err != nil {
		return err
	}
	return writeCerts(r.shelf.path(generation+1, crossFile), cross)
}

func (r *Root) authority(generation int) (authority, error) {
	key, err := trust.ReadKey(r.shelf.path(generation, keyFile))
	if err != nil {
		return authority{}, err
	}
	certs, err := readCerts(r.shelf.path(generation, certFile))
	if err != nil {
		return authority{}, err
	}
	if !matches(certs[0], key) {
		return authority{}, errors.New(r.shelf.path(generation, certFile) + " is not of the key beside it")
	}
	return authority{cert: certs[0], key: key, now: time.Now}, nil
}

func (r *Root) read(n int) (err error) {
	if r.current, err = r.authority(n); err != nil {
		return err
	}
	next, err := readCerts(r.shelf.path(n+1, certFile))
	if err != nil {
		return err
	}
	cross, err := readCerts(r.shelf.path(n+1, crossFile))
	if err != nil {
		return err
	}
	r.next, r.cross, r.old = next[0], cross[0], nil
	old, err := readCerts(r.shelf.path(n-1, certFile))
	if err == nil {
		r.old = old[0]
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// Bundle is what everybody is to believe: the current root, the next, after a
// rotation the one before, and the certificate by which the current one vouches
// for the next (see trust.Successors).
func (r *Root) Bundle() []*x509.Certificate {
	bundle := []*x509.Certificate{r.current.cert, r.next, r.cross}
	if r.old != nil {
		bundle = append(bundle, r.old)
	}
	return bundle
}

// Rotate makes the next root the current one, and a new next one. Sites must be
// signed again: EnsureSite. What the old root has signed is believed until
// Retire. Calling it again after a crash goes on where it was.
func (r *Root) Rotate() error {
	const op = "rotate the root"
	n, err := r.shelf.current()
	if err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	if r.old != nil {
		return fault.New(fault.Conflict, op, "the rotation before is not over").WithHint("end it with Retire when every site was signed again")
	}
	if err := errors.Join(r.make(n+2), r.vouch(n+1), r.shelf.setCurrent(n+1), r.read(n+1)); err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	return nil
}

// Renewal is how long after a rotation everybody has renewed their certificates.
const Renewal = day

// Rotated is when the current root became that; false if no rotation is open.
func (r *Root) Rotated() (at time.Time, open bool) {
	if r.old == nil {
		return at, false
	}
	info, err := os.Stat(filepath.Join(string(r.shelf), currentFile))
	if err != nil {
		return at, true // long ago is not known: it is as if it were now
	}
	return info.ModTime(), true
}

// Retire ends a rotation: the old root is no longer in the bundle, and its key is
// deleted.
func (r *Root) Retire() error {
	n, err := r.shelf.current()
	if err == nil && n > 1 {
		err = os.RemoveAll(r.shelf.path(n-1, ""))
	}
	if err != nil {
		return fault.Wrap(fault.Unavailable, "retire the old root", err)
	}
	r.old = nil
	return nil
}

// EnsureSite puts a site's CA into dir, unless there is one of this root with
// two thirds of its life left. Its key is made there on first use and kept. dns are
// DNS domains outside Chiba's own that coordinators of the site are called by; without
// any those that it names already stay.
func (r *Root) EnsureSite(dir, site string, dns ...string) error {
	op := "sign the CA of site " + site
	if !trust.ValidLabel(site) {
		return fault.New(fault.BadInput, op, "that is no name of a site; "+trust.LabelRule)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	key, err := ensureKey(filepath.Join(dir, keyFile))
	if err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	have, err := OpenSite(dir)
	if err == nil && have.Domain().Site != site {
		return fault.New(fault.Conflict, op, dir+" holds the CA of site "+have.Domain().Site).WithHint("name another directory")
	}
	domain := trust.Domain{Site: site}.String()
	domains := append([]string{domain}, dns...)
	if err == nil && len(dns) == 0 {
		domains = have.cert.PermittedDNSDomains
	}
	if err != nil || have.cert.CheckSignatureFrom(r.current.cert) != nil ||
		!slices.Equal(have.cert.PermittedDNSDomains, domains) || !time.Now().Before(have.cert.NotAfter.Add(-SiteLife*2/3)) {
		template := caTemplate("Chiba site "+site, time.Now().Add(SiteLife))
		template.MaxPathLen = 1
		template.PermittedURIDomains = uriDomains(domain)
		template.PermittedDNSDomains = domains
		cert, signErr := r.current.sign(op, template, key.Public())
		if signErr != nil {
			return signErr
		}
		if err := writeCerts(filepath.Join(dir, chainFile), cert, r.current.cert); err != nil {
			return fault.Wrap(fault.Unavailable, op, err)
		}
	}
	return fault.Wrap(fault.Unavailable, op, writeCerts(filepath.Join(dir, trust.CAFile), r.Bundle()...))
}

// ensureKey reads a key, and makes it on first use.
func ensureKey(path string) (*ecdsa.PrivateKey, error) {
	have, err := trust.ReadKey(path)
	if err == nil {
		if key, ok := have.(*ecdsa.PrivateKey); ok {
			return key, nil
		}
		return nil, errors.New(path + " holds no EC key")
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return key, trust.WriteKey(path, key)
}

// uriDomains permits the SPIFFE IDs of a domain and those below it. RFC 5280 means
// one host by a name and those below it by a leading period; Go takes the first
// for both, OpenSSL does not.
func uriDomains(domain string) []string { return []string{domain, "." + domain} }
