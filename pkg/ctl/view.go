package ctl

import (
	"math"
	"time"

	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// The views are what -o json and -o yaml print: a contract with programs, so
// they are apart from the types they are made of. Times are RFC 3339 in UTC,
// what is empty is left out, but for a reading's value, which is null if it is
// unknown.

type nodeView struct {
	Name     fleet.NodeName    `json:"name"`
	Rack     fleet.RackName    `json:"rack"`
	Site     fleet.SiteName    `json:"site,omitempty"`
	State    fleet.NodeState   `json:"state"`
	Reason   string            `json:"reason,omitempty"`
	Power    string            `json:"power,omitempty"`
	Health   string            `json:"health,omitempty"`
	Vendor   string            `json:"vendor,omitempty"`
	Model    string            `json:"model,omitempty"`
	Serial   string            `json:"serial,omitempty"`
	Firmware string            `json:"firmware,omitempty"`
	BIOS     string            `json:"bios,omitempty"`
	BMC      string            `json:"bmc,omitempty"`
	Address  string            `json:"address,omitempty"`
	Found    string            `json:"found,omitempty"`
	Seen     time.Time         `json:"seen,omitzero"`
	Labels   map[string]string `json:"labels,omitempty"`

	Trust      string    `json:"trust_level,omitempty"`
	TrustWhy   string    `json:"trust_reason,omitempty"` // what keeps it from the next level
	TrustSince time.Time `json:"trust_since,omitzero"`
}

func viewNode(n fleet.Node) nodeView {
	return nodeView{
		Name: n.Name, Rack: n.Rack, Site: n.Site, State: n.State, Reason: n.Reason, Power: n.Power, Health: n.Health,
		Vendor: n.Vendor, Model: n.Model, Serial: n.Serial, Firmware: n.Firmware, BIOS: n.BIOS, BMC: n.BMC, Address: n.Address, Found: n.Found,
		Seen: n.Seen, Labels: n.Labels, Trust: n.Trust.Level, TrustWhy: n.Trust.Why, TrustSince: n.Trust.Since,
	}
}

type agentView struct {
	Name      fleet.AgentName `json:"name"`
	Rack      fleet.RackName  `json:"rack"`
	Site      fleet.SiteName  `json:"site,omitempty"`
	Connected bool            `json:"connected"`
	Since     time.Time       `json:"since,omitzero"`
	Remote    string          `json:"remote,omitempty"`
	Revision  uint64          `json:"revision"`
	Build     string          `json:"build,omitempty"`
	// Coordinator is the one that it is, or was last, connected to.
	Coordinator string    `json:"coordinator,omitempty"`
	Key         string    `json:"key,omitempty"`
	CertEnds    time.Time `json:"certEnds,omitzero"`
	Locked      string    `json:"locked,omitempty"`
	Role        string    `json:"role,omitempty"`
	Epoch       string    `json:"epoch,omitempty"`
	Trouble     string    `json:"trouble,omitempty"`
}

type coordinatorView struct {
	Name      string `json:"name"`
	Address   string `json:"address,omitempty"`
	Role      string `json:"role,omitempty"`
	Voter     bool   `json:"voter"`
	BehindMS  int64  `json:"behind_ms"`
	Applied   uint64 `json:"applied"`
	Answering bool   `json:"answering"`
	Agents    int    `json:"agents"`
	Problem   string `json:"problem,omitempty"`
	Next      string `json:"next,omitempty"`
}

func viewCoordinator(c client.Coordinator) coordinatorView {
	return coordinatorView{
		Name: c.Name, Address: c.Address, Role: c.Role, Voter: c.Voter, BehindMS: c.Behind.Milliseconds(),
		Applied: c.Applied, Answering: c.Answering, Agents: c.Agents, Problem: c.Problem, Next: c.Next,
	}
}

func viewAgent(a client.Agent) agentView {
	return agentView{
		Name: a.Name, Rack: a.Rack, Site: a.Site, Connected: a.Connected, Since: a.Since,
		Remote: a.Remote, Revision: a.Revision, Build: a.Build, Coordinator: a.Coordinator,
		Key: a.KeyKind, CertEnds: a.CertEnds, Locked: a.Locked, Trouble: a.Trouble, Role: a.Role, Epoch: a.Epoch,
	}
}

type scriptView struct {
	Name     fleet.ScriptName `json:"name"`
	File     string           `json:"file,omitempty"`
	Revision uint64           `json:"revision"`
	Digest   string           `json:"digest,omitempty"`
	Applied  time.Time        `json:"applied,omitzero"`
	By       string           `json:"by,omitempty"`
	Source   string           `json:"source,omitempty"`
	// Rack is where alone it holds, decided there; Ended: that it does not stand there.
	Rack    fleet.RackName `json:"rack,omitempty"`
	Ended   bool           `json:"ended,omitempty"`
	Remarks []string       `json:"remarks,omitempty"`
}

func viewScript(s client.Script) scriptView {
	return scriptView{
		Name: s.Name, File: s.File, Revision: s.Revision, Digest: s.Digest,
		Applied: s.Applied, By: s.By, Source: string(s.Source),
		Rack: s.Rack, Ended: s.Ended, Remarks: s.Remarks,
	}
}

type runView struct {
	ID       fleet.RunID      `json:"id"`
	Script   fleet.ScriptName `json:"script,omitempty"`
	State    client.RunState  `json:"state"`
	Started  time.Time        `json:"started,omitzero"`
	Deadline time.Time        `json:"deadline,omitzero"`
	Ended    time.Time        `json:"ended,omitzero"`
	By       string           `json:"by,omitempty"`
	Origin   fleet.RackName   `json:"origin,omitempty"` // the rack on which it was begun by hand
	Racks    []rackRunView    `json:"racks"`
	Rollout  *rolloutView     `json:"rollout,omitempty"`
	Results  []resultView     `json:"results,omitempty"`
}

type rackRunView struct {
	Rack   fleet.RackName `json:"rack"`
	State  string         `json:"state"`
	Nodes  int            `json:"nodes"`
	OK     int            `json:"ok"`
	Failed int            `json:"failed"`
	Error  string         `json:"error,omitempty"`
}

type rolloutView struct {
	Name     string    `json:"name"`
	State    string    `json:"state"`
	Reason   string    `json:"reason,omitempty"`
	Waves    int       `json:"waves"`
	Nodes    int       `json:"nodes"`
	Released int       `json:"released"`
	Ended    int       `json:"ended"`
	Failed   int       `json:"failed"`
	Next     time.Time `json:"next,omitzero"`
	Approve  string    `json:"approve,omitempty"`
	Approver string    `json:"approver,omitempty"`
}

func viewRun(r client.Run) runView {
	return runView{
		Rollout: (*rolloutView)(r.Rollout),
		ID:      r.ID, Script: r.Script, State: r.State, Started: r.Started, Deadline: r.Deadline, Ended: r.Ended, By: r.By, Origin: r.Rack,
		Racks: mapped(r.Racks, func(k client.RackRun) rackRunView { return rackRunView(k) }),
	}
}

type resultView struct {
	Node     fleet.NodeName `json:"node"`
	Step     string         `json:"step,omitempty"`
	Path     string         `json:"path,omitempty"`
	Before   string         `json:"before,omitempty"`
	After    string         `json:"after,omitempty"`
	Status   fleet.Status   `json:"status"`
	Kind     string         `json:"kind,omitempty"`
	Error    string         `json:"error,omitempty"`
	Hint     string         `json:"hint,omitempty"`
	Started  time.Time      `json:"started,omitzero"`
	TookMS   int64          `json:"took_ms,omitempty"`
	By       string         `json:"by,omitempty"`
	Attempts int            `json:"attempts,omitempty"`
	Readings []readingView  `json:"readings,omitempty"`
	Body     string         `json:"body,omitempty"`
}

func viewResult(r fleet.Result) resultView {
	return resultView{
		Node: r.Node, Step: r.Step, Path: r.Path, Before: r.Before, After: r.After, Status: r.Status, Kind: r.Kind,
		Error: r.Error, Hint: r.Hint, Started: r.Started, TookMS: r.Took.Milliseconds(), By: r.By, Attempts: r.Attempts,
		Readings: mapped(r.Readings, viewReading), Body: string(r.Body),
	}
}

type readingView struct {
	Node      fleet.NodeName `json:"node"`
	Ref       string         `json:"ref"`
	Value     any            `json:"value"` // number, text, boolean or null
	Unit      string         `json:"unit,omitempty"`
	Reason    string         `json:"reason,omitempty"` // why the value is null
	Source    string         `json:"source,omitempty"`
	At        time.Time      `json:"at,omitzero"`
	Instances []instanceView `json:"instances,omitempty"`
}

type instanceView struct {
	Name   string `json:"name"`
	Value  any    `json:"value"`
	Unit   string `json:"unit,omitempty"`
	Reason string `json:"reason,omitempty"`
}

func viewReading(r fleet.Reading) readingView {
	v := readingView{Node: r.Node, Ref: r.Ref, Unit: r.Value.Unit().String(), Source: r.Source, At: r.At}
	v.Value, v.Reason = plain(r.Value)
	for _, in := range r.Instances {
		value, why := plain(in.Value)
		v.Instances = append(v.Instances, instanceView{Name: in.Name, Value: value, Unit: in.Value.Unit().String(), Reason: why})
	}
	return v
}

// plain is v as JSON has it; JSON has no number that is none.
func plain(v fleet.Value) (value any, why string) {
	if n, ok := v.Number(); ok {
		if math.IsNaN(n) || math.IsInf(n, 0) {
			return nil, "not a number"
		}
		return n, ""
	}
	if t, ok := v.Text(); ok {
		return t, ""
	}
	if b, ok := v.Bool(); ok {
		return b, ""
	}
	return nil, v.Why()
}

type firingView struct {
	At        time.Time        `json:"at,omitzero"`
	Script    fleet.ScriptName `json:"script"`
	Rule      string           `json:"rule"`
	Node      fleet.NodeName   `json:"node"`
	Condition string           `json:"condition"`
	CutOff    bool             `json:"cut_off,omitempty"`
	Held      string           `json:"held,omitempty"`
	Readings  []readingView    `json:"readings,omitempty"`
	Results   []resultView     `json:"results,omitempty"`
	Asked     *askedView       `json:"asked,omitempty"`
}

// askedView is who had the node's agent act, and why.
type askedView struct {
	Rack  fleet.RackName  `json:"rack"`
	Agent fleet.AgentName `json:"agent"`
	Node  fleet.NodeName  `json:"node"`
	At    time.Time       `json:"at,omitzero"`
}

func viewAsked(a fleet.Asked) *askedView {
	if a.Rack == "" {
		return nil
	}
	v := askedView(a)
	return &v
}

func viewFiring(f fleet.Firing) firingView {
	return firingView{
		Asked: viewAsked(f.Asked),
		At:    f.At, Script: f.Script, Rule: f.Rule, Node: f.Node, Condition: f.Condition, CutOff: f.CutOff, Held: f.Held,
		Readings: mapped(f.Readings, viewReading), Results: mapped(f.Results, viewResult),
	}
}

type changeView struct {
	Node    fleet.NodeName `json:"node"`
	Path    string         `json:"path"`
	Before  string         `json:"before"`
	After   string         `json:"after"`
	Verdict fleet.Verdict  `json:"verdict"`
	Note    string         `json:"note,omitempty"`
}

// errorView is a failure of a whole rack.
type errorView struct {
	Rack  fleet.RackName `json:"rack"`
	Kind  fault.Kind     `json:"kind"`
	Error string         `json:"error"`
	Hint  string         `json:"hint,omitempty"`
}

func viewError(rack fleet.RackName, err error) errorView {
	return errorView{Rack: rack, Kind: fault.KindOf(err), Error: err.Error(), Hint: fault.HintOf(err)}
}

// mapped is never nil, so that JSON has [] and not null where nothing is left
// out.
func mapped[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = f(a)
	}
	return out
}
