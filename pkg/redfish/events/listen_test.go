package events

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

const (
	streamURI = "/redfish/v1/EventService/SSE"
	subsURI   = "/redfish/v1/EventService/Subscriptions"
)

// bmcFake is a BMC in memory: streams that a test writes, and subscriptions.
type bmcFake struct {
	mu      sync.Mutex
	docs    map[string]string
	open    func(n int, lastID string) (io.ReadCloser, error) // nil: it has no stream
	refuses error                                             // subscriptions
	streams []string                                          // the lastID of each, and when
	begun   time.Time
	posted  []map[string]any
	deleted []string
	fetched []string
	stuck   bool // it deletes nothing
}

func newFake(open func(int, string) (io.ReadCloser, error)) *bmcFake {
	service := `{"Subscriptions":{"@odata.id":"` + subsURI + `"},"ServiceEnabled":true`
	if open != nil {
		service += `,"ServerSentEventUri":"https://bmc` + streamURI + `"`
	}
	return &bmcFake{open: open, begun: time.Now(), docs: map[string]string{"/e": service + "}", subsURI: `{"Members":[]}`}}
}

func (f *bmcFake) Root(context.Context) (*redfish.Root, error) {
	return &redfish.Root{EventService: "/e"}, nil
}

func (f *bmcFake) Profile() redfish.Profile {
	p := redfish.Generic()
	p.Reconnect = 20 * time.Second
	return p
}

func (f *bmcFake) Fetch(_ context.Context, uri string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fetched = append(f.fetched, uri)
	doc, found := f.docs[uri]
	if !found {
		return nil, fault.New(fault.NotFound, "read "+uri, "404")
	}
	return []byte(doc), nil
}

func (f *bmcFake) Stream(_ context.Context, uri, lastID string) (io.ReadCloser, error) {
	if uri != streamURI || f.open == nil {
		return nil, fault.New(fault.NotFound, "open", uri)
	}
	f.mu.Lock()
	f.streams = append(f.streams, fmt.Sprintf("%v after %q", time.Since(f.begun).Round(time.Second), lastID))
	n := len(f.streams)
	f.mu.Unlock()
	return f.open(n, lastID)
}

func (f *bmcFake) Post(_ context.Context, uri string, body any) (*redfish.Reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuses != nil {
		return nil, f.refuses
	}
	f.posted = append(f.posted, body.(map[string]any))
	location := fmt.Sprintf("%s/%d", uri, len(f.posted))
	f.docs[location] = "{}"
	return &redfish.Reply{Status: 201, Header: http.Header{"Location": {location}}}, nil
}

func (f *bmcFake) Delete(_ context.Context, uri string) (*redfish.Reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stuck {
		return nil, fault.New(fault.Timeout, "delete "+uri, "no answer within the deadline")
	}
	f.deleted = append(f.deleted, uri)
	delete(f.docs, uri)
	return &redfish.Reply{Status: 200}, nil
}

// line writes a notice as one line.
func line(n Notice) string {
	s := string(n.Way)
	if n.Gap {
		s += " gap"
	}
	ids := make([]string, 0, len(n.Events)+1)
	for _, e := range n.Events {
		ids = append(ids, e.ID)
	}
	return strings.Join(append([]string{s}, ids...), " ")
}

// hear runs a listener for d and returns what it told.
func hear(t *testing.T, cfg Config, d time.Duration, during func(n Notice)) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var lines []string
	cfg.Jitter = func() float64 { return 0 }
	err := Run(ctx, cfg, func(n Notice) {
		lines = append(lines, line(n))
		if during != nil {
			during(n)
		}
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended by %v", err)
	}
	return lines
}

func event(id int) string {
	return fmt.Sprintf("id: %d\ndata: {\"Events\":[{\"EventId\":%d}]}\n\n", id, id)
}

// A stream that breaks is resumed after the last event that was heard, not at
// once: iDRACs want 20 to 30 seconds.
func TestStreamIsResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(n int, _ string) (io.ReadCloser, error) {
			switch n {
			case 1:
				return io.NopCloser(strings.NewReader(event(1) + event(2) + "id: 3\ndata: cut")), nil
			case 2:
				return io.NopCloser(strings.NewReader(event(3))), nil
			case 3: // the BMC has forgotten: it restarted
				return io.NopCloser(strings.NewReader("data: {\"MessageId\":\"Base.1.19.EventBufferExceeded\"}\n\n" + event(1))), nil
			default:
				return io.NopCloser(strings.NewReader("")), nil
			}
		})
		got := hear(t, Config{Service: f}, 65*time.Second, nil)
		if diff := cmp.Diff([]string{
			"stream gap", "stream 1", "stream 2", "stream gap", "stream 3",
			"stream gap", "stream gap", "stream 1", "stream gap",
		}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		want := []string{`0s after ""`, `20s after "2"`, `40s after "3"`, `1m0s after "1"`}
		if diff := cmp.Diff(want, f.streams); diff != "" {
			t.Errorf("streams (-want +got):\n%s", diff)
		}
	})
}

// What the BMC wishes for the next connection holds for what it says after it, too.
func TestTheWishOfAStreamHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(n int, _ string) (io.ReadCloser, error) {
			if n == 1 {
				return io.NopCloser(strings.NewReader("retry: 45000\n" + event(1) + event(2))), nil
			}
			return io.NopCloser(strings.NewReader(event(3))), nil // and this one wishes nothing
		})
		hear(t, Config{Service: f}, 70*time.Second, nil)
		if diff := cmp.Diff([]string{`0s after ""`, `45s after "2"`, `1m5s after "3"`}, f.streams); diff != "" {
			t.Errorf("streams (-want +got):\n%s", diff)
		}
	})
}

// silent never says anything until it is closed.
type silent struct {
	once sync.Once
	done chan struct{}
}

func (s *silent) Read([]byte) (int, error) { <-s.done; return 0, io.ErrClosedPipe }
func (s *silent) Close() error             { s.once.Do(func() { close(s.done) }); return nil }

func TestSilentStreamIsOpenedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(int, string) (io.ReadCloser, error) { return &silent{done: make(chan struct{})}, nil })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// A stream ends with the listener's context in earnest; this fake does not.
		time.AfterFunc(26*time.Minute, cancel)
		_ = Run(ctx, Config{Service: f, Silence: 10 * time.Minute, Jitter: func() float64 { return 0 }}, func(Notice) {})
		if diff := cmp.Diff([]string{`0s after ""`, `10m20s after ""`, `20m40s after ""`}, f.streams); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// Where nothing is pushed the listener says when to read, tries again ever less
// often, and returns to the stream when it works.
func TestBackToPollingAndToTheStreamAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(n int, _ string) (io.ReadCloser, error) {
			if n < 4 {
				return nil, fault.New(fault.Unavailable, "open", "too many streams")
			}
			return io.NopCloser(strings.NewReader(event(1))), nil
		})
		got := hear(t, Config{Service: f, Poll: 15 * time.Second}, 150*time.Second, nil)
		// 20 s, 40 s, 80 s between the tries, a notice every 15 s of them.
		want := append(slices.Repeat([]string{"polling gap"}, 2+3+6), "stream gap", "stream 1")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{`0s after ""`, `20s after ""`, `1m0s after ""`, `2m20s after ""`}, f.streams); diff != "" {
			t.Errorf("tries (-want +got):\n%s", diff)
		}
	})
}

func TestNoEventService(t *testing.T) {
	for name, change := range map[string]func(*bmcFake){
		"none":         func(f *bmcFake) { delete(f.docs, "/e") },
		"switched off": func(f *bmcFake) { f.docs["/e"] = `{"ServiceEnabled":false,"ServerSentEventUri":"` + streamURI + `"}` },
		"neither way":  func(f *bmcFake) { f.docs["/e"] = `{}` },
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(nil)
			change(f)
			got := hear(t, Config{Service: f}, 10*time.Minute, nil)
			if len(got) < 19 || len(got) > 24 || got[0] != "polling gap" {
				t.Errorf("%s: %d notices in ten minutes, %v; want about one each 30 s", name, len(got), got[:min(len(got), 3)])
			}
			if len(f.fetched) > 10 {
				t.Errorf("%s: asked for the service %d times", name, len(f.fetched))
			}
		})
	}
}

func deliverTo(t *testing.T, r http.Handler, method, url, body string) int {
	t.Helper()
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body)))
	return w.Code
}

func TestSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReceiver("https://agent:8443/events/")
		f := newFake(nil)
		// Two of an earlier life, one of them at another address, and two of strangers.
		f.docs[subsURI] = `{"Members":[{"@odata.id":"/sub/a"},{"@odata.id":"/sub/b"},{"@odata.id":"/sub/c"},{"@odata.id":"/sub/d"},{"@odata.id":"/sub/gone"}]}`
		f.docs["/sub/a"] = `{"Destination":"https://agent:8443/events/old","Context":"chiba:r1"}`
		f.docs["/sub/b"] = `{"Destination":"https://agent:8443/events/old2","Context":"another agent"}`
		f.docs["/sub/c"] = `{"Destination":"https://formerly:8443/events/old","Context":"chiba:r1"}`
		f.docs["/sub/d"] = `{"Destination":"https://agent:8443/events/old","Context":"chiba:r10"}`
		first := true
		got := hear(t, Config{Service: f, Receiver: r, Context: "chiba:r1", Check: time.Minute}, 5*time.Minute, func(Notice) {
			if !first {
				return
			}
			first = false
			f.mu.Lock()
			to := f.posted[0]["Destination"].(string)
			f.mu.Unlock()
			for _, c := range []struct {
				method, url, body string
				want              int
			}{
				{"POST", to, `{"Events":[{"EventId":1},{"EventId":2}]}`, 204},
				{"POST", to, `{"Events":[]}`, 204},
				{"POST", to, `no JSON`, 400},
				{"GET", to, ``, 405},
				{"POST", to + "x", `{"Events":[{"EventId":666}]}`, 404},
				{"POST", "https://agent:8443/events/", `{"Events":[{"EventId":666}]}`, 404},
			} {
				if got := deliverTo(t, r, c.method, c.url, c.body); got != c.want {
					t.Errorf("%s %s: %d; want %d", c.method, c.body, got, c.want)
				}
			}
			// After some failed deliveries bmcweb deletes a subscription.
			time.AfterFunc(90*time.Second, func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				delete(f.docs, subsURI+"/1")
			})
		})
		if diff := cmp.Diff([]string{"subscription gap", "subscription 1 2", "subscription gap"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"/sub/a", "/sub/c", subsURI + "/1", subsURI + "/2"}, f.deleted); diff != "" {
			t.Errorf("deleted (-want +got):\n%s", diff)
		}
		for _, p := range f.posted {
			if len(p) != 3 || p["Protocol"] != "Redfish" || p["Context"] != "chiba:r1" {
				t.Errorf("subscribed with %v", p)
			}
		}
		if len(f.posted) != 2 || f.posted[0]["Destination"] == f.posted[1]["Destination"] || len(r.boxes) != 0 {
			t.Errorf("%d subscriptions, %d addresses left; each has a secret of its own", len(f.posted), len(r.boxes))
		}
	})
}

// A subscription that could not be removed is removed before the next one is made: a
// BMC holds about twenty, and keeps them over its restarts.
func TestWhatWasNotRemovedIsRemovedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(nil)
		first := true
		hear(t, Config{Service: f, Receiver: NewReceiver("https://agent/events"), Context: "chiba:r1", Check: time.Minute}, 10*time.Minute, func(Notice) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if !first {
				return
			}
			first = false
			// The subscription seems to be gone, and is not: the BMC is confused for a while.
			f.stuck = true
			delete(f.docs, subsURI+"/1")
			time.AfterFunc(65*time.Second, func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.stuck = false
				f.docs[subsURI] = `{"Members":[{"@odata.id":"` + subsURI + `/1"}]}`
				f.docs[subsURI+"/1"] = `{"Context":"chiba:r1"}`
			})
		})
		if len(f.posted) != 2 || f.docs[subsURI+"/1"] != "" {
			t.Errorf("%d subscriptions were made, and the first one is still there: %q", len(f.posted), f.docs[subsURI+"/1"])
		}
	})
}

// A BMC that refuses a subscription repeats its address, which is a secret.
func TestRefusedSubscriptionTellsNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(nil)
		f.refuses = fault.New(fault.Unavailable, "post", "the destination https://agent/events/SECRET is one too many")
		r := NewReceiver("https://agent/events")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = Run(ctx, Config{Service: f, Receiver: r}, func(n Notice) {
			if n.Way != ByPolling || strings.Contains(n.Why, "SECRET") || n.Why == "" {
				t.Errorf("told %+v", n)
			}
		})
		if len(r.boxes) != 0 {
			t.Error("an address is left open")
		}
	})
}

func TestReceiverIsBounded(t *testing.T) {
	r := NewReceiver("https://agent/events")
	to, box, closed := r.open()
	if code := deliverTo(t, r, "POST", to, `{"x":"`+strings.Repeat("x", maxBody)+`"}`); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a huge delivery: %d", code)
	}
	if _, lost := box.take(); !lost {
		t.Error("a delivery that was too large is a gap")
	}
	for range maxInbox {
		deliverTo(t, r, "POST", to, `{"Events":[`+strings.Repeat(`{},`, 9)+`{}]}`)
	}
	events, lost := box.take()
	if !lost || len(events) > maxInbox*4 {
		t.Errorf("%d events wait, lost %v", len(events), lost)
	}
	closed()
	if code := deliverTo(t, r, "POST", to, `{}`); code != http.StatusNotFound {
		t.Errorf("a closed address: %d; want 404", code)
	}
}

// Whoever is on the BMC network can connect. One host gets a few connections, so that
// it can't keep the others from delivering, or this process from reaching them.
func TestOneHostGetsAFewConnections(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewReceiver("http://agent/events").Serve(ctx, l) }()
	dial := func(from string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort(from, port))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	answered := func(c net.Conn) bool {
		_, err := io.WriteString(c, "GET /events/none HTTP/1.1\r\nHost: agent\r\n\r\n")
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, len("HTTP/1.1 404")))
		}
		return err == nil
	}
	var held []net.Conn
	for range maxConns {
		held = append(held, dial("127.0.0.1"))
		if !answered(held[len(held)-1]) {
			t.Fatalf("connection %d is not served", len(held))
		}
	}
	for range 3 {
		more := dial("127.0.0.1")
		if answered(more) {
			t.Error("one more connection of that host is served")
		}
		_ = more.Close()
	}
	other := dial("127.0.0.2")
	if !answered(other) {
		t.Error("another host is not served")
	}
	for _, c := range append(held, other) {
		_ = c.Close()
	}
	for again := dial("127.0.0.1"); !answered(again); again = dial("127.0.0.1") { // when the server has seen it
		_ = again.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The receiver as a server of its own, with TLS.
func TestReceiverServes(t *testing.T) {
	front := httptest.NewUnstartedServer(nil) // for its listener and certificate
	front.StartTLS()
	defer front.Close()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := NewReceiver("https://" + l.Addr().String() + "/events")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, tls.NewListener(l, front.TLS)) }()
	to, box, closed := r.open()
	defer closed()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, to, strings.NewReader(`{"Events":[{"EventId":"7"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	client := front.Client()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	<-box.bell
	if events, lost := box.take(); res.StatusCode != http.StatusNoContent || lost || len(events) != 1 || events[0].ID != "7" {
		t.Errorf("%d, %+v, lost %v", res.StatusCode, events, lost)
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Who no longer listens removes what an earlier life left, and nobody else's.
func TestSweep(t *testing.T) {
	f := newFake(nil)
	f.docs[subsURI] = `{"Members":[{"@odata.id":"/sub/a"},{"@odata.id":"/sub/b"},{"@odata.id":"/sub/gone"}]}`
	f.docs["/sub/a"] = `{"Destination":"https://formerly/old","Context":"chiba:r1"}`
	f.docs["/sub/b"] = `{"Destination":"https://formerly/old","Context":""}`
	for _, mark := range []string{"", "chiba:r1"} {
		if err := Sweep(t.Context(), f, func(found string) bool { return found == mark }); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"/sub/a"}, f.deleted); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
	f.docs[subsURI] = `{"Members":[{"@odata.id":"/sub/hung"}]}`
	f.docs["/sub/hung"] = `no JSON`
	if err := Sweep(t.Context(), f, func(string) bool { return true }); err == nil {
		t.Error("what could not be read may be ours, and it says that all is well")
	}
	delete(f.docs, "/e")
	if err := Sweep(t.Context(), f, func(string) bool { return true }); err == nil {
		t.Error("no error of the service")
	}
}
