package mesh

import (
	"context"
	"time"
)

// lookAgain is how often a session's certificate is compared with the clock: a timer
// alone would not see that the clock was set, or that the machine has slept.
const lookAgain = time.Minute

// endWith ends a session with the certificate of its peer: nobody re-checks one on a
// live connection. ctx ends with the session; a nil now is time.Now.
func endWith(ctx context.Context, s Session, now func() time.Time) {
	if now == nil {
		now = time.Now
	}
	until := s.Peer().NotAfter
	var timer *time.Timer
	timer = time.AfterFunc(time.Hour, func() {
		left := until.Sub(now())
		switch {
		case ctx.Err() != nil:
		case left > 0:
			timer.Reset(min(left, lookAgain))
		default:
			s.Close("certificate expired")
		}
	})
	timer.Reset(0) // now that it knows itself
	context.AfterFunc(ctx, func() { timer.Stop() })
}
