package state

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// record takes in what an agent's spool says, each record exactly once by its
// (agent, epoch, seq).
func (m *Machine) record(at int64, b *pb.RecordResults) Outcome {
	const op = "record results"
	agent := m.agents[b.GetAgent()]
	if agent == nil {
		return refused(fault.NotFound, op, fmt.Sprintf("there is no agent %q", b.GetAgent()))
	}
	if agent.GetRack() != b.GetRack() {
		return refused(fault.Denied, op, fmt.Sprintf("agent %s serves rack %s, not %s", b.GetAgent(), agent.GetRack(), b.GetRack()))
	}
	if b.GetBoot() != agent.GetBoot() {
		return Outcome{Err: fault.New(fault.Conflict, op, "another process of agent "+b.GetAgent()+" has said hello since"), NextWanted: agent.GetNextSeq()}
	}
	next, err := resume(agent, b)
	if err != nil {
		return Outcome{Err: err, NextWanted: agent.GetNextSeq()}
	}
	t := take{m: m, at: at, agent: agent}
	t.out.firstTaken = next
	for _, r := range b.GetRecords() {
		if r.GetSeq() < next {
			continue
		}
		t.take(r)
		next++
	}
	m.retain()
	moved := shallow(agent)
	moved.SpoolEpoch, moved.NextSeq = b.GetSpoolEpoch(), next
	m.agents[b.GetAgent()] = moved
	t.out.NextWanted = next
	return t.out
}

// resume is the seq that is wanted next of the batch's epoch.
func resume(agent *pb.AgentInfo, b *pb.RecordResults) (uint64, error) {
	const op = "record results"
	records := b.GetRecords()
	if len(records) == 0 {
		return 0, fault.New(fault.BadInput, op, "the batch is empty")
	}
	first := records[0].GetSeq()
	for i, r := range records {
		if r.GetSeq() != first+uint64(i) {
			return 0, fault.New(fault.BadInput, op, fmt.Sprintf("record %d follows record %d", r.GetSeq(), first+uint64(i)-1))
		}
	}
	switch epoch := agent.GetSpoolEpoch(); {
	case b.GetSpoolEpoch() < epoch:
		return 0, fault.New(fault.Conflict, op, fmt.Sprintf("spool epoch %d is over, the agent is in %d", b.GetSpoolEpoch(), epoch))
	case b.GetSpoolEpoch() > epoch:
		return first, nil
	}
	if first > agent.GetNextSeq() {
		return 0, fault.New(fault.Conflict, op, fmt.Sprintf("record %d came before record %d", first, agent.GetNextSeq()))
	}
	return agent.GetNextSeq(), nil
}

// take is the taking in of one batch.
type take struct {
	m     *Machine
	at    int64
	told  int64 // when the agent has told the record that is taken in, by its clock
	agent *pb.AgentInfo
	out   Outcome
}

func (t *take) take(r *pb.Record) {
	t.told = r.GetAtUnixMs()
	var why string
	switch b := r.GetBody().(type) {
	case *pb.Record_Result:
		why = t.result(b.Result)
	case *pb.Record_Accepted:
		why = t.accepted(b.Accepted)
	case *pb.Record_Done:
		why = t.done(b.Done)
	case *pb.Record_Rollout:
		why = t.chosen(b.Rollout)
	case *pb.Record_NodeEnded:
		why = t.nodeEnded(b.NodeEnded)
	case *pb.Record_Firing:
		t.firing(b.Firing)
	case *pb.Record_Hardware:
		why = t.hardware(b.Hardware)
	case *pb.Record_Node:
		why = t.node(b.Node)
	case *pb.Record_Gone:
		why = t.gone(b.Gone)
	case *pb.Record_Local:
		why = t.local(r, b.Local)
	case *pb.Record_Refused, *pb.Record_Trust: // they are in the audit log
	}
	if why != "" {
		t.out.Dropped = append(t.out.Dropped, Dropped{Seq: r.GetSeq(), Reason: why})
	}
}

// part finds the run and the rack's part in it. An agent speaks for its own
// rack only.
func (t *take) part(id string) (r *run, i int, why string) {
	if r = t.m.findRun(id); r == nil {
		return nil, 0, fmt.Sprintf("run %q is not kept", id)
	}
	part, i := r.part(t.agent.GetRack())
	if part == nil {
		return nil, 0, fmt.Sprintf("run %s does not concern rack %s", id, t.agent.GetRack())
	}
	return r, i, ""
}

func (t *take) result(res *pb.Result) string {
	r, _, why := t.part(res.GetRun())
	if why != "" {
		return why
	}
	switch {
	case len(r.results) > MaxResults:
		return "its run has more results than are kept"
	case len(r.results) == MaxResults:
		res = noMoreResults(res.GetRun())
	case r.bytes > MaxRunBytes || t.m.runBytes > MaxResultBytes:
		res = slim(res)
	}
	size := proto.Size(res)
	r.results = append(r.results, res)
	r.bytes += size
	t.m.runBytes += size
	t.out.touch(r.msg.GetId())
	return ""
}

// slim is a result without what it read, its texts clipped.
func slim(r *pb.Result) *pb.Result {
	s := shallow(r)
	s.Readings, s.Body = nil, nil
	for _, text := range []*string{&s.Rule, &s.Step, &s.Path, &s.Before, &s.After, &s.Error, &s.Hint} {
		*text = clip(*text)
	}
	return s
}

// noMoreResults stands as the last result of a run that has too many.
func noMoreResults(id string) *pb.Result {
	return &pb.Result{
		Run: id, Status: string(fleet.Skipped), Kind: string(fault.TooLarge),
		Error: fmt.Sprintf("more than %d results: the others are not kept, the racks' counts are complete", MaxResults),
		Hint:  "choose fewer nodes per run",
	}
}

func (t *take) accepted(a *pb.RackRunAccepted) string {
	r, i, why := t.part(a.GetRun())
	if why != "" {
		return why
	}
	if r.msg.GetRacks()[i].GetState() != Waiting {
		return ""
	}
	t.change(r, i, func(p *pb.RackRun) { p.State, p.Nodes = Accepted, a.GetNodes() })
	return ""
}

func (t *take) done(d *pb.RackRunDone) string {
	r, i, why := t.part(d.GetRun())
	if why != "" {
		return why
	}
	if r.msg.GetRacks()[i].GetState() == Done {
		return "the rack was done already"
	}
	t.change(r, i, func(p *pb.RackRun) {
		p.State, p.Nodes, p.Ok, p.Failed, p.Error = Done, d.GetNodes(), d.GetOk(), d.GetFailed(), d.GetError()
	})
	t.gaveUp(r)
	return ""
}

// lost ends what the rack has accepted: its agent begins a new epoch, so its disk is
// new, or an old copy, and doing it again could do an action twice.
func (t *take) lost() {
	for _, r := range t.m.runs {
		if part, i := r.part(t.agent.GetRack()); part.GetState() == Accepted {
			t.change(r, i, func(p *pb.RackRun) {
				p.State, p.Error = Done, "its agent has lost its disk: what it had done is not known"
			})
			t.gaveUp(r)
		}
	}
}

// change replaces the part i of the run.
func (t *take) change(r *run, i int, edit func(*pb.RackRun)) {
	msg := shallow(r.msg)
	msg.Racks = slices.Clone(r.msg.GetRacks())
	msg.Racks[i] = shallow(msg.Racks[i])
	edit(msg.Racks[i])
	if msg.GetState() != Canceled {
		at := t.at
		if msg.GetRack() != "" && t.told > 0 { // it began by that clock too
			at = t.told
		}
		conclude(at, msg)
	}
	r.msg = msg
	t.out.ran(msg)
}

func (t *take) firing(f *pb.Firing) {
	size := proto.Size(f)
	if size > maxFiring {
		f = shallow(f)
		f.Readings, f.Results = nil, nil
		f.Condition, f.Held = clip(f.GetCondition()), clip(f.GetHeld())
		size = proto.Size(f)
	}
	m := t.m
	m.firings = append(m.firings, f)
	m.firingBytes += size
	for len(m.firings) > MaxFirings || m.firingBytes > MaxFiringBytes {
		m.firingBytes -= proto.Size(m.firings[0])
		m.firings = m.firings[1:]
	}
	t.out.Events = append(t.out.Events, &pb.Event{Body: &pb.Event_Firing{Firing: f}})
}

// hardware keeps the news of a node of the agent's rack.
func (t *take) hardware(h *pb.HardwareNews) string {
	if n := t.m.nodes[h.GetNode()]; n.GetRack() != t.agent.GetRack() {
		return fmt.Sprintf("rack %s has no node %q", t.agent.GetRack(), h.GetNode())
	}
	size := proto.Size(h)
	if size > maxNews {
		h = shallow(h)
		h.More, h.Changes = h.GetMore()+int32(len(h.GetChanges())), nil
		size = proto.Size(h)
	}
	m := t.m
	m.news = append(m.news, h)
	m.newsBytes += size
	for len(m.news) > MaxNews || m.newsBytes > MaxNewsBytes {
		m.newsBytes -= proto.Size(m.news[0])
		m.news = m.news[1:]
	}
	t.out.Events = append(t.out.Events, &pb.Event{Body: &pb.Event_Hardware{Hardware: h}})
	return ""
}

func clip(s string) string {
	const most = 1 << 10
	if len(s) <= most {
		return s
	}
	end := most
	for end > 0 && s[end]&0xC0 == 0x80 { // not inside a character
		end--
	}
	return s[:end] + "…"
}

// node keeps a node's summary. A name is one node's in the whole fleet: another
// rack may not take it over, unless the very same BMC has moved there.
func (t *take) node(n *pb.Node) string {
	if err := nameOK("node", n.GetName()); err != nil {
		return err.Error()
	}
	if proto.Size(n) > maxNode {
		return fmt.Sprintf("its summary has more than %d bytes", maxNode)
	}
	m, rack := t.m, t.agent.GetRack()
	if outside(n) {
		return t.candidate(n)
	}
	known := m.nodes[n.GetName()]
	moved := known != nil && known.GetRack() != rack
	switch {
	case moved && (n.GetBmc() == "" || known.GetBmc() != n.GetBmc()):
		return fmt.Sprintf("the name %s belongs to a node of rack %s", n.GetName(), known.GetRack())
	case (known == nil || moved) && m.perRack[rack] >= MaxNodesPerRack:
		return fmt.Sprintf("rack %s has %d nodes already", rack, MaxNodesPerRack)
	}
	if known != nil {
		m.forget(known)
	}
	kept := shallow(n)
	kept.Rack, kept.Site = rack, t.agent.GetSite()
	m.nodes[kept.GetName()] = kept
	m.perRack[rack]++
	if was := m.found[place(kept)]; was != nil {
		delete(m.found, place(kept))
		t.claimed(was, nil)
	}
	t.claimed(known, kept)
	t.out.Events = append(t.out.Events, &pb.Event{Body: &pb.Event_Node{Node: kept}})
	return ""
}

func (t *take) gone(g *pb.NodeGone) string {
	at := t.agent.GetRack() + "/" + g.GetNode()
	if was := t.m.found[at]; was != nil {
		delete(t.m.found, at)
		t.claimed(was, nil)
		return ""
	}
	known := t.m.nodes[g.GetNode()]
	if known == nil || known.GetRack() != t.agent.GetRack() {
		return fmt.Sprintf("rack %s has no node %q", t.agent.GetRack(), g.GetNode())
	}
	t.m.forget(known)
	t.claimed(known, nil)
	last := shallow(known)
	last.State, last.Reason = Gone, g.GetReason()
	t.out.Events = append(t.out.Events, &pb.Event{Body: &pb.Event_Node{Node: last}})
	return ""
}

// Gone is the state of a node in the last event about it; no list holds it.
const Gone = "gone"

func (m *Machine) forget(n *pb.Node) {
	delete(m.nodes, n.GetName())
	if m.perRack[n.GetRack()]--; m.perRack[n.GetRack()] == 0 {
		delete(m.perRack, n.GetRack())
	}
}
