package bench

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Command is `chiba bench`. It uses the flags of cli.NewRoot.
func Command() *cobra.Command {
	o := Options{}
	scale := false
	cmd := &cobra.Command{
		Use:     "bench",
		GroupID: cli.GroupTools,
		Short:   "measure Chiba and others on simulated BMCs",
		Long: `Measure what Chiba needs for a rack of simulated BMCs, and what others need.

W1 sets every server to boot once from the network and restarts it, W3 reads its
60 sensors once. The BMCs run in a process of their own; each tool runs in a fresh
process, verifies the BMCs' keys and measures itself.`,
		Example: `  chiba bench
  chiba bench --nodes 10 --latency 20ms
  chiba bench --scale               # 2,000 BMCs, 50 agents, a coordinator
  chiba bench -o json`,
		Args: cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Binary, err = os.Executable(); err != nil {
				return fault.Wrap(fault.Internal, "find this program", err)
			}
			o.Say = cmd.ErrOrStderr()
			if scale {
				if !cmd.Flags().Changed("nodes") {
					o.Nodes = 2000
				}
				return reportScale(cmd, o)
			}
			rows, err := Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			return report(cmd, rows, o)
		},
	}
	cmd.Flags().IntVar(&o.Nodes, "nodes", 40, "simulate `N` BMCs")
	cmd.Flags().DurationVar(&o.Latency, "latency", 100*time.Millisecond, "`TIME` that a BMC takes for a request")
	cmd.Flags().IntVar(&o.Repeat, "repeat", 3, "measure W1 `N` times and take the median")
	cmd.Flags().BoolVar(&scale, "scale", false, "measure a whole fleet instead: an agent for every 40 BMCs (default 2,000), a coordinator with Raft")
	cmd.AddCommand(oneCommand())
	return cmd
}

func oneCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "one TOOL WORK",
		Short:  "be one tool at one kind of work",
		Hidden: true,
		Args:   cli.Args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			row, err := one(cmd.Context(), args[0], args[1], cli.State(cmd))
			if err != nil {
				return err
			}
			return cli.Line(cmd.OutOrStdout(), row)
		},
	}
}

func report(cmd *cobra.Command, rows []Row, o Options) error {
	goals := judge(rows, o)
	if format, err := cli.OutputOf(cmd); err != nil || format.Machine() {
		if err != nil {
			return err
		}
		return cli.Encode(cmd.OutOrStdout(), format, struct {
			Rows  []Row
			Goals []Goal
		}{rows, goals})
	}
	table(rows).Print(cmd)
	fmt.Fprintln(cmd.OutOrStdout())
	verdicts(goals).Print(cmd)
	return nil
}

func reportScale(cmd *cobra.Command, o Options) error {
	s, err := RunScale(cmd.Context(), o)
	if err != nil {
		return err
	}
	if format, err := cli.OutputOf(cmd); err != nil || format.Machine() {
		if err != nil {
			return err
		}
		return cli.Encode(cmd.OutOrStdout(), format, struct {
			Scale
			Goals []Goal
		}{s, s.goals()})
	}
	s.print(cmd.OutOrStdout())
	fmt.Fprintln(cmd.OutOrStdout())
	verdicts(s.goals()).Print(cmd)
	return nil
}

func verdicts(goals []Goal) *cli.Table {
	t := &cli.Table{}
	t.Columns = cli.Columns("GOAL", "WHAT", "WANTED", "MEASURED", "")
	for _, g := range goals {
		t.Add(g.Number, g.What, g.Wanted, g.Measured, g.Verdict())
	}
	return t
}
