package bmcsim

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/traffic"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/params"
)

// request is an HTTP request on its way through the BMC.
type request struct {
	ctx    context.Context
	method string
	path   string // without a final slash
	query  params.Query
	header http.Header
	body   []byte
	origin string // the client's address
	host   string
	peer   string // the user that the client's certificate names
	now    time.Time

	args map[string]string // the {names} of the route's path
	user string            // who asks; empty before the login
	role auth.Role
	// byCertificate: a certificate said who asks.
	byCertificate bool
	session       *auth.Session // of the token, if there was one
	dirty         bool          // the state changed and must be saved
}

type handler func(b *BMC, q *request) reply

// deed is what a method does on a route, and who may.
type deed struct {
	need auth.Privilege
	run  handler
}

// route is a resource: its path, where {name} stands for one segment, and
// what its methods do.
type route struct {
	path   string
	do     map[string]deed
	head   bool   // HEAD is allowed
	schema string // of the Link header, "" for none
	// Where bmcweb sets Link before it knows whether the resource is there.
	linkEarly, linkPatch bool

	segments []string
	allow    string
}

// open paths answer without a login.
func open(method, path string) bool {
	switch path {
	case "/redfish", "/redfish/v1", "/redfish/v1/odata", "/redfish/v1/$metadata":
		return method == http.MethodGet
	case sessionsURI, sessionsURI + "/Members", "/login":
		return method == http.MethodPost
	}
	return false
}

const (
	maxBody        = 30 << 20 // beyond it bmcweb cuts the connection
	maxBodyNoLogin = 4 << 10
)

// ServeHTTP answers one request.
func (b *BMC) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, user := 0, ""
	b.counter.Begin()
	defer func() {
		b.counter.End(traffic.Request{Method: r.Method, Path: r.URL.RequestURI(), Status: status, User: user})
	}()
	body, fits, err := b.readBody(w, r)
	if err != nil {
		cut(r)
	}
	if !b.enter(r.Context()) {
		panic(http.ErrAbortHandler)
	}
	defer b.leave()
	wait(r.Context(), b.cfg.Latency)
	done := false
	if b.restarting() {
		cut(r)
	}
	if status, done = b.misbehave(w, r); done {
		return
	}
	if !fits && (hasCredentials(r.Header) || peerOf(r).name() != "") {
		cut(r)
	}
	if fits && isStream(r) {
		status = b.stream(w, r, newRequest(r, body))
		return
	}
	rep := unauthorized(r.Header, false)
	rep.set(plain, "yes")
	switch {
	case !strings.HasPrefix(r.URL.Path, "/"): // "GET http:[ HTTP/1.1"
		rep = reply{status: http.StatusBadRequest}
	case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"): // there is no console and no screen
		rep = reply{status: http.StatusNotFound}
	case fits:
		q := newRequest(r, body)
		rep = b.answer(q)
		user = q.user
	}
	wait(r.Context(), rep.after)
	rep.accept, rep.zstd = r.Header.Get("Accept"), strings.Contains(r.Header.Get("Accept-Encoding"), "zstd")
	status = rep.write(w, r.Method)
}

func newRequest(r *http.Request, body []byte) *request {
	origin, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		origin = r.RemoteAddr
	}
	path := r.URL.Path
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	q := &request{ctx: r.Context(), method: r.Method, path: path, header: r.Header, body: body, origin: origin, host: r.Host, peer: peerOf(r).name()}
	q.args = map[string]string{"query": r.URL.RawQuery}
	return q
}

// enter waits for one of the slots, leave frees it.
func (b *BMC) enter(ctx context.Context) bool {
	if b.slots == nil {
		return true
	}
	select {
	case b.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (b *BMC) leave() {
	if b.slots != nil {
		<-b.slots
	}
}

// readBody reads as much as a stranger or a user may send. More does not fit.
func (b *BMC) readBody(w http.ResponseWriter, r *http.Request) (body []byte, fits bool, err error) {
	limit := int64(maxBodyNoLogin)
	if hasCredentials(r.Header) || peerOf(r).name() != "" {
		limit = maxBody
	}
	if r.ContentLength > limit {
		return nil, false, nil
	}
	if r.ContentLength != 0 {
		deadline := http.NewResponseController(w)
		_ = deadline.SetReadDeadline(time.Now().Add(b.cfg.Patience)) // a recorder in a test has none
		defer func() { _ = deadline.SetReadDeadline(time.Time{}) }()
	}
	body, err = io.ReadAll(io.LimitReader(r.Body, limit+1))
	return body, int64(len(body)) <= limit, err
}

// answer runs one request, alone.
func (b *BMC) answer(q *request) reply {
	b.mu.Lock()
	defer b.mu.Unlock()
	q.now = b.cfg.Now()
	q.dirty = b.settle(q.now)
	r := b.dispatch(q)
	r.set("Date", b.stamp(q.now, http.TimeFormat))
	if q.dirty {
		if err := b.state.save(b.cfg.StateFile); err != nil {
			return internalError()
		}
	}
	return r
}

func (b *BMC) dispatch(q *request) reply {
	b.identify(q)
	if q.user == "" && !open(q.method, q.path) {
		return unauthorized(q.header, b.state.Auth.BasicAuth)
	}
	rt := b.find(q)
	if rt == nil {
		return unknownURI(q.path)
	}
	r := b.onRoute(q, rt)
	if r.bare {
		return r
	}
	r.set("Allow", rt.allow)
	refused := r.status == http.StatusForbidden || r.status == http.StatusUnauthorized
	if !r.noOData && (!refused || r.body != nil) {
		r.set("OData-Version", "4.0")
	}
	if rt.linked(q.method, r.status) {
		r.set("Link", "</redfish/v1/JsonSchemas/"+rt.schema+".json>; rel=describedby")
	}
	return r
}

func (rt *route) linked(method string, status int) bool {
	if rt.schema == "" {
		return false
	}
	switch method {
	case http.MethodGet, http.MethodHead:
		return status == http.StatusOK || status == http.StatusNotModified ||
			rt.linkEarly && status != http.StatusPreconditionFailed
	case http.MethodPatch:
		return rt.linkPatch && status != http.StatusPreconditionFailed && status != http.StatusForbidden
	}
	return false
}

func unknownURI(path string) reply {
	if path != "/redfish" && !strings.HasPrefix(path, "/redfish/") {
		return reply{status: http.StatusNotFound, bare: true}
	}
	r := notFound("", path[strings.LastIndexByte(path, '/')+1:])
	r.set("Allow", "")
	r.set("OData-Version", "4.0")
	r.bare = true
	return r
}

// onRoute checks what bmcweb checks before a handler, in its order.
func (b *BMC) onRoute(q *request, rt *route) reply {
	method := q.method
	if method == http.MethodHead && rt.head {
		method = http.MethodGet
	}
	d, found := rt.do[method]
	if !found {
		return notAllowed(method)
	}
	if q.byCertificate && q.role == "" && d.need != auth.Anyone {
		return reply{status: http.StatusUnauthorized} // a good certificate of nobody here
	}
	if b.mustChange(q, rt) && d.need != auth.Anyone {
		return failure(http.StatusForbidden, message.New("PasswordChangeRequired", accountsURI+"/"+q.user))
	}
	if !q.role.May(d.need) {
		return reply{status: http.StatusForbidden}
	}
	if v := q.header.Get("OData-Version"); v != "" && v != "4.0" {
		r := failure(http.StatusPreconditionFailed, message.New("PreconditionFailed"))
		r.noOData = true
		return r
	}
	if r := b.precondition(q, rt); r != nil {
		return *r
	}
	parsed, refused := params.Parse(q.args["query"], b.cfg.Expand)
	if refused != nil {
		return failure(refused.Status, message.New("QueryParameterValueFormatError", message.Quoted(refused.Value), refused.Key))
	}
	q.query = parsed
	if r := q.ownerMissing(); r != nil {
		return *r
	}
	return b.finish(q, rt, d.run(b, q))
}

func notAllowed(method string) reply {
	if method == http.MethodDelete {
		return failure(http.StatusMethodNotAllowed, message.New("ResourceCannotBeDeleted"))
	}
	return failure(http.StatusMethodNotAllowed, message.New("OperationNotAllowed"))
}

// precondition compares If-Match with what a GET would answer now.
func (b *BMC) precondition(q *request, rt *route) *reply {
	want := q.header.Get("If-Match")
	if want == "" || want == "*" {
		return nil
	}
	if get, found := rt.do[http.MethodGet]; found && q.method != http.MethodGet {
		probe := *q
		probe.query = params.All()
		if r := get.run(b, &probe); r.etag() == want {
			return nil
		}
	}
	r := failure(http.StatusPreconditionFailed, message.New("PreconditionFailed"))
	return &r
}

// ownerMissing answers for a system, chassis or manager that does not exist.
func (q *request) ownerMissing() *reply {
	for _, owner := range []struct{ arg, id, kind string }{
		{"system", "system", "ComputerSystem"}, {"chassis", "chassis", "Chassis"}, {"manager", "bmc", "Manager"},
	} {
		if id, found := q.args[owner.arg]; found && id != owner.id {
			r := notFound(owner.kind, id)
			return &r
		}
	}
	return nil
}

// finish applies the query and the ETag to a reply.
func (b *BMC) finish(q *request, rt *route, r reply) reply {
	o, isObj := r.body.(obj)
	if q.method == http.MethodGet && r.status == http.StatusOK && isObj {
		if q.query.Only {
			return b.onlyMember(q, rt, o)
		}
		q.query.Page(o)
		if q.query.Expand {
			b.expand(q, o)
		}
		if b.cfg.DBusLog && o["@odata.id"] == eventsURI {
			delete(o, "Members@odata.nextLink") // this log does not page
		}
		r.body = q.query.Selected(o)
	}
	if tag := r.etag(); tag != "" {
		r.set("ETag", tag)
		if q.method == http.MethodGet && q.header.Get("If-None-Match") == tag {
			r.status, r.body = http.StatusNotModified, nil
		}
	}
	return r
}

// onlyMember replaces a collection of one by its member. It takes over the
// member's headers too.
func (b *BMC) onlyMember(q *request, rt *route, o obj) reply {
	members, isCollection := o["Members"].([]obj)
	if !isCollection {
		return failure(http.StatusForbidden, message.New("QueryNotSupportedOnResource"))
	}
	if len(members) != 1 {
		q.query.Only = false
		return b.finish(q, rt, ok(o))
	}
	member := *q
	member.path = text(members[0]["@odata.id"])
	member.args = map[string]string{}
	r := b.dispatch(&member)
	r.bare = true
	return r
}

// find is the route of the path; it fills q.args.
func (b *BMC) find(q *request) *route {
	segments := strings.Split(q.path, "/")
	for i := range b.routes {
		if rt := &b.routes[i]; rt.match(segments, q.args) {
			return rt
		}
	}
	return nil
}

func (rt *route) match(segments []string, args map[string]string) bool {
	if len(segments) != len(rt.segments) {
		return false
	}
	for i, want := range rt.segments {
		if want != segments[i] && (want == "" || want[0] != '{' || segments[i] == "") {
			return false
		}
	}
	for i, want := range rt.segments {
		if want != "" && want[0] == '{' {
			args[want[1:len(want)-1]] = segments[i]
		}
	}
	return true
}

// prepare fills in what follows from the rest of a route.
func (rt *route) prepare() {
	rt.segments = strings.Split(rt.path, "/")
	methods := make([]string, 0, 4)
	for m := range rt.do {
		methods = append(methods, m)
	}
	if rt.head {
		methods = append(methods, http.MethodHead)
	}
	slices.Sort(methods)
	rt.allow = strings.Join(methods, ", ")
}

// expand replaces the members of a collection by what their links lead to.
func (b *BMC) expand(q *request, o obj) {
	members, _ := o["Members"].([]obj)
	for i, m := range members {
		member := *q
		member.path, member.args = text(m["@odata.id"]), map[string]string{}
		if whole, isObj := b.dispatch(&member).body.(obj); isObj {
			members[i] = whole
		}
	}
}
