package bmcsim

import (
	"net/http"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
)

func hasCredentials(h http.Header) bool {
	return h.Get("X-Auth-Token") != "" || h.Get("Authorization") != "" || strings.Contains(h.Get("Cookie"), auth.Cookie+"=")
}

// identify finds out who asks, by token or by password. Nobody is an answer
// too: the route may be open.
func (b *BMC) identify(q *request) {
	if b.CurrentFault().Kind == Denies {
		return
	}
	if b.identifyCertificate(q) {
		return
	}
	scheme, rest, _ := strings.Cut(q.header.Get("Authorization"), " ")
	switch token := q.header.Get("X-Auth-Token"); {
	case token != "" && b.state.Auth.XToken:
		b.identifyToken(q, token)
	case scheme == "Token" && b.state.Auth.SessionToken:
		b.identifyToken(q, rest)
	case scheme == "Basic" && b.state.Auth.BasicAuth:
		user, password, valid := auth.Basic(rest)
		if valid && b.login(q, user, password) {
			q.user, q.role = user, b.state.Accounts[user].Role
		}
	case scheme == "" && b.state.Auth.Cookie:
		b.identifyCookie(q)
	}
}

func (b *BMC) identifyToken(q *request, token string) {
	s := b.state.SessionOf(token)
	if s == nil {
		return
	}
	if a := b.state.Accounts[s.User]; a != nil {
		s.Used = q.now
		q.user, q.role, q.session = s.User, a.Role, s
	}
}

// login checks a password. A wrong one costs time while everybody else waits,
// as on a BMC.
func (b *BMC) login(q *request, user string, password fleet.Secret) bool {
	in, changed := b.state.Login(user, password, q.now)
	q.dirty = q.dirty || changed
	if !in {
		wait(q.ctx, b.cfg.FailDelay)
	}
	return in
}

// unauthorized is bmcweb's answer to strangers: an empty 401 that asks for a
// password, unless the client looks like a browser.
func unauthorized(h http.Header, basicAuth bool) reply {
	r := reply{status: http.StatusUnauthorized, bare: true}
	switch {
	case strings.Contains(h.Get("Accept"), "text/html"):
		r.raw = "No authentication provided, and no login UI present to forward to."
	case h.Get("X-Requested-With") != "XMLHttpRequest" && basicAuth:
		r.set("WWW-Authenticate", "Basic")
	}
	return r
}
