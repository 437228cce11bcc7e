package state

import (
	"maps"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// What tells one BMC from another, as a person reads it.
const (
	claimKey    = "key"
	claimSerial = "serial"
	claimUUID   = "UUID"
)

// claim is one identity.
type claim struct{ what, is string }

// weight is how much stands behind a claim: of two with one identity the lighter is
// harmed, and of equals both are. Those that are none of the fleet harm nobody, nor
// each other: where several racks share a network each agent sees the BMCs of all.
type weight int

const (
	saidOutside weight = iota // a BMC that is none of the fleet says so
	saidInside                // one of the fleet, to somebody who is logged in
	confirmed                 // and the catalogue says the same
)

// claims are all identities, each with who claims it, by RACK/NAME. They follow from
// the nodes.
type claims struct {
	by map[claim]map[string]weight
	// shared are those that several claim. Conflicts are among them alone: every rack
	// that pulls asks for its own, and nodes are many.
	shared map[claim]bool
}

func newClaims() claims { return claims{make(map[claim]map[string]weight), make(map[claim]bool)} }

// place is how a node is told in a conflict: names of BMCs that are none of the fleet
// need not differ between racks.
func place(n *pb.Node) string { return n.GetRack() + "/" + n.GetName() }

// outside reports whether a BMC is none of the fleet.
func outside(n *pb.Node) bool {
	s := fleet.AdmissionState(n.GetAdmission().GetState())
	return s == fleet.Waiting || s == fleet.Barring
}

// claimsOf is what a node claims. One that is not there claims nothing: its BMC may
// stand in another rack by now.
func claimsOf(n *pb.Node) map[claim]weight {
	all := make(map[claim]weight)
	if n == nil || n.GetState() == string(fleet.Unreachable) {
		return all
	}
	w := saidInside
	if outside(n) {
		w = saidOutside
	}
	if pin := n.GetTrust().GetPin(); pin != "" {
		all[claim{claimKey, pin}] = w
	}
	if uuid := strings.ToLower(n.GetAdmission().GetUuid()); uuid != "" {
		all[claim{claimUUID, uuid}] = w
	}
	if serial := strings.ToUpper(strings.TrimSpace(n.GetSerial())); serial != "" && !outside(n) && n.GetBmc() != "" {
		if n.GetTrust().GetElements()["trust.serial-confirmed"] == "true" {
			w = confirmed
		}
		all[claim{claimSerial, serial}] = w
	}
	return all
}

func (c claims) put(n *pb.Node) {
	for k, w := range claimsOf(n) {
		if c.by[k] == nil {
			c.by[k] = make(map[string]weight)
		}
		c.by[k][place(n)] = w
		if len(c.by[k]) > 1 {
			c.shared[k] = true
		}
	}
}

func (c claims) drop(n *pb.Node) {
	for k := range claimsOf(n) {
		delete(c.by[k], place(n))
		if len(c.by[k]) < 2 {
			delete(c.shared, k)
		}
		if len(c.by[k]) == 0 {
			delete(c.by, k)
		}
	}
}

// conflict is what is wrong with an identity, nil if nothing is.
func (c claims) conflict(k claim) *pb.Conflict {
	who := c.by[k]
	if len(who) < 2 || !across(who) {
		return nil
	}
	top := slices.Max(slices.Collect(maps.Values(who)))
	if top == saidOutside {
		return nil
	}
	heavy := 0
	for _, w := range who {
		if w == top {
			heavy++
		}
	}
	found := &pb.Conflict{What: k.what, Is: k.is, Nodes: slices.Sorted(maps.Keys(who))}
	for _, name := range found.GetNodes() {
		if heavy > 1 || who[name] < top {
			found.Bad = append(found.Bad, name)
		}
	}
	return found
}

// across reports whether the claims come from several racks: what happens in one
// its own agent sees better.
func across(who map[string]weight) bool {
	first := ""
	for name := range who {
		rack, _, _ := strings.Cut(name, "/")
		if first != "" && rack != first {
			return true
		}
		first = rack
	}
	return false
}

// of are the conflicts that harm a BMC of a rack; of "" all.
func (c claims) of(rack string) []*pb.Conflict {
	var all []*pb.Conflict
	for k := range c.shared {
		found := c.conflict(k)
		if found != nil && (rack == "" || slices.ContainsFunc(found.GetBad(), func(name string) bool { return strings.HasPrefix(name, rack+"/") })) {
			all = append(all, found)
		}
	}
	slices.SortFunc(all, func(a, b *pb.Conflict) int { return strings.Compare(a.GetWhat()+a.GetIs(), b.GetWhat()+b.GetIs()) })
	return all
}

// claimed follows a change of a node, before and after it, and has the racks pull
// whom a conflict harms now or has harmed.
func (t *take) claimed(before, after *pb.Node) {
	touched := claimsOf(before)
	maps.Copy(touched, claimsOf(after))
	was := make(map[claim]*pb.Conflict, len(touched))
	for k := range touched {
		was[k] = t.m.claims.conflict(k)
	}
	t.m.claims.drop(before)
	if after != nil {
		t.m.claims.put(after)
	}
	racks := make(map[string]bool)
	for k := range touched {
		now := t.m.claims.conflict(k)
		if slices.Equal(now.GetBad(), was[k].GetBad()) && slices.Equal(now.GetNodes(), was[k].GetNodes()) {
			continue
		}
		for _, name := range append(slices.Clone(now.GetBad()), was[k].GetBad()...) {
			rack, _, _ := strings.Cut(name, "/")
			racks[rack] = true
		}
	}
	if len(racks) == 0 {
		return
	}
	t.m.revision++
	t.out.Racks = slices.AppendSeq(t.out.Racks, maps.Keys(racks))
}

// candidate keeps a BMC that is none of the fleet, beside its rack's others.
func (t *take) candidate(n *pb.Node) string {
	m, rack := t.m, t.agent.GetRack()
	kept := shallow(n)
	kept.Rack, kept.Site = rack, t.agent.GetSite()
	at := place(kept)
	known := m.found[at]
	if known == nil && m.foundIn(rack) >= MaxFoundPerRack {
		return "its rack has more BMCs that are none of the fleet than are kept"
	}
	if was := m.nodes[n.GetName()]; was != nil && was.GetRack() == rack {
		m.forget(was)
		t.claimed(was, nil)
	}
	m.found[at] = kept
	t.claimed(known, kept)
	return ""
}

func (m *Machine) foundIn(rack string) int {
	count := 0
	for name := range m.found {
		if strings.HasPrefix(name, rack+"/") {
			count++
		}
	}
	return count
}
