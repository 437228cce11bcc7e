package bmc

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

func TestGateLetsTheMoreUrgentGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		if err := g.enter(t.Context(), Inventory); err != nil {
			t.Fatal(err)
		}
		var order []Priority
		for _, prio := range []Priority{Inventory, Monitor, Person, Monitor, Action, Person} {
			go func() {
				if g.enter(t.Context(), prio) == nil {
					order = append(order, prio) // one at a time is inside
					g.leave()
				}
			}()
			synctest.Wait()
		}
		g.leave()
		synctest.Wait()
		if diff := cmp.Diff([]Priority{Person, Person, Action, Monitor, Monitor, Inventory}, order); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestGateIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		ctx, cancel := context.WithCancel(t.Context())
		if err := g.enter(ctx, Person); err != nil {
			t.Fatal(err)
		}
		var canceled atomic.Int32
		for range maxQueued {
			go func() {
				if fault.Is(g.enter(ctx, Monitor), fault.Canceled) {
					canceled.Add(1)
				}
			}()
			synctest.Wait()
		}
		if err := g.enter(ctx, Person); !fault.Is(err, fault.Unavailable) {
			t.Errorf("beyond the bound: %v", err)
		}
		cancel()
		synctest.Wait()
		if canceled.Load() != maxQueued || g.queued() != 0 || g.inside != 1 {
			t.Errorf("%d were canceled, %d wait, %d are inside", canceled.Load(), g.queued(), g.inside)
		}
		g.leave()
		if err := g.enter(t.Context(), Inventory); err != nil {
			t.Errorf("a place was lost: %v", err)
		}
	})
}

func TestGateResizes(t *testing.T) {
	g := newGate()
	g.resize(3)
	for range 3 {
		if err := g.enter(t.Context(), Person); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.enter(ctx, Person); err == nil {
		t.Error("a fourth went in")
	}
	g.resize(1)
	for range 2 {
		g.leave()
	}
	if err := g.enter(ctx, Person); err == nil {
		t.Error("a second went in where only one may")
	}
	g.leave()
	if err := g.enter(t.Context(), Person); err != nil {
		t.Error(err)
	}
}
