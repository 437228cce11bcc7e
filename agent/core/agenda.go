package core

import (
	"container/heap"
	"slices"
	"strings"
	"time"
)

// agenda holds the nodes of which no read is under way, the one that is due next
// first. What a step costs depends on what is due and on what was touched, not on how
// many nodes the rack has.
type agenda []*node

// nowhere is the place of a node that is not in the agenda.
const nowhere = -1

// Len implements heap.Interface, as the four below do.
func (a agenda) Len() int { return len(a) }

// Less puts the earlier one first.
func (a agenda) Less(i, j int) bool { return a[i].due.Before(a[j].due) }

// Swap exchanges two nodes.
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].place, a[j].place = i, j
}

// Push appends a node.
func (a *agenda) Push(n any) {
	n.(*node).place = len(*a)
	*a = append(*a, n.(*node))
}

// Pop takes the last node out.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	n := (*a)[last]
	n.place = nowhere
	(*a)[last] = nil
	*a = (*a)[:last]
	return n
}

// put has a node, of which something has changed, where it belongs: nowhere while a
// read is under way.
func (a *agenda) put(n *node, now time.Time) {
	n.settle(now)
	n.due = n.next()
	switch {
	case n.due.IsZero() && n.place != nowhere:
		heap.Remove(a, n.place)
	case n.due.IsZero():
	case n.place == nowhere:
		heap.Push(a, n)
	default:
		heap.Fix(a, n.place)
	}
}

// anew puts all nodes in. The clock was set back, or these are other nodes.
func (a *agenda) anew(nodes []*node, now time.Time) {
	*a = (*a)[:0]
	for _, n := range nodes {
		n.settle(now)
		if n.place, n.due = nowhere, n.next(); !n.due.IsZero() {
			n.place = len(*a)
			*a = append(*a, n)
		}
	}
	heap.Init(a)
}

// begin takes out the nodes that are due, by name, each with its read.
func (a *agenda) begin(now time.Time) (reads []Read) {
	for len(*a) > 0 && !(*a)[0].due.After(now) {
		n := heap.Pop(a).(*node)
		reads = append(reads, n.read(now))
	}
	slices.SortFunc(reads, func(x, y Read) int { return strings.Compare(string(x.Node), string(y.Node)) })
	return reads
}

// next is when the first node is due; zero: none is.
func (a agenda) next() time.Time {
	if len(a) == 0 {
		return time.Time{}
	}
	return a[0].due
}
