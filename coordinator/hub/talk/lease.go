package talk

import (
	"time"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Loan is what is remembered of the last time that an agent asked for its rack.
type Loan struct {
	At   time.Time // when the rack was given to it; zero: it has given it back
	Shut bool      // it says that BMCs have shut it out
}

// And is what two coordinators remember together.
func (l Loan) And(o Loan) Loan {
	if o.At.After(l.At) {
		l.At = o.At
	}
	l.Shut = l.Shut || o.Shut
	return l
}

// Left is how long the rack can't be taken from the agent: until a lease that was
// given then is over, unless it says that it can't work. Zero or less: it is free.
func (l Loan) Left(now time.Time, lease time.Duration) time.Duration {
	if l.Shut {
		return 0
	}
	return lease - now.Sub(l.At)
}

// Question is an agent's for its rack, and what the coordinator that it asks knows.
type Question struct {
	*pb.Lease
	Agent, Rack string
	// Other is the other agent of the rack, "" if there is none. Outside says that it
	// is connected here and that BMCs have shut it out.
	Other   string
	Outside bool
	Owner   *pb.Owner // of the rack, as the log has it
}

// Change is the command by which the rack becomes the agent's, nil if it is not to:
// it has taken the rack over while it reached nobody, or the owner is gone. It becomes
// the other one's if this one is shut out and the other one answers it. With
// ifFree it is only if the other agent is free by the word of all coordinators.
func (q Question) Change() (next *pb.OwnRack, ifFree bool) {
	if q.GetKnown().GetAgent() == q.Agent && state.CompareEpochs(q.GetKnown(), q.Owner) > 0 {
		return q.own(&pb.OwnRack{Claim: q.GetKnown(), Why: "it took the rack over while no coordinator was reached"}), false
	}
	if !q.GetStandby() || state.CompareEpochs(q.GetKnown(), q.Owner) < 0 {
		return nil, false // it learns first what it does not know yet
	}
	why := "agent " + q.Other + " is silent"
	switch mine := q.Owner.GetAgent() == q.Agent; {
	case mine && q.GetShut() && q.GetMet() && q.Other != "":
		// The other one is connected elsewhere perhaps, and knows nothing of this.
		return &pb.OwnRack{Rack: q.Rack, Agent: q.Other, From: q.Owner, Why: "its BMCs have shut agent " + q.Agent + " out"}, false
	case mine && (!q.GetShut() || !q.GetLost()):
		return nil, false
	case !mine && !q.GetLost() && !q.Outside:
		return nil, false
	case mine:
		why = "its BMCs have shut it out, and " + why
	case q.Outside:
		why = "its BMCs have shut agent " + q.Other + " out"
	}
	return q.own(&pb.OwnRack{From: q.Owner, Why: why}), q.Other != ""
}

func (q Question) own(c *pb.OwnRack) *pb.OwnRack {
	c.Rack, c.Agent = q.Rack, q.Agent
	return c
}

// Lend reports whether the agent gets the rack for as long as a lease lasts. With
// ifFree it does only if the other agent is free: two have claimed the rack, and the
// lease of the other may still run.
func (q Question) Lend(now time.Time, lease time.Duration) (ok, ifFree bool) {
	if q.Owner.GetAgent() != q.Agent || q.GetShut() && state.CompareEpochs(q.GetKnown(), q.Owner) == 0 {
		return false, false
	}
	fresh := q.Owner.GetLocal() > 0 && now.Sub(time.UnixMilli(q.Owner.GetSinceUnixMs())) < lease
	return true, fresh && q.Other != ""
}

// Leased is the answer to a question, with the owner of the rack by then. Zero for
// lent says that it is not the agent's, or not yet. An agent asks three times while a
// lease lasts.
func Leased(o *pb.Owner, lent, lease time.Duration) *pb.Leased {
	return &pb.Leased{Owner: o, TtlMs: lent.Milliseconds(), EveryMs: (lease / leasesPerTTL).Milliseconds()}
}

// Cut is the answer of a coordinator that may be alone: it knows of no owner.
func Cut(lease time.Duration) *pb.Leased {
	return &pb.Leased{Cut: true, EveryMs: (lease / leasesPerTTL).Milliseconds()}
}

// leasesPerTTL is how often an agent asks again while its lease runs.
const leasesPerTTL = 3
