package e2e_test

import (
	"strings"
	"testing"
)

// ranRun is what `chiba get run -o json` says.
type ranRun struct {
	State   string
	Rollout struct {
		State                  string
		Waves, Nodes, Released int
		Ended, Failed          int
	}
	Results []struct{ Node, Step, Status string }
}

// A rollout stops after a canary that fails, goes on when a person says so, and what
// failed is done again by itself.
func TestARolloutInWaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dev().wait("8 of 8 BMCs")
	// ServerName and ai-node-1 are off: a cycle of them fails.
	script := w.file("cycle.scl", `(rollout "cycle" (canary 1) (wave 3) (healthy (= power.state "on") (timeout 30s))
  (action "all" (power cycle)))`)
	if got := w.run("apply", script); got.code != 2 || !strings.Contains(got.stderr, "needs your consent") {
		t.Errorf("without consent: exit %d, %s", got.code, got.stderr)
	}
	got := w.run("apply", "--yes", script)
	if got.code != 3 || !strings.Contains(got.stderr, "R1 is paused: 1 failed of 1, and 0 may") || !strings.Contains(got.stderr, "chiba rollout resume R1") {
		t.Fatalf("exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	var r ranRun
	w.decode(&r, "get", "run", "R1")
	if r.Rollout.Waves != 1 || r.Rollout.Nodes != 8 || r.Rollout.Released != 1 || len(r.Results) != 2 {
		t.Errorf("after the canary: %+v", r)
	}

	w.must("power", "on", "ai-node-1", "--yes")
	w.must("rollout", "resume", "R1")
	if got := w.run("watch", "run", "R1"); got.code != 3 || !strings.Contains(got.stderr, "1 of 8 nodes failed") {
		t.Fatalf("exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	w.decode(&r, "get", "run", "R1")
	if r.State != "partly failed" || r.Rollout.Waves != 4 || r.Rollout.Ended != 8 || r.Rollout.Failed != 1 {
		t.Errorf("at the end: %+v", r.Rollout)
	}

	w.must("power", "on", "ServerName", "--yes")
	w.must("rollout", "retry", "R1", "--yes")
	var again ranRun
	w.decode(&again, "get", "run", "R4")
	for _, step := range again.Results {
		if step.Node != "ServerName" || step.Status != "confirmed" {
			t.Errorf("again: %+v", step)
		}
	}
	if again.State != "done" || len(again.Results) != 2 || again.Rollout.Nodes != 1 {
		t.Errorf("again: %+v", again)
	}
	if got := w.run("rollout", "pause", "R1"); got.code != 1 || !strings.Contains(got.stderr, "partly failed already") {
		t.Errorf("a run that is over: exit %d, %s", got.code, got.stderr)
	}
	log := w.must("audit", "log")
	if !strings.Contains(log, "resume") {
		t.Errorf("the audit log does not tell of it:\n%s", log)
	}
}
