package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func (w *world) nodes() []string {
	return w.recordsOf(func(r *pb.Record) bool { return r.GetNode() != nil || r.GetGone() != nil })
}

func TestNodesAreToldWhenTheyChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Nodes = w.cfg.Nodes[:1]
		l := w.lanes["n1"]
		w.start(w.dir)
		pass(5 * time.Minute)
		expect(t, []string{"n1 is ready, power on"}, w.nodes())
		l.set(func() { l.power = "off" })
		pass(time.Minute)
		l.set(func() { l.state = fleet.Unreachable })
		pass(time.Minute)
		w.stop()
		w.start(w.dir)
		defer w.stop()
		pass(2 * time.Minute)
		want := []string{"n1 is ready, power on", "n1 is ready, power off", "n1 is unreachable, power off no route to host"}
		got := w.nodes()
		if len(got) < 3 {
			t.Fatalf("told: %q", got)
		}
		expect(t, want, got[:3])
	})
}

// Whoever finds that a BMC does not answer any more, the node is told of soon.
func TestANodeThatFailsSomebodyIsLookedAtSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Nodes = w.cfg.Nodes[:1]
		l := w.lanes["n1"]
		w.start(w.dir)
		defer w.stop()
		pass(7 * time.Second) // between two looks
		l.set(func() { l.state = fleet.Unreachable })
		pass(6 * time.Second)
		if got := w.nodes(); got[len(got)-1] != "n1 is unreachable, power on no route to host" {
			t.Errorf("told: %q", got)
		}
	})
}

// A BMC that did not answer is looked at again before the minute is over: a rack
// whose BMCs were all busy at once is not half unknown for so long.
func TestANodeThatIsNotReadyIsLookedAtSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Nodes = w.cfg.Nodes[:1]
		l := w.lanes["n1"]
		l.state = fleet.Unreachable
		w.start(w.dir)
		defer w.stop()
		l.set(func() { l.state = fleet.Ready })
		pass(6 * time.Second)
		if got := w.nodes(); got[len(got)-1] != "n1 is ready, power on" {
			t.Errorf("told: %q", got)
		}
	})
}

func TestAnActionIsFollowedByALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Nodes = w.cfg.Nodes[:1]
		w.start(w.dir)
		defer w.stop()
		w.lanes["n1"].set(func() { w.lanes["n1"].power = "off" })
		w.run("R1", `(action "n1" (power off))`)
		if got := w.nodes(); got[len(got)-1] != "n1 is ready, power off" {
			t.Errorf("told: %q", got)
		}
	})
}

func TestNodeThatLeftTheCatalogue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		w.stop()
		w.cfg.Nodes = w.cfg.Nodes[:2]
		w.start(w.dir)
		defer w.stop()
		if got := strings.Join(w.nodes(), "; "); strings.Count(got, "is gone") != 1 || !strings.Contains(got, "n3 is gone") {
			t.Errorf("told: %q", got)
		}
	})
}

// A key that the catalogue does not know gets no lane, and so no credential, even
// at the address of a node; the person is told which keys they are.
func TestAnotherKeyAtTheAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Nodes = w.cfg.Nodes[:1]
		w.pins["n1:443"] = "sha256/rogue"
		w.start(w.dir)
		defer w.stop()
		expect(t, []string{"n1 is untrusted, power  n1:443 answers with the key sha256/rogue, expected sha256/n1; nothing is sent to it; if the BMC was replaced: chiba bmc accept n1 --pin sha256/rogue"}, w.nodes())
		if _, err := w.agent.rack.named("n1").way(); err == nil {
			t.Error("it has a lane")
		}
		if !strings.Contains(w.logs.String(), "sha256/rogue") {
			t.Error("the stranger is not in the log")
		}
	})
}

func TestMatchMovesALaneOnlyWhenItMust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Nodes = w.cfg.Nodes[:1]
		w.start(w.dir)
		defer w.stop()
		a, n, l := w.agent, w.agent.rack.named("n1"), w.lanes["n1"]
		moved := discovery.Candidate{Pin: "sha256/n1", Addresses: []string{"10.0.0.9:443", "n1:443"}, Found: []string{"mdns"}}
		a.connect(t.Context(), n, moved)
		if n.seen().Address != "n1:443" {
			t.Error("a lane that works was moved")
		}
		l.set(func() { l.state = fleet.Unreachable })
		a.connect(t.Context(), n, moved)
		synctest.Wait()
		if s := n.seen(); s.Address != "10.0.0.9:443" || s.Found != "mdns" || !l.closed {
			t.Errorf("a lane that does not was not: %+v, closed %v", s, l.closed)
		}
	})
}

// A BMC that boots later than its agent is found by the next probe.
func TestBMCThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Nodes = w.cfg.Nodes[:1]
		delete(w.pins, "n1:443")
		w.start(w.dir)
		defer w.stop()
		expect(t, []string{"n1 is unreachable, power  connection refused"}, w.nodes())
		w.mu.Lock()
		w.pins["n1:443"] = "sha256/n1"
		w.mu.Unlock()
		pass(20 * time.Second)
		if got := w.nodes(); got[len(got)-1] != "n1 is ready, power on" {
			t.Errorf("told: %q", got)
		}
	})
}

func TestStopClosesEverySession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		w.stop()
		for name, l := range w.lanes {
			if !l.closed {
				t.Errorf("the session on %s stays open", name)
			}
		}
	})
}

func TestReadyWithoutBMCs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.pins = nil
		w.cfg.Nodes[0].Address = "" // nobody can say that it does not answer
		begun := time.Now()
		w.start(w.dir)
		defer w.stop()
		if took := time.Since(begun); took != readyAfter {
			t.Errorf("ready after %v", took)
		}
	})
}
