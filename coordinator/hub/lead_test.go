package hub_test

import (
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// While nobody leads, agents are sent to other coordinators, and let in again only
// when they have found none.
func TestAgentsMoveWhileNobodyLeads(t *testing.T) {
	w := newWorld(t, 0)
	a := w.join("r1")
	w.lost.Store(true)
	drain := a.expect(func(m *pb.FromCoordinator) bool { return m.GetDrain() != nil }).GetDrain()
	if drain.GetReason() != "this coordinator reaches no leader" {
		t.Errorf("it is told %q", drain.GetReason())
	}
	a.conn.Close("gone")

	again := w.dial("a-r1")
	again.greet(hello("a-r1", "r1"))
	if r := again.ends(); r.GetKind() != string(fault.Unavailable) || r.GetHint() == "" {
		t.Errorf("it is refused with %v", r)
	}

	any := w.dial("a-r1")
	h := hello("a-r1", "r1")
	h.Any = true
	any.greet(h)
	any.welcome()
	any.expect(func(m *pb.FromCoordinator) bool { return m.GetDrain() != nil }) // it shall look again
	any.conn.Close("gone")

	w.lost.Store(false)
	for { // until that is noticed
		back := w.dial("a-r1")
		back.greet(hello("a-r1", "r1"))
		m, err := back.hear()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetWelcome() != nil {
			back.next = 1
			back.fine()
			return
		}
		back.conn.Close("refused")
	}
}

// What can't be decided now waits, and the session lives: ten thousand agents must not
// come back again and again.
func TestRecordsWaitForADecision(t *testing.T) {
	w := newWorld(t, 0)
	a := w.join("r1")
	w.mute.Store(true)
	results := a.open(pb.StreamOpen_RESULTS)
	record := node("n1")
	record.Seq = a.next
	if err := results.Send(&pb.RecordBatch{SpoolEpoch: 7, Records: []*pb.Record{record}}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a.say(&pb.FromAgent{Body: &pb.FromAgent_Ping{Ping: &pb.Ping{SentUnixMs: 5}}})
		a.expect(func(m *pb.FromCoordinator) bool { return m.GetPong() != nil })
	}
	w.mute.Store(false)
	a.expect(func(m *pb.FromCoordinator) bool { return m.GetAck().GetNextWanted() == a.next+1 })
	if len(w.machine.Nodes()) != 1 {
		t.Errorf("recorded: %v", w.machine.Nodes())
	}

	// Nor does one that waits keep the hub from stopping.
	w.mute.Store(true)
	record.Seq++
	if err := results.Send(&pb.RecordBatch{SpoolEpoch: 7, Records: []*pb.Record{record}}); err != nil {
		t.Fatal(err)
	}
	w.stop()
}
