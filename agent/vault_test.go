package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/trust/seal"
)

// newVault is the vault on the files in dir, with the login of the configuration.
func newVault(t *testing.T, dir string) *vault {
	t.Helper()
	key, err := seal.OpenKey(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := spool.Open(filepath.Join(dir, "db"), spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &vault{others: &companion{}, shared: func() {}, spool: s, key: key, entry: func(n fleet.NodeName) (Entry, bool) {
		pin := map[fleet.NodeName]string{"n1": "sha256/1", "renamed": "sha256/1"}[n]
		return Entry{Name: n, Pin: pin, Login: Login{Factory: FactoryOpenBMC}}, pin != ""
	}}
}

func candidates(t *testing.T, v *vault, bmc string) []string {
	t.Helper()
	all, err := v.Candidates(bmc)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range all {
		out = append(out, c.User+":"+c.Password.Reveal())
	}
	return out
}

func credentials(password string) redfish.Credentials {
	return redfish.Credentials{User: "root", Password: fleet.NewSecret(password)}
}

// A crash at any point of a password change leaves a login that works: both are
// candidates until one is proven.
func TestPasswordChange(t *testing.T) {
	dir := t.TempDir()
	v := newVault(t, dir)
	for _, step := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"at first", func() error { return nil }, []string{"root:0penBmc"}},
		{"proposed", func() error { return v.Propose("n1", credentials("one")) }, []string{"root:one", "root:0penBmc"}},
		{"proven", func() error { return v.Prove("n1", credentials("one")) }, []string{"root:one", "root:0penBmc"}},
		{"proposed again", func() error { return v.Propose("n1", credentials("two")) }, []string{"root:two", "root:one", "root:0penBmc"}},
		{"the old one holds", func() error { return v.Prove("n1", credentials("one")) }, []string{"root:one", "root:0penBmc"}},
		{"reset to the factory's", func() error { return v.Prove("n1", credentials("0penBmc")) }, []string{"root:0penBmc"}},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if diff := cmp.Diff(step.want, candidates(t, v, "n1")); diff != "" {
			t.Errorf("%s: %s", step.name, diff)
		}
	}
	if got := candidates(t, v, "n9"); got != nil {
		t.Errorf("a node that is not in the catalogue has the login %v", got)
	}
}

func TestVaultOutlivesARestart(t *testing.T) {
	dir := t.TempDir()
	v := newVault(t, dir)
	const canary = "canary-91ab"
	for _, err := range []error{
		v.Propose("n1", credentials(canary)), v.Store("n1", "admin", fleet.NewSecret(canary)),
		v.Save("n1", ""), v.Save("n1", "/redfish/v1/SessionService/Sessions/7"), v.spool.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	image, err := os.ReadFile(filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(image, []byte(canary)) {
		t.Error("a password is on disk as it is")
	}
	v = newVault(t, dir)
	if diff := cmp.Diff([]string{"root:" + canary, "root:0penBmc"}, candidates(t, v, "n1")); diff != "" {
		t.Error(diff)
	}
	if uri, open, err := v.Load("n1"); err != nil || !open || uri != "/redfish/v1/SessionService/Sessions/7" {
		t.Errorf("the session is %q, %v, %v", uri, open, err)
	}
	if err := v.Forget("n1"); err != nil {
		t.Fatal(err)
	}
	if _, open, err := v.Load("n1"); err != nil || open {
		t.Errorf("a forgotten session: %v, %v", open, err)
	}
}

func TestDigests(t *testing.T) {
	v := newVault(t, t.TempDir())
	if err := v.Store("n1", "admin", fleet.NewSecret("one")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		bmc, user, password string
		same, known         bool
	}{
		{"n1", "admin", "one", true, true},
		{"n1", "admin", "two", false, true},
		{"n1", "root", "one", false, false},
		{"n2", "admin", "one", false, false},
	} {
		same, known, err := v.Matches(c.bmc, c.user, fleet.NewSecret(c.password))
		if err != nil || same != c.same || known != c.known {
			t.Errorf("%s %s %s: same %v, known %v, %v", c.bmc, c.user, c.password, same, known, err)
		}
	}
}

// A node may get another name: what was set on its BMC is still known.
func TestRenamedNode(t *testing.T) {
	v := newVault(t, t.TempDir())
	for _, err := range []error{
		v.Propose("n1", credentials("one")), v.Store("n1", "admin", fleet.NewSecret("two")), v.Save("n1", "/sessions/7"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"root:one", "root:0penBmc"}, candidates(t, v, "renamed")); diff != "" {
		t.Error(diff)
	}
	if same, known, err := v.Matches("renamed", "admin", fleet.NewSecret("two")); err != nil || !same || !known {
		t.Errorf("the digest: same %v, known %v, %v", same, known, err)
	}
	if uri, open, err := v.Load("renamed"); err != nil || !open || uri != "/sessions/7" {
		t.Errorf("the session is %q, %v, %v", uri, open, err)
	}
}

// A password that is proposed again and again, because the BMC never answers, is
// one candidate: each of them is one more failed login.
func TestProposedAgain(t *testing.T) {
	v := newVault(t, t.TempDir())
	for _, password := range []string{"one", "two", "one", "one"} {
		if err := v.Propose("n1", credentials(password)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"root:one", "root:two", "root:0penBmc"}, candidates(t, v, "n1")); diff != "" {
		t.Error(diff)
	}
}
