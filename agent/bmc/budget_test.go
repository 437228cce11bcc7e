package bmc

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeBMC answers so many requests at once; the others queue. Beyond its
// strength each request under way makes all of them slower by strain.
type fakeBMC struct {
	serves  chan struct{}
	service time.Duration
	strain  time.Duration

	mu    sync.Mutex
	under int
	peak  int
}

func (f *fakeBMC) ask() time.Duration {
	begun := time.Now()
	f.mu.Lock()
	f.under++
	f.peak = max(f.peak, f.under)
	extra := f.strain * time.Duration(max(f.under-cap(f.serves), 0))
	f.mu.Unlock()
	f.serves <- struct{}{}
	<-time.After(f.service + extra)
	<-f.serves
	f.mu.Lock()
	f.under--
	f.mu.Unlock()
	return time.Since(begun)
}

// sweep reads n resources through a gate that the budget sizes, as a lane does,
// and returns how long that took.
func sweep(f *fakeBMC, b *budget, n int) time.Duration {
	g := newGate()
	g.resize(b.size)
	var mu sync.Mutex
	var all sync.WaitGroup
	begun := time.Now()
	for range n {
		all.Go(func() {
			if g.enter(context.Background(), Monitor) != nil {
				return
			}
			defer g.leave()
			took := f.ask()
			inside, _ := g.load()
			mu.Lock()
			defer mu.Unlock()
			b.answered(took, inside)
			g.resize(b.size)
		})
	}
	all.Wait()
	return time.Since(begun)
}

func TestBudgetFindsWhatTheBMCServes(t *testing.T) {
	const n, service = 61, 50 * time.Millisecond
	for _, c := range []struct {
		name          string
		serves, bound int
		strain        time.Duration
		atMost        time.Duration
		peak          int
	}{
		{name: "one at a time", serves: 1, bound: 8, atMost: n * service, peak: 4},
		{name: "four at a time", serves: 4, bound: 8, atMost: n * service / 4 * 14 / 10, peak: 8},
		{name: "many, but the profile allows two", serves: 8, bound: 2, atMost: n * service / 2 * 12 / 10, peak: 2},
		// Left to eight at once it would take service + 7·strain for each: 61·370 ms.
		{name: "one at a time, and it suffers", serves: 1, bound: 8, strain: 40 * time.Millisecond, atMost: n * service * 14 / 10, peak: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBudget()
				b.limit(c.bound)
				f := &fakeBMC{serves: make(chan struct{}, c.serves), service: service, strain: c.strain}
				took := sweep(f, b, n)
				t.Logf("%v for %d reads, %d at once at the most, %d now", took, n, f.peak, b.size)
				if took > c.atMost || f.peak > c.peak {
					t.Errorf("took %v with up to %d at once; want at most %v and %d", took, f.peak, c.atMost, c.peak)
				}
			})
		})
	}
}

func TestBudgetFollowsTheBMC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget()
		b.limit(8)
		f := &fakeBMC{serves: make(chan struct{}, 8), service: 20 * time.Millisecond}
		sweep(f, b, 100)
		if b.size != 8 {
			t.Fatalf("on a BMC that serves eight: %d; want 8", b.size)
		}
		// It gets busy with something else: one at a time, and later all again.
		busy := &fakeBMC{serves: make(chan struct{}, 1), service: 20 * time.Millisecond}
		sweep(busy, b, 40)
		if b.size > 2 {
			t.Errorf("on the same BMC when it is pressed: %d; want at most 2", b.size)
		}
		sweep(f, b, 100)
		if b.size != 8 {
			t.Errorf("when it is well again: %d; want 8", b.size)
		}
	})
}

func TestBudgetObeysARefusal(t *testing.T) {
	b := newBudget()
	b.limit(8)
	b.size = 8
	for _, want := range []int{4, 2, 1, 1} {
		if b.refused(); b.size != want {
			t.Errorf("size %d; want %d", b.size, want)
		}
	}
	// Quick answers that did not use the budget prove nothing.
	for range 100 {
		b.answered(time.Millisecond, 0)
	}
	if b.size != 1 {
		t.Errorf("it grew to %d without being used", b.size)
	}
	b.size = 8
	if b.limit(3); b.size != 3 {
		t.Errorf("size %d above the bound 3", b.size)
	}
}

// A BMC that slows down for good is not pressed for ever after.
func TestBudgetForgetsBetterTimes(t *testing.T) {
	b := newBudget()
	b.limit(4)
	for range 40 {
		b.answered(10*time.Millisecond, b.size)
	}
	for range 200 {
		b.answered(90*time.Millisecond, b.size)
	}
	if b.size != 4 {
		t.Errorf("size %d; want 4: it is slow, not pressed", b.size)
	}
}
