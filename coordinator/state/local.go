package state

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// What people on racks may decide there. The limits keep an agent in bad hands from
// filling the memory of the coordinators.
const (
	MaxLocalPerRack = 256 // names
	maxLocalRuns    = 64  // of one rack, not ended
	maxRemarks      = 16  // of one script
	// maxAhead is how far the version of an order may be ahead of our clock. One that
	// is further would keep authors from ever deciding about its name again.
	maxAhead = 24 * time.Hour
)

// localKey is the place of a decision on a rack.
func localKey(name, rack string) string { return name + "\x00" + rack }

// local takes in what a person on the rack had done there. Whatever comes of the
// decision, the run is kept and the order is told. The decision holds on that rack
// alone, if no newer one about that name was taken here: of two, the one with the
// higher version counts, which is the author's clock.
func (t *take) local(r *pb.Record, l *pb.LocalOrder) string {
	news := &pb.LocalNews{Rack: t.agent.GetRack(), AtUnixMs: r.GetAtUnixMs(), Order: bare(l)}
	future := l.GetVersion() > uint64(t.at+maxAhead.Milliseconds())
	var why string
	switch order.Kind(l.GetKind()) {
	case order.Standing, order.Run, order.Remove, order.Cancel:
	default:
		return fmt.Sprintf("an order to %q is not known", l.GetKind())
	}
	if t.toldBefore(l) {
		t.becomes(r, "the other agent of the rack has told it before")
		return ""
	}
	switch order.Kind(l.GetKind()) {
	case order.Cancel:
		why = t.stop(l)
		news.Outcome = "done on that rack"
	case order.Standing, order.Run:
		if l.GetRun() != "" { // the standby tells of a script whose run it has not done
			why = t.begun(r.GetAtUnixMs(), l, future)
		}
		t.settle(l, news, future)
	default: // a removal
		t.settle(l, news, future)
	}
	t.becomes(r, news.GetOutcome())
	t.out.Events = append(t.out.Events, &pb.Event{Body: &pb.Event_Local{Local: news}})
	return why
}

func (t *take) becomes(r *pb.Record, what string) {
	if t.out.became == nil {
		t.out.became = map[uint64]string{}
	}
	t.out.became[r.GetSeq()] = what
}

// toldBefore reports whether nothing of an order is news: a rack has two agents, and
// the one that takes over tells again what the other one may not have told.
func (t *take) toldBefore(l *pb.LocalOrder) bool {
	m := t.m
	if l.GetRun() != "" {
		r := m.findRun(l.GetRun())
		return r != nil && l.GetKind() != string(order.Cancel) && bytes.Equal(r.msg.GetEnvelope(), l.GetEnvelope())
	}
	known := m.local[localKey(l.GetName(), t.agent.GetRack())]
	return known != nil && bytes.Equal(known.GetEnvelope(), l.GetEnvelope())
}

// begun keeps the run that an order has begun on the rack, under the name that it has
// there.
func (t *take) begun(at int64, l *pb.LocalOrder, future bool) string {
	m, rack := t.m, t.agent.GetRack()
	open := 0
	for _, r := range m.runs {
		if r.msg.GetRack() == rack && r.msg.GetEndedUnixMs() == 0 {
			open++
		}
	}
	switch {
	case !strings.HasPrefix(l.GetRun(), rack+"-L") || nameOK("run", l.GetRun()) != nil || nameOK("script", l.GetName()) != nil:
		return fmt.Sprintf("run %q is no name for a run of rack %s", l.GetRun(), rack)
	case m.findRun(l.GetRun()) != nil:
		return "its run is recorded already"
	case open >= maxLocalRuns:
		return fmt.Sprintf("%d runs that were begun on rack %s have not ended", open, rack)
	case sourceOK("keep run", l.GetSource(), l.GetDigest()) != nil || len(l.GetEnvelope()) > maxEnvelope:
		return "its script is not the one of its order, or too large"
	}
	run := &pb.Run{
		Id: l.GetRun(), Script: l.GetName(), File: clip(l.GetFile()), Source: l.GetSource(), Digest: l.GetDigest(), Envelope: l.GetEnvelope(),
		StartedUnixMs: at, DeadlineUnixMs: l.GetDeadlineUnixMs(), StartedBy: clip(l.GetUser()) + "@" + rack, AllowEmpty: l.GetAllowEmpty(),
		Version: l.GetVersion(), Rack: rack, State: Running, Racks: []*pb.RackRun{{Rack: rack, State: Waiting}},
	}
	if future {
		run.Version = 0
	}
	added := newRun(run)
	m.runs = append(m.runs, added)
	m.runBytes += added.bytes
	t.out.ran(run)
	return ""
}

// settle puts a decision of the rack beside those of the fleet, and says what became
// of it.
func (t *take) settle(l *pb.LocalOrder, news *pb.LocalNews, future bool) {
	m, rack, name := t.m, t.agent.GetRack(), l.GetName()
	key := localKey(name, rack)
	fleet, known := m.version(name), m.local[key]
	standing := l.GetKind() == string(order.Standing)
	switch {
	case known != nil && bytes.Equal(known.GetEnvelope(), l.GetEnvelope()):
		news.Outcome = "the other agent of the rack has told it before"
	case future:
		news.Outcome = "not taken over: its version is from the future, so a clock is wrong"
	case l.GetVersion() <= max(fleet, known.GetVersion()):
		news.Superseded = true
		news.Outcome = fmt.Sprintf("the fleet has decided about %s since, and that holds on the rack too", name)
		m.remark(name, fmt.Sprintf("%s of %s on rack %s (version %d) is over: %s", did(l), l.GetUser(), rack, l.GetVersion(), "this one is newer"))
	case !standing && known == nil && m.scripts[name] == nil:
		news.Outcome = "done on that rack; nothing of that name stands anywhere else"
	case known == nil && m.localCount(rack) >= MaxLocalPerRack:
		news.Outcome = fmt.Sprintf("not taken over: rack %s has %d scripts of its own already", rack, MaxLocalPerRack)
	default:
		t.keepLocal(key, l, news)
	}
}

// keepLocal keeps a decision that nobody has decided otherwise since.
func (t *take) keepLocal(key string, l *pb.LocalOrder, news *pb.LocalNews) {
	m, rack := t.m, t.agent.GetRack()
	m.revision++
	kept := &pb.Script{
		Name: l.GetName(), File: clip(l.GetFile()), Digest: l.GetDigest(), Revision: m.revision, AppliedUnixMs: news.GetAtUnixMs(),
		AppliedBy: clip(l.GetUser()) + "@" + rack, Envelope: l.GetEnvelope(), Version: l.GetVersion(), Audience: []string{rack}, Rack: rack,
	}
	if l.GetKind() == string(order.Standing) {
		kept.Source = l.GetSource()
		news.Outcome = fmt.Sprintf("it stands on that rack alone, until somebody decides about %s for the fleet", l.GetName())
	} else {
		kept.Ended = true
		news.Outcome = fmt.Sprintf("it does not stand on that rack, until somebody decides about %s for the fleet", l.GetName())
	}
	m.local[key] = kept
	if kept.GetEnded() && m.scripts[l.GetName()] == nil { // nothing is left to be ended
		delete(m.local, key)
		news.Outcome = "it stands nowhere any longer"
	}
	t.out.Racks = append(t.out.Racks, rack)
}

// stop notes that the rack's part of a run was stopped there.
func (t *take) stop(l *pb.LocalOrder) string {
	r, i, why := t.part(l.GetRun())
	if why != "" {
		return why
	}
	if part := r.msg.GetRacks()[i]; part.GetState() == Done || part.GetState() == Canceled {
		return ""
	}
	t.change(r, i, func(p *pb.RackRun) { p.State, p.Error = Canceled, "stopped on the rack by "+clip(l.GetUser()) })
	if r.msg.GetRack() != "" {
		msg := shallow(r.msg)
		msg.State = Canceled
		r.msg = msg
	}
	return ""
}

// decided ends what was decided on racks about a name before the fleet has.
func (m *Machine) decided(name string, version uint64, o *Outcome) {
	for key, l := range m.local {
		if l.GetName() == name && l.GetVersion() < version {
			delete(m.local, key)
			o.Racks = append(o.Racks, l.GetRack())
		}
	}
}

// anyLocal reports whether a script of that name stands on some rack alone.
func (m *Machine) anyLocal(name string) bool {
	for _, l := range m.local {
		if l.GetName() == name && !l.GetEnded() {
			return true
		}
	}
	return false
}

func (m *Machine) localCount(rack string) (n int) {
	for _, l := range m.local {
		if l.GetRack() == rack {
			n++
		}
	}
	return n
}

// lastVersion is that of the last order for a name, those on racks included.
func (m *Machine) lastVersion(name string) uint64 {
	last := m.version(name)
	for _, l := range m.local {
		if l.GetName() == name {
			last = max(last, l.GetVersion())
		}
	}
	for _, r := range m.runs {
		if r.msg.GetScript() == name {
			last = max(last, r.msg.GetVersion())
		}
	}
	return last
}

// remark notes on a script, if one of that name stands, what came of a decision on a
// rack.
func (m *Machine) remark(name, text string) {
	s := m.scripts[name]
	if s == nil || len(s.GetRemarks()) >= maxRemarks {
		return
	}
	noted := shallow(s)
	noted.Remarks = append(slices.Clip(s.GetRemarks()), clip(text))
	m.scripts[name] = noted
}

// did is what an order did, as a noun.
func did(l *pb.LocalOrder) string {
	switch order.Kind(l.GetKind()) {
	case order.Standing:
		return "the version"
	case order.Run, order.Remove:
		return "the end"
	case order.Cancel, order.Catalogue:
	}
	return "the order"
}

// bare is an order without its envelope and its script.
func bare(l *pb.LocalOrder) *pb.LocalOrder {
	b := shallow(l)
	b.Envelope, b.Source = nil, nil
	b.Name, b.File, b.User = clip(b.GetName()), clip(b.GetFile()), clip(b.GetUser())
	return b
}

// onRacks are the decisions on racks, by name and rack, without their sources.
func (m *Machine) onRacks() []*pb.Script {
	list := sorted(m.local)
	for i, s := range list {
		list[i] = withoutSource(s)
	}
	return list
}

// merged puts the decisions on a rack over what the fleet has for it.
func (m *Machine) merged(rack string, d *pb.Desired) {
	for _, l := range sorted(m.local) {
		if l.GetRack() != rack {
			continue
		}
		d.Ended = slices.DeleteFunc(d.GetEnded(), func(e *pb.Ended) bool { return e.GetName() == l.GetName() })
		d.Scripts = slices.DeleteFunc(d.GetScripts(), func(s *pb.Script) bool { return s.GetName() == l.GetName() })
		if l.GetEnded() {
			d.Ended = append(d.Ended, orderOf(l, nil))
		} else {
			d.Scripts = append(d.Scripts, l)
		}
	}
}
