package e2e_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

type audited struct{ By, What, Subject, Detail string }

// cutOff is a rack whose coordinator has been killed, and that knows it.
func cutOff(t *testing.T) (w *world, agent *process) {
	t.Helper()
	w = newWorld(t)
	w.start("dev", "--only", "sim").wait("ready in")
	coordinator := w.start("dev", "--only", "coordinator")
	coordinator.wait("ready in")
	agent = w.start("dev", "--only", "agent")
	agent.wait("ready in")
	w.takenOver()
	coordinator.kill()
	agent.kill() // or it would take a heartbeat to notice
	agent = w.start("dev", "--only", "agent")
	agent.wait("ready in")
	return w, agent
}

// The whole line with no coordinator: a person on the rack looks, puts a rule into
// force, switches a server; the rule fires; the agent is killed, and goes on. When a
// coordinator is back it has all of it, once and in order, and who it was.
func TestOnTheRackWithNoCoordinator(t *testing.T) {
	t.Parallel()
	w, agent := cutOff(t)
	rule := w.file("hot.scl", `(monitor "r01-u04" (every 1s) (condition (> cpu.temp 90)) (action (set-indicator on)))`)
	w.must("--agent", "apply", rule, "--yes")
	if out := w.must("--agent", "show", "r01-u04", "cpu.temp"); !strings.Contains(out, "r01-u04") {
		t.Errorf("show told:\n%s", out)
	}
	w.must("--agent", "power", "off", "r01-u05", "--yes")
	w.must("sim", "set", "r01-u04", "cpu.temp", "95")
	acted := func() (all []firing) {
		w.decode(&all, "--agent", "get", "firings")
		return all
	}
	if !eventually(func() bool { return len(acted()) == 1 }) {
		t.Fatal("the rule did not fire")
	}

	agent.kill() // and what follows is with what its disk knows
	agent = w.start("dev", "--only", "agent")
	agent.wait("ready in")
	w.must("sim", "set", "r01-u04", "cpu.temp", "40")
	w.must("--agent", "apply", w.file("led.scl", `(action "r01-u06" (set-indicator on))`), "--yes")
	w.must("--agent", "apply", w.file("gone.scl", `(config "r01-u07" (asset-tag "gone"))`), "--yes")
	w.must("--agent", "delete", "script", "gone")

	var there []run
	w.decode(&there, "--agent", "get", "runs")
	if fired := acted(); len(there) != 4 || len(fired) != 1 {
		t.Fatalf("on the rack: %+v, %+v", there, fired)
	}

	w.start("dev", "--only", "coordinator").wait("ready in")
	w.linked()
	var told []audited
	onRack := eventually(func() bool {
		w.decode(&told, "audit", "log")
		return whatWasDone(told) == "apply hot, run power, run led, apply gone, remove gone"
	})
	if !onRack {
		t.Fatalf("audited: %s", whatWasDone(told))
	}
	for _, r := range told {
		if strings.HasSuffix(r.What, "on the rack") && (r.By != "agent agent-r01" || !strings.Contains(r.Detail, "(uid ") || !strings.Contains(r.Detail, "signed by ")) {
			t.Errorf("audited: %+v", r)
		}
	}
	w.must("audit", "verify")

	var here []run
	w.decode(&here, "get", "runs")
	if diff := cmp.Diff(there, here); diff != "" {
		t.Errorf("the runs on the rack (-) and at the coordinator (+):\n%s", diff)
	}
	for _, r := range here {
		var atRack, atCoordinator run
		w.decode(&atRack, "--agent", "get", "run", r.ID)
		w.decode(&atCoordinator, "get", "run", r.ID)
		if diff := cmp.Diff(atRack, atCoordinator); diff != "" || len(atCoordinator.Results) != 1 {
			t.Errorf("%s on the rack (-) and at the coordinator (+):\n%s", r.ID, diff)
		}
	}
	var firings []firing
	w.decode(&firings, "get", "firings")
	if len(firings) != 1 || !firings[0].CutOff || len(firings[0].Results) != 1 {
		t.Errorf("firings: %+v", firings)
	}

	// The script is the rack's own until the fleet decides.
	if out := w.must("get", "scripts"); !strings.Contains(out, "hot ") || !strings.Contains(out, "r01 alone") || strings.Contains(out, "gone") {
		t.Errorf("the scripts:\n%s", out)
	}
	w.must("delete", "script", "hot")
	if !eventually(func() bool { return !strings.Contains(w.must("--agent", "get", "scripts"), "hot") }) {
		t.Error("it still stands on the rack")
	}
	if out := w.run("--agent", "audit", "verify"); out.code != 1 || !strings.Contains(out.stderr, "no signed log") {
		t.Errorf("audit verify on the rack: %+v", out)
	}
}

// whatWasDone is what people on racks have done, in order.
func whatWasDone(told []audited) string {
	var all []string
	for _, r := range told {
		if verb, is := strings.CutSuffix(r.What, " on the rack"); is {
			all = append(all, verb+" "+strings.TrimPrefix(r.Subject, "script "))
		}
	}
	return strings.Join(all, ", ")
}

// Both sides have decided about one name: the newer decision counts, and the other is
// told, to who watches and to who lists the scripts.
func TestTheFleetDecidedWhileARackDid(t *testing.T) {
	t.Parallel()
	w, agent := cutOff(t)
	script := w.file("tag.scl", `(config "r01-u04" (asset-tag "rack"))`)
	w.must("--agent", "apply", script, "--yes")
	socket := filepath.Join(w.dir, "agent", "agent.sock")
	early := w.file("early.dsse", "")
	w.must("--agent="+socket, "apply", "--prepare", early, "--name", "tag", w.file("late.scl", `(config "r01-u04" (asset-tag "late"))`))

	// The agent is away; the fleet decides, for a rack that it knows.
	agent.kill()
	w.start("dev", "--only", "coordinator").wait("ready in")
	if got := w.run("apply", w.file("tag.scl", `(config "r01-u04" (asset-tag "fleet"))`), "--yes"); got.code != 3 {
		t.Fatalf("exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	watch := w.start("watch")
	w.start("dev", "--only", "agent").wait("ready in")
	if line := watch.wait("on the rack at"); !strings.Contains(line, "the fleet has decided about tag since") {
		t.Errorf("watch told: %s", line)
	}
	w.linked()
	if out := w.must("get", "scripts"); !strings.Contains(out, "on rack r01 (version") || strings.Contains(out, "r01 alone") {
		t.Errorf("the scripts:\n%s", out)
	}
	if !eventually(func() bool { return !strings.Contains(w.must("--agent", "get", "scripts"), "r01 alone") }) {
		t.Error("the rack's own still stands")
	}
	// What was signed before the fleet has decided is no newer than that.
	if got := w.run("--agent", "apply", early, "--yes"); got.code == 0 || !strings.Contains(got.stderr, "not newer") {
		t.Errorf("an old order: %+v", got)
	}
}

// What people see on the rack, as it is printed.
func TestGoldenOnTheRack(t *testing.T) {
	t.Parallel()
	w, _ := cutOff(t)
	plan := w.file("plan.scl", `(config "r01-u04" (asset-tag "a1"))
(monitor "r01-u04" (condition (> cpu.temp 90)) (action (power off)))
(action "r01-u05" (power cycle))
`)
	var got strings.Builder
	for _, args := range [][]string{
		{"--agent", "get", "nodes"},
		{"--agent", "get", "bmcs"},
		{"--agent", "get", "scripts"},
		{"--agent", "plan", plan},
		{"--agent", "plan", w.file("wrong.scl", `(config "r02-u01" (asset-tag "x"))`)},
		{"--agent", "cancel", "R1"},
		{"--agent", "trust", "deny", "agent/a", "--reason", "x"},
	} {
		o := w.run(args...)
		got.WriteString("> chiba " + strings.Join(named(args), " ") + "\n" + o.stdout + o.stderr + "\n")
	}
	text := regexp.MustCompile(`\S*/(\w+\.scl)`).ReplaceAllString(got.String(), "$1")
	text = regexp.MustCompile(`until \d{4}-\d\d-\d\d`).ReplaceAllString(text, "until DATE")
	path := filepath.Join("testdata", "onrack.txt")
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Error(diff)
	}
}

func named(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = filepath.Base(a)
	}
	return out
}
