package state_test

import (
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func paired(name, rack, with string) *pb.Command {
	return agent(&pb.AgentInfo{Name: name, Rack: rack, SpoolEpoch: 7, NextSeq: 1, Pair: with})
}

func own(b *pb.OwnRack) *pb.Command { return &pb.Command{Body: &pb.Command_OwnRack{OwnRack: b}} }

func TestOneOwnerAndEpochsThatRise(t *testing.T) {
	l := newLog(t)
	l.must(paired("a", "r1", "b"))
	l.must(paired("b", "r1", "a"))
	l.must(putAgent("c", "r2"))
	who := func() string { o := l.Owner("r1"); return o.GetAgent() + " " + state.Epoch(o) }
	equal(t, "who came first", who(), "a 1")
	l.must(paired("a", "r1", "b"))
	equal(t, "who comes again", who(), "a 1")

	first := l.Owner("r1")
	l.must(own(&pb.OwnRack{Rack: "r1", Agent: "b", From: first, Why: "a is silent"}))
	equal(t, "a grant", who(), "b 5")
	for _, c := range []struct {
		why  string
		own  *pb.OwnRack
		kind fault.Kind
		text string
	}{
		{"the same grant again", &pb.OwnRack{Rack: "r1", Agent: "b", From: first}, fault.Conflict, "in epoch 5 by now"},
		{"an older claim", &pb.OwnRack{Rack: "r1", Agent: "a", Claim: &pb.Owner{Grant: 1, Local: 3}}, fault.Conflict, "epoch 1.3 of rack r1 is not after epoch 5"},
		{"the claim of an epoch that is not granted yet", &pb.OwnRack{Rack: "r1", Agent: "a", Claim: &pb.Owner{Grant: 1000}}, fault.Conflict, "is not after"},
		{"another's rack", &pb.OwnRack{Rack: "r1", Agent: "c", From: l.Owner("r1")}, fault.NotFound, `rack r1 has no agent "c"`},
		{"nobody", &pb.OwnRack{Rack: "r1", Agent: "x", From: l.Owner("r1")}, fault.NotFound, `no agent "x"`},
	} {
		refusedAs(t, l.try(own(c.own)), c.kind, c.text)
		equal(t, c.why, who(), "b 5")
	}
	l.must(own(&pb.OwnRack{Rack: "r1", Agent: "a", Claim: &pb.Owner{Grant: 5, Local: 2}, Why: "b was dead"}))
	equal(t, "a take-over without us", who(), "a 5.2")

	records := l.Audit(0, 100)
	var said []string
	for _, r := range records {
		if strings.Contains(string(r), `"own"`) {
			said = append(said, string(r))
		}
	}
	if len(said) != 2 || !strings.Contains(said[1], "agent a in epoch 5.2: b was dead") {
		t.Errorf("the audit log says %q", said)
	}
	copied := state.New()
	if err := copied.Restore(l.Snapshot()); err != nil || copied.Owner("r1").GetLocal() != 2 {
		t.Errorf("restored: %v, %v", copied.Owner("r1"), err)
	}
	old := l.Snapshot()
	old.Owners = nil
	if err := copied.Restore(old); err != nil || copied.Owner("r2").GetAgent() != "c" {
		t.Errorf("a state of before there were owners: %v, %v", copied.Owner("r2"), err)
	}
}

func TestWhoMayShareARack(t *testing.T) {
	l := newLog(t)
	l.must(paired("a", "r1", "b"))
	refusedAs(t, l.try(paired("x", "r1", "a")), fault.Conflict, "rack r1 is served by agent a")
	refusedAs(t, l.try(paired("b", "r1", "")), fault.Conflict, "rack r1 is served by agent a")
	l.must(paired("b", "r1", "a"))
	refusedAs(t, l.try(paired("x", "r1", "a")), fault.Conflict, "rack r1 is served by agents a and b")
}

// A standby that has lost its disk has lost nothing that the rack has done.
func TestALostDiskOfTheStandby(t *testing.T) {
	l := newLog(t)
	l.must(paired("a", "r1", "b"))
	l.must(paired("b", "r1", "a"))
	l.must(apply(nil, runOf("x", "r1")))
	l.must(batch("a", "r1", 1, &pb.Record{Body: &pb.Record_Accepted{Accepted: &pb.RackRunAccepted{Run: "R1", Nodes: 1}}}))
	for _, c := range []struct{ name, pair, want string }{{"b", "a", state.Accepted}, {"a", "b", state.Done}} {
		l.must(agent(&pb.AgentInfo{Name: c.name, Rack: "r1", Pair: c.pair, SpoolEpoch: 8, NextSeq: 1}))
		r, _, _ := l.Run("R1", 0)
		equal(t, "the disk of "+c.name, r.GetRacks()[0].GetState(), c.want)
	}
}
