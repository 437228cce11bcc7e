package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// heirs is a rack with an owner and a standby over the same BMCs, both with fake lanes.
// What the one hands the other goes from spool to spool.
type heirs struct {
	first  *world
	second *world
}

// newHeirs makes both of the same rack. The second one knows only what it is handed.
func newHeirs(t *testing.T, first *world) *heirs {
	t.Helper()
	first.disk = spool.Options{Mirrored: journal.Mirrored}
	second := newWorld(t)
	second.disk = first.disk
	second.lanes, second.pins, second.roots, second.orders = first.lanes, first.pins, first.roots, first.orders
	second.cfg.Nodes = slices.Clone(first.cfg.Nodes)
	second.cfg.Name, second.cfg.Pair = "b1", Pair{Name: "a1", Listen: "127.0.0.1:0", Peer: "127.0.0.1:1"}
	first.cfg.Pair = Pair{Name: "b1", Listen: "127.0.0.1:0", Peer: "127.0.0.1:1"}
	second.cfg.ScriptRoot = filepath.Join(first.dir, "script-root.json")
	second.authors, second.policy = first.authors, first.policy
	return &heirs{first, second}
}

var firstClaim = owner.Claim{Agent: "a1", Epoch: owner.Epoch{Grant: 1}}

// begin starts both; the first one owns the rack.
func (h *heirs) begin() {
	h.first.start(h.first.dir)
	h.grant(h.first, firstClaim)
	h.second.start(h.second.dir)
	h.grant(h.second, firstClaim)
	h.meet()
}

// meet has the owner know the standby's key.
func (h *heirs) meet() {
	to := h.second.agent.key.Recipient("r1")
	h.first.agent.companion.is.Key, h.first.agent.companion.is.Epoch = to.Key, to.Epoch
}

func (*heirs) grant(w *world, c owner.Claim) {
	w.agent.office.tell(owner.Granted{Claim: c, Sent: time.Now(), TTL: time.Hour})
	pass(time.Second)
}

// hand brings the standby everything that the owner has written.
func (h *heirs) hand() {
	t := h.first.t
	t.Helper()
	rows, last, err := h.first.agent.spool.Everything()
	if err != nil {
		t.Fatal(err)
	}
	share := &pb.PairShare{Owner: h.first.agent.office.owner("r1"), Life: 1, To: last, All: true}
	for _, c := range rows {
		share.Rows = append(share.Rows, &pb.PairRow{Table: string(c.Table), Key: []byte(c.Key), Value: c.Value})
	}
	if err = h.second.agent.takeShare(share); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// takeOver has the first one die and the second one own the rack.
func (h *heirs) takeOver() {
	h.first.stop()
	h.grant(h.second, owner.Claim{Agent: "b1", Epoch: owner.Epoch{Grant: 1, Local: 2}})
	pass(time.Minute)
}

// What people had done on the rack while it was cut off goes over to the standby: what
// was done is not repeated, what was not is done once, what stands stands, what was
// stopped stays so. The coordinators hear of a run before its results.
func TestOrdersGivenOnTheRackOutliveTheirAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHeirs(t, newWorld(t))
		h.begin()
		w := h.first
		w.desire(&pb.Desired{Revision: 5})
		done := w.give("done", `(action "n1" (set-indicator on))`)
		w.give("hot", strings.Replace(hot, `"hot"`, `"n1"`, 1))
		reached := make(chan struct{})
		w.lanes["n2"].do = func(ctx context.Context, c scl.Command) fleet.Result {
			if c.Verb == scl.DoReboot {
				close(reached)
				<-ctx.Done()
			}
			return fleet.Result{Node: "n2", Step: c.Text, Status: fleet.Confirmed}
		}
		begun := w.give("begun", `(action "n2" (set-indicator on) (reboot))`)
		<-reached
		w.lanes["n3"].do = func(ctx context.Context, c scl.Command) fleet.Result {
			<-ctx.Done()
			return fleet.Result{}
		}
		stopped := w.give("stopped", `(action "n3" (set-indicator on) (set-indicator off))`)
		if _, err := w.agent.cancelHere(t.Context(), &pb.CancelRunRequest{Id: stopped.GetId(), Envelope: w.authors.Sign(cancels(w, stopped))}); err != nil {
			t.Fatal(err)
		}
		h.hand()
		for _, l := range w.lanes {
			l.set(func() { l.calls = nil })
		}
		w.lanes["n2"].traces = bmc.Traces{Power: "on", Reset: time.Now()}
		h.takeOver()
		w.lanes["n3"].set(func() { w.lanes["n3"].do = nil })
		defer h.second.stop()

		want := []string{
			"uid 0 had it done: run begun, " + begun.GetId() + ", signed by ada, cut off",
			"uid 0 had it done: standing hot, , signed by ada, cut off",
			"uid 0 had it done: run stopped, " + stopped.GetId() + ", signed by ada, cut off",
			begun.GetId() + " n2: (reboot) confirmed (the agent stopped while it did (reboot); it is not repeated; the server has restarted since, as was asked)",
			begun.GetId() + " done: 1 ok, 0 failed",
			stopped.GetId() + " n3: (set-indicator off) skipped (not tried: an earlier step failed on this node)",
			stopped.GetId() + " n3: (set-indicator on) skipped (the run was canceled)",
			stopped.GetId() + " done: 0 ok, 1 failed, the run was canceled",
		}
		got := h.second.records()
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if first := h.second.records()[0]; !strings.Contains(first, "had it done") {
			t.Errorf("the first that coordinators hear is %s", first)
		}
		for n, want := range map[fleet.NodeName]string{"n1": "sweep", "n2": "sweep; look for traces", "n3": "sweep"} {
			if got := w.lanes[n].did(); got != want {
				t.Errorf("%s was told %q", n, got)
			}
		}
		if got := h.second.inForce(); got != "hot by uid 0@r1" {
			t.Errorf("in force: %s", got)
		}
		if again := h.second.give("done", `(action "n1" (set-indicator on))`); again.GetId() == done.GetId() {
			t.Error("another order is taken for one that was given before")
		}
	})
}

func cancels(w *world, r *pb.Run) order.Order {
	o := w.authors.Order(order.Cancel, r.GetScript(), "")
	o.Cancels = r.GetVersion()
	return o
}

// A script that was removed on the rack stays so, one that the standby has in a newer
// version stays newer, and nothing unsigned stands.
func TestTheStandbyTakesOrdersAsOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHeirs(t, newWorld(t))
		h.begin()
		defer func() { h.first.stop(); h.second.stop() }()
		w := h.first
		w.desire(&pb.Desired{Revision: 5})
		w.give("hot", strings.Replace(hot, `"hot"`, `"n1"`, 1))
		h.hand()
		if got := h.second.inForce(); got != "hot by uid 0@r1" {
			t.Errorf("in force: %q", got)
		}
		if err := w.remove("hot"); err != nil {
			t.Fatal(err)
		}
		h.hand()
		if got := h.second.inForce(); got != "" {
			t.Errorf("in force after it was removed: %q", got)
		}
		w.give("hot", strings.Replace(hot, `"hot"`, `"n2"`, 1))
		h.second.desire(&pb.Desired{Revision: 6, Scripts: []*pb.Script{{Name: "hot", File: "hot.scl", Source: []byte(hot)}}})
		h.hand()
		if got := h.second.inForce(); got != "hot" {
			t.Errorf("in force: %q; the standby has heard of a newer one", got)
		}
		h.first.forge("other")
		h.hand()
		if got := h.second.inForce(); got != "hot" {
			t.Errorf("what nobody has signed stands: %q", got)
		}
	})
}

// forge writes a script to the disk that no author has signed.
func (w *world) forge(name string) {
	w.t.Helper()
	err := w.agent.spool.Update(func(tx *spool.Tx) error {
		tx.PutMessage(spool.Scripts, name, &pb.Script{Name: name, File: "x.scl", Source: []byte(hot), Version: 1 << 40, Envelope: []byte("{}")})
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// An order that is given to the standby is refused, with where to give it.
func TestTheStandbyTakesNoOrdersOfPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHeirs(t, newWorld(t))
		h.begin()
		defer func() { h.first.stop(); h.second.stop() }()
		h.second.desire(&pb.Desired{Revision: 5})
		_, err := h.second.agent.applyHere(t.Context(), h.second.authors.Apply("tag", `(action "n1" (set-indicator on))`))
		if !fault.Is(err, fault.Conflict) || !strings.Contains(fmt.Sprint(err), "agent a1 works on it") || !strings.Contains(fault.HintOf(err), "a1") {
			t.Errorf("%v, hint %q", err, fault.HintOf(err))
		}
	})
}

// A BMC that is let in is known to the standby at once, with the login that was given
// for it; one that is turned out is gone.
func TestTheStandbyKnowsWhoIsLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrangers(t)
		h := newHeirs(t, s.world)
		s.up()
		h.grant(s.world, firstClaim)
		h.second.start(h.second.dir)
		h.grant(h.second, firstClaim)
		h.meet()
		pass(10 * time.Second)
		name := string(s.stranger().entry.Name)
		s.say(`(bmc-admit "`+strangerPin+`" (as "n9"))`, s.authors.Ada)
		h.hand()
		n := h.second.agent.rack.named("n9")
		if n == nil {
			t.Fatalf("the standby does not know n9, once %s; the owner tells %q", name, s.records())
		}
		if got := s.admission(n); got != "admitted: let in by ada ada" {
			t.Errorf("to the standby it is %s", got)
		}
		sealed, err := s.agent.sealGiven(strangerPin, fleet.NewSecret("toor"))
		if err != nil {
			t.Fatal(err)
		}
		if password, err := h.second.agent.openGiven(sealed, useAdmission(strangerPin)); err != nil || password.Reveal() != "toor" {
			t.Errorf("a login that a person gives can't be opened by the standby: %v", err)
		}
		s.sayOf("n9", `(bmc-forget)`, s.authors.Ada)
		h.hand()
		if n := h.second.agent.rack.named("n9"); n != nil {
			t.Error("the standby knows n9 still")
		}
		s.stop()
		h.second.stop()
	})
}
