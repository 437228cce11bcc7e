package bmcsim

import (
	"net/http"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
)

// browserRoutes are the login that bmcweb has had since before Redfish. They
// are plain JSON: no OData.
func browserRoutes() []route {
	return []route{
		{path: "/login", do: posts(auth.Anyone, browserLogin)},
		{path: "/logout", do: posts(auth.Login, browserLogout)},
	}
}

func browserLogin(b *BMC, q *request) reply {
	v, _, valid := q.action(input.Field{Path: "username", Need: true}, input.Field{Path: "password", Need: true})
	if !valid {
		return reply{status: http.StatusBadRequest, noOData: true}
	}
	user, _ := v.Text("username")
	password, _ := v.Text("password")
	if !b.login(q, user, fleet.NewSecret(password)) {
		return reply{status: http.StatusUnauthorized}
	}
	s, err := b.newSession(q, user)
	if err != nil {
		return internalError()
	}
	r := ok(obj{"token": s.Token})
	r.noOData = true
	r.set("Set-Cookie", auth.Cookie+"="+s.Token+"; Path=/; SameSite=Strict; Secure; HttpOnly")
	return r
}

func browserLogout(b *BMC, q *request) reply {
	b.state.EndSession(q.session)
	q.dirty = true
	r := ok(obj{"data": "User '" + q.user + "' logged out", "message": "200 OK", "status": "ok"})
	r.noOData = true
	r.set("Set-Cookie", auth.Cookie+"=; Path=/; SameSite=Strict; Secure; HttpOnly; expires=Thu, 01 Jan 1970 00:00:00 GMT")
	return r
}

// identifyCookie is the login of a browser. What changes something must carry
// the session's second token in a header, which no other site's page can.
func (b *BMC) identifyCookie(q *request) {
	token := auth.CookieToken(q.header.Get("Cookie"))
	if token == "" {
		return
	}
	b.identifyToken(q, token)
	if q.session == nil || q.method == http.MethodGet || q.method == http.MethodHead {
		return
	}
	if !q.session.Shown(q.header.Get("X-Xsrf-Token")) {
		q.user, q.role, q.session = "", "", nil
	}
}

// XSRF is the token that a browser with this session must show in a header, ""
// if there is no such session.
func (b *BMC) XSRF(token string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.state.SessionOf(token); s != nil {
		return s.XSRF
	}
	return ""
}
