package api_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// line writes a run event as one line.
func line(e *pb.RunEvent) string {
	switch b := e.GetBody().(type) {
	case *pb.RunEvent_Run:
		return "run " + b.Run.GetState()
	case *pb.RunEvent_Result:
		return "result of " + b.Result.GetNode()
	case *pb.RunEvent_Progress:
		return fmt.Sprintf("progress of %s: %d", b.Progress.GetRack(), b.Progress.GetDone())
	default:
		return "nothing"
	}
}

// watched reads a stream's messages until it ends.
type watched struct {
	t     *testing.T
	lines chan string
	err   error // when lines is closed
}

func (w *world) watchRun(id string) *watched {
	w.t.Helper()
	stream, err := w.fleet.WatchRun(w.t.Context(), connect.NewRequest(&pb.WatchRunRequest{Id: id}))
	if err != nil {
		w.t.Fatal(err)
	}
	return follow(w.t, stream, line)
}

func follow[M any](t *testing.T, stream *connect.ServerStreamForClient[M], line func(*M) string) *watched {
	t.Helper()
	f := &watched{t: t, lines: make(chan string, 1000)}
	go func() {
		defer close(f.lines)
		for stream.Receive() {
			f.lines <- line(stream.Msg())
		}
		f.err = stream.Err()
		_ = stream.Close()
	}()
	return f
}

func (f *watched) expect(want ...string) {
	f.t.Helper()
	for _, line := range want {
		select {
		case got, ok := <-f.lines:
			if !ok || got != line {
				f.t.Fatalf("got %q (%v), want %q", got, f.err, line)
			}
		case <-time.After(patience):
			f.t.Fatalf("nothing comes, want %q", line)
		}
	}
}

func (f *watched) expectEnd() error {
	f.t.Helper()
	select {
	case got, ok := <-f.lines:
		if ok {
			f.t.Fatalf("got %q, want the end", got)
		}
	case <-time.After(patience):
		f.t.Fatal("it does not end")
	}
	return f.err
}

func TestWatchingARun(t *testing.T) {
	w := newWorld(t)
	w.apply("s", `(config "n[1-4]" (power (state "on")))`)
	early := w.watchRun("R1")
	early.expect("run running")
	w.agents.set(func() { w.agents.progress = []*pb.RackProgress{{Rack: "r1", Nodes: 2, Done: 1}} })
	w.feed.Touch("R1")
	early.expect("progress of r1: 1")
	w.done("R1", "r1")
	early.expect("result of r1-node", "run running")
	w.done("R1", "r2")
	early.expect("result of r2-node", "run done")
	if err := early.expectEnd(); err != nil {
		t.Error(err)
	}
	late := w.watchRun("R1")
	late.expect("run done", "result of r1-node", "result of r2-node", "progress of r1: 1")
	if err := late.expectEnd(); err != nil {
		t.Error(err)
	}
}

func TestWatchingNoRun(t *testing.T) {
	w := newWorld(t)
	f := w.watchRun("R9")
	if err := f.expectEnd(); kindOf(err) != fault.NotFound || hintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestWatchingACanceledRun(t *testing.T) {
	w := newWorld(t)
	cancel := w.authors.Order(order.Cancel, "s", "")
	cancel.Cancels = w.apply("s", powerOn).GetRun().GetVersion()
	f := w.watchRun("R1")
	f.expect("run running")
	answer, err := w.fleet.CancelRun(t.Context(), connect.NewRequest(&pb.CancelRunRequest{Id: "R1", Envelope: w.authors.Sign(cancel)}))
	if err != nil || answer.Msg.GetRun().GetState() != state.Canceled {
		t.Errorf("got %v, %v", answer, err)
	}
	f.expect("run canceled")
	if err := f.expectEnd(); err != nil {
		t.Error(err)
	}
}

func eventLine(e *pb.Event) string {
	switch b := e.GetBody().(type) {
	case *pb.Event_Script:
		return "script " + b.Script.GetName()
	case *pb.Event_Run:
		return "run " + b.Run.GetId()
	case *pb.Event_Firing:
		return "firing " + b.Firing.GetRule()
	default:
		return fmt.Sprintf("%T", b)
	}
}

func (w *world) watch(past bool) *watched {
	w.t.Helper()
	stream, err := w.fleet.Watch(w.t.Context(), connect.NewRequest(&pb.WatchRequest{Past: past}))
	if err != nil {
		w.t.Fatal(err)
	}
	return follow(w.t, stream, eventLine)
}

func TestWatchingTheFleet(t *testing.T) {
	w := newWorld(t)
	for i := range 102 {
		w.record("r1", &pb.Record{Body: &pb.Record_Firing{Firing: &pb.Firing{Rule: fmt.Sprint("m", i)}}})
	}
	past := w.watch(true)
	for i := range 100 {
		past.expect(fmt.Sprint("firing m", i+2))
	}
	fresh := w.watch(false)
	w.record("r1", &pb.Record{Body: &pb.Record_Firing{Firing: &pb.Firing{Rule: "new"}}})
	w.apply("s", powerOn)
	for _, f := range []*watched{past, fresh} {
		f.expect("firing new", "script s", "run R1")
	}
	w.stop()
	for _, f := range []*watched{past, fresh} {
		if err := f.expectEnd(); kindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "coordinator stops") {
			t.Errorf("got %v", err)
		}
	}
}

// noise is a text that compression can't make small.
func noise(size int) string {
	b := make([]byte, size/2)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// A watcher that does not read costs itself its watch; what is committed is not
// held up.
func TestAWatcherThatDoesNotRead(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := w.fleet.Watch(ctx, connect.NewRequest(&pb.WatchRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	event := &pb.Event{Body: &pb.Event_Firing{Firing: &pb.Firing{Condition: noise(2 << 10)}}}
	begun := time.Now()
	for range 5000 {
		w.feed.Publish(event)
	}
	w.apply("s", powerOn)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("others waited %v", took)
	}
	n := 0
	for stream.Receive() {
		n++
	}
	if err := stream.Err(); kindOf(err) != fault.TooLarge || !strings.Contains(err.Error(), "too slowly") || hintOf(err) == "" {
		t.Errorf("after %d events: %v", n, err)
	}
	if n >= 5000 {
		t.Error("it got everything")
	}
	_ = stream.Close()
}

func TestAnIdleWatchLives(t *testing.T) {
	w := newWorldWith(t, 50*time.Millisecond)
	f := w.watch(false)
	w.apply("one", powerOn)
	f.expect("script one", "run R1")
	<-time.After(300 * time.Millisecond) // several times what a message may take
	w.apply("two", powerOn)
	f.expect("script two", "run R2")
}

// Nobody may hold a handler for ever by not reading.
func TestTheServersPatienceEnds(t *testing.T) {
	w := newWorldWith(t, 200*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := w.fleet.Watch(ctx, connect.NewRequest(&pb.WatchRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	event := &pb.Event{Body: &pb.Event_Firing{Firing: &pb.Firing{Condition: noise(1 << 20)}}}
	for range 200 {
		w.feed.Publish(event)
	}
	<-time.After(time.Second) // the windows are full, the handler waits, then gives up
	n := 0
	for stream.Receive() {
		n++
	}
	if stream.Err() == nil || ctx.Err() != nil || n >= 200 {
		t.Errorf("after %d events: %v", n, stream.Err())
	}
	_ = stream.Close()
}
