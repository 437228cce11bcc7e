package traffic

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const sessions = "/redfish/v1/SessionService/Sessions"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func counter() *Counter { return New(func() time.Time { return noon }, sessions) }

// Logins and logouts are no writes, a refused login is no login, and reading is
// neither.
func TestCounting(t *testing.T) {
	for _, tt := range []struct {
		method, path           string
		status                 int
		writes, logins, denied int
	}{
		{"GET", "/redfish/v1", 200, 0, 0, 0},
		{"HEAD", "/redfish/v1", 401, 0, 0, 1},
		{"OPTIONS", "/redfish/v1", 405, 0, 0, 0},
		{"PATCH", "/redfish/v1/Systems/system", 204, 1, 0, 0},
		{"PATCH", "/redfish/v1/Systems/system", 401, 1, 0, 1},
		{"PUT", "/x", 405, 1, 0, 0},
		{"DELETE", "/redfish/v1/AccountService/Accounts/op", 200, 1, 0, 0},
		{"POST", sessions, 201, 0, 1, 0},
		{"POST", sessions + "/Members", 201, 0, 1, 0},
		{"POST", sessions, 401, 0, 0, 1},
		{"POST", sessions, 0, 0, 0, 0},
		{"DELETE", sessions + "/abc", 200, 0, 0, 0},
		{"GET", sessions, 200, 0, 0, 0},
		{"POST", "/redfish/v1/EventService/Subscriptions", 201, 1, 0, 0},
		{"POST", "/redfish/v1/Systems/system/Actions/ComputerSystem.Reset", 0, 1, 0, 0},
	} {
		c := counter()
		c.Begin()
		c.End(Request{Method: tt.method, Path: tt.path, Status: tt.status})
		want := Stats{Requests: map[string]int{tt.method: 1}, Writes: tt.writes, Logins: tt.logins, Denied: tt.denied}
		if diff := cmp.Diff(want, c.Stats()); diff != "" {
			t.Errorf("%s %s %d (-want +got):\n%s", tt.method, tt.path, tt.status, diff)
		}
		line := []Request{{At: noon, Method: tt.method, Path: tt.path, Status: tt.status}}
		if diff := cmp.Diff(line, c.Requests()); diff != "" {
			t.Errorf("%s %s %d: log (-want +got):\n%s", tt.method, tt.path, tt.status, diff)
		}
	}
}

func TestTotal(t *testing.T) {
	if n := (Stats{Requests: map[string]int{"GET": 2, "POST": 3}}).Total(); n != 5 {
		t.Errorf("%d", n)
	}
	if n := (Stats{}).Total(); n != 0 {
		t.Errorf("nothing is %d", n)
	}
}

func TestTheLogForgets(t *testing.T) {
	c := counter()
	for i := range maxLog + 10 {
		c.Begin()
		c.End(Request{Method: "GET", Path: fmt.Sprint("/", i), Status: 200})
	}
	log := c.Requests()
	if len(log) != maxLog || log[0].Path != "/10" || log[maxLog-1].Path != fmt.Sprint("/", maxLog+9) {
		t.Errorf("%d lines from %s on", len(log), log[0].Path)
	}
	log[0].Path = "changed"
	s := c.Stats()
	s.Requests["GET"] = 0
	if c.Requests()[0].Path != "/10" || c.Stats().Requests["GET"] != maxLog+10 {
		t.Error("what is handed out is no copy")
	}
	c.Reset()
	if c.Stats().Total() != 0 || len(c.Requests()) != 0 {
		t.Error("something is left after a reset")
	}
}

// The limit is bmcweb's: number 201 is cut.
func TestRoomForTwoHundred(t *testing.T) {
	c := counter()
	for i := range maxConnections {
		if !c.Room() {
			t.Fatalf("no room for connection %d", i+1)
		}
		c.Conn(nil, http.StateNew)
		c.Conn(nil, http.StateActive)
		c.Conn(nil, http.StateIdle)
	}
	if c.Room() {
		t.Error("there is room for one more")
	}
	for _, end := range []http.ConnState{http.StateClosed, http.StateHijacked} {
		c.Conn(nil, end)
	}
	c.Handshake()
	want := Stats{Handshakes: 1, Connections: maxConnections, Open: maxConnections - 2}
	if diff := cmp.Diff(want, c.Stats()); diff != "" || !c.Room() {
		t.Errorf("(-want +got):\n%s", diff)
	}
	c.Reset()
	if s := c.Stats(); s.Open != maxConnections-2 || s.Connections != 0 { // what is open stays open
		t.Errorf("after a reset: %+v", s)
	}
}

func TestWaitingForTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := counter()
		c.Wait() // nobody is there
		c.Conn(nil, http.StateNew)
		c.Begin()
		done := make(chan struct{})
		go func() {
			c.Wait()
			close(done)
		}()
		over := func() bool {
			synctest.Wait()
			select {
			case <-done:
				return true
			default:
				return false
			}
		}
		c.Conn(nil, http.StateClosed)
		if over() {
			t.Error("it does not wait for a request whose connection is gone")
		}
		c.End(Request{Method: "GET", Path: "/", Status: 200})
		if !over() {
			t.Error("it waits for ever")
		}
	})
}

func TestAtOnce(t *testing.T) {
	c := counter()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			c.Begin()
			c.Handshake()
			_, _ = c.Stats(), c.Requests()
			c.End(Request{Method: "GET", Path: "/", Status: 200})
		})
	}
	all.Wait()
	c.Wait()
	if s := c.Stats(); s.Total() != 50 || s.Handshakes != 50 {
		t.Errorf("%+v", s)
	}
}
