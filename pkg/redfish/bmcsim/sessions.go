package bmcsim

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

const (
	sessionServiceURI = "/redfish/v1/SessionService"
	sessionsURI       = sessionServiceURI + "/Sessions"
)

type session struct {
	ID, Token, User string
	Origin          string // the client's address
	Context         string // free text of the client
	XSRF            string // what a browser must show besides its cookie
	Used            time.Time
}

func sessionRoutes() []route {
	one := map[string]deed{
		http.MethodGet:    {login, getSession},
		http.MethodDelete: {configureSelf, deleteSession},
	}
	// bmcweb takes a login at /Members too, and there it shows the methods of both.
	members := map[string]deed{http.MethodGet: one[http.MethodGet], http.MethodDelete: one[http.MethodDelete], http.MethodPost: {anyone, postSession}}
	return []route{
		{path: sessionServiceURI, head: true, schema: "SessionService/SessionService", do: map[string]deed{
			http.MethodGet:   {login, getSessionService},
			http.MethodPatch: {configureManager, patchSessionService},
		}},
		{path: sessionsURI, head: true, schema: "SessionCollection", do: map[string]deed{
			http.MethodGet:  {login, getSessions},
			http.MethodPost: {anyone, postSession},
		}},
		{path: sessionsURI + "/Members", head: true, schema: "Session/Session", linkEarly: true, do: members},
		{path: sessionsURI + "/{session}", head: true, schema: "Session/Session", linkEarly: true, do: one},
	}
}

func getSessionService(b *BMC, _ *request) reply {
	return ok(obj{
		"@odata.id": sessionServiceURI, "@odata.type": "#SessionService.v1_0_2.SessionService",
		"Description": "Session Service", "Id": "SessionService", "Name": "Session Service",
		"ServiceEnabled": true, "SessionTimeout": b.state.SessionTimeout, "Sessions": link(sessionsURI),
	})
}

// patchSessionService answers a success with an error object, as bmcweb does.
func patchSessionService(b *BMC, q *request) reply {
	v, r, valid := q.patch(field{path: "SessionTimeout", kind: intKind, need: true})
	if !valid {
		return r
	}
	seconds, _ := v.int("SessionTimeout")
	if seconds < 30 || seconds > 86400 {
		return badRequest("PropertyValueOutOfRange", strconv.Itoa(seconds), "SessionTimeout")
	}
	b.state.SessionTimeout, q.dirty = seconds, true
	return failure(http.StatusOK, message("PropertyValueModified", "SessionTimeout", quoted(strconv.Itoa(seconds))))
}

func getSessions(b *BMC, _ *request) reply {
	ids := make([]string, len(b.state.Sessions))
	for i, s := range b.state.Sessions {
		ids[i] = s.ID
	}
	return collection(sessionsURI, "SessionCollection", "Session Collection", ids, obj{"Description": "Session Collection"})
}

func postSession(b *BMC, q *request) reply {
	v, r, valid := q.patch(field{path: "UserName", need: true}, field{path: "Password", need: true}, field{path: "Context"})
	if !valid {
		return r
	}
	user, _ := v.text("UserName")
	password, _ := v.text("Password")
	if refusal, empty := emptyLogin(user, password); empty {
		return refusal
	}
	if !b.login(q, user, fleet.NewSecret(password)) {
		return failure(http.StatusUnauthorized, message("ResourceAtUriUnauthorized", sessionsURI, "Invalid username or password"))
	}
	s, err := b.newSession(q, user)
	if err != nil {
		return failure(http.StatusInternalServerError, message("InternalError"))
	}
	s.Context, _ = v.text("Context")
	r = reply{status: http.StatusCreated, body: b.sessionBody(s)}
	r.set("X-Auth-Token", s.Token)
	r.set("Location", sessionsURI+"/"+s.ID)
	return r
}

func emptyLogin(user, password string) (reply, bool) {
	var problems []obj
	if user == "" {
		problems = append(problems, message("PropertyMissing", "UserName"))
	}
	if password == "" {
		problems = append(problems, message("PropertyMissing", "Password"))
	}
	if problems == nil {
		return reply{}, false
	}
	return failure(http.StatusBadRequest, problems...), true
}

func (b *BMC) newSession(q *request, user string) (*session, error) {
	id, err := randomText(b.cfg.Rand, 10)
	if err != nil {
		return nil, err
	}
	token, err := randomText(b.cfg.Rand, 20)
	if err != nil {
		return nil, err
	}
	xsrf, err := randomText(b.cfg.Rand, 20)
	if err != nil {
		return nil, err
	}
	s := &session{ID: id, Token: token, XSRF: xsrf, User: user, Origin: q.origin, Used: q.now}
	b.state.Sessions = append(b.state.Sessions, s)
	q.dirty = true
	return s, nil
}

func (b *BMC) sessionBody(s *session) obj {
	o := obj{
		"@odata.id": sessionsURI + "/" + s.ID, "@odata.type": "#Session.v1_7_0.Session",
		"ClientOriginIPAddress": s.Origin, "Description": "Manager User Session", "Id": s.ID,
		"Name": "User Session", "Roles": []role{b.state.Accounts[s.User].Role}, "UserName": s.User,
	}
	if s.Context != "" {
		o["Context"] = s.Context
	}
	if b.state.Accounts[s.User].Expired {
		o["@Message.ExtendedInfo"] = []obj{message("PasswordChangeRequired", accountsURI+"/"+s.User)}
	}
	return o
}

func (b *BMC) sessionOf(q *request) *session {
	for _, s := range b.state.Sessions {
		if s.ID == q.args["session"] {
			return s
		}
	}
	return nil
}

func getSession(b *BMC, q *request) reply {
	s := b.sessionOf(q)
	if s == nil {
		return notFound("Session", q.args["session"])
	}
	if s.User != q.user && !q.role.may(configureManager) {
		return failure(http.StatusForbidden, message("InsufficientPrivilege"))
	}
	return ok(b.sessionBody(s))
}

func deleteSession(b *BMC, q *request) reply {
	s := b.sessionOf(q)
	if s == nil {
		return notFound("Session", q.args["session"])
	}
	if s.User != q.user && !q.role.may(configureManager) {
		return failure(http.StatusForbidden, message("InsufficientPrivilege"))
	}
	b.endSession(s)
	q.dirty = true
	return success()
}

// expire ends the sessions that were not used for the session timeout.
func (b *BMC) expire(now time.Time) bool {
	oldest := now.Add(-time.Duration(b.state.SessionTimeout) * time.Second)
	before := len(b.state.Sessions)
	b.state.Sessions = slices.DeleteFunc(b.state.Sessions, func(s *session) bool { return s.Used.Before(oldest) })
	return len(b.state.Sessions) != before
}

func (b *BMC) endSession(s *session) {
	b.state.Sessions = slices.DeleteFunc(b.state.Sessions, func(x *session) bool { return x == s })
}

// endSessions ends all sessions of a user.
func (b *BMC) endSessions(user string) {
	b.state.Sessions = slices.DeleteFunc(b.state.Sessions, func(s *session) bool { return s.User == user })
}
