package hub

import (
	"context"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	leaderless = 10 * time.Second
	// again is after how many times Leaderless agents that have found nobody better
	// are sent to look again.
	again = 12
	// cutOff is what they are told.
	cutOff = "this coordinator reaches no leader"
)

// watchLead sends the agents to other coordinators while nobody leads this one: what
// they report could not be recorded here, and what they are to do is not known. If
// none is led they come back, see welcomes, and are asked to look again later.
func (h *Hub) watchLead(ctx context.Context) {
	if h.conf.Led == nil {
		return
	}
	look := time.NewTicker(h.conf.Leaderless / 10)
	defer look.Stop()
	due := time.Now().Add(h.conf.Leaderless)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-look.C:
			switch {
			case h.conf.Led():
				due = now.Add(h.conf.Leaderless)
				h.astray.Store(false)
			case now.After(due):
				due = now.Add(again * h.conf.Leaderless)
				h.astray.Store(true)
				h.drainAll(cutOff)
			}
		}
	}
}

// drainAll sends all agents elsewhere. It never waits.
func (h *Hub) drainAll(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.agents) > 0 {
		h.conf.Log.Warn("agents are sent to other coordinators", obs.Reason, reason, obs.Count, len(h.agents))
	}
	for _, s := range h.agents {
		select {
		case s.drains <- reason:
		default:
		}
		s.nudges.wake()
	}
}

// welcomes is an error while nobody leads, unless the agent has tried all others.
func (h *Hub) welcomes(hello *pb.Hello) error {
	if h.astray.Load() && !hello.GetAny() {
		return fault.New(fault.Unavailable, "greet agent", cutOff).WithHint("another coordinator may; see: chiba get coordinators")
	}
	return nil
}
