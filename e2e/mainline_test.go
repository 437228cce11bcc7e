package e2e_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	thermal = "../docs/examples/thermal.scl"
	server  = "../docs/examples/server.scl"
	// password is the literal in the server example.
	password = "0penBMC"
)

// The language's first example: a rule is installed, a CPU heated, the rule
// fires and starts another server.
func TestARuleFires(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dev()
	watch := w.start("watch")
	w.must("apply", thermal)
	w.must("sim", "set", "ai-node-0", "cpu.temp", "95")

	watch.wait("ai-node-0")
	watch.wait("start-new-server-with-image")
	var firings []firing
	w.decode(&firings, "get", "firings")
	if len(firings) != 1 || firings[0].Node != "ai-node-0" || len(firings[0].Results) == 0 {
		t.Fatalf("firings: %+v", firings)
	}
	for _, did := range firings[0].Results {
		if did.Node != "ai-node-1" || did.Status != "confirmed" {
			t.Errorf("the rule's action: %+v", did)
		}
	}
	var power []reading
	w.decode(&power, "show", "ai-node-1", "power.state")
	if len(power) != 1 || power[0].Value != "on" {
		t.Errorf("ai-node-1 after the rule fired: %+v", power)
	}
}

// The language's second example: a plan per field, then no change and no write.
func TestConfigIsIdempotentAndKeepsItsSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dev := w.dev()
	dev.wait("8 of 8 BMCs")
	var said strings.Builder
	keep := func(got outcome) outcome {
		said.WriteString(got.stdout + got.stderr)
		return got
	}

	first := keep(w.run("plan", server)).stdout
	for _, field := range []string{"network.eth0.ip", "network.eth0.gateway", "power.state", "bmc.user.root.password"} {
		if !strings.Contains(first, field) {
			t.Errorf("the plan does not name %s:\n%s", field, first)
		}
	}
	if got := keep(w.run("apply", server, "--yes")); got.code != 0 {
		t.Fatalf("apply: exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	var before, after []stats
	w.decode(&before, "sim", "stats")
	var second []plan
	w.decode(&second, "plan", server)
	if len(second) != 1 || second[0].Nodes != 1 || len(second[0].Changes) != 0 {
		t.Errorf("after the apply, a plan still shows %+v", second)
	}
	if got := keep(w.run("plan", server)); !strings.Contains(got.stdout, "no change") {
		t.Errorf("a second plan says:\n%s", got.stdout)
	}
	keep(w.run("apply", server, "--yes"))
	w.decode(&after, "sim", "stats")
	for i := range after {
		if after[i].Writes != before[i].Writes {
			t.Errorf("%s: a second apply wrote %d times", after[i].Node, after[i].Writes-before[i].Writes)
		}
	}
	keep(w.run("get", "script", "server"))
	keep(w.run("get", "script", "server", "-o", "json"))
	keep(w.run("get", "run", "R1", "-o", "json"))
	keep(w.run("dump", "json", "ServerName"))

	// The new password is what the BMC now takes, so a restart must log in.
	if code := dev.interrupt(); code != 0 {
		t.Errorf("Ctrl-C: exit %d", code)
	}
	again := w.dev()
	var nodes []node
	w.decode(&nodes, "get", "nodes")
	for _, n := range nodes {
		if n.State != "ready" {
			t.Errorf("after a restart %s is %s: %s", n.Name, n.State, n.Reason)
		}
	}
	again.interrupt()

	if strings.Contains(said.String()+dev.out.String()+again.out.String(), password) {
		t.Error("the password was printed")
	}
	grep(t, w.dir, password)
}

// grep fails the test for every file below dir that holds text.
func grep(t *testing.T, dir, text string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(data), text) {
			t.Errorf("%s holds the password", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestShowAndDump(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dev()

	var readings []reading
	w.decode(&readings, "show", "all", "cpu.temp", "power.watts")
	if len(readings) != 16 {
		t.Errorf("8 nodes × 2 elements are %d readings", len(readings))
	}
	for _, r := range readings {
		if r.Value == nil && r.Reason == "" {
			t.Errorf("%s of %s is unknown without a reason", r.Ref, r.Node)
		}
	}
	// An idle element of the registry that the simulated BMCs do not report.
	out := w.must("show", "r01-u04", "storage.volume.none.state", "cpu.temp")
	if !strings.Contains(out, "—") {
		t.Errorf("an unknown value is not shown as —:\n%s", out)
	}

	checkXML(t, w.must("dump", "xml", "all"))
	var tree any
	if err := json.Unmarshal([]byte(w.must("dump", "json", "r01-u04")), &tree); err != nil {
		t.Errorf("dump json: %v", err)
	}
}

func checkXML(t *testing.T, text string) {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(text))
	depth, roots := 0, 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("dump xml is not well-formed: %v", err)
		}
		switch token.(type) {
		case xml.StartElement:
			if depth == 0 {
				roots++
			}
			depth++
		case xml.EndElement:
			depth--
		}
	}
	if roots != 1 {
		t.Errorf("dump xml has %d roots", roots)
	}
}

// TestInventoryAndItsChanges: what a server is made of is asked for through the
// mesh, and what has changed since it was asked last is told.
func TestInventoryAndItsChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dev()

	w.must("sim", "set", "r01-u04", "asset-tag", "first")
	var all []struct {
		Node  string
		Parts []struct {
			Kind  string
			Facts map[string]struct{ Source string }
		}
	}
	w.decode(&all, "get", "inventory", "r01-u04")
	kinds := map[string]int{}
	for _, p := range all[0].Parts {
		kinds[p.Kind]++
		for name, f := range p.Facts {
			if f.Source == "" {
				t.Errorf("nobody knows where the %s of a %s stands", name, p.Kind)
			}
		}
	}
	if len(all) != 1 || kinds["system"] != 1 || kinds["processor"] == 0 || kinds["memory"] == 0 || kinds["psu"] == 0 {
		t.Errorf("%s is made of %v", all[0].Node, kinds)
	}

	w.must("sim", "set", "r01-u04", "asset-tag", "second")
	if out := w.must("get", "inventory", "r01-u04"); !strings.Contains(out, "processor") {
		t.Errorf("a table without a processor:\n%s", out)
	}
	w.must("sim", "fault", "r01-u04", "drop")
	if out := w.must("get", "inventory", "r01-u04"); !strings.Contains(out, " old: ") || !strings.Contains(out, "processor") {
		t.Errorf("of a BMC that is silent the last inventory is told:\n%s", out)
	}
	w.until("the change is told", func() bool {
		out := w.must("get", "changes", "r01-u04")
		return strings.Contains(out, "first") && strings.Contains(out, "second")
	})
}
