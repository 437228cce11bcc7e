package state_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// onRack is what root has rack r1 do with a script.
func onRack(kind order.Kind, name string, v uint64) *pb.Record {
	l := &pb.LocalOrder{
		Kind: string(kind), Name: name, Version: v, Envelope: fmt.Appendf(nil, "signed %s %d", name, v),
		User: "root", Signers: []string{"ada"}, CutOff: true,
	}
	if kind == order.Standing || kind == order.Run {
		l.Source = []byte("of r1")
		l.Digest, l.Run = order.Digest(l.Source), fmt.Sprintf("r1-L%s%d", name, v)
	}
	return &pb.Record{AtUnixMs: 77, Body: &pb.Record_Local{Local: l}}
}

// desired is what a rack is told, in a line.
func desired(l *log, rack string) string {
	var all []string
	d := l.Desired(rack)
	for _, s := range d.GetScripts() {
		all = append(all, fmt.Sprintf("%s %d", s.GetName(), s.GetVersion()))
	}
	for _, e := range d.GetEnded() {
		all = append(all, fmt.Sprintf("no %s %d", e.GetName(), e.GetVersion()))
	}
	for _, r := range d.GetRuns() {
		all = append(all, "run "+r.GetId())
	}
	return strings.Join(all, ", ")
}

func named(name string, c *pb.Command) *pb.Command {
	if s := c.GetApplyScript().GetScript(); s != nil {
		s.Name = name
	}
	c.GetApplyScript().GetRun().Script = name
	return c
}

// twoRacks is a fleet of racks r1 and r2 where thermal stands with version 10.
func twoRacks(t *testing.T) *log {
	t.Helper()
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(putAgent("a2", "r2"))
	l.must(named("thermal", version(10, script("thermal", "of the fleet"), runOf("of the fleet", "r1"))))
	l.must(batch("a1", "r1", 1, done("R1", 1, 0)))
	return l
}

// What a person on a rack has put into force stands there alone, with its run, its
// results and who it was, each recorded once.
func TestADecisionOnARackIsTakenOver(t *testing.T) {
	l := twoRacks(t)
	there := onRack(order.Standing, "thermal", 20)
	o := l.must(batch("a1", "r1", 2, there, accepted("r1-Lthermal20"), result("r1-Lthermal20", "n1"), done("r1-Lthermal20", 1, 0)))
	equal(t, "nothing is dropped", len(o.Dropped), 0)
	equal(t, "the rack is woken", o.Racks, []string{"r1"})
	l.must(batch("a1", "r1", 2, proto.CloneOf(there))) // again: it is known

	equal(t, "r1", desired(l, "r1"), "thermal 20")
	equal(t, "r2", desired(l, "r2"), "thermal 10")
	run, results, ok := l.Run("r1-Lthermal20", 0)
	equal(t, "its run", []any{ok, run.GetRack(), run.GetStartedBy(), run.GetState(), run.GetStartedUnixMs(), len(results)},
		[]any{true, "r1", "root@r1", state.Done, int64(77), 1})
	var listed []string
	for _, s := range l.Scripts() {
		listed = append(listed, fmt.Sprintf("%s %d %q", s.GetName(), s.GetVersion(), s.GetRack()))
	}
	equal(t, "listed", listed, []string{`thermal 10 ""`, `thermal 20 "r1"`})
	equal(t, "an author is told the last version", l.LastVersion("thermal"), uint64(20))
	told := l.audited()
	want := "agent a1: apply on the rack: script thermal: by root (uid 0) at 1970-01-01T00:00:00Z, signed by ada, version 20, run r1-Lthermal20, cut off: " +
		"it stands on that rack alone, until somebody decides about thermal for the fleet"
	equal(t, "audited", told[len(told)-1], want)
	equal(t, "a restored state is the same", hash(t, again(t, l.Machine)), hash(t, l.Machine))

	l.must(named("thermal", version(30, script("thermal", "new"), runOf("new", "r1"))))
	equal(t, "the fleet decides", desired(l, "r1"), "thermal 30, run R2")
	equal(t, "for everybody", desired(l, "r2"), "thermal 30")
}

// The standby that takes over tells again what the dead owner may have told already,
// and that one tells it when it is back: it is one order, in force once, and nobody
// has decided anything since.
func TestBothAgentsOfARackTellOfAnOrder(t *testing.T) {
	for name, first := range map[string]string{"the dead one had told it": "a1", "it had not": "b1"} {
		t.Run(name, func(t *testing.T) {
			l := twoRacks(t)
			l.must(paired("a1", "r1", "b1"))
			l.must(paired("b1", "r1", "a1"))
			standing, run := onRack(order.Standing, "thermal", 20), onRack(order.Run, "tag", 21)
			again := proto.CloneOf(standing)
			again.GetLocal().Run = "" // its run is the dead one's
			if first == "a1" {
				l.must(batch("a1", "r1", 2, standing, run))
				l.must(batch("b1", "r1", 1, again, proto.CloneOf(run)))
			} else {
				l.must(batch("b1", "r1", 1, again, proto.CloneOf(run)))
				l.must(batch("a1", "r1", 2, standing, run))
			}
			l.must(batch("b1", "r1", 3, result("r1-Ltag21", "n1"), done("r1-Ltag21", 1, 0)))
			equal(t, "r1", desired(l, "r1"), "thermal 20, run r1-Lthermal20")
			equal(t, "nobody was overruled", l.Scripts()[0].GetRemarks(), []string(nil))
			_, results, ok := l.Run("r1-Ltag21", 0)
			equal(t, "the run", []any{ok, len(results)}, []any{true, 1})
			told := 0
			for _, line := range l.audited() {
				if strings.Contains(line, "script thermal") && strings.Contains(line, "it stands on that rack alone") {
					told++
				}
			}
			equal(t, "told once", told, 1)
		})
	}
}

// Of two decisions the newer counts, and what is overruled is told.
func TestTheFleetHasDecidedSince(t *testing.T) {
	l := twoRacks(t)
	o := l.must(batch("a1", "r1", 2, onRack(order.Standing, "thermal", 9), done("r1-Lthermal9", 1, 0)))
	equal(t, "r1", desired(l, "r1"), "thermal 10")
	news := o.Events[1].GetLocal()
	equal(t, "watchers are told", []any{news.GetSuperseded(), news.GetOutcome()},
		[]any{true, "the fleet has decided about thermal since, and that holds on the rack too"})
	equal(t, "and who lists the scripts", l.Scripts()[0].GetRemarks(), []string{"the version of root on rack r1 (version 9) is over: this one is newer"})
	_, _, kept := l.Run("r1-Lthermal9", 0)
	equal(t, "what was done is known", kept, true)
	if told := l.audited(); !strings.Contains(told[len(told)-1], "the fleet has decided about thermal since") {
		t.Errorf("audited: %s", told[len(told)-1])
	}
}

func TestAScriptThatWasEndedOnARack(t *testing.T) {
	l := twoRacks(t)
	l.must(batch("a1", "r1", 2, onRack(order.Remove, "thermal", 20)))
	equal(t, "r1", desired(l, "r1"), "no thermal 20")
	equal(t, "r2", desired(l, "r2"), "thermal 10")
	last := l.Scripts()[1]
	equal(t, "listed", []any{last.GetRack(), last.GetEnded()}, []any{"r1", true})
	o := l.must(removal("thermal", 30))
	equal(t, "everybody is told", o.Racks, []string{"r1", "r2"})
	equal(t, "r1", desired(l, "r1"), "no thermal 30")
}

// What stands on a rack alone can be ended for the fleet, and by who is on the rack.
func TestAScriptThatStandsOnARackAlone(t *testing.T) {
	l := twoRacks(t)
	l.must(batch("a1", "r1", 2, onRack(order.Standing, "own", 20), done("r1-Lown20", 1, 0)))
	equal(t, "r2 has nothing of it", desired(l, "r2"), "thermal 10")
	s, ok := l.Script("own")
	equal(t, "its source", []any{ok, string(s.GetSource())}, []any{true, "of r1"})
	l.must(removal("own", 30))
	equal(t, "r1", desired(l, "r1"), "thermal 10, no own 30")

	l.must(batch("a1", "r1", 4, onRack(order.Standing, "own", 40), onRack(order.Remove, "own", 50)))
	equal(t, "on the rack", desired(l, "r1"), "thermal 10, no own 30, run r1-Lown40")
	refusedAs(t, l.try(removal("own", 60)), fault.NotFound, `no script named "own"`)
}

// What is done once ends what stood under its name, on the rack alone.
func TestARunOnARackEndsWhatStood(t *testing.T) {
	l := twoRacks(t)
	l.must(batch("a1", "r1", 2, onRack(order.Run, "thermal", 20)))
	equal(t, "r1", desired(l, "r1"), "no thermal 20, run r1-Lthermal20")
	equal(t, "r2", desired(l, "r2"), "thermal 10")
}

func TestARunThatWasStoppedOnARack(t *testing.T) {
	l := twoRacks(t)
	l.must(version(11, nil, runOf("x", "r1", "r2"))) // R2
	stop := onRack(order.Cancel, "a", 30)
	stop.GetLocal().Run = "R2"
	l.must(batch("a1", "r1", 2, stop))
	run, _, _ := l.Run("R2", 0)
	equal(t, "its part", []string{run.GetState(), run.GetRacks()[0].GetState(), run.GetRacks()[0].GetError()},
		[]string{state.Running, state.Canceled, "stopped on the rack by root"})
	equal(t, "it is not told again", desired(l, "r1"), "thermal 10")

	own := onRack(order.Run, "own", 40)
	stop = onRack(order.Cancel, "own", 50)
	stop.GetLocal().Run = "r1-Lown40"
	end := done("r1-Lown40", 0, 1)
	end.GetDone().Error = "the run was canceled"
	l.must(batch("a1", "r1", 3, own, stop, end))
	run, _, _ = l.Run("r1-Lown40", 0)
	equal(t, "its own", run.GetState(), state.Canceled)
}

// An agent in bad hands speaks for its own rack, and can't keep the fleet from
// deciding.
func TestThreat32AnAgentThatInventsDecisions(t *testing.T) {
	far := uint64(1) << 63
	for name, c := range map[string]struct {
		lie  func(*pb.LocalOrder)
		want string // what r1 is told
	}{
		"a version from the future":   {func(l *pb.LocalOrder) { l.Version = far }, "thermal 10, run r1-Lthermal20"},
		"the name of a run of others": {func(l *pb.LocalOrder) { l.Run = "R1" }, "thermal 20"},
		"the run of another rack":     {func(l *pb.LocalOrder) { l.Run = "r2-Lx" }, "thermal 20"},
		"another script's digest":     {func(l *pb.LocalOrder) { l.Digest = order.Digest([]byte("x")) }, "thermal 20"},
		"an order nobody knows":       {func(l *pb.LocalOrder) { l.Kind = "rule" }, "thermal 10"},
	} {
		t.Run(name, func(t *testing.T) {
			l := twoRacks(t)
			lie := onRack(order.Standing, "thermal", 20)
			c.lie(lie.GetLocal())
			l.must(batch("a1", "r1", 2, lie))
			equal(t, "r1", desired(l, "r1"), c.want)
			equal(t, "r2", desired(l, "r2"), "thermal 10")
			if got := l.LastVersion("thermal"); got > 20 {
				t.Errorf("authors are told version %d", got)
			}
			l.must(named("thermal", version(30, script("thermal", "new"), runOf("new"))))
		})
	}
}

func TestDecisionsOnARackAreBounded(t *testing.T) {
	l := twoRacks(t)
	var last *pb.Record
	for i := range state.MaxLocalPerRack + 1 {
		last = onRack(order.Standing, fmt.Sprint("s", i), 20)
		id := last.GetLocal().GetRun()
		l.must(batch("a1", "r1", uint64(2+2*i), last, done(id, 1, 0)))
	}
	equal(t, "scripts", len(l.Scripts()), 1+state.MaxLocalPerRack)
	if told := l.audited(); !strings.Contains(told[len(told)-1], "scripts of its own already") {
		t.Errorf("audited: %s", told[len(told)-1])
	}
	var dropped []state.Dropped
	for i := range 70 { // whose runs do not end
		o := l.must(batch("a1", "r1", uint64(2+2*(state.MaxLocalPerRack+1)+i), onRack(order.Run, fmt.Sprint("r", i), 20)))
		dropped = append(dropped, o.Dropped...)
	}
	if diff := cmp.Diff(6, len(dropped)); diff != "" {
		t.Errorf("runs that were refused: %s %v", diff, dropped[0])
	}
}

func removal(name string, v uint64) *pb.Command {
	return &pb.Command{Body: &pb.Command_RemoveScript{RemoveScript: &pb.RemoveScript{Name: name, Version: v, Envelope: []byte("signed")}}}
}
