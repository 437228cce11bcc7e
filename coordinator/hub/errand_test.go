package hub

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

// Work that comes before the session runs is done when it does, what comes together is
// done once, never two at a time, and none is begun after the end.
func TestErrand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e errand
		var begun sync.WaitGroup
		started, done, under := 0, 0, 0
		begin := func(part func(context.Context) error) {
			started++
			begun.Go(func() { _ = part(t.Context()) })
		}
		gate := make(chan struct{})
		do := func(context.Context) error {
			if under++; under != 1 {
				t.Error("two at a time")
			}
			<-gate
			under--
			done++
			return nil
		}
		e.wake()
		e.open(do, begin)
		synctest.Wait() // it waits at the gate
		e.wake()
		e.wake()
		gate <- struct{}{}
		gate <- struct{}{} // those two
		synctest.Wait()
		if done != 2 || started != 1 {
			t.Errorf("it was done %d times by %d goroutines", done, started)
		}
		e.wake()
		gate <- struct{}{}
		begun.Wait()
		if done != 3 || started != 2 {
			t.Errorf("it was done %d times by %d goroutines", done, started)
		}
		e.shut()
		e.wake()
		begun.Wait()
		if started != 2 {
			t.Error("it was begun after the end")
		}
	})
}

// What has failed is not tried again: the session ends by it.
func TestAnErrandThatFails(t *testing.T) {
	var e errand
	var begun sync.WaitGroup
	times := 0
	e.open(func(context.Context) error { times++; return errors.New("broken") }, func(part func(context.Context) error) {
		begun.Go(func() { _ = part(t.Context()) })
	})
	for range 3 {
		e.wake()
		begun.Wait()
	}
	if times != 1 {
		t.Errorf("it was done %d times", times)
	}
}
