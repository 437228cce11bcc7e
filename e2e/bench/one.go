package bench

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/sim"
)

// worker is one tool at work on one BMC. Nothing of prepare and close counts.
type worker interface {
	prepare(ctx context.Context, work string) error
	do(ctx context.Context, work string) error
	close(ctx context.Context) error
}

// tool makes workers.
type tool struct {
	name    string
	start   start
	atScale bool // it is run in front of thousands of BMCs too
	// skip says why it can't do the work, "" if it can.
	skip func(work string) string
	make func(n sim.Node) (worker, error)
}

func always(string) string { return "" }

// tools are all that are compared, ours first.
func tools() []tool {
	lane := func(s start) func(sim.Node) (worker, error) {
		return func(n sim.Node) (worker, error) { return newLane(n, s) }
	}
	least := func(s start) func(sim.Node) (worker, error) {
		return func(n sim.Node) (worker, error) { return newIdeal(n, s), nil }
	}
	peer := func(tuned bool, s start) func(sim.Node) (worker, error) {
		return func(n sim.Node) (worker, error) { return &gofishWorker{node: n, tuned: tuned, start: s}, nil }
	}
	return []tool{
		{ours, kept, false, always, lane(kept)},
		{ours, cold, false, always, lane(cold)},
		{"ideal", kept, true, always, least(kept)},
		{"ideal", session, false, always, least(session)},
		{"ideal", cold, true, always, least(cold)},
		{"gofish tuned", kept, false, always, peer(true, kept)},
		{"gofish tuned", cold, false, always, peer(true, cold)},
		{"gofish default", cold, true, always, peer(false, cold)},
		{"redfishtool", cold, false, redfishtoolThere, func(n sim.Node) (worker, error) { return command{n, redfishtool}, nil }},
		{"sushy", cold, false, sushyThere, (&sushy{}).worker},
	}
}

// one is `chiba bench one`: this process is the tool, and measures itself.
func one(ctx context.Context, w which, dir string, simulator int) (Row, error) {
	for _, t := range tools() {
		if t.name == w.tool && t.start == w.start {
			return t.run(ctx, w.work, dir, simulator)
		}
	}
	return Row{}, fault.New(fault.BadInput, "measure", fmt.Sprintf("there is no tool %q that starts %q", w.tool, w.start))
}

func (t tool) run(ctx context.Context, work, dir string, simulator int) (Row, error) {
	client, err := sim.Dial(dir)
	if err != nil {
		return Row{}, err
	}
	defer client.Close()
	nodes, err := client.Nodes(ctx)
	if err != nil {
		return Row{}, err
	}
	workers := make([]worker, len(nodes))
	for i, n := range nodes {
		if workers[i], err = t.make(n); err != nil {
			return Row{}, err
		}
	}
	for _, err := range all(workers, func(w worker) error { return w.prepare(ctx, work) }) {
		if err != nil {
			return Row{}, err
		}
	}
	if err = client.ResetStats(ctx); err != nil {
		return Row{}, err
	}
	row := Row{Tool: t.name, Work: work, Start: t.start, Nodes: len(nodes)}
	rounds := t.rounds(work)
	began, used, simUsed := time.Now(), cpu(), cpuOf(simulator)
	errs := all(workers, func(w worker) error { return repeat(rounds, func() error { return w.do(ctx, work) }) })
	n := float64(rounds)
	row.Seconds, row.CPU, row.RSS = time.Since(began).Seconds()/n, (cpu()-used)/n, resident(os.Getpid(), residentPeak)
	row.SimCPU = (cpuOf(simulator) - simUsed) / n
	for _, err := range errs {
		if err != nil {
			if row.Failed++; row.Why == "" {
				row.Why = err.Error()
			}
		}
	}
	if row.Requests, row.Handshakes, err = (&rack{client: client}).perBMC(ctx); err != nil {
		return row, err
	}
	row.Requests, row.Handshakes = row.Requests/n, row.Handshakes/n
	for _, err := range all(workers, func(w worker) error { return w.close(ctx) }) {
		if err != nil {
			return row, err
		}
	}
	return row, nil
}

// repeat does something n times, and stops when it fails.
func repeat(n int, do func() error) error {
	for range n {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// rounds is how often the work is done: as often as a monitor does it while one
// looks, if the connections are kept; the mean counts. What begins anew is done once.
func (t tool) rounds(work string) int {
	if work == workW3 && t.start == kept {
		return keptRounds
	}
	return 1
}

const keptRounds = 20

// all runs f for every worker at the same time.
func all(workers []worker, f func(worker) error) []error {
	errs := make([]error, len(workers))
	var done sync.WaitGroup
	for i, w := range workers {
		done.Go(func() { errs[i] = f(w) })
	}
	done.Wait()
	return errs
}
