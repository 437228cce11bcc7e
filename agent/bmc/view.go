package bmc

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/scan"
)

// view reads through a lane and reads each resource at most once: it is what
// one operation sees of a BMC. Several goroutines may share it.
type view struct {
	lane *Lane
	prio Priority

	mu     sync.Mutex
	memo   map[string]*fetched
	pieces map[redfish.Link]*piece
}

// piece is a resource of many sensors.
type piece struct {
	once    sync.Once
	sensors []sensor
	err     error
}

type fetched struct {
	done chan struct{}
	body []byte
	err  error
}

func (l *Lane) view(prio Priority) *view {
	return &view{lane: l, prio: prio, memo: map[string]*fetched{}, pieces: map[redfish.Link]*piece{}}
}

// Fetch implements redfish.Getter.
func (v *view) Fetch(ctx context.Context, uri string) ([]byte, error) {
	v.mu.Lock()
	f, known := v.memo[uri]
	if !known {
		f = &fetched{done: make(chan struct{})}
		v.memo[uri] = f
	}
	v.mu.Unlock()
	if !known {
		f.body, f.err = v.lane.fetch(ctx, v.prio, uri)
		close(f.done)
	}
	<-f.done // whoever reads it has the same context and so the same deadline
	return f.body, f.err
}

// Walk implements redfish.Walker. What it reads is not remembered.
func (v *view) Walk(ctx context.Context, uri string, read func(*scan.Scanner)) error {
	l := v.lane
	return l.paced(ctx, v.prio, l.reads, func() error { return l.client.Walk(ctx, uri, read) })
}

// eachWidth is how many of a list are asked for at once; the lane's gate lets
// through fewer.
const eachWidth = 8

// each calls do for every link, several at the same time. The results keep the
// order of the links.
func each[T any](links []redfish.Link, do func(redfish.Link) T) []T {
	out := make([]T, len(links))
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(len(links), eachWidth) {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(links); i = int(next.Add(1)) - 1 {
				out[i] = do(links[i])
			}
		})
	}
	all.Wait()
	return out
}
