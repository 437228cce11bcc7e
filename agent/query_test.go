package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// ask asks and tells the answers, sorted, each with the time it took to come.
func (w *world) ask(q *pb.Query) []string {
	w.t.Helper()
	begun := time.Now()
	var mu sync.Mutex
	var events []string
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, fmt.Sprintf("%s ", time.Since(begun))+fmt.Sprintf(format, args...))
	}
	q.File = "s.scl"
	end := w.agent.Query(w.t.Context(), q, func(e *pb.QueryEvent) error {
		switch body := e.GetBody().(type) {
		case *pb.QueryEvent_Started_:
			say("asks %d", body.Started.GetNodes())
		case *pb.QueryEvent_Change:
			c := wire.FromChange(body.Change)
			say("%s", strings.TrimSpace(fmt.Sprintf("%s %s: %q -> %q %s %s", c.Node, c.Path, c.Before, c.After, c.Verdict, c.Note)))
		case *pb.QueryEvent_Result:
			r := wire.FromResult(body.Result)
			text := tellResult(r)
			values := make([]string, len(r.Readings))
			for i, x := range r.Readings {
				values[i] = x.Ref + "=" + x.Value.String()
			}
			say("%s", strings.TrimSpace(text+" "+strings.Join(values, " ")))
		}
		return nil
	})
	slices.Sort(events)
	return append(events, strings.TrimSpace(fmt.Sprintf("%s %d nodes, %d failed %s", time.Since(begun), end.GetNodes(), end.GetFailed(), end.GetError())))
}

func TestPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		w.apply(`(monitor "n1" (trigger "hot" (condition (> cpu.temp 90)) (action (reboot))))
			(monitor "n1" (trigger "warm" (condition (> cpu.temp 60)) (action (log "warm"))))`)
		expect(t, []string{
			`0s asks 2`,
			`0s n1 asset-tag: "was" -> "x" differs`,
			`0s n1 rule hot: "when (> cpu.temp 90) do (reboot)" -> "when (> cpu.temp 90) do (reboot)" same in force`,
			`0s n1 rule new: "" -> "when (> cpu.temp 10) do (log \"new\")" differs new`,
			`0s n1 rule warm: "when (> cpu.temp 60) do (log \"warm\")" -> "when (> cpu.temp 70) do (log \"warm\")" differs replaces the one in force`,
			`0s n2 action: "" -> "(reboot)" differs will be done once`,
			`0s 2 nodes, 0 failed`,
		}, w.ask(&pb.Query{Plan: true, Source: []byte(`(config "n1" (asset-tag "x")) (action "n2" (reboot))
			(monitor "n1" (trigger "hot" (condition (> cpu.temp 90)) (action (reboot))))
			(monitor "n1" (trigger "warm" (condition (> cpu.temp 70)) (action (log "warm"))))
			(monitor "n1" (trigger "new" (condition (> cpu.temp 10)) (action (log "new"))))`)}))
		for name, l := range w.lanes {
			if l.did() != "" {
				t.Errorf("a plan did something on %s: %s", name, l.did())
			}
		}
	})
}

func TestShow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 50)
		w.lanes["n1"].values["power.state"] = fleet.Text("on")
		w.start(w.dir)
		defer w.stop()
		expect(t, []string{
			`0s asks 1`,
			`0s n1: (show "n1" cpu.temp node.state rack.name fan.speed) confirmed cpu.temp=50C node.state=ready rack.name=r1 fan.speed=—`,
			`0s 1 nodes, 0 failed`,
		}, w.ask(&pb.Query{Source: []byte(`(show "n1" cpu.temp node.state rack.name fan.speed)`)}))
		got := w.ask(&pb.Query{Source: []byte(`(show "n1")`)})
		if !strings.Contains(got[1], "node.state=ready power.state=on system.health=—") {
			t.Errorf("the summary is %q", got[1])
		}
	})
}

// One BMC hangs: it has an error of its own at its deadline, and the others have
// answered long before.
func TestHungBMCHasItsOwnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for name := range w.lanes {
			w.temp(name, 50)
		}
		w.lanes["n2"].read = func(ctx context.Context) { <-ctx.Done() }
		w.start(w.dir)
		defer w.stop()
		expect(t, []string{
			`0s asks 3`,
			`0s n1: (show all cpu.temp) confirmed cpu.temp=50C`,
			`0s n3: (show all cpu.temp) confirmed cpu.temp=50C`,
			`15s n2: (show all cpu.temp) failed (read: context deadline exceeded) cpu.temp=—`,
			`15s 3 nodes, 1 failed`,
		}, w.ask(&pb.Query{Source: []byte(`(show all cpu.temp)`)}))
	})
}

func TestQuestionsDoNotWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		for _, source := range []string{`(action "n1" (reboot))`, `(config "n1" (asset-tag "x"))`, `(show "n1") (action "n1" (reboot))`} {
			got := w.ask(&pb.Query{Source: []byte(source)})
			if len(got) != 1 || !strings.Contains(got[0], "more than show, dump and refresh") {
				t.Errorf("%s: %q", source, got)
			}
		}
		if got := w.ask(&pb.Query{Source: []byte(`(show`)}); !strings.Contains(got[0], "s.scl:1:") {
			t.Errorf("a script that is wrong: %q", got)
		}
	})
}

func TestDumpAndRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		got := w.ask(&pb.Query{Source: []byte(`(refresh "n1") (dump json "n1") (dump xml "n2")`)})
		expect(t, []string{
			`0s asks 2`, `0s n1: (dump json "n1") confirmed`, `0s n1: (refresh "n1") confirmed`,
			`0s n2: (dump xml "n2") confirmed`, `0s 2 nodes, 0 failed`,
		}, got)
	})
}

func TestUnreachableNodeInAPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		delete(w.pins, "n1:443")
		w.start(w.dir)
		defer w.stop()
		got := w.ask(&pb.Query{Plan: true, Source: []byte(`(config "n1" (asset-tag "x"))`)})
		if !strings.Contains(got[1], "unreadable") || !strings.Contains(got[1], "connection refused") || !strings.HasSuffix(got[2], "1 failed") {
			t.Errorf("told: %q", got)
		}
	})
}

func TestPlanOfARuleThatWatchesLessThanItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].values["cpu.count"] = fleet.Number(2, fleet.NoUnit)
		w.start(w.dir)
		defer w.stop()
		got := w.ask(&pb.Query{Plan: true, Source: []byte(`(monitor (where (= cpu.count 2)) (trigger "hot" (condition (> cpu.temp 90)) (action (log "hot"))))`)})
		if text := strings.Join(got, "\n"); !strings.Contains(text, notWatched) || !strings.Contains(text, "1 nodes, 1 failed") {
			t.Errorf("it tells:\n%s", text)
		}
	})
}
