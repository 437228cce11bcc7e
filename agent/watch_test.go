package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const hotRule = `(monitor "n1" (trigger "hot" (every 10s) (cooldown 0s)
	(condition (> cpu.temp 90))
	(action (log "hot") (start-new-server-with-image "n2" "ubuntu"))))`

func (w *world) temp(name fleet.NodeName, c float64) {
	l := w.lanes[name]
	l.set(func() { l.values["cpu.temp"] = fleet.Number(c, fleet.Celsius) })
}

const fired = `hot on n1, cut off, n1: (log "hot") confirmed, n2: (start-new-server-with-image "n2" "ubuntu") confirmed`

// The rules of the example run from disk, without any coordinator, and what they
// did waits to be told.
func TestRulesRunFromDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 50)
		w.start(w.dir)
		w.apply(`(server "n1" ` + hotRule + `)`)
		w.stop()
		w.start(w.dir)
		defer w.stop()
		pass(15 * time.Second)
		expect(t, nil, w.records())
		w.temp("n1", 95)
		pass(11 * time.Second)
		expect(t, []string{fired}, w.records())
		if got := w.lanes["n2"].did(); got != `(start-new-server-with-image "n2" "ubuntu")` {
			t.Errorf("n2 was told %q", got)
		}
		pass(time.Minute)
		if got := w.records(); len(got) != 1 {
			t.Errorf("it fired again on the same edge: %q", got)
		}
	})
}

// The disk is full when a firing is over: it is told when there is room again, not
// after the next restart alone.
func TestFiringOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 50)
		w.start(w.dir)
		defer w.stop()
		w.apply(hotRule)
		w.lanes["n2"].do = func(context.Context, scl.Command) fleet.Result {
			w.full.Store(true)
			return fleet.Result{Status: fleet.Confirmed}
		}
		w.temp("n1", 95)
		pass(time.Minute)
		expect(t, nil, w.records())
		w.full.Store(false)
		pass(10 * time.Second)
		expect(t, []string{fired}, w.records())
	})
}

// The process dies while it acts on a firing. The next one tells what it knows,
// and does not fire again for the same edge.
func TestKilledWhileFiring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 95)
		hang := make(chan bool)
		w.lanes["n2"].do = func(context.Context, scl.Command) fleet.Result {
			<-hang
			return fleet.Result{Status: fleet.Confirmed}
		}
		w.start(w.dir)
		w.apply(hotRule)
		pass(2 * time.Second)
		dead := w.crash()
		close(hang)
		w.stop()
		w.lanes["n2"].do, w.lanes["n2"].calls = nil, nil
		w.start(dead)
		defer w.stop()
		pass(time.Minute)
		expect(t, []string{`hot on n1, cut off, n1: (log "hot") confirmed, ` +
			`n2: (start-new-server-with-image "n2" "ubuntu") unknown (the agent stopped while it did (start-new-server-with-image "n2" "ubuntu"); it is not repeated)`}, w.records())
		if got := w.lanes["n2"].did(); got != "" {
			t.Errorf("after the restart n2 was told %q", got)
		}
		w.temp("n1", 50)
		pass(11 * time.Second)
		w.temp("n1", 95)
		pass(11 * time.Second)
		if got := w.records(); len(got) != 2 || got[1] != fired {
			t.Errorf("the next edge: %q", got)
		}
	})
}

func TestHeldFiringIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 95)
		w.start(w.dir)
		defer w.stop()
		w.apply(`(monitor "n1" (trigger "hot" (when-cut-off hold) (condition (> cpu.temp 90)) (action (reboot))))`)
		pass(2 * time.Second)
		expect(t, []string{"hot on n1, cut off, held (when-cut-off hold): no coordinator is reached"}, w.records())
		w.agent.Linked(true, time.Now())
		pass(11 * time.Second)
		if got := w.records(); len(got) != 2 || got[1] != "hot on n1, n1: (reboot) confirmed" {
			t.Errorf("after the link was back: %q", got)
		}
	})
}

// How long the link has been cut is counted over a restart.
func TestCutOutlivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 50)
		w.start(w.dir)
		w.apply(`(monitor "n1" (trigger "hot" (when-cut-off (run-for 1h)) (condition (> cpu.temp 90)) (action (reboot))))`)
		pass(50 * time.Minute)
		w.stop()
		w.start(w.dir)
		defer w.stop()
		pass(15 * time.Minute)
		w.temp("n1", 95)
		pass(15 * time.Second)
		if got := w.records(); len(got) != 1 || !strings.Contains(got[0], "held") {
			t.Errorf("65 minutes after the cut: %q", got)
		}
	})
}

func TestFiringStopsAtTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 95)
		w.lanes["n1"].do = func(context.Context, scl.Command) fleet.Result {
			return fleet.Result{Status: fleet.Failed, Error: "refused"}
		}
		w.start(w.dir)
		defer w.stop()
		w.apply(`(monitor "n1" (trigger "hot" (condition (> cpu.temp 90)) (action (sequence (reboot) (power off)))))`)
		pass(2 * time.Second)
		expect(t, []string{"hot on n1, cut off, n1: (reboot) failed (refused)"}, w.records())
	})
}

func TestRemovedRuleIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 50)
		w.start(w.dir)
		w.apply(hotRule)
		pass(time.Minute)
		w.desire(&pb.Desired{Revision: 2, Ended: []*pb.Ended{w.ended("s")}})
		w.stop()
		w.start(w.dir)
		defer w.stop()
		w.temp("n1", 95)
		pass(time.Minute)
		expect(t, nil, w.records())
	})
}

// A group's members follow the labels that the catalogue gives.
func TestRuleWatchesAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Nodes[2].Labels = map[string]string{"role": "gpu"}
		for name := range w.lanes {
			w.temp(name, 95)
		}
		w.start(w.dir)
		defer w.stop()
		w.apply(`(group "gpus" (where (= node.label.role "gpu")))
			(monitor (group "gpus") (trigger "hot" (condition (> cpu.temp 90)) (action (reboot))))`)
		pass(2 * time.Second)
		expect(t, []string{"hot on n3, cut off, n3: (reboot) confirmed"}, w.records())
	})
}

// A BMC that hangs has unknown readings and nobody else is kept waiting.
func TestHungBMCDelaysNoOtherRule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].read = func(ctx context.Context) { <-ctx.Done() }
		w.temp("n1", 95)
		w.temp("n2", 95)
		w.start(w.dir)
		defer w.stop()
		w.apply(`(monitor "n[1-2]" (trigger "hot" (condition (> cpu.temp 90)) (action (reboot))))`)
		pass(2 * time.Second)
		expect(t, []string{"hot on n2, cut off, n2: (reboot) confirmed"}, w.records())
	})
}

// A rule does not ask a BMC which nodes it watches. Nobody is told that it watches
// one that it does not.
func TestRuleThatWatchesLessThanItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].values["cpu.count"] = fleet.Number(2, fleet.NoUnit)
		w.start(w.dir)
		defer w.stop()
		const source = `(monitor (or "n2" (where (= cpu.count 2))) (trigger "hot" (condition (> cpu.temp 90)) (action (log "hot"))))`
		w.apply(source)
		w.run("R1", source+`(config "n1" (asset-tag "x"))`)
		got := w.records()
		slices.Sort(got[1 : len(got)-1])
		expect(t, []string{
			"R1 accepted for 2",
			"R1 n1: config asset-tag confirmed",
			"R1 n1: rule hot failed (watch: a rule does not ask the BMC which nodes it watches, so this one is not watched)",
			"R1 n2: rule hot confirmed",
			"R1 done: 1 ok, 1 failed",
		}, got)
	})
}
