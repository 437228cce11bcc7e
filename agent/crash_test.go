package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// The process is stopped while it asks the BMCs what a where selects. What they
// did not answer is no choice: the next process asks again.
func TestStoppedWhileChoosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].values["cpu.count"] = fleet.Number(2, fleet.NoUnit)
		w.lanes["n1"].read = func(ctx context.Context) { <-ctx.Done() }
		w.start(w.dir)
		w.run("R1", `(config "n2" (asset-tag "x")) (config (where (= cpu.count 2)) (asset-tag "y"))`)
		w.stop()
		w.lanes["n1"].read = nil
		w.start(w.dir)
		defer w.stop()
		if one, two := w.lanes["n1"].did(), w.lanes["n2"].did(); one != "set asset-tag" || two != "set asset-tag" {
			t.Errorf("n1 was told %q, n2 %q", one, two)
		}
		if got := w.records(); got[len(got)-1] != "R1 done: 2 ok, 0 failed" {
			t.Errorf("recorded: %q", got)
		}
	})
}

// While the disk takes nothing, a run is tried again now and then, not as fast as
// the processor allows. Its name is so long that no result fits under it.
func TestRunThatCannotBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		calls := 0
		w.lanes["n1"].apply = func(ctx context.Context, _ []scl.Setting) []fleet.Result {
			if calls++; calls > 50 {
				<-ctx.Done()
			}
			return []fleet.Result{{Status: fleet.Confirmed}}
		}
		w.start(w.dir)
		defer w.stop()
		w.run(strings.Repeat("R", 32_760), `(config "n1" (asset-tag "x"))`)
		pass(time.Minute)
		if calls < 2 || calls > 15 {
			t.Errorf("it was tried %d times in a minute", calls)
		}
	})
}

// A watcher that can't keep what it decides ends at once, whatever its rules are
// waiting for: the process must end, and say why.
func TestWatchEndsWithoutItsDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 95)
		w.temp("n2", 50)
		w.lanes["n1"].values["power.state"] = fleet.Text("off")
		a := w.assemble(w.dir)
		for _, n := range a.rack.members() {
			n.set(w.lanes[n.entry.Name], "", "")
			a.answered(probed{Answer: discovery.Answer{Pin: n.entry.Pin}})
		}
		w.apply(`(monitor "n[1-2]" (trigger "hot" (every 10s) (condition (> cpu.temp 90))
			(action (wait (= power.state "on") (timeout 1h)))))`)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- a.watch(ctx) }()
		pass(15 * time.Second)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		w.temp("n2", 95)
		pass(15 * time.Second)
		select {
		case err := <-ended:
			if err == nil || ctx.Err() != nil {
				t.Errorf("it ended with %v", err)
			}
		default:
			t.Error("it goes on")
			cancel()
			t.Log(<-ended)
		}
	})
}

// A rule that is removed does not go on with what it has begun.
func TestRemovedWhileFiring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 95)
		w.lanes["n1"].values["power.state"] = fleet.Text("on")
		w.start(w.dir)
		defer w.stop()
		w.apply(`(monitor "n1" (trigger "hot" (every 10s) (condition (> cpu.temp 90))
			(action (wait (= power.state "off")) (reboot))))`)
		pass(15 * time.Second)
		w.desire(&pb.Desired{Revision: 2, Ended: []*pb.Ended{w.ended("s")}})
		w.lanes["n1"].set(func() { w.lanes["n1"].values["power.state"] = fleet.Text("off") })
		pass(15 * time.Second)
		expect(t, []string{`hot on n1, cut off, n1: (wait (= power.state "off")) confirmed, ` +
			`n1: (reboot) skipped (not tried: the rule is no longer in force)`}, w.records())
		if got := w.lanes["n1"].did(); got != "" {
			t.Errorf("n1 was told %q", got)
		}
	})
}

// A wait may be longer than any other command.
func TestLongWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].values["power.state"] = fleet.Text("off")
		w.start(w.dir)
		defer w.stop()
		w.run("R1", `(action "n1" (wait (= power.state "on") (timeout 1h)))`)
		pass(30 * time.Minute)
		w.lanes["n1"].set(func() { w.lanes["n1"].values["power.state"] = fleet.Text("on") })
		pass(time.Minute)
		if got := w.records(); got[len(got)-1] != "R1 done: 1 ok, 0 failed" {
			t.Errorf("recorded: %q", got)
		}
	})
}

// Who cancels a run does not wait for what it waits for.
func TestCanceledWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].values["power.state"] = fleet.Text("off")
		w.start(w.dir)
		defer w.stop()
		w.run("R1", `(action "n1" (wait (= power.state "on") (timeout 1h)) (reboot))`)
		w.desire(&pb.Desired{Revision: 2, Canceled: []*pb.Run{w.cancel("R1")}})
		expect(t, []string{
			"R1 accepted for 1",
			`R1 n1: (wait (= power.state "on") (timeout 1h)) skipped (the run was canceled)`,
			"R1 n1: (reboot) skipped (not tried: an earlier step failed on this node)",
			"R1 done: 0 ok, 1 failed, the run was canceled",
		}, w.records())
	})
}

// Where two scripts make the same group, the later in the order of names counts,
// as it does for the coordinator.
func TestGroupOfTwoScripts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		d := &pb.Desired{Revision: 1}
		for _, name := range []string{"a", "b", "c", "d", "e", "z"} {
			members := `"n1"`
			if name == "z" {
				members = `"n2"`
			}
			d.Scripts = append(d.Scripts, standingScript(name, `(group "g" `+members+`)`))
		}
		w.desire(d)
		for range 50 {
			if got := w.agent.chooser(nil).groups["g"].Text; got != `(group "g" "n2")` {
				t.Fatalf("the group is %s", got)
			}
		}
	})
}

// A BMC that says more than a record may hold neither blocks the records behind
// it nor keeps the answers of other nodes from whoever asks.
func TestBMCThatSaysTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].values["system.asset-tag"] = fleet.Text(strings.Repeat("x", 7<<20))
		w.start(w.dir)
		defer w.stop()
		const show = `(show "n1" system.asset-tag)`
		w.run("R1", show)
		if got := w.records(); got[len(got)-1] != "R1 done: 1 ok, 0 failed" {
			t.Errorf("recorded: %q", got)
		}
		b, err := w.agent.spool.Batch(1, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.GetRecords() {
			if n := proto.Size(r); n > wire.MaxRecord {
				t.Errorf("record %d has %d bytes", r.GetSeq(), n)
			}
		}
		w.agent.Query(t.Context(), &pb.Query{File: "q.scl", Source: []byte(show)}, func(e *pb.QueryEvent) error {
			if n := proto.Size(e); n > wire.MaxRecord {
				t.Errorf("an event has %d bytes", n)
			}
			return nil
		})
	})
}

// The process dies after a rule has fired and before its first command: the firing
// tells that nothing was done.
func TestKilledBeforeTheFirstCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.assemble(w.dir)
		err := (&watcher{Agent: a}).keep(core.Output{Fire: []core.Fire{{
			Firing:   fleet.Firing{Script: "s", Rule: "hot", Node: "n1", At: time.Now()},
			Commands: []scl.Command{{Verb: scl.DoReboot, Text: "(reboot)"}},
		}}})
		if err = errors.Join(err, a.Close()); err != nil {
			t.Fatal(err)
		}
		w.start(w.dir)
		defer w.stop()
		expect(t, []string{"hot on n1, n1: (reboot) skipped (not tried: the agent stopped before)"}, w.records())
	})
}

// A deadline that passes when everything is done has cut nothing short.
func TestDeadlineAfterTheLastStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].apply = func(context.Context, []scl.Setting) []fleet.Result {
			<-time.After(2 * time.Minute)
			return []fleet.Result{{Status: fleet.Confirmed}}
		}
		w.start(w.dir)
		defer w.stop()
		w.desire(&pb.Desired{Revision: 1, Runs: []*pb.Run{{
			Id: "R1", File: "s.scl", DeadlineUnixMs: time.Now().Add(time.Minute).UnixMilli(), Source: []byte(`(config "n1" (asset-tag "x"))`),
		}}})
		pass(3 * time.Minute)
		if got := w.records(); got[len(got)-1] != "R1 done: 1 ok, 0 failed" {
			t.Errorf("recorded: %q", got)
		}
	})
}
