package talk

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"time"
)

const (
	firstDelay = 500 * time.Millisecond
	maxDelay   = 30 * time.Second
)

// Preferred are the coordinators in the order in which an agent tries them, by
// rendezvous hashing: each agent has an order of its own, so that many agents are
// spread evenly, and those of a coordinator that dies go to all of the others.
func Preferred(agent string, coordinators []string) []string {
	weight := func(addr string) []byte {
		sum := sha256.Sum256([]byte(agent + "\x00" + addr))
		return sum[:]
	}
	order := slices.Clone(coordinators)
	slices.SortFunc(order, func(a, b string) int { return bytes.Compare(weight(b), weight(a)) })
	return order
}

// Backoff is how long to wait after so many rounds without success: a random part
// of a span that doubles, so that ten thousand agents do not come back at once.
func Backoff(rounds int, part float64) time.Duration {
	span := maxDelay
	if rounds < 6 {
		span = min(firstDelay<<rounds, maxDelay)
	}
	return time.Duration(part * float64(span))
}
