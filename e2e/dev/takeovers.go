package dev

import (
	"sync"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// takeovers tells a person how far the take-over of the simulated BMCs is. It is
// safe for concurrent use.
type takeovers struct {
	mu   sync.Mutex
	all  int
	say  func(format string, args ...any)
	done map[fleet.NodeName]fleet.Takeover
}

// of is what an agent of a fleet of so many BMCs tells of each. All agents tell the
// same one.
func (t *takeovers) of(all int, say func(format string, args ...any)) func(fleet.NodeName, fleet.BMCTrust) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all, t.say = all, say
	return t.hear
}

// hear takes the news of one BMC.
func (t *takeovers) hear(node fleet.NodeName, how fleet.BMCTrust) {
	if !how.Done() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done == nil {
		t.done = map[fleet.NodeName]fleet.Takeover{}
	}
	if t.done[node] == how.Takeover {
		return
	}
	t.done[node] = how.Takeover
	switch {
	case len(t.done) == t.all:
		t.say("%d of %d BMCs taken over%s; see them: chiba get bmcs", t.all, t.all, t.how())
	case len(t.done)%4 == 0:
		t.say("%d of %d BMCs taken over", len(t.done), t.all)
	}
}

// how is in which way, if it is the best one everywhere.
func (t *takeovers) how() string {
	for _, how := range t.done {
		if how != fleet.TakeoverStrict {
			return ""
		}
	}
	return ": only a certificate of the rack lets anybody in"
}
