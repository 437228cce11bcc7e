package mesh

import (
	"context"
	"crypto/x509"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestBucket(t *testing.T) {
	b := newBucket(10)
	now := b.at
	take := func(n int) (taken int) {
		for range n {
			if b.take(now) {
				taken++
			}
		}
		return taken
	}
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 10}, {0, 0}, {100 * time.Millisecond, 1}, {500 * time.Millisecond, 5}, {time.Hour, 10}, {-time.Hour, 0}, {200 * time.Millisecond, 2}} {
		now = now.Add(step.after)
		if got := take(100); got != step.want {
			t.Errorf("after %s: %d, want %d", step.after, got, step.want)
		}
	}
}

// Handshakes beyond the rate are refused before they cost anything, and what a session
// has taken of the common budget comes back when it ends.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits()
		l.window.left = 100
		ctx, end := context.WithCancel(t.Context())
		inner, err := l.admit(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		first := inner.Value(shareKey{}).(*share)
		if !first.grow(60) || first.grow(60) {
			t.Error("60 of 100 are to be had, and then no 60 more")
		}
		inner, _ = l.admit(t.Context(), nil)
		second := inner.Value(shareKey{}).(*share)
		if second.grow(60) {
			t.Error("the budget is not a common one")
		}
		end()
		synctest.Wait()
		if first.grow(1) || !second.grow(100) {
			t.Error("what the first had is not back")
		}
		admitted := 0
		for range 10_000 {
			if inner, err := l.admit(t.Context(), nil); err == nil {
				accepted(inner)
				admitted++
			}
		}
		if admitted != int(l.begin.rate)-2 {
			t.Errorf("%d were admitted at once, the rate is %v", admitted, l.begin.rate)
		}
	})
}

// No more handshakes are under way at once than there are places. One is free again when
// the session is accepted, when the handshake fails, and when its peer takes long.
func TestHandshakesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits()
		begin := func(ctx context.Context) (inners []context.Context) {
			for range 10_000 {
				inner, err := l.admit(ctx, nil)
				if err != nil {
					return inners
				}
				inners = append(inners, inner)
			}
			return inners
		}
		ctx, end := context.WithCancel(t.Context())
		all := begin(ctx)
		if len(all) != cap(l.slots) {
			t.Errorf("%d are under way, there are %d places", len(all), cap(l.slots))
		}
		accepted(all[0])
		accepted(all[0]) // and no place of another's
		accepted(all[1])
		if n := len(begin(t.Context())); n != 2 {
			t.Errorf("two were accepted, and %d more are under way", n)
		}
		end() // all but those two
		synctest.Wait()
		if n := len(begin(t.Context())); n != cap(l.slots)-2 {
			t.Errorf("all but two have failed, and %d more are under way", n)
		}
		<-time.After(waitsForPeer)
		synctest.Wait()
		if n := len(begin(t.Context())); n != cap(l.slots) {
			t.Errorf("all are slow, and %d more are under way", n)
		}
		<-time.After(waitsForPeer)
	})
}

// dated is a session whose peer's certificate ends at a time.
type dated struct {
	Session
	until  time.Time
	closed chan string
}

func (d dated) Peer() *x509.Certificate { return &x509.Certificate{NotAfter: d.until} }
func (d dated) Close(reason string)     { d.closed <- reason }

// A session ends with its peer's certificate also if the clock is set, or the machine
// sleeps: neither moves a timer.
func TestThreat25ClockSetPastTheEndOfACertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		var set atomic.Int64
		d := dated{until: time.Now().Add(24 * time.Hour), closed: make(chan string, 1)}
		endWith(ctx, d, func() time.Time { return time.Now().Add(time.Duration(set.Load())) })
		<-time.After(23 * time.Hour)
		synctest.Wait()
		if len(d.closed) != 0 {
			t.Fatal("it ended before its time")
		}
		set.Store(int64(2 * time.Hour))
		<-time.After(lookAgain)
		synctest.Wait()
		if len(d.closed) != 1 {
			t.Error("the session outlives the certificate")
		}
		end()
	})
}
