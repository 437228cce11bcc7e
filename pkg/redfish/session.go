package redfish

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// session is one login on the BMC. It is immutable.
type session struct {
	token string
	uri   string // "" if the BMC did not name it
	creds Credentials
	// limited: it is good for nothing but a change of its account's password.
	limited bool
	account Link // as the BMC named it then, "" if it did not
}

// refusal remembers that the BMC did not accept some credentials.
type refusal struct {
	until time.Time
	rest  time.Duration
	err   error
}

// A refused password is not tried again soon: each try blocks bmcweb for about
// two seconds, and three lock the account where a lockout is set.
const (
	firstRest = 5 * time.Minute
	longRest  = time.Hour
	// Of a password that was good before: iDRACs refuse now and then for minutes
	// after their restart and take it the next time (dell/iDRAC-Redfish-Scripting#383).
	provenRest = 20 * time.Second
	fullRest   = 30 * time.Second // when there is no room for one more session
	maxReaped  = 100              // sessions looked at when orphans are searched
)

// recall learns from the store whether an earlier life left a session open.
func (c *Client) recall() error {
	c.reap = true // without a store nobody knows
	if c.cfg.Sessions == nil {
		return nil
	}
	uri, open, err := c.cfg.Sessions.Load(c.cfg.BMC)
	if err != nil {
		return fmt.Errorf("recall the session on BMC %s: %w", c.cfg.BMC, err)
	}
	c.orphan, c.reap = uri, open
	return nil
}

func (c *Client) current() *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// drop forgets a session that the BMC no longer knows.
func (c *Client) drop(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == s {
		c.session = nil
	}
}

// alive reports whether the BMC still knows a session.
func (c *Client) alive(ctx context.Context, s *session) bool {
	if s.uri == "" {
		return false
	}
	reply, err := c.exchange(ctx, request{method: http.MethodGet, uri: s.uri, token: s.token})
	return err == nil && reply.Status == http.StatusOK
}

// restLogin keeps us from logging in again and again on a BMC that gives out
// sessions and then does not know them: each would occupy one of its few slots.
func (c *Client) restLogin(creds Credentials) {
	c.keepRefusal(creds, refusal{until: c.cfg.Now().Add(firstRest), rest: firstRest, err: fault.New(fault.Denied, "log in",
		"the BMC accepts the login and then does not know the session").WithHint("restart the BMC: (bmc-reset), or by its own page")})
}

// ensure returns the open session or logs in; calls at the same time share one
// login.
func (c *Client) ensure(ctx context.Context) (*session, error) {
	if s := c.current(); s != nil {
		return s, nil
	}
	if err := c.lock(ctx, "log in"); err != nil {
		return nil, err
	}
	defer c.unlock()
	if s := c.current(); s != nil {
		return s, nil
	}
	return c.logIn(ctx)
}

func (c *Client) lock(ctx context.Context, op string) error {
	select {
	case c.login <- struct{}{}:
		return nil
	case <-ctx.Done():
		return classify(ctx, op, ctx.Err())
	}
}

func (c *Client) unlock() { <-c.login }

// logIn tries each candidate once. The caller holds login.
func (c *Client) logIn(ctx context.Context) (*session, error) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return nil, fault.New(fault.Canceled, "log in", "the connection to this BMC was closed")
	}
	candidates, err := c.cfg.Logins.Candidates(c.cfg.BMC)
	if err != nil {
		return nil, fmt.Errorf("get the login of BMC %s: %w", c.cfg.BMC, err)
	}
	err = fault.New(fault.Denied, "log in", "no login is known for this BMC").
		WithHint("give the BMC's user and password to the agent")
	for _, creds := range candidates {
		var s *session
		if s, err = c.tryLogin(ctx, creds); err == nil {
			if len(candidates) > 1 {
				err = c.cfg.Logins.Prove(c.cfg.BMC, creds)
			}
			return s, err
		}
		if !fault.Is(err, fault.Denied) {
			return nil, err
		}
	}
	return nil, err
}

// LogIn opens a session with creds in place of the present one, which a change
// of the password has ended, and proves by it that the BMC accepts them. A
// refusal of an earlier time does not count.
func (c *Client) LogIn(ctx context.Context, creds Credentials) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Limits.Write)
	defer cancel()
	if err := c.lock(ctx, "log in"); err != nil {
		return err
	}
	defer c.unlock()
	c.mu.Lock()
	old := c.session
	c.session = nil
	delete(c.refused, creds)
	c.mu.Unlock()
	s, err := c.tryLogin(ctx, creds)
	if err == nil && old != nil && old.uri != "" {
		// Not every BMC ends the sessions of a changed password. A failure here
		// leaves one that ends by the BMC's timeout.
		_ = c.endSession(ctx, &session{token: s.token, uri: old.uri})
	}
	return err
}

// Try proves creds of any user by a session that is deleted at once. Our own
// session stays.
func (c *Client) Try(ctx context.Context, creds Credentials) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Limits.Write)
	defer cancel()
	if err := c.lock(ctx, "log in"); err != nil {
		return err
	}
	defer c.unlock()
	s, err := c.openSession(ctx, creds)
	if err == nil { // also for who does not want the answer any more
		ending, stop := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Limits.Write)
		defer stop()
		err = c.endSession(ending, s)
	}
	if err != nil && !fault.Is(err, fault.Denied) {
		c.reap = true // it may be open all the same
	}
	return err
}

// Credentials are those that the BMC accepts from us: the open session's, or
// those of a login made now.
func (c *Client) Credentials(ctx context.Context) (Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Limits.Read)
	defer cancel()
	s, err := c.present(ctx)
	if err != nil {
		return Credentials{}, err
	}
	return s.creds, nil
}

// Secrets are the open session's token and password, so that they can be taken
// out of what is shown.
func (c *Client) Secrets() []fleet.Secret {
	s := c.current()
	if s == nil {
		return nil
	}
	return []fleet.Secret{fleet.NewSecret(s.token), s.creds.Password}
}

// LoggedIn is what the open session was opened with, or the user of our
// certificate; false if there is neither.
func (c *Client) LoggedIn() (Credentials, bool) {
	if c.byCertificate() {
		return Credentials{User: c.terms().User}, true
	}
	if s := c.current(); s != nil {
		return s.creds, true
	}
	return Credentials{}, false
}

// MustChange reports whether the BMC lets the open session do nothing but change
// the password of its own account, and which account that is. It can't be
// looked up: every read is refused until then.
func (c *Client) MustChange() (account Link, must bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil || !c.session.limited {
		return "", false
	}
	if c.session.account != "" {
		return c.session.account, true
	}
	accounts := Link("/redfish/v1/AccountService")
	if c.root != nil && c.root.AccountService != "" {
		accounts = c.root.AccountService
	}
	return accounts + "/Accounts/" + Link(url.PathEscape(c.session.creds.User)), true
}

// noteLimit keeps that the BMC has begun to demand a new password.
func (c *Client) noteLimit(s *session, reply *Reply) {
	if reply == nil || reply.Status != http.StatusForbidden || s.limited {
		return
	}
	account, must := changeRequired(reply.Body)
	if !must {
		return
	}
	limited := *s
	limited.limited, limited.account = true, account
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == s {
		c.session = &limited
	}
}

// tryLogin opens our session with creds unless they were refused lately. The
// caller holds login.
func (c *Client) tryLogin(ctx context.Context, creds Credentials) (*session, error) {
	now := c.cfg.Now()
	c.mu.Lock()
	old, refused := c.refused[creds]
	c.mu.Unlock()
	if refused && now.Before(old.until) {
		return nil, old.err
	}
	if err := c.remember(c.orphan); err != nil {
		return nil, err
	}
	s, err := c.openSession(ctx, creds)
	if err == nil {
		return s, c.adopt(ctx, s)
	}
	if Uncertain(err) {
		c.reap = true // the BMC may have opened it all the same
	}
	switch {
	case tableFull(err):
		c.keepRefusal(creds, refusal{until: now.Add(fullRest), err: err})
	case fault.Is(err, fault.Denied):
		rest := min(max(2*old.rest, firstRest), longRest)
		if creds == c.proven && old.rest == 0 {
			rest = provenRest
		}
		err = fault.New(fault.Denied, "log in", fmt.Sprintf("the BMC refuses user %q with the password known for it", creds.User)).
			WithHint(fmt.Sprintf("give the agent the right password; it tries the old one again in %s at the earliest, lest the account is locked", rest))
		c.keepRefusal(creds, refusal{until: now.Add(rest), rest: rest, err: err})
	}
	return nil, err
}

func (c *Client) keepRefusal(creds Credentials, r refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused[creds] = r
}

// adopt makes s the session in use: it is remembered before it is used, then
// what an earlier life left open is deleted.
func (c *Client) adopt(ctx context.Context, s *session) error {
	if err := c.remember(s.uri); err != nil {
		_ = c.endSession(ctx, s) // the store's failure is the one to tell
		return err
	}
	c.mu.Lock()
	c.session = s
	delete(c.refused, s.creds)
	c.mu.Unlock()
	c.proven = s.creds
	if c.reap {
		c.reapOrphans(ctx, s)
	}
	return nil
}

func (c *Client) remember(uri string) error {
	if c.cfg.Sessions == nil {
		return nil
	}
	if err := c.cfg.Sessions.Save(c.cfg.BMC, uri); err != nil {
		return fmt.Errorf("remember the session on BMC %s: %w", c.cfg.BMC, err)
	}
	return nil
}

// request is one within the session or, while it has no token, in the name of
// its user alone (basic authentication).
func (s *session) request(method, uri string) request {
	req := request{method: method, uri: uri, token: s.token}
	if s.token == "" && s.creds.User != "" {
		req.basic, req.secrets = &s.creds, []fleet.Secret{s.creds.Password}
	}
	return req
}

// reapOrphans deletes what an earlier life left open: the session it
// remembered and every one with our Context. It returns how many are gone, and
// has no more to do if nothing failed.
func (c *Client) reapOrphans(ctx context.Context, s *session) (gone int) {
	orphans := map[string]bool{}
	if c.orphan != "" {
		orphans[c.orphan] = true
	}
	all, err := Members(ctx, rawGetter{c, s}, c.rootSessions(), maxReaped)
	done := err == nil
	for _, uri := range all {
		var found struct{ Context Text }
		body, err := rawGetter{c, s}.Fetch(ctx, string(uri))
		if err == nil && Decode(body, &found) == nil && c.cfg.Context != "" && string(found.Context) == c.cfg.Context {
			orphans[string(uri)] = true
		}
	}
	delete(orphans, s.uri)
	if in := c.current(); in != nil {
		delete(orphans, in.uri)
	}
	for uri := range orphans {
		if err := c.endSession(ctx, &session{token: s.token, creds: s.creds, uri: uri}); err != nil {
			done = false
			continue
		}
		gone++
	}
	if done {
		c.reap, c.orphan = false, ""
	}
	return gone
}

func (c *Client) rootSessions() Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.root.SessionsURI()
}

// rawGetter reads with a session that is just being opened.
type rawGetter struct {
	c *Client
	s *session
}

func (g rawGetter) Fetch(ctx context.Context, uri string) ([]byte, error) {
	reply, err := g.ask(ctx, uri)
	if err != nil {
		return nil, err
	}
	return reply.Body, nil
}

func (g rawGetter) ask(ctx context.Context, uri string) (*Reply, error) {
	req := g.s.request(http.MethodGet, uri)
	reply, err := g.c.exchange(ctx, req)
	if reply, err = g.c.judge(req, reply, err); err != nil {
		return nil, err
	}
	reply.Body, _ = Repair(reply.Body)
	if err := checkJSON(reply.Body, g.c.cfg.Limits.Depth); err != nil {
		return nil, fault.Wrap(kindOfJSON(err), req.op(), err)
	}
	return reply, nil
}

// Close deletes the session and closes the connection. Give it a context that
// is alive: the one of the process usually has ended by then. A session that
// could not be deleted stays remembered for the next start.
func (c *Client) Close(ctx context.Context) error {
	defer c.ways.Load().close()
	c.sweepLast(ctx)
	return c.end(ctx, true)
}

// LogOut deletes the session, if there is one. The next request that needs one
// logs in again.
func (c *Client) LogOut(ctx context.Context) error { return c.end(ctx, false) }

func (c *Client) end(ctx context.Context, forever bool) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Limits.Read)
	defer cancel()
	if err := c.lock(ctx, "log out"); err != nil {
		return err
	}
	defer c.unlock()
	c.mu.Lock()
	s := c.session
	c.session, c.closed = nil, c.closed || forever
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	if forever && c.reap { // a login was cut short, and may have opened one
		c.reapOrphans(ctx, s)
	}
	if err := c.endSession(ctx, s); err != nil {
		c.reap, c.orphan = true, s.uri
		return fmt.Errorf("log out: %w", err)
	}
	return c.forgetSession()
}

// forgetSession says durably that none of ours is open. The caller holds login.
func (c *Client) forgetSession() error {
	if c.cfg.Sessions == nil || c.reap {
		return nil
	}
	if err := c.cfg.Sessions.Forget(c.cfg.BMC); err != nil {
		return fmt.Errorf("forget the session on BMC %s: %w", c.cfg.BMC, err)
	}
	return nil
}
