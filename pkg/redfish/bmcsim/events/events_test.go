package events_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listener counts what arrives and answers with status.
type listener struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	bodies []string
	header http.Header
	host   string
	got    chan struct{}
}

func listen(t *testing.T) *listener {
	t.Helper()
	l := &listener{status: http.StatusOK, got: make(chan struct{}, 1000)}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		l.mu.Lock()
		l.bodies, l.header, l.host = append(l.bodies, string(body)), r.Header, r.Host
		status := l.status
		l.mu.Unlock()
		w.WriteHeader(status)
		l.got <- struct{}{}
	}))
	t.Cleanup(l.Close)
	return l
}

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func start(t *testing.T, failed func(id, policy string)) (*events.Hub, *clock) {
	t.Helper()
	c := &clock{now: time.Unix(1000, 0)}
	h := events.NewHub(c.Now, failed)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return h, c
}

func said(text string) func(id int) events.Event {
	return func(id int) events.Event {
		return events.Test(id, map[string]any{"Message": text, "MessageId": "OpenBMC.0.1.Hello", "EventId": "7"})
	}
}

func TestATestEventAsItArrives(t *testing.T) {
	l := listen(t)
	h, _ := start(t, nil)
	h.Subscribe([]events.Subscription{{
		ID: "1", Destination: l.URL + "/ev", Prefixes: []string{"TaskEvent"}, Headers: []map[string]string{{"X-Secret": "s"}},
	}})
	h.Tell(said("hello"))
	<-l.got
	want := `{
  "@odata.type": "#Event.v1_4_0.Event",
  "Events": [
    {
      "MemberId": "0",
      "Message": "hello",
      "MessageId": "OpenBMC.0.1.Hello"
    }
  ],
  "Id": "2",
  "Name": "Event Log"
}`
	l.mu.Lock()
	defer l.mu.Unlock()
	if diff := cmp.Diff(want, l.bodies[0]); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	l.header.Del("Content-Length")
	wantHeader := http.Header{"Content-Type": {"application/json"}, "X-Secret": {"s"}, "Connection": {"close"}}
	if diff := cmp.Diff(wantHeader, l.header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if l.host != "127.0.0.1" {
		t.Errorf("Host is %q, want it without the port", l.host)
	}
}

// Ids of task events are numbers, and their origin is a text.
func TestTypesDifferFromKindToKind(t *testing.T) {
	task := events.Task(5, "/redfish/v1/TaskService/Tasks/0", map[string]any{"MessageId": "TaskEvent.1.0.TaskStarted"}, "2030-01-01T00:00:00+00:00")
	log := events.Log(6, map[string]any{"MessageId": "OpenBMC.0.5.DCPowerOn"})
	test := events.Test(7, map[string]any{"OriginOfCondition": "/redfish/v1/Systems/system"})
	for _, tt := range []struct {
		e       events.Event
		id      any
		eventID any
		origin  any
	}{
		{task, 5, 5, "/redfish/v1/TaskService/Tasks/0"},
		{log, "6", "5", nil},
		{test, "7", nil, map[string]any{"@odata.id": "/redfish/v1/Systems/system"}},
	} {
		inner := tt.e.Body["Events"].([]map[string]any)[0]
		got := []any{tt.e.Body["Id"], inner["EventId"], inner["OriginOfCondition"]}
		if diff := cmp.Diff([]any{tt.id, tt.eventID, tt.origin}, got); diff != "" {
			t.Errorf("event %d (-want +got):\n%s", tt.e.ID, diff)
		}
	}
}

func TestOnlyWhatWasAskedForArrives(t *testing.T) {
	tasks, hello, all := listen(t), listen(t), listen(t)
	h, _ := start(t, nil)
	h.Subscribe([]events.Subscription{
		{ID: "1", Destination: tasks.URL, Prefixes: []string{"TaskEvent"}},
		{ID: "2", Destination: hello.URL, MessageIDs: []string{"DCPowerOff"}},
		{ID: "3", Destination: all.URL, Context: "rack 7"},
		{ID: "4", Destination: all.URL, Suspended: true},
	})
	h.Tell(func(id int) events.Event {
		return events.Log(id, map[string]any{"MessageId": "OpenBMC.0.5.DCPowerOff"})
	})
	h.Tell(func(id int) events.Event { return events.Log(id, map[string]any{"MessageId": "OpenBMC.0.5.DCPowerOn"}) })
	<-hello.got
	<-all.got
	<-all.got
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(hello.got)+len(tasks.got)+len(all.got) > 0 {
		t.Error("more arrived than was asked for")
	}
	if !strings.Contains(all.bodies[0], `"Context": "rack 7"`) {
		t.Errorf("a log event without its listener's context: %s", all.bodies[0])
	}
}

func TestRetriesAndWhatFollows(t *testing.T) {
	for _, policy := range []string{events.Terminate, events.Suspend} {
		l := listen(t)
		l.status = http.StatusInternalServerError
		failed := make(chan string, 1)
		h, c := start(t, func(id, policy string) { failed <- id + " " + policy })
		h.Configure(events.Retries{Attempts: 2, Interval: 5 * time.Second}, nil)
		h.Subscribe([]events.Subscription{{ID: "1", Destination: l.URL, Policy: policy}})
		h.Tell(said("hello"))
		<-l.got
		for range 2 {
			await(h, c, l.got)
		}
		if got := <-failed; got != "1 "+policy {
			t.Errorf("%s: failed was told %q", policy, got)
		}
		if n := len(l.bodies); n != 3 {
			t.Errorf("%s: %d POSTs, want the first and two more", policy, n)
		}
	}
}

// await lets time pass until something arrives: the outcome of the POST before
// may not be noted yet.
func await(h *events.Hub, c *clock, got <-chan struct{}) {
	for {
		c.move(time.Second)
		h.Wake()
		select {
		case <-got:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func TestForeverIsForever(t *testing.T) {
	l := listen(t)
	l.status = http.StatusBadGateway
	h, c := start(t, func(string, string) { t.Error("it was given up") })
	h.Configure(events.Retries{Attempts: 1, Interval: time.Second}, nil)
	h.Subscribe([]events.Subscription{{ID: "1", Destination: l.URL, Policy: events.Forever}})
	h.Tell(said("hello"))
	<-l.got
	for range 10 {
		await(h, c, l.got)
	}
}

func TestAnUntrustedListenerHearsNothing(t *testing.T) {
	l := listen(t)
	secured := httptest.NewTLSServer(l.Config.Handler)
	secured.Config.ErrorLog = nil
	t.Cleanup(secured.Close)
	failed := make(chan string, 1)
	h, _ := start(t, func(id, _ string) { failed <- id })
	h.Configure(events.Retries{}, nil)
	h.Subscribe([]events.Subscription{{ID: "checked", Destination: secured.URL, Verify: true}, {ID: "unchecked", Destination: secured.URL}})
	h.Tell(said("hello"))
	<-l.got
	if id := <-failed; id != "checked" {
		t.Errorf("%s failed, want the one that is checked", id)
	}
}

func TestRunWaitsByItsOwnClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan time.Time, 1)
		h := events.NewHub(time.Now, func(string, string) { failed <- time.Now() })
		h.Subscribe([]events.Subscription{{ID: "1", Destination: "https://:bad", Policy: events.Terminate}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.Run(ctx)
		}()
		began := time.Now()
		h.Tell(said("hello"))
		if took := (<-failed).Sub(began); took != 90*time.Second {
			t.Errorf("it was given up after %v, want three times 30 s", took)
		}
		cancel()
		<-done
	})
}

func TestAStreamIsToldWhatItMissed(t *testing.T) {
	h := events.NewHub(time.Now, nil)
	exceeded := map[string]any{"MessageId": "Base.1.19.EventBufferExceeded"}
	for i := range 3 {
		h.Tell(said("n" + strconv.Itoa(i)))
	}
	for _, tt := range []struct {
		last string
		want []string
	}{
		{"", nil}, {"2", []string{"3 n1", "4 n2"}}, {"4", nil}, {"77", []string{"5 Base.1.19.EventBufferExceeded"}},
	} {
		s, err := h.Open("s"+tt.last, events.Filter{}, tt.last, exceeded)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for len(s.Events()) > 0 {
			got = append(got, summary(<-s.Events()))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("after %q (-want +got):\n%s", tt.last, diff)
		}
		h.Close(s)
	}
	if n := len(h.Streams()); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

func summary(e events.Event) string {
	list, isEvent := e.Body["Events"].([]map[string]any)
	if !isEvent {
		text, _ := json.Marshal(e.Body["MessageId"])
		return strconv.Itoa(e.ID) + " " + strings.Trim(string(text), `"`)
	}
	text, _ := list[0]["Message"].(string)
	return strconv.Itoa(e.ID) + " " + text
}

func TestAStreamsForm(t *testing.T) {
	got := string(events.Test(4, map[string]any{}).Text())
	want := "id: 4\ndata: {\ndata:   \"@odata.type\": \"#Event.v1_4_0.Event\",\ndata:   \"Events\": [\ndata:     {\n" +
		"data:       \"MemberId\": \"0\"\ndata:     }\ndata:   ],\ndata:   \"Id\": \"4\",\ndata:   \"Name\": \"Event Log\"\ndata: }\n\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stream (-want +got):\n%s", diff)
	}
}

func TestStreamsAreFilteredAndLimited(t *testing.T) {
	h := events.NewHub(time.Now, nil)
	s, err := h.Open("picky", events.Filter{MessageIDs: []string{"OpenBMC.0.1.Hello"}}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Tell(said("yes"))
	h.Tell(func(id int) events.Event { return events.Log(id, map[string]any{"MessageId": "OpenBMC.0.5.DCPowerOn"}) })
	if n := len(s.Events()); n != 1 {
		t.Errorf("%d events, want the one that was asked for", n)
	}
	for i := range events.MaxStreams - 1 {
		if _, err := h.Open(strconv.Itoa(i), events.Filter{}, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Open("more", events.Filter{}, "", nil); err == nil {
		t.Error("there is one stream more than allowed")
	}
}
