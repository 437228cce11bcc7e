package talk

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
)

const (
	firstDelay = 500 * time.Millisecond
	maxDelay   = 30 * time.Second
)

// Preferred are the coordinators in the order in which an agent tries them, by
// rendezvous hashing: each agent has an order of its own, so that many agents are
// spread evenly, and those of a coordinator that dies go to all of the others. Those
// over TCP come last: QUIC is better wherever it passes.
func Preferred(agent fleet.AgentName, coordinators []string) []string {
	weight := func(addr string) []byte {
		sum := sha256.Sum256([]byte(string(agent) + "\x00" + addr))
		return sum[:]
	}
	order := slices.Clone(coordinators)
	slices.SortFunc(order, func(a, b string) int {
		switch over, under := strings.HasPrefix(a, mesh.TCP), strings.HasPrefix(b, mesh.TCP); {
		case over && !under:
			return 1
		case under && !over:
			return -1
		}
		return bytes.Compare(weight(b), weight(a))
	})
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
