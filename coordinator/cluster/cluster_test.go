package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/chiba-mesh/chiba/coordinator/cluster"
	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// here is c1 of two, with the agent of r1; c2 has that of r2.
type here struct {
	status raftnode.Status
	hashes []*pb.StateHash

	mu     sync.Mutex
	silent bool         // c2 does not answer
	there  pb.PeerReply // what it says else
	asked  []string     // racks that were asked through it
	log    bytes.Buffer
}

func (h *here) Connected(rack string) bool            { return rack == "r1" }
func (h *here) Owner(rack string) string              { return "a" + rack[1:] }
func (h *here) Role(*pb.AgentStatus) (role, e string) { return "active", "3" }
func (h *here) Lent(string) (at time.Time, shut bool) { return time.Time{}, false }
func (h *here) Agents() []*pb.AgentStatus {
	return []*pb.AgentStatus{{Name: "a1", Rack: "r1", Connected: true, SinceUnixMs: 5}, {Name: "a2", Rack: "r2"}}
}

func (h *here) Present(known uint64) ([]*pb.AgentStatus, uint64) {
	if known == 7 {
		return nil, 7
	}
	return h.Agents()[:1], 7
}

func (h *here) Progress(run string) []*pb.RackProgress {
	if run != "R1" {
		return nil
	}
	return []*pb.RackProgress{{Rack: "r1", Done: 1}, {Rack: "r2", Done: 1}} // r2 was here before
}

func (h *here) Query(context.Context, string, *pb.Query, func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	return &pb.QueryEvent_Done{Nodes: 1}, nil
}

func (h *here) Status() raftnode.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status
}
func (h *here) Call(context.Context, string, *pb.PeerCall) *pb.PeerReply { return nil }
func (h *here) Hashes() ([]*pb.StateHash, uint64)                        { return h.hashes, 40 }
func (h *here) Member(name string) bool                                  { return name == "c2" }
func (h *here) CatchUp(context.Context, bool) error                      { return nil }
func (h *here) Remove(context.Context, string) error                     { return nil }
func (h *here) Watched() []string                                        { return []string{"R1"} }
func (h *here) Touch(...string)                                          {}

// others is c2, as c1 reaches it.
type others struct{ *here }

func (o others) Call(ctx context.Context, addr string, c *pb.PeerCall) (*pb.PeerReply, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.silent {
		o.mu.Unlock()
		<-ctx.Done()
		o.mu.Lock()
		return nil, ctx.Err()
	}
	if c.GetLent() != nil {
		return &pb.PeerReply{LentMs: o.there.GetLentMs(), Shut: o.there.GetShut()}, nil
	}
	if addr != "at-c2" || cmp.Diff([]string{"R1"}, c.GetPresence().GetRuns()) != "" {
		return nil, errors.New("not for us")
	}
	reply := &pb.PeerReply{
		Agents: o.there.GetAgents(), Version: o.there.GetVersion(), Progress: o.there.GetProgress(),
		Damage: o.there.GetDamage(), DamageNext: o.there.GetDamageNext(),
		Applied: o.there.GetApplied(), Hashes: o.there.GetHashes(), BehindMs: o.there.GetBehindMs(),
	}
	if c.GetPresence().GetKnown() == reply.GetVersion() {
		reply.Agents = nil
	}
	return reply, nil
}

func (o others) Query(_ context.Context, addr string, q *pb.PeerQuery, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	o.asked = append(o.asked, addr+"/"+q.GetRack())
	if q.GetQuery().GetFile() == "wrong" {
		return &pb.QueryEvent_Done{Kind: string(fault.Conflict), Error: "no", Hint: "look"}, nil
	}
	return &pb.QueryEvent_Done{Nodes: 2}, each(&pb.QueryEvent{})
}

// Write implements io.Writer.
func (h *here) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(p)
}

// start runs c1's cluster until the test ends, inside a bubble.
func start(t *testing.T, h *here) *cluster.Cluster {
	t.Helper()
	c := cluster.New(cluster.Config{Name: "c1", Hub: h, Node: h, Peers: others{h}, Watches: h, Log: slog.New(slog.NewTextHandler(h, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	pass(2 * time.Second)
	return c
}

// pass lets virtual time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func pair() *here {
	return &here{
		status: raftnode.Status{State: raftnode.Leader, Leader: "c1", Members: []raftnode.Member{{Name: "c1", Addr: "at-c1", Voter: true}, {Name: "c2", Addr: "at-c2", Voter: true}}},
		there: pb.PeerReply{
			Agents:   []*pb.AgentStatus{{Name: "a2", Rack: "r2", Connected: true, SinceUnixMs: 9, Coordinator: "c2"}},
			Progress: []*pb.RunProgress{{Run: "R1", Racks: []*pb.RackProgress{{Rack: "r2", Done: 3}}}}, Version: 3, Applied: 38,
		},
	}
}

func TestTheOthersAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := pair()
		c := start(t, h)
		if !c.Connected("r1") || !c.Connected("r2") || c.Connected("r3") {
			t.Error("it does not know who is connected")
		}
		if all := c.Agents(); len(all) != 2 || !all[1].GetConnected() || all[1].GetCoordinator() != "c2" {
			t.Errorf("the agents are %v", all)
		}
		want := []*pb.RackProgress{{Rack: "r1", Done: 1}, {Rack: "r2", Done: 3}}
		if diff := cmp.Diff(want, c.Progress("R1"), protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		none := func(*pb.QueryEvent) error { return nil }
		for rack, nodes := range map[string]int32{"r1": 1, "r2": 2, "r3": 1} {
			if done, err := c.Query(t.Context(), rack, &pb.Query{}, none); err != nil || done.GetNodes() != nodes {
				t.Errorf("asking %s: %v, %v", rack, done, err)
			}
		}
		if _, err := c.Query(t.Context(), "r2", &pb.Query{File: "wrong"}, none); !fault.Is(err, fault.Conflict) || fault.HintOf(err) != "look" {
			t.Errorf("a failure there is %v", err)
		}
		if diff := cmp.Diff([]string{"at-c2/r2", "at-c2/r2"}, h.asked); diff != "" {
			t.Error(diff)
		}
	})
}

// One that falls silent delays nobody, is said to be silent, and its agents are no
// longer taken for connected; when it is back all is as before.
func TestOneFallsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := pair()
		c := start(t, h)
		set := func(silent bool) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.silent = silent
		}
		if len(c.Silent()) != 0 {
			t.Error("it is silent from the start")
		}
		set(true)
		pass(5 * time.Second)
		if diff := cmp.Diff([]string{"c2"}, c.Silent()); diff != "" || c.Connected("r2") || !c.Connected("r1") {
			t.Errorf("it is not noticed: %s", diff)
		}
		if all := c.Coordinators(); all[1].GetProblem() != "it does not answer" || all[0].GetRole() != "leader" {
			t.Errorf("the coordinators are %v", all)
		}
		set(false)
		pass(2 * time.Second)
		if len(c.Silent()) != 0 || !c.Connected("r2") {
			t.Error("it is back and that is not noticed")
		}
	})
}

// When a lease was last given is asked of the others; one that does not answer has
// given it as long as it may have been in touch.
func TestWhoHasLentARack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := pair()
		c := start(t, h)
		h.there.LentMs, h.there.Shut = 4000, true
		if at, shut := c.Lent(t.Context(), "a2"); time.Since(at) != 4*time.Second || !shut {
			t.Errorf("lent %s ago, shut out %v", time.Since(at), shut)
		}
		h.mu.Lock()
		h.silent = true
		h.mu.Unlock()
		pass(10 * time.Second)
		if at, _ := c.Lent(t.Context(), "a2"); time.Since(at) < 8*time.Second || time.Since(at) > 12*time.Second {
			t.Errorf("a silent one has lent %s ago", time.Since(at))
		}
		if !c.InTouch() {
			t.Error("the leader is not in touch")
		}
		h.status.State, h.status.Behind = "Follower", 5*time.Second
		if c.InTouch() {
			t.Error("who does not hear of the leader is in touch")
		}
	})
}

// A replica that has another state for the same entry is an error, said once.
func TestAStateThatDiffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := pair()
		h.hashes = []*pb.StateHash{{Index: 10, Hash: "aa"}, {Index: 20, Hash: "bb"}}
		h.there.Hashes = []*pb.StateHash{{Index: 20, Hash: "bb"}, {Index: 30, Hash: "cc"}}
		c := start(t, h)
		if all := c.Coordinators(); all[1].GetProblem() != "" || all[1].GetRole() != "follower" || all[1].GetApplied() != 38 || all[1].GetAgents() != 1 {
			t.Errorf("two that agree: %v", all)
		}
		h.mu.Lock()
		h.there.Hashes = []*pb.StateHash{{Index: 10, Hash: "aa"}, {Index: 20, Hash: "xx"}}
		h.mu.Unlock()
		pass(5 * time.Second)
		if all := c.Coordinators(); all[1].GetProblem() != "its state differs from ours at entry 20" {
			t.Errorf("two that differ: %v", all)
		}
		if all := c.Coordinators(); !strings.Contains(all[1].GetNext(), "chiba coordinator remove c2") || all[0].GetProblem() != "" {
			t.Errorf("nobody knows which of two is right: %v", all)
		}
		h.mu.Lock()
		h.status.Members = append(h.status.Members, raftnode.Member{Name: "c3", Addr: "at-c2"}) // says what c2 does
		h.mu.Unlock()
		pass(5 * time.Second)
		if all := c.Coordinators(); !strings.Contains(all[0].GetProblem(), "differs from those of all others") || !strings.Contains(all[0].GetNext(), "remove c1") {
			t.Errorf("one that differs from two: %v", all)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if n := strings.Count(h.log.String(), "level=ERROR"); n != 2 {
			t.Errorf("it is said %d times:\n%s", n, h.log.String())
		}
	})
}

// What is wrong with a log is told by whoever is asked, with what to do.
func TestADamagedLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := pair()
		h.status.Damage = fault.New(fault.Garbage, "", "entries 1 to 9 are damaged").WithHint("mend it")
		h.there.Damage, h.there.DamageNext = "entries 2 to 5 are damaged", "mend that"
		c := start(t, h)
		all := c.Coordinators()
		if all[0].GetProblem() != "entries 1 to 9 are damaged" || all[0].GetNext() != "mend it" ||
			all[1].GetProblem() != "entries 2 to 5 are damaged" || all[1].GetNext() != "mend that" {
			t.Errorf("the coordinators are %v", all)
		}
		said := cluster.Handler{Cluster: c}.Call(t.Context(), "c2", &pb.PeerCall{Body: &pb.PeerCall_Presence{Presence: &pb.Presence{}}})
		if said.GetDamage() != all[0].GetProblem() || said.GetDamageNext() != all[0].GetNext() {
			t.Errorf("the others are told %v", said)
		}
	})
}

func TestRemark(t *testing.T) {
	h := pair()
	c := cluster.New(cluster.Config{Name: "c1", Hub: h, Node: h})
	for want, s := range map[string]raftnode.Status{
		"":                             {State: "Leader", Leader: "c1"},
		"has met no leader":            {State: "Candidate"},
		"reaches no majority":          {State: "Candidate", Behind: 9 * time.Second},
		"coordinator c1 is 12s behind": {State: "Follower", Leader: "c2", Behind: 12 * time.Second},
		"what it tells is 9s old, and nothing can": {State: "Candidate", Behind: 9 * time.Second},
	} {
		h.status = s
		if got := c.Remark(); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%+v: %q", s, got)
		}
	}
	h.status = raftnode.Status{State: "Follower", Leader: "c2", Behind: 400 * time.Millisecond}
	if got := c.Remark(); got != "" {
		t.Errorf("between two heartbeats it says %q", got)
	}
}

// What another coordinator asks: a member is told, a stranger is not.
func TestHandler(t *testing.T) {
	h := pair()
	handler := cluster.Handler{Cluster: cluster.New(cluster.Config{Name: "c1", Hub: h, Node: h, Peers: others{h}, Watches: h, Log: slog.New(slog.DiscardHandler)})}
	ask := func(from string, known uint64) *pb.PeerReply {
		return handler.Call(t.Context(), from, &pb.PeerCall{Body: &pb.PeerCall_Presence{Presence: &pb.Presence{Runs: []string{"R1", "R2"}, Known: known}}})
	}
	if r := ask("c9", 0); r.GetKind() != string(fault.Denied) || len(r.GetAgents()) != 0 {
		t.Errorf("a stranger is told %v", r)
	}
	if r := ask("c2", 0); len(r.GetAgents()) != 1 || r.GetVersion() != 7 || len(r.GetProgress()) != 1 || r.GetApplied() != 40 {
		t.Errorf("a member is told %v", r)
	}
	if r := ask("c2", 7); len(r.GetAgents()) != 0 || r.GetVersion() != 7 {
		t.Errorf("who knows the agents is told %v", r)
	}
	if done, err := handler.Query(t.Context(), "r1", &pb.Query{}, nil); err != nil || done.GetNodes() != 1 {
		t.Errorf("a question: %v, %v", done, err)
	}
}
