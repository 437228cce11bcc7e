package hub_test

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/seal"
)

func TestAnAgentIsToldWhatToDoAndReportsIt(t *testing.T) {
	w := newWorld(t, 0)
	a := w.join("r1")
	if !w.hub.Connected("r1") || w.hub.Connected("r2") {
		t.Error("r1 should be connected, r2 not")
	}
	w.apply("thermal", "(config all)", "r1")
	h := a.expect(func(m *pb.FromCoordinator) bool { return m.GetHint() != nil }).GetHint()
	d := a.pull(nil)
	if h.GetRevision() != 1 || d.GetRevision() != 1 || string(d.GetScripts()[0].GetSource()) != "(config all)" || d.GetRuns()[0].GetId() != "R1" {
		t.Errorf("hint %v, desired %v", h, d)
	}
	again := a.pull(map[string]string{"thermal": wire.Mark(d.GetScripts()[0])})
	if len(again.GetScripts()) != 1 || len(again.GetScripts()[0].GetSource()) != 0 {
		t.Errorf("what it has was sent again: %v", again)
	}
	a.report(
		node("n1"),
		&pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Run: "R1", Node: "n1"}}},
		&pb.Record{Body: &pb.Record_Done{Done: &pb.RackRunDone{Run: "R1", Nodes: 1, Ok: 1}}},
	)
	r, results, _ := w.machine.Run("R1", 0)
	if r.GetState() != state.Done || len(results) != 1 || w.machine.Nodes()[0].GetRack() != "r1" {
		t.Errorf("run %v, results %v, nodes %v", r, results, w.machine.Nodes())
	}
	if d := a.pull(nil); len(d.GetRuns()) != 0 {
		t.Errorf("the run is still to do: %v", d)
	}
}

func TestWhereItsSpoolGoesOn(t *testing.T) {
	w := newWorld(t, 0)
	a := w.join("r1")
	a.report(node("n1"), node("n2"))
	index := w.node.Status().Commit
	for _, c := range []struct {
		why          string
		epoch, first uint64
		want         uint64
	}{
		{"it has not read the ack", 7, 1, 3},
		{"it has", 7, 3, 3},
		{"an old copy of its disk", 6, 90, math.MaxUint64},
	} {
		again, h := w.dial("a-r1"), hello("a-r1", "r1")
		h.SpoolEpoch, h.FirstUnacked = c.epoch, c.first
		again.greet(h)
		if got := again.welcome(); got.GetNextWanted() != c.want || got.GetSpoolEpoch() != 7 {
			t.Errorf("%s: next wanted %d, want %d; the epoch is %d", c.why, got.GetNextWanted(), c.want, got.GetSpoolEpoch())
		}
	}
	if got := w.node.Status().Commit; got != index {
		t.Errorf("nothing was new, and %d entries were written", got-index)
	}
	fresh, h := w.dial("a-r1"), hello("a-r1", "r1")
	h.SpoolEpoch, h.FirstUnacked = 8, 1
	fresh.greet(h)
	if got := fresh.welcome().GetNextWanted(); got != 1 {
		t.Errorf("a new epoch: next wanted %d, want 1", got)
	}
}

func TestANewerConnectionReplacesTheOlder(t *testing.T) {
	w := newWorld(t, 0)
	old := w.join("r1")
	fresh := w.join("r1")
	old.ends()
	if err := old.conn.Err(); err == nil || !strings.Contains(err.Error(), "replaced by a newer connection") {
		t.Errorf("the older one knows %v", err)
	}
	fresh.fine()
	if !w.hub.Connected("r1") {
		t.Error("the end of the older one took the newer one along")
	}
}

func TestPresence(t *testing.T) {
	w := newWorld(t, 0)
	events := w.feed.Watch(10)
	defer events.Close()
	a := w.join("r1")
	if e := (<-events.Events()).GetAgent(); e.GetName() != "a-r1" || !e.GetConnected() || e.GetRemote() == "" || e.GetBuild() != "test" {
		t.Errorf("event %v", e)
	}
	a.conn.Close("bye")
	if e := (<-events.Events()).GetAgent(); e.GetName() != "a-r1" || e.GetConnected() || e.GetSinceUnixMs() == 0 {
		t.Errorf("event %v", e)
	}
	if list := w.hub.Agents(); len(list) != 1 || list[0].GetConnected() || list[0].GetSite() != "s1" {
		t.Errorf("agents %v", list)
	}
}

func TestWhoIsRefused(t *testing.T) {
	w := newWorld(t, 0)
	good := w.join("r1")
	change := func(f func(*pb.Hello)) *pb.FromAgent {
		h := hello("a9", "r9")
		f(h)
		return &pb.FromAgent{Body: &pb.FromAgent_Hello{Hello: h}}
	}
	for name, c := range map[string]struct {
		first *pb.FromAgent
		kind  fault.Kind
		text  string
	}{
		"another version":    {change(func(h *pb.Hello) { h.Version = 2 }), fault.Unsupported, "speaks version 2"},
		"another's name":     {change(func(h *pb.Hello) { h.Agent = "a-r1" }), fault.Denied, `says it is "a-r1", its certificate is of agent a9`},
		"another's rack":     {change(func(h *pb.Hello) { h.Rack = "r1" }), fault.Denied, "its certificate is for rack r9"},
		"no rack":            {change(func(h *pb.Hello) { h.Rack = "" }), fault.Denied, `it says its rack is ""`},
		"a site of escapes":  {change(func(h *pb.Hello) { h.Site = "\x1b[2J" }), fault.Denied, `it says its site is "\x1b[2J"`},
		"a useless key":      {change(func(h *pb.Hello) { h.SealKey = make([]byte, 32) }), fault.BadInput, "check its sealing key"},
		"a key of a length":  {change(func(h *pb.Hello) { h.SealKey = []byte("short") }), fault.BadInput, "check its sealing key"},
		"no hello at first":  {&pb.FromAgent{Body: &pb.FromAgent_Ping{Ping: &pb.Ping{}}}, fault.Garbage, "does not begin with a hello"},
		"nothing at all":     {&pb.FromAgent{}, fault.Garbage, "does not begin with a hello"},
		"an enormous letter": {&pb.FromAgent{Body: &pb.FromAgent_Hello{Hello: &pb.Hello{Build: strings.Repeat("x", 5<<20)}}}, fault.TooLarge, "the limit is"},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.dial("a9")
			go func() { _ = a.control.Send(c.first) }() // the refusal may come before its end
			r := a.ends()
			if r.GetKind() != string(c.kind) || !strings.Contains(r.GetError(), c.text) {
				t.Errorf("refused with %v, want %s: %s", r, c.kind, c.text)
			}
			if w.hub.Connected("r9") {
				t.Error("it counts as connected")
			}
		})
	}
	good.fine()
}

func TestAPersonIsNoAgent(t *testing.T) {
	w := newWorld(t, 0)
	conn, err := mesh.Dial(t.Context(), w.addr, w.credentials(trust.Operator, "ada").Client())
	if err != nil {
		return // refused in the handshake
	}
	select {
	case <-conn.Done(): // refused after it, as TLS 1.3 does
	case <-time.After(patience):
		t.Error("it was let in")
	}
}

func TestASealingKeyIsKept(t *testing.T) {
	w := newWorld(t, 0)
	key, err := seal.OpenKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	a, h := w.dial("a-r1"), hello("a-r1", "r1")
	h.SealKey = key.Public()
	a.greet(h)
	a.welcome()
	known, _ := w.machine.Agent("a-r1")
	if diff := cmp.Diff([]byte(key.Public()), known.GetSealKey()); diff != "" {
		t.Error(diff)
	}
}

func TestWhatEndsASession(t *testing.T) {
	w := newWorld(t, 0)
	good := w.join("r1")
	raw := func(a *agent, kind pb.StreamOpen_Kind, after []byte) {
		stream, err := a.conn.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := mesh.NewChannel(stream, 0).Send(&pb.StreamOpen{Kind: kind}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write(after); err != nil {
			t.Fatal(err)
		}
	}
	batch := func(a *agent, seqs ...uint64) {
		b := &pb.RecordBatch{SpoolEpoch: 7}
		for _, seq := range seqs {
			r := node("n9")
			r.Seq = seq
			b.Records = append(b.Records, r)
		}
		if err := a.open(pb.StreamOpen_RESULTS).Send(b); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		do   func(a *agent)
		kind fault.Kind
	}{
		"garbage as results":     {func(a *agent) { raw(a, pb.StreamOpen_RESULTS, []byte{0, 0, 0, 2, 0xff, 0xff}) }, fault.Garbage},
		"an oversized frame":     {func(a *agent) { raw(a, pb.StreamOpen_RESULTS, []byte{0x7f, 0, 0, 0}) }, fault.TooLarge},
		"a stream of no kind":    {func(a *agent) { a.open(pb.StreamOpen_QUERY) }, fault.Garbage},
		"a second control":       {func(a *agent) { a.open(pb.StreamOpen_CONTROL) }, fault.Garbage},
		"a second hello":         {func(a *agent) { a.greet(hello("a-r2", "r2")) }, fault.Garbage},
		"a gap":                  {func(a *agent) { batch(a, 5) }, fault.Conflict},
		"records out of order":   {func(a *agent) { batch(a, 1, 3) }, fault.BadInput},
		"an empty batch":         {func(a *agent) { batch(a) }, fault.BadInput},
		"a record of no type":    {func(a *agent) { a.sendRaw(&pb.RecordBatch{SpoolEpoch: 7, Records: []*pb.Record{{Seq: 1}}}) }, fault.Garbage},
		"a second stream beside": {func(a *agent) { a.report(node("n8")); a.open(pb.StreamOpen_RESULTS) }, fault.Garbage},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.join("r2")
			before := len(w.machine.Nodes())
			c.do(a)
			if r := a.ends(); r.GetKind() != string(c.kind) {
				t.Errorf("refused with %v, want %s", r, c.kind)
			}
			if name != "a second stream beside" && len(w.machine.Nodes()) != before {
				t.Error("something was recorded")
			}
		})
	}
	good.fine()
}

func (a *agent) sendRaw(m proto.Message) {
	a.t.Helper()
	if err := a.open(pb.StreamOpen_RESULTS).Send(m); err != nil {
		a.t.Fatal(err)
	}
}

func TestASilentAgentLosesItsSession(t *testing.T) {
	w := newWorld(t, 300*time.Millisecond)
	a := w.join("r1")
	a.ends()
	if a.conn.Err() == nil {
		t.Error("the session lives")
	}
}

// An agent that never reads blocks the writes to it; that costs it its session
// and nobody else anything.
func TestAnAgentThatNeverReads(t *testing.T) {
	w := newWorld(t, 0)
	deaf, good := w.join("r1"), w.join("r2")
	w.apply("big", strings.Repeat("x", 3<<20), "r1", "r2")
	for range 20 {
		deaf.say(&pb.FromAgent{Body: &pb.FromAgent_Pull{Pull: &pb.Pull{}}})
	}
	good.expect(func(m *pb.FromCoordinator) bool { return m.GetHint() != nil })
	if d := good.pull(nil); len(d.GetScripts()[0].GetSource()) != 3<<20 {
		t.Error("the other agent did not get the script")
	}
	begun := time.Now()
	w.apply("small", "x", "r1", "r2")
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("a commit took %v", took)
	}
	good.expect(func(m *pb.FromCoordinator) bool { return m.GetHint() != nil })
	good.fine()
}

func TestMoreThanFitsIntoOneMessage(t *testing.T) {
	w := newWorld(t, 0)
	a := w.join("r1")
	have := map[string]string{}
	for i := range 5 {
		w.apply(fmt.Sprint("s", i), strings.Repeat(strconv.Itoa(i), 3<<20), "r1")
	}
	for range 5 {
		a.say(&pb.FromAgent{Body: &pb.FromAgent_Pull{Pull: &pb.Pull{Have: have}}})
		var d *pb.Desired
		for d == nil {
			m, err := a.hear()
			if err != nil {
				t.Fatal(err)
			}
			d = m.GetDesired() // among hints
		}
		if len(d.GetScripts()) != 5 {
			t.Fatalf("%d scripts are listed", len(d.GetScripts()))
		}
		for _, s := range d.GetScripts() {
			if len(s.GetSource()) > 0 {
				have[s.GetName()] = wire.Mark(s)
			}
		}
		for _, r := range d.GetRuns() {
			if len(r.GetSource()) == 0 {
				t.Errorf("%s has no source", r.GetId())
			}
			a.report(&pb.Record{Body: &pb.Record_Done{Done: &pb.RackRunDone{Run: r.GetId(), Ok: 1}}})
		}
	}
	open := w.machine.Overdue(math.MaxInt64)
	if len(have) != 5 || len(open) != 0 {
		t.Errorf("it has %d scripts; open are %v", len(have), open)
	}
}

func TestProgress(t *testing.T) {
	w := newWorld(t, 0)
	a := w.join("r1")
	w.apply("s", "x", "r1", "r2")
	changed, stop := w.feed.WatchRun("R1")
	defer stop()
	tell := func(run string, done int32) {
		a.say(&pb.FromAgent{Body: &pb.FromAgent_Progress{Progress: &pb.Progress{Run: run, Rack: "r2", Nodes: 8, Done: done}}})
	}
	tell("R9", 1)
	tell("R1", 2)
	<-changed
	want := []*pb.RackProgress{{Rack: "r1", Nodes: 8, Done: 2}} // its own rack, whatever it says
	if diff := cmp.Diff(want, w.hub.Progress("R1"), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if p := w.hub.Progress("R9"); len(p) != 0 {
		t.Errorf("progress of no run: %v", p)
	}
	w.commit(&pb.Command{Body: &pb.Command_CancelRun{CancelRun: &pb.CancelRun{Id: "R1"}}})
	tell("R1", 3)
	a.drainHints()
	if p := w.hub.Progress("R1"); len(p) != 0 {
		t.Errorf("progress of a run that has ended: %v", p)
	}
}

// drainHints returns when everything that was said before has been dealt with.
func (a *agent) drainHints() {
	a.t.Helper()
	a.say(&pb.FromAgent{Body: &pb.FromAgent_Ping{Ping: &pb.Ping{SentUnixMs: 99}}})
	for {
		m, err := a.hear()
		if err != nil {
			a.t.Fatal(err)
		}
		if m.GetPong().GetSentUnixMs() == 99 {
			return
		}
	}
}

func TestStopping(t *testing.T) {
	w := newWorld(t, 0)
	a := w.join("r1")
	a.drainHints() // it is greeted, and its session runs
	go w.stop()
	a.expect(func(m *pb.FromCoordinator) bool { return m.GetDrain() != nil })
	a.conn.Close("drained")
	w.stop() // waits for the other one
}
