package events

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"slices"
	"sync"
	"time"
)

// deliveryTime bounds one POST to a listener.
const deliveryTime = 30 * time.Second

// Hub delivers events. Its methods are safe for concurrent use; nothing is
// sent before Run.
type Hub struct {
	now    func() time.Time
	failed func(id, policy string) // a subscription's retries have run out

	mu      sync.Mutex
	last    int // id of the last event
	memory  []Event
	retries Retries
	roots   *x509.CertPool // listeners' certificates are checked against
	lines   map[string]*line
	streams map[string]*Stream
	wake    chan struct{}
}

// line is what waits for one listener.
type line struct {
	sub     Subscription
	waiting []Event
	tries   int // of the first in waiting
	due     time.Time
	busy    bool // a goroutine is sending
}

// NewHub makes a hub; failed is called from its goroutines, without a lock.
func NewHub(now func() time.Time, failed func(id, policy string)) *Hub {
	return &Hub{
		now: now, failed: failed, last: 1, retries: Retries{3, 30 * time.Second},
		lines: map[string]*line{}, streams: map[string]*Stream{}, wake: make(chan struct{}, 1),
	}
}

// Configure sets how often delivery is tried again, and the trusted CAs.
func (h *Hub) Configure(r Retries, roots *x509.CertPool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retries, h.roots = r, roots
}

// Subscribe makes the listeners those in list. What waits for one that stays
// is kept.
func (h *Hub) Subscribe(list []Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := map[string]*line{}
	for _, sub := range list {
		l := h.lines[sub.ID]
		if l == nil {
			l = &line{}
		}
		l.sub = sub
		lines[sub.ID] = l
	}
	h.lines = lines
}

// Tell hands an event to everybody it concerns; makes is called with its id.
func (h *Hub) Tell(makes func(id int) Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	e := makes(h.last)
	h.memory = append(h.memory, e)
	if len(h.memory) > maxMemory {
		h.memory = slices.Clone(h.memory[1:])
	}
	for _, l := range h.lines {
		if l.sub.wants(e) && len(l.waiting) < maxWaiting {
			l.waiting = append(l.waiting, e)
		}
	}
	for _, s := range h.streams {
		if s.wants(e) {
			s.offer(e)
		}
	}
	h.Wake()
}

// Wake looks at once for what is due: the clock may have been moved.
func (h *Hub) Wake() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Run delivers until ctx ends, then waits for what it started.
func (h *Hub) Run(ctx context.Context) {
	var sending sync.WaitGroup
	defer sending.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		for _, l := range h.start() {
			sending.Go(func() { h.deliver(ctx, l) })
		}
		timer.Reset(h.pause())
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		case <-timer.C:
		}
	}
}

// start takes the lines that have something to send now.
func (h *Hub) start() (list []*line) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	for _, l := range h.lines {
		if len(l.waiting) > 0 && !l.busy && !now.Before(l.due) {
			l.busy = true
			list = append(list, l)
		}
	}
	return list
}

// pause is how long nothing is due, by our own clock.
func (h *Hub) pause() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	pause, now := time.Hour, h.now()
	for _, l := range h.lines {
		if len(l.waiting) > 0 && !l.busy {
			pause = min(pause, l.due.Sub(now))
		}
	}
	return max(pause, 0)
}

// deliver sends what waits in a line, until it is empty or a POST fails.
func (h *Hub) deliver(ctx context.Context, l *line) {
	for {
		h.mu.Lock()
		if len(l.waiting) == 0 || ctx.Err() != nil {
			l.busy = false
			h.mu.Unlock()
			return
		}
		e, sub, roots := l.waiting[0], l.sub, h.roots
		h.mu.Unlock()
		sent := post(ctx, sub, e, roots)
		if !h.settle(l, sent) {
			return
		}
	}
}

// settle notes the outcome of a POST and reports whether to go on at once.
func (h *Hub) settle(l *line, sent bool) bool {
	h.mu.Lock()
	if sent {
		l.tries = 0
		if len(l.waiting) > 0 {
			l.waiting = l.waiting[1:]
		}
		h.mu.Unlock()
		return true
	}
	l.tries++
	l.busy = false
	l.due = h.now().Add(h.retries.Interval)
	ended := l.tries > h.retries.Attempts && l.sub.Policy != Forever
	if ended {
		l.waiting, l.tries = nil, 0
	}
	id, policy := l.sub.ID, l.sub.Policy
	h.mu.Unlock()
	h.Wake()
	if ended {
		h.failed(id, policy)
	}
	return false
}

// post reports whether the listener took the event: with any 2xx.
func post(ctx context.Context, sub Subscription, e Event, roots *x509.CertPool) bool {
	ctx, cancel := context.WithTimeout(ctx, deliveryTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, sub.Destination, bytes.NewReader(e.text(sub.Context)))
	if err != nil {
		return false
	}
	for _, set := range sub.Headers {
		for name, value := range set {
			req.Header.Set(name, value)
		}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header["User-Agent"] = nil
	req.Host = req.URL.Hostname() // OpenBMC names no port
	tr := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: roots,
			// The subscriber said so: VerifyCertificate is a property of the
			// subscription, and OpenBMC obeys it. No secret of ours goes there.
			InsecureSkipVerify: !sub.Verify, //nolint:gosec // see above
		},
	}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode/100 == 2
}
