package state

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Owner is which agent a rack belongs to; nil if it was never granted.
func (m *Machine) Owner(rack string) *pb.Owner {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.owners[rack]
}

// CompareEpochs is negative if the epoch of a comes before that of b. No owner has
// the first epoch of all.
func CompareEpochs(a, b *pb.Owner) int {
	return cmp.Or(cmp.Compare(a.GetGrant(), b.GetGrant()), cmp.Compare(a.GetLocal(), b.GetLocal()))
}

// Epoch is the epoch of an owner as people read it.
func Epoch(o *pb.Owner) string {
	if o.GetLocal() == 0 {
		return strconv.FormatUint(o.GetGrant(), 10)
	}
	return fmt.Sprintf("%d.%d", o.GetGrant(), o.GetLocal())
}

// ownRack gives a rack to an agent. The epoch only rises: a grant has the index of
// its command, and a claim must be above what is known.
func (m *Machine) ownRack(at int64, b *pb.OwnRack) Outcome {
	const op = "give the rack away"
	if a := m.agents[b.GetAgent()]; a == nil || a.GetRack() != b.GetRack() {
		return refused(fault.NotFound, op, fmt.Sprintf("rack %s has no agent %q", b.GetRack(), b.GetAgent()))
	}
	known := m.owners[b.GetRack()]
	next := &pb.Owner{Rack: b.GetRack(), Agent: b.GetAgent(), Grant: m.index, SinceUnixMs: at, Why: clip(b.GetWhy())}
	if c := b.GetClaim(); c != nil {
		if CompareEpochs(c, known) <= 0 || c.GetGrant() > m.index {
			return refused(fault.Conflict, op, fmt.Sprintf("epoch %s of rack %s is not after epoch %s", Epoch(c), b.GetRack(), Epoch(known)))
		}
		next.Grant, next.Local = c.GetGrant(), c.GetLocal()
	} else if CompareEpochs(b.GetFrom(), known) != 0 {
		return refused(fault.Conflict, op, fmt.Sprintf("rack %s is in epoch %s by now", b.GetRack(), Epoch(known)))
	}
	return m.owned(next)
}

func (m *Machine) owned(next *pb.Owner) Outcome {
	m.owners[next.GetRack()] = next
	return Outcome{Owner: next}
}

// inherit gives a rack that nobody owns to the first agent that registers for it.
func (m *Machine) inherit(at int64, agent *pb.AgentInfo) (o *pb.Owner) {
	if m.owners[agent.GetRack()] != nil {
		return nil
	}
	return m.owned(&pb.Owner{
		Rack: agent.GetRack(), Agent: agent.GetName(), Grant: m.index, SinceUnixMs: at, Why: "it came first",
	}).Owner
}

// mayServe says why an agent may not register for its rack. A rack has one agent, or
// two that name each other: who may take another's rack may read its secrets.
func (m *Machine) mayServe(a *pb.AgentInfo) error {
	const op = "register agent"
	var others []*pb.AgentInfo
	for _, other := range m.agents {
		if other.GetRack() == a.GetRack() && other.GetName() != a.GetName() {
			others = append(others, other)
		}
	}
	slices.SortFunc(others, byName) // the same answer on every replica
	switch {
	case len(others) == 0:
		return nil
	case len(others) > 1:
		return fault.New(fault.Conflict, op, fmt.Sprintf("rack %s is served by agents %s and %s", a.GetRack(), others[0].GetName(), others[1].GetName()))
	case others[0].GetPair() == a.GetName() && a.GetPair() == others[0].GetName():
		return nil
	}
	return fault.New(fault.Conflict, op, fmt.Sprintf("rack %s is served by agent %s", a.GetRack(), others[0].GetName())).
		WithHint("two agents share a rack if each names the other as its pair in agent.yaml; else give the new machine the identity of the old agent, or its rack another name")
}
