package redfish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Key is one key that a BMC may show. Both halves hold if both are given: a
// certificate of an authority is then good for this one key of this one BMC.
type Key struct {
	// Pin is "sha256/" and the base64 SHA-256 of the public key.
	Pin string
	// Roots, if set, must have issued the certificate, for exactly URI: the one
	// name of that kind in it.
	Roots *x509.CertPool
	URI   string
}

// Terms are whom we believe on the other side and what we show it. They are
// immutable.
type Terms struct {
	// Keys are those that the BMC may show, any of them. There are two only
	// while it may have changed from one to the other.
	Keys []Key
	// Certificate is shown to a BMC that asks for one; nil: none is.
	Certificate *tls.Certificate
	// User is whom the BMC takes the owner of Certificate for. If it is set,
	// requests go without a session; a BMC that answers 401 to that is tried
	// with a session, and again by certificate after a minute.
	User string
}

// ways are the two kinds of connection to the BMC.
type ways struct{ short, long *http.Client }

// newWays gives each way a configuration of its own: a transport writes into it at
// its first request, and somebody may be connecting anew meanwhile.
func (c *Client) newWays() *ways {
	return &ways{
		short: &http.Client{Transport: transport(c.cfg.Limits, c.tls.Clone()), CheckRedirect: stayHome},
		long:  &http.Client{Transport: aside(c.cfg.Limits, c.tls), CheckRedirect: stayHome},
	}
}

func (w *ways) close() {
	w.short.CloseIdleConnections()
	w.long.CloseIdleConnections()
}

// Reconnect makes the next request open a new connection: the old one keeps the
// key and the certificate of its handshake. What is under way ends on it.
func (c *Client) Reconnect() {
	c.mu.Lock()
	c.unknown = time.Time{}
	c.mu.Unlock()
	c.ways.Swap(c.newWays()).close()
}

// Peer is what a BMC showed in the last handshake that we believed.
type Peer struct {
	Certificate *x509.Certificate
	// Asked: it wanted a certificate of ours. An OpenBMC build with the web
	// interface does not (bmcweb#296), nor does one without mutual TLS.
	Asked bool
}

// Peer is what the BMC showed last; its Certificate is nil before the first
// handshake.
func (c *Client) Peer() Peer { return c.peer.get() }

type peer struct {
	mu  sync.Mutex
	now Peer
}

func (p *peer) get() Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *peer) met(cert *x509.Certificate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = Peer{Certificate: cert}
}

func (p *peer) asked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Asked = true
}

// terms are those of this moment.
func (c *Client) terms() Terms {
	if c.cfg.Terms == nil {
		return Terms{Keys: []Key{{Pin: c.cfg.Pin}}}
	}
	return c.cfg.Terms()
}

// handshake is the TLS configuration that checks the BMC's key against the
// terms or, without terms and pin, its chain and name. Sessions are not resumed
// (there is no ClientSessionCache): a resumed one would skip what the BMC's
// truststore says by now.
func (c *Client) handshake(host string) (*tls.Config, error) {
	if c.cfg.Terms == nil && c.cfg.Pin == "" {
		return chained(c.cfg, host)
	}
	for _, k := range c.terms().Keys {
		if err := k.check(); err != nil {
			return nil, err
		}
	}
	return c.secured(&c.peer, func() *tls.Certificate { return c.terms().Certificate }), nil
}

// secured is a configuration that believes what the terms say and shows ours.
func (c *Client) secured(seen *peer, ours func() *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// The chain and the name of a BMC's own certificate mean nothing;
		// VerifyConnection compares its key with those we expect, and its chain
		// where we know the authority, on every handshake and before a byte of
		// ours is sent.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := believe(c.terms().Keys, cs); err != nil {
				return err
			}
			seen.met(cs.PeerCertificates[0])
			return nil
		},
		// It is called after VerifyConnection, and only if the BMC asks.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			seen.asked()
			if cert := ours(); cert != nil {
				return cert, nil
			}
			return &tls.Certificate{}, nil
		},
	}
}

// chained believes an authority and a name.
func chained(cfg Config, host string) (*tls.Config, error) {
	if cfg.Roots == nil {
		return nil, fault.New(fault.BadInput, "reach the BMC", "there is neither a pin nor a root certificate to know it by").
			WithHint("give the BMC's pin (sha256/…) in the agent's catalogue")
	}
	name := cfg.ServerName
	if name == "" {
		name = host
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots, ServerName: name}, nil
}

// ValidPin reports whether pin has the form of one.
func ValidPin(pin string) bool {
	text, ok := strings.CutPrefix(pin, pinPrefix)
	raw, err := base64.StdEncoding.DecodeString(text)
	return ok && err == nil && len(raw) == sha256.Size
}

func (k Key) check() error {
	if ValidPin(k.Pin) {
		return nil
	}
	return fault.New(fault.BadInput, "reach the BMC", fmt.Sprintf("its pin %q is not sha256/ and 32 bytes in base64", k.Pin))
}

// believe decides whether the other side is the BMC.
func believe(keys []Key, cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return fault.New(fault.Untrusted, "", "the BMC showed no certificate")
	}
	got := PinOf(cs.PeerCertificates[0])
	var expected []string
	for _, k := range keys {
		if subtle.ConstantTimeCompare([]byte(got), []byte(k.Pin)) == 1 {
			return k.verify(cs.PeerCertificates)
		}
		expected = append(expected, k.Pin)
	}
	return fault.New(fault.Untrusted, "", fmt.Sprintf("the BMC's key is %s, expected %s", got, strings.Join(expected, " or "))).
		WithHint("if the BMC was replaced or made a new key, and you know why, accept it: chiba bmc accept NODE --pin " + got + "; else somebody may stand between")
}

// verify checks the chain. It is checked at a time at which the certificate is
// valid: the key itself is the one we know, and a certificate that ran out while
// we were away must not keep us from renewing it.
func (k Key) verify(chain []*x509.Certificate) error {
	if k.Roots == nil {
		return nil
	}
	leaf, between := chain[0], x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: k.Roots, Intermediates: between, CurrentTime: leaf.NotAfter,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err == nil && (len(leaf.URIs) != 1 || leaf.URIs[0].String() != k.URI) {
		err = fmt.Errorf("it names %v", leaf.URIs)
	}
	if err != nil {
		return fault.New(fault.Untrusted, "", "the BMC's certificate is not the one of "+k.URI+": "+short(err.Error()))
	}
	return nil
}

// certificateRest is how long a certificate that the BMC answered with 401 is
// not tried again.
const certificateRest = time.Minute

// byCertificate reports whether our certificate is a login now.
func (c *Client) byCertificate() bool {
	if c.terms().User == "" {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.cfg.Now().Before(c.unknown)
}

func (c *Client) restCertificate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unknown = c.cfg.Now().Add(certificateRest)
}

// present is what goes with a request: nothing but the certificate, or a session.
func (c *Client) present(ctx context.Context) (*session, error) {
	if c.byCertificate() {
		return &session{creds: Credentials{User: c.terms().User}}, nil
	}
	return c.ensure(ctx)
}

// sweep deletes, by certificate, the sessions that an earlier life left open or
// that were in use before the certificate was.
func (c *Client) sweep(ctx context.Context) {
	select {
	case c.login <- struct{}{}:
	default:
		return // another is at it
	}
	defer c.unlock()
	if !c.reap || c.current() != nil {
		return
	}
	c.mu.Lock()
	known := c.root != nil
	c.mu.Unlock()
	if !known {
		return // the first request is the one for the root
	}
	c.reapOrphans(ctx, &session{})
	// A failure leaves the note of an open session, which costs one more look.
	_ = c.forgetSession()
}

// sweepLast is sweep for one who stops before anything was asked: what an earlier
// life left open must not outlive two.
func (c *Client) sweepLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Limits.Read)
	defer cancel()
	if !c.byCertificate() || c.lock(ctx, "log out") != nil {
		return
	}
	owes := c.reap
	c.unlock()
	if !owes {
		return
	}
	if _, err := c.Root(ctx); err == nil {
		c.sweep(ctx)
	}
}

// TryCertificate proves on a new connection that the BMC takes cert for a login.
// It reports whether the BMC asked for one at all. The read is of the sessions,
// which nobody sees without a login.
func (c *Client) TryCertificate(ctx context.Context, cert *tls.Certificate) (asked bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Limits.Read)
	defer cancel()
	root, err := c.Root(ctx)
	if err != nil {
		return false, err
	}
	var seen peer
	t := transport(c.cfg.Limits, c.secured(&seen, func() *tls.Certificate { return cert }))
	defer t.CloseIdleConnections()
	req := request{method: http.MethodGet, uri: string(root.SessionsURI())}
	r, err := c.build(ctx, req)
	if err != nil {
		return false, err
	}
	res, err := (&http.Client{Transport: t, CheckRedirect: stayHome}).Do(r)
	if err != nil {
		return seen.get().Asked, classify(ctx, "prove the certificate", err)
	}
	reply, err := c.whole(res, new(bytes.Buffer))
	if err == nil && reply.Status == http.StatusUnauthorized {
		err = errors.New("the BMC does not take our certificate for a login")
		return seen.get().Asked, fault.Wrap(fault.Denied, "prove the certificate", err)
	}
	_, err = c.judge(req, reply, err)
	return seen.get().Asked, err
}
