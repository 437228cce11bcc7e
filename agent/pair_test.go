package agent

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

const reinstall = `(action "n1" (boot pxe (once)) (power reset) (log "done"))`

// takenTarget is what a lane says of a boot target that its BMC has accepted.
func takenTarget(n fleet.NodeName) fleet.Result {
	return fleet.Result{Node: n, Step: "(boot pxe (once))", Status: fleet.Attempted, Error: "it was not read back"}
}

func confirmed(n fleet.NodeName, step string) fleet.Result {
	return fleet.Result{Node: n, Step: step, Status: fleet.Confirmed}
}

// A boot target and the restart that uses it are one to the lane and two to
// everybody else.
func TestPairIsTwoResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].pair = func(_ context.Context, begin func(fleet.Result) error) ([]fleet.Result, error) {
			if err := begin(takenTarget("n1")); err != nil {
				return nil, err
			}
			if n := w.intents(); n != 2 {
				t.Errorf("%d notes on disk when the restart begins; want 2", n)
			}
			return []fleet.Result{confirmed("n1", "(boot pxe (once))"), confirmed("n1", "(power reset)")}, nil
		}
		w.start(w.dir)
		defer w.stop()
		w.run("R1", reinstall)
		expect(t, []string{
			"R1 accepted for 1",
			"R1 n1: (boot pxe (once)) confirmed",
			"R1 n1: (power reset) confirmed",
			`R1 n1: (log "done") confirmed`,
			"R1 done: 1 ok, 0 failed",
		}, w.records())
		if got := w.lanes["n1"].did(); got != "(boot pxe (once)) then (power reset)" {
			t.Errorf("the BMC was told: %s", got)
		}
		if n := w.intents(); n != 0 {
			t.Errorf("%d notes are left", n)
		}
	})
}

// intents is how many notes of begun actions are on disk.
func (w *world) intents() (n int) {
	w.t.Helper()
	err := w.agent.spool.View(func(tx *spool.Tx) error {
		for range tx.All(spool.Intents, "") {
			n++
		}
		return nil
	})
	if err != nil {
		w.t.Error(err)
	}
	return n
}

// A boot target that was not accepted keeps the restart from being tried; one that
// was not certain and is read back leaves it to be done by itself.
func TestPairThatEndsAtTheBootTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			boot fleet.Result
			want []string
		}{
			{fleet.Result{Step: "(boot pxe (once))", Status: fleet.Failed, Error: "refused"}, []string{
				"R1 accepted for 1",
				"R1 n1: (boot pxe (once)) failed (refused)",
				"R1 n1: (power reset) skipped (not tried: an earlier step failed on this node)",
				`R1 n1: (log "done") skipped (not tried: an earlier step failed on this node)`,
				"R1 done: 0 ok, 1 failed",
			}},
			{confirmed("n1", "(boot pxe (once))"), []string{
				"R1 accepted for 1",
				"R1 n1: (boot pxe (once)) confirmed",
				"R1 n1: (power reset) confirmed",
				`R1 n1: (log "done") confirmed`,
				"R1 done: 1 ok, 0 failed",
			}},
		} {
			w := newWorld(t)
			c.boot.Node = "n1"
			w.lanes["n1"].pair = func(context.Context, func(fleet.Result) error) ([]fleet.Result, error) {
				return []fleet.Result{c.boot}, nil
			}
			w.start(w.dir)
			w.run("R1", reinstall)
			expect(t, c.want, w.records())
			w.stop()
		}
	})
}

// The process dies after it has asked for the restart. The next one neither repeats
// it nor sets the boot target again, which would be there for one boot more.
func TestKilledInAPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hang := make(chan bool)
		w.lanes["n1"].pair = func(_ context.Context, begin func(fleet.Result) error) ([]fleet.Result, error) {
			err := begin(takenTarget("n1"))
			<-hang
			return nil, err
		}
		w.start(w.dir)
		w.run("R1", reinstall)
		dead := w.crash()
		close(hang)
		w.stop()

		w.lanes["n1"].pair, w.lanes["n1"].calls = nil, nil
		w.start(dead)
		defer w.stop()
		expect(t, []string{
			"R1 accepted for 1",
			"R1 n1: (boot pxe (once)) attempted (it was not read back)",
			"R1 n1: (power reset) unknown (the agent stopped while it did (power reset); it is not repeated; the BMC does not tell when the server was last restarted)",
			`R1 n1: (log "done") skipped (not tried: an earlier step failed on this node)`,
			"R1 done: 0 ok, 1 failed",
		}, w.records())
		if got := w.lanes["n1"].did(); got != "look for traces" {
			t.Errorf("the BMC was told: %s", got)
		}
	})
}
