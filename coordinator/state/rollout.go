package state

import (
	"fmt"
	"maps"
	"slices"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// The states of a run in waves.
const (
	Gathering   = "gathering" // which nodes it concerns, the racks alone know
	ForApproval = "waiting for approval"
	Rolling     = "running"
	Paused      = "paused"
)

// What a person does to a run in waves. Approve and Resume let it go on.
const (
	Pause   = "pause"
	Resume  = "resume"
	Approve = "approve"
)

// gatherMs is how long the first wave waits for racks that are cut off; their nodes
// come last.
const gatherMs = 10_000

// rolled are the nodes of a run in waves. What is released is the beginning of all.
type rolled struct {
	all  []*pb.RolledNode
	at   map[string]int   // a node's place in all
	of   map[string][]int // the places of a rack's nodes
	told map[string]bool  // racks that have said which nodes of theirs it concerns
}

func newRolled() *rolled {
	return &rolled{at: map[string]int{}, of: map[string][]int{}, told: map[string]bool{}}
}

func (r *rolled) add(n *pb.RolledNode) {
	r.at[n.GetNode()] = len(r.all)
	r.of[n.GetRack()] = append(r.of[n.GetRack()], len(r.all))
	r.all = append(r.all, n)
}

// spread puts the nodes that are not released yet into their order: one of each
// rack after the other, so that a wave is no single rack.
func (r *rolled) spread(released int) {
	byRack := map[string][]*pb.RolledNode{}
	for _, n := range r.all[released:] {
		byRack[n.GetRack()] = append(byRack[n.GetRack()], n)
	}
	racks := slices.Sorted(maps.Keys(byRack))
	kept := r.all[:released]
	left := len(r.all) - released
	r.all, r.at, r.of = nil, map[string]int{}, map[string][]int{}
	for _, n := range kept {
		r.add(n)
	}
	for i := 0; left > 0; i++ {
		for _, rack := range racks {
			if i < len(byRack[rack]) {
				r.add(byRack[rack][i])
				left--
			}
		}
	}
}

// released are the nodes of a rack whose wave has begun.
func (r *rolled) released(rack string, released int) (nodes []string) {
	for _, i := range r.of[rack] {
		if i < released {
			nodes = append(nodes, r.all[i].GetNode())
		}
	}
	return nodes
}

// roll begins a run in waves.
func (r *run) roll(at int64) {
	if r.msg.GetRollout() == nil {
		return
	}
	r.rolled = newRolled()
	r.edit(func(ro *pb.Rollout) { ro.State, ro.NextUnixMs = Gathering, at+gatherMs })
}

// edit replaces what is said of the waves.
func (r *run) edit(change func(*pb.Rollout)) {
	msg := shallow(r.msg)
	msg.Rollout = shallow(msg.GetRollout())
	change(msg.Rollout)
	r.msg = msg
}

// chosen takes which nodes of a rack a run in waves concerns.
func (t *take) chosen(c *pb.RolloutNodes) string {
	r, i, why := t.part(c.GetRun())
	switch {
	case why != "":
		return why
	case r.rolled == nil:
		return fmt.Sprintf("run %s is not done in waves", c.GetRun())
	case len(c.GetNodes()) > MaxNodesPerRack:
		return fmt.Sprintf("a rack has at most %d nodes", MaxNodesPerRack)
	}
	rack := r.msg.GetRacks()[i].GetRack()
	if r.rolled.told[rack] {
		return "the rack has told its nodes already"
	}
	r.rolled.told[rack] = true
	for _, node := range c.GetNodes() {
		if _, known := r.rolled.at[node]; !known && nameOK("node", node) == nil {
			r.rolled.add(&pb.RolledNode{Node: node, Rack: rack})
		}
	}
	r.rolled.spread(int(r.msg.GetRollout().GetReleased()))
	r.edit(func(ro *pb.Rollout) { ro.Nodes = int32(len(r.rolled.all)) })
	t.roll(r)
	return ""
}

// nodeEnded takes that a node has done its part.
func (t *take) nodeEnded(e *pb.NodeEnded) string {
	r, _, why := t.part(e.GetRun())
	switch {
	case why != "":
		return why
	case r.rolled == nil:
		return fmt.Sprintf("run %s is not done in waves", e.GetRun())
	}
	i, known := r.rolled.at[e.GetNode()]
	if !known || r.rolled.all[i].GetRack() != t.agent.GetRack() {
		return fmt.Sprintf("run %s does not concern node %s of rack %s", e.GetRun(), e.GetNode(), t.agent.GetRack())
	}
	r.settle(i, e.GetOk())
	t.roll(r)
	return ""
}

// settle notes that the part of node i is over.
func (r *run) settle(i int, ok bool) {
	n := r.rolled.all[i]
	if n.GetLost() && ok {
		r.found(i)
	}
	if n.GetEnded() {
		return
	}
	r.rolled.all[i] = &pb.RolledNode{Node: n.GetNode(), Rack: n.GetRack(), Ended: true, Ok: ok}
	if i >= int(r.msg.GetRollout().GetReleased()) {
		return // it is counted when its wave begins
	}
	r.edit(func(ro *pb.Rollout) {
		ro.Ended++
		if !ok {
			ro.Failed++
		}
	})
}

// abandon notes that a rack does no more of a run in waves.
func (r *run) abandon(rack string) {
	if r.rolled == nil {
		return
	}
	r.rolled.told[rack] = true
	for _, i := range r.rolled.of[rack] {
		r.settle(i, false)
	}
}

// gaveUp has a run in waves go on without the agent's rack.
func (t *take) gaveUp(r *run) {
	r.abandon(t.agent.GetRack())
	t.roll(r)
}

// roll has a run go on after news of it.
func (t *take) roll(r *run) { t.m.goOn(t.at, r, &t.out) }

// goOn begins the next wave of a run, if its time has come, or pauses it.
func (m *Machine) goOn(at int64, r *run, o *Outcome) {
	if r.rolled == nil || r.msg.GetEndedUnixMs() != 0 {
		return
	}
	before := r.msg.GetRollout()
	for r.step(at) { // a wave may have ended before it began
	}
	if r.msg.GetRollout() == before {
		return
	}
	if r.msg.GetRollout().GetReleased() != before.GetReleased() {
		m.revision++
		for _, n := range r.rolled.all[before.GetReleased():r.msg.GetRollout().GetReleased()] {
			o.Racks = append(o.Racks, n.GetRack())
		}
	}
	o.ran(r.msg)
}

// step goes one step on, and reports whether there may be another.
func (r *run) step(at int64) bool {
	ro := r.msg.GetRollout()
	due := ro.GetNextUnixMs() != 0 && at >= ro.GetNextUnixMs()
	switch ro.GetState() {
	case Gathering:
		return r.gathered(due)
	case Rolling:
		r.giveUp(at)
		ro = r.msg.GetRollout()
	default: // a person must act
		return false
	}
	allowed := int(ro.GetWaived()) + share(ro.GetMaxFailures()).AtMost(int(ro.GetNodes()))
	switch {
	case int(ro.GetFailed()) > allowed:
		r.edit(func(ro *pb.Rollout) {
			ro.State, ro.NextUnixMs = Paused, 0
			ro.Reason = fmt.Sprintf("%d failed of %d, and %d may", ro.GetFailed(), ro.GetReleased(), allowed) + lostIn(ro)
		})
		return false
	case ro.GetEnded() < ro.GetReleased() || ro.GetReleased() == ro.GetNodes():
		return false
	case ro.GetWaves() > 0 && ro.GetPauseMs() > 0 && ro.GetNextUnixMs() == 0:
		r.edit(func(ro *pb.Rollout) { ro.NextUnixMs = at + ro.GetPauseMs() })
		return false
	case ro.GetNextUnixMs() != 0 && !due:
		return false
	}
	r.release()
	return true
}

// gathered begins when every rack has told, or has had the time to.
func (r *run) gathered(due bool) bool {
	silent := slices.ContainsFunc(r.msg.GetRacks(), func(k *pb.RackRun) bool { return !r.rolled.told[k.GetRack()] })
	waited := due || r.msg.GetRollout().GetNextUnixMs() == 0
	if silent && (!waited || len(r.rolled.all) == 0) {
		if due { // the first rack that tells begins
			r.edit(func(ro *pb.Rollout) { ro.NextUnixMs = 0 })
		}
		return false
	}
	r.edit(func(ro *pb.Rollout) {
		ro.State, ro.NextUnixMs = Rolling, 0
		if ro.GetApprove() != "" {
			ro.State = ForApproval
		}
	})
	return true
}

// release begins the next wave.
func (r *run) release() {
	ro := r.msg.GetRollout()
	left := len(r.rolled.all) - int(ro.GetReleased())
	size := left
	switch wave := share(ro.GetWave()); {
	case ro.GetWaves() == 0 && ro.GetCanary() > 0:
		size = int(ro.GetCanary())
	case wave != scl.Share{}:
		size = wave.Of(len(r.rolled.all))
	}
	next := r.rolled.all[ro.GetReleased():][:min(size, left)]
	r.edit(func(ro *pb.Rollout) {
		ro.Waves++
		ro.NextUnixMs = 0
		ro.Released += int32(len(next))
		for _, n := range next {
			if n.GetEnded() { // its rack has given up
				ro.Ended++
				if !n.GetOk() {
					ro.Failed++
				}
			}
		}
	})
}

func share(s *pb.Share) scl.Share {
	return scl.Share{Count: int(s.GetCount()), Percent: s.GetPercent()}
}

// steerRun has a run in waves go on, or not.
func (m *Machine) steerRun(at int64, by string, c *pb.SteerRun) Outcome {
	const op = "steer run"
	r := m.findRun(c.GetId())
	switch {
	case r == nil:
		return Outcome{Err: fault.New(fault.NotFound, op, fmt.Sprintf("there is no run %q", c.GetId())).
			WithHint("see which there are: chiba get runs")}
	case r.rolled == nil:
		return Outcome{Err: fault.New(fault.BadInput, op, fmt.Sprintf("run %s is not done in waves", c.GetId())).
			WithHint("its script has no rollout")}
	case r.msg.GetEndedUnixMs() != 0:
		return refused(fault.Conflict, op, fmt.Sprintf("run %s is %s already", c.GetId(), r.msg.GetState()))
	}
	if c.GetAct() == CutOff {
		r.cutOff(at, c.GetRacks())
	} else if why := r.steer(c.GetAct(), by); why != "" {
		return refused(fault.Conflict, op, fmt.Sprintf("run %s %s", c.GetId(), why))
	}
	o := Outcome{Run: r.msg}
	m.goOn(at, r, &o)
	if o.Run = r.msg; len(o.Events) == 0 {
		o.ran(r.msg)
	}
	return o
}

// steer does what a person wants; why it does not make sense, else.
func (r *run) steer(act, by string) (why string) {
	ro := r.msg.GetRollout()
	switch {
	case act == "": // its time has come
	case act == Pause && ro.GetState() == Paused:
		return "is paused already"
	case act == Pause && ro.GetState() != Rolling:
		return "is " + ro.GetState()
	case act == Pause:
		r.edit(func(ro *pb.Rollout) { ro.State, ro.Reason, ro.NextUnixMs = Paused, "by "+by, 0 })
	case act == Resume && ro.GetState() != Paused:
		return "is not paused: it is " + ro.GetState()
	case act == Resume:
		r.edit(func(ro *pb.Rollout) {
			ro.State, ro.Reason, ro.Waived = Rolling, "", ro.GetFailed()
			ro.NextUnixMs = r.msg.GetStartedUnixMs() // a person has waited long enough
		})
	case act == Approve && ro.GetState() != ForApproval:
		return "is not waiting for approval: it is " + ro.GetState()
	case act == Approve:
		r.edit(func(ro *pb.Rollout) { ro.State, ro.ApprovedBy = Rolling, by })
	default:
		return fmt.Sprintf("can't be steered so: %q is not known", act)
	}
	return ""
}

// Due are the ids of the runs in waves that go on by themselves at now (milliseconds
// since 1970).
func (m *Machine) Due(now int64) (ids []string) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, r := range m.runs {
		next := r.due()
		if r.msg.GetEndedUnixMs() == 0 && next != 0 && next <= now {
			ids = append(ids, r.msg.GetId())
		}
	}
	return ids
}

// rolledNodes is what a snapshot holds of a run in waves.
func (r *run) rolledNodes() *pb.RolledNodes {
	return &pb.RolledNodes{Run: r.msg.GetId(), Nodes: slices.Clone(r.rolled.all), Told: slices.Sorted(maps.Keys(r.rolled.told))}
}

// restoreRolled takes it back.
func (m *Machine) restoreRolled(all []*pb.RolledNodes) error {
	for _, s := range all {
		r := m.findRun(s.GetRun())
		if r == nil {
			return fault.New(fault.Garbage, "restore snapshot", fmt.Sprintf("it has the nodes of run %q, but not the run", s.GetRun()))
		}
		r.rolled = newRolled()
		for _, n := range s.GetNodes() {
			r.rolled.add(n)
		}
		for _, rack := range s.GetTold() {
			r.rolled.told[rack] = true
		}
	}
	return nil
}
