package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
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
	name string
	// skip says why it can't do the work, "" if it can.
	skip func(work string) string
	make func(n sim.Node) (worker, error)
	kept bool // it has met the BMCs before: connections and sessions are open
}

func always(string) string { return "" }

// tools are all that are compared, ours first.
func tools() []tool {
	return []tool{
		{ours, always, func(n sim.Node) (worker, error) { return newLane(n, true) }, true},
		{"chiba, first time", always, func(n sim.Node) (worker, error) { return newLane(n, false) }, false},
		{"ideal", always, func(n sim.Node) (worker, error) { return newIdeal(n, false), nil }, false},
		{"ideal, kept", only(workW3), func(n sim.Node) (worker, error) { return newIdeal(n, true), nil }, true},
		{"gofish tuned", always, func(n sim.Node) (worker, error) { return &gofishWorker{node: n, tuned: true}, nil }, false},
		{"gofish default", always, func(n sim.Node) (worker, error) { return &gofishWorker{node: n}, nil }, false},
		{"redfishtool", installed("redfishtool", "--version"), func(n sim.Node) (worker, error) { return command{n, redfishtool}, nil }, false},
		{"sushy", installed("python3", "-c", "import sushy"), func(n sim.Node) (worker, error) { return command{n, sushy}, nil }, false},
	}
}

func only(work string) func(string) string {
	return func(w string) string {
		if w != work {
			return "only " + work + " is done with it"
		}
		return ""
	}
}

// one is `chiba bench one`: this process is the tool, and measures itself.
func one(ctx context.Context, name, work, dir string) (Row, error) {
	for _, t := range tools() {
		if t.name == name {
			return t.run(ctx, work, dir)
		}
	}
	return Row{}, fault.New(fault.BadInput, "measure", fmt.Sprintf("there is no tool %q", name))
}

func (t tool) run(ctx context.Context, work, dir string) (Row, error) {
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
	row := Row{Tool: t.name, Work: work, Nodes: len(nodes)}
	rounds := t.rounds(work)
	began, used := time.Now(), cpu()
	var errs []error
	for range rounds {
		errs = append(errs, all(workers, func(w worker) error { return w.do(ctx, work) })...)
	}
	row.Seconds, row.CPU, row.RSS = time.Since(began).Seconds()/float64(rounds), (cpu()-used)/float64(rounds), peak()
	for _, err := range errs {
		if err != nil {
			if row.Failed++; row.Why == "" {
				row.Why = err.Error()
			}
		}
	}
	stats, err := client.Stats(ctx)
	if err != nil {
		return row, err
	}
	for _, s := range stats {
		row.Requests += float64(s.Requests)
		row.Handshakes += float64(s.Handshakes)
	}
	row.Requests /= float64(max(len(stats), 1) * rounds)
	row.Handshakes /= float64(max(len(stats), 1) * rounds)
	for _, err := range all(workers, func(w worker) error { return w.close(ctx) }) {
		if err != nil {
			return row, err
		}
	}
	return row, nil
}

// rounds is how often the work is done: as often as a monitor does it while one
// looks, if the connections are kept; the mean counts. What begins anew is done once.
func (t tool) rounds(work string) int {
	if work == workW3 && t.kept {
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

// cpu is the time that this process and its ended children have computed, in s.
func cpu() float64 {
	total := 0.0
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			total += float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
		}
	}
	return total
}

// peak is the most memory this process ever had, in bytes, 0 if the system does
// not say. ru_maxrss is no use: it begins at the parent's.
func peak() float64 { return resident("VmHWM:") }

// resident is one line of Linux's /proc/self/status, in bytes.
func resident(field string) float64 {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), field); found {
			var kb float64
			_, _ = fmt.Sscanf(rest, "%g", &kb)
			return kb * 1024
		}
	}
	return 0
}
