// Package traffic counts what clients did to a BMC, remembers their last
// requests, and knows when all of them are gone.
package traffic

import (
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Stats counts what clients did since the start or the last ResetStats.
// Sessions and Open are what there is now.
type Stats struct {
	Requests    map[string]int // by method
	Writes      int            // requests that could change something, logins and logouts aside
	Logins      int            // sessions made
	Denied      int            // answers 401
	Sessions    int            // live
	Handshakes  int            // of TLS, completed
	Connections int            // accepted
	Open        int            // connections
}

// Total is the number of requests of all methods.
func (s Stats) Total() int {
	n := 0
	for _, count := range s.Requests {
		n += count
	}
	return n
}

// Request is one line of the request log. It holds no header and no body.
type Request struct {
	At     time.Time
	Method string
	Path   string // with the query
	Status int    // 0: no whole answer was given
	User   string // who asked, "" before a login
}

// maxLog is how many requests are remembered.
const maxLog = 512

// maxConnections is bmcweb's limit.
const maxConnections = 200

// Counter is guarded by its own lock: it must be readable while a request holds
// the BMC. Login requests are those below its sessions' path.
type Counter struct {
	now      func() time.Time
	sessions string
	mu       sync.Mutex
	idle     *sync.Cond // busy became 0
	busy     int        // open connections and running requests
	stats    Stats
	live     int
	log      []Request
}

// New counts by a clock. Requests below the path sessions are logins and logouts.
func New(now func() time.Time, sessions string) *Counter {
	c := &Counter{now: now, sessions: sessions}
	c.idle = sync.NewCond(&c.mu)
	return c
}

// Stats is a copy of the counters. Sessions are the BMC's to count.
func (c *Counter) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Requests = maps.Clone(c.stats.Requests)
	s.Open = c.live
	return s
}

// Reset sets all counters to zero and empties the request log.
func (c *Counter) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats, c.log = Stats{}, nil
}

// Requests is a copy of the last requests, oldest first.
func (c *Counter) Requests() []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Request(nil), c.log...)
}

// End counts a request that began. Its time is that of its end.
func (c *Counter) End(r Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave()
	if c.stats.Requests == nil {
		c.stats.Requests = map[string]int{}
	}
	c.stats.Requests[r.Method]++
	session := strings.HasPrefix(r.Path, c.sessions)
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		if !session {
			c.stats.Writes++
		}
	}
	if session && r.Method == http.MethodPost && r.Status == http.StatusCreated {
		c.stats.Logins++
	}
	if r.Status == http.StatusUnauthorized {
		c.stats.Denied++
	}
	if len(c.log) == maxLog {
		c.log = append(c.log[:0], c.log[1:]...)
	}
	r.At = c.now()
	c.log = append(c.log, r)
}

// Handshake counts one of TLS.
func (c *Counter) Handshake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Handshakes++
}

// Room reports whether one more connection is allowed.
func (c *Counter) Room() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live < maxConnections
}

// Conn hears of every connection from net/http, which tells of its end when
// the goroutine behind it is about to end too.
func (c *Counter) Conn(_ net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		c.live++
		c.busy++
		c.stats.Connections++
	case http.StateClosed, http.StateHijacked:
		c.live--
		c.leave()
	case http.StateActive, http.StateIdle:
	}
}

// Begin counts a request that is to End.
func (c *Counter) Begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy++
}

// leave is called with the lock held.
func (c *Counter) leave() {
	if c.busy--; c.busy == 0 {
		c.idle.Broadcast()
	}
}

// Wait returns when every connection is closed and every request ended.
func (c *Counter) Wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.busy > 0 {
		c.idle.Wait()
	}
}
