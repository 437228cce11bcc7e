package state_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/audit"
)

// audited is the audit log in lines.
func (l *log) audited() (lines []string) {
	l.t.Helper()
	for _, leaf := range l.Audit(0, 1<<20) {
		r, err := audit.Decode(leaf)
		if err != nil {
			l.t.Fatal(err)
		}
		lines = append(lines, strings.Join([]string{r.By, r.What, r.Subject, r.Detail}, ": "))
	}
	return lines
}

func by(who string, c *pb.Command) *pb.Command {
	c.By = who
	return c
}

func version(v uint64, s *pb.Script, r *pb.Run) *pb.Command {
	if s != nil {
		s.Version, s.Envelope = v, []byte("signed")
	}
	r.Version, r.Envelope, r.Script = v, []byte("signed"), "a"
	return apply(s, r)
}

func reports(epochSeq uint64, records ...*pb.Record) *pb.Command {
	for i, r := range records {
		r.Seq = epochSeq + uint64(i)
	}
	return &pb.Command{Body: &pb.Command_RecordResults{RecordResults: &pb.RecordResults{Agent: "a1", Rack: "r1", SpoolEpoch: 7, Records: records}}}
}

func TestWhatIsAudited(t *testing.T) {
	l := newLog(t)
	refused := &pb.Record{Body: &pb.Record_Refused{Refused: &pb.Refused{What: "run", Name: "s", Reason: "it is not signed"}}}
	password := &pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Run: "R1", Node: "n1", Path: "bmc.user.root.password", Status: "confirmed"}}}
	trusted := &pb.Record{Body: &pb.Record_Trust{Trust: &pb.TrustChange{Node: "n1", From: "T3", To: "TX", Why: "it answers with another key", Facts: "af"}}}
	l.must(putAgent("a1", "r1"))
	l.must(putAgent("a1", "r1")) // that it is back is no news
	l.must(&pb.Command{By: "ada", Body: &pb.Command_PutPolicy{PutPolicy: &pb.PutPolicy{Version: 3, Envelope: []byte("p")}}})
	l.must(by("ada", version(11, script("a", "x"), runOf("x", "r1"))))
	l.must(reports(1, refused, password, trusted))
	l.must(reports(1, proto.CloneOf(refused), proto.CloneOf(password), proto.CloneOf(trusted))) // again: it is noted once
	l.must(by("bob", version(12, nil, runOf("y", "r1"))))
	l.must(by("bob", cancel("R2")))
	l.try(by("eve", cancel("R2"))) // which has ended: nothing was done
	want := []string{
		"agent a1: join: rack r1: ",
		"operator ada: policy: authors: version 3",
		"operator ada: apply: script a: version 11, run R1",
		"agent a1: refuse: run s: it is not signed",
		"agent a1: set password: n1 bmc.user.root.password: run R1",
		"agent a1: trust: bmc of n1: T3 to TX: it answers with another key",
		"operator bob: run: script a: version 12, run R2",
		"operator bob: cancel: run R2: script a",
	}
	if diff := cmp.Diff(want, l.audited()); diff != "" {
		t.Errorf("the audit log (-want +got):\n%s", diff)
	}
}

// A coordinator that starts from a snapshot signs the same tree as the others.
func TestThreat33SnapshotKeepsTheTree(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	for v := uint64(1); v < 20; v++ {
		l.must(version(v, script("a", "x"), runOf("x", "r1")))
	}
	other := newLog(t)
	if err := other.Restore(l.Snapshot()); err != nil {
		t.Fatal(err)
	}
	other.index = l.index
	for _, m := range []*log{l, other} {
		m.must(version(20, script("a", "x"), runOf("x", "r1")))
	}
	one, _, err := l.AuditHead(0)
	if err != nil {
		t.Fatal(err)
	}
	two, proof, err := other.AuditHead(7)
	if err != nil || one != two {
		t.Errorf("%v and %v, %v", one, two, err)
	}
	var first audit.Log
	for _, leaf := range l.Audit(0, 7) {
		if err = first.Add(leaf); err != nil {
			t.Fatal(err)
		}
	}
	seen, err := first.Head(7)
	if err != nil || seen.Follows(two, proof) != nil {
		t.Errorf("what was seen does not go on: %v", err)
	}
}

// The newest order counts: agents would refuse an older one.
func TestThreat32OlderOrders(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(version(11, script("a", "x"), runOf("x", "r1")))
	remove := func(v uint64) *pb.Command {
		return &pb.Command{Body: &pb.Command_RemoveScript{RemoveScript: &pb.RemoveScript{Name: "a", Version: v, Envelope: []byte("e")}}}
	}
	policy := func(v uint64) *pb.Command {
		return &pb.Command{Body: &pb.Command_PutPolicy{PutPolicy: &pb.PutPolicy{Version: v, Envelope: []byte("p")}}}
	}
	for name, c := range map[string]*pb.Command{
		"a script": version(11, script("a", "y"), runOf("y", "r1")), "a run": version(10, nil, runOf("y", "r1")), "a removal": remove(11),
	} {
		if o := l.try(c); !fault.Is(o.Err, fault.Conflict) {
			t.Errorf("%s: %v", name, o.Err)
		}
	}
	l.must(policy(2))
	other := policy(2)
	other.GetPutPolicy().Envelope = []byte("q")
	if o := l.try(other); !fault.Is(o.Err, fault.Conflict) {
		t.Errorf("a policy: %v", o.Err)
	}
	l.must(remove(12))
	if d := l.Desired("r1"); len(d.GetScripts()) != 0 || len(d.GetEnded()) != 1 || d.GetEnded()[0].GetVersion() != 12 {
		t.Errorf("the rack is told %v", d)
	}
	if got := l.LastVersion("a"); got != 12 {
		t.Errorf("the last version is %d", got)
	}
	l.must(version(13, script("a", "x"), runOf("x", "r1")))
	if d := l.Desired("r1"); len(d.GetScripts()) != 1 || len(d.GetEnded()) != 0 {
		t.Errorf("applied again, the rack is told %v", d)
	}
}

// Who has lost the answer asks again: the same envelope, or the same file twice,
// does nothing and tells what was done.
func TestAnOrderThatIsAskedAgain(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	first := l.must(version(11, script("a", "x"), runOf("x", "r1")))
	records := l.Counts().Revision
	again := l.try(version(11, script("a", "x"), runOf("x", "r1")))
	if again.Err != nil || !again.Again || again.Run.GetId() != first.Run.GetId() || again.Script.GetRevision() != first.Script.GetRevision() || len(again.Racks) != 0 {
		t.Errorf("it is answered %+v", again)
	}
	if len(l.Runs()) != 1 || l.Counts().Revision != records {
		t.Errorf("there are %d runs", len(l.Runs()))
	}
	stop := &pb.Command{Body: &pb.Command_CancelRun{CancelRun: &pb.CancelRun{Id: first.Run.GetId(), Envelope: []byte("c")}}}
	remove := &pb.Command{Body: &pb.Command_RemoveScript{RemoveScript: &pb.RemoveScript{Name: "a", Version: 12, Envelope: []byte("e")}}}
	policy := &pb.Command{Body: &pb.Command_PutPolicy{PutPolicy: &pb.PutPolicy{Version: 2, Envelope: []byte("p")}}}
	for name, c := range map[string]*pb.Command{"a cancel": stop, "a removal": remove, "a policy": policy} {
		l.must(c)
		if o := l.try(c); o.Err != nil || !o.Again {
			t.Errorf("%s: %+v", name, o)
		}
	}
	if o := l.try(version(11, script("a", "x"), runOf("x", "r1"))); !fault.Is(o.Err, fault.Conflict) {
		t.Errorf("an order that another has replaced: %v", o.Err)
	}
}

// What is not meant for a rack is not sent there, and ends what stood under its name.
func TestAudience(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	s := script("a", "x")
	s.Audience = []string{"r2"}
	l.must(version(11, s, runOf("x")))
	if d := l.Desired("r1"); len(d.GetScripts()) != 0 || len(d.GetEnded()) != 1 || string(d.GetEnded()[0].GetEnvelope()) != "signed" {
		t.Errorf("r1 is told %v", d)
	}
	if d := l.Desired("r2"); len(d.GetScripts()) != 1 || len(d.GetEnded()) != 0 {
		t.Errorf("r2 is told %v", d)
	}
}

// An agent in bad hands does not fill the coordinators' memory.
func TestAgentsFillNoMemory(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	const batch = 1000
	for i := range state.MaxAgentAudit/batch + 2 {
		var records []*pb.Record
		for range batch {
			records = append(records, &pb.Record{Body: &pb.Record_Refused{Refused: &pb.Refused{What: "run", Reason: strings.Repeat("x", 2000)}}})
		}
		l.must(reports(uint64(i*batch+1), records...))
	}
	head, _, err := l.AuditHead(0)
	if err != nil || head.Size != state.MaxAgentAudit+1 {
		t.Errorf("%d records are kept, %v", head.Size, err)
	}
	last := l.Audit(head.Size-1, 1)
	if r, err := audit.Decode(last[0]); err != nil || r.What != "too many records" {
		t.Errorf("the last one is %v, %v", r, err)
	}
}
