package state

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// The states of a run.
const (
	Running      = "running"
	Done         = "done"
	PartlyFailed = "partly failed"
	Failed       = "failed"
	Canceled     = "canceled"
)

// The states of a rack's part of a run; Done and Canceled besides.
const (
	Waiting  = "waiting"  // the rack may not know of it yet
	Accepted = "accepted" // the rack has it on disk
)

// applyScript keeps s, if there is one, and starts r, if there is one. A run of a
// script that has nothing standing replaces the script of its name all the same.
func (m *Machine) applyScript(at int64, s *pb.Script, r *pb.Run) Outcome {
	if s == nil && r == nil {
		return refused(fault.BadInput, "apply script", "there is neither a script nor a run")
	}
	if o, again := m.appliedBefore(orderOf(s, r), cmp.Or(s.GetDigest(), r.GetDigest())); again {
		return o
	}
	if err := m.scriptOK(s); err != nil {
		return Outcome{Err: err}
	}
	if err := m.runOK(r); err != nil {
		return Outcome{Err: err}
	}
	if err := m.newer("apply script", orderOf(s, r)); err != nil {
		return Outcome{Err: err}
	}
	m.revision++
	var o Outcome
	if s != nil {
		o.Script = m.keep(at, s)
		delete(m.over, s.GetName())
		m.decided(s.GetName(), s.GetVersion(), &o)
		o.Racks = m.racks()
		o.Events = append(o.Events, &pb.Event{Body: &pb.Event_Script{Script: withoutSource(o.Script)}})
	} else if _, stood := m.scripts[r.GetScript()]; stood || m.anyLocal(r.GetScript()) {
		m.decided(r.GetScript(), r.GetVersion(), &o)
		m.end(r.GetScript(), r.GetVersion(), r.GetEnvelope())
		o.Racks = m.racks()
		o.Events = append(o.Events, &pb.Event{Body: &pb.Event_RemovedScript{RemovedScript: r.GetScript()}})
	}
	if r != nil {
		o.Run = m.start(at, r)
		for _, rack := range o.Run.GetRacks() {
			o.Racks = append(o.Racks, rack.GetRack())
		}
		o.ran(o.Run)
	}
	return o
}

// appliedBefore is what came of an order, if it is the last one for its name and was
// carried out already.
func (m *Machine) appliedBefore(o *pb.Ended, digest string) (Outcome, bool) {
	if o.GetVersion() == 0 || o.GetVersion() != m.version(o.GetName()) {
		return Outcome{}, false
	}
	out := Outcome{Again: true}
	if s := m.scripts[o.GetName()]; sameOrder(s, o) && s.GetDigest() == digest {
		out.Script = s
	}
	for _, r := range m.runs {
		if r.msg.GetScript() == o.GetName() && sameOrder(r.msg, o) && r.msg.GetDigest() == digest {
			out.Run = r.msg
		}
	}
	return out, out.Script != nil || out.Run != nil
}

// sameOrder reports whether what came of an order is of that very one.
func sameOrder(a interface {
	GetVersion() uint64
	GetEnvelope() []byte
}, o *pb.Ended,
) bool {
	return a.GetVersion() == o.GetVersion() && len(o.GetEnvelope()) > 0 && bytes.Equal(a.GetEnvelope(), o.GetEnvelope())
}

// orderOf is the order of a script, or of its run, as an Ended holds it.
func orderOf(s *pb.Script, r *pb.Run) *pb.Ended {
	if s != nil {
		return &pb.Ended{Name: s.GetName(), Version: s.GetVersion(), Envelope: s.GetEnvelope()}
	}
	return &pb.Ended{Name: r.GetScript(), Version: r.GetVersion(), Envelope: r.GetEnvelope()}
}

// newer refuses an order that is not newer than the last one for its name: agents
// would not obey it.
func (m *Machine) newer(op string, o *pb.Ended) error {
	if len(o.GetEnvelope()) > maxEnvelope {
		return fault.New(fault.TooLarge, op, fmt.Sprintf("its envelope has more than %d KiB", maxEnvelope>>10))
	}
	if last := m.version(o.GetName()); o.GetVersion() != 0 && o.GetVersion() <= last {
		return fault.New(fault.Conflict, op, fmt.Sprintf("version %d of %s is not newer than the last, %d", o.GetVersion(), o.GetName(), last)).
			WithHint("another order came first; look at what stands, then apply again")
	}
	return nil
}

// version is that of the fleet's last order for a name, as far as it is kept; 0 if
// there was none.
func (m *Machine) version(name string) uint64 {
	last := max(m.scripts[name].GetVersion(), m.over[name].GetVersion())
	for _, r := range m.runs {
		if r.msg.GetScript() == name && r.msg.GetRack() == "" {
			last = max(last, r.msg.GetVersion())
		}
	}
	return last
}

// end ends the force of a script and keeps the order, so that racks that are cut
// off get it when they are back.
func (m *Machine) end(name string, version uint64, envelope []byte) {
	m.sourceBytes -= len(m.scripts[name].GetSource())
	delete(m.scripts, name)
	m.over[name] = &pb.Ended{Name: name, Version: version, Envelope: envelope}
	if len(m.over) <= MaxEndedScripts {
		return
	}
	oldest := slices.MinFunc(sorted(m.over), func(a, b *pb.Ended) int { return cmp.Compare(a.GetVersion(), b.GetVersion()) })
	delete(m.over, oldest.GetName())
}

// putPolicy keeps a policy of authors, if it is newer than the one there is.
func (m *Machine) putPolicy(p *pb.PutPolicy) Outcome {
	const op = "set the policy of authors"
	switch {
	case len(p.GetEnvelope()) == 0 || len(p.GetEnvelope()) > maxEnvelope:
		return refused(fault.BadInput, op, "it is missing or too large")
	case p.GetVersion() == m.policy.GetVersion() && bytes.Equal(p.GetEnvelope(), m.policy.GetEnvelope()):
		return Outcome{Again: true}
	case p.GetVersion() <= m.policy.GetVersion():
		return Outcome{Err: fault.New(fault.Conflict, op, fmt.Sprintf("version %d is not newer than version %d", p.GetVersion(), m.policy.GetVersion())).
			WithHint("give it a higher version and have it signed again")}
	}
	m.policy = p
	m.revision++
	return Outcome{Racks: m.racks()}
}

func (m *Machine) scriptOK(s *pb.Script) error {
	if s == nil {
		return nil
	}
	const op = "keep script"
	if err := nameOK("script", s.GetName()); err != nil {
		return fault.Wrap(fault.BadInput, op, err)
	}
	if _, known := m.scripts[s.GetName()]; !known && len(m.scripts) >= MaxScripts {
		return fault.New(fault.TooLarge, op, fmt.Sprintf("there are %d standing scripts already", MaxScripts)).
			WithHint("remove some: chiba delete script NAME")
	}
	if m.sourceBytes-len(m.scripts[s.GetName()].GetSource())+len(s.GetSource()) > MaxSourceBytes {
		return fault.New(fault.TooLarge, op, fmt.Sprintf("all standing scripts hold at most %d MiB", MaxSourceBytes>>20)).
			WithHint("remove some: chiba delete script NAME")
	}
	return sourceOK(op, s.GetSource(), s.GetDigest())
}

func sourceOK(op string, source []byte, digest string) error {
	if len(source) > MaxSource {
		return fault.New(fault.TooLarge, op, fmt.Sprintf("its source has more than %d MiB", MaxSource>>20)).
			WithHint("split it into several scripts")
	}
	if digest != order.Digest(source) {
		return fault.New(fault.BadInput, op, "its digest is not that of its source")
	}
	return nil
}

func (m *Machine) runOK(r *pb.Run) error {
	if r == nil {
		return nil
	}
	const op = "start run"
	open := len(m.runs) - m.ended()
	if open >= MaxOpenRuns {
		return fault.New(fault.Conflict, op, fmt.Sprintf("%d runs have not ended yet", open)).
			WithHint("wait, or cancel some: chiba cancel run ID")
	}
	if m.openBytes()+len(r.GetSource()) > MaxResultBytes {
		return fault.New(fault.TooLarge, op, fmt.Sprintf("the runs that have not ended hold more than %d MiB", MaxResultBytes>>20)).
			WithHint("wait, or cancel some: chiba cancel run ID")
	}
	seen := map[string]bool{}
	for _, rack := range r.GetRacks() {
		if err := nameOK("rack", rack.GetRack()); err != nil {
			return fault.Wrap(fault.BadInput, op, err)
		}
		if seen[rack.GetRack()] {
			return fault.New(fault.BadInput, op, fmt.Sprintf("rack %s is there twice", rack.GetRack()))
		}
		seen[rack.GetRack()] = true
	}
	return sourceOK(op, r.GetSource(), r.GetDigest())
}

func (m *Machine) keep(at int64, s *pb.Script) *pb.Script {
	kept := shallow(s)
	kept.Revision, kept.AppliedUnixMs = m.revision, at
	m.sourceBytes += len(kept.GetSource()) - len(m.scripts[kept.GetName()].GetSource())
	m.scripts[kept.GetName()] = kept
	return kept
}

func (m *Machine) start(at int64, r *pb.Run) *pb.Run {
	started := shallow(r)
	started.Id = fmt.Sprintf("R%d", m.nextRun)
	m.nextRun++
	started.StartedUnixMs, started.EndedUnixMs = at, 0
	started.State = Running
	started.Racks = nil
	for _, rack := range r.GetRacks() {
		started.Racks = append(started.Racks, &pb.RackRun{Rack: rack.GetRack(), State: Waiting, Nodes: rack.GetNodes()})
	}
	slices.SortFunc(started.Racks, func(a, b *pb.RackRun) int { return strings.Compare(a.GetRack(), b.GetRack()) })
	conclude(at, started)
	added := newRun(started)
	added.roll(at)
	m.runs = append(m.runs, added)
	m.runBytes += added.bytes
	m.retain()
	return added.msg
}

func (m *Machine) removeScript(r *pb.RemoveScript) Outcome {
	name := r.GetName()
	ended := &pb.Ended{Name: name, Version: r.GetVersion(), Envelope: r.GetEnvelope()}
	if over := m.over[name]; over.GetVersion() != 0 && sameOrder(over, ended) {
		return Outcome{Again: true}
	}
	if _, ok := m.scripts[name]; !ok && !m.anyLocal(name) {
		return Outcome{Err: noScript(name)}
	}
	if err := m.newer("remove script", ended); err != nil {
		return Outcome{Err: err}
	}
	m.end(name, r.GetVersion(), r.GetEnvelope())
	m.decided(name, r.GetVersion(), &Outcome{}) // every rack is told
	m.revision++
	return Outcome{
		Racks:  m.racks(),
		Events: []*pb.Event{{Body: &pb.Event_RemovedScript{RemovedScript: name}}},
	}
}

func noScript(name string) error {
	return fault.New(fault.NotFound, "remove script", fmt.Sprintf("no script named %q stands", name)).
		WithHint("see which do: chiba get scripts")
}

// cancelRun ends a run. Applied at or after the run's deadline it is not a
// cancel but the end of waiting: the racks that have not answered have failed.
func (m *Machine) cancelRun(at int64, c *pb.CancelRun) Outcome {
	const op = "cancel run"
	r := m.findRun(c.GetId())
	if r == nil {
		return Outcome{Err: fault.New(fault.NotFound, op, fmt.Sprintf("there is no run %q", c.GetId())).
			WithHint("see which there are: chiba get runs")}
	}
	if len(c.GetEnvelope()) > 0 && bytes.Equal(c.GetEnvelope(), r.msg.GetCancel()) {
		return Outcome{Again: true, Run: r.msg}
	}
	if r.msg.GetEndedUnixMs() != 0 {
		return refused(fault.Conflict, op, fmt.Sprintf("run %s is %s already", c.GetId(), r.msg.GetState()))
	}
	m.revision++
	overdue := r.msg.GetDeadlineUnixMs() != 0 && at >= r.msg.GetDeadlineUnixMs()
	r.msg = stopped(at, r.msg, overdue)
	r.msg.Cancel = c.GetEnvelope()
	m.retain()
	o := Outcome{Run: r.msg}
	for _, rack := range r.msg.GetRacks() {
		o.Racks = append(o.Racks, rack.GetRack())
	}
	o.ran(r.msg)
	return o
}

// stopped is r with every open rack canceled.
func stopped(at int64, r *pb.Run, overdue bool) *pb.Run {
	s := shallow(r)
	s.Racks = slices.Clone(r.GetRacks())
	for i, rack := range s.Racks {
		if rack.GetState() == Done {
			continue
		}
		s.Racks[i] = shallow(rack)
		s.Racks[i].State = Canceled
		if overdue {
			s.Racks[i].Error = "it had not answered by the deadline"
		}
	}
	if overdue {
		conclude(at, s)
	} else {
		s.State, s.EndedUnixMs = Canceled, at
	}
	return s
}

// conclude sets the state of a run from that of its racks, if all have ended.
// It may do so again when a rack that was given up reports after all.
func conclude(at int64, r *pb.Run) {
	var ok, bad bool
	for _, rack := range r.GetRacks() {
		if rack.GetState() == Waiting || rack.GetState() == Accepted {
			return
		}
		ok = ok || rack.GetOk() > 0
		bad = bad || rack.GetFailed() > 0 || rack.GetError() != ""
	}
	switch {
	case !bad:
		r.State = Done
	case ok:
		r.State = PartlyFailed
	default:
		r.State = Failed
	}
	if r.GetEndedUnixMs() == 0 {
		r.EndedUnixMs = at
	}
}

// retain lets go of the oldest ended runs, as many as the limits ask for.
func (m *Machine) retain() {
	ended := m.ended()
	if ended <= MaxEndedRuns && m.runBytes <= MaxResultBytes {
		return
	}
	m.runs = slices.DeleteFunc(m.runs, func(r *run) bool {
		if r.msg.GetEndedUnixMs() == 0 || (ended <= MaxEndedRuns && m.runBytes <= MaxResultBytes) {
			return false
		}
		ended--
		m.runBytes -= r.bytes
		return true
	})
}

// openBytes is what the sources and results of the runs hold that have not ended.
func (m *Machine) openBytes() int {
	n := 0
	for _, r := range m.runs {
		if r.msg.GetEndedUnixMs() == 0 {
			n += r.bytes
		}
	}
	return n
}

func (m *Machine) ended() int {
	n := 0
	for _, r := range m.runs {
		if r.msg.GetEndedUnixMs() != 0 {
			n++
		}
	}
	return n
}

func (m *Machine) findRun(id string) *run {
	for _, r := range slices.Backward(m.runs) {
		if r.msg.GetId() == id {
			return r
		}
	}
	return nil
}

// ran notes that the run has changed.
func (o *Outcome) ran(r *pb.Run) {
	o.touch(r.GetId())
	o.Events = append(o.Events, &pb.Event{Body: &pb.Event_Run{Run: runWithoutSource(r)}})
}

func (o *Outcome) touch(id string) {
	if !slices.Contains(o.Runs, id) {
		o.Runs = append(o.Runs, id)
	}
}

func withoutSource(s *pb.Script) *pb.Script {
	c := shallow(s)
	c.Source, c.Envelope = nil, nil
	return c
}

func runWithoutSource(r *pb.Run) *pb.Run {
	c := shallow(r)
	c.Source, c.Envelope, c.Cancel = nil, nil, nil
	return c
}
