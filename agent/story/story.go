// Package story makes of an agent's records what a person on the rack reads: the
// runs with their results, the firings, the news of hardware and who did what. It is
// pure. The records are those that the coordinators get, so both tell the same.
package story

import (
	"encoding/json"
	"slices"

	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/audit"
)

// The states of a run, and of the rack's part of it, as a coordinator tells them.
const (
	Running      = "running"
	Done         = "done"
	PartlyFailed = "partly failed"
	Failed       = "failed"
	Canceled     = "canceled"
	waiting      = "waiting"
	accepted     = "accepted"
)

// What is told; the oldest goes first. The records may be of days.
const (
	MaxRuns    = 200
	MaxFirings = 1000
	MaxNews    = 1000
	MaxAudit   = 8192
	maxResults = 100_000
)

// Story is what was told so far. It is not safe for concurrent use. Messages that it
// gives out are replaced, never changed.
type Story struct {
	agent, rack string
	only        string // the run whose results are kept

	runs    []*pb.Run // oldest first
	results []*pb.Result
	firings []*pb.Firing
	news    []*pb.HardwareNews
	audit   [][]byte
}

// New is the story of a rack. The results of the run only are kept; "" keeps none.
func New(agent, rack, only string) *Story { return &Story{agent: agent, rack: rack, only: only} }

// Begin tells of a run that the agent has on disk and may not have told of yet.
func (s *Story) Begin(r *pb.Run) {
	if i := s.find(r.GetId()); i >= 0 && s.runs[i].GetState() == Running {
		return
	}
	s.add(&pb.Run{
		Id: r.GetId(), Script: r.GetScript(), File: r.GetFile(), Source: r.GetSource(), Digest: r.GetDigest(),
		StartedUnixMs: r.GetStartedUnixMs(), DeadlineUnixMs: r.GetDeadlineUnixMs(), StartedBy: r.GetStartedBy(),
		AllowEmpty: r.GetAllowEmpty(), Version: r.GetVersion(), Rack: r.GetRack(), State: Running,
		Racks: []*pb.RackRun{{Rack: s.rack, State: waiting}},
	})
}

// Take tells the next record. It returns the run that has changed, nil if none has.
func (s *Story) Take(r *pb.Record) *pb.Run {
	if note, is := audit.Reported(r); is {
		s.note(note, r.GetAtUnixMs())
	}
	switch b := r.GetBody().(type) {
	case *pb.Record_Local:
		return s.ordered(b.Local, r.GetAtUnixMs())
	case *pb.Record_Accepted:
		return s.accepted(b.Accepted, r.GetAtUnixMs())
	case *pb.Record_Result:
		s.result(b.Result)
	case *pb.Record_Done:
		return s.done(b.Done, r.GetAtUnixMs())
	case *pb.Record_Firing:
		s.firings = last(append(s.firings, b.Firing), MaxFirings)
	case *pb.Record_Hardware:
		s.news = last(append(s.news, b.Hardware), MaxNews)
	}
	return nil
}

func (s *Story) note(r audit.Record, at int64) {
	r.At, r.By = at, "agent "+s.agent
	if leaf, err := json.Marshal(r); err == nil { // strings and numbers always are
		s.audit = last(append(s.audit, leaf), MaxAudit)
	}
}

// ordered is what a person on the rack has ordered.
func (s *Story) ordered(l *pb.LocalOrder, at int64) *pb.Run {
	switch order.Kind(l.GetKind()) {
	case order.Standing, order.Run:
		s.Begin(RunOf(l, s.rack, at))
		return s.runs[s.find(l.GetRun())]
	case order.Cancel:
		if i := s.find(l.GetRun()); i >= 0 && s.runs[i].GetState() == Running {
			return s.change(i, func(_ *pb.Run, rack *pb.RackRun) { rack.State = Canceled })
		}
	case order.Remove, order.Catalogue:
	}
	return nil
}

// RunOf is the run that an order has begun on a rack, at a time in ms.
func RunOf(l *pb.LocalOrder, rack string, at int64) *pb.Run {
	return &pb.Run{
		Id: l.GetRun(), Script: l.GetName(), File: l.GetFile(), Source: l.GetSource(), Digest: l.GetDigest(), Envelope: l.GetEnvelope(),
		StartedUnixMs: at, DeadlineUnixMs: l.GetDeadlineUnixMs(), StartedBy: l.GetUser() + "@" + rack, AllowEmpty: l.GetAllowEmpty(),
		Version: l.GetVersion(), Rack: rack, Racks: []*pb.RackRun{{Rack: rack, State: waiting}},
	}
}

func (s *Story) accepted(a *pb.RackRunAccepted, at int64) *pb.Run {
	i := s.find(a.GetRun())
	if i < 0 || s.runs[i].GetState() != Running { // numbers come again after a restore
		s.Begin(&pb.Run{Id: a.GetRun(), Script: a.GetScript(), StartedBy: a.GetBy(), StartedUnixMs: at})
		i = len(s.runs) - 1
	}
	return s.change(i, func(_ *pb.Run, rack *pb.RackRun) {
		rack.Nodes = a.GetNodes()
		if rack.GetState() == waiting {
			rack.State = accepted
		}
	})
}

// known is the place of a run, of whose beginning the records may say nothing any
// longer.
func (s *Story) known(id, script string, at int64) int {
	if i := s.find(id); i >= 0 {
		return i
	}
	s.Begin(&pb.Run{Id: id, Script: script, StartedUnixMs: at})
	return len(s.runs) - 1
}

func (s *Story) result(r *pb.Result) {
	s.known(r.GetRun(), r.GetScript(), r.GetStartedUnixMs())
	if r.GetRun() == s.only && len(s.results) < maxResults {
		s.results = append(s.results, r)
	}
}

func (s *Story) done(d *pb.RackRunDone, at int64) *pb.Run {
	return s.change(s.known(d.GetRun(), "", at), func(run *pb.Run, rack *pb.RackRun) {
		stopped := rack.GetState() == Canceled
		rack.State, rack.Nodes, rack.Ok, rack.Failed, rack.Error = Done, d.GetNodes(), d.GetOk(), d.GetFailed(), d.GetError()
		run.EndedUnixMs = at
		bad := d.GetFailed() > 0 || d.GetError() != ""
		switch {
		case stopped && bad:
			run.State = Canceled
		case !bad:
			run.State = Done
		case d.GetOk() > 0:
			run.State = PartlyFailed
		default:
			run.State = Failed
		}
	})
}

// change replaces a run by an edited copy.
func (s *Story) change(i int, edit func(*pb.Run, *pb.RackRun)) *pb.Run {
	old := s.runs[i]
	rack := old.GetRacks()[0]
	changed := &pb.Run{
		Id: old.GetId(), Script: old.GetScript(), File: old.GetFile(), Source: old.GetSource(), Digest: old.GetDigest(),
		StartedUnixMs: old.GetStartedUnixMs(), DeadlineUnixMs: old.GetDeadlineUnixMs(), StartedBy: old.GetStartedBy(),
		AllowEmpty: old.GetAllowEmpty(), Version: old.GetVersion(), Rack: old.GetRack(), State: old.GetState(), EndedUnixMs: old.GetEndedUnixMs(),
		Racks: []*pb.RackRun{{Rack: rack.GetRack(), State: rack.GetState(), Nodes: rack.GetNodes(), Ok: rack.GetOk(), Failed: rack.GetFailed(), Error: rack.GetError()}},
	}
	edit(changed, changed.Racks[0])
	s.runs[i] = changed
	return changed
}

func (s *Story) add(r *pb.Run) { s.runs = last(append(s.runs, r), MaxRuns) }

func (s *Story) find(id string) int {
	for i, r := range slices.Backward(s.runs) {
		if r.GetId() == id {
			return i
		}
	}
	return -1
}

// Runs are the runs, newest first, without their sources.
func (s *Story) Runs() []*pb.Run {
	out := make([]*pb.Run, 0, len(s.runs))
	for i := range slices.Backward(s.runs) {
		out = append(out, WithoutSource(s.runs[i]))
	}
	return out
}

// WithoutSource is a run as a list has it.
func WithoutSource(r *pb.Run) *pb.Run {
	return &pb.Run{
		Id: r.GetId(), Script: r.GetScript(), File: r.GetFile(), Digest: r.GetDigest(), StartedUnixMs: r.GetStartedUnixMs(),
		DeadlineUnixMs: r.GetDeadlineUnixMs(), StartedBy: r.GetStartedBy(), Version: r.GetVersion(), Rack: r.GetRack(),
		State: r.GetState(), EndedUnixMs: r.GetEndedUnixMs(), Racks: r.GetRacks(),
	}
}

// Run is the last run of that id, nil if there is none.
func (s *Story) Run(id string) *pb.Run {
	if i := s.find(id); i >= 0 {
		return s.runs[i]
	}
	return nil
}

// Results are those of the run that New was told, from number from on.
func (s *Story) Results(from int) []*pb.Result { return s.results[min(from, len(s.results)):] }

// Firings are the last firings of rules, oldest first.
func (s *Story) Firings() []*pb.Firing { return s.firings }

// News are the last news of hardware, oldest first.
func (s *Story) News() []*pb.HardwareNews { return s.news }

// Audit are the last records of who did what, oldest first, as the audit log has
// them (trust/audit).
func (s *Story) Audit() [][]byte { return s.audit }

// Event is what a watcher is told of a record, nil if nothing.
func Event(r *pb.Record, run *pb.Run, rack string) *pb.Event {
	e := &pb.Event{AtUnixMs: r.GetAtUnixMs()}
	switch b := r.GetBody().(type) {
	case *pb.Record_Firing:
		e.Body = &pb.Event_Firing{Firing: b.Firing}
	case *pb.Record_Hardware:
		e.Body = &pb.Event_Hardware{Hardware: b.Hardware}
	case *pb.Record_Node:
		e.Body = &pb.Event_Node{Node: b.Node}
	case *pb.Record_Local:
		e.Body = &pb.Event_Local{Local: &pb.LocalNews{Rack: rack, AtUnixMs: r.GetAtUnixMs(), Order: Bare(b.Local), Outcome: "done on this rack alone"}}
	default:
		if run == nil {
			return nil
		}
		e.Body = &pb.Event_Run{Run: WithoutSource(run)}
	}
	return e
}

// Bare is an order without what only agents read.
func Bare(l *pb.LocalOrder) *pb.LocalOrder {
	return &pb.LocalOrder{
		Kind: l.GetKind(), Name: l.GetName(), Version: l.GetVersion(), File: l.GetFile(), Digest: l.GetDigest(), Signers: l.GetSigners(),
		User: l.GetUser(), Uid: l.GetUid(), Run: l.GetRun(), DeadlineUnixMs: l.GetDeadlineUnixMs(), AllowEmpty: l.GetAllowEmpty(), CutOff: l.GetCutOff(),
	}
}

func last[T any](list []T, most int) []T { return list[max(0, len(list)-most):] }
