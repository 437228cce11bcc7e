package bmc

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

const (
	tripAfter = 3 // failures of the transport in a row
	maxRest   = time.Minute
)

// breaker spares a BMC that does not answer, and those who would wait for it:
// after some failures in a row calls fail at once, and one probe at a time is
// let through, ever less often, until it is answered.
type breaker struct {
	first  time.Duration
	now    func() time.Time
	jitter func() float64

	mu      sync.Mutex
	failed  int   // in a row
	last    error // the latest of them
	rest    time.Duration
	until   time.Time
	probing bool
}

func newBreaker(first time.Duration, now func() time.Time, jitter func() float64) *breaker {
	return &breaker{first: first, now: now, jitter: jitter}
}

// refuses is why a call may not start now, nil if it may.
func (b *breaker) refuses() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closedTo()
}

// begin is refuses, and claims the probe if the breaker is half open. Each nil
// return is to be followed by one end.
func (b *breaker) begin() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.closedTo()
	if err == nil && b.open() {
		b.probing = true
	}
	return err
}

// end tells how the call went.
func (b *breaker) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
	switch {
	case !transportFailed(err):
		if !fault.Is(err, fault.Canceled) { // that tells nothing of the BMC
			b.failed, b.last, b.rest = 0, nil, 0
		}
	default:
		b.failed++
		b.last = err
		if b.open() {
			b.rest = min(max(2*b.rest, b.first), maxRest)
			// Up to a quarter longer, so that a rack's BMCs are not probed in step.
			b.until = b.now().Add(b.rest + time.Duration(b.jitter()*float64(b.rest)/4))
		}
	}
}

// cause is why the breaker is open, nil if it is not.
func (b *breaker) cause() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open() {
		return nil
	}
	return b.last
}

// state is "closed", "open", or "half-open" while one probe may go through.
func (b *breaker) state() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.open():
		return "closed"
	case b.probing || !b.now().Before(b.until):
		return "half-open"
	default:
		return "open"
	}
}

func (b *breaker) open() bool { return b.failed >= tripAfter }

func (b *breaker) closedTo() error {
	if !b.open() || !b.probing && !b.now().Before(b.until) {
		return nil
	}
	hint := "see whether the BMC is reachable and not hung"
	if h := fault.HintOf(b.last); h != "" {
		hint = h
	}
	wait := max(b.until.Sub(b.now()).Round(time.Second), 0)
	return &fault.Error{
		Kind: fault.KindOf(b.last), Op: "ask the BMC", Hint: hint,
		Err: fmt.Errorf("not tried: %d failures in a row, next try in %s; the last: %w", b.failed, wait, b.last),
	}
}

// transportFailed reports whether the BMC gave no answer at all. A refusal, a
// missing resource, a failed login, even garbage are answers: one bad resource
// must not shut off the others.
func transportFailed(err error) bool {
	var answered *redfish.StatusError
	if err == nil || errors.As(err, &answered) {
		return false
	}
	switch fault.KindOf(err) {
	case fault.Timeout, fault.Unavailable, fault.Untrusted:
		return true
	default:
		return false
	}
}
