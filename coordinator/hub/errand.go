package hub

import (
	"context"
	"sync"
)

// errand is what has to be done for a session now and then. It has a goroutine while
// there is something to do: most sessions have nothing most of the time, and there are
// ten thousand of them. The zero errand waits for open. Safe for concurrent use.
type errand struct {
	mu    sync.Mutex
	do    func(context.Context) error
	begin func(part func(context.Context) error) // nil: the session does not run
	due   bool
	busy  bool // do is under way, or has failed
}

// open has do done from now on whenever it is woken, by begin, never twice at a time.
func (e *errand) open(do func(context.Context) error, begin func(part func(context.Context) error)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.do, e.begin = do, begin
	e.start()
}

// shut has nothing begun any more.
func (e *errand) shut() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.begin = nil
}

// wake has it done, soon; what comes together is done once. It never waits.
func (e *errand) wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.due = true
	e.start()
}

// start needs the lock.
func (e *errand) start() {
	if e.due && !e.busy && e.begin != nil {
		e.busy = true
		e.begin(e.run)
	}
}

func (e *errand) run(ctx context.Context) error {
	for e.more() {
		if err := e.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// more reports whether there is more to do.
func (e *errand) more() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.busy, e.due = e.due, false
	return e.busy
}

// apart does it in a goroutine of its own, and waits for it: the stack that it has needed
// is given back at once. That of a session's own goroutine would stay.
func apart(do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	return <-done
}
