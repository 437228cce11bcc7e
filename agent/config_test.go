package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), ConfigFile)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const goodConfig = `name: r01
rack: r01
site: dc1
coordinators: ["10.0.0.1:7443", "c2.example:7443"]
interfaces: [eth1]
login: {user: root, password_file: bmc.password}
nodes:
  - {name: r01-u01, pin: "sha256/AAAA", serial: S1, labels: {role: gpu}}
  - {name: r01-u02, pin: "sha256/BBBB", address: 10.1.0.2, factory: openbmc}
  - {name: r01-u03, pin: "sha256/CCCC", address: "fd00::3"}
`

func TestReadConfig(t *testing.T) {
	path := configFile(t, goodConfig)
	dir := filepath.Dir(path)
	got, err := ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Written.IsZero() {
		t.Error("nobody knows when it was written")
	}
	got.Written = time.Time{}
	want := Config{
		Name: "r01", Rack: "r01", Site: "dc1", State: dir,
		Coordinators: []string{"10.0.0.1:7443", "c2.example:7443"},
		Interfaces:   []string{"eth1"},
		Login:        Login{User: "root", PasswordFile: filepath.Join(dir, "bmc.password")},
		Nodes: []Entry{
			{Name: "r01-u01", Pin: "sha256/AAAA", Serial: "S1", Labels: map[string]string{"role": "gpu"}},
			{Name: "r01-u02", Pin: "sha256/BBBB", Address: "10.1.0.2", Login: Login{Factory: "openbmc"}},
			{Name: "r01-u03", Pin: "sha256/CCCC", Address: "fd00::3"},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Config{}, "Log")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"10.1.0.2:443", "[fd00::3]:443"}, got.addresses()); diff != "" {
		t.Error(diff)
	}
}

func TestConfigErrorsSayWhere(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown field":   {"site: dc1", "sites: dc1", "[3:"},
		"repeated field":  {"site: dc1", "rack: dc1", "[3:"},
		"wrong type":      {"interfaces: [eth1]", "interfaces: {a: b}", "[5:"},
		"no rack":         {"rack: r01", "rack: ''", "rack: "},
		"no coordinators": {`["10.0.0.1:7443", "c2.example:7443"]`, "[]", "coordinators: at least one"},
		"no port":         {"10.0.0.1:7443", "10.0.0.1", "coordinators: "},
		"two nodes alike": {"r01-u02", "r01-u01", "r01-u01 is there twice"},
		"two pins alike":  {"BBBB", "AAAA", "r01-u01 and r01-u02 have one pin"},
		"no pin":          {"sha256/BBBB", "BBBB", "pin"},
		"no login":        {"login: {user: root, password_file: bmc.password}", "", "r01-u01: no login"},
		"half a login":    {"user: root, ", "", "user and password_file"},
		"unknown factory": {"factory: openbmc", "factory: acme", "acme"},
		"nowhere to deliver": {
			"site: dc1", "site: dc1\nevents_listen: ':8443'", "events_url: \":8443\" tells no BMC where to deliver",
		},
		"a plain receiver": {"site: dc1", "site: dc1\nevents_listen: '10.0.0.1:8443'\nevents_url: http://10.0.0.1", "is not https://HOST:PORT"},
		"half a receiver":  {"site: dc1", "site: dc1\nevents_url: https://10.0.0.1", "events_listen: "},
		"no receiver port": {"site: dc1", "site: dc1\nevents_listen: 10.0.0.1", "events_listen: "},
		"half a pair":      {"site: dc1", "site: dc1\nevents_listen: '10.0.0.1:1'\nevents_key: k", "needed together"},
		"factory and user": {"factory: openbmc", "factory: openbmc, user: x", "alone"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(goodConfig, c.old, c.new, 1)
			if text == goodConfig {
				t.Fatal("the case changes nothing")
			}
			_, err := ReadConfig(configFile(t, text))
			if !fault.Is(err, fault.BadInput) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestEmptyConfig(t *testing.T) {
	if _, err := ReadConfig(configFile(t, "")); err == nil {
		t.Error("an empty file is a configuration")
	}
	if _, err := ReadConfig(filepath.Join(t.TempDir(), "none")); !fault.Is(err, fault.BadInput) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestPasswordFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p")
	if err := os.WriteFile(path, []byte("canary word \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	user, password, err := Login{User: "admin", PasswordFile: path}.read()
	if err != nil || user != "admin" || password.Reveal() != "canary word" {
		t.Errorf("got %q, %v", user, err)
	}
	_, _, err = Login{User: "admin", PasswordFile: path + ".none"}.read()
	if !fault.Is(err, fault.BadInput) {
		t.Errorf("a missing file: %v", err)
	}
	user, password, err = Login{Factory: FactoryOpenBMC}.read()
	if err != nil || user != "root" || password.Empty() || password.String() != fleet.Redacted {
		t.Errorf("factory: %q, %v", user, err)
	}
}

func TestCommandNeedsOneOfTwo(t *testing.T) {
	for _, args := range [][]string{{}, {"--config", "x", "--state", "y"}, {"--config", filepath.Join(t.TempDir(), "none")}} {
		cmd := Command()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(t.Context()); !fault.Is(err, fault.BadInput) {
			t.Errorf("%v: %v, want bad input", args, err)
		}
	}
}
