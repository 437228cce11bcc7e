package mesh

// Limit sets how many handshakes are begun in a second, and how many without a proof
// of the address.
func (l *Listener) Limit(begin, usual float64) {
	for b, rate := range map[*bucket]float64{l.limits.begin: begin, l.limits.usual: usual} {
		b.mu.Lock()
		b.rate, b.left = rate, rate
		b.mu.Unlock()
	}
}

// The limits of one session.
const (
	SessionWindow = maxSessionWindow
	FirstWindow   = streamWindow
	MaxStreams    = maxStreams
)
