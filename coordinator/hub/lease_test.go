package hub_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// joinPair connects an agent of rack r1 that names another as its pair.
func (w *world) joinPair(name, pair string) *agent {
	w.t.Helper()
	a, h := w.dial(name), hello(name, "r1")
	h.Pair = pair
	a.greet(h)
	a.next = a.welcome().GetNextWanted()
	return a
}

// lease asks for the rack and reads what follows until the answer.
func (a *agent) lease(q *pb.Lease) *pb.Leased {
	a.t.Helper()
	a.asks++
	q.Number = a.asks
	a.say(&pb.FromAgent{Body: &pb.FromAgent_Lease{Lease: q}})
	for {
		m, err := a.hear()
		if err != nil {
			a.t.Fatal(err)
		}
		if l := m.GetLeased(); l.GetNumber() == q.GetNumber() && l != nil {
			return l
		}
	}
}

func leased(l *pb.Leased) string {
	return fmt.Sprintf("%s %s for %s", l.GetOwner().GetAgent(), state.Epoch(l.GetOwner()), time.Duration(l.GetTtlMs())*time.Millisecond)
}

func (w *world) pair() (a, b *agent) {
	w.t.Helper()
	return w.joinPair("a-r1", "b-r1"), w.joinPair("b-r1", "a-r1")
}

func TestARackIsLent(t *testing.T) {
	w := newWorld(t, 0)
	a, b := w.pair()
	first := w.machine.Owner("r1")
	want := "a-r1 " + state.Epoch(first)
	if got := leased(a.lease(&pb.Lease{})); got != want+" for 30s" {
		t.Errorf("the owner gets %s", got)
	}
	for _, q := range []*pb.Lease{{Standby: true, Known: first}, {Standby: true, Known: first, Lost: true}} {
		if got := leased(b.lease(q)); got != want+" for 0s" {
			t.Errorf("the standby asks %v and gets %s", q, got)
		}
	}
	if !w.hub.Connected("r1") {
		t.Error("the owner is connected")
	}
	var roles []string
	for _, s := range w.hub.Agents() {
		roles = append(roles, s.GetName()+" "+s.GetRole()+s.GetEpoch())
	}
	if diff := cmp.Diff([]string{"a-r1 active" + state.Epoch(first), "b-r1 standby"}, roles); diff != "" {
		t.Error(diff)
	}
	a.fine()
	b.fine()
}

// The standby gets the rack when the lease of the owner is over, and the owner is
// told at once.
func TestTheStandbyGetsTheRack(t *testing.T) {
	w := newWorldWithLease(t, time.Second)
	a, b := w.pair()
	first := w.machine.Owner("r1")
	a.lease(&pb.Lease{Known: first})
	begun := time.Now()
	for {
		l := b.lease(&pb.Lease{Standby: true, Known: first, Lost: true})
		if l.GetOwner().GetAgent() == "b-r1" {
			if took := time.Since(begun); took < 900*time.Millisecond || l.GetTtlMs() != 1000 {
				t.Errorf("after %s it gets %s", took, leased(l))
			}
			break
		}
	}
	for {
		m, err := a.hear()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetLeased().GetOwner().GetAgent() == "b-r1" {
			break
		}
	}
	if w.hub.Owner("r1") != "b-r1" || state.CompareEpochs(w.machine.Owner("r1"), first) <= 0 {
		t.Errorf("the owner is %v", w.machine.Owner("r1"))
	}
}

// A take-over that nobody was asked for becomes known, and the new owner waits until
// the lease of the other is over.
func TestATakeOverWithoutUs(t *testing.T) {
	w := newWorld(t, 0)
	a, b := w.pair()
	first := w.machine.Owner("r1")
	a.lease(&pb.Lease{Known: first})
	claim := &pb.Owner{Agent: "b-r1", Grant: first.GetGrant(), Local: 1}
	want := "b-r1 " + state.Epoch(claim)
	if got := leased(b.lease(&pb.Lease{Known: claim})); got != want+" for 0s" {
		t.Errorf("it gets %s while the lease of the other runs", got)
	}
	if got := leased(a.lease(&pb.Lease{Known: claim, Standby: true})); got != want+" for 0s" {
		t.Errorf("who has yielded gets %s", got)
	}
	if got := leased(b.lease(&pb.Lease{Known: claim})); got != want+" for 30s" {
		t.Errorf("when the other has yielded it gets %s", got)
	}
}

// An owner that its BMCs have shut out gives way to one that can work.
func TestAnOwnerThatIsShutOut(t *testing.T) {
	w := newWorld(t, 0)
	a, b := w.pair()
	first := w.machine.Owner("r1")
	a.lease(&pb.Lease{Known: first})
	if got := leased(a.lease(&pb.Lease{Known: first, Standby: true, Shut: true})); got != "a-r1 "+state.Epoch(first)+" for 0s" {
		t.Errorf("it gets %s", got)
	}
	if l := b.lease(&pb.Lease{Known: first, Standby: true}); l.GetOwner().GetAgent() != "b-r1" || l.GetTtlMs() == 0 {
		t.Errorf("the standby gets %s", leased(l))
	}
}
