package hub_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// answering lets a fake agent answer the next questions.
func (a *agent) answering(answer func(q *pb.Query, ch *mesh.Channel)) {
	go func() {
		for {
			stream, err := a.conn.Accept(context.Background())
			if err != nil {
				return
			}
			ch := mesh.NewChannel(stream, 0)
			var open pb.StreamOpen
			var q pb.Query
			if ch.Receive(&open) != nil || open.GetKind() != pb.StreamOpen_QUERY || ch.Receive(&q) != nil {
				_ = stream.Close()
				continue
			}
			answer(&q, ch)
			_ = stream.Close()
		}
	}()
}

func change(path string) *pb.QueryEvent {
	return &pb.QueryEvent{Body: &pb.QueryEvent_Change{Change: &pb.Change{Path: path}}}
}

func done(d *pb.QueryEvent_Done) *pb.QueryEvent {
	return &pb.QueryEvent{Body: &pb.QueryEvent_Done_{Done: d}}
}

func TestAQuestionAndItsAnswer(t *testing.T) {
	w := newWorld(t, 0)
	asked := make(chan *pb.Query, 1)
	w.join("r1").answering(func(q *pb.Query, ch *mesh.Channel) {
		asked <- q
		for i := range 3 {
			_ = ch.Send(change(fmt.Sprint("p", i)))
		}
		_ = ch.Send(done(&pb.QueryEvent_Done{Nodes: 4}))
	})
	var got []string
	d, err := w.hub.Query(t.Context(), "r1", &pb.Query{Source: []byte("(show all)"), Plan: true}, func(e *pb.QueryEvent) error {
		got = append(got, e.GetChange().GetPath())
		return nil
	})
	if err != nil || d.GetNodes() != 4 {
		t.Fatalf("done %v, %v", d, err)
	}
	if diff := cmp.Diff([]string{"p0", "p1", "p2"}, got); diff != "" {
		t.Error(diff)
	}
	q := <-asked
	if !q.GetPlan() || string(q.GetSource()) != "(show all)" || q.GetTimeoutMs() <= 0 || q.GetTimeoutMs() > 60_000 {
		t.Errorf("the agent was asked %v", q)
	}
}

func TestQuestionsThatAreNotAnswered(t *testing.T) {
	w := newWorld(t, 0)
	good := w.join("r9")
	noMore := errors.New("no more")
	for name, c := range map[string]struct {
		answer func(a *agent) func(*pb.Query, *mesh.Channel)
		kind   fault.Kind
		text   string
	}{
		"it can't do it": {func(*agent) func(*pb.Query, *mesh.Channel) {
			return func(_ *pb.Query, ch *mesh.Channel) {
				_ = ch.Send(done(&pb.QueryEvent_Done{Kind: "denied", Error: "wrong password", Hint: "set it"}))
			}
		}, fault.Denied, "wrong password"},
		"it leaves in the middle": {func(a *agent) func(*pb.Query, *mesh.Channel) {
			return func(_ *pb.Query, ch *mesh.Channel) {
				_ = ch.Send(change("p"))
				a.conn.Close("crash")
			}
		}, fault.Unavailable, "lost in the middle"},
		"it stops in the middle": {func(*agent) func(*pb.Query, *mesh.Channel) {
			return func(_ *pb.Query, ch *mesh.Channel) { _ = ch.Send(change("p")) }
		}, fault.Unavailable, "lost in the middle"},
		"it hangs": {func(*agent) func(*pb.Query, *mesh.Channel) {
			return func(_ *pb.Query, ch *mesh.Channel) {
				_ = ch.Receive(&pb.Query{}) // until the coordinator gives up
			}
		}, fault.Timeout, "did not answer in time"},
		"it says too much at once": {func(*agent) func(*pb.Query, *mesh.Channel) {
			return func(_ *pb.Query, ch *mesh.Channel) { _ = ch.Send(change(strings.Repeat("x", 5<<20))) }
		}, fault.TooLarge, "the limit is"},
		"nobody listens": {func(*agent) func(*pb.Query, *mesh.Channel) {
			return func(_ *pb.Query, ch *mesh.Channel) {
				_ = ch.Send(change("stop"))
				_ = ch.Receive(&pb.Query{})
			}
		}, fault.Internal, "no more"},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.join("r1")
			a.answering(c.answer(a))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := w.hub.Query(ctx, "r1", &pb.Query{}, func(e *pb.QueryEvent) error {
				if e.GetChange().GetPath() == "stop" {
					return noMore
				}
				return nil
			})
			if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %s: %v, want %s: %s", fault.KindOf(err), err, c.kind, c.text)
			}
		})
	}
	good.fine()
}

func TestARackThatIsCutOff(t *testing.T) {
	w := newWorld(t, 0)
	_, err := w.hub.Query(t.Context(), "r1", &pb.Query{}, nil)
	if !fault.Is(err, fault.Unavailable) || fault.HintOf(err) == "" {
		t.Errorf("got %v, hint %q", err, fault.HintOf(err))
	}
}

func TestALostQuestionFreesItsStream(t *testing.T) {
	w := newWorld(t, 0)
	w.join("r1").answering(func(_ *pb.Query, ch *mesh.Channel) { _ = ch.Receive(&pb.Query{}) })
	for range 200 { // the stream limit is 64
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, err := w.hub.Query(ctx, "r1", &pb.Query{}, func(*pb.QueryEvent) error { return nil })
		cancel()
		if !fault.Is(err, fault.Timeout) {
			t.Fatalf("got %v", err)
		}
	}
}
