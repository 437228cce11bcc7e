package scl

import (
	"math"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// DefaultLostAfter is how long a wave waits for a rack that is cut off.
const DefaultLostAfter = 30 * time.Minute

// Rollout says that a program is carried out in waves: a few nodes first, and the
// others only as long as it goes well.
type Rollout struct {
	Name   string
	Canary int   // nodes of the first wave; 0: it is like the others
	Wave   Share // of all nodes, in each wave; default: all that are left
	// Parallel is how many nodes of one rack are at work at the same time; 0: as
	// many as the agent takes on.
	Parallel    int
	MaxFailures Share         // of all nodes, that may fail before it pauses; default: none
	Pause       time.Duration // between two waves
	// Healthy is a DoWait that each node ends with; nil: what it did is enough.
	Healthy *Command
	Approve string // who is asked before the first wave; "": nobody
	Hold    bool   // a rack that is cut off begins no node, also of a wave that was released
	// LostAfter is how long a wave waits for a rack that is cut off, whose nodes then
	// count as failed; 0: DefaultLostAfter.
	LostAfter time.Duration
	Span      syntax.Span
}

// Share is a number of nodes: Count, or Percent of all of them.
type Share struct {
	Count   int
	Percent float64
}

// Of is how many of n nodes it is; a percentage of some is rounded up, to one at
// least, and is never more than n.
func (s Share) Of(n int) int {
	if s.Percent > 0 {
		return min(n, int(math.Ceil(float64(n)*s.Percent/100)))
	}
	return min(n, s.Count)
}

// AtMost is as Of, rounded down: what may fail.
func (s Share) AtMost(n int) int {
	if s.Percent > 0 {
		return min(n, int(float64(n)*s.Percent/100))
	}
	return min(n, s.Count)
}

// String is the share as a script has it.
func (s Share) String() string {
	if s.Percent > 0 {
		return strconv.FormatFloat(s.Percent, 'f', -1, 64) + "%"
	}
	return strconv.Itoa(s.Count)
}
