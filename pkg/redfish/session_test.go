package redfish_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
)

const systemURI = "/redfish/v1/Systems/system"

func read(t *testing.T, c *redfish.Client) {
	t.Helper()
	if _, err := c.Fetch(t.Context(), systemURI); err != nil {
		t.Fatal(err)
	}
}

func TestOneConnectionAndOneSessionServeAll(t *testing.T) {
	b, _, m, c := start(t, bmcsim.Config{})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { read(t, c) })
	}
	all.Wait()
	s := b.Stats()
	// The root, the login, twenty reads. A fresh store means no orphans, so that
	// nobody lists the sessions.
	if s.Handshakes != 1 || s.Logins != 1 || s.Total() != 22 {
		t.Errorf("handshakes %d, logins %d, requests %d; want 1, 1, 22", s.Handshakes, s.Logins, s.Total())
	}
	if !c.HTTP2() {
		t.Error("the BMC speaks HTTP/2 and the client did not")
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := b.Stats().Sessions; n != 0 || m.open {
		t.Errorf("after Close: %d sessions on the BMC, remembered: %v", n, m.open)
	}
}

func TestSessionIsRememberedBeforeItIsUsed(t *testing.T) {
	b, _, m, c := start(t, bmcsim.Config{})
	read(t, c)
	if len(m.saves) != 2 || m.saves[0] != "" || !strings.HasPrefix(m.saves[1], "/redfish/v1/SessionService/Sessions/") {
		t.Errorf("saved %q; want the intent and then the URI", m.saves)
	}
	m.failSave = errors.New("disk full")
	if err := b.ForgetSessions(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(t.Context(), systemURI); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("without a store: %v; want its error", err)
	}
	if n := b.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions are open that nobody remembers", n)
	}
}

func TestLostSessionIsOpenedAnewOnce(t *testing.T) {
	b, _, _, c := start(t, bmcsim.Config{})
	read(t, c)
	if err := b.ForgetSessions(); err != nil {
		t.Fatal(err)
	}
	// A 401 means that nothing was done: a write too may go out again.
	if _, err := c.Patch(t.Context(), systemURI, map[string]string{"AssetTag": "a7"}); err != nil {
		t.Fatal(err)
	}
	if s := b.Stats(); s.Logins != 2 || s.Sessions != 1 {
		t.Errorf("logins %d, sessions %d; want 2, 1", s.Logins, s.Sessions)
	}
	if err := b.Fault(bmcsim.Fault{Kind: bmcsim.Denies}); err != nil {
		t.Fatal(err)
	}
	b.ResetStats()
	for range 3 {
		if _, err := c.Fetch(t.Context(), systemURI); !fault.Is(err, fault.Denied) {
			t.Errorf("a BMC that denies every token: %v; want denied", err)
		}
	}
	if n := b.Stats().Logins; n != 1 {
		t.Errorf("%d logins on a BMC that forgets its sessions; want 1, as its slots are few", n)
	}
}

// Some BMCs say 401 where they mean 403. That costs no login.
func TestDeniedResourceKeepsTheSession(t *testing.T) {
	var logins atomic.Int32
	c := hostileLogin(t, func(w http.ResponseWriter, _ string) {
		logins.Add(1)
		w.Header().Set("X-Auth-Token", "t")
		w.Header().Set("Location", "/redfish/v1/SessionService/Sessions/1")
		w.WriteHeader(http.StatusCreated)
	})
	for range 2 {
		if _, err := c.Fetch(t.Context(), "/denied"); !fault.Is(err, fault.Denied) {
			t.Errorf("got %v; want denied", err)
		}
		if _, err := c.Fetch(t.Context(), "/x"); err != nil {
			t.Error(err)
		}
	}
	if logins.Load() != 1 {
		t.Errorf("%d logins; want 1", logins.Load())
	}
}

// A process that is killed leaves its session; the next one deletes it, also if
// the death fell between the login and the remembering of its URI.
func TestOrphansAreReaped(t *testing.T) {
	for _, remembered := range []bool{true, false} {
		b, base, m, _ := start(t, bmcsim.Config{})
		victim := connect(t, b, base, m, nil)
		read(t, victim) // and never closed
		stranger := connect(t, b, base, rootLogin(), func(c *redfish.Config) { c.Context = "somebody else" })
		read(t, stranger)
		if !remembered {
			m.uri = ""
		}
		heir := connect(t, b, base, m, nil)
		read(t, heir)
		if n := b.Stats().Sessions; n != 2 {
			t.Errorf("remembered %v: %d sessions; want the heir's and the stranger's", remembered, n)
		}
		if err := heir.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := b.Stats().Sessions; n != 1 || m.open {
			t.Errorf("remembered %v: %d sessions after the heir left; want the stranger's", remembered, n)
		}
	}
}

func TestRefusedPasswordIsNotTriedAgain(t *testing.T) {
	b, base := bmctest.Start(t, bmcsim.Config{})
	m := &memory{candidates: []redfish.Credentials{login("root", "wrong-password")}}
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	c := connect(t, b, base, m, func(cfg *redfish.Config) { cfg.Now = func() time.Time { return now } })
	for range 5 {
		_, err := c.Fetch(t.Context(), systemURI)
		if !fault.Is(err, fault.Denied) || fault.HintOf(err) == "" {
			t.Fatalf("got %v; want denied with a hint", err)
		}
		if strings.Contains(err.Error()+fault.HintOf(err), "wrong-password") {
			t.Fatalf("the error shows the password: %v", err)
		}
	}
	if n := b.Stats().Denied; n != 1 {
		t.Fatalf("the BMC saw %d tries; want 1", n)
	}
	// Another password is another matter, and a long rest makes a second try fit.
	m.candidates = []redfish.Credentials{login("root", bmcsim.DefaultPassword)}
	read(t, c)
	if err := b.ForgetSessions(); err != nil {
		t.Fatal(err)
	}
	m.candidates = []redfish.Credentials{login("root", "wrong-password")}
	now = now.Add(6 * time.Minute)
	if _, err := c.Fetch(t.Context(), systemURI); !fault.Is(err, fault.Denied) {
		t.Fatalf("got %v", err)
	}
	if n := b.Stats().Denied; n != 4 { // two are the lost session's
		t.Errorf("the BMC saw %d denials; want 4", n)
	}
}

func TestUnprovenPasswordsAreTriedInOrder(t *testing.T) {
	b, base := bmctest.Start(t, bmcsim.Config{})
	m := &memory{candidates: []redfish.Credentials{login("root", "the-new-one"), login("root", bmcsim.DefaultPassword)}}
	c := connect(t, b, base, m, nil)
	read(t, c)
	if len(m.proven) != 1 || m.proven[0] != login("root", bmcsim.DefaultPassword) {
		t.Errorf("proven: %d logins, want the old password alone", len(m.proven))
	}
	if creds, in := c.LoggedIn(); !in || creds.User != "root" {
		t.Errorf("logged in: %v as %q", in, creds.User)
	}
}

func TestTryProvesAndLeavesNothing(t *testing.T) {
	b, _, _, c := start(t, bmcsim.Config{})
	read(t, c)
	if err := c.Try(t.Context(), login("root", bmcsim.DefaultPassword)); err != nil {
		t.Error(err)
	}
	if err := c.Try(t.Context(), login("root", "no")); !fault.Is(err, fault.Denied) {
		t.Errorf("a wrong password: %v; want denied", err)
	}
	if n := b.Stats().Sessions; n != 1 {
		t.Errorf("%d sessions; want ours alone", n)
	}
}

func TestBMCWithoutContext(t *testing.T) {
	var bodies []string
	c := hostileLogin(t, func(w http.ResponseWriter, body string) {
		bodies = append(bodies, body)
		if strings.Contains(body, "Context") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Auth-Token", "t")
		w.Header().Set("Location", "https://elsewhere.example/redfish/v1/AccountService/Accounts/root")
		w.WriteHeader(http.StatusCreated)
	})
	if _, err := c.Fetch(t.Context(), "/x"); err != nil {
		t.Fatal(err)
	}
	if len(bodies) != 2 {
		t.Errorf("%d logins; want one with Context and one without", len(bodies))
	}
	// The Location is no session of ours: nothing may be deleted there.
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestClosedClientStaysClosed(t *testing.T) {
	_, _, _, c := start(t, bmcsim.Config{})
	read(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(ctx, systemURI); err == nil {
		t.Error("a closed client answered")
	}
	if _, err := c.Fetch(t.Context(), systemURI); !fault.Is(err, fault.Canceled) {
		t.Errorf("got %v; want canceled", err)
	}
}

func TestFaults(t *testing.T) {
	want := map[bmcsim.FaultKind]fault.Kind{
		bmcsim.Hang: fault.Timeout, bmcsim.Garbage: fault.Garbage, bmcsim.Broken: fault.Unavailable, bmcsim.Huge: fault.TooLarge,
		bmcsim.Drop: fault.Unavailable, bmcsim.Denies: fault.Denied, bmcsim.Busy: fault.Unavailable, bmcsim.Slow: fault.Timeout,
	}
	b, base := bmctest.Start(t, bmcsim.Config{})
	got := map[bmcsim.FaultKind]fault.Kind{}
	ahead := time.Duration(0)
	for kind := range want {
		c := connect(t, b, base, rootLogin(), func(cfg *redfish.Config) {
			cfg.Limits.Read = 500 * time.Millisecond
			cfg.Now = func() time.Time { return time.Now().Add(ahead) }
			if kind == bmcsim.Huge { // 8 MiB take their time under the race detector
				cfg.Limits.Read = 10 * time.Second
			}
		})
		read(t, c)
		if err := b.Fault(bmcsim.Fault{Kind: kind}); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		_, err := c.Fetch(t.Context(), systemURI)
		got[kind] = fault.KindOf(err)
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("%s took %s", kind, took)
		}
		if err := b.Fault(bmcsim.Fault{Kind: bmcsim.NoFault}); err != nil {
			t.Fatal(err)
		}
		ahead += time.Hour // a login rests after a refusal
		read(t, c)         // a BMC that recovers is served again
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
}
