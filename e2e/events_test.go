package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const fanRule = `(monitor "ai-node-0" (trigger "fan" (cooldown 0s)
  (condition (event "*.PowerSupplyFanFailed")) (action (log "a fan failed"))))`

// apart starts the three parts of a fleet as processes of their own.
func (w *world) apart() (simulated, coordinator, agent *process) {
	w.t.Helper()
	simulated = w.start("dev", "--only", "sim")
	simulated.wait("ready in")
	coordinator = w.start("dev", "--only", "coordinator")
	coordinator.wait("ready in")
	agent = w.start("dev", "--only", "agent")
	agent.wait("ready in")
	w.known(8)
	return simulated, coordinator, agent
}

// fired waits until the fan rule has fired n times, and checks that it is no more.
func (w *world) fired(n int) {
	w.t.Helper()
	var firings []firing
	for deadline := time.Now().Add(patience); len(firings) < n; {
		w.decode(&firings, "get", "firings")
		if time.Now().After(deadline) {
			w.t.Fatalf("the rule has fired %d times, not %d", len(firings), n)
		}
	}
	if len(firings) != n {
		w.t.Errorf("the rule has fired %d times, not %d: %+v", len(firings), n, firings)
	}
}

// An event is pushed, and the rule acts at once. What happens while the stream is
// broken, or the agent dead, is seen once when they are back.
func TestEventsOverRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	simulated, _, agent := w.apart()
	w.must("apply", w.file("fan.scl", fanRule))
	agent.wait("ready in")
	watch := w.start("watch")
	began := time.Now()
	w.must("sim", "log", "ai-node-0", "PowerSupplyFanFailed", "fan 1")
	line := watch.wait("fan 1")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("after %s: %s", took, line)
	}
	w.fired(1)

	// The BMC restarts amid the stream; its log outlives that.
	simulated.kill()
	simulated = w.start("dev", "--only", "sim")
	simulated.wait("ready in")
	w.must("sim", "log", "ai-node-0", "PowerSupplyFanFailed", "fan 2")
	watch.wait("fan 2")
	w.fired(2)

	// kill -9 of the agent, and what happens while it is dead.
	agent.kill()
	w.must("sim", "log", "ai-node-0", "PowerSupplyFanFailed", "fan 3")
	agent = w.start("dev", "--only", "agent")
	agent.wait("ready in")
	w.linked()
	w.must("sim", "log", "ai-node-0", "PowerSupplyFanFailed", "fan 4")
	w.fired(4)
	out := w.must("get", "firings")
	for _, fan := range []string{"fan 1", "fan 2", "fan 3", "fan 4"} {
		if strings.Count(out, fan) != 1 {
			t.Errorf("%s is not there once:\n%s", fan, out)
		}
	}
	w.takenOver() // who stops amid a take-over leaves what the next start removes
	if code := agent.interrupt(); code != 0 {
		t.Errorf("the agent's Ctrl-C: exit %d", code)
	}
	w.sessions(0)
}

// image puts a firmware image into the artifacts of the rack's agent, and a script
// that installs it beside it.
func (w *world) image(version string) (script string) {
	w.t.Helper()
	dir := filepath.Join(w.dir, "agent", "artifacts")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		w.t.Fatal(err)
	}
	text := "version=" + version + "\n" + strings.Repeat("x", 4<<20)
	if err := os.WriteFile(filepath.Join(dir, "bmc.tar"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return w.file("firmware.scl", `(action "ai-node-0" (update-firmware bmc (image "bmc.tar") (version "`+version+`")))`)
}

// What a person sees of an update, from the first word to the version that runs.
func TestUpdateFirmware(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dev()
	script := w.image("2.20.0")
	if got := w.run("apply", script); got.code != 2 || !strings.Contains(got.stderr, "it needs your consent: (update-firmware bmc") {
		t.Errorf("without --yes: exit %d\n%s", got.code, got.stderr)
	}
	got := w.run("apply", script, "--yes")
	if got.code != 0 {
		t.Fatalf("exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	for _, want := range []string{"ai-node-0 sends the image", "ai-node-0 takes the image in", "confirmed  2.18.0-sim -> 2.20.0"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("it does not say %q:\n%s", want, got.stdout)
		}
	}
	if out := w.must("show", "ai-node-0", "firmware.bmc.version"); !strings.Contains(out, "2.20.0") {
		t.Errorf("show: %s", out)
	}
	if out := w.must("apply", script, "--yes"); !strings.Contains(out, "unchanged  2.20.0") {
		t.Errorf("again:\n%s", out)
	}
}

// A BMC that restarts amid the task has forgotten it; its version tells.
func TestBMCRestartsAmidItsUpdate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	simulated, _, _ := w.apart()
	apply := w.start("apply", w.image("2.20.0"), "--yes")
	apply.wait("takes the image in")
	simulated.kill()
	w.start("dev", "--only", "sim").wait("ready in")
	line := apply.wait("failed  update the firmware")
	for _, want := range []string{
		"it is not installed, and its task is unknown: the BMC no longer knows the task: it restarted, or has forgotten it",
		"2.18.0-sim runs, as before",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("it does not say %q:\n%s", want, line)
		}
	}
	<-apply.done
	if code := apply.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit %d", code)
	}
}

// kill -9 of the agent amid an update: it is not begun again, and a person reads
// what is known, the version that runs now included.
func TestAgentKilledAmidAnUpdate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, _, agent := w.apart()
	apply := w.start("apply", w.image("2.20.0"), "--yes")
	apply.wait("takes the image in")
	agent.kill()
	// The BMC goes on by itself, and is done after some seconds.
	<-time.After(5 * time.Second)
	agent = w.start("dev", "--only", "agent")
	agent.wait("ready in")
	line := apply.wait("the agent stopped while it did")
	for _, want := range []string{
		"confirmed", "it is not repeated", `when it was last heard of it was at "takes the image in", and 2.18.0-sim ran`, "2.20.0 runs now, as was asked",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("it does not say %q:\n%s", want, line)
		}
	}
	<-apply.done
	w.takenOver() // who stops amid a take-over leaves what the next start removes
	if code := agent.interrupt(); code != 0 {
		t.Errorf("the agent's Ctrl-C: exit %d", code)
	}
	w.sessions(0)
}
