package bmc

import "time"

// budget decides how many reads of one BMC may be under way at once. More in
// parallel is not better: a web server of one thread answers two at a time in
// twice the time each, and some BMCs break down. So it grows by one while the
// answers take no longer than they do alone, and halves when they do or when
// the BMC says that it is busy (additive increase, multiplicative decrease). Until
// the first time it doubles instead, so that a short sweep is not over before it
// has found its width. It has no clock and no lock of its own.
type budget struct {
	bound int // never more than this; the BMC's profile and protocol say
	size  int

	floor time.Duration // how long an answer takes when the BMC is not pressed
	sum   time.Duration // of the answers of this window
	count int
	full  bool // the whole budget was in use in this window
	known bool // it has met the BMC's limit
	stale int  // answers to come that were asked for under another size
}

// minWindow is how many answers are judged together at least, once the limit was
// met: one slow resource among quick ones is no sign of pressure.
const minWindow = 4

// rises is by how much answers may slow down before it counts.
func rises(floor time.Duration) time.Duration { return floor + floor/2 + 2*time.Millisecond }

func newBudget() *budget { return &budget{bound: 1, size: 1} }

// limit sets the bound.
func (b *budget) limit(bound int) {
	b.bound = max(bound, 1)
	b.size = min(b.size, b.bound)
}

// answered tells how long one answer took and how many were under way with it.
func (b *budget) answered(took time.Duration, inside int) {
	if b.stale > 0 {
		b.stale--
		return
	}
	b.sum += took
	b.count++
	b.full = b.full || inside >= b.size
	if b.count < b.window() {
		return
	}
	mean, full := b.sum/time.Duration(b.count), b.full
	b.sum, b.count, b.full = 0, 0, false
	switch {
	case b.floor == 0 || mean < b.floor:
		b.floor = mean
	case b.size == 1:
		b.floor += (mean - b.floor) / 4 // alone it is slow: the BMC or the way to it has changed
	}
	before := b.size
	switch {
	case b.size > 1 && mean > rises(b.floor):
		b.size, b.known = max(b.size/2, 1), true
	case full && mean <= rises(b.floor) && b.known:
		b.size = min(b.size+1, b.bound)
	case full && mean <= rises(b.floor):
		b.size = min(2*b.size, b.bound)
	}
	if b.size != before {
		b.stale = inside - 1
	}
}

func (b *budget) window() int {
	if b.known {
		return max(b.size, minWindow)
	}
	return max(b.size, 2)
}

// refused tells that the BMC asked to be left alone for a while (429, 503).
func (b *budget) refused() {
	b.size, b.known = max(b.size/2, 1), true
	b.sum, b.count, b.full = 0, 0, false
}
