package bmcsim

import "github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/traffic"

// Stats counts what clients did since the start or the last ResetStats.
type Stats = traffic.Stats

// Request is one line of the request log.
type Request = traffic.Request

// Stats is a copy of the counters.
func (b *BMC) Stats() Stats {
	b.mu.Lock()
	b.state.ExpireSessions(b.cfg.Now())
	sessions := len(b.state.Sessions)
	b.mu.Unlock()
	s := b.counter.Stats()
	s.Sessions = sessions
	return s
}

// ResetStats sets all counters to zero and empties the request log.
func (b *BMC) ResetStats() { b.counter.Reset() }

// Requests is a copy of the last requests, oldest first.
func (b *BMC) Requests() []Request { return b.counter.Requests() }
