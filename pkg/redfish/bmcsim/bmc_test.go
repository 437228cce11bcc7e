package bmcsim_test

import (
	"net/http"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

func TestLoginReadAndLogout(t *testing.T) {
	b, c := start(t, bmcsim.Config{PowerOn: true})
	login := c.want(c.login("root", bmcsim.DefaultPassword), http.StatusCreated)
	if n := len(c.token); n != 20 {
		t.Errorf("token has %d characters, want 20", n)
	}
	sys := c.want(c.get(system), http.StatusOK)
	if got := sys.body["PowerState"]; got != "On" {
		t.Errorf("PowerState = %v, want On", got)
	}
	if b.Stats().Sessions != 1 {
		t.Errorf("sessions = %d, want 1", b.Stats().Sessions)
	}
	c.want(c.do(http.MethodDelete, login.header.Get("Location"), ""), http.StatusOK)
	gone := c.want(c.get(system), http.StatusUnauthorized)
	if gone.text != "" || gone.header.Get("WWW-Authenticate") != "Basic" {
		t.Errorf("401 with body %q and WWW-Authenticate %q", gone.text, gone.header.Get("WWW-Authenticate"))
	}
}

func TestErrorsNameTheMessage(t *testing.T) {
	_, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)
	for _, tt := range []struct{ method, path, body, want string }{
		{"GET", "/redfish/v1/nothere", "", "Base.1.19.ResourceNotFound"},
		{"PATCH", system, "{}", "Base.1.19.EmptyJSON"},
		{"POST", reset, "{}", "Base.1.19.PropertyMissing"},
		{"GET", sensors + "nope", "", "Base.1.19.ResourceNotFound"},
	} {
		if got := c.do(tt.method, tt.path, tt.body).messageID(); got != tt.want {
			t.Errorf("%s %s %s: %s, want %s", tt.method, tt.path, tt.body, got, tt.want)
		}
	}
}
