package hub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	defaultLease = 30 * time.Second
	// leasesPerTTL is how often an agent asks again while its lease runs.
	leasesPerTTL = 3
	lendTimeout  = 5 * time.Second
)

// loan is what is remembered of an agent's leases. It is in memory alone: after a
// restart every agent counts as having just got one.
type loan struct {
	at   time.Time // when its last one was given; zero: it has given it back
	shut bool      // it says that BMCs have shut it out
}

// Lent is when an agent was last given its rack here, the start of this process if
// that is not known, and whether it says that BMCs have shut it out. A zero time
// says that it has given the rack back.
func (h *Hub) Lent(agent string) (at time.Time, shut bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, known := h.lent[agent]
	if !known {
		return h.born, false
	}
	return l.at, l.shut
}

func (h *Hub) lend(agent string, l loan) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lent[agent] = l
}

// free is why a rack can't be taken from an agent yet, nil if it can: nobody has
// heard of it for as long as a lease lasts, or it says that it can't work.
func (h *Hub) free(ctx context.Context, agent string) error {
	at, shut := h.Lent(agent)
	if o := h.conf.Others; o != nil {
		there, also := o.Lent(ctx, agent)
		if shut = shut || also; there.After(at) {
			at = there
		}
	}
	if left := h.conf.Lease - time.Since(at); left > 0 && !shut {
		return fault.New(fault.Conflict, "give the rack away", fmt.Sprintf("the lease of agent %s runs for %s more", agent, left.Round(time.Millisecond)))
	}
	return nil
}

// ask keeps what the agent asks for until it is answered; only its last question
// counts.
func (s *session) ask(q *pb.Lease) {
	select {
	case <-s.asked:
	default:
	}
	select {
	case s.asked <- q:
	default: // another one has come in between
	}
	s.lending.wake()
}

func (s *session) tellOwner() {
	s.owned.Store(true)
	s.lending.wake()
}

// lend tells the agent when its rack has another owner, and answers its question.
func (s *session) lend(ctx context.Context) error {
	if s.owned.Swap(false) {
		if err := s.sendLeased(s.hub.leased(s.rack, 0)); err != nil {
			return err
		}
	}
	select {
	case q := <-s.asked:
		answer := s.lease(ctx, q)
		answer.Number = q.GetNumber()
		return s.sendLeased(answer)
	default:
		return nil
	}
}

func (s *session) sendLeased(l *pb.Leased) error {
	return s.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Leased{Leased: l}})
}

func (h *Hub) leased(rack string, ttl time.Duration) *pb.Leased {
	return &pb.Leased{
		Owner: h.conf.Machine.Owner(rack), TtlMs: ttl.Milliseconds(), EveryMs: (h.conf.Lease / leasesPerTTL).Milliseconds(),
	}
}

// lease decides whose the rack is, and lends it.
func (s *session) lease(parent context.Context, q *pb.Lease) *pb.Leased {
	h := s.hub
	if h.conf.Others != nil && !h.conf.Others.InTouch() {
		return &pb.Leased{Cut: true, EveryMs: (h.conf.Lease / leasesPerTTL).Milliseconds()}
	}
	ctx, cancel := context.WithTimeout(parent, lendTimeout)
	defer cancel()
	if q.GetStandby() {
		h.lend(s.agent, loan{shut: q.GetShut()})
	}
	if next := s.changed(ctx, q); next != nil {
		next.Rack, next.Agent = s.rack, s.agent
		o, err := h.conf.Commands.Propose(ctx, &pb.Command{Body: &pb.Command_OwnRack{OwnRack: next}})
		if err = errors.Join(err, o.Err); err != nil {
			h.conf.Log.Warn("a rack could not be given to another agent", obs.Agent, s.agent, obs.Rack, s.rack, obs.Err, err)
		} else {
			h.conf.Log.Warn("a rack has another owner", obs.Rack, s.rack, obs.Agent, s.agent, obs.Reason, next.GetWhy(), obs.Epoch, state.Epoch(o.Owner))
		}
	}
	if h.Owner(s.rack) != s.agent || q.GetShut() && state.CompareEpochs(q.GetKnown(), h.conf.Machine.Owner(s.rack)) == 0 {
		return h.leased(s.rack, 0)
	}
	if h.fresh(s.rack) && s.taken(ctx) {
		return h.leased(s.rack, 0) // two have claimed it, and the lease of the other still runs
	}
	h.lend(s.agent, loan{at: time.Now()})
	return h.leased(s.rack, h.conf.Lease)
}

// taken reports whether the lease of the rack's other agent runs.
func (s *session) taken(ctx context.Context) bool {
	other := s.other()
	return other != "" && s.hub.free(ctx, other) != nil
}

// fresh reports whether the rack was taken over a moment ago by an agent that had
// asked nobody: a lease of the other one may still run.
func (h *Hub) fresh(rack string) bool {
	o := h.conf.Machine.Owner(rack)
	return o.GetLocal() > 0 && time.Since(time.UnixMilli(o.GetSinceUnixMs())) < h.conf.Lease
}

// changed is the command by which the rack becomes the agent's, nil if it is not
// to: it has taken the rack over while it reached nobody, or the owner is gone.
func (s *session) changed(ctx context.Context, q *pb.Lease) *pb.OwnRack {
	h := s.hub
	known := h.conf.Machine.Owner(s.rack)
	if q.GetKnown().GetAgent() == s.agent && state.CompareEpochs(q.GetKnown(), known) > 0 {
		return &pb.OwnRack{Claim: q.GetKnown(), Why: "it took the rack over while no coordinator was reached"}
	}
	if !q.GetStandby() || state.CompareEpochs(q.GetKnown(), known) < 0 {
		return nil // it learns first what it does not know yet
	}
	other := s.other()
	switch mine := known.GetAgent() == s.agent; {
	case mine && (!q.GetShut() || !q.GetLost()):
		return nil
	case !mine && !q.GetLost() && !h.outside(other):
		return nil
	case other != "" && h.free(ctx, other) != nil:
		return nil
	case mine:
		return &pb.OwnRack{From: known, Why: "its BMCs have shut it out, and agent " + other + " is silent"}
	case h.outside(other):
		return &pb.OwnRack{From: known, Why: "its BMCs have shut agent " + other + " out"}
	}
	return &pb.OwnRack{From: known, Why: "agent " + other + " is silent"}
}

// outside reports whether an agent that is connected here says that BMCs have shut
// it out.
func (h *Hub) outside(agent string) bool {
	_, shut := h.Lent(agent)
	return shut
}

// other is the other agent of the rack, "" if there is none.
func (s *session) other() string {
	for _, a := range s.hub.conf.Machine.Agents() {
		if a.GetRack() == s.rack && a.GetName() != s.agent {
			return a.GetName()
		}
	}
	return ""
}
