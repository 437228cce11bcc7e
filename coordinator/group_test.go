package coordinator_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/coordinator"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

// group is three coordinators that have begun together.
func (w *world) group() []*running {
	w.t.Helper()
	var all []*running
	var join []string
	for i := range 3 {
		name := fmt.Sprintf("c%d", i+1)
		conf := w.config()
		conf.Dir, conf.Credentials = filepath.Join(w.dir, name), w.credentials(trust.Coordinator, name)
		conf.PeerAddr, conf.Expect, conf.Join = "127.0.0.1:0", 3, join
		c := w.launch(conf)
		all, join = append(all, c), append(join, c.PeerAddr())
	}
	for _, c := range all {
		w.ready(c)
	}
	return all
}

func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for over := time.After(patience); !is(); {
		select {
		case <-tick.C:
		case <-over:
			w.t.Fatal("it did not happen: " + what)
		}
	}
}

func (c *running) coordinators(t *testing.T) []*pb.CoordinatorStatus {
	t.Helper()
	r, err := c.fleet.ListCoordinators(t.Context(), connect.NewRequest(&pb.ListCoordinatorsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return r.Msg.GetCoordinators()
}

// answers has the rack's agent answer one question.
func (r *rack) answers(ctx context.Context) {
	stream, err := r.conn.Accept(ctx)
	if err != nil {
		return
	}
	defer func() { _ = stream.Close() }()
	ch := mesh.NewChannel(stream, 0)
	var open pb.StreamOpen
	var q pb.Query
	if ch.Receive(&open) != nil || ch.Receive(&q) != nil {
		return
	}
	_ = ch.Send(&pb.QueryEvent{Body: &pb.QueryEvent_Result{Result: &pb.Result{Node: "n1", Status: "confirmed"}}})
	_ = ch.Send(&pb.QueryEvent{Body: &pb.QueryEvent_Done_{Done: &pb.QueryEvent_Done{Nodes: 1}}})
}

// Any of three coordinators answers for all: what is applied at one is watched at
// the next and done by an agent of the third, which the first can ask.
func TestAnyOfThreeAnswers(t *testing.T) {
	w := newWorld(t)
	all := w.group()
	r := w.rack(all[2], "r1")
	r.serves("n1")
	w.until("the agent is known everywhere", func() bool {
		for _, c := range all {
			a, err := c.fleet.ListAgents(t.Context(), connect.NewRequest(&pb.ListAgentsRequest{}))
			if err != nil || len(a.Msg.GetAgents()) != 1 || a.Msg.GetAgents()[0].GetCoordinator() != "c3" || !a.Msg.GetAgents()[0].GetConnected() {
				return false
			}
		}
		return true
	})

	asked := make(chan struct{})
	go func() { r.answers(t.Context()); close(asked) }()
	shown, err := all[0].fleet.Show(t.Context(), connect.NewRequest(&pb.ShowRequest{File: "x", Source: []byte("(show all)")}))
	if err != nil {
		t.Fatal(err)
	}
	results := 0
	for shown.Receive() {
		if shown.Msg().GetResult().GetNode() == "n1" {
			results++
		}
	}
	if <-asked; shown.Err() != nil || results != 1 {
		t.Errorf("a question through another coordinator: %d results, %v", results, shown.Err())
	}

	request := w.authors.Apply("night", powerOn)
	run := all[0].apply(t, request).GetRun()
	stream, err := all[1].fleet.WatchRun(t.Context(), connect.NewRequest(&pb.WatchRunRequest{Id: run.GetId()}))
	if err != nil {
		t.Fatal(err)
	}
	r.work()
	state := ""
	for stream.Receive() {
		state = stream.Msg().GetRun().GetState()
	}
	if stream.Err() != nil || state != "done" {
		t.Errorf("watched at another: %q, %v", state, stream.Err())
	}
	// The answer to the apply was lost, and another coordinator is asked again.
	if again := all[2].apply(t, request).GetRun(); again.GetId() != run.GetId() {
		t.Errorf("it ran again, as %s", again.GetId())
	}

	leaders := 0
	for i, one := range all[1].coordinators(t) {
		if one.GetRole() == "leader" {
			leaders++
		}
		if one.GetAnswering() != (i == 1) || !one.GetVoter() || one.GetProblem() != "" {
			t.Errorf("c%d is %v", i+1, one)
		}
	}
	if leaders != 1 {
		t.Errorf("%d lead", leaders)
	}
}

// A coordinator that stops, as it is asked to, yields: nobody notices.
func TestTheLeaderStops(t *testing.T) {
	w := newWorld(t)
	all := w.group()
	leads := 0
	w.until("c1 knows all roles", func() bool {
		for i, one := range all[0].coordinators(t) {
			if one.GetRole() == "leader" {
				leads = i
				return true
			}
		}
		return false
	})
	stopped := make(chan struct{})
	go func() { all[leads].stop(); close(stopped) }()
	other := all[(leads+1)%3]
	at, slowest := time.Now(), time.Duration(0)
	for i := 0; ; i++ {
		began := time.Now()
		if _, err := other.fleet.Deny(t.Context(), connect.NewRequest(&pb.DenyRequest{Subject: fmt.Sprintf("serial/%x", i+1), Reason: "x"})); err != nil {
			t.Fatalf("a write meanwhile: %v", err)
		}
		slowest = max(slowest, time.Since(began))
		select {
		case <-stopped:
			t.Logf("it took %s to stop, the slowest of %d writes %s", time.Since(at).Round(time.Millisecond), i+1, slowest.Round(time.Millisecond))
			if slowest > 450*time.Millisecond {
				t.Errorf("a write took %s: as long as an election", slowest)
			}
			return
		default:
		}
	}
}

// A coordinator that is denied loses its sessions with the others at once, and can
// be taken out of the group.
func TestThreat24RevokedCoordinatorWithALiveSession(t *testing.T) {
	w := newWorld(t)
	all := w.group()
	if _, err := all[0].fleet.Deny(t.Context(), connect.NewRequest(&pb.DenyRequest{Subject: "coordinator/c3", Reason: "stolen"})); err != nil {
		t.Fatal(err)
	}
	w.until("c3 does not answer any more", func() bool {
		return strings.Contains(all[0].coordinators(t)[2].GetProblem(), "does not answer")
	})
	remove := func(name string) error {
		_, err := all[1].fleet.RemoveCoordinator(t.Context(), connect.NewRequest(&pb.RemoveCoordinatorRequest{Name: name}))
		return err
	}
	w.until("it is out", func() bool { return remove("c3") == nil })
	w.until("both know", func() bool { return len(all[0].coordinators(t)) == 2 && len(all[1].coordinators(t)) == 2 })
	for name, code := range map[string]connect.Code{"c3": connect.CodeNotFound, "": connect.CodeInvalidArgument} {
		if err := remove(name); connect.CodeOf(err) != code {
			t.Errorf("removing %q: %v", name, err)
		}
	}
}

func TestAnAddressForTheOthers(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*coordinator.Config){
		"a join and no address":       func(c *coordinator.Config) { c.Join = []string{"x:7444"} },
		"one that nobody reaches":     func(c *coordinator.Config) { c.PeerAddr = ":7444" },
		"one that nobody reaches (6)": func(c *coordinator.Config) { c.PeerAddr = "[::]:7444" },
	} {
		conf := w.config()
		change(&conf)
		if _, err := coordinator.New(conf); !fault.Is(err, fault.BadInput) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
