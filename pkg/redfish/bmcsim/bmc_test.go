package bmcsim_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
)

// direct calls the handler without a network, for tests about time.
func direct(t *testing.T, b *bmcsim.BMC, token, method, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("X-Auth-Token", token)
	}
	b.ServeHTTP(w, r)
	return w
}

func directLogin(t *testing.T, b *bmcsim.BMC) string {
	t.Helper()
	return direct(t, b, "", http.MethodPost, sessions, `{"UserName":"root","Password":"0penBmc"}`).Result().Header.Get("X-Auth-Token")
}

func newBMC(t *testing.T, cfg bmcsim.Config) *bmcsim.BMC {
	t.Helper()
	b, err := bmcsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPowerTakesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBMC(t, bmcsim.Config{Transition: 10 * time.Second})
		token := directLogin(t, b)
		state := func() string {
			list, err := b.Get("power.state")
			if err != nil {
				t.Fatal(err)
			}
			return list[0].Value.String()
		}
		if w := direct(t, b, token, http.MethodPost, reset, `{"ResetType":"On"}`); w.Code != http.StatusNoContent {
			t.Fatalf("reset: %d %s", w.Code, w.Body)
		}
		var trail []string
		for range 12 {
			trail = append(trail, state())
			<-time.After(time.Second)
		}
		want := strings.Fields(strings.Repeat("poweringon ", 10) + "on on")
		if diff := cmp.Diff(want, trail); diff != "" {
			t.Errorf("power, second by second (-want +got):\n%s", diff)
		}
	})
}

func TestSessionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBMC(t, bmcsim.Config{})
		token := directLogin(t, b)
		for _, idle := range []time.Duration{29 * time.Minute, 29 * time.Minute, 31 * time.Minute} {
			<-time.After(idle)
			want := http.StatusOK
			if idle > 30*time.Minute {
				want = http.StatusUnauthorized
			}
			if w := direct(t, b, token, http.MethodGet, system, ""); w.Code != want {
				t.Errorf("after %v of rest: %d, want %d", idle, w.Code, want)
			}
		}
		if n := b.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions live, want none", n)
		}
	})
}

func TestThreeBadLoginsLockAnAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBMC(t, bmcsim.Config{FailDelay: 2 * time.Second})
		token := directLogin(t, b)
		const accounts = "/redfish/v1/AccountService/Accounts"
		direct(t, b, token, http.MethodPost, accounts, `{"UserName":"op","Password":"Test-Pass-2026"}`)
		direct(t, b, token, http.MethodPatch, "/redfish/v1/AccountService", `{"AccountLockoutThreshold":3,"AccountLockoutDuration":60}`)
		try := func(password string) int {
			return direct(t, b, "", http.MethodPost, sessions, `{"UserName":"op","Password":"`+password+`"}`).Code
		}
		began := time.Now()
		for range 3 {
			if code := try("bad"); code != http.StatusUnauthorized {
				t.Fatalf("bad login: %d", code)
			}
		}
		if took := time.Since(began); took != 6*time.Second {
			t.Errorf("three bad logins took %v, want 6s", took)
		}
		if code := try("Test-Pass-2026"); code != http.StatusUnauthorized {
			t.Errorf("good login of a locked account: %d, want 401", code)
		}
		if w := direct(t, b, token, http.MethodGet, accounts+"/op", ""); !strings.Contains(w.Body.String(), `"Locked": true`) {
			t.Errorf("the account does not show as locked: %s", w.Body)
		}
		<-time.After(time.Minute)
		if code := try("Test-Pass-2026"); code != http.StatusCreated {
			t.Errorf("good login after the lockout: %d, want 201", code)
		}
		for range 3 {
			try("bad")
		}
		direct(t, b, token, http.MethodPatch, accounts+"/op", `{"Locked":false}`)
		if code := try("Test-Pass-2026"); code != http.StatusCreated {
			t.Errorf("good login after unlocking: %d, want 201", code)
		}
	})
}

func TestPasswordChangeEndsThatUsersSessions(t *testing.T) {
	b, c := start(t, bmcsim.Config{MinPasswordLength: 7})
	c.login("root", bmcsim.DefaultPassword)
	const root = "/redfish/v1/AccountService/Accounts/root"
	c.want(c.do(http.MethodPatch, root, `{"Password":"123456"}`), http.StatusBadRequest)
	c.want(c.do(http.MethodPatch, root, `{"Password":"1234567"}`), http.StatusNoContent)
	c.want(c.get(system), http.StatusUnauthorized)
	if n := b.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions live after the change, want none", n)
	}
	c.want(c.login("root", bmcsim.DefaultPassword), http.StatusUnauthorized)
	c.want(c.login("root", "1234567"), http.StatusCreated)
}

func TestARestartedSimulatorIsTheSameBMC(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bmc.json")
	cfg := bmcsim.Config{Hostname: "bmc7", StateFile: file}
	b, c := start(t, cfg)
	c.login("root", bmcsim.DefaultPassword)
	c.want(c.do(http.MethodPatch, system, `{"AssetTag":"a-7"}`), http.StatusNoContent)
	c.want(c.do(http.MethodPatch, "/redfish/v1/AccountService/Accounts/root", `{"Password":"another-Pass1"}`), http.StatusNoContent)
	c.want(c.login("root", "another-Pass1"), http.StatusCreated)
	before := c.want(c.get("/redfish/v1"), http.StatusOK)
	if err := b.Set("cpu.temp", "95"); err != nil {
		t.Fatal(err)
	}

	again, d := start(t, cfg)
	d.token = c.token
	sys := d.want(d.get(system), http.StatusOK)
	if sys.body["AssetTag"] != "a-7" {
		t.Errorf("AssetTag = %v, want a-7", sys.body["AssetTag"])
	}
	if again.Pin() != b.Pin() {
		t.Error("it has another key")
	}
	if d.get("/redfish/v1").body["UUID"] != before.body["UUID"] {
		t.Error("it has another UUID")
	}
	if got := d.get(sensors + "temperature_cpu1").body["Reading"]; got != 95.0 {
		t.Errorf("the pinned sensor reads %v, want 95", got)
	}
}

// A session in use is not in the file with its last use: a restart must not
// take it for one that was forgotten.
func TestASessionInUseSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := bmcsim.Config{StateFile: filepath.Join(t.TempDir(), "bmc.json")}
		b := newBMC(t, cfg)
		token := directLogin(t, b)
		for range 3 {
			<-time.After(20 * time.Minute)
			direct(t, b, token, http.MethodGet, system, "")
		}
		if w := direct(t, newBMC(t, cfg), token, http.MethodGet, system, ""); w.Code != http.StatusOK {
			t.Errorf("after a restart: %d, want 200", w.Code)
		}
	})
}

func TestTheStateFileIsForItsOwnerAndHoldsNoPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bmc.json")
	newBMC(t, bmcsim.Config{StateFile: file})
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), bmcsim.DefaultPassword) {
		t.Error("the password is in the state file")
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(file), ".state-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestABrokenStateFileIsRefused(t *testing.T) {
	for _, text := range []string{"", "{", `{"Hostname":"x"}`, "[]"} {
		file := filepath.Join(t.TempDir(), "bmc.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := bmcsim.New(bmcsim.Config{StateFile: file})
		if !fault.Is(err, fault.BadInput) || fault.HintOf(err) == "" {
			t.Errorf("%q: error %v with hint %q", text, err, fault.HintOf(err))
		}
	}
}

// A change that can't be kept is not confirmed.
func TestAFullDiskIsAnInternalError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, c := start(t, bmcsim.Config{StateFile: filepath.Join(dir, "bmc.json")})
	c.login("root", bmcsim.DefaultPassword)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	a := c.want(c.do(http.MethodPatch, system, `{"AssetTag":"x"}`), http.StatusInternalServerError)
	if a.messageID() != "Base.1.19.InternalError" {
		t.Errorf("message %s", a.messageID())
	}
}

func TestAManagersTagLeavesOutItsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBMC(t, bmcsim.Config{})
		token := directLogin(t, b)
		tag := func() string {
			for name, values := range direct(t, b, token, http.MethodGet, "/redfish/v1/Managers/bmc", "").Result().Header {
				if strings.EqualFold(name, "etag") { // a recorder keeps the spelling of the wire
					return values[0]
				}
			}
			return ""
		}
		before := tag()
		<-time.After(time.Minute)
		if after := tag(); after != before || before == "" {
			t.Errorf("the tag went from %s to %s by time alone", before, after)
		}
	})
}

func TestJournalIDsNeedEscaping(t *testing.T) {
	_, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)
	const entries = "/redfish/v1/Managers/bmc/LogServices/Journal/Entries"
	members, _ := c.get(entries).body["Members"].([]any)
	if len(members) == 0 {
		t.Fatal("the journal is empty")
	}
	for _, m := range members {
		entry, _ := m.(map[string]any)
		id, _ := entry["Id"].(string)
		c.want(c.get(entries+"/"+url.PathEscape(id)), http.StatusOK)
	}
}

func TestOptionalHardware(t *testing.T) {
	_, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)
	c.want(c.get(system+"/EthernetInterfaces"), http.StatusNotFound)
	if link := c.get(system).body["EthernetInterfaces"]; link != nil {
		t.Errorf("the system links to %v", link)
	}
	if n := c.get(system + "/Storage").body["Members@odata.count"]; n != 0.0 {
		t.Errorf("%v storages without a drive", n)
	}
	c.want(c.get(system+"/Storage/storage0"), http.StatusNotFound)
}

// Clients read numbers of sensors as they stand: 40 must come as 40.0.
func TestNumbersLookLikeBmcwebs(t *testing.T) {
	b, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)
	if err := b.Set("cpu.temp", "40"); err != nil {
		t.Fatal(err)
	}
	if text := c.get(sensors + "temperature_cpu0").text; !strings.Contains(text, `"Reading": 40.0,`) {
		t.Errorf("no 40.0 in %s", text)
	}
}

func TestAWalkFromTheRootFindsNoDeadLink(t *testing.T) {
	_, c := start(t, bmcsim.Config{
		PowerOn: true, HostNIC: &bmcsim.NIC{Address: "10.0.0.2"}, Drives: []bmcsim.Drive{{ID: "sda"}},
	})
	c.login("root", bmcsim.DefaultPassword)
	seen, next := map[string]bool{}, []string{"/redfish/v1"}
	for len(next) > 0 {
		uri := next[0]
		next = next[1:]
		if seen[uri] {
			continue
		}
		seen[uri] = true
		if a := c.get(uri); a.status == http.StatusOK {
			next = append(next, linksIn(a.body)...)
		} else if !strings.Contains(uri, "ClientCertificate") && !strings.Contains(uri, "/LDAP/") {
			t.Errorf("%s: %d", uri, a.status) // certificates of clients and directories are later work
		}
	}
	if len(seen) < 60 {
		t.Errorf("only %d resources", len(seen))
	}
}

func linksIn(v any) (uris []string) {
	switch v := v.(type) {
	case map[string]any:
		if id, isText := v["@odata.id"].(string); isText && !strings.Contains(id, "#") {
			uris = append(uris, id)
		}
		for _, inner := range v {
			uris = append(uris, linksIn(inner)...)
		}
	case []any:
		for _, inner := range v {
			uris = append(uris, linksIn(inner)...)
		}
	}
	return uris
}

func TestRenamingMakesANewKey(t *testing.T) {
	b, c := start(t, bmcsim.Config{Hostname: "old"})
	c.login("root", bmcsim.DefaultPassword)
	before := b.Pin()
	c.want(c.do(http.MethodPatch, "/redfish/v1/Managers/bmc/EthernetInterfaces/eth0", `{"HostName":"new"}`), http.StatusNoContent)
	if b.Pin() == before || b.Hostname() != "new" {
		t.Errorf("host name %s, key changed: %v", b.Hostname(), b.Pin() != before)
	}
	c.client.CloseIdleConnections()
	fresh := bmctest.Client(t, b)
	c.client = fresh
	c.want(c.get(system), http.StatusOK) // the token outlives the key
}
