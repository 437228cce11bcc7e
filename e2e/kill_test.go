package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kill -9 of the agent, the coordinator or both at any moment: after a restart
// the standing rules are in force, every result is there once, and no BMC holds
// a session that nobody owns.
func TestKill9AtAnyMoment(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	w := newWorld(t)
	_, coordinator, agent := w.apart()
	w.must("apply", thermal)

	const rounds = 6
	for round := range rounds {
		path := w.file("tag.scl", fmt.Sprintf(`(config "all" (asset-tag "round %d"))`, round))
		apply := w.start("apply", path, "--yes")
		<-time.After(time.Duration(random.IntN(150)) * time.Millisecond)
		if round%3 != 0 {
			coordinator.kill()
		}
		if round%3 != 1 {
			agent.kill()
		}
		if round%3 != 0 {
			coordinator = w.start("dev", "--only", "coordinator")
			coordinator.wait("ready in")
		}
		if round%3 != 1 {
			agent = w.start("dev", "--only", "agent")
			agent.wait("ready in")
		}
		apply.kill()
		w.linked()
		// Whether that apply was committed before the crash is open; this one
		// settles what the rack shall be.
		if got := w.run("apply", path, "--yes"); got.code != 0 {
			t.Fatalf("round %d: exit %d\n%s%s", round, got.code, got.stdout, got.stderr)
		}
	}

	var runs []run
	w.decode(&runs, "get", "runs")
	for _, r := range runs {
		var whole run
		w.decode(&whole, "get", "run", r.ID)
		if whole.State != "done" {
			t.Errorf("%s is %s", r.ID, whole.State)
		}
		seen := map[string]int{}
		for _, did := range whole.Results {
			seen[did.Node+" "+did.Step+" "+did.Path]++
		}
		for what, times := range seen {
			if times != 1 {
				t.Errorf("%s: %q is recorded %d times", r.ID, what, times)
			}
		}
	}

	// The rule is still in force, and acts once.
	watch := w.start("watch")
	w.must("sim", "set", "ai-node-0", "cpu.temp", "95")
	watch.wait("start-new-server-with-image")
	var firings []firing
	w.decode(&firings, "get", "firings")
	if len(firings) != 1 {
		t.Errorf("the rule fired %d times: %+v", len(firings), firings)
	}

	// None once it has stopped, and none that an earlier life has left.
	w.takenOver() // who stops amid a take-over leaves what the next start removes
	if code := agent.interrupt(); code != 0 {
		t.Errorf("the agent's Ctrl-C: exit %d", code)
	}
	w.sessions(0)
}

// The same in one process: everything is killed at once, the simulated BMCs too,
// which keep their sessions as a real one does.
func TestKill9OfAllAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dev := w.dev()
	w.must("apply", thermal)
	w.must("apply", w.file("tag.scl", `(config "all" (asset-tag "before"))`))
	dev.kill()

	dev = w.dev()
	w.linked()
	var scripts []struct{ Name string }
	w.decode(&scripts, "get", "scripts")
	if len(scripts) != 2 {
		t.Errorf("scripts after the restart: %+v", scripts)
	}
	w.until("the simulated rack has its settings", func() bool { // a plan leaves out a rack that is cut off
		return strings.Contains(w.must("plan", w.file("tag.scl", `(config "all" (asset-tag "before"))`)), "no change")
	})
	dev.wait("8 of 8 BMCs")
	w.sessions(0) // the agent needs none: it has a certificate
	watch := w.start("watch")
	w.must("sim", "set", "ai-node-0", "cpu.temp", "95")
	watch.wait("start-new-server-with-image")
	dev.interrupt()

	w.start("dev", "--only", "sim").wait("ready in")
	w.sessions(0)
}

// Who types kill -9 and the next start in one line does not wait for the kernel to
// clean up after the dead.
func TestStartRightAfterKill9(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dev := w.dev()
	for range 5 {
		if err := dev.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		dev = w.dev()
	}
}

// A coordinator whose log is lost meets its agents as a new one does.
func TestACoordinatorThatLostItsLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dev().interrupt()
	if err := os.RemoveAll(filepath.Join(w.dir, "coordinator", "raft")); err != nil {
		t.Fatal(err)
	}
	w.dev()
	w.must("apply", w.file("tag.scl", `(config "all" (asset-tag "again"))`))
	var nodes []node
	w.decode(&nodes, "get", "nodes")
	if len(nodes) != 8 {
		t.Errorf("it knows %d nodes of 8: %+v", len(nodes), nodes)
	}
}

// sessions checks how many sessions each BMC holds.
func (w *world) sessions(want int) {
	w.t.Helper()
	var all []stats
	w.decode(&all, "sim", "stats")
	for _, s := range all {
		if s.Sessions != want {
			w.t.Errorf("%s holds %d sessions, want %d", s.Node, s.Sessions, want)
		}
	}
}

// What happened while the coordinator was away is reported, once, when it is
// back.
func TestARuleFiresWhileCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, coordinator, agent := w.apart()
	w.must("apply", thermal)
	coordinator.kill()

	// A restart while cut off: the rule comes from the agent's own disk.
	agent.kill()
	agent = w.start("dev", "--only", "agent")
	agent.wait("ready in")
	w.must("sim", "set", "ai-node-0", "cpu.temp", "95")
	agent.wait("rule fired")

	w.start("dev", "--only", "coordinator").wait("ready in")
	w.start("watch", "--past").wait("fired")
	var firings []firing
	w.decode(&firings, "get", "firings")
	if len(firings) != 1 || !firings[0].CutOff || len(firings[0].Results) == 0 {
		t.Errorf("firings after the heal: %+v", firings)
	}
}
