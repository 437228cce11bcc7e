package bmcsim_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
)

const (
	sessions = "/redfish/v1/SessionService/Sessions"
	system   = "/redfish/v1/Systems/system"
	reset    = system + "/Actions/ComputerSystem.Reset"
	sensors  = "/redfish/v1/Chassis/chassis/Sensors/"
)

// caller speaks to one BMC over real HTTPS.
type caller struct {
	t      *testing.T
	client *http.Client
	base   string
	token  string
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

func start(t *testing.T, cfg bmcsim.Config) (*bmcsim.BMC, *caller) {
	t.Helper()
	b, url := bmctest.Start(t, cfg)
	c := &caller{t: t, client: bmctest.Client(t, b), base: url}
	return b, c
}

// do sends a request; headers are "Name: value".
func (c *caller) do(method, path, body string, headers ...string) answer {
	c.t.Helper()
	a, err := c.try(method, path, body, headers...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (c *caller) try(method, path, body string, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if c.token != "" {
		req.Header.Set("X-Auth-Token", c.token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := c.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	a := answer{status: res.StatusCode, header: res.Header, text: string(text)}
	_ = json.Unmarshal(text, &a.body) // empty and broken bodies are cases of their own
	return a, err
}

func (c *caller) get(path string) answer { c.t.Helper(); return c.do(http.MethodGet, path, "") }

// login takes a session and uses it from then on.
func (c *caller) login(user, password string) answer {
	c.t.Helper()
	a := c.do(http.MethodPost, sessions, `{"UserName":"`+user+`","Password":"`+password+`"}`)
	c.token = a.header.Get("X-Auth-Token")
	return a
}

func (a answer) messageID() string {
	e, _ := a.body["error"].(map[string]any)
	code, _ := e["code"].(string)
	return code
}

func (c *caller) want(a answer, status int) answer {
	c.t.Helper()
	if a.status != status {
		c.t.Fatalf("status %d, want %d: %s", a.status, status, a.text)
	}
	return a
}

func encodeBasic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}
