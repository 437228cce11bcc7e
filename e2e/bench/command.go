package bench

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// fleetNodes are the BMCs of a fleet of many racks.
const fleetNodes = 2000

// Command is `chiba bench`. It uses the flags of cli.NewRoot.
func Command() *cobra.Command {
	o := Options{}
	var scale, full bool
	cmd := &cobra.Command{
		Use:     "bench",
		GroupID: cli.GroupTools,
		Short:   "measure Chiba and others on simulated BMCs",
		Long: `Measure what Chiba needs for a rack of simulated BMCs, and what others need.

W1 sets every server to boot once from the network and restarts it, W3 reads its
60 sensors once. The BMCs run in a process of their own; each tool runs in a fresh
process and measures itself. START says what it has when the clock starts:
nothing (cold), a session, or a connection too (kept). Only rows that start alike
are compared. Seconds are min / median / max where a row was measured several
times.

With --scale a coordinator with Raft and an agent for every 40 BMCs do W1, and
each result is counted. --full measures everything, as the goals ask for it: the
tools, 20 times a rack of 40 with its agent in a process of its own, and three
times 2,000 BMCs on 50 agents, which takes about ten minutes.`,
		Example: `  chiba bench
  chiba bench --nodes 10 --latency 20ms
  chiba bench --scale               # 2,000 BMCs, 50 agents, a coordinator
  chiba bench --scale --nodes 40 --repeat 20
  chiba bench --full
  chiba bench -o json`,
		Args: cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Binary, err = os.Executable(); err != nil {
				return fault.Wrap(fault.Internal, "find this program", err)
			}
			o.Say = cmd.ErrOrStderr()
			p := plan{tools: !scale || full}
			switch {
			case full:
				p.fleets = fullFleets(o)
			case scale:
				p.fleets = []ScaleOptions{oneFleet(cmd, o)}
			}
			return p.run(cmd, o)
		},
	}
	cmd.Flags().IntVar(&o.Nodes, "nodes", perAgent, "simulate `N` BMCs")
	cmd.Flags().DurationVar(&o.Latency, "latency", 100*time.Millisecond, "`TIME` that a BMC takes for a request")
	cmd.Flags().IntVar(&o.Repeat, "repeat", 3, "measure W1 `N` times and take the median (--scale: once if it is not said)")
	cmd.Flags().BoolVar(&scale, "scale", false, "measure a whole fleet instead: an agent for every 40 BMCs (default 2,000), a coordinator with Raft")
	cmd.Flags().BoolVar(&full, "full", false, "measure everything, and as often as the goals ask for")
	cmd.MarkFlagsMutuallyExclusive("scale", "full")
	cmd.AddCommand(oneCommand(), meshCommand())
	return cmd
}

// oneFleet is what --scale measures. Up to a rack the agent is a process of its own.
func oneFleet(cmd *cobra.Command, o Options) ScaleOptions {
	if !cmd.Flags().Changed("nodes") {
		o.Nodes = fleetNodes
	}
	if !cmd.Flags().Changed("repeat") {
		o.Repeat = 1
	}
	return ScaleOptions{Options: o, Alone: o.Nodes <= perAgent, Sick: o.Nodes > perAgent, Floor: o.Nodes > perAgent}
}

// fullFleets are those of goals 4 and 12.
func fullFleets(o Options) []ScaleOptions {
	rack, all := o, o
	rack.Repeat = 20
	all.Nodes, all.Repeat = fleetNodes, 3
	return []ScaleOptions{{Options: rack, Alone: rack.Nodes <= perAgent}, {Options: all, Sick: true, Floor: true}}
}

func oneCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "one TOOL START WORK PID",
		Short:  "be one tool at one kind of work",
		Hidden: true,
		Args:   cli.Args(4, 4),
		RunE: func(cmd *cobra.Command, args []string) error {
			pid, err := strconv.Atoi(args[3])
			if err != nil {
				return cli.UsageError(args[3]+" is no process id of a simulator", "")
			}
			row, err := one(cmd.Context(), which{args[0], start(args[1]), args[2]}, cli.State(cmd), pid)
			if err != nil {
				return err
			}
			return cli.Line(cmd.OutOrStdout(), row)
		},
	}
}

// plan is what is measured.
type plan struct {
	tools  bool
	fleets []ScaleOptions
}

// Report is all that was measured.
type Report struct {
	Cores  int
	Load   float64 // of the machine in the minute before: 0 is idle, Cores is full; 0 if the system does not say
	Rows   []Row   `json:",omitempty"`
	Fleets []Scale `json:",omitempty"`
	Goals  []Goal
}

// run measures and tells. What was measured before something failed is true, and is
// told too.
func (p plan) run(cmd *cobra.Command, o Options) error {
	format, err := cli.OutputOf(cmd)
	if err != nil {
		return err
	}
	cores, load := runtime.NumCPU(), loadBefore()
	report, failed := p.measure(cmd, o)
	report.Cores, report.Load = cores, load
	if format.Machine() {
		if failed != nil {
			return failed
		}
		return cli.Encode(cmd.OutOrStdout(), format, report)
	}
	report.print(cmd)
	return failed
}

func (p plan) measure(cmd *cobra.Command, o Options) (r Report, err error) {
	if p.tools {
		r.Rows, err = Run(cmd.Context(), o)
		r.Goals = judge(r.Rows, o)
	}
	for _, fleet := range p.fleets {
		if err != nil {
			return r, err
		}
		var s Scale
		s, err = RunScale(cmd.Context(), fleet)
		r.Fleets, r.Goals = append(r.Fleets, s), append(r.Goals, s.goals()...)
	}
	return r, err
}

func (r Report) print(cmd *cobra.Command) {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%d cores; load of the machine in the minute before: %s\n\n", r.Cores, short(r.Load))
	if len(r.Rows) > 0 {
		table(r.Rows).Print(cmd)
		fmt.Fprintln(out)
	}
	for _, s := range r.Fleets {
		s.write(out)
		fmt.Fprintln(out)
	}
	verdicts(r.Goals).Print(cmd)
}
