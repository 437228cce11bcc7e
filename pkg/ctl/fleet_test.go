package ctl_test

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/client/clienttest"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
)

// noon is when everything happens in the canned fleet.
const noon = 1_792_065_600_000 // 2026-10-15T12:00:00Z

// canned is a coordinator with two racks of two nodes. What a script does is
// read from its text with regular expressions, and scripts of the tests move
// its state with the command `fleet`.
type canned struct {
	pbconnect.UnimplementedFleetHandler

	mu      sync.Mutex
	racks   []string
	cutOff  []string // racks
	failing []string // nodes whose BMC does not answer
	same    bool     // reality is as every script wants it
	endless bool     // runs don't end
	wrong   bool     // the coordinator finds every script wrong
	onRack  bool     // people on racks have decided too
	rolling string   // the state of the run's waves
	flaky   int      // so many streams break off after their first event
	sources []string // what was sent
	script  string   // of the run R7
	denied  []*pb.Denial
	book    *pb.Catalogue
	watched chan struct{} // somebody waits for the end of an endless run
}

func newCanned() *canned {
	return &canned{racks: []string{"r01", "r02"}, script: "rack", watched: make(chan struct{}, 1)}
}

// set does what `fleet ARG…` of a test says.
func (f *canned) set(args []string) error {
	if args[0] == "watched" {
		<-f.watched
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch args[0] {
	case "cutoff":
		f.cutOff = args[1:]
	case "failing":
		f.failing = args[1:]
	case "rollout":
		f.rolling = strings.Join(args[1:], " ")
	case "same":
		f.same = true
	case "endless":
		f.endless = true
	case "ending":
		f.endless = false
	case "wrong":
		f.wrong = true
	case "on-rack":
		f.onRack = true
	case "flaky":
		f.flaky = 1
	case "big":
		f.racks = nil
		for i := 1; i <= 30; i++ {
			f.racks = append(f.racks, fmt.Sprintf("r%02d", i))
		}
	case "untouched":
		if len(f.sources) > 0 {
			return fmt.Errorf("it was sent %q", f.sources)
		}
	default:
		return errors.New("unknown word " + args[0])
	}
	return nil
}

func (f *canned) nodes() []*pb.Node {
	var out []*pb.Node
	for _, rack := range f.racks {
		for i := 1; i <= 2; i++ {
			n := &pb.Node{
				Name: fmt.Sprintf("%s-u%02d", rack, i), Rack: rack, Site: "fra1", Address: fmt.Sprintf("127.0.0.1:%d", 8000+i),
				Found: "static", Vendor: "Chiba", Model: "Sim 2U", Serial: fmt.Sprintf("SN-%s-%d", rack, i),
				Power: "on", Health: "OK", State: string(fleet.Ready), SeenUnixMs: noon,
				Trust: &pb.BMCTrust{Level: "T3", SinceUnixMs: noon},
			}
			if slices.Contains(f.failing, n.GetName()) {
				n.State, n.Reason, n.Health = string(fleet.Unreachable), "no answer for 3 min", ""
				n.Trust.Level, n.Trust.Why = "T0", "its key was last seen 2d3h ago"
			}
			out = append(out, n)
		}
	}
	return out
}

// noted keeps what was sent, and refuses it if scripts are wrong now.
func (f *canned) noted(source []byte) *pb.Diagnostics {
	f.sources = append(f.sources, string(source))
	if !f.wrong {
		return nil
	}
	return &pb.Diagnostics{Errors: 1, Json: []byte("[]"), Text: "a.scl:1:9: error[SCL0301]: no group \"spares\"\nhelp: the groups are: gpu\n"}
}

var (
	quoted = regexp.MustCompile(`"([^"]*)"`)
	refs   = regexp.MustCompile(`\b(cpu|power|fan|system|memory|temp)\.[a-z.]+`)
)

// matched are the names of the nodes that a text names, by rack.
func (f *canned) matched(text string) (map[string][]string, error) {
	globs := []string{"*"}
	if !strings.Contains(text, " all") {
		globs = nil
		for _, m := range quoted.FindAllStringSubmatch(text, -1) {
			globs = append(globs, m[1])
		}
	}
	out := map[string][]string{}
	some := false
	for _, n := range append(f.nodes(), found()...) {
		for _, g := range globs {
			if ok, _ := path.Match(g, n.GetName()); ok && (n.GetState() != "stranger" || g == n.GetName()) {
				some = true
				out[n.GetRack()] = append(out[n.GetRack()], n.GetName())
			}
		}
	}
	if !some {
		return nil, clienttest.Error(connect.CodeNotFound, fault.New(fault.NotFound, "", fmt.Sprintf("no node matches %q", globs)).
			WithHint("see them all: chiba get nodes"))
	}
	return out, nil
}

// each asks the racks that a text concerns.
func (f *canned) each(text string, send func(*pb.QueryReply) error, node func(name string) []*pb.QueryReply) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.noted([]byte(text)); d != nil {
		return send(&pb.QueryReply{Body: &pb.QueryReply_Diagnostics{Diagnostics: d}})
	}
	racks, err := f.matched(text)
	if err != nil {
		return err
	}
	asked := &pb.QueryReply_Racks{}
	for _, rack := range f.racks {
		switch {
		case len(racks[rack]) == 0:
		case slices.Contains(f.cutOff, rack):
			asked.CutOff = append(asked.CutOff, rack)
		default:
			asked.Asked = append(asked.Asked, rack)
		}
	}
	if err := send(&pb.QueryReply{Body: &pb.QueryReply_Racks_{Racks: asked}}); err != nil {
		return err
	}
	for _, rack := range asked.GetAsked() {
		names := racks[rack]
		replies := []*pb.QueryReply{{Body: &pb.QueryReply_Started_{Started: &pb.QueryReply_Started{Nodes: int32(len(names))}}}}
		for _, n := range names {
			replies = append(replies, node(n)...)
		}
		replies = append(replies, &pb.QueryReply{Body: &pb.QueryReply_Ended_{Ended: &pb.QueryReply_Ended{Nodes: int32(len(names))}}})
		for _, r := range replies {
			r.Rack = rack
			if err := send(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *canned) Show(_ context.Context, q *connect.Request[pb.ShowRequest], s *connect.ServerStream[pb.QueryReply]) error {
	text := string(q.Msg.GetSource())
	return f.each(text, s.Send, func(name string) []*pb.QueryReply {
		r := fleet.Result{Node: fleet.NodeName(name), Step: text, Status: fleet.Confirmed}
		switch {
		case slices.Contains(f.failing, name):
			r.Status, r.Kind, r.Error = fleet.Failed, string(fault.Timeout), "read: no answer from 127.0.0.1:8001 within 10s"
			r.Hint = "look at the BMC's network: chiba get nodes " + name
		case strings.HasPrefix(text, "(dump json"):
			r.Body = fmt.Appendf(nil, "{\"Id\": %q}\n", name)
		case strings.HasPrefix(text, "(dump inventory"):
			r.Body = f.inventory(name)
		case strings.HasPrefix(text, "(dump trust"):
			r.Body = explanation(name)
		case strings.HasPrefix(text, "(dump xml"):
			r.Body = fmt.Appendf(nil, "<?xml version=\"1.0\"?>\n<system id=%q/>\n", name)
		case strings.HasPrefix(text, "(show"):
			wanted := refs.FindAllString(text, -1)
			if wanted == nil {
				wanted = []string{"system.model", "power.state", "system.health", "cpu.temp", "power.watts", "fan.speed"}
			}
			for _, ref := range wanted {
				r.Readings = append(r.Readings, fleet.Reading{
					Node: r.Node, Ref: ref, Value: canonical(name, ref), Source: "/redfish/v1/Chassis/1/Sensors/x#/Reading",
					At: wire.FromTime(noon), Instances: []fleet.Instance{
						{Name: "cpu0", Value: canonical(name, ref)}, {Name: "cpu1", Value: fleet.Number(41, fleet.Celsius)},
					},
				})
			}
		}
		return []*pb.QueryReply{{Body: &pb.QueryReply_Result{Result: wire.ToResult(r)}}}
	})
}

// canonical is what an element of a node reads as.
func canonical(node, ref string) fleet.Value {
	switch ref {
	case "cpu.temp":
		if node == "r02-u01" {
			return fleet.NoValue("this BMC has no such sensor")
		}
		return fleet.Number(54, fleet.Celsius)
	case "power.watts":
		return fleet.Number(312.5, fleet.Watt)
	case "fan.speed":
		return fleet.Number(40, fleet.Percent)
	case "power.state":
		return fleet.Text("on")
	case "system.health":
		return fleet.Text("OK")
	case "system.model":
		return fleet.Text("Sim 2U \x1b[31m") // a BMC that tries to paint the terminal
	}
	return fleet.NoValue("this BMC has no such sensor")
}

func (f *canned) Plan(_ context.Context, q *connect.Request[pb.PlanRequest], s *connect.ServerStream[pb.QueryReply]) error {
	text := string(q.Msg.GetSource())
	return f.each(text, s.Send, func(name string) []*pb.QueryReply {
		var out []*pb.QueryReply
		change := func(path, before, after string, v fleet.Verdict, note string) {
			out = append(out, &pb.QueryReply{Body: &pb.QueryReply_Change{Change: wire.ToChange(fleet.Change{
				Node: fleet.NodeName(name), Path: path, Before: before, After: after, Verdict: v, Note: note,
			})}})
		}
		switch {
		case f.same:
			change("asset-tag", "rack 1", "rack 1", fleet.Same, "")
			return out
		case slices.Contains(f.failing, name):
			change("asset-tag", "", "rack 1", fleet.Unreadable, "no answer from 127.0.0.1:8001 within 10s")
			return out
		}
		if strings.Contains(text, "asset-tag") {
			change("asset-tag", "", "rack 1", fleet.Differs, "")
		}
		if strings.Contains(text, "(monitor") {
			change("rule m1", "", "when (> cpu.temp 90C) do (power graceful-off)", fleet.Differs, "new")
		}
		if strings.Contains(text, "(power cycle)") {
			change("action", "", "(power cycle)", fleet.Differs, "will be done once")
		}
		switch {
		case strings.Contains(text, `(state "off")`):
			change("power.state", "on", "off", fleet.Differs, "")
		case strings.Contains(text, "(state"):
			change("power.state", "off", "on", fleet.Differs, "")
		}
		if strings.Contains(text, "password") {
			change("bmc.user.root.password", fleet.Redacted, fleet.Redacted, fleet.Differs, "")
		}
		if strings.Contains(text, "network") {
			change("network.eth0.ip", "", "10.0.0.1", fleet.Unsupported, "it tells of no host interface")
		}
		return out
	})
}

func (f *canned) Prepare(_ context.Context, q *connect.Request[pb.PrepareRequest]) (*connect.Response[pb.PrepareReply], error) {
	name := q.Msg.GetName()
	if name == "" {
		name = strings.TrimSuffix(path.Base(q.Msg.GetFile()), ".scl")
	}
	return connect.NewResponse(&pb.PrepareReply{Name: name, Racks: []*pb.SealKey{{Rack: "r01"}}}), nil
}

func (f *canned) Apply(_ context.Context, q *connect.Request[pb.ApplyRequest]) (*connect.Response[pb.ApplyReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.noted(q.Msg.GetSource()); d != nil {
		return connect.NewResponse(&pb.ApplyReply{Diagnostics: d}), nil
	}
	o, err := order.Decode(q.Msg.GetEnvelope())
	if err != nil {
		return nil, err
	}
	f.script = o.Name
	reply := &pb.ApplyReply{Run: f.run("running"), CutOff: f.cutOff}
	if strings.Contains(string(q.Msg.GetSource()), "config") || strings.Contains(string(q.Msg.GetSource()), "monitor") {
		reply.Revision = 4
	}
	return connect.NewResponse(reply), nil
}

func (f *canned) run(state string) *pb.Run {
	if f.rolling != "" {
		r := &pb.Run{Id: "R7", Version: 7, Script: f.script, State: "running", StartedUnixMs: noon, DeadlineUnixMs: noon + 3_600_000, StartedBy: "ann"}
		r.Rollout = &pb.Rollout{Name: "tags", State: f.rolling, Approve: "operators", Waves: 2, Nodes: 4, Released: 3, Ended: 3, Failed: 1}
		if f.rolling == "paused" {
			r.Rollout.Reason = "1 failed of 3, and 0 may"
		}
		return r
	}
	r := &pb.Run{Id: "R7", Version: 7, Script: f.script, State: state, StartedUnixMs: noon, DeadlineUnixMs: noon + 3_600_000, StartedBy: "ann"}
	failed := 0
	for _, rack := range f.racks {
		k := &pb.RackRun{Rack: rack, State: "accepted", Nodes: 2}
		switch {
		case slices.Contains(f.cutOff, rack):
			k.State, k.Nodes = "waiting", 0
		case state != "running":
			k.State, k.Ok = "done", 2
			for _, n := range f.failing {
				if strings.HasPrefix(n, rack) {
					k.Ok, k.Failed = k.Ok-1, k.Failed+1
					failed++
				}
			}
		}
		r.Racks = append(r.Racks, k)
	}
	if state != "running" {
		r.EndedUnixMs = noon + 4200
		switch failed {
		case 0:
		case 2 * len(f.racks):
			r.State = "failed"
		default:
			r.State = "partly failed"
		}
	}
	return r
}

func (f *canned) results() []*pb.Result {
	var out []*pb.Result
	for _, n := range f.nodes() {
		if slices.Contains(f.cutOff, n.GetRack()) {
			continue
		}
		r := &pb.Result{
			Run: "R7", Node: n.GetName(), Step: `(asset-tag "rack 1")`, Path: "asset-tag", After: "rack 1",
			Status: string(fleet.Confirmed), StartedUnixMs: noon, TookUs: 41_500, Attempts: 1,
		}
		if slices.Contains(f.failing, n.GetName()) {
			r.Status, r.Kind, r.Error = string(fleet.Failed), string(fault.Timeout), "no answer within 10s"
			r.Hint = "look at the BMC's network: chiba get nodes " + n.GetName()
		}
		out = append(out, r)
	}
	return out
}

func (f *canned) WatchRun(ctx context.Context, q *connect.Request[pb.WatchRunRequest], s *connect.ServerStream[pb.RunEvent]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if q.Msg.GetId() != "R7" {
		return clienttest.Error(connect.CodeNotFound, fault.New(fault.NotFound, "", "no run "+q.Msg.GetId()).WithHint("see them all: chiba get runs"))
	}
	events := []*pb.RunEvent{{Body: &pb.RunEvent_Run{Run: f.run("running")}}}
	for _, r := range f.results() {
		events = append(events, &pb.RunEvent{Body: &pb.RunEvent_Result{Result: r}})
	}
	for _, rack := range f.racks {
		if !slices.Contains(f.cutOff, rack) {
			events = append(events, &pb.RunEvent{Body: &pb.RunEvent_Progress{Progress: &pb.RackProgress{Rack: rack, Nodes: 2, Done: 1}}})
		}
	}
	if len(f.cutOff) > 0 {
		half := f.run("done")
		half.State, half.EndedUnixMs = "running", 0
		events = append(events, &pb.RunEvent{Body: &pb.RunEvent_Run{Run: half}})
	}
	if !f.endless && len(f.cutOff) == 0 {
		events = append(events, &pb.RunEvent{Body: &pb.RunEvent_Run{Run: f.run("done")}})
	}
	for _, e := range events {
		if err := s.Send(e); err != nil {
			return err
		}
		if f.flaky > 0 {
			f.flaky--
			return connect.NewError(connect.CodeUnavailable, errors.New("the leader has changed"))
		}
	}
	if f.endless || len(f.cutOff) > 0 {
		f.mu.Unlock()
		select {
		case f.watched <- struct{}{}:
		default:
		}
		<-ctx.Done()
		f.mu.Lock()
	}
	return nil
}

func (f *canned) firings() []*pb.Firing {
	first := fleet.Firing{
		Script: "thermal", Rule: "too-hot", Node: "r01-u02", Condition: "(> cpu.temp 90C)", At: wire.FromTime(noon),
		CutOff:   true,
		Readings: []fleet.Reading{{Node: "r01-u02", Ref: "cpu.temp", Value: fleet.Number(95, fleet.Celsius)}},
		Results:  []fleet.Result{{Node: "r01-u02", Step: "(power graceful-off)", Status: fleet.Confirmed}},
	}
	held := first
	held.At, held.CutOff, held.Results, held.Held = wire.FromTime(noon+60_000), false, nil, "cooldown for 4m"
	return []*pb.Firing{wire.ToFiring(first), wire.ToFiring(held)}
}

func (f *canned) Watch(_ context.Context, q *connect.Request[pb.WatchRequest], s *connect.ServerStream[pb.Event]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	firings := f.firings()
	nodes := f.nodes()
	events := []*pb.Event{
		{Body: &pb.Event_Firing{Firing: firings[0]}},
		{Body: &pb.Event_Firing{Firing: firings[1]}},
		{Body: &pb.Event_Node{Node: nodes[len(nodes)-1]}},
		{Body: &pb.Event_Run{Run: f.run("done")}},
		{Body: &pb.Event_Script{Script: &pb.Script{Name: "thermal", Revision: 4}}},
		{Body: &pb.Event_RemovedScript{RemovedScript: "thermal"}},
		{Body: &pb.Event_Agent{Agent: &pb.AgentStatus{Name: "agent-r02", Rack: "r02"}}},
		{Body: &pb.Event_Hardware{Hardware: hardware()}},
	}
	if f.onRack {
		events = append(events, onRack()...)
	}
	if !q.Msg.GetPast() {
		events = events[2:]
	}
	if f.flaky > 0 {
		f.flaky--
		_ = s.Send(&pb.Event{AtUnixMs: noon, Body: events[0].GetBody()})
		return connect.NewError(connect.CodeUnavailable, errors.New("the leader has changed"))
	}
	for _, e := range events {
		e.AtUnixMs = noon
		if err := s.Send(e); err != nil {
			return err
		}
	}
	return clienttest.Error(connect.CodePermissionDenied, fault.New(fault.Denied, "", "your certificate was revoked").WithHint("ask for a new one"))
}

func (f *canned) ListNodes(_ context.Context, r *connect.Request[pb.ListNodesRequest]) (*connect.Response[pb.ListNodesReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	reply := &pb.ListNodesReply{Nodes: f.placed(f.nodes())}
	if r.Msg.GetCandidates() {
		reply.Candidates = found()
	}
	return connect.NewResponse(reply), nil
}

// ListCoordinators tells of two, one of which has a damaged log; and how fresh an answer
// was asked for.
func (f *canned) ListCoordinators(_ context.Context, r *connect.Request[pb.ListCoordinatorsRequest]) (*connect.Response[pb.ListCoordinatorsReply], error) {
	reply := connect.NewResponse(&pb.ListCoordinatorsReply{Coordinators: []*pb.CoordinatorStatus{
		{Name: "c1", Role: "leader", Voter: true, Applied: 90, Answering: true, Address: "10.0.0.1:7444", Agents: 2},
		{
			Name: "c2", Role: "follower", Applied: 88, BehindMs: 2000, Address: "10.0.0.2:7444",
			Problem: "entries 5 to 9 of the log of coordinator c2 are damaged", Next: "mend it",
		},
	}})
	if asked := r.Header().Get("Chiba-Read"); asked != "" {
		reply.Header().Set("Chiba-Remark", "asked for "+asked)
	}
	return reply, nil
}

func (f *canned) ListAgents(context.Context, *connect.Request[pb.ListAgentsRequest]) (*connect.Response[pb.ListAgentsReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	reply := &pb.ListAgentsReply{}
	for _, rack := range f.racks {
		reply.Agents = append(reply.Agents, &pb.AgentStatus{
			Name: "agent-" + rack, Rack: rack, Site: "fra1", Build: "v0.1.0", Connected: !slices.Contains(f.cutOff, rack),
			Remote: "127.0.0.1:9000", Revision: 4,
		})
	}
	return connect.NewResponse(reply), nil
}

const thermal = "(monitor all\n  (condition (> cpu.temp 90C))\n  (action (power graceful-off)))\n"

func (f *canned) ListScripts(context.Context, *connect.Request[pb.ListScriptsRequest]) (*connect.Response[pb.ListScriptsReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	scripts := []*pb.Script{{Name: "thermal", File: "thermal.scl", Revision: 4, Digest: "9f86d081", AppliedBy: "ann"}}
	if f.onRack {
		scripts[0].Remarks = []string{"the version of bob on rack r02 (version 7) is over: this one is newer"}
		scripts = append(scripts,
			&pb.Script{Name: "quiet", Revision: 5, AppliedBy: "root@r02", Rack: "r02", Ended: true},
			&pb.Script{Name: "thermal", File: "thermal.scl", Revision: 6, AppliedBy: "root@r01", Rack: "r01"})
	}
	return connect.NewResponse(&pb.ListScriptsReply{Scripts: scripts}), nil
}

// onRack are decisions on racks, of which one came too late.
func onRack() []*pb.Event {
	by := func(kind, run string) *pb.LocalOrder {
		return &pb.LocalOrder{Kind: kind, Name: "thermal", User: "root", Signers: []string{"ada", "bob"}, Run: run, CutOff: true}
	}
	return []*pb.Event{
		{Body: &pb.Event_Local{Local: &pb.LocalNews{Rack: "r01", AtUnixMs: noon, Order: by("standing", "r01-Lx"), Outcome: "it stands on that rack alone"}}},
		{Body: &pb.Event_Local{Local: &pb.LocalNews{Rack: "r02", AtUnixMs: noon, Order: by("remove", ""), Superseded: true, Outcome: "the fleet has decided since"}}},
	}
}

func (f *canned) GetScript(_ context.Context, q *connect.Request[pb.GetScriptRequest]) (*connect.Response[pb.Script], error) {
	if q.Msg.GetName() != "thermal" {
		return nil, noScript(q.Msg.GetName())
	}
	return connect.NewResponse(&pb.Script{Name: "thermal", File: "thermal.scl", Revision: 4, Source: []byte(thermal)}), nil
}

func noScript(name string) error {
	return clienttest.Error(connect.CodeNotFound, fault.New(fault.NotFound, "", "no script "+name).WithHint("see them all: chiba get scripts"))
}

func (f *canned) RemoveScript(_ context.Context, q *connect.Request[pb.RemoveScriptRequest]) (*connect.Response[pb.RemoveScriptReply], error) {
	if q.Msg.GetName() != "thermal" {
		return nil, noScript(q.Msg.GetName())
	}
	return connect.NewResponse(&pb.RemoveScriptReply{}), nil
}

func (f *canned) ListRuns(context.Context, *connect.Request[pb.ListRunsRequest]) (*connect.Response[pb.ListRunsReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return connect.NewResponse(&pb.ListRunsReply{Runs: []*pb.Run{f.run("done")}}), nil
}

func (f *canned) GetRun(_ context.Context, q *connect.Request[pb.GetRunRequest]) (*connect.Response[pb.GetRunReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if q.Msg.GetId() != "R7" {
		return nil, clienttest.Error(connect.CodeNotFound, fault.New(fault.NotFound, "get run", "no run "+q.Msg.GetId()).WithHint("see them all: chiba get runs"))
	}
	return connect.NewResponse(&pb.GetRunReply{Run: f.run("done"), Results: f.results()}), nil
}

func (f *canned) CancelRun(context.Context, *connect.Request[pb.CancelRunRequest]) (*connect.Response[pb.CancelRunReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.run("done")
	r.State = "canceled"
	return connect.NewResponse(&pb.CancelRunReply{Run: r}), nil
}

func (f *canned) SteerRun(_ context.Context, q *connect.Request[pb.SteerRunRequest]) (*connect.Response[pb.SteerRunReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if q.Msg.GetAct() == "pause" {
		return nil, clienttest.Error(connect.CodeFailedPrecondition, fault.New(fault.Conflict, "", "run R7 is paused already"))
	}
	f.rolling = "running"
	return connect.NewResponse(&pb.SteerRunReply{Run: f.run("running")}), nil
}

func (f *canned) ListFirings(context.Context, *connect.Request[pb.ListFiringsRequest]) (*connect.Response[pb.ListFiringsReply], error) {
	return connect.NewResponse(&pb.ListFiringsReply{Firings: f.firings()}), nil
}
