package bmcsim

import (
	"net/http"
	"strconv"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

const (
	sessionServiceURI = "/redfish/v1/SessionService"
	sessionsURI       = sessionServiceURI + "/Sessions"
)

func sessionRoutes() []route {
	one := map[string]deed{
		http.MethodGet:    {auth.Login, getSession},
		http.MethodDelete: {auth.ConfigureSelf, deleteSession},
	}
	// bmcweb takes a login at /Members too, and there it shows the methods of both.
	members := map[string]deed{http.MethodGet: one[http.MethodGet], http.MethodDelete: one[http.MethodDelete], http.MethodPost: {auth.Anyone, postSession}}
	return []route{
		{path: sessionServiceURI, head: true, schema: "SessionService/SessionService", do: map[string]deed{
			http.MethodGet:   {auth.Login, getSessionService},
			http.MethodPatch: {auth.ConfigureManager, patchSessionService},
		}},
		{path: sessionsURI, head: true, schema: "SessionCollection", do: map[string]deed{
			http.MethodGet:  {auth.Login, getSessions},
			http.MethodPost: {auth.Anyone, postSession},
		}},
		{path: sessionsURI + "/Members", head: true, schema: "Session/Session", linkEarly: true, do: members},
		{path: sessionsURI + "/{session}", head: true, schema: "Session/Session", linkEarly: true, do: one},
	}
}

func getSessionService(b *BMC, _ *request) reply {
	return ok(obj{
		"@odata.id": sessionServiceURI, "@odata.type": "#SessionService.v1_0_2.SessionService",
		"Description": "Session Service", "Id": "SessionService", "Name": "Session Service",
		"ServiceEnabled": true, "SessionTimeout": b.state.SessionTimeout, "Sessions": hardware.Link(sessionsURI),
	})
}

// patchSessionService answers a success with an error object, as bmcweb does.
func patchSessionService(b *BMC, q *request) reply {
	v, r, valid := q.patch(input.Field{Path: "SessionTimeout", Kind: input.Int, Need: true})
	if !valid {
		return r
	}
	seconds, _ := v.Int("SessionTimeout")
	if seconds < 30 || seconds > 86400 {
		return badRequest("PropertyValueOutOfRange", strconv.Itoa(seconds), "SessionTimeout")
	}
	b.state.SessionTimeout, q.dirty = seconds, true
	return failure(http.StatusOK, message.New("PropertyValueModified", "SessionTimeout", message.Quoted(strconv.Itoa(seconds))))
}

func getSessions(b *BMC, _ *request) reply {
	ids := make([]string, len(b.state.Sessions))
	for i, s := range b.state.Sessions {
		ids[i] = s.ID
	}
	return collection(sessionsURI, "SessionCollection", "Session Collection", ids, obj{"Description": "Session Collection"})
}

func postSession(b *BMC, q *request) reply {
	v, r, valid := q.patch(input.Field{Path: "UserName", Need: true}, input.Field{Path: "Password", Need: true}, input.Field{Path: "Context"})
	if !valid {
		return r
	}
	user, _ := v.Text("UserName")
	password, _ := v.Text("Password")
	if refusal, empty := emptyLogin(user, password); empty {
		return refusal
	}
	if !b.login(q, user, fleet.NewSecret(password)) {
		return failure(http.StatusUnauthorized, message.New("ResourceAtUriUnauthorized", sessionsURI, "Invalid username or password"))
	}
	s, err := b.newSession(q, user)
	if err != nil {
		return internalError()
	}
	s.Context, _ = v.Text("Context")
	r = reply{status: http.StatusCreated, body: b.sessionBody(s)}
	r.set("X-Auth-Token", s.Token)
	r.set("Location", sessionsURI+"/"+s.ID)
	return r
}

func emptyLogin(user, password string) (reply, bool) {
	var problems []obj
	if user == "" {
		problems = append(problems, message.New("PropertyMissing", "UserName"))
	}
	if password == "" {
		problems = append(problems, message.New("PropertyMissing", "Password"))
	}
	if problems == nil {
		return reply{}, false
	}
	return failure(http.StatusBadRequest, problems...), true
}

func (b *BMC) newSession(q *request, user string) (*auth.Session, error) {
	s, err := b.state.OpenSession(user, q.now, b.cfg.Rand)
	if err != nil {
		return nil, err
	}
	s.Origin, q.dirty = q.origin, true
	return s, nil
}

func (b *BMC) sessionBody(s *auth.Session) obj {
	o := obj{
		"@odata.id": sessionsURI + "/" + s.ID, "@odata.type": "#Session.v1_7_0.Session",
		"ClientOriginIPAddress": s.Origin, "Description": "Manager User Session", "Id": s.ID,
		"Name": "User Session", "Roles": []auth.Role{b.state.Accounts[s.User].Role}, "UserName": s.User,
	}
	if s.Context != "" {
		o["Context"] = s.Context
	}
	if b.state.Accounts[s.User].Expired {
		o["@Message.ExtendedInfo"] = []obj{message.New("PasswordChangeRequired", accountsURI+"/"+s.User)}
	}
	return o
}

func getSession(b *BMC, q *request) reply {
	s := b.state.Session(q.args["session"])
	if s == nil {
		return notFound("Session", q.args["session"])
	}
	if s.User != q.user && !q.role.May(auth.ConfigureManager) {
		return failure(http.StatusForbidden, message.New("InsufficientPrivilege"))
	}
	return ok(b.sessionBody(s))
}

func deleteSession(b *BMC, q *request) reply {
	s := b.state.Session(q.args["session"])
	if s == nil {
		return notFound("Session", q.args["session"])
	}
	if s.User != q.user && !q.role.May(auth.ConfigureManager) {
		return failure(http.StatusForbidden, message.New("InsufficientPrivilege"))
	}
	b.state.EndSession(s)
	q.dirty = true
	return success()
}
