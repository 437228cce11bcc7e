package bmc_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/pkg/redfish/events"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// A BMC whose process ends after any number of requests, with the next one under
// way: what the result says of a setting is what its flash holds.
func TestBMCRestartsAmidAWrite(t *testing.T) {
	t.Parallel()
	said := map[fleet.Status]int{}
	for after := range 12 {
		m := newMachine(t, func(cfg *bmcsim.Config) { cfg.Latency = 30 * time.Millisecond })
		l := m.lane()
		done := make(chan struct{})
		go func() {
			defer close(done)
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for len(m.now().Requests()) < after {
				<-tick.C
			}
			m.restart()
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		r := l.Apply(ctx, []scl.Setting{field(scl.AssetTag, "", "", fleet.Text("new"))})[0]
		// Enough more for the restart to happen in any case.
		for len(m.now().Requests()) < after && ctx.Err() == nil {
			_, _ = l.Summary(ctx)
			select {
			case <-done:
			default:
				continue
			}
			break
		}
		<-done
		cancel()
		said[r.Status]++
		got, err := m.now().Get("system.asset-tag")
		if err != nil {
			t.Fatal(err)
		}
		holds := got[0].Value.String() == "new"
		if r.Status.OK() && !holds || r.Status == fleet.Failed && holds {
			t.Errorf("after %d requests: %s, and it holds %s", after, told(r), got[0].Value)
		}
		if !r.Status.OK() && (r.Error == "" || r.Kind == "") {
			t.Errorf("after %d requests: %s without a reason", after, r.Status)
		}
	}
	if said[fleet.Confirmed] == 0 || len(said) < 2 {
		t.Errorf("the restart fell into no write: %v", said)
	}
}

// A stream that the BMC's restart cuts is opened again, and says that something
// may have been missed.
func TestBMCRestartsAmidItsStream(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	l := m.lane()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var heard []string
	kept := make(chan struct{}) // the entry is on the BMC's flash: it is told before
	_ = l.Events(ctx, nil, func(n events.Notice) {
		if n.Way == events.ByPolling {
			return
		}
		heard = append(heard, fmt.Sprintf("%s %v %s", n.Way, n.Gap, n.Why))
		for _, e := range n.Events {
			heard = append(heard, e.Text)
		}
		switch {
		case n.Gap && len(heard) == 1:
			go func() {
				defer close(kept)
				if err := m.now().Log("A", "before"); err != nil {
					t.Error(err)
				}
			}()
		case !n.Gap && len(heard) == 3:
			go func() { <-kept; m.restart() }()
		case n.Gap:
			cancel()
		}
	})
	want := []string{"stream true nothing is known of what was before", "stream false ", "before", "stream true the stream was interrupted"}
	if fmt.Sprint(heard[:min(len(heard), 4)]) != fmt.Sprint(want) {
		t.Errorf("heard %q", heard)
	}
	all, err := l.LogEvents(t.Context())
	if err != nil || len(all) == 0 || all[len(all)-1].Text != "before" || !strings.HasSuffix(all[len(all)-1].MessageID, ".A") {
		t.Errorf("its log tells %+v, %v", all, err)
	}
}

// A subscription outlives the restart of the BMC and the death of the agent. The
// next life removes it, and nobody else's.
func TestSubscriptionOfADeadAgentIsRemoved(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	client := bmctest.Client(t, m.now())
	for range 10 { // all its streams are taken
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+m.addr+"/redfish/v1/EventService/SSE", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("root", bmcsim.DefaultPassword)
		req.Header.Set("Accept", "text/event-stream")
		http1 := *client
		tr := client.Transport.(*http.Transport).Clone()
		tr.ForceAttemptHTTP2, tr.Protocols = false, new(http.Protocols)
		tr.Protocols.SetHTTP1(true)
		tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
		http1.Transport = tr
		res, err := http1.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatal(res.Status)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := m.lane()
	ended := make(chan struct{})
	stood := make(chan events.Notice, 100)
	go func() {
		defer close(ended)
		_ = l.Events(ctx, events.NewReceiver("https://127.0.0.1:1/events"), func(n events.Notice) {
			if n.Way == events.BySubscription {
				stood <- n
			}
		})
	}()
	<-stood
	m.stranger(t, "another:agent")
	m.halt() // it can't be told good-bye
	cancel()
	<-ended
	m.start()
	if got := m.subscriptions(t); len(got) != 2 {
		t.Fatalf("after the restart there are %v", got)
	}
	if err := m.lane().SweepEvents(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := m.subscriptions(t); len(got) != 1 || got[0] != "another:agent" {
		t.Errorf("what is left: %v", got)
	}
}

// stranger subscribes as somebody else does.
func (m *machine) stranger(t *testing.T, mark string) {
	t.Helper()
	m.ask(t, http.MethodPost, "/redfish/v1/EventService/Subscriptions",
		`{"Destination":"https://127.0.0.1:1/x","Protocol":"Redfish","Context":"`+mark+`"}`)
}

// subscriptions are the contexts of all of them.
func (m *machine) subscriptions(t *testing.T) (marks []string) {
	t.Helper()
	list := m.ask(t, http.MethodGet, "/redfish/v1/EventService/Subscriptions", "")
	for _, part := range strings.Split(list, `"@odata.id": "/redfish/v1/EventService/Subscriptions/`)[1:] {
		id, _, _ := strings.Cut(part, `"`)
		body := m.ask(t, http.MethodGet, "/redfish/v1/EventService/Subscriptions/"+id, "")
		_, rest, _ := strings.Cut(body, `"Context": "`)
		mark, _, _ := strings.Cut(rest, `"`)
		marks = append(marks, mark)
	}
	return marks
}

func (m *machine) ask(t *testing.T, method, path, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+m.addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("root", bmcsim.DefaultPassword)
	req.Header.Set("Content-Type", "application/json")
	client := bmctest.Client(t, m.now())
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		t.Fatalf("%s %s: %s %v", method, path, res.Status, err)
	}
	return string(text)
}
