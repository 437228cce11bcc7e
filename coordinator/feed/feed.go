// Package feed tells watchers what changes: events through a bounded queue
// each, and wake-ups for those who watch one run. Nobody who publishes ever
// waits for anybody who watches.
package feed

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Feed connects publishers and watchers. All methods are safe for concurrent
// use.
type Feed struct {
	mu       sync.Mutex
	watchers map[*Watcher]struct{}
	runs     map[string]map[chan struct{}]struct{}
}

// New is a feed without watchers.
func New() *Feed {
	return &Feed{watchers: map[*Watcher]struct{}{}, runs: map[string]map[chan struct{}]struct{}{}}
}

// Watcher receives every event published since Watch, in order, or an error.
type Watcher struct {
	feed   *Feed
	events chan *pb.Event
	err    error // set before events is closed
}

// Watch begins to watch. Up to size events wait for the watcher; one that is
// further behind is dropped. Call Close when done.
func (f *Feed) Watch(size int) *Watcher {
	w := &Watcher{feed: f, events: make(chan *pb.Event, size)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers[w] = struct{}{}
	return w
}

// Events are the events. The channel is closed when the watcher was dropped, see
// Err, or has closed itself.
func (w *Watcher) Events() <-chan *pb.Event { return w.events }

// Err says why the watcher was dropped, once Events is closed; nil after Close.
func (w *Watcher) Err() error {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	return w.err
}

// Close ends the watch. It may be called again.
func (w *Watcher) Close() {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	w.feed.drop(w, nil)
}

// drop needs the lock.
func (f *Feed) drop(w *Watcher, why error) {
	if _, ok := f.watchers[w]; !ok {
		return
	}
	delete(f.watchers, w)
	w.err = why
	close(w.events)
}

// Publish gives the events to every watcher.
func (f *Feed) Publish(events ...*pb.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		f.give(w, events)
	}
}

func (f *Feed) give(w *Watcher, events []*pb.Event) {
	for _, e := range events {
		select {
		case w.events <- e:
		default:
			f.drop(w, fault.New(fault.TooLarge, "watch", fmt.Sprintf("you read too slowly: more than %d events wait", cap(w.events))).
				WithHint("start again; the lists tell what was missed"))
			return
		}
	}
}

// WatchRun gives a channel that holds a value whenever something about the run
// may have changed since the last one was taken. Call stop when done.
func (f *Feed) WatchRun(id string) (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.runs[id] == nil {
		f.runs[id] = map[chan struct{}]struct{}{}
	}
	f.runs[id][c] = struct{}{}
	return c, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.runs[id], c)
		if len(f.runs[id]) == 0 {
			delete(f.runs, id)
		}
	}
}

// Watched are the runs that somebody watches, in no order.
func (f *Feed) Watched() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.runs))
}

// Touch wakes those who watch one of the runs.
func (f *Feed) Touch(ids ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		for c := range f.runs[id] {
			select {
			case c <- struct{}{}:
			default: // it has not seen the last one yet
			}
		}
	}
}
