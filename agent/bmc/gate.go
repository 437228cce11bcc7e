package bmc

import (
	"context"
	"slices"
	"sync"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// maxQueued bounds how many calls wait at one gate.
const maxQueued = 512

// gate lets a number of calls pass at once, the more urgent first and equals in
// the order of their coming.
type gate struct {
	mu      sync.Mutex
	size    int // how many may be inside
	inside  int
	waiting [priorities][]chan struct{} // closed when the waiter is let in
}

// newGate lets one pass at a time; see resize.
func newGate() *gate { return &gate{size: 1} }

// enter waits for a place. Each nil return is to be followed by one leave.
func (g *gate) enter(ctx context.Context, prio Priority) error {
	g.mu.Lock()
	if g.inside < g.size {
		g.inside++
		g.mu.Unlock()
		return nil
	}
	if g.queued() >= maxQueued {
		g.mu.Unlock()
		return fault.New(fault.Unavailable, "wait for the BMC", "too many requests wait for it already").
			WithHint("ask less often, or for fewer elements")
	}
	turn := make(chan struct{})
	g.waiting[prio] = append(g.waiting[prio], turn)
	g.mu.Unlock()

	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		g.withdraw(prio, turn)
		return fault.Wrap(fault.KindOf(ctx.Err()), "wait for the BMC", ctx.Err())
	}
}

// withdraw takes a waiter out of the queue, or gives its place on if it was let
// in at the last moment.
func (g *gate) withdraw(prio Priority, turn chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.waiting[prio], turn); i >= 0 {
		g.waiting[prio] = slices.Delete(g.waiting[prio], i, i+1)
		return
	}
	g.inside--
	g.admit()
}

// leave gives the place to the most urgent waiter.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.admit()
}

// resize sets how many may be inside at once. Who is inside already stays.
func (g *gate) resize(size int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.size = size
	g.admit()
}

// load is how many are inside and how many wait.
func (g *gate) load() (inside, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside, g.queued()
}

func (g *gate) admit() {
	for prio := range g.waiting {
		for len(g.waiting[prio]) > 0 && g.inside < g.size {
			close(g.waiting[prio][0])
			g.waiting[prio] = g.waiting[prio][1:]
			g.inside++
		}
	}
}

func (g *gate) queued() int {
	n := 0
	for _, q := range g.waiting {
		n += len(q)
	}
	return n
}
