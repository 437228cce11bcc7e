package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/obs/prom"
)

const (
	metricsPath = "/metrics"
	// sensorAge is how long a reading is told: one that nobody renews is no longer
	// true, and a gap in a graph says so.
	sensorAge = 5 * time.Minute
	// maxSensorsTold bounds what one BMC can make of an answer.
	maxSensorsTold = 1024
)

// serveMetrics answers Prometheus until ctx ends, if the configuration says where.
func (a *Agent) serveMetrics(ctx context.Context) error {
	if a.cfg.Metrics == "" {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.Metrics)
	if err != nil {
		return fault.Wrap(fault.BadInput, "serve metrics", err)
	}
	a.log.Info("metrics are served", obs.Addr, listener.Addr().String())
	return a.serveMetricsOn(ctx, listener)
}

func (a *Agent) serveMetricsOn(ctx context.Context, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+metricsPath, a.answerMetrics)
	server := &http.Server{
		Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fault.Wrap(fault.Unavailable, "serve metrics", err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if server.Shutdown(closing) != nil {
		_ = server.Close() // who asks that slowly is not waited for
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fault.Wrap(fault.Unavailable, "serve metrics", err)
	}
	return ctx.Err()
}

func (a *Agent) answerMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", prom.ContentType)
	_, _ = a.metrics().WriteTo(w) // whoever asked is gone
}

// metrics is how the agent gets on with its BMCs. It asks nobody.
func (a *Agent) metrics() *prom.Page {
	p := &prom.Page{}
	declare(p)
	p.Add("chiba_agent_info", 1, "agent", string(a.cfg.Name), "rack", string(a.cfg.Rack), "site", string(a.cfg.Site), "version", build())
	out := a.office.now()
	for _, r := range []owner.Role{owner.Waiting, owner.Standby, owner.Holding, owner.Active} {
		p.Add("chiba_agent_role", truth(r == out.Role), "agent", string(a.cfg.Name), "rack", string(a.cfg.Rack), "role", r.String())
	}
	p.Add("chiba_agent_epoch_grant", float64(out.Claim.Epoch.Grant), "agent", string(a.cfg.Name), "rack", string(a.cfg.Rack))
	p.Add("chiba_agent_epoch_local", float64(out.Claim.Epoch.Local), "agent", string(a.cfg.Name), "rack", string(a.cfg.Rack))
	for _, n := range a.rack.members() {
		seen := n.seen()
		labels := []string{"node", string(seen.Name), "rack", string(seen.Rack)}
		p.Add("chiba_node_state", 1, append(labels, "state", string(seen.State))...)
		l, err := n.way()
		if err != nil {
			continue // its BMC was not found: the state says so
		}
		addStats(p, l.Stats(), labels)
		addSensors(p, l.Sensors(), a.now(), labels)
	}
	return p
}

func declare(p *prom.Page) {
	p.Declare("chiba_agent_info", prom.Gauge, "The agent; always 1.")
	p.Declare("chiba_agent_role", prom.Gauge, "1 for what the agent does with its rack.")
	p.Declare("chiba_agent_epoch_grant", prom.Gauge, "The grant of the epoch that the rack is in, as far as the agent knows.")
	p.Declare("chiba_agent_epoch_local", prom.Gauge, "Take-overs since that grant, without a coordinator.")
	p.Declare("chiba_node_state", prom.Gauge, "The state that the node is in; always 1.")
	p.Declare("chiba_bmc_requests_total", prom.Counter, "Requests sent to the BMC, logins and repetitions among them.")
	p.Declare("chiba_bmc_requests_silent_total", prom.Counter, "Of these, without a whole answer.")
	p.Declare("chiba_bmc_requests_busy_total", prom.Counter, "Of these, answered with 429 or 503.")
	p.Declare("chiba_bmc_logins_total", prom.Counter, "Sessions opened on the BMC.")
	p.Declare("chiba_bmc_logged_in", prom.Gauge, "Session slots of the BMC that the agent holds: 0 or 1.")
	p.Declare("chiba_bmc_session_slots", prom.Gauge, "Sessions that this make of BMC holds at once, where it is known.")
	p.Declare("chiba_bmc_reads_allowed", prom.Gauge, "Reads that may be under way at once; it grows and shrinks with the BMC's answers.")
	p.Declare("chiba_bmc_reads_active", prom.Gauge, "Reads under way.")
	p.Declare("chiba_bmc_waiting", prom.Gauge, "Reads and writes that wait for their turn.")
	p.Declare("chiba_bmc_breaker", prom.Gauge, "1 for the state that the breaker is in: open means that the BMC does not answer and is not asked.")
	p.Declare("chiba_bmc_latency_seconds", prom.Gauge, "How long a read takes, a moving average.")
	for _, unit := range []fleet.Unit{fleet.Celsius, fleet.RPM, fleet.Watt, fleet.Percent, fleet.Volt, fleet.Ampere} {
		p.Declare(sensorMetric(unit), prom.Gauge, "What a sensor was last seen to read, within five minutes.")
	}
}

func addStats(p *prom.Page, s bmc.Stats, labels []string) {
	add := func(name string, value float64, more ...string) {
		p.Add("chiba_bmc_"+name, value, append(labels, more...)...)
	}
	add("requests_total", float64(s.Requests))
	add("requests_silent_total", float64(s.Silent))
	add("requests_busy_total", float64(s.Busy))
	add("logins_total", float64(s.Logins))
	add("logged_in", truth(s.LoggedIn))
	if s.Slots > 0 {
		add("session_slots", float64(s.Slots))
	}
	add("reads_allowed", float64(s.Budget))
	add("reads_active", float64(s.Inside))
	add("waiting", float64(s.Waiting))
	for _, state := range []string{"closed", "half-open", "open"} {
		add("breaker", truth(s.Breaker == state), "state", state)
	}
	if s.Latency > 0 {
		add("latency_seconds", s.Latency.Seconds())
	}
}

// addSensors tells the readings that are fresh. Where two sensors of a BMC have one
// name, their ids tell them apart.
func addSensors(p *prom.Page, sensors []bmc.Sensor, now time.Time, labels []string) {
	told := 0
	for _, s := range sensors {
		value, known := s.Value.Number()
		name := sensorMetric(s.Value.Unit())
		if !known || name == "" || now.Sub(s.At) > sensorAge || told == maxSensorsTold {
			continue
		}
		label := strings.TrimSpace(s.Name)
		if label == "" {
			label = s.ID
		}
		if p.Add(name, value, append(labels, "sensor", label)...) || p.Add(name, value, append(labels, "sensor", s.ID+" "+label)...) {
			told++
		}
	}
}

// sensorMetric is the metric of what reads in that unit, "" if there is none.
func sensorMetric(u fleet.Unit) string {
	words := map[fleet.Unit]string{
		fleet.Celsius: "celsius", fleet.RPM: "rpm", fleet.Watt: "watts", fleet.Percent: "percent", fleet.Volt: "volts", fleet.Ampere: "amperes",
	}
	if words[u] == "" {
		return ""
	}
	return "chiba_bmc_sensor_" + words[u]
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
