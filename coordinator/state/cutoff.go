package state

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// CutOff is what the leader says of a run in waves when other racks than before reach
// no coordinator. It is no person's act.
const CutOff = "cut-off"

// Awaited is a run in waves with the racks that its wave waits for, and those that are
// known to be cut off.
type Awaited struct {
	Run         string
	Racks, Gone []string
}

// Awaited are the runs whose wave waits for racks, for whoever can tell whether these
// reach a coordinator.
func (m *Machine) Awaited() (all []Awaited) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, r := range m.runs {
		if r.rolled == nil || r.msg.GetEndedUnixMs() != 0 || r.msg.GetRollout().GetState() != Rolling {
			continue
		}
		a := Awaited{Run: r.msg.GetId()}
		for _, k := range r.msg.GetRacks() {
			if r.awaits(k.GetRack()) {
				a.Racks = append(a.Racks, k.GetRack())
			}
		}
		for _, c := range r.msg.GetRollout().GetCutOff() {
			if c.GetSinceUnixMs() != 0 {
				a.Gone = append(a.Gone, c.GetRack())
			}
		}
		if len(a.Racks)+len(a.Gone) > 0 {
			all = append(all, a)
		}
	}
	return all
}

// awaits reports whether the wave waits for a rack.
func (r *run) awaits(rack string) bool {
	released := int(r.msg.GetRollout().GetReleased())
	return slices.ContainsFunc(r.rolled.of[rack], func(i int) bool { return i < released && !r.rolled.all[i].GetEnded() })
}

// cutOff takes which racks reach no coordinator. One that was gone already has been so
// since then.
func (r *run) cutOff(at int64, racks []string) {
	var next []*pb.CutOffRack
	for _, old := range r.msg.GetRollout().GetCutOff() {
		c := proto.CloneOf(old)
		if !slices.Contains(racks, c.GetRack()) {
			c.SinceUnixMs = 0
		} else if c.GetSinceUnixMs() == 0 {
			c.SinceUnixMs = at
		}
		if c.GetSinceUnixMs() != 0 || len(c.GetLost()) > 0 {
			next = append(next, c)
		}
	}
	for _, rack := range racks {
		known := slices.ContainsFunc(next, func(c *pb.CutOffRack) bool { return c.GetRack() == rack })
		if _, concerned := r.rolled.of[rack]; concerned && !known {
			next = append(next, &pb.CutOffRack{Rack: rack, SinceUnixMs: at})
		}
	}
	slices.SortFunc(next, func(a, b *pb.CutOffRack) int { return strings.Compare(a.GetRack(), b.GetRack()) })
	r.edit(func(ro *pb.Rollout) { ro.CutOff = next })
}

func lostAfter(ro *pb.Rollout) int64 {
	if ms := ro.GetLostAfterMs(); ms > 0 {
		return ms
	}
	return scl.DefaultLostAfter.Milliseconds()
}

// due is when the run goes on by itself, 0 if something must happen first.
func (r *run) due() int64 {
	ro := r.msg.GetRollout()
	next := ro.GetNextUnixMs()
	if r.rolled == nil || ro.GetState() != Rolling {
		return next
	}
	for _, c := range ro.GetCutOff() {
		if at := c.GetSinceUnixMs() + lostAfter(ro); c.GetSinceUnixMs() != 0 && r.awaits(c.GetRack()) && (next == 0 || at < next) {
			next = at
		}
	}
	return next
}

// giveUp counts the nodes of racks that were waited for long enough as failed. Their
// other nodes come last.
func (r *run) giveUp(at int64) {
	ro := r.msg.GetRollout()
	for i, c := range ro.GetCutOff() {
		if c.GetSinceUnixMs() == 0 || at < c.GetSinceUnixMs()+lostAfter(ro) || !r.awaits(c.GetRack()) {
			continue
		}
		gone := proto.CloneOf(c)
		for _, at := range r.rolled.of[c.GetRack()] {
			n := r.rolled.all[at]
			if at < int(ro.GetReleased()) && !n.GetEnded() {
				gone.Lost = append(gone.Lost, n.GetNode())
				r.settle(at, false)
				r.rolled.all[at].Lost = true
			}
		}
		r.edit(func(ro *pb.Rollout) {
			ro.CutOff = slices.Clone(ro.GetCutOff())
			ro.CutOff[i] = gone
		})
		r.rolled.last(c.GetRack(), int(ro.GetReleased()))
	}
}

// last puts the nodes of a rack that are not released yet behind all others.
func (r *rolled) last(rack string, released int) {
	kept, rest := r.all[:released], slices.Clone(r.all[released:])
	slices.SortStableFunc(rest, func(a, b *pb.RolledNode) int {
		behind := func(n *pb.RolledNode) int {
			if n.GetRack() == rack {
				return 1
			}
			return 0
		}
		return behind(a) - behind(b)
	})
	*r = rolled{at: map[string]int{}, of: map[string][]int{}, told: r.told}
	for _, n := range append(slices.Clone(kept), rest...) {
		r.add(n)
	}
}

// found takes that a node which counted as failed has done its part well.
func (r *run) found(i int) {
	n := r.rolled.all[i]
	r.rolled.all[i] = &pb.RolledNode{Node: n.GetNode(), Rack: n.GetRack(), Ended: true, Ok: true}
	r.edit(func(ro *pb.Rollout) {
		ro.Failed--
		ro.Waived = min(ro.GetWaived(), ro.GetFailed())
		ro.CutOff = slices.Clone(ro.GetCutOff())
		for k, c := range ro.CutOff {
			if c.GetRack() == n.GetRack() {
				ro.CutOff[k] = proto.CloneOf(c)
				ro.CutOff[k].Lost = slices.DeleteFunc(ro.CutOff[k].Lost, func(lost string) bool { return lost == n.GetNode() })
			}
		}
	})
}

// lostIn is what a reason says of racks that were not waited for.
func lostIn(ro *pb.Rollout) string {
	var racks []string
	nodes := 0
	for _, c := range ro.GetCutOff() {
		if len(c.GetLost()) > 0 {
			racks = append(racks, c.GetRack())
			nodes += len(c.GetLost())
		}
	}
	if nodes == 0 {
		return ""
	}
	return fmt.Sprintf("; %d of them on racks that were cut off: %s", nodes, strings.Join(racks, ", "))
}
