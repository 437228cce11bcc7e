package agent

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

var rewrite = flag.Bool("update", false, "write the golden file anew")

// measured is a rack of which n1 answers, n2's breaker is open and n3 was not found.
func measured(t *testing.T) *Agent {
	t.Helper()
	w := newWorld(t)
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	w.lanes["n1"].stats = bmc.Stats{
		Requests: 61, Silent: 2, Busy: 1, Logins: 3, Budget: 4, Inside: 2, Waiting: 5, LoggedIn: true, Slots: 8,
		Breaker: "closed", Profile: "iDRAC", Latency: 100 * time.Millisecond,
	}
	read := func(id, name string, v fleet.Value, age time.Duration) bmc.Sensor {
		return bmc.Sensor{ID: id, Name: name, Value: v, At: now.Add(-age)}
	}
	w.lanes["n1"].sensors = []bmc.Sensor{
		read("temperature_cpu0", "cpu0", fleet.Number(57.5, fleet.Celsius), 0),
		read("power_cpu0", "cpu0", fleet.Number(95, fleet.Watt), time.Minute),
		read("temperature_cpu0_b", "cpu0", fleet.Number(58, fleet.Celsius), 0), // a name that is there twice
		read("temperature_cpu0_b", "cpu0", fleet.Number(59, fleet.Celsius), 0), // and an id as well
		read("fan0", " ", fleet.Number(4000, fleet.RPM), 0),
		read("old", "old", fleet.Number(1, fleet.Celsius), sensorAge+time.Second),
		read("none", "none", fleet.NoValue("off"), 0),
		read("count", "count", fleet.Number(3, fleet.NoUnit), 0),
		read("evil", "a\"} 1\nchiba_bmc_logins_total 9", fleet.Number(12, fleet.Volt), 0),
	}
	w.lanes["n2"].stats = bmc.Stats{Requests: 3, Silent: 3, Budget: 1, Breaker: "open"}
	a := w.assemble(t.TempDir())
	t.Cleanup(func() { _ = a.Close() })
	a.now = func() time.Time { return now }
	a.rack.named("n1").set(w.lanes["n1"], "n1", "told")
	a.rack.named("n2").set(w.lanes["n2"], "n2", "told")
	return a
}

func TestMetrics(t *testing.T) {
	var text strings.Builder
	if _, err := measured(t).metrics().WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(`(?m)^# .*\n`).ReplaceAllString(text.String(), "")
	got = regexp.MustCompile(`version="[^"]*"`).ReplaceAllString(got, `version="V"`)
	golden := filepath.Join("testdata", "metrics.txt")
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name := range strings.Lines(got) {
		name, _, _ = strings.Cut(name, "{")
		if !strings.Contains(text.String(), "# HELP "+name+" ") || !strings.Contains(text.String(), "# TYPE "+name+" ") {
			t.Errorf("%s is not explained", name)
		}
	}
}

// A BMC can't make an answer endless.
func TestMetricsOfManySensors(t *testing.T) {
	a := measured(t)
	l, _ := a.rack.named("n1").way()
	sensors := make([]bmc.Sensor, 5000)
	for i := range sensors {
		sensors[i] = bmc.Sensor{ID: strings.Repeat("x", 1000) + string(rune('a'+i%26)), Name: strings.Repeat("é", i), Value: fleet.Number(1, fleet.Celsius), At: a.now()}
	}
	l.(*fakeLane).sensors = sensors
	var text strings.Builder
	if _, err := a.metrics().WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(text.String(), "chiba_bmc_sensor_celsius{"); n > maxSensorsTold || text.Len() > 512<<10 {
		t.Errorf("%d sensors in %d bytes", n, text.Len())
	}
}

func TestServeMetrics(t *testing.T) {
	a := measured(t)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.serveMetricsOn(ctx, listener) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range []struct {
		method, path string
		status       int
	}{{"GET", "/metrics", 200}, {"POST", "/metrics", 405}, {"GET", "/", 404}, {"GET", "/debug/pprof/", 404}} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+listener.Addr().String()+c.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != c.status {
			t.Errorf("%s %s: %d, %v", c.method, c.path, res.StatusCode, err)
		}
		if c.status == 200 && (!strings.Contains(string(body), "chiba_bmc_requests_total") || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain; version=0.0.4")) {
			t.Errorf("%s\n%s", res.Header, body)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}

// Off by default; an address that is taken ends the agent and says so.
func TestMetricsAreOffByDefault(t *testing.T) {
	a := measured(t)
	if err := a.serveMetrics(t.Context()); err != nil || a.cfg.Metrics != "" {
		t.Errorf("%v, at %q", err, a.cfg.Metrics)
	}
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	a.cfg.Metrics = taken.Addr().String()
	if err := a.serveMetrics(t.Context()); err == nil || !strings.Contains(err.Error(), "serve metrics") {
		t.Errorf("on a taken address: %v", err)
	}
	a.cfg.Metrics = "9464"
	if err := a.cfg.check(); err == nil || !strings.Contains(err.Error(), `metrics: "9464" is no host:port`) {
		t.Errorf("got %v", err)
	}
}
