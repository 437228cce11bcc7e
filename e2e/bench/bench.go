// Package bench is `chiba bench`: what Chiba's promises about speed are worth on
// this machine, beside what others need for the same work.
//
// The BMCs are simulated in a process of their own (`chiba sim`), so that their
// cost counts for nobody; every tool runs in a fresh process and measures itself
// from the first request to the last answer. All tools verify the BMCs' keys.
//
//	W1  boot once from the network and restart, on every BMC
//	W3  read all 60 sensors once, on every BMC
//
// What a tool has when the clock starts is told with each row, and only equals are
// compared: nothing (cold: connection, TLS and login count), a session but no
// connection, or both (kept).
package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/sim"
)

// sensorCount is what W3 reads of each server.
const sensorCount = 60

// The kinds of work. In W3 the BMC inlines the members of a collection; in the
// others it is stock OpenBMC, which does not, and serves one or four at a time.
const (
	workW1     = "W1"
	workW3     = "W3"
	workStock  = "W3 stock"
	workStock4 = "W3 stock, 4 at once"
)

const (
	toolTimeout = 5 * time.Minute // of one run of one tool
	repeatBelow = 10.0            // s; what takes longer is measured once
)

// Options of a benchmark.
type Options struct {
	Nodes   int
	Latency time.Duration // of every request
	Repeat  int           // how often W1 is measured; the median counts
	Binary  string        // chiba itself
	Say     io.Writer     // progress
}

// start is what a tool has when the clock starts.
type start string

// The starts.
const (
	cold    start = "cold"    // nothing; connection, TLS and login count
	session start = "session" // a session and what it knows of the BMC, but no connection
	kept    start = "kept"    // both, as a process that runs has
)

// Row is what one tool needed for one kind of work.
type Row struct {
	Tool, Work string
	Start      start
	Skipped    string  // why it was not run
	Seconds    float64 `json:",omitempty"` // the median
	Times      spread  // s
	CPU        float64 `json:",omitempty"` // s for all BMCs
	SimCPU     float64 `json:",omitempty"` // s that the BMCs needed meanwhile
	RSS        float64 `json:",omitempty"` // peak, bytes
	Requests   float64 `json:",omitempty"` // per BMC
	Handshakes float64 `json:",omitempty"` // per BMC
	Sessions   int     // left open on the BMCs
	Failed     int     // BMCs
	Why        string  `json:",omitempty"` // of the first that failed
	Nodes      int
}

// kinds of work with what their BMCs are like.
func works() []struct {
	name string
	args []string
} {
	return []struct {
		name string
		args []string
	}{
		{workW1, []string{"--at-once", "1"}},
		{workW3, []string{"--at-once", "1", "--expand"}},
		{workStock, []string{"--at-once", "1"}},
		{workStock4, []string{"--at-once", "4"}},
	}
}

// Run measures every tool at every kind of work.
func Run(ctx context.Context, o Options) ([]Row, error) {
	var rows []Row
	for _, w := range works() {
		fmt.Fprintf(o.Say, "%s: %d BMCs, %s per request\n", w.name, o.Nodes, o.Latency)
		rack, err := startRack(ctx, o, w.args)
		if err != nil {
			return rows, err
		}
		for _, t := range tools() {
			row, err := o.measure(ctx, rack, t, w.name)
			if err != nil {
				return rows, errors.Join(err, rack.stop())
			}
			if row.Skipped == "" {
				fmt.Fprintf(o.Say, "  %s (%s): %.2f s\n", row.Tool, row.Start, row.Seconds)
			}
			rows = append(rows, row)
		}
		if err := rack.stop(); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// measure runs one tool in a process of its own, several times.
func (o Options) measure(ctx context.Context, rack *rack, t tool, work string) (Row, error) {
	if why := t.skip(work); why != "" {
		return Row{Tool: t.name, Work: work, Start: t.start, Skipped: why}, nil
	}
	times := 1
	if work == workW1 {
		times = max(1, o.Repeat)
	}
	var all []Row
	for range times {
		row, err := o.once(ctx, rack, t, work)
		if err != nil {
			return row, err
		}
		if all = append(all, row); row.Seconds > repeatBelow {
			break
		}
	}
	slices.SortFunc(all, func(a, b Row) int { return cmp.Compare(a.Seconds, b.Seconds) })
	row := all[len(all)/2]
	row.Times = spreadOf(all, Row.seconds)
	return row, nil
}

func (o Options) once(ctx context.Context, rack *rack, t tool, work string) (Row, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, o.Binary, "bench", "one", t.name, string(t.start), work, strconv.Itoa(rack.cmd.Process.Pid), "--state", rack.dir) //nolint:gosec // our own binary
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return Row{}, fault.Wrap(fault.Internal, "measure "+t.name, fmt.Errorf("%w: %s", err, complaint.String()))
	}
	var row Row
	if err := json.Unmarshal(out.Bytes(), &row); err != nil {
		return row, fault.Wrap(fault.Internal, "measure "+t.name, err)
	}
	var err error
	row.Sessions, err = rack.sessions(ctx)
	return row, err
}

// rack is a simulator in another process.
type rack struct {
	dir    string
	client *sim.Client
	cmd    *exec.Cmd
	cancel context.CancelFunc
	said   bytes.Buffer
}

// startRack starts `chiba sim` and waits until it answers.
func startRack(ctx context.Context, o Options, args []string) (*rack, error) {
	dir, err := os.MkdirTemp("", "chiba-bench-")
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "make a directory for the simulator", err)
	}
	args = append([]string{
		"sim", "--quiet", "--volatile", "--nodes", strconv.Itoa(o.Nodes), "--latency", o.Latency.String(),
		"--root-password", rootPassword, "--sensors", strconv.Itoa(sensorCount), "--transition", "10ms", "--state", dir,
	}, args...)
	runCtx, cancel := context.WithCancel(ctx)
	r := &rack{dir: dir, cancel: cancel, cmd: exec.CommandContext(runCtx, o.Binary, args...)} //nolint:gosec // our own binary
	r.cmd.Stderr = &r.said
	if err = r.cmd.Start(); err == nil {
		r.client, err = sim.Dial(dir)
	}
	if err == nil {
		err = r.ready(ctx, o.Nodes)
	}
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.KindOf(err), "start the simulator", err), r.stop())
	}
	return r, nil
}

func (r *rack) ready(ctx context.Context, want int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if nodes, err := r.client.Nodes(ctx); err == nil && len(nodes) == want {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("it is not ready: %w: %s", ctx.Err(), r.said.String())
		}
	}
}

// stop ends the simulator and forgets its rack.
func (r *rack) stop() error {
	r.cancel()
	if r.cmd.Process != nil {
		_ = r.cmd.Wait() // it was killed
	}
	if r.client != nil {
		r.client.Close()
	}
	return fault.Wrap(fault.Internal, "remove the simulator's directory", os.RemoveAll(r.dir))
}

// sessions is how many are open on the BMCs.
func (r *rack) sessions(ctx context.Context) (n int, err error) {
	all, err := r.client.Stats(ctx)
	for _, s := range all {
		n += s.Sessions
	}
	return n, err
}

// perBMC is how many requests and handshakes a BMC had on average since its
// counters were reset.
func (r *rack) perBMC(ctx context.Context) (requests, handshakes float64, err error) {
	all, err := r.client.Stats(ctx)
	for _, s := range all {
		requests += float64(s.Requests)
		handshakes += float64(s.Handshakes)
	}
	n := float64(max(len(all), 1))
	return requests / n, handshakes / n, err
}
