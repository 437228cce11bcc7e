package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	chibaagent "github.com/chiba-mesh/chiba/agent"
)

// rackNodes writes the simulated rack into an agent.yaml that joining has left, as a
// person does.
func (w *world) rackNodes(dir string) {
	w.t.Helper()
	var rack struct {
		Nodes []chibaagent.Entry `yaml:"nodes"`
	}
	text, err := os.ReadFile(filepath.Join(w.dir, "rack.yaml"))
	if err != nil {
		w.t.Fatal(err)
	}
	if err = yaml.Unmarshal(text, &rack); err != nil || len(rack.Nodes) == 0 {
		w.t.Fatalf("rack.yaml has %d nodes, %v", len(rack.Nodes), err)
	}
	path := filepath.Join(dir, chibaagent.ConfigFile)
	config, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	var nodes strings.Builder
	nodes.WriteString("no_mdns: true\nnodes:\n")
	for _, n := range rack.Nodes {
		fmt.Fprintf(&nodes, "  - {name: %q, pin: %q, address: %q, factory: openbmc}\n", n.Name, n.Pin, n.Address)
	}
	whole := strings.Replace(string(config), "nodes: []\n", nodes.String(), 1)
	if err = os.WriteFile(path, []byte(whole), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// beside runs chiba with args alone, without the world's state directory.
func (w *world) beside(args ...string) *process {
	w.t.Helper()
	cmd := exec.CommandContext(context.Background(), binary, args...)
	p := &process{t: w.t, name: strings.Join(args, " "), cmd: cmd, out: newTranscript(), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { p.err = cmd.Wait(); close(p.done); p.out.end() }()
	w.t.Cleanup(func() {
		p.kill()
		if w.t.Failed() {
			w.t.Logf("chiba %s said:\n%s", p.name, p.out.String())
		}
	})
	return p
}

// ended waits for the end of a process and returns its exit code.
func (p *process) ended() int {
	p.t.Helper()
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

type enrolled struct {
	Name      string
	Connected bool
	Key       string
	Locked    string
}

// A rack joins with a bundle, from nothing to its first sensor; another one by a code
// that a person approves; a third is told no.
func TestEnrolment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start("dev", "--only", "sim").wait("ready in")
	w.start("dev", "--only", "coordinator").wait("ready in")

	bundle, dir := filepath.Join(w.dir, "join.bundle"), filepath.Join(w.dir, "a17")
	w.must("trust", "token", "create", "--rack", "r17", "--out", bundle)
	if info, err := os.Stat(bundle); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the bundle is %v, %v", info.Mode(), err)
	}
	join := w.beside("agent", "join", bundle, "--state", dir)
	join.wait("spiffe://r17.dev.chiba.internal/agent/agent-r17 is enrolled")
	if code := join.ended(); code != 0 {
		t.Fatalf("join: exit %d", code)
	}
	if tokens := w.must("trust", "token", "list"); !strings.Contains(tokens, "used ") {
		t.Errorf("the token is listed as:\n%s", tokens)
	}
	w.rackNodes(dir)
	w.beside("agent", "--state", dir, "--join", bundle).wait("linked to a coordinator")
	w.until("its sensors are told", func() bool { // it tells of its nodes when it has seen them
		return strings.Count(w.run("show", "all", "cpu.temp").stdout, "C\n") == 8
	})
	thief := w.beside("agent", "join", bundle, "--state", filepath.Join(w.dir, "thief"))
	thief.wait("was used at")
	if code := thief.ended(); code != 1 {
		t.Errorf("the same bundle elsewhere: exit %d", code)
	}

	config, err := chibaagent.ReadConfig(filepath.Join(dir, chibaagent.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	pin, _, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(w.beside("ca", "root", "--root", filepath.Join(w.dir, "ca", "root")).wait("current"), "current")), " ")
	ask := func(rack string) (*process, string) {
		p := w.beside("agent", "join", "--coordinator", config.Coordinators[0], "--pin", pin, "--rack", rack,
			"--script-root", filepath.Join(dir, "script-root.json"), "--state", filepath.Join(w.dir, rack))
		return p, strings.TrimPrefix(p.wait("code: "), "code: ")
	}
	waiting, code := ask("r18")
	key := strings.TrimPrefix(waiting.wait("key:  "), "key:  ")
	if pending := w.must("trust", "pending"); !strings.Contains(pending, key) || strings.Contains(pending, code) {
		t.Errorf("code %s, key %s; who waits is listed as:\n%s", code, key, pending)
	}
	if wrong := w.run("trust", "approve", "BBBB-BBBB"); wrong.code != 1 || !strings.Contains(wrong.stderr, "no machine that waits") {
		t.Errorf("a wrong code: exit %d\n%s", wrong.code, wrong.stderr)
	}
	if said := w.must("trust", "approve", strings.ToLower(code)); !strings.Contains(said, key) {
		t.Errorf("approved: %s", said)
	}
	waiting.wait("spiffe://r18.dev.chiba.internal/agent/agent-r18 is enrolled")
	w.beside("agent", "--state", filepath.Join(w.dir, "r18")).wait("linked to a coordinator")
	waiting, code = ask("r19")
	w.must("trust", "deny", code)
	waiting.wait("has denied it")

	var agents []enrolled
	w.decode(&agents, "get", "agents")
	if len(agents) != 2 {
		t.Fatalf("agents: %+v", agents)
	}
	for _, a := range agents {
		if !a.Connected || a.Key != "software" || a.Locked != "" {
			t.Errorf("%+v", a)
		}
	}
	if said := w.must("audit", "log"); !strings.Contains(said, "approve to join") || !strings.Contains(said, "enrol") {
		t.Errorf("the audit log:\n%s", said)
	}
}
