// Package redfish is the one owner of a BMC's traffic. A Client holds one
// connection and one session, verifies whom it talks to, bounds every answer
// in time, size and depth, and turns each failure into a fault.Error with its
// kind. It is thin on purpose: callers decode what they read into structs of
// their own that tolerate a BMC's mistakes.
//
// The facts about BMCs here were seen on OpenBMC's bmcweb and in recorded trees
// of other vendors; the protocol is DMTF DSP0266. The package does not decide
// what to read or to write: that is agent/bmc's matter.
package redfish

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/scan"
)

// Credentials are one login on a BMC.
type Credentials struct {
	User     string
	Password fleet.Secret
}

// Logins supplies what to log in with. It is asked at each login, so that a
// changed password is picked up without a restart. Safe for concurrent use.
type Logins interface {
	// Candidates are tried in order. There is more than one only while a
	// changed password is not proven yet.
	Candidates(bmc string) ([]Credentials, error)
	// Prove tells which of several candidates the BMC accepted.
	Prove(bmc string, proven Credentials) error
}

// Sessions remembers durably that a session may be open on a BMC, so that it
// is deleted at the next start if this process dies. Safe for concurrent use.
type Sessions interface {
	// Save is called before each login with the URI last known (or ""), and
	// again with the new one before the session is used.
	Save(bmc, uri string) error
	// Load is the URI last saved; false if no session is open.
	Load(bmc string) (uri string, open bool, err error)
	// Forget is called when the session was deleted on the BMC.
	Forget(bmc string) error
}

// Config describes one BMC and how to treat it.
type Config struct {
	BMC     string // its identity, the key of Logins and Sessions
	Address string // host:port, or a host for port 443
	// Pin is "sha256/" and the base64 SHA-256 of the certificate's public key
	// (SubjectPublicKeyInfo). If set it alone decides whom to trust; a BMC's
	// own certificate has neither a chain nor a useful name.
	Pin string
	// Roots verify the chain where there is no Pin, for ServerName or, if that
	// is empty, for the host of Address.
	Roots      *x509.CertPool
	ServerName string
	// Terms, if set, take the place of Pin, Roots and ServerName. They are asked
	// for at each handshake and each request, so that a BMC's new key and our
	// own certificate are picked up without a new client; after a change call
	// Reconnect. It must be quick and safe for concurrent use.
	Terms    func() Terms
	Logins   Logins
	Sessions Sessions // nil: nothing is remembered; orphans are found by Context alone
	// Context marks our sessions on the BMC: "chiba:<rack>:<agent>".
	Context string
	Limits  Limits
	// Observe hears of every exchange, also those of logins and repetitions;
	// nil: nobody does. It may be called by several goroutines at once.
	Observe func(Exchange)
	Now     func() time.Time // nil: time.Now
}

// Exchange is one request and what became of it.
type Exchange struct {
	Method string
	Login  bool          // it opened a session
	Status int           // 0: there was no answer, or none within the limits
	Took   time.Duration // from the sending, or the wait for a connection, to the last byte
	Date   time.Time     // by the BMC's clock (RFC 9110, 6.6.1), in whole seconds; zero if it told none
}

// Busy reports whether the BMC asked to be left alone for a while.
func (e Exchange) Busy() bool {
	return e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable
}

// Limits bound what a BMC can make us do. Zero fields mean the default.
type Limits struct {
	Read  time.Duration // one read with its retries and login, default 10 s
	Write time.Duration // one write with its login, default 30 s
	Body  int64         // bytes of one answer, default 8 MiB
	Depth int           // nesting of one answer, default 64
	Conns int           // connections where the BMC speaks HTTP/1.1, default 1
}

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&l.Read, 10*time.Second)
	set(&l.Write, 30*time.Second)
	if l.Body <= 0 {
		l.Body = 8 << 20
	}
	if l.Depth <= 0 {
		l.Depth = 64
	}
	if l.Conns <= 0 {
		l.Conns = 1
	}
	return l
}

// Client talks to one BMC. It is safe for concurrent use; how many calls run
// at once is the caller's to bound.
type Client struct {
	cfg  Config
	base string // https://host:port
	tls  *tls.Config
	ways atomic.Pointer[ways]
	peer peer
	h2   atomic.Bool

	bodies sync.Pool // of *bytes.Buffer, for Walk

	login chan struct{} // held by whoever opens or closes the session

	mu       sync.Mutex
	session  *session // nil: not logged in
	root     *Root
	evidence Evidence
	profile  Profile
	tagged   bool              // it has asked for tags
	tags     map[string]string // by URI, where writes need them
	refused  map[Credentials]refusal
	closed   bool

	// Guarded by login.
	reap      bool   // sessions of an earlier life may be open
	orphan    string // the URI of one, if it is remembered
	noContext bool   // this BMC refuses the Context property
	proven    Credentials

	unknown time.Time // until when our certificate is no login, after a 401; guarded by mu
}

// New makes a client and touches no network.
func New(cfg Config) (*Client, error) {
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logins == nil {
		return nil, errors.New("redfish: no logins")
	}
	host, port, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		host, port = cfg.Address, "443"
	}
	if host == "" {
		return nil, fault.New(fault.BadInput, "reach the BMC", "its address is empty")
	}
	c := &Client{
		cfg:     cfg,
		base:    (&url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}).String(), // escapes the zone of an IPv6 address
		login:   make(chan struct{}, 1),
		refused: map[Credentials]refusal{},
		profile: Generic(),
		tags:    map[string]string{},
	}
	if c.tls, err = c.handshake(host); err != nil {
		return nil, err
	}
	c.ways.Store(c.newWays())
	if err := c.recall(); err != nil {
		return nil, err
	}
	return c, nil
}

// HTTP2 reports whether the BMC answered over HTTP/2, where several reads may
// share the one connection.
func (c *Client) HTTP2() bool { return c.h2.Load() }

// Fetch reads the resource at uri, repairs it (see Repair) and checks that it is
// JSON within limits. With an error of kind Garbage it returns what the BMC sent
// all the same. It is asked for once more when the connection drops, and up to
// three times more within its deadline when the BMC asks to wait.
func (c *Client) Fetch(ctx context.Context, uri string) ([]byte, error) {
	reply, err := c.call(ctx, request{method: http.MethodGet, uri: uri})
	if err != nil {
		return nil, err
	}
	body := reply.Body
	err = checkJSON(body, c.cfg.Limits.Depth)
	if errors.Is(err, errNotJSON) {
		body, _ = Repair(body)
		err = checkJSON(body, c.cfg.Limits.Depth)
	}
	if err != nil {
		return body, fault.Wrap(kindOfJSON(err), "read "+uri, err)
	}
	c.keepTag(uri, reply)
	return body, nil
}

// Walk reads the resource at uri as Fetch does and has it walked once, in place of
// a check and a decoding after it: for what is large and read often. What the
// scanner hands out is valid only within read. An error may come after read has seen
// a part of the resource.
func (c *Client) Walk(ctx context.Context, uri string, read func(*scan.Scanner)) error {
	buf, again := c.bodies.Get().(*bytes.Buffer)
	if !again {
		buf = &bytes.Buffer{}
	}
	defer func() {
		if buf.Cap() <= maxKept {
			c.bodies.Put(buf)
		}
	}()
	reply, err := c.call(ctx, request{method: http.MethodGet, uri: uri, into: buf})
	if err != nil {
		return err
	}
	s := scan.New(reply.Body, c.cfg.Limits.Depth)
	read(s)
	if err := notJSON(s.End(), c.cfg.Limits.Depth); err != nil {
		return fault.Wrap(kindOfJSON(err), "read "+uri, err)
	}
	c.keepTag(uri, reply)
	return nil
}

// maxKept bounds the memory that is kept for the next walk.
const maxKept = 256 << 10

// Post creates a member of a collection or calls an action.
func (c *Client) Post(ctx context.Context, uri string, body any) (*Reply, error) {
	req, err := newWrite(http.MethodPost, uri, body)
	if err != nil {
		return nil, err
	}
	return c.call(ctx, req)
}

// Delete removes the resource at uri.
func (c *Client) Delete(ctx context.Context, uri string) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodDelete, uri: uri})
}

// Confidential is the body of a write that holds secrets: nothing of the BMC's
// answer that repeats one of them reaches an error.
type Confidential struct {
	Body    any
	Secrets []fleet.Secret
}

func newWrite(method, uri string, body any) (request, error) {
	req := request{method: method, uri: uri}
	if conf, ok := body.(Confidential); ok {
		body, req.secrets = conf.Body, conf.Secrets
	}
	raw, err := encode(body)
	if err != nil {
		return request{}, fmt.Errorf("encode the body for %s: %w", uri, err)
	}
	req.body = raw
	return req, nil
}
