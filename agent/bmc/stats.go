package bmc

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Stats is how a lane stands: counts since its start, and what is so now.
type Stats struct {
	Requests uint64 // sent to the BMC, logins and repetitions among them
	Silent   uint64 // of these, without a whole answer
	Busy     uint64 // of these, answered with 429 or 503
	Logins   uint64

	Budget   int    // reads that may be under way at once
	Inside   int    // reads under way
	Waiting  int    // reads and writes that wait for their turn
	LoggedIn bool   // a session is open on the BMC
	Slots    int    // sessions that its make holds at once, ours among them; 0: not known
	Breaker  string // "closed", "open" or "half-open"
	Profile  string // of which make the BMC is taken to be

	Latency time.Duration // of a read, as a moving average
}

// Stats is a copy of the lane's counters. It asks the BMC nothing.
func (l *Lane) Stats() Stats {
	l.mu.Lock()
	s := l.stats
	s.Budget = l.budget.size
	l.mu.Unlock()
	var reading, writing int
	s.Inside, reading = l.reads.load()
	_, writing = l.writes.load()
	s.Waiting = reading + writing
	_, s.LoggedIn = l.client.LoggedIn()
	profile := l.client.Profile()
	s.Breaker, s.Profile, s.Slots = l.brk.state(), profile.Name, profile.MaxSessions
	return s
}

// Sensor is what a sensor of the BMC was last seen to read.
type Sensor struct {
	ID, Name string // as the BMC says; neither needs to be unique, nor to be there
	Value    fleet.Value
	At       time.Time
}

// Sensors are the known readings, as somebody happened to ask for them, by their
// URIs. It asks the BMC nothing.
func (l *Lane) Sensors() []Sensor {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.plan == nil {
		return nil
	}
	var all []Sensor
	add := func(s sensor) {
		if s.value.Known() && s.err == nil {
			all = append(all, Sensor{ID: string(s.id), Name: string(s.name), Value: s.value, At: s.at})
		}
	}
	for _, uri := range slices.Sorted(maps.Keys(l.plan.last)) {
		for _, s := range l.plan.last[uri] {
			add(s)
		}
	}
	for _, uri := range slices.Sorted(maps.Keys(l.plan.traits)) {
		add(l.plan.traits[uri])
	}
	return all
}

// observe counts one exchange and fits the budget to how it went.
func (l *Lane) observe(e redfish.Exchange) {
	inside, _ := l.reads.load()
	bound := l.bound()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.stats
	s.Requests++
	if !e.Date.IsZero() {
		l.date = e.Date
	}
	l.budget.limit(bound)
	switch {
	case e.Status == 0:
		s.Silent++
	case e.Busy():
		s.Busy++
		l.budget.refused()
	case e.Method == http.MethodPost && e.Login:
		s.Logins++
	case e.Method == http.MethodGet && e.Status < 300:
		if s.Latency == 0 {
			s.Latency = e.Took
		}
		s.Latency += (e.Took - s.Latency) / 8
		l.budget.answered(e.Took, inside)
	}
	l.reads.resize(l.budget.size)
}

// bound is how many reads may be under way at the very most.
func (l *Lane) bound() int {
	if l.cfg.Most != nil {
		if most := l.cfg.Most(); most > 0 {
			return min(most, l.width())
		}
	}
	return l.width()
}

// width is what the BMC can do: over HTTP/1.1 as many reads as there are connections.
func (l *Lane) width() int {
	switch {
	case l.client == nil || !l.client.HTTP2():
		return max(l.cfg.BMC.Limits.Conns, 1)
	case l.cfg.Streams > 0:
		return l.cfg.Streams
	default:
		return l.client.Profile().MaxReads
	}
}
