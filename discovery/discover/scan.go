package discover

import (
	"context"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/discovery"
)

const (
	// maxProbes bounds the addresses that are asked at once: they are one each of
	// different BMCs, and one handshake costs us half a millisecond.
	maxProbes    = 64
	probeTimeout = 3 * time.Second
)

// Finder is one way to find BMCs. Run ends with ctx, or says why it can't go on.
type Finder interface {
	Run(ctx context.Context, out chan<- discovery.Sighting) error
}

// Scan looks once.
type Scan struct {
	Finders map[string]Finder // by name
	Ask     func(ctx context.Context, address string) (discovery.Answer, error)
	Now     func() time.Time
	// Progress, if set, is told how far it is at each change.
	Progress func(Progress)
}

// Progress of a scan.
type Progress struct{ Seen, Asked, Found int }

// Result of a scan.
type Result struct {
	Table   *discovery.Table
	Unasked int              // addresses for which there was no time
	Finders int              // how many looked
	Failed  map[string]error // those of them that could not go on
}

type answer struct {
	address string
	discovery.Answer
	err error
}

type ended struct {
	name string
	err  error
}

// Run looks until ctx ends, which is no error. All that it started has ended when
// it returns.
func (s Scan) Run(ctx context.Context) Result {
	r := &running{
		Scan: s, result: Result{Table: &discovery.Table{}, Finders: len(s.Finders), Failed: map[string]error{}},
		sightings: make(chan discovery.Sighting), answers: make(chan answer, maxProbes), ended: make(chan ended, len(s.Finders)),
	}
	for name, f := range s.Finders {
		r.work.Go(func() { r.ended <- ended{name, f.Run(ctx, r.sightings)} })
	}
	r.loop(ctx)
	r.work.Wait() // answers has room for all that were under way
	close(r.answers)
	for a := range r.answers {
		r.take(a)
	}
	r.result.Unasked = len(r.first) + len(r.later)
	return r.result
}

type running struct {
	Scan
	result       Result
	sightings    chan discovery.Sighting
	answers      chan answer
	ended        chan ended
	work         sync.WaitGroup
	asking       int
	first, later []string // to be asked: what speaks for itself, and what others say
	progress     Progress
}

func (r *running) loop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-r.ended:
			if ctx.Err() == nil && e.err != nil {
				r.result.Failed[e.name] = e.err
			}
		case s := <-r.sightings:
			r.see(s)
		case a := <-r.answers:
			r.asking--
			r.take(a)
		}
		r.start(ctx)
	}
}

func (r *running) see(s discovery.Sighting) {
	if !r.result.Table.See(r.Now(), s) {
		return
	}
	r.progress.Seen++
	if s.Own() {
		r.first = append(r.first, s.Address)
	} else {
		r.later = append(r.later, s.Address)
	}
	r.tell()
}

// start asks as many as may be asked at once.
func (r *running) start(ctx context.Context) {
	for r.asking < maxProbes {
		queue := &r.first
		if len(*queue) == 0 {
			queue = &r.later
		}
		if len(*queue) == 0 {
			return
		}
		address := (*queue)[0]
		*queue = (*queue)[1:]
		r.asking++
		r.work.Go(func() {
			asking, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			a, err := r.Ask(asking, address)
			r.answers <- answer{address, a, err}
		})
	}
}

func (r *running) take(a answer) {
	r.progress.Asked++
	if a.err == nil && a.Problem == "" {
		r.progress.Found++
	}
	r.result.Table.Answered(r.Now(), a.address, a.Answer, a.err)
	r.tell()
}

func (r *running) tell() {
	if r.Progress != nil {
		r.Progress(r.progress)
	}
}
