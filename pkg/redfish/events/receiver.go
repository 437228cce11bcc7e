package events

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	maxBody  = 1 << 20 // bytes of one delivery
	maxInbox = 64      // deliveries that wait for their listener
	maxConns = 8       // connections of one host
	// maxGuests is the connections of all hosts: one can have many addresses, and
	// the files that this process may open are for reaching BMCs.
	maxGuests = 512
)

// Receiver takes in what BMCs deliver to subscriptions. Each subscription has
// an address of its own that ends in a secret: who does not know it is told 404.
// It is an http.Handler, safe for concurrent use.
type Receiver struct {
	base string

	mu    sync.Mutex
	boxes map[[sha256.Size]byte]*inbox // by the hash of the secret: a lookup tells nothing of it
}

// inbox is where the deliveries of one subscription wait.
type inbox struct {
	bell chan struct{} // rung when there is something, capacity 1

	mu     sync.Mutex
	events []Event
	lost   bool
}

// NewReceiver makes a receiver that BMCs reach at base, "https://HOST:PORT/PATH".
func NewReceiver(base string) *Receiver {
	return &Receiver{base: strings.TrimRight(base, "/"), boxes: map[[sha256.Size]byte]*inbox{}}
}

// Serve answers on l, which is to speak TLS, until ctx ends, and then waits for
// the deliveries under way. It closes l.
func (r *Receiver) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: r, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		ConnState: (&guests{hosts: map[string]int{}}).changed,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // who knocks at the door is no news
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if server.Shutdown(ending) != nil {
		_ = server.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// guests counts connections, and closes those that are too many.
type guests struct {
	mu    sync.Mutex
	hosts map[string]int
	all   int
}

// changed is the hook of an http.Server.
func (g *guests) changed(c net.Conn, s http.ConnState) {
	host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	g.mu.Lock()
	defer g.mu.Unlock()
	switch s {
	case http.StateNew:
		g.hosts[host]++
		if g.all++; g.hosts[host] > maxConns || g.all > maxGuests {
			_ = c.Close() // before the handshake; its end is told like any other
		}
	case http.StateClosed, http.StateHijacked:
		g.all--
		if g.hosts[host]--; g.hosts[host] == 0 {
			delete(g.hosts, host)
		}
	case http.StateActive, http.StateIdle:
	}
}

// ServeHTTP takes one delivery. It answers at once; a listener that is too slow
// loses events and is told so.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	secret := req.URL.Path[strings.LastIndexByte(req.URL.Path, '/')+1:]
	r.mu.Lock()
	box := r.boxes[sha256.Sum256([]byte(secret))]
	r.mu.Unlock()
	if box == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		box.put(nil, true) // it was one, and nobody knows which
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	events, lost, err := decode(body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	box.put(events, lost)
	w.WriteHeader(http.StatusNoContent)
}

// open makes an address for one subscription. It is gone when closed is called.
func (r *Receiver) open() (destination string, box *inbox, closed func()) {
	raw := make([]byte, 24)
	_, _ = rand.Read(raw) // crypto/rand never fails
	secret := base64.RawURLEncoding.EncodeToString(raw)
	key := sha256.Sum256([]byte(secret))
	box = &inbox{bell: make(chan struct{}, 1)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.boxes[key] = box
	return r.base + "/" + secret, box, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.boxes, key)
	}
}

func (b *inbox) put(events []Event, lost bool) {
	if len(events) == 0 && !lost {
		return
	}
	b.mu.Lock()
	if len(b.events)+len(events) > maxInbox*4 {
		b.events, events, lost = nil, nil, true
	}
	b.events, b.lost = append(b.events, events...), b.lost || lost
	b.mu.Unlock()
	select {
	case b.bell <- struct{}{}:
	default:
	}
}

// take empties the inbox.
func (b *inbox) take() (events []Event, lost bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events, lost = b.events, b.lost
	b.events, b.lost = nil, false
	return events, lost
}
