// Simulate runs worlds of agents, coordinators and BMCs in which everything goes
// wrong, each from one seed, and tells in which of them the mesh broke a promise.
//
//	go run ./e2e/simulate -seeds 1000        # last line: seeds: 1000 violations: 0
//	go run ./e2e/simulate -seed 67 -v        # the story of one of them
//	go run ./e2e/simulate -mutants           # are planted bugs found?
//	go run ./e2e/simulate -large             # 10,000 agents and 1,000,000 nodes for an hour
//
// See DESIGN.md for what runs in it and what is a model.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/e2e/simulate/sim"
)

// shrunk is how many of the broken seeds are shrunk: it takes some seconds each.
const shrunk = 3

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// worlds are the seeds from first on.
type worlds struct {
	first, seeds uint64
	agents       int
	mutant       sim.Mutant
}

// story is one world to be looked at.
type story struct {
	seed, faults string
	agents       int
	verbose      bool
}

// run is the command; it returns the exit code.
func run(ctx context.Context, args []string, out, said io.Writer) int {
	flags := flag.NewFlagSet("simulate", flag.ContinueOnError)
	flags.SetOutput(said)
	seeds := flags.Uint64("seeds", 100, "how many worlds to run")
	first := flags.Uint64("first", 0, "the seed of the first")
	one := flags.String("seed", "", "run this one alone")
	only := flags.String("faults", "", "with -seed: only these of its faults, as 0,3,7; \"none\" for none")
	verbose := flags.Bool("v", false, "with -seed: tell what happens, line by line")
	mutants := flags.Bool("mutants", false, "plant bugs and see that each is found")
	big := flags.Bool("large", false, "one large world for an hour, with what it costs")
	agents := flags.Int("agents", 0, "how many; default 20 of 10 nodes each, with -large 10,000 of 100")
	hour := flags.Duration("for", time.Hour, "with -large: how long, in the world's time")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	w := worlds{first: *first, seeds: *seeds, agents: *agents}
	debug.SetGCPercent(400) // the worlds are small and many
	switch {
	case *big:
		debug.SetGCPercent(60) // this one is not: what is there stays
		return large(out, said, cmp.Or(*agents, 10_000), *hour)
	case *mutants:
		return plant(ctx, out, w)
	case *one != "":
		return replay(out, said, story{*one, *only, *agents, *verbose})
	}
	return many(ctx, out, said, w)
}

// replay runs the world of one seed and tells its story.
func replay(out, said io.Writer, s story) int {
	seed, err := strconv.ParseUint(s.seed, 10, 64)
	if err != nil {
		fmt.Fprintf(said, "simulate: error: -seed %s is no number\n", s.seed)
		return 2
	}
	o := sim.Options{Seed: seed, Agents: s.agents}
	if s.faults != "" {
		o.Faults = sim.Some(sim.Draw(seed), numbers(s.faults))
	}
	if s.verbose {
		o.Story = out
	}
	v := sim.Run(o)
	fmt.Fprintf(out, "seed %d: %d events, %d faults, %d commands, %d records (%d twice, after a disk was lost), %d restarts of servers\n",
		seed, v.Events, len(v.Faults), v.Commands, v.Recorded, v.Doubled, v.Acts)
	for _, text := range v.Violations {
		fmt.Fprintf(out, "  %s\n", text)
	}
	return exit(len(v.Violations))
}

func numbers(list string) (all []int) {
	for text := range strings.SplitSeq(list, ",") {
		if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// many runs the worlds of many seeds, as many at once as there are processors. Each
// is one thread.
func many(ctx context.Context, out, said io.Writer, w worlds) int {
	begun, told := time.Now(), time.Now()
	var broken []sim.Verdict
	done, records, events := 0, 0, 0
	for v := range verdicts(ctx, w) {
		done++
		records += v.Recorded
		events += v.Events
		if len(v.Violations) > 0 {
			broken = append(broken, v)
			report(out, w, v, len(broken) <= shrunk)
		}
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			fmt.Fprintf(said, "%d of %d seeds, violations: %d\n", done, w.seeds, len(broken))
		}
	}
	fmt.Fprintf(out, "%d events, %d records in %.1f s\n", events, records, time.Since(begun).Seconds())
	fmt.Fprintf(out, "seeds: %d violations: %d\n", done, len(broken))
	return exit(len(broken))
}

func (w worlds) options(seed uint64) sim.Options {
	return sim.Options{Seed: seed, Agents: w.agents, Mutant: w.mutant}
}

// verdicts runs the worlds and gives what came of them as it comes.
func verdicts(ctx context.Context, w worlds) <-chan sim.Verdict {
	todo, came := make(chan uint64), make(chan sim.Verdict)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed := range todo {
				came <- sim.Run(w.options(seed))
			}
		})
	}
	go func() { // ends with the seeds, or with ctx
		defer close(came)
		defer workers.Wait()
		defer close(todo)
		for seed := w.first; seed < w.first+w.seeds; seed++ {
			select {
			case todo <- seed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return came
}

// report tells of a broken world, and how to see it again.
func report(out io.Writer, w worlds, v sim.Verdict, shrink bool) {
	fmt.Fprintf(out, "seed %d: %s\n", v.Seed, v.Violations[0])
	fmt.Fprintf(out, "  replay: go run ./e2e/simulate -seed %d -v\n", v.Seed)
	if !shrink {
		return
	}
	least, which := sim.Shrink(w.options(v.Seed), v)
	list := "none"
	if len(which) > 0 {
		list = strings.Trim(strings.Join(strings.Fields(fmt.Sprint(which)), ","), "[]")
	}
	fmt.Fprintf(out, "  of %d faults %d are enough (-faults %s): %s\n", len(v.Faults), len(which), list, least.Violations[0])
	for _, f := range least.Faults {
		fmt.Fprintf(out, "    %s\n", f)
	}
}

// plant runs worlds with each mutant until one of them is found out.
func plant(ctx context.Context, out io.Writer, w worlds) int {
	caught := 0
	for _, m := range sim.Mutants() {
		trying, stop := context.WithCancel(ctx)
		found, tried := "", 0
		w.mutant = m
		for v := range verdicts(trying, w) {
			tried++
			if len(v.Violations) > 0 && found == "" {
				found = fmt.Sprintf("caught at seed %d: %s", v.Seed, v.Violations[0])
				stop()
			}
		}
		stop()
		if found == "" {
			found = fmt.Sprintf("NOT CAUGHT in %d seeds", tried)
		} else {
			caught++
		}
		fmt.Fprintf(out, "%-18s %s\n", m, found)
	}
	fmt.Fprintf(out, "mutants: %d caught: %d\n", len(sim.Mutants()), caught)
	return exit(len(sim.Mutants()) - caught)
}

// large runs the large world.
func large(out, said io.Writer, agents int, d time.Duration) int {
	r, err := sim.RunLarge(sim.LargeOptions{Agents: agents, For: d, Log: said})
	fmt.Fprint(out, r)
	if err != nil {
		fmt.Fprintf(said, "simulate: error: %v\n", err)
		return 1
	}
	return exit(len(r.Violations))
}

func exit(bad int) int {
	if bad > 0 {
		return 1
	}
	return 0
}
