package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/seal"
)

const (
	powerOn = `(config "n1" (power (state "on")))`
	canary  = "canary-7a2f"
	secret  = `(config "n1" (bmc (user "root" (password "` + canary + `"))))`
)

func TestOnlyOperatorsGetIn(t *testing.T) {
	w := newWorld(t)
	if _, err := w.fleet.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{})); err != nil {
		t.Fatal(err)
	}
	for _, role := range []trust.Role{trust.Agent, trust.Coordinator} {
		_, err := w.client(role, "x").Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
		if err == nil {
			t.Errorf("a certificate of role %s was let in", role)
		}
	}
	nobody := w.credentials(trust.Operator, "ada").Client()
	nobody.GetClientCertificate = nil
	if _, err := w.clientWith(nobody).Status(t.Context(), connect.NewRequest(&pb.StatusRequest{})); err == nil {
		t.Error("somebody without a certificate was let in")
	}
}

func TestStatusAndLists(t *testing.T) {
	w := newWorld(t)
	status, err := w.fleet.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	want := &pb.StatusReply{Coordinator: "c1", Build: "test", RaftState: "Leader", CommitIndex: 7, AppliedIndex: 7, Agents: 2, Connected: 1, Nodes: 4, Revision: 1}
	if diff := cmp.Diff(want, status.Msg, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	w.apply("one", powerOn)
	w.apply("two", powerOn)
	w.record("r1", &pb.Record{Body: &pb.Record_Firing{Firing: &pb.Firing{Rule: "hot", Node: "n1"}}})
	w.record("r1", &pb.Record{Body: &pb.Record_Hardware{Hardware: &pb.HardwareNews{Node: "n1"}}})
	got := map[string]int{}
	count := func(name string, n int, err error) {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got[name] = n
	}
	nodes, err := w.fleet.ListNodes(t.Context(), connect.NewRequest(&pb.ListNodesRequest{}))
	count("nodes", len(nodes.Msg.GetNodes()), err)
	agents, err := w.fleet.ListAgents(t.Context(), connect.NewRequest(&pb.ListAgentsRequest{}))
	count("agents", len(agents.Msg.GetAgents()), err)
	scripts, err := w.fleet.ListScripts(t.Context(), connect.NewRequest(&pb.ListScriptsRequest{}))
	count("scripts", len(scripts.Msg.GetScripts()), err)
	runs, err := w.fleet.ListRuns(t.Context(), connect.NewRequest(&pb.ListRunsRequest{}))
	count("runs", len(runs.Msg.GetRuns()), err)
	firings, err := w.fleet.ListFirings(t.Context(), connect.NewRequest(&pb.ListFiringsRequest{}))
	count("firings", len(firings.Msg.GetFirings()), err)
	news, err := w.fleet.ListHardwareNews(t.Context(), connect.NewRequest(&pb.ListHardwareNewsRequest{}))
	count("news", len(news.Msg.GetNews()), err)
	if diff := cmp.Diff(map[string]int{"nodes": 4, "agents": 2, "scripts": 2, "runs": 2, "firings": 1, "news": 1}, got); diff != "" {
		t.Error(diff)
	}
	if id := runs.Msg.GetRuns()[0].GetId(); id != "R2" {
		t.Errorf("the first run is %s, want the newest", id)
	}
	script, err := w.fleet.GetScript(t.Context(), connect.NewRequest(&pb.GetScriptRequest{Name: "one"}))
	if err != nil || string(script.Msg.GetSource()) != powerOn || script.Msg.GetAppliedBy() != "ada" {
		t.Errorf("script %v, %v", script, err)
	}
	if _, err = w.fleet.RemoveScript(t.Context(), connect.NewRequest(&pb.RemoveScriptRequest{Name: "one", Envelope: w.authors.Sign(w.authors.Order(order.Remove, "one", ""))})); err != nil {
		t.Error(err)
	}
}

func TestErrorsHaveKindHintAndCode(t *testing.T) {
	w := newWorld(t)
	w.apply("one", powerOn)
	w.done("R1", "r1")
	apply := func(edit func(*order.Order)) error {
		_, err := w.fleet.Apply(t.Context(), connect.NewRequest(w.authors.Apply("a", powerOn, edit)))
		return err
	}
	_, unsigned := w.fleet.Apply(t.Context(), connect.NewRequest(&pb.ApplyRequest{Source: []byte(powerOn)}))
	cancel := w.authors.Order(order.Cancel, "one", "")
	first, _, _ := w.machine.Run("R1", 0)
	cancel.Cancels = first.GetVersion()
	_, noScript := w.fleet.GetScript(t.Context(), connect.NewRequest(&pb.GetScriptRequest{Name: "x"}))
	_, noRemove := w.fleet.RemoveScript(t.Context(), connect.NewRequest(&pb.RemoveScriptRequest{Name: "x"}))
	_, noRun := w.fleet.GetRun(t.Context(), connect.NewRequest(&pb.GetRunRequest{Id: "R9"}))
	_, over := w.fleet.CancelRun(t.Context(), connect.NewRequest(&pb.CancelRunRequest{Id: "R1", Envelope: w.authors.Sign(cancel)}))
	for name, c := range map[string]struct {
		err  error
		kind fault.Kind
		code connect.Code
		hint bool
	}{
		"no such script":   {noScript, fault.NotFound, connect.CodeNotFound, true},
		"nothing to end":   {noRemove, fault.NotFound, connect.CodeNotFound, true},
		"no such run":      {noRun, fault.NotFound, connect.CodeNotFound, true},
		"it has ended":     {over, fault.Conflict, connect.CodeFailedPrecondition, false},
		"a bad name":       {apply(func(o *order.Order) { o.Name = "a b" }), fault.BadInput, connect.CodeInvalidArgument, true},
		"an age":           {apply(func(o *order.Order) { o.NotAfter = o.NotAfter.AddDate(1, 0, 0) }), fault.BadInput, connect.CodeInvalidArgument, true},
		"too late":         {apply(func(o *order.Order) { o.NotAfter = o.NotAfter.AddDate(-1, 0, 0) }), fault.Untrusted, connect.CodePermissionDenied, true},
		"an older version": {apply(func(o *order.Order) { o.Name, o.Version = "one", 1 }), fault.Conflict, connect.CodeFailedPrecondition, true},
		"another kind":     {apply(func(o *order.Order) { o.Kind = order.Run }), fault.BadInput, connect.CodeInvalidArgument, false},
		"too few racks":    {apply(func(o *order.Order) { o.Audience = []string{"r2"} }), fault.Conflict, connect.CodeFailedPrecondition, true},
		"unsigned":         {unsigned, fault.Untrusted, connect.CodePermissionDenied, true},
	} {
		if kindOf(c.err) != c.kind || connect.CodeOf(c.err) != c.code || (hintOf(c.err) != "") != c.hint {
			t.Errorf("%s: kind %q, code %v, hint %q: %v", name, kindOf(c.err), connect.CodeOf(c.err), hintOf(c.err), c.err)
		}
	}
}

func TestApply(t *testing.T) {
	w := newWorld(t)
	got, err := w.fleet.Apply(t.Context(), connect.NewRequest(w.authors.Apply("night", `(config "n[1-3]" (power (state "on"))) (show all)`)))
	if err != nil {
		t.Fatal(err)
	}
	run := got.Msg.GetRun()
	if run.GetScript() != "night" || run.GetState() != state.Running || run.GetStartedBy() != "ada" || len(run.GetSource()) != 0 {
		t.Errorf("run %v", run)
	}
	if left := time.Until(time.UnixMilli(run.GetDeadlineUnixMs())); left < 59*time.Minute || left > time.Hour {
		t.Errorf("its deadline is in %v, want an hour", left)
	}
	if diff := cmp.Diff([]string{"r2"}, got.Msg.GetCutOff()); diff != "" {
		t.Errorf("cut off: %s", diff)
	}
	if s, ok := w.machine.Script("night"); !ok || s.GetRevision() != got.Msg.GetRevision() || got.Msg.GetRevision() == 0 {
		t.Errorf("the script is kept as %v, revision %d", s, got.Msg.GetRevision())
	}
}

func TestApplyOfOneShotFormsKeepsNoScript(t *testing.T) {
	w := newWorld(t)
	answer := w.apply("once", `(action "n1" (reboot))`)
	if answer.GetRevision() != 0 || len(w.machine.Scripts()) != 0 {
		t.Errorf("revision %d, scripts %v", answer.GetRevision(), w.machine.Scripts())
	}
	racks := answer.GetRun().GetRacks()
	if len(racks) != 1 || racks[0].GetRack() != "r1" {
		t.Errorf("it concerns %v, want r1 alone", racks)
	}
}

func TestAWrongScriptIsToldAndDoesNothing(t *testing.T) {
	w := newWorld(t)
	before := w.node.Status().Commit
	for name, c := range map[string]struct{ source, text string }{
		"unbalanced":    {`(config "n1"`, "SCL0105"},
		"unknown form":  {`(confgi "n1")`, "did you mean config?"},
		"unknown node":  {`(config "n11" (power (state "on")))`, `did you mean "n1"?`},
		"unknown glob":  {`(show "x*" cpu.temp)`, `no node matches "x*"`},
		"unknown group": {`(show (group "g") cpu.temp)`, `there is no group "g"`},
		"unknown rack":  {`(show (rack "r3") cpu.temp)`, `there is no rack "r3"`},
		"too large":     {"; " + strings.Repeat("x", 5<<20), "SCL0111"},
	} {
		answer := w.apply("s", c.source)
		d := answer.GetDiagnostics()
		if d.GetErrors() < 1 || !strings.Contains(d.GetText(), c.text) || !json.Valid(d.GetJson()) || answer.GetRun() != nil {
			t.Errorf("%s: apply says %v", name, answer)
		}
		replies, err := w.plan(c.source, false)
		if err != nil || len(replies) != 1 || replies[0].GetDiagnostics().GetText() != strings.ReplaceAll(d.GetText(), "s.scl", "p.scl") {
			t.Errorf("%s: plan says %v, %v", name, replies, err)
		}
	}
	if now := w.node.Status().Commit; now != before {
		t.Errorf("%d entries were written", now-before)
	}
}

func TestAllowEmpty(t *testing.T) {
	w := newWorld(t)
	answer, err := w.fleet.Apply(t.Context(), connect.NewRequest(
		w.authors.Apply("later", `(config "n99" (power (state "on")))`, func(o *order.Order) { o.AllowEmpty = true }),
	))
	if err != nil || answer.Msg.GetRun().GetState() != state.Done || answer.Msg.GetRevision() == 0 {
		t.Errorf("got %v, %v", answer, err)
	}
	replies, err := w.plan(`(config "n99" (power (state "on")))`, true)
	if err != nil || len(replies) != 1 || len(replies[0].GetRacks().GetAsked()) != 0 {
		t.Errorf("plan says %v, %v", replies, err)
	}
}

func TestGroupsOfOtherScripts(t *testing.T) {
	w := newWorld(t)
	w.apply("groups", `(group "front" "n1" "n3")`)
	answer := w.apply("use", `(action (group "front") (reboot))`)
	if got := len(answer.GetRun().GetRacks()); got != 2 {
		t.Errorf("it concerns %d racks, want 2: %v", got, answer)
	}
	w.apply("groups", `(group "front" "n1")`)
	if got := len(w.apply("use", `(action (group "front") (reboot))`).GetRun().GetRacks()); got != 1 {
		t.Errorf("after the group has changed it concerns %d racks, want 1", got)
	}
	own := w.apply("own", `(group "front" "n4") (action (group "front") (reboot))`)
	if got := own.GetRun().GetRacks(); len(got) != 1 || got[0].GetRack() != "r2" {
		t.Errorf("a script's own group does not come first: %v", got)
	}
}

// Secrets are sealed where they are written. One that comes all the same stops at
// the door: it is in no message to an agent, no answer, and no file.
func TestThreat36LiteralSecretIsRefused(t *testing.T) {
	w := newWorld(t)
	_, err := w.fleet.Apply(t.Context(), connect.NewRequest(w.authors.Apply("pass", secret)))
	_, planned := w.plan(secret, false)
	_, prepared := w.fleet.Prepare(t.Context(), connect.NewRequest(&pb.PrepareRequest{Name: "pass", Source: []byte(secret)}))
	for _, e := range []error{err, planned, prepared} {
		if kindOf(e) != fault.BadInput || hintOf(e) == "" || strings.Contains(e.Error(), canary) {
			t.Errorf("got %v", e)
		}
	}
	if err = w.node.Snapshot(); err != nil {
		t.Error(err)
	}
	w.stop()
	noFileHolds(t, filepath.Join(w.dir, "raft"))
}

// Who seals is told the racks, and the proofs of their agents' keys.
func TestPrepare(t *testing.T) {
	w := newWorld(t)
	version := w.apply("pass", powerOn).GetRun().GetVersion()
	answer, err := w.fleet.Prepare(t.Context(), connect.NewRequest(&pb.PrepareRequest{File: "x/pass.scl", Source: []byte(`(action "n1" (reboot))`)}))
	if err != nil {
		t.Fatal(err)
	}
	p := answer.Msg
	if p.GetName() != "pass" || p.GetVersion() != version || len(p.GetRacks()) != 1 || p.GetRacks()[0].GetRack() != "r1" {
		t.Errorf("got %v", p)
	}
	roots := w.credentials(trust.Operator, "ada").Roots
	got, err := seal.Verify(p.GetRacks()[0].GetProof(), trust.Domain{Site: "s1", Rack: "r1"}, roots, time.Now())
	if err != nil || string(got.Key) != string(w.keys["r1"].Public()) {
		t.Errorf("the key is %v, %v", got, err)
	}
}

func noFileHolds(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), canary) {
			t.Errorf("%s holds the password", path)
		}
		files++
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("searched %d files: %v", files, err)
	}
}

func TestAPlanAsksTheRacksConcerned(t *testing.T) {
	w := newWorld(t)
	w.agents.set(func() { w.agents.connected["r3"] = true })
	w.register("r3")
	w.record("r3", &pb.Record{Body: &pb.Record_Node{Node: &pb.Node{Name: "n5", Bmc: "b5"}}})
	w.agents.answer = func(_ context.Context, rack string, _ *pb.Query, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
		if rack == "r3" {
			return nil, fault.New(fault.Unavailable, "ask rack r3", "lost").WithHint("try again")
		}
		events := []*pb.QueryEvent{
			{Body: &pb.QueryEvent_Started_{Started: &pb.QueryEvent_Started{Nodes: 2}}},
			{Body: &pb.QueryEvent_Change{Change: &pb.Change{Node: "n1", Path: "power.state"}}},
			{}, // of a later version
		}
		for _, e := range events {
			if err := each(e); err != nil {
				return nil, err
			}
		}
		return &pb.QueryEvent_Done{Nodes: 2, Failed: 1}, nil
	}
	replies, err := w.plan(`(config "n[1-5]" (power (state "on")))`, false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range replies[1:] {
		switch b := r.GetBody().(type) {
		case *pb.QueryReply_Started_:
			got = append(got, fmt.Sprint(r.GetRack(), " started ", b.Started.GetNodes()))
		case *pb.QueryReply_Change:
			got = append(got, r.GetRack()+" change "+b.Change.GetPath())
		case *pb.QueryReply_Ended_:
			got = append(got, fmt.Sprint(r.GetRack(), " ended ", b.Ended.GetNodes(), " ", b.Ended.GetFailed(), " ", b.Ended.GetKind(), b.Ended.GetHint()))
		}
	}
	slices.Sort(got) // the racks answer at the same time
	want := []string{"r1 change power.state", "r1 ended 2 1 ", "r1 started 2", "r3 ended 0 0 unavailabletry again"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	first := replies[0].GetRacks()
	if diff := cmp.Diff([][]string{{"r1", "r3"}, {"r2"}}, [][]string{first.GetAsked(), first.GetCutOff()}); diff != "" {
		t.Errorf("racks: %s", diff)
	}
	if q := w.agents.asked["r1"]; !q.GetPlan() {
		t.Error("the agents were not asked to compare only")
	}
}

func TestAWhereIsTheAgentsToDecide(t *testing.T) {
	w := newWorld(t)
	for source, want := range map[string]int{
		`(show (where (> cpu.temp 50)) cpu.temp)`:            1, // r1; r2 is cut off
		`(show (where (= rack.name "r1")) cpu.temp)`:         1,
		`(show (where (= rack.name "r9")) cpu.temp)`:         0,
		`(show (and "n3" (where (> cpu.temp 50))) cpu.temp)`: 0,
		`(show (except all (rack "r1")) cpu.temp)`:           0,
	} {
		replies, err := w.show(source)
		if err != nil || replies[0].GetRacks() == nil {
			t.Errorf("%s: %v, %v", source, replies, err)
			continue
		}
		if got := len(replies[0].GetRacks().GetAsked()); got != want {
			t.Errorf("%s asks %d racks, want %d", source, got, want)
		}
	}
}

func TestShowOnlyReads(t *testing.T) {
	w := newWorld(t)
	replies, err := w.show(powerOn + ` (action "n1" (reboot)) (monitor "n1" (condition (> cpu.temp 90)) (action (log "hot"))) (group "g" "n1")`)
	if err != nil || len(replies) != 1 || replies[0].GetDiagnostics().GetErrors() != 4 || !strings.Contains(replies[0].GetDiagnostics().GetText(), "SCL0401") {
		t.Errorf("got %v, %v", replies, err)
	}
	replies, err = w.show(`(show "n1" cpu.temp) (dump json "n1") (refresh "n1")`)
	if err != nil || replies[0].GetRacks() == nil {
		t.Errorf("got %v, %v", replies, err)
	}
	if q := w.agents.asked["r1"]; q.GetPlan() {
		t.Error("the agents were asked to compare")
	}
}

func TestACallerWhoLeavesEndsTheQuestion(t *testing.T) {
	w := newWorld(t)
	asked, ended := make(chan struct{}), make(chan error, 1)
	w.agents.answer = func(ctx context.Context, _ string, _ *pb.Query, _ func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
		close(asked)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := w.fleet.Plan(ctx, connect.NewRequest(&pb.PlanRequest{Source: []byte(powerOn)}))
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("the agents are still asked")
	}
	_ = stream.Close()
}

func TestAPanicIsOneCallsError(t *testing.T) {
	w := newWorld(t)
	w.agents.set(func() { w.agents.broken = true })
	_, err := w.fleet.ListAgents(t.Context(), connect.NewRequest(&pb.ListAgentsRequest{}))
	if connect.CodeOf(err) != connect.CodeInternal || kindOf(err) != fault.Internal || strings.Contains(err.Error(), "oops") {
		t.Errorf("got %v", err)
	}
	w.agents.set(func() { w.agents.broken = false })
	if _, err := w.fleet.ListAgents(t.Context(), connect.NewRequest(&pb.ListAgentsRequest{})); err != nil {
		t.Errorf("the next call: %v", err)
	}
}
