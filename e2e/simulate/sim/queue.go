package sim

import "time"

// event is something that is to happen.
type event struct {
	at   time.Duration // since the world began
	turn uint64        // two of the same moment happen in the order in which they were asked for
	do   func()
}

func (e event) before(o event) bool { return e.at < o.at || e.at == o.at && e.turn < o.turn }

// queue is a heap of events, the next one first. Each has four children: the heap is
// half as high as one with two, and the children lie in one line of the cache.
type queue struct {
	heap []event
	turn uint64
}

const children = 4

func (q *queue) push(at time.Duration, do func()) {
	q.turn++
	e := event{at: at, turn: q.turn, do: do}
	q.heap = append(q.heap, e)
	i := len(q.heap) - 1
	for i > 0 {
		parent := (i - 1) / children
		if !e.before(q.heap[parent]) {
			break
		}
		q.heap[i] = q.heap[parent]
		i = parent
	}
	q.heap[i] = e
}

// pop takes the next event out of a queue that is not empty.
func (q *queue) pop() event {
	first, last := q.heap[0], q.heap[len(q.heap)-1]
	q.heap[len(q.heap)-1] = event{}
	q.heap = q.heap[:len(q.heap)-1]
	if len(q.heap) > 0 {
		q.sink(last)
	}
	return first
}

// sink puts e into the hole at the top.
func (q *queue) sink(e event) {
	i := 0
	for {
		least := children*i + 1
		if least >= len(q.heap) {
			break
		}
		for c := least + 1; c < min(children*i+1+children, len(q.heap)); c++ {
			if q.heap[c].before(q.heap[least]) {
				least = c
			}
		}
		if !q.heap[least].before(e) {
			break
		}
		q.heap[i] = q.heap[least]
		i = least
	}
	q.heap[i] = e
}
