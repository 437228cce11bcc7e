package mesh

import (
	"context"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

const (
	// handshakesPerCore is how many handshakes a listener begins in a second for each
	// processor. One costs about 0.9 ms (ECDSA P-256, mutual); the rest is for those
	// who are in already.
	handshakesPerCore = 500
	// underWayPerCore is how many handshakes are under way at once for each processor.
	// More would only wait for each other until those who dial have given up, and with
	// them all other work. One that takes longer than waitsForPeer waits for its peer
	// rather than for us, and no longer counts.
	underWayPerCore = 32
	waitsForPeer    = time.Second
	// calm is how many handshakes in a second are usual. Above, who knocks must prove
	// its address first (Retry, RFC 9000 8.1.2), which costs it a round trip.
	calm = 100
	// windowBudget is what all sessions of a listener together may have us buffer, above
	// the initial windows: ten thousand with the largest ones would be 20 GB.
	windowBudget = 256 << 20
)

// limits bound what all who dial one listener can cost us together.
type limits struct {
	begin  *bucket // handshakes
	usual  *bucket
	slots  chan struct{} // handshakes under way
	window budget
}

func newLimits() *limits {
	cores := runtime.GOMAXPROCS(0)
	most := float64(handshakesPerCore * cores)
	return &limits{begin: newBucket(most), slots: make(chan struct{}, underWayPerCore*cores), usual: newBucket(calm), window: budget{left: windowBudget}}
}

// retry reports whether the one at the address must first prove that it is there.
func (l *limits) retry(net.Addr) bool { return !l.usual.take(time.Now()) }

// admit refuses a handshake beyond the rate, or while too many are under way, before it
// has cost anything: the client is told at once and comes back later. ctx ends with the
// connection, which has its share of the budget in it.
func (l *limits) admit(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	const op = "begin a session"
	select {
	case l.slots <- struct{}{}:
	default:
		return nil, fault.New(fault.Unavailable, op, "too many are being begun")
	}
	if !l.begin.take(time.Now()) {
		<-l.slots
		return nil, fault.New(fault.Unavailable, op, "too many at once")
	}
	s := &share{of: &l.window, begun: sync.OnceFunc(func() { <-l.slots })}
	s.slow = time.AfterFunc(waitsForPeer, s.begun)
	context.AfterFunc(ctx, s.end)
	return context.WithValue(ctx, shareKey{}, s), nil
}

// accepted ends the handshake of a session whose context that is.
func accepted(ctx context.Context) {
	if s, ok := ctx.Value(shareKey{}).(*share); ok {
		s.slow.Stop()
		s.begun()
	}
}

type shareKey struct{}

// widen reports whether a session may have us buffer n bytes more.
func (l *limits) widen(conn *quic.Conn, n uint64) bool {
	s, ok := conn.Context().Value(shareKey{}).(*share)
	return ok && s.grow(int64(n))
}

// bucket is a rate with a burst of one second of it. Safe for concurrent use.
type bucket struct {
	rate float64 // per second

	mu   sync.Mutex
	left float64
	at   time.Time
}

func newBucket(rate float64) *bucket { return &bucket{rate: rate, left: rate, at: time.Now()} }

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(b.rate, b.left+b.rate*max(0, now.Sub(b.at).Seconds()))
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// budget is shared by sessions. Safe for concurrent use.
type budget struct {
	mu   sync.Mutex
	left int64
}

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

// share is what one session has taken of a budget, given back when it ends, and its
// place among the handshakes.
type share struct {
	of    *budget
	begun func()      // gives the place back
	slow  *time.Timer // does so too

	mu    sync.Mutex
	taken int64
	ended bool
}

func (s *share) grow(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || !s.of.take(n) {
		return false
	}
	s.taken += n
	return true
}

func (s *share) end() {
	s.slow.Stop()
	s.begun()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.of.take(-s.taken)
	s.taken = 0
}
