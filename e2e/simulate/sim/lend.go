package sim

import (
	"time"

	hubtalk "github.com/chiba-mesh/chiba/coordinator/hub/talk"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	leaseTTL    = 30 * time.Second
	behindAfter = time.Second
	lentTimeout = time.Second
)

// steady is a clock that nobody sets.
func (w *World) steady() time.Time { return start.Add(w.now) }

// inTouch reports whether what a coordinator knows is what a majority knows.
func (r *replica) inTouch() bool { return r.up && r.w.now-r.touched <= behindAfter }

// lent is when an agent was last given its rack here.
func (r *replica) lentTo(agent string) hubtalk.Loan {
	l, known := r.lent[agent]
	if !known {
		l.At = start.Add(r.born)
	}
	return l
}

// free tells whether an agent has no lease by what all coordinators say. One that
// does not answer may have given it one, until it has lost touch.
func (r *replica) free(agent string, then func(bool)) {
	all, life := r.lentTo(agent), r.life
	left := len(r.replicas) - 1
	said := func(l hubtalk.Loan) {
		all = all.And(l)
		if left--; left == 0 && r.life == life {
			then(all.Left(r.w.steady(), leaseTTL) <= 0)
		}
	}
	asked := r.w.steady()
	for _, o := range r.replicas {
		switch {
		case o == r:
		case r.reaches(o):
			r.w.after(r.hop(o), func() {
				l := o.lentTo(agent)
				age := r.w.steady().Sub(l.At)
				r.w.after(r.hop(o), func() {
					if l.At.IsZero() {
						said(hubtalk.Loan{Shut: l.Shut})
						return
					}
					said(hubtalk.Loan{At: asked.Add(-age), Shut: l.Shut})
				})
			})
		default:
			heard := start.Add(r.heard[o.name])
			r.w.after(lentTimeout, func() { said(hubtalk.Loan{At: heard.Add(behindAfter)}) })
		}
	}
}

// lease answers an agent's question for its rack, as the hub does.
func (s *session) lease(q *pb.Lease) {
	c := s.c
	if !c.inTouch() {
		s.answerLease(q, hubtalk.Cut(leaseTTL))
		return
	}
	if s.asking {
		s.asks = q // only the last one counts
		return
	}
	s.asking = true
	if q.GetStandby() {
		c.lent[s.a.name] = hubtalk.Loan{Shut: q.GetShut()}
	}
	asked := s.question(q)
	next, ifFree := asked.Change()
	if next == nil {
		s.lends(q)
		return
	}
	s.when(ifFree, asked.Other, func(free bool) {
		if !free {
			s.lends(q)
			return
		}
		c.propose(&pb.Command{Body: &pb.Command_OwnRack{OwnRack: next}}, func(o state.Outcome, err error) {
			s.atCoordinator(func() {
				if err == nil && o.Err == nil {
					s.a.w.say("%s: rack %s is %s's in epoch %s: %s", c.name, s.a.rack, s.a.name, state.Epoch(o.Owner), next.GetWhy())
				}
				s.lends(q)
			})
		})
	})
}

// when asks the others only if it must be known.
func (s *session) when(ifFree bool, other string, then func(bool)) {
	if !ifFree {
		then(true)
		return
	}
	s.c.free(other, func(free bool) { s.atCoordinator(func() { then(free) }) })
}

// lends gives the agent its rack for a while, if it is its own.
func (s *session) lends(q *pb.Lease) {
	asked := s.question(q)
	ok, ifFree := asked.Lend(s.c.clock(), leaseTTL)
	if !ok && s.a.w.mutant != TwoOwners {
		s.answerLease(q, hubtalk.Leased(asked.Owner, 0, leaseTTL))
		return
	}
	s.when(ifFree, asked.Other, func(free bool) {
		if !free {
			s.answerLease(q, hubtalk.Leased(s.c.machine.Owner(s.a.rack), 0, leaseTTL))
			return
		}
		s.c.lent[s.a.name] = hubtalk.Loan{At: s.a.w.steady()}
		o := s.c.machine.Owner(s.a.rack)
		if s.a.w.mutant == TwoOwners {
			o = &pb.Owner{Rack: s.a.rack, Agent: s.a.name, Grant: o.GetGrant(), Local: o.GetLocal()}
		}
		s.answerLease(q, hubtalk.Leased(o, leaseTTL, leaseTTL))
	})
}

func (s *session) answerLease(q *pb.Lease, l *pb.Leased) {
	l.Number = q.GetNumber()
	s.toAgent(&pb.FromCoordinator{Body: &pb.FromCoordinator_Leased{Leased: l}})
	s.asking = false
	if next := s.asks; next != nil {
		s.asks = nil
		s.lease(next)
	}
}

// question is what is known where an agent asks for its rack.
func (s *session) question(q *pb.Lease) hubtalk.Question {
	asked := hubtalk.Question{Lease: q, Agent: s.a.name, Rack: s.a.rack, Owner: s.c.machine.Owner(s.a.rack)}
	for _, a := range s.c.machine.Agents() {
		if a.GetRack() == s.a.rack && a.GetName() != s.a.name {
			asked.Other = a.GetName()
			asked.Outside = s.c.lentTo(asked.Other).Shut
		}
	}
	return asked
}
