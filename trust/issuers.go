package trust

import (
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"sync"
	"time"
)

// mostIssuers is how many CAs of sites are remembered: more than one is a change of it
// or of the root.
const mostIssuers = 16

// issuers remembers the CAs of sites whose way to a root was verified. A root's key is
// on P-384, one verification of which costs as much as all the rest of a handshake, and
// an agent's session is verified again with each ping. Whatever else is asked of a
// chain is asked anew each time. Safe for concurrent use; nil remembers nothing.
type issuers struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]issuer // by the CA's certificate
}

// issuer is the CA of a site and the root that has signed it.
type issuer struct {
	site, root *x509.Certificate
	pool       *x509.CertPool // of the site alone
}

// remember takes the verified way [leaf, site, root].
func (i *issuers) remember(path []*x509.Certificate) {
	if i == nil || !plain(path[2]) {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known == nil || len(i.known) >= mostIssuers {
		i.known = map[[sha256.Size]byte]issuer{}
	}
	i.known[sha256.Sum256(path[1].Raw)] = issuer{site: path[1], root: path[2], pool: pool(path[1:2])}
}

// plain reports whether a root asks of a leaf only what IdentityOf asks as well: that
// its name ends with Suffix. What another one asks is found by the whole check alone.
func plain(root *x509.Certificate) bool {
	others := len(root.ExtKeyUsage) + len(root.UnknownExtKeyUsage) + len(root.ExcludedURIDomains) +
		len(root.PermittedDNSDomains) + len(root.ExcludedDNSDomains) + len(root.PermittedIPRanges) + len(root.ExcludedIPRanges) +
		len(root.PermittedEmailAddresses) + len(root.ExcludedEmailAddresses)
	names := len(root.PermittedURIDomains) == 0 || slices.Contains(root.PermittedURIDomains, "."+Suffix)
	room := root.MaxPathLen > 0 || root.MaxPathLen == -1 || root.MaxPathLen == 0 && !root.MaxPathLenZero
	return others == 0 && names && room
}

// path is the way of a leaf through a CA that is remembered; nil: the whole check has
// to tell whether there is one.
func (i *issuers) path(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) []*x509.Certificate {
	if i == nil || len(chain) < 2 {
		return nil
	}
	i.mu.Lock()
	by, ok := i.known[sha256.Sum256(chain[1].Raw)]
	i.mu.Unlock()
	if !ok || now.Before(by.root.NotBefore) || now.After(by.root.NotAfter) {
		return nil
	}
	found, err := chain[0].Verify(x509.VerifyOptions{Roots: by.pool, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: now})
	if err != nil || len(found[0]) != 2 {
		return nil
	}
	return []*x509.Certificate{chain[0], by.site, by.root}
}
