package bmcsim

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
}

// requestLog is how many requests are remembered.
const requestLog = 512

// counter is guarded by its own lock: it must be readable while a request
// holds the BMC.
type counter struct {
	now   func() time.Time
	mu    sync.Mutex
	idle  *sync.Cond // busy became 0
	busy  int        // open connections and running requests
	stats Stats
	live  int
	log   []Request
}

// Stats is a copy of the counters.
func (b *BMC) Stats() Stats {
	b.mu.Lock()
	b.state.Users.Expire(b.cfg.Now())
	sessions := len(b.state.Sessions)
	b.mu.Unlock()

	c := &b.counter
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Requests = maps.Clone(c.stats.Requests)
	s.Sessions, s.Open = sessions, c.live
	return s
}

// ResetStats sets all counters to zero and empties the request log.
func (b *BMC) ResetStats() {
	c := &b.counter
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats, c.log = Stats{}, nil
}

// Requests is a copy of the last requests, oldest first.
func (b *BMC) Requests() []Request {
	c := &b.counter
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Request(nil), c.log...)
}

// end counts a request that began.
func (c *counter) end(method, path string, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave()
	if c.stats.Requests == nil {
		c.stats.Requests = map[string]int{}
	}
	c.stats.Requests[method]++
	session := strings.HasPrefix(path, sessionsURI)
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		if !session {
			c.stats.Writes++
		}
	}
	if session && method == http.MethodPost && status == http.StatusCreated {
		c.stats.Logins++
	}
	if status == http.StatusUnauthorized {
		c.stats.Denied++
	}
	if len(c.log) == requestLog {
		c.log = append(c.log[:0], c.log[1:]...)
	}
	c.log = append(c.log, Request{At: c.now(), Method: method, Path: path, Status: status})
}

func (c *counter) handshake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Handshakes++
}

// room reports whether one more connection is allowed.
func (c *counter) room() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live < maxConnections
}

// conn hears of every connection from net/http, which tells of its end when
// the goroutine behind it is about to end too.
func (c *counter) conn(_ net.Conn, state http.ConnState) {
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

func (c *counter) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy++
}

// leave is called with the lock held.
func (c *counter) leave() {
	if c.busy--; c.busy == 0 {
		c.idle.Broadcast()
	}
}

// wait returns when every connection is closed and every request ended.
func (c *counter) wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.busy > 0 {
		c.idle.Wait()
	}
}
