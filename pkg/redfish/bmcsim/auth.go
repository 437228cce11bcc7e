package bmcsim

import (
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// role is one of the roles of OpenBMC.
type role string

const (
	administrator role = "Administrator"
	operator      role = "Operator"
	readOnly      role = "ReadOnly"
)

// privilege is what a request needs.
type privilege uint8

const (
	anyone              privilege = iota // no login
	login                                // any account
	configureSelf                        // any account, for what is its own
	configureComponents                  // operators
	configureManager                     // administrators
	configureUsers
)

func (r role) may(need privilege) bool {
	switch {
	case need == anyone:
		return true
	case r == administrator:
		return true
	case r == operator:
		return need <= configureComponents
	case r == readOnly:
		return need <= configureSelf
	}
	return false
}

// privileges are the Redfish names of what a role may do, in bmcweb's order.
func (r role) privileges() []string {
	switch r {
	case administrator:
		return []string{"Login", "ConfigureManager", "ConfigureUsers", "ConfigureSelf", "ConfigureComponents"}
	case operator:
		return []string{"Login", "ConfigureSelf", "ConfigureComponents"}
	case readOnly:
	}
	return []string{"Login", "ConfigureSelf"}
}

func knownRole(name string) bool {
	return slices.Contains([]role{administrator, operator, readOnly}, role(name))
}

func hasCredentials(h http.Header) bool {
	return h.Get("X-Auth-Token") != "" || h.Get("Authorization") != "" || strings.Contains(h.Get("Cookie"), sessionCookie+"=")
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
		user, password, valid := basic(rest)
		if valid && b.login(q, user, password) {
			q.user, q.role = user, b.state.Accounts[user].Role
		}
	case scheme == "" && b.state.Auth.Cookie:
		b.identifyCookie(q)
	}
}

func basic(encoded string) (user string, password fleet.Secret, valid bool) {
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", password, false
	}
	user, secret, valid := strings.Cut(string(text), ":")
	return user, fleet.NewSecret(secret), valid
}

func (b *BMC) identifyToken(q *request, token string) {
	for _, s := range b.state.Sessions {
		if subtle.ConstantTimeCompare([]byte(s.Token), []byte(token)) != 1 {
			continue
		}
		if a := b.state.Accounts[s.User]; a != nil {
			s.Used = q.now
			q.user, q.role, q.session = s.User, a.Role, s
		}
		return
	}
}

// login checks a password. A wrong one costs time while everybody else waits,
// as on a BMC; a locked or disabled account fails like a wrong password.
func (b *BMC) login(q *request, user string, password fleet.Secret) bool {
	a := b.state.Accounts[user]
	if a != nil && a.Enabled && !b.locked(a, q.now) && passwordMatches(a.Hash, password) {
		q.dirty = q.dirty || a.Failures > 0
		a.Failures = 0
		return true
	}
	if a != nil && b.state.LockoutThreshold > 0 {
		a.Failures++
		a.Failed = q.now
		q.dirty = true
	}
	wait(q.ctx, b.cfg.FailDelay)
	return false
}

func (b *BMC) locked(a *account, now time.Time) bool {
	s := b.state
	if s.LockoutThreshold == 0 || a.Failures < s.LockoutThreshold {
		return false
	}
	return s.LockoutDuration == 0 || now.Before(a.Failed.Add(time.Duration(s.LockoutDuration)*time.Second))
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
