package agent

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// release has nodes of R1 released by the coordinators, at a revision.
func (w *world) release(revision uint64, source string, nodes ...string) {
	w.t.Helper()
	w.desire(&pb.Desired{Revision: revision, Runs: []*pb.Run{{Id: "R1", File: "s.scl", Source: []byte(source), Released: nodes}}})
}

const inWaves = `(rollout "x" (canary 1) (healthy (= power.state "on") (timeout 1m)) (action "n[1-3]" (power cycle)))`

func TestNodesWaitForTheirWave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, l := range w.lanes {
			l.values["power.state"] = fleet.Text("on")
		}
		w.lanes["n3"].values["power.state"] = fleet.Text("off")
		w.start(w.dir)
		defer w.stop()
		w.release(1, inWaves)
		expect(t, []string{"R1 concerns n1 n2 n3", "R1 accepted for 3"}, w.records())
		w.release(2, inWaves, "n2")
		w.release(3, inWaves, "n2")
		expect(t, []string{
			"R1 concerns n1 n2 n3", "R1 accepted for 3",
			"R1 n2: (power cycle) confirmed",
			`R1 n2: (healthy (= power.state "on") (timeout 1m)) confirmed`,
			"R1 n2 ended well",
		}, w.records())
		w.release(4, inWaves, "n2", "n1", "n3")
		pass(2 * time.Minute)
		got := w.records()[5:]
		slices.Sort(got[:len(got)-1])
		expect(t, []string{
			`R1 n1 ended well`,
			`R1 n1: (healthy (= power.state "on") (timeout 1m)) confirmed`,
			`R1 n1: (power cycle) confirmed`,
			`R1 n3 ended badly`,
			`R1 n3: (healthy (= power.state "on") (timeout 1m)) failed (wait: (= power.state "on") was not true within 1m0s)`,
			`R1 n3: (power cycle) confirmed`,
			`R1 done: 2 ok, 1 failed`,
		}, got)
	})
}

// What was released stays so, and what has ended is told once, over a restart.
func TestAWaveSurvivesTheAgent(t *testing.T) {
	const source = `(rollout "x" (wave 1) (action "n[1-3]" (power cycle)))`
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hang := make(chan bool)
		w.lanes["n2"].do = func(context.Context, scl.Command) fleet.Result {
			<-hang
			return fleet.Result{Status: fleet.Confirmed}
		}
		w.start(w.dir)
		w.release(1, source, "n1", "n2")
		dead := w.crash()
		close(hang)
		w.stop()

		w.lanes["n2"].do = nil
		w.start(dead)
		defer w.stop()
		expect(t, []string{
			"R1 concerns n1 n2 n3", "R1 accepted for 3",
			"R1 n1: (power cycle) confirmed", "R1 n1 ended well",
			"R1 n2: (power cycle) unknown (the agent stopped while it did (power cycle); it is not repeated; the BMC does not tell when the server was last restarted)", "R1 n2 ended badly",
		}, w.records())
		w.release(2, source, "n1", "n2", "n3")
		if got := w.records()[6:]; strings.Join(got, "; ") != "R1 n3: (power cycle) confirmed; R1 n3 ended well; R1 done: 2 ok, 1 failed" {
			t.Errorf("recorded: %q", got)
		}
	})
}

func TestACanceledRolloutSkipsTheRest(t *testing.T) {
	const source = `(rollout "x" (wave 1) (action "n[1-2]" (power cycle)))`
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		w.release(1, source, "n1")
		w.desire(&pb.Desired{Revision: 2, Canceled: []*pb.Run{w.cancel("R1")}})
		got := w.records()[4:]
		expect(t, []string{
			"R1 n2: (power cycle) skipped (the run was canceled)", "R1 n2 ended badly", "R1 done: 1 ok, 1 failed, the run was canceled",
		}, got)
		if did := w.lanes["n2"].did(); did != "" {
			t.Errorf("n2 was told %q", did)
		}
	})
}

func TestARolloutHoldsWhenCutOff(t *testing.T) {
	const source = `(rollout "x" (when-cut-off hold) (action "n1" (power cycle)))`
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		w.agent.Linked(true, time.Now())
		w.release(1, source)
		w.agent.Linked(false, time.Now())
		w.release(2, source, "n1")
		if did := w.lanes["n1"].did(); did != "" {
			t.Errorf("cut off, n1 was told %q", did)
		}
		w.agent.Linked(true, time.Now())
		synctest.Wait()
		if did := w.lanes["n1"].did(); did != "(power cycle)" {
			t.Errorf("back again, n1 was told %q", did)
		}
	})
}

// An order that names nodes touches no other.
func TestOnlyTheNodesOfTheOrder(t *testing.T) {
	const source = `(action "n[1-3]" (power cycle))`
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		o := w.authors.Order(order.Run, "s", source)
		o.NotAfter, o.Only = time.Now().Add(time.Hour), []string{"n3", "elsewhere"}
		w.told(&pb.Desired{Revision: 1, Policy: w.policy, Runs: []*pb.Run{{
			Id: "R1", Script: "s", File: "s.scl", Source: []byte(source), Version: o.Version, Digest: o.Digest, Envelope: w.authors.Sign(o),
		}}})
		expect(t, []string{"R1 accepted for 1", "R1 n3: (power cycle) confirmed", "R1 done: 1 ok, 0 failed"}, w.records())
	})
}

func TestSoManyOfARackAtOnce(t *testing.T) {
	const source = `(rollout "x" (parallel 2 (per rack)) (action "n[1-3]" (power cycle)))`
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var now, most atomic.Int32
		for _, l := range w.lanes {
			l.do = func(context.Context, scl.Command) fleet.Result {
				if n := now.Add(1); n > most.Load() {
					most.Store(n)
				}
				<-time.After(time.Second)
				now.Add(-1)
				return fleet.Result{Status: fleet.Confirmed}
			}
		}
		w.start(w.dir)
		defer w.stop()
		w.release(1, source, "n1", "n2", "n3")
		pass(5 * time.Second)
		if got := w.records(); most.Load() != 2 || got[len(got)-1] != "R1 done: 3 ok, 0 failed" {
			t.Errorf("%d at once: %q", most.Load(), got)
		}
	})
}
