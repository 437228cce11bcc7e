package client

import (
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Source is a script to send.
type Source struct {
	File       string // for the diagnostics
	Text       []byte // UTF-8 SCL, at most 4 MiB
	AllowEmpty bool   // a target may match no node
}

// Script is a script that stays in force.
type Script struct {
	Name     fleet.ScriptName
	File     string
	Source   []byte // only from Client.Script; secrets are sealed in it
	Digest   string // hex SHA-256 of Source
	Revision uint64 // of the fleet's desired state since this script
	Applied  time.Time
	By       string
	// Rack is set of a decision that a person took on that rack, where alone it holds:
	// to keep the script in force, or if Ended to end it.
	Rack    fleet.RackName
	Ended   bool
	Remarks []string // what came of decisions on racks, for a person
}

// RunState says how far a run is.
type RunState string

// The states of a run.
const (
	Running      RunState = "running"
	Done         RunState = "done"
	PartlyFailed RunState = "partly failed"
	Failed       RunState = "failed"
	Canceled     RunState = "canceled"
)

// Ended reports whether the run is over.
func (s RunState) Ended() bool { return s != Running && s != "" }

// Run is one execution of a script.
type Run struct {
	ID       fleet.RunID
	Script   fleet.ScriptName
	File     string
	Source   []byte // not in lists
	Started  time.Time
	Deadline time.Time
	Ended    time.Time // zero while it runs
	By       string
	State    RunState
	Racks    []RackRun
	Rack     fleet.RackName // a person on that rack has begun it there; "": a coordinator has
	Rollout  *Rollout       // nil: all at once
}

// The states of a run in waves.
const (
	Gathering   = "gathering" // which nodes it concerns
	ForApproval = "waiting for approval"
	Rolling     = "running"
	Paused      = "paused"
)

// Rollout is how far a run in waves is.
type Rollout struct {
	Name     string
	State    string
	Reason   string    // why it is paused
	Waves    int       // that have begun
	Nodes    int       // known to be concerned
	Released int       // whose wave has begun
	Ended    int       // of them
	Failed   int       // of them
	Next     time.Time // when the next wave begins by itself; zero: not known
	Approve  string    // who is asked first
	Approver string    // who approved
	CutOff   []CutOffRack
}

// CutOffRack is a rack that a wave waits for because it is cut off, or that it did not
// wait for any longer.
type CutOffRack struct {
	Rack  fleet.RackName   `json:"rack"`
	Since time.Time        `json:"since,omitzero"` // zero: it is back
	Lost  []fleet.NodeName `json:"lost,omitempty"` // they count as failed because of it
}

// Lost are the nodes that count as failed because their racks were cut off.
func (r *Rollout) Lost() (nodes []fleet.NodeName) {
	if r == nil {
		return nil
	}
	for _, c := range r.CutOff {
		nodes = append(nodes, c.Lost...)
	}
	return nodes
}

// Waits reports whether a person has to act before it goes on.
func (r *Rollout) Waits() bool { return r != nil && (r.State == Paused || r.State == ForApproval) }

func toRollout(m *pb.Rollout) *Rollout {
	if m == nil {
		return nil
	}
	r := &Rollout{
		Name: m.GetName(), State: m.GetState(), Reason: m.GetReason(), Waves: int(m.GetWaves()), Nodes: int(m.GetNodes()),
		Released: int(m.GetReleased()), Ended: int(m.GetEnded()), Failed: int(m.GetFailed()), Approve: m.GetApprove(), Approver: m.GetApprovedBy(),
	}
	for _, c := range m.GetCutOff() {
		gone := CutOffRack{Rack: fleet.RackName(c.GetRack())}
		if ms := c.GetSinceUnixMs(); ms != 0 {
			gone.Since = time.UnixMilli(ms)
		}
		for _, n := range c.GetLost() {
			gone.Lost = append(gone.Lost, fleet.NodeName(n))
		}
		r.CutOff = append(r.CutOff, gone)
	}
	if m.GetState() == Rolling {
		r.Next = wire.FromTime(m.GetNextUnixMs())
	}
	return r
}

// RackRun is the part of a run that one rack does.
type RackRun struct {
	Rack   fleet.RackName
	State  string // "waiting", "accepted", "done", "canceled"
	Nodes  int    // how many the run concerns there
	OK     int    // without a failed step
	Failed int
	Error  string // why the rack as a whole did not do it
}

// Agent is what a coordinator knows of one agent.
type Agent struct {
	Name      fleet.AgentName
	Rack      fleet.RackName
	Site      fleet.SiteName
	Build     string
	Connected bool
	Since     time.Time // when it connected, or was last seen
	Remote    string    // host:port
	Revision  uint64    // of the desired state it has
	// Coordinator is the one that it is, or was last, connected to.
	Coordinator string
	KeyKind     string    // where its key lies: "software"
	CertEnds    time.Time // zero: not known
	Locked      string    // why it is let in no more
	Trouble     string    // why it takes no new work
	// Role is what it does with its rack: "active" or "standby"; Epoch, of the active
	// one, numbers its reign.
	Role, Epoch string
}

// Coordinator is one of those that decide together.
type Coordinator struct {
	Name      string
	Address   string // for the other coordinators; "" if there are none
	Role      string // "leader", "follower", "candidate"; "" if it did not answer
	Voter     bool
	Behind    time.Duration // since it last heard of the leader
	Applied   uint64        // index of the last command
	Answering bool          // it is the one that was asked
	Agents    int           // connected to it
	Problem   string        // "", or why it should be looked at
	Next      string        // what to do about it; "" if that is plain
}

func toCoordinator(m *pb.CoordinatorStatus) Coordinator {
	return Coordinator{
		Name: m.GetName(), Address: m.GetAddress(), Role: m.GetRole(), Voter: m.GetVoter(),
		Behind: time.Duration(m.GetBehindMs()) * time.Millisecond, Applied: m.GetApplied(),
		Answering: m.GetAnswering(), Agents: int(m.GetAgents()), Problem: m.GetProblem(), Next: m.GetNext(),
	}
}

// Status is how a coordinator is.
type Status struct {
	Coordinator string
	Build       string
	RaftState   string
	Commit      uint64
	Applied     uint64
	Revision    uint64
	Agents      int
	Connected   int
	Nodes       int
}

// Reply is one event of a Plan or a Show; one of its pointers is set.
type Reply struct {
	Rack    fleet.RackName
	Racks   *Racks // first: who is asked
	Started *Started
	Change  *fleet.Change
	Result  *fleet.Result
	Ended   *Ended
}

// Racks says who is asked and who can't be.
type Racks struct{ Asked, CutOff []fleet.RackName }

// Started says that a rack answers for so many nodes.
type Started struct{ Nodes int }

// Ended says that a rack has answered.
type Ended struct {
	Nodes  int
	Failed int
	Err    error // why the rack as a whole gave no answer
}

// RunEvent is news of a run; one of its pointers is set.
type RunEvent struct {
	Run      *Run // first, and whenever its state changes
	Result   *fleet.Result
	Progress *Progress
}

// Progress is how far one rack is with a run.
type Progress struct {
	Rack                fleet.RackName
	Nodes, Done, Failed int
	Doing               string // what takes long now, in words; "" for nothing
}

// Event is something that happened in the fleet; one of its parts is set.
type Event struct {
	At            time.Time
	Firing        *fleet.Firing
	Node          *fleet.Node
	Run           *Run
	Script        *Script // Source left out
	RemovedScript fleet.ScriptName
	Agent         *Agent
	Hardware      *fleet.HardwareNews
	Local         *LocalNews
}

// LocalNews is what a person on a rack had its agent do, and what became of it when
// the coordinators heard of it.
type LocalNews struct {
	Rack       fleet.RackName
	At         time.Time // by the agent's clock
	Kind       order.Kind
	Script     fleet.ScriptName
	Run        fleet.RunID // that it has begun, or stopped
	User       string      // on the rack's machine
	Signers    []string    // the authors
	CutOff     bool        // no coordinator was reached
	Superseded bool        // the fleet has decided otherwise since
	Outcome    string      // in words
}

func toLocalNews(m *pb.LocalNews) *LocalNews {
	o := m.GetOrder()
	return &LocalNews{
		Rack: fleet.RackName(m.GetRack()), At: wire.FromTime(m.GetAtUnixMs()), Kind: order.Kind(o.GetKind()), Script: fleet.ScriptName(o.GetName()),
		Run: fleet.RunID(o.GetRun()), User: o.GetUser(), Signers: o.GetSigners(), CutOff: o.GetCutOff(),
		Superseded: m.GetSuperseded(), Outcome: m.GetOutcome(),
	}
}

func toScript(m *pb.Script) *Script {
	return &Script{
		Name: fleet.ScriptName(m.GetName()), File: m.GetFile(), Source: m.GetSource(),
		Digest: m.GetDigest(), Revision: m.GetRevision(),
		Applied: wire.FromTime(m.GetAppliedUnixMs()), By: m.GetAppliedBy(),
		Rack: fleet.RackName(m.GetRack()), Ended: m.GetEnded(), Remarks: m.GetRemarks(),
	}
}

func toRun(m *pb.Run) *Run {
	return &Run{
		ID: fleet.RunID(m.GetId()), Script: fleet.ScriptName(m.GetScript()),
		File: m.GetFile(), Source: m.GetSource(),
		Started: wire.FromTime(m.GetStartedUnixMs()), Deadline: wire.FromTime(m.GetDeadlineUnixMs()),
		Ended: wire.FromTime(m.GetEndedUnixMs()), By: m.GetStartedBy(),
		State: RunState(m.GetState()), Racks: list(m.GetRacks(), toRackRun), Rack: fleet.RackName(m.GetRack()), Rollout: toRollout(m.GetRollout()),
	}
}

func toRackRun(m *pb.RackRun) RackRun {
	return RackRun{
		Rack: fleet.RackName(m.GetRack()), State: m.GetState(), Nodes: int(m.GetNodes()),
		OK: int(m.GetOk()), Failed: int(m.GetFailed()), Error: m.GetError(),
	}
}

func toAgent(m *pb.AgentStatus) *Agent {
	return &Agent{
		Name: fleet.AgentName(m.GetName()), Rack: fleet.RackName(m.GetRack()), Site: fleet.SiteName(m.GetSite()),
		Build: m.GetBuild(), Connected: m.GetConnected(), Since: wire.FromTime(m.GetSinceUnixMs()),
		Remote: m.GetRemote(), Revision: m.GetRevision(), Coordinator: m.GetCoordinator(),
		KeyKind: m.GetKeyKind(), CertEnds: wire.FromTime(m.GetCertEndsUnixMs()), Locked: m.GetLocked(), Trouble: m.GetTrouble(),
		Role: m.GetRole(), Epoch: m.GetEpoch(),
	}
}

// toReply is nil for a body of a later version.
func toReply(m *pb.QueryReply) *Reply {
	r := &Reply{Rack: fleet.RackName(m.GetRack())}
	switch b := m.GetBody().(type) {
	case *pb.QueryReply_Racks_:
		r.Racks = &Racks{Asked: list(b.Racks.GetAsked(), rackName), CutOff: list(b.Racks.GetCutOff(), rackName)}
	case *pb.QueryReply_Started_:
		r.Started = &Started{Nodes: int(b.Started.GetNodes())}
	case *pb.QueryReply_Change:
		c := wire.FromChange(b.Change)
		r.Change = &c
	case *pb.QueryReply_Result:
		res := wire.FromResult(b.Result)
		r.Result = &res
	case *pb.QueryReply_Ended_:
		e := b.Ended
		r.Ended = &Ended{
			Nodes: int(e.GetNodes()), Failed: int(e.GetFailed()),
			Err: wire.FromFault(e.GetKind(), e.GetError(), e.GetHint()),
		}
	default:
		return nil
	}
	return r
}

// toRunEvent is nil for a body of a later version.
func toRunEvent(m *pb.RunEvent) *RunEvent {
	switch b := m.GetBody().(type) {
	case *pb.RunEvent_Run:
		return &RunEvent{Run: toRun(b.Run)}
	case *pb.RunEvent_Result:
		r := wire.FromResult(b.Result)
		return &RunEvent{Result: &r}
	case *pb.RunEvent_Progress:
		p := b.Progress
		return &RunEvent{Progress: &Progress{
			Rack: fleet.RackName(p.GetRack()), Nodes: int(p.GetNodes()), Done: int(p.GetDone()), Failed: int(p.GetFailed()),
			Doing: p.GetDoing(),
		}}
	}
	return nil
}

// toEvent is nil for a body of a later version.
func toEvent(m *pb.Event) *Event {
	e := &Event{At: wire.FromTime(m.GetAtUnixMs())}
	switch b := m.GetBody().(type) {
	case *pb.Event_Firing:
		f := wire.FromFiring(b.Firing)
		e.Firing = &f
	case *pb.Event_Node:
		n := wire.FromNode(b.Node)
		e.Node = &n
	case *pb.Event_Run:
		e.Run = toRun(b.Run)
	case *pb.Event_Script:
		e.Script = toScript(b.Script)
	case *pb.Event_RemovedScript:
		e.RemovedScript = fleet.ScriptName(b.RemovedScript)
	case *pb.Event_Hardware:
		h := wire.FromHardwareNews(b.Hardware)
		e.Hardware = &h
	case *pb.Event_Local:
		e.Local = toLocalNews(b.Local)
	case *pb.Event_Agent:
		e.Agent = toAgent(b.Agent)
	default:
		return nil
	}
	return e
}

func rackName(s string) fleet.RackName { return fleet.RackName(s) }

func list[M, T any](in []M, to func(M) T) []T {
	out := make([]T, len(in))
	for i, m := range in {
		out[i] = to(m)
	}
	return out
}

func pointed[M, T any](to func(M) *T) func(M) T { return func(m M) T { return *to(m) } }
