package hub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/hub/talk"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	defaultLease = 30 * time.Second
	lendTimeout  = 5 * time.Second
)

// Lent is when an agent was last given its rack here, the start of this process if
// that is not known, and whether it says that BMCs have shut it out. A zero time
// says that it has given the rack back.
func (h *Hub) Lent(agent string) (at time.Time, shut bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, known := h.lent[agent]
	if !known { // in memory alone: after a restart every agent has just got a lease
		return h.born, false
	}
	return l.At, l.Shut
}

func (h *Hub) lend(agent string, l talk.Loan) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lent[agent] = l
}

// free is why a rack can't be taken from an agent yet, nil if it can: nobody has
// heard of it for as long as a lease lasts, or it says that it can't work.
func (h *Hub) free(ctx context.Context, agent string) error {
	at, shut := h.Lent(agent)
	l := talk.Loan{At: at, Shut: shut}
	if o := h.conf.Others; o != nil {
		at, shut = o.Lent(ctx, agent)
		l = l.And(talk.Loan{At: at, Shut: shut})
	}
	if left := l.Left(time.Now(), h.conf.Lease); left > 0 {
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
	return talk.Leased(h.conf.Machine.Owner(rack), ttl, h.conf.Lease)
}

// question is what is known where an agent asks for its rack.
func (s *session) question(q *pb.Lease) talk.Question {
	other := s.other()
	_, outside := s.hub.Lent(other)
	return talk.Question{
		Lease: q, Agent: s.agent, Rack: s.rack, Other: other, Outside: outside, Owner: s.hub.conf.Machine.Owner(s.rack),
	}
}

// lease decides whose the rack is, and lends it.
func (s *session) lease(parent context.Context, q *pb.Lease) *pb.Leased {
	h := s.hub
	if h.conf.Others != nil && !h.conf.Others.InTouch() {
		return talk.Cut(h.conf.Lease)
	}
	ctx, cancel := context.WithTimeout(parent, lendTimeout)
	defer cancel()
	if q.GetStandby() {
		h.lend(s.agent, talk.Loan{Shut: q.GetShut()})
	}
	asked := s.question(q)
	if next, ifFree := asked.Change(); next != nil && (!ifFree || h.free(ctx, asked.Other) == nil) {
		s.give(ctx, next)
	}
	asked = s.question(q)
	ok, ifFree := asked.Lend(time.Now(), h.conf.Lease)
	if !ok || ifFree && h.free(ctx, asked.Other) != nil {
		return h.leased(s.rack, 0)
	}
	h.lend(s.agent, talk.Loan{At: time.Now()})
	return h.leased(s.rack, h.conf.Lease)
}

// give has the log say that the rack is the agent's.
func (s *session) give(ctx context.Context, next *pb.OwnRack) {
	h := s.hub
	o, err := h.conf.Commands.Propose(ctx, &pb.Command{Body: &pb.Command_OwnRack{OwnRack: next}})
	if err = errors.Join(err, o.Err); err != nil {
		h.conf.Log.Warn("a rack could not be given to another agent", obs.Agent, next.GetAgent(), obs.Rack, s.rack, obs.Err, err)
		return
	}
	h.conf.Log.Warn("a rack has another owner", obs.Rack, s.rack, obs.Agent, next.GetAgent(), obs.Reason, next.GetWhy(), obs.Epoch, state.Epoch(o.Owner))
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
