package ca_test

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// command runs chiba ca with args.
func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := ca.Command()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// What a certificate shall name counts at once, also if there is a good one without
// it; what is not said again stays; and a name that nobody could verify is refused.
func TestNamesThatAreAskedForLater(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	site := func(more ...string) []string {
		return append([]string{"site", "osl1", "--root", at("root"), "--dir", at("site")}, more...)
	}
	issue := func(more ...string) []string {
		return append([]string{"issue", "coordinator/c1", "--site-ca", at("site"), "--dir", at("c1")}, more...)
	}
	for _, step := range []struct {
		args []string
		want string // names of the coordinator, "" for an error
	}{
		{site(), "-"},
		{issue("--host", "10.0.0.5"), "10.0.0.5"},
		{issue("--host", "c1.example"), ""},
		{site("--dns", "example"), "10.0.0.5"},
		{issue("--host", "c1.example,10.0.0.5"), "c1.example 10.0.0.5"},
		{issue(), "c1.example 10.0.0.5"},
		{issue("--host", "c1.example"), "c1.example 10.0.0.5"}, // it has that one
		{[]string{"root", "--root", at("root"), "--rotate"}, "c1.example 10.0.0.5"},
		{site(), "c1.example 10.0.0.5"},
		{issue(), "c1.example 10.0.0.5"}, // of the new root, under the same domains
		{issue("--host", "fd00::5"), "fd00::5"},
		{issue("--host", "c1.example.org"), ""},
	} {
		_, err := command(t, step.args...)
		if (err == nil) != (step.want != "") {
			t.Fatalf("%v: %v", step.args, err)
		}
		if err != nil && !strings.Contains(fault.HintOf(err), "--dns") {
			t.Errorf("%v: %v, hint %q", step.args, err, fault.HintOf(err))
		}
		creds, loadErr := trust.Load(at("c1"))
		if err != nil || loadErr != nil {
			continue
		}
		leaf := creds.Certificate.Leaf
		names := slices.Clone(leaf.DNSNames)
		for _, ip := range leaf.IPAddresses {
			names = append(names, ip.String())
		}
		if got := strings.Join(names, " "); got != step.want {
			t.Errorf("%v: it names %q, want %q", step.args, got, step.want)
		}
		if step.args[0] == "issue" {
			if err := goVerify(creds.Chain(), creds.Anchors, x509.ExtKeyUsageServerAuth); err != nil {
				t.Errorf("%v: %v", step.args, err)
			}
		}
	}
}

// A mesh is set up by hand, from nothing to the first handshake, and its root
// changed.
func TestCeremony(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(args ...string) (string, error) { return command(t, args...) }
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"root", "--root", at("root")}, "current  sha256/"},
		{[]string{"site", "osl1", "--root", at("root"), "--dir", at("site")}, "site osl1: osl1.chiba.internal until"},
		{[]string{"issue", "coordinator/c1", "--site-ca", at("site"), "--dir", at("c1"), "--host", "127.0.0.1"}, "spiffe://osl1.chiba.internal/coordinator/c1"},
		{[]string{"issue", "agent/a17", "--rack", "r17", "--site-ca", at("site"), "--dir", at("a17")}, "spiffe://r17.osl1.chiba.internal/agent/a17"},
		{[]string{"issue", "operator/ada", "--site-ca", at("site"), "--dir", at("ada")}, "spiffe://osl1.chiba.internal/operator/ada"},
		{[]string{"root", "--root", at("root"), "--rotate"}, "retiring sha256/"},
		{[]string{"site", "osl1", "--root", at("root"), "--dir", at("site")}, "site osl1"},
	} {
		if out, err := run(c.args...); err != nil || !strings.Contains(out, c.want) {
			t.Fatalf("%v: %q, %v", c.args, out, err)
		}
	}
	agent, err := trust.Load(at("a17"))
	if err != nil {
		t.Fatal(err)
	}
	coordinator, err := trust.Load(at("c1"))
	if err != nil {
		t.Fatal(err)
	}
	if clientErr, serverErr := handshake(t, agent.Client(), coordinator.Server(trust.Agent)); clientErr != nil || serverErr != nil {
		t.Error(clientErr, serverErr)
	}
	for _, args := range [][]string{
		{"root"},
		{"site", "osl1"},
		{"site", "OSL 1", "--root", at("root"), "--dir", at("x")},
		{"site", "osl2", "--root", at("root"), "--dir", at("site")},
		{"issue", "ada", "--site-ca", at("site"), "--dir", at("x")},
		{"issue", "root/ada", "--site-ca", at("site"), "--dir", at("x")},
		{"issue", "operator/ada", "--rack", "r17", "--site-ca", at("site"), "--dir", at("x")},
		{"issue", "operator/ada", "--site-ca", at("nowhere"), "--dir", at("x")},
	} {
		if out, err := run(args...); err == nil {
			t.Errorf("%v: %q", args, out)
		}
	}

	// Who retires the old root too early shuts out who has not renewed.
	retire := []string{"root", "--root", at("root"), "--retire"}
	if out, err := run(retire...); !fault.Is(err, fault.Conflict) || !strings.Contains(fault.HintOf(err), "--now") {
		t.Errorf("retired at once: %q, %v", out, err)
	}
	yesterday := time.Now().Add(-ca.Renewal - time.Minute)
	if err := os.Chtimes(filepath.Join(at("root"), "current"), yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	if out, err := run(retire...); err != nil || strings.Contains(out, "retiring") {
		t.Errorf("retired a day later: %q, %v", out, err)
	}
	if _, err := run("root", "--root", at("root"), "--rotate"); err != nil {
		t.Fatal(err)
	}
	if out, err := run(append(retire, "--now")...); err != nil || strings.Contains(out, "retiring") {
		t.Errorf("retired with --now: %q, %v", out, err)
	}
}
