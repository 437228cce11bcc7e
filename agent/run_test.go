package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func expect(t *testing.T, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestRunIsRecordedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		const source = `(config "n1" (power (state "on")) (asset-tag "x"))
			(action "n1" (power cycle) (log "cycled"))`
		w.run("R1", source)
		w.run("R1", source) // it is listed until a coordinator has its end
		expect(t, []string{
			"R1 accepted for 1",
			"R1 n1: config power.state confirmed",
			"R1 n1: config asset-tag confirmed",
			"R1 n1: (power cycle) confirmed",
			`R1 n1: (log "cycled") confirmed`,
			"R1 done: 1 ok, 0 failed",
		}, w.records())
		if got := w.lanes["n1"].did(); got != "set power.state; set asset-tag; (power cycle)" {
			t.Errorf("the BMC was told: %s", got)
		}
		expect(t, []string{"R1 1/1 failed 0"}, w.link.progress)
	})
}

func TestOneNodeFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n2"].do = func(context.Context, scl.Command) fleet.Result {
			return fleet.Result{Status: fleet.Failed, Error: "refused"}
		}
		w.start(w.dir)
		defer w.stop()
		w.run("R1", `(action "n[1-3]" (power cycle) (reboot))`)
		got := w.records()
		slices.Sort(got[1 : len(got)-1]) // the nodes' order is their own
		expect(t, []string{
			"R1 accepted for 3",
			"R1 n1: (power cycle) confirmed",
			"R1 n1: (reboot) confirmed",
			"R1 n2: (power cycle) failed (refused)",
			"R1 n2: (reboot) skipped (not tried: an earlier step failed on this node)",
			"R1 n3: (power cycle) confirmed",
			"R1 n3: (reboot) confirmed",
			"R1 done: 2 ok, 1 failed",
		}, got)
	})
}

func TestMissingFieldDoesNotStopTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].apply = func(context.Context, []scl.Setting) []fleet.Result {
			return []fleet.Result{{Status: fleet.NotProvided, Error: "not supported by this BMC"}}
		}
		w.start(w.dir)
		defer w.stop()
		w.run("R1", `(config "n1" (asset-tag "x")) (action "n1" (reboot))`)
		expect(t, []string{
			"R1 accepted for 1",
			"R1 n1: config asset-tag unsupported (not supported by this BMC)",
			"R1 n1: (reboot) confirmed",
			"R1 done: 0 ok, 1 failed",
		}, w.records())
	})
}

// The process dies while an action is under way on n1, after n2 has done its own.
// The next one repeats neither, tells that nobody knows about the first, and goes
// on with what is left of the run.
func TestKilledWhileActing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hang := make(chan bool)
		w.lanes["n1"].do = func(context.Context, scl.Command) fleet.Result {
			<-hang
			return fleet.Result{Status: fleet.Confirmed}
		}
		w.start(w.dir)
		w.run("R1", `(config "n[1-2]" (asset-tag "x")) (action "n[1-2]" (power cycle) (reboot))`)
		dead := w.crash()
		close(hang)
		w.stop()

		w.lanes["n1"].do = nil
		w.lanes["n1"].calls, w.lanes["n2"].calls = nil, nil
		w.start(dead)
		defer w.stop()
		got := w.records()
		slices.Sort(got[1 : len(got)-1])
		expect(t, []string{
			"R1 accepted for 2",
			"R1 n1: (power cycle) unknown (the agent stopped while it did (power cycle); it is not repeated)",
			"R1 n1: (reboot) skipped (not tried: an earlier step failed on this node)",
			"R1 n1: config asset-tag confirmed",
			"R1 n2: (power cycle) confirmed",
			"R1 n2: (reboot) confirmed",
			"R1 n2: config asset-tag confirmed",
			"R1 done: 1 ok, 1 failed",
		}, got)
		if one, two := w.lanes["n1"].did(), w.lanes["n2"].did(); one+two != "" {
			t.Errorf("after the restart n1 was told %q, n2 %q; want nothing", one, two)
		}
	})
}

// A process that is stopped in the middle of a config does it again: config is
// convergent, and it had no result.
func TestKilledWhileConfiguring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].apply = func(ctx context.Context, _ []scl.Setting) []fleet.Result {
			<-ctx.Done()
			return []fleet.Result{{Status: fleet.Failed, Error: "stopped"}}
		}
		w.start(w.dir)
		w.run("R1", `(config "n1" (asset-tag "x"))`)
		w.stop()
		w.lanes["n1"].apply = nil
		w.start(w.dir)
		defer w.stop()
		expect(t, []string{"R1 accepted for 1", "R1 n1: config asset-tag confirmed", "R1 done: 1 ok, 0 failed"}, w.records())
	})
}

// What a where selects is decided once: the run itself may change it.
func TestChoiceOutlivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for name, l := range w.lanes {
			l.values["cpu.count"] = fleet.Number(map[fleet.NodeName]float64{"n1": 2, "n2": 1, "n3": 2}[name], fleet.NoUnit)
		}
		hang := make(chan bool)
		w.lanes["n3"].do = func(context.Context, scl.Command) fleet.Result {
			<-hang
			return fleet.Result{Status: fleet.Confirmed}
		}
		w.start(w.dir)
		w.run("R1", `(action (where (= cpu.count 2)) (power off))`)
		dead := w.crash()
		close(hang)
		w.stop()
		w.lanes["n2"].values["cpu.count"] = fleet.Number(2, fleet.NoUnit)
		w.start(dead)
		defer w.stop()
		if got := w.records(); got[len(got)-1] != "R1 done: 1 ok, 1 failed" || strings.Contains(strings.Join(got, " "), "n2") {
			t.Errorf("the restart chose other nodes: %q", got)
		}
	})
}

func TestCanceledRunStopsBeforeTheNextStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hang := make(chan bool)
		w.lanes["n1"].do = func(context.Context, scl.Command) fleet.Result {
			<-hang
			return fleet.Result{Status: fleet.Confirmed}
		}
		w.start(w.dir)
		defer w.stop()
		w.run("R1", `(action "n1" (power cycle) (reboot))`)
		w.desire(&pb.Desired{Revision: 2, Canceled: []*pb.Run{w.cancel("R1")}})
		close(hang)
		synctest.Wait()
		expect(t, []string{
			"R1 accepted for 1",
			"R1 n1: (power cycle) confirmed",
			"R1 n1: (reboot) skipped (the run was canceled)",
			"R1 done: 0 ok, 1 failed, the run was canceled",
		}, w.records())
	})
}

func TestDeadlineOfARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].values["power.state"] = fleet.Text("off")
		w.start(w.dir)
		defer w.stop()
		w.desire(&pb.Desired{Revision: 1, Runs: []*pb.Run{{
			Id: "R1", Script: "s", File: "s.scl", DeadlineUnixMs: time.Now().Add(time.Minute).UnixMilli(),
			Source: []byte(`(action "n1" (wait (= power.state "on") (timeout 1h)) (reboot))`),
		}}})
		pass(2 * time.Minute)
		synctest.Wait()
		expect(t, []string{
			"R1 accepted for 1",
			`R1 n1: (wait (= power.state "on") (timeout 1h)) failed (wait: (= power.state "on") was not true within 1m0s)`,
			"R1 n1: (reboot) skipped (not tried: an earlier step failed on this node)",
			"R1 done: 0 ok, 1 failed, the run's deadline has passed",
		}, w.records())
	})
}

func TestWaitUntilItIsTrue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].values["power.state"] = fleet.Text("off")
		w.start(w.dir)
		defer w.stop()
		w.run("R1", `(action "n1" (wait (= power.state "on") (timeout 10m)) (reboot))`)
		pass(time.Minute)
		if w.lanes["n1"].did() != "" {
			t.Error("it did not wait")
		}
		w.lanes["n1"].set(func() { w.lanes["n1"].values["power.state"] = fleet.Text("on") })
		pass(10 * time.Second)
		synctest.Wait()
		if got := w.records(); got[len(got)-1] != "R1 done: 1 ok, 0 failed" {
			t.Errorf("recorded: %q", got)
		}
	})
}

func TestStartServerOfThisRackOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		w.run("R1", `(action "n1" (start-new-server-with-image "n2" "ubuntu"))`)
		w.run("R2", `(action "n1" (start-new-server-with-image "far" "ubuntu"))`)
		expect(t, []string{
			"R1 accepted for 1",
			`R1 n2: (start-new-server-with-image "n2" "ubuntu") confirmed`,
			"R1 done: 1 ok, 0 failed",
			"R2 accepted for 1",
			`R2 n1: (start-new-server-with-image "far" "ubuntu") failed (start server: far is not in rack r1, and a one-shot action reaches only its own targets)`,
			"R2 done: 0 ok, 1 failed",
		}, w.records())
	})
}

func TestRunThatNobodyCanRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		w.run("R1", `(frobnicate "n1")`)
		if got := w.records(); len(got) != 1 || !strings.HasPrefix(got[0], "R1 done: 0 ok, 0 failed, read script") {
			t.Errorf("recorded: %q", got)
		}
	})
}

func TestSealedSecretsAreOpenedAtTheMomentOfUse(t *testing.T) {
	const canary = "canary-7c1d"
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var seen string
		w.lanes["n1"].apply = func(_ context.Context, settings []scl.Setting) []fleet.Result {
			seen = settings[0].Secret.Literal.Reveal()
			return []fleet.Result{{Status: fleet.Confirmed}}
		}
		w.start(w.dir)
		defer w.stop()
		mine := w.sealed(w.agent.key, canary)
		w.run("R1", `(config "n1" (bmc (user "root" (password (sealed "`+mine+`")))))`)
		if seen != canary {
			t.Errorf("the lane got %q", seen)
		}
		w.run("R2", `(config "n1" (bmc (user "root" (password (sealed "`+w.sealed(w.otherKey(), canary)+`")))))`)
		got := w.records()
		if len(got) != 6 || !strings.Contains(got[4], "was not sealed for this agent") {
			t.Errorf("recorded: %q", got)
		}
		image := string(w.image())
		if strings.Contains(image, canary) || strings.Contains(w.logs.String(), canary) {
			t.Error("the secret is on disk or in the log")
		}
	})
}

func TestFullSpoolTakesNoNewRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		w.stop()
		small, err := spool.Open(w.path(), spool.Options{MaxSize: 1})
		if err != nil {
			t.Fatal(err)
		}
		a, err := assemble(w.cfg, small, w.otherKey())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = a.Close() }()
		if err := a.Desired(t.Context(), &pb.Desired{Revision: 1, Runs: []*pb.Run{{Id: "R1"}}}); err != nil {
			t.Fatal(err)
		}
		if runs, err := a.accepted(); err != nil || len(runs) != 0 {
			t.Errorf("accepted %v, %v", runs, err)
		}
	})
}
