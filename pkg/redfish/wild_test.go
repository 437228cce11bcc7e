package redfish_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// slots is a BMC with room for a few sessions, as iDRACs are. It takes tokens
// and basic authentication.
type slots struct {
	mu       sync.Mutex
	room     int
	full     func(w http.ResponseWriter) // how it says that there is no room
	sessions map[string]string           // path to Context
	next     int
	log      []string
}

const sessionsURI = "/redfish/v1/Sessions"

func (s *slots) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, r.Method+" "+r.URL.Path)
	_, password, basic := r.BasicAuth()
	held, known := s.sessions[r.URL.Path]
	switch {
	case r.URL.Path == "/redfish/v1/":
		_, _ = io.WriteString(w, `{"Systems":{"@odata.id":"/s"},"Links":{"Sessions":{"@odata.id":"`+sessionsURI+`"}}}`)
	case r.URL.Path == sessionsURI && r.Method == http.MethodPost:
		s.open(w, r)
	case r.Header.Get("X-Auth-Token") == "" && (!basic || password != "0penBmc"):
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == sessionsURI:
		var members []string
		for uri := range s.sessions {
			members = append(members, `{"@odata.id":"`+uri+`"}`)
		}
		_, _ = io.WriteString(w, `{"Members":[`+strings.Join(members, ",")+`]}`)
	case known && r.Method == http.MethodDelete:
		delete(s.sessions, r.URL.Path)
	case known:
		_, _ = io.WriteString(w, `{"Context":"`+held+`"}`)
	case strings.HasPrefix(r.URL.Path, sessionsURI):
		w.WriteHeader(http.StatusNotFound)
	default:
		_, _ = io.WriteString(w, `{}`)
	}
}

func (s *slots) open(w http.ResponseWriter, r *http.Request) {
	if len(s.sessions) >= s.room {
		s.full(w)
		return
	}
	body, _ := io.ReadAll(r.Body)
	_, context, _ := strings.Cut(string(body), `"Context":"`)
	context, _, _ = strings.Cut(context, `"`)
	s.next++
	uri := sessionsURI + "/" + string(rune('a'+s.next))
	s.sessions[uri] = context
	w.Header().Set("X-Auth-Token", "token"+uri)
	w.Header().Set("Location", uri)
	w.WriteHeader(http.StatusCreated)
}

func (s *slots) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

func says(code int, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// How makes of BMC say that nobody can log in any more.
func tableFull() map[string]func(http.ResponseWriter) {
	return map[string]func(http.ResponseWriter){
		"iDRAC":  says(503, `{"error":{"@Message.ExtendedInfo":[{"Message":"The maximum number of user sessions is reached.","MessageId":"IDRAC.2.4.RAC0218"}],"code":"Base.1.7.GeneralError"}}`),
		"Base":   says(503, `{"error":{"code":"Base.1.19.SessionLimitExceeded","message":"x"}}`),
		"limit":  says(400, `{"error":{"@Message.ExtendedInfo":[{"MessageId":"Base.1.5.CreateLimitReachedForResource"}]}}`),
		"in 403": says(403, `{"error":{"@Message.ExtendedInfo":[{"Message":"Session limit has been exceeded","MessageId":"X.1.Y"}]}}`),
	}
}

// Agents that were killed again and again have filled the table. The next one
// frees what was theirs, by basic authentication, and nothing else.
func TestFullTableIsFreedOfOurs(t *testing.T) {
	for name, full := range tableFull() {
		t.Run(name, func(t *testing.T) {
			s := &slots{room: 4, full: full, sessions: map[string]string{
				sessionsURI + "/1": ours, sessionsURI + "/2": ours, sessionsURI + "/3": "somebody else", sessionsURI + "/4": "",
			}}
			base, pin := serveTLS(t, s)
			m := rootLogin()
			m.uri, m.open = sessionsURI+"/1", true
			c := dialWith(t, base, pin, m)
			if _, err := c.Fetch(t.Context(), "/x"); err != nil {
				t.Fatal(err)
			}
			if s.count() != 3 || s.sessions[sessionsURI+"/3"] == "" {
				t.Errorf("%v are open; want the other two and ours", s.sessions)
			}
		})
	}
}

// A login to prove another user's password finds no room either; our own
// session, which is in use, is no orphan.
func TestFullTableKeepsTheSessionInUse(t *testing.T) {
	s := &slots{room: 2, full: tableFull()["iDRAC"], sessions: map[string]string{sessionsURI + "/1": "x"}}
	base, pin := serveTLS(t, s)
	c := dialWith(t, base, pin, rootLogin())
	if _, err := c.Fetch(t.Context(), "/x"); err != nil {
		t.Fatal(err)
	}
	if err := c.Try(t.Context(), login("auditor", "0penBmc")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v; want unavailable", err)
	}
	if creds, in := c.LoggedIn(); s.count() != 2 || !in || creds.User != "root" {
		t.Errorf("%v are open; logged in: %v", s.sessions, in)
	}
}

func TestFullTableOfOthersIsToldAndLeftAlone(t *testing.T) {
	for name, full := range tableFull() {
		t.Run(name, func(t *testing.T) {
			s := &slots{room: 2, full: full, sessions: map[string]string{sessionsURI + "/1": "x", sessionsURI + "/2": "y"}}
			base, pin := serveTLS(t, s)
			c := dialWith(t, base, pin, rootLogin())
			for range 5 {
				_, err := c.Fetch(t.Context(), "/x")
				if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.HintOf(err), "no room for one more session") {
					t.Errorf("got %v, hint %q", err, fault.HintOf(err))
				}
			}
			if s.count() != 2 {
				t.Error("the sessions of others are gone")
			}
			if n := strings.Count(strings.Join(s.log, "\n"), "POST"); n > 2 {
				t.Errorf("%d logins on a full table; it rests in between", n)
			}
		})
	}
}

// fresh is an OpenBMC image as it is flashed: whoever logs in may change the
// password and nothing else.
type fresh struct {
	mu       sync.Mutex
	password string
	expired  bool
	names    bool // the account, in its message
	log      []string
	sessions int
}

func (f *fresh) demand(key string) string {
	args := ""
	if f.names {
		args = `"/redfish/v1/AccountService/Accounts/root"`
	}
	return `{` + key + `"@Message.ExtendedInfo":[{"MessageId":"Base.1.19.PasswordChangeRequired","Message":"The password provided for this account must be changed before access is granted.","MessageArgs":[` + args + `]}]}`
}

func (f *fresh) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, r.Method+" "+r.URL.Path)
	body, _ := io.ReadAll(r.Body)
	switch {
	case r.URL.Path == "/redfish/v1/":
		_, _ = io.WriteString(w, `{"Systems":{"@odata.id":"/s"},"AccountService":{"@odata.id":"/redfish/v1/AccountService"},"Links":{"Sessions":{"@odata.id":"`+sessionsURI+`"}}}`)
	case r.URL.Path == sessionsURI && r.Method == http.MethodPost:
		if !strings.Contains(string(body), `"Password":"`+f.password+`"`) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		f.sessions++
		w.Header().Set("X-Auth-Token", "t")
		w.Header().Set("Location", sessionsURI+"/1")
		w.WriteHeader(http.StatusCreated)
		if f.expired {
			_, _ = io.WriteString(w, f.demand(""))
		}
	case r.Method == http.MethodDelete:
		f.sessions--
	case r.Method == http.MethodPatch && r.URL.Path == "/redfish/v1/AccountService/Accounts/root" && strings.HasPrefix(string(body), `{"Password":"`):
		f.password, f.expired = strings.TrimSuffix(strings.TrimPrefix(string(body), `{"Password":"`), `"}`), false
		w.WriteHeader(http.StatusNoContent)
	case f.expired:
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"error":`+f.demand("")+`}`)
	default:
		_, _ = io.WriteString(w, `{}`)
	}
}

func TestFreshBMCDemandsANewPassword(t *testing.T) {
	for _, names := range []bool{true, false} {
		f := &fresh{password: "0penBmc", expired: true, names: names}
		base, pin := serveTLS(t, f)
		c := dialWith(t, base, pin, rootLogin())
		_, err := c.Fetch(t.Context(), "/redfish/v1/Systems")
		if !fault.Is(err, fault.Denied) || !redfish.ChangeRequired(err) || !strings.Contains(fault.HintOf(err), "new password") {
			t.Errorf("got %v, hint %q", err, fault.HintOf(err))
		}
		account, must := c.MustChange()
		if !must || account != "/redfish/v1/AccountService/Accounts/root" {
			t.Fatalf("the account is %q, %v", account, must)
		}
		next := login("root", "Fresh-Pass-1")
		body := redfish.Confidential{Body: map[string]any{"Password": next.Password.Reveal()}, Secrets: []fleet.Secret{next.Password}}
		if _, err := c.Patch(t.Context(), string(account), body); err != nil {
			t.Fatal(err)
		}
		if err := c.LogIn(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		if _, must := c.MustChange(); must {
			t.Error("it is still taken for limited after the change")
		}
		if _, err := c.Fetch(t.Context(), "/redfish/v1/Systems"); err != nil {
			t.Error(err)
		}
		want := []string{
			"GET /redfish/v1/", "POST " + sessionsURI, "GET /redfish/v1/Systems", "PATCH /redfish/v1/AccountService/Accounts/root",
			"POST " + sessionsURI, "DELETE " + sessionsURI + "/1", "GET /redfish/v1/Systems",
		}
		if diff := cmp.Diff(want, f.log); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// The demand may also come while a session is open.
func TestPasswordExpiresInMidSession(t *testing.T) {
	f := &fresh{password: "0penBmc"}
	base, pin := serveTLS(t, f)
	c := dialWith(t, base, pin, rootLogin())
	if _, err := c.Fetch(t.Context(), "/x"); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.expired = true
	f.mu.Unlock()
	_, err := c.Fetch(t.Context(), "/x")
	if account, must := c.MustChange(); !must || account == "" || !redfish.ChangeRequired(err) {
		t.Errorf("%q, %v after %v", account, must, err)
	}
}

// An iDRAC refuses a good password now and then for minutes after its restart:
// one that was good before is tried again soon, one that never was is not.
func TestAProvenPasswordRestsShortly(t *testing.T) {
	var refuse atomic.Bool
	var logins atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if refuse.Load() {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	mux.HandleFunc("GET /redfish/v1/{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"Systems":{"@odata.id":"/s"},"Links":{"Sessions":{"@odata.id":"`+sessionsURI+`"}}}`)
	})
	mux.HandleFunc("GET /x", func(w http.ResponseWriter, _ *http.Request) {
		if refuse.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{}`)
	})
	mux.HandleFunc("POST "+sessionsURI, func(w http.ResponseWriter, _ *http.Request) {
		logins.Add(1)
		if refuse.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-Auth-Token", "t")
		w.WriteHeader(http.StatusCreated)
	})
	base, pin := serveTLS(t, mux)
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	c := dialChanged(t, base, pin, rootLogin(), func(cfg *redfish.Config) { cfg.Now = func() time.Time { return now } })
	ask := func() error { _, err := c.Fetch(t.Context(), "/x"); return err }
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	refuse.Store(true)
	for range 3 {
		if err := ask(); !fault.Is(err, fault.Denied) {
			t.Fatalf("got %v; want denied", err)
		}
	}
	if logins.Load() != 2 {
		t.Fatalf("%d logins; want 2: a refusal rests", logins.Load())
	}
	refuse.Store(false)
	now = now.Add(25 * time.Second)
	if err := ask(); err != nil {
		t.Errorf("after 25 s: %v", err)
	}
}
