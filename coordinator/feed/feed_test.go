package feed_test

import (
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/coordinator/feed"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func event(at int64) *pb.Event { return &pb.Event{AtUnixMs: at} }

func TestEveryWatcherSeesEveryEventInOrder(t *testing.T) {
	f := feed.New()
	f.Publish(event(0)) // before anybody watches
	one, two := f.Watch(10), f.Watch(10)
	f.Publish(event(1), event(2))
	f.Publish(event(3))
	for _, w := range []*feed.Watcher{one, two} {
		for want := int64(1); want <= 3; want++ {
			if got := (<-w.Events()).GetAtUnixMs(); got != want {
				t.Errorf("got event %d, want %d", got, want)
			}
		}
		w.Close()
		w.Close()
		if _, ok := <-w.Events(); ok || w.Err() != nil {
			t.Errorf("closed, it has events or %v", w.Err())
		}
	}
}

func TestAWatcherWhoDoesNotReadIsDropped(t *testing.T) {
	f := feed.New()
	lazy, keen := f.Watch(2), f.Watch(100)
	for i := range int64(5) {
		f.Publish(event(i)) // never waits
	}
	n := 0
	for range lazy.Events() {
		n++
	}
	if err := lazy.Err(); n != 2 || !fault.Is(err, fault.TooLarge) || !strings.Contains(err.Error(), "too slowly") {
		t.Errorf("the lazy one got %d events and %v", n, err)
	}
	if len(keen.Events()) != 5 {
		t.Errorf("the keen one got %d events", len(keen.Events()))
	}
	keen.Close()
}

func TestRunsWake(t *testing.T) {
	f := feed.New()
	one, stopOne := f.WatchRun("R1")
	two, stopTwo := f.WatchRun("R2")
	f.Touch("R1", "R3")
	f.Touch("R1") // comes together with the first
	<-one
	select {
	case <-one:
		t.Error("it woke twice")
	case <-two:
		t.Error("the other run woke")
	default:
	}
	stopOne()
	f.Touch("R1", "R2")
	<-two
	stopTwo()
	select {
	case <-one:
		t.Error("it woke after stop")
	default:
	}
}

func TestManyAtOnce(t *testing.T) {
	f := feed.New()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				f.Publish(event(1), event(2))
				f.Touch("R1")
			}
		})
		all.Go(func() {
			for range 100 {
				w := f.Watch(1)
				changed, stop := f.WatchRun("R1")
				<-changed
				<-w.Events()
				stop()
				w.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	for {
		select {
		case <-done:
			return
		default:
			f.Publish(event(3)) // so that the last watchers end, too
			f.Touch("R1")
		}
	}
}
