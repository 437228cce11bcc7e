package state_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func TestTheLifeOfAScriptAndItsRun(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(putAgent("a2", "r2"))

	o := l.must(apply(script("thermal", "(config)"), runOf("(config)", "r2", "r1")))
	equal(t, "events", kinds(o.Events), "script thermal, run R1 running")
	equal(t, "racks to wake", o.Racks, []string{"r1", "r2"})
	equal(t, "revision", []uint64{o.Revision, o.Script.GetRevision()}, []uint64{1, 1})
	equal(t, "order of racks", o.Run.GetRacks()[0].GetRack(), "r1")

	d := l.Desired("r1")
	equal(t, "desired of r1", []int{len(d.GetScripts()), len(d.GetRuns())}, []int{1, 1})
	equal(t, "source goes along", string(d.GetScripts()[0].GetSource()), "(config)")
	equal(t, "no rack sees another's part", len(d.GetRuns()[0].GetRacks()), 1)

	o = l.must(batch("a1", "r1", 1, accepted("R1"), result("R1", "n1"), done("R1", 2, 0)))
	equal(t, "events", kinds(o.Events), "run R1 running, run R1 running")
	equal(t, "next wanted", o.NextWanted, uint64(4))
	equal(t, "r1 has nothing left to run", len(l.Desired("r1").GetRuns()), 0)
	equal(t, "r2 has", len(l.Desired("r2").GetRuns()), 1)

	o = l.must(batch("a2", "r2", 1, result("R1", "n9"), done("R1", 0, 1)))
	equal(t, "events", kinds(o.Events), "run R1 partly failed")
	r, results, ok := l.Run("R1", 1)
	equal(t, "ended", []any{ok, r.GetState(), r.GetEndedUnixMs()}, []any{true, state.PartlyFailed, int64(5000)})
	equal(t, "results from the second on", len(results), 1)
	equal(t, "whose", results[0].GetNode(), "n9")

	o = l.must(removeScript("thermal"))
	equal(t, "events", kinds(o.Events), "removed thermal")
	equal(t, "nothing stands", len(l.Desired("r1").GetScripts()), 0)
	refusedAs(t, l.try(removeScript("thermal")), fault.NotFound, `no script named "thermal"`)
}

func TestHowARunEnds(t *testing.T) {
	ofRack := func(ok, failed int32, text string) *pb.Record {
		r := done("R1", ok, failed)
		r.GetDone().Error = text
		return r
	}
	for name, c := range map[string]struct {
		r1, r2 *pb.Record
		want   string
	}{
		"all went well":              {ofRack(2, 0, ""), ofRack(1, 0, ""), state.Done},
		"no node matched":            {ofRack(0, 0, ""), ofRack(0, 0, ""), state.Done},
		"one node failed":            {ofRack(2, 1, ""), ofRack(1, 0, ""), state.PartlyFailed},
		"one rack did not do it":     {ofRack(2, 0, ""), ofRack(0, 0, "no key"), state.PartlyFailed},
		"every node failed":          {ofRack(0, 1, ""), ofRack(0, 3, ""), state.Failed},
		"no rack did it":             {ofRack(0, 0, "no key"), ofRack(0, 0, "no key"), state.Failed},
		"failed, and none elsewhere": {ofRack(0, 1, ""), ofRack(0, 0, ""), state.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLog(t)
			l.must(putAgent("a1", "r1"))
			l.must(putAgent("a2", "r2"))
			l.must(apply(nil, runOf("x", "r1", "r2")))
			l.must(batch("a1", "r1", 1, c.r1))
			l.must(batch("a2", "r2", 1, c.r2))
			r, _, _ := l.Run("R1", 0)
			equal(t, "state", r.GetState(), c.want)
		})
	}
	t.Run("it concerns no rack", func(t *testing.T) {
		o := newLog(t).must(apply(nil, runOf("x")))
		equal(t, "state", o.Run.GetState(), state.Done)
	})
}

func TestCancel(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(apply(nil, runOf("x", "r1")))
	o := l.must(cancel("R1"))
	equal(t, "state", []string{o.Run.GetState(), o.Run.GetRacks()[0].GetState()}, []string{state.Canceled, state.Canceled})
	equal(t, "the rack is woken", o.Racks, []string{"r1"})
	equal(t, "nothing to run", len(l.Desired("r1").GetRuns()), 0)
	refusedAs(t, l.try(cancel("R1")), fault.Conflict, "canceled already")
	refusedAs(t, l.try(cancel("R2")), fault.NotFound, `no run "R2"`)

	l.must(batch("a1", "r1", 1, result("R1", "n1"), done("R1", 1, 0)))
	r, results, _ := l.Run("R1", 0)
	equal(t, "what was done before is known", []any{r.GetRacks()[0].GetOk(), len(results)}, []any{int32(1), 1})
	equal(t, "it stays canceled", r.GetState(), state.Canceled)
}

func TestTheDeadlineOfARunThatARackDoesNotAnswer(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(putAgent("a2", "r2"))
	l.must(apply(nil, runOf("x", "r1", "r2")))
	l.must(batch("a1", "r1", 1, done("R1", 2, 0)))
	equal(t, "before", l.Overdue(1e6), nil)
	equal(t, "after", l.Overdue(1e6+1), []string{"R1"})

	late := cancel("R1")
	late.AtUnixMs = 1e6 + 1
	o := l.must(late)
	equal(t, "state", o.Run.GetState(), state.PartlyFailed)
	equal(t, "why", o.Run.GetRacks()[1].GetError(), "it had not answered by the deadline")
	equal(t, "none overdue", l.Overdue(1e9), nil)

	l.must(batch("a2", "r2", 1, done("R1", 3, 0)))
	r, _, _ := l.Run("R1", 0)
	equal(t, "the truth comes late", []any{r.GetState(), r.GetEndedUnixMs()}, []any{state.Done, int64(1e6 + 1)})
}

func TestEachRecordCountsOnce(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(apply(nil, runOf("x", "r1")))
	count := func() int { _, rs, _ := l.Run("R1", 0); return len(rs) }

	l.must(batch("a1", "r1", 1, result("R1", "n1"), result("R1", "n2")))
	o := l.must(batch("a1", "r1", 1, result("R1", "n1"), result("R1", "n2")))
	equal(t, "the same again", []any{count(), o.NextWanted}, []any{2, uint64(3)})
	o = l.must(batch("a1", "r1", 2, result("R1", "n2"), result("R1", "n3")))
	equal(t, "half of it again", []any{count(), o.NextWanted}, []any{3, uint64(4)})
	o = l.try(batch("a1", "r1", 6, result("R1", "n6")))
	refusedAs(t, o, fault.Conflict, "record 6 came before record 4")
	equal(t, "what is wanted", o.NextWanted, uint64(4))

	hole := batch("a1", "r1", 4, result("R1", "n4"), result("R1", "n5"))
	hole.GetRecordResults().Records[1].Seq = 9
	refusedAs(t, l.try(hole), fault.BadInput, "record 9 follows record 4")
	refusedAs(t, l.try(batch("a1", "r1", 4)), fault.BadInput, "empty")

	fresh := batch("a1", "r1", 100, result("R1", "n7"))
	fresh.GetRecordResults().SpoolEpoch = 8
	o = l.must(fresh)
	equal(t, "a new epoch starts at its own first", []any{count(), o.NextWanted}, []any{4, uint64(101)})
	refusedAs(t, l.try(batch("a1", "r1", 4, result("R1", "n4"))), fault.Conflict, "spool epoch 7 is over")
}

// A batch may still be on its way when the agent's process has died. The disk may have
// been put back since: then the next process has other records under its numbers.
func TestBatchOfAnEarlierProcess(t *testing.T) {
	l := newLog(t)
	hello := func(boot uint64) *pb.Command {
		return agent(&pb.AgentInfo{Name: "a1", Rack: "r1", SpoolEpoch: 7, NextSeq: 1, Boot: boot})
	}
	from := func(boot uint64, c *pb.Command) *pb.Command {
		c.GetRecordResults().Boot = boot
		return c
	}
	l.must(apply(nil, runOf("x", "r1")))
	l.must(hello(11))
	l.must(from(11, batch("a1", "r1", 1, result("R1", "n1"))))
	l.must(hello(12))
	refusedAs(t, l.try(from(11, batch("a1", "r1", 2, result("R1", "n2")))), fault.Conflict, "another process of agent a1")
	equal(t, "next wanted", l.must(from(12, batch("a1", "r1", 2, result("R1", "n3")))).NextWanted, uint64(3))
}

func TestWhereASpoolGoesOn(t *testing.T) {
	said := func(epoch, next uint64) *pb.Command {
		return agent(&pb.AgentInfo{Name: "a1", Rack: "r1", SpoolEpoch: epoch, NextSeq: next})
	}
	l := newLog(t)
	for _, c := range []struct {
		why         string
		epoch, next uint64
		want        uint64
	}{
		{"a new agent starts where it says", 7, 5, 5},
		{"it knows less than we do", 7, 2, 5},
		{"it has thrown away what we have lost", 7, 9, 9},
		{"a rolled back disk", 6, 30, 9},
		{"a new spool", 8, 1, 1},
	} {
		equal(t, c.why, l.must(said(c.epoch, c.next)).NextWanted, c.want)
	}
}

func TestAnAgentSpeaksForItsOwnRackOnly(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(putAgent("a2", "r2"))
	l.must(apply(nil, runOf("x", "r1")))
	l.must(batch("a1", "r1", 1, node("n1", "bmc-1")))

	refusedAs(t, l.try(putAgent("a3", "r1")), fault.Conflict, "rack r1 is served by agent a1")
	refusedAs(t, l.try(putAgent("a1", "r3")), fault.Conflict, "agent a1 serves rack r1, not r3")
	refusedAs(t, l.try(batch("a2", "r1", 1, result("R1", "n1"))), fault.Denied, "serves rack r2")
	refusedAs(t, l.try(batch("a9", "r1", 1, result("R1", "n1"))), fault.NotFound, `no agent "a9"`)

	o := l.must(batch("a2", "r2", 1,
		result("R1", "n1"), done("R1", 1, 0), result("R9", "n1"), node("n1", "bmc-2"), gone("n1"), node("n\x1b[2J", "b"), done("R1", 0, 0)))
	var why []string
	for _, d := range o.Dropped {
		why = append(why, fmt.Sprintf("%d: %s", d.Seq, d.Reason))
	}
	equal(t, "dropped", why, []string{
		"1: run R1 does not concern rack r2",
		"2: run R1 does not concern rack r2",
		`3: run "R9" is not kept`,
		"4: the name n1 belongs to a node of rack r1",
		`5: rack r2 has no node "n1"`,
		`6: the name of the node has a character that can't be printed: "n\x1b[2J"`,
		"7: run R1 does not concern rack r2",
	})
	equal(t, "but counted as recorded", o.NextWanted, uint64(8))
	equal(t, "n1 is where it was", l.Nodes()[0].GetRack(), "r1")
}

func TestNodesComeMoveAndGo(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(putAgent("a2", "r2"))
	o := l.must(batch("a1", "r1", 1, node("n2", "b2"), node("n1", "b1"), node("n1", "b1")))
	equal(t, "events", kinds(o.Events), "node n2 ready, node n1 ready, node n1 ready")
	equal(t, "nodes", l.Counts().Nodes, 2)
	l.must(batch("a2", "r2", 1, node("n1", "b1")))
	nodes := l.Nodes()
	equal(t, "n1 has moved", []string{nodes[0].GetName(), nodes[0].GetRack(), nodes[0].GetSite(), nodes[1].GetRack()}, []string{"n1", "r2", "s1", "r1"})
	o = l.must(batch("a2", "r2", 2, gone("n1")))
	equal(t, "events", kinds(o.Events), "node n1 gone")
	equal(t, "left", l.Counts().Nodes, 1)
}

func TestWhatIsRefusedChangesNothing(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(apply(script("s", "x"), runOf("x", "r1")))
	before, _ := l.Hash()
	wrong := script("s", "y")
	wrong.Digest = order.Digest([]byte("z"))
	for why, c := range map[string]*pb.Command{
		"there is neither a script nor a run":     apply(nil, nil),
		"the script has no name":                  apply(script("", "x"), nil),
		"longer than 253 bytes":                   apply(script(strings.Repeat("n", 254), "x"), nil),
		"digest is not that of its source":        apply(wrong, nil),
		"more than 4 MiB":                         apply(nil, runOf(strings.Repeat("x", state.MaxSource+1), "r1")),
		"rack r1 is there twice":                  apply(script("t", "x"), runOf("x", "r1", "r1")),
		"the rack has no name":                    apply(script("t", "x"), runOf("x", "")),
		"the agent has no name":                   putAgent("", "r1"),
		"the name of the rack is longer":          putAgent("a9", strings.Repeat("n", 254)),
		"the name of the script has a character":  apply(script("a\nb", "x"), nil),
		`no script named "nope"`:                  removeScript("nope"),
		"record 5 came before record 1":           batch("a1", "r1", 5, result("R1", "n1")),
		"agent a1 serves rack r1, not some-other": batch("a1", "some-other", 1, result("R1", "n1")),
	} {
		o := l.try(c)
		if o.Err == nil || !strings.Contains(o.Err.Error(), why) {
			t.Errorf("got %v, want an error with %q", o.Err, why)
		}
		if len(o.Events) > 0 || len(o.Racks) > 0 {
			t.Errorf("%s: it has events", why)
		}
	}
	if after, _ := l.Hash(); after != before {
		t.Error("the state has changed")
	}
}

func TestACommandOfALaterVersionStopsTheMachine(t *testing.T) {
	later := &pb.Record{Seq: 1} // its body is of a type we do not know
	for name, c := range map[string]*pb.Command{
		"its version is 2":            {Version: 2, Body: apply(script("s", "x"), nil).GetBody()},
		"its type is not known":       {Version: 1},
		"the type of record 1 is not": {Version: 1, Body: batch("a1", "r1", 1, later).GetBody()},
		"it comes after command 1":    nil,
	} {
		l := newLog(t)
		l.must(putAgent("a1", "r1"))
		index := l.index + 1
		if c == nil {
			c, index = putAgent("a2", "r2"), 1
			c.Version = 1
		}
		before, _ := l.Hash()
		_, err := l.Apply(index, c)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want an error with %q", err, name)
		}
		good := putAgent("a3", "r3")
		good.Version = 1
		if _, again := l.Apply(l.index+2, good); !cmp.Equal(fmt.Sprint(again), fmt.Sprint(err)) {
			t.Errorf("%s: the next command gave %v", name, again)
		}
		if after, _ := l.Hash(); after != before {
			t.Errorf("%s: the state has changed", name)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Run("ended runs", func(t *testing.T) {
		l := newLog(t)
		l.must(putAgent("a1", "r1"))
		l.must(apply(nil, runOf("x", "r1"))) // R1 stays open
		for range state.MaxEndedRuns + 5 {
			l.must(apply(nil, runOf("x")))
		}
		runs := l.Runs()
		equal(t, "kept", len(runs), state.MaxEndedRuns+1)
		equal(t, "the open one and the newest", []string{runs[len(runs)-1].GetId(), runs[len(runs)-2].GetId(), runs[0].GetId()}, []string{"R1", "R7", "R1006"})
	})
	t.Run("open runs", func(t *testing.T) {
		l := newLog(t)
		for range state.MaxOpenRuns {
			l.must(apply(nil, runOf("x", "r1")))
		}
		refusedAs(t, l.try(apply(nil, runOf("x", "r1"))), fault.Conflict, "1000 runs have not ended yet")
		l.must(cancel("R3"))
		l.must(apply(nil, runOf("x", "r1")))
	})
	t.Run("results of a run", func(t *testing.T) {
		l := newLog(t)
		l.must(putAgent("a1", "r1"))
		l.must(apply(nil, runOf("x", "r1")))
		var records []*pb.Record
		for range state.MaxResults + 3 {
			records = append(records, result("R1", "n1"))
		}
		o := l.must(batch("a1", "r1", 1, records...))
		_, results, _ := l.Run("R1", state.MaxResults-1)
		equal(t, "kept", len(results), 2)
		equal(t, "the last says so", results[1].GetKind(), string(fault.TooLarge))
		equal(t, "dropped", len(o.Dropped), 2)
	})
	t.Run("bytes of a run", func(t *testing.T) {
		l := newLog(t)
		l.must(putAgent("a1", "r1"))
		l.must(apply(nil, runOf("x", "r1")))
		const each = 1 << 20
		var records []*pb.Record
		for range state.MaxRunBytes/each + 3 {
			r := result("R1", "n1")
			r.GetResult().Body = make([]byte, each)
			records = append(records, r)
		}
		l.must(batch("a1", "r1", 1, records...))
		_, results, _ := l.Run("R1", 0)
		with := slices.IndexFunc(results, func(r *pb.Result) bool { return len(r.GetBody()) == 0 })
		equal(t, "all are there", len(results), len(records))
		equal(t, "those with their bodies", with, state.MaxRunBytes/each)
	})
	t.Run("firings", func(t *testing.T) {
		l := newLog(t)
		l.must(putAgent("a1", "r1"))
		var records []*pb.Record
		for i := range state.MaxFirings + 10 {
			records = append(records, firing(fmt.Sprint("m", i)))
		}
		huge := firing("huge")
		huge.GetFiring().Condition = strings.Repeat("é", 1<<20)
		l.must(batch("a1", "r1", 1, append(records, huge)...))
		all := l.Firings(1 << 30)
		equal(t, "kept", len(all), state.MaxFirings)
		equal(t, "the first", all[0].GetRule(), "m11")
		last := l.Firings(1)[0]
		equal(t, "the huge one was clipped", []any{last.GetRule(), len(last.GetCondition())}, []any{"huge", 1<<10 + len("…")})
	})
	t.Run("news of hardware", func(t *testing.T) {
		l := newLog(t)
		l.must(putAgent("a1", "r1"))
		records := []*pb.Record{node("n1", "b")}
		for i := range state.MaxNews + 10 {
			records = append(records, hardware("n1", strconv.Itoa(i)))
		}
		huge := hardware("n1", strings.Repeat("x", 1<<20))
		o := l.must(batch("a1", "r1", 1, append(records, huge, hardware("n2", "x"))...))
		equal(t, "of another's node", o.Dropped, []state.Dropped{{Seq: uint64(len(records) + 2), Reason: `rack r1 has no node "n2"`}})
		all := l.HardwareNews(1 << 30)
		equal(t, "kept", len(all), state.MaxNews)
		equal(t, "the first", all[0].GetChanges()[0].GetPath(), "11")
		last := l.HardwareNews(1)[0]
		equal(t, "the huge one lost its list", []any{len(last.GetChanges()), last.GetMore()}, []any{0, int32(1)})
	})
	t.Run("nodes of a rack", func(t *testing.T) {
		l := newLog(t)
		l.must(putAgent("a1", "r1"))
		var records []*pb.Record
		for i := range state.MaxNodesPerRack {
			records = append(records, node(fmt.Sprint("n", i), "b"))
		}
		l.must(batch("a1", "r1", 1, records...))
		o := l.must(batch("a1", "r1", state.MaxNodesPerRack+1, node("more", "b"), gone("n0"), node("more", "b")))
		equal(t, "dropped", o.Dropped, []state.Dropped{{Seq: state.MaxNodesPerRack + 1, Reason: "rack r1 has 4096 nodes already"}})
	})
}

func TestListsLeaveSourcesOut(t *testing.T) {
	l := newLog(t)
	l.must(apply(script("s", "x"), runOf("x")))
	equal(t, "scripts", len(l.Scripts()[0].GetSource()), 0)
	equal(t, "runs", len(l.Runs()[0].GetSource()), 0)
	s, _ := l.Script("s")
	equal(t, "the script has it", string(s.GetSource()), "x")
	r, _, _ := l.Run("R1", 0)
	equal(t, "the run has it", string(r.GetSource()), "x")
	if _, _, ok := l.Run("R2", 0); ok {
		t.Error("there is a run R2")
	}
}

// Sources are bounded like everything else that is kept: a snapshot is one
// message, and must stay one.
func TestSourcesAreBounded(t *testing.T) {
	big := strings.Repeat("x", state.MaxSource)
	t.Run("of runs", func(t *testing.T) {
		l := newLog(t)
		l.must(putAgent("a1", "r1"))
		r := runOf(big)
		for range state.MaxResultBytes/state.MaxSource + 3 {
			l.must(apply(nil, r)) // they concern no rack, and end at once
		}
		runs := l.Runs()
		equal(t, "the oldest went", runs[len(runs)-1].GetId(), "R4")
	})
	t.Run("of open runs", func(t *testing.T) {
		l := newLog(t)
		l.must(putAgent("a1", "r1"))
		r := runOf(big, "r1")
		for range state.MaxResultBytes / state.MaxSource {
			l.must(apply(nil, r))
		}
		refusedAs(t, l.try(apply(nil, r)), fault.TooLarge, "runs that have not ended hold")
	})
	t.Run("of scripts", func(t *testing.T) {
		l, one := newLog(t), script("", big)
		named := func(name string) *pb.Command { // they share the source
			return apply(&pb.Script{Name: name, Source: one.GetSource(), Digest: one.GetDigest()}, nil)
		}
		for i := range state.MaxSourceBytes / state.MaxSource {
			l.must(named(fmt.Sprint("s", i)))
		}
		refusedAs(t, l.try(named("more")), fault.TooLarge, "standing scripts hold")
		l.must(named("s0")) // in place of itself
		l.must(removeScript("s0"))
		l.must(named("more"))
	})
}

// A script is replaced as a whole: what the new one no longer says is no longer in
// force.
func TestAScriptThatNoLongerStands(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(putAgent("a2", "r2"))
	named := func(source string) *pb.Run {
		r := runOf(source, "r1")
		r.Script = "s"
		return r
	}
	l.must(apply(script("s", "(monitor)"), named("(monitor)")))
	o := l.must(apply(nil, named("(show)")))
	equal(t, "what stands", len(l.Desired("r2").GetScripts()), 0)
	equal(t, "racks to wake", o.Racks, []string{"r1", "r2"})
	equal(t, "events", kinds(o.Events), "removed s, run R2 running")
}

// An agent that comes back with a new disk does not know what it has done. What it
// had accepted is not given to it again: an action is done at most once.
func TestAnAgentThatLostItsDisk(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(apply(nil, runOf("x", "r1"))) // R1: accepted
	l.must(apply(nil, runOf("x", "r1"))) // R2: not yet
	l.must(batch("a1", "r1", 1, accepted("R1")))
	o := l.must(agent(&pb.AgentInfo{Name: "a1", Rack: "r1", SpoolEpoch: 8, NextSeq: 1}))
	equal(t, "events", kinds(o.Events), "run R1 failed")
	equal(t, "why", l.Runs()[1].GetRacks()[0].GetError(), "its agent has lost its disk: what it had done is not known")
	runs := l.Desired("r1").GetRuns()
	equal(t, "what is left to do", []any{len(runs), runs[0].GetId()}, []any{1, "R2"})
	o = l.must(agent(&pb.AgentInfo{Name: "a1", Rack: "r1", SpoolEpoch: 8, NextSeq: 1, Build: "new"}))
	equal(t, "the same disk again", kinds(o.Events), "")
}
