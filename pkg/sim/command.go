package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// StateDir is where the state is kept unless a flag says otherwise:
// CHIBA_STATE, else ./.chiba.
func StateDir() string {
	if dir := os.Getenv("CHIBA_STATE"); dir != "" {
		return dir
	}
	return "./.chiba"
}

// Command is `chiba sim`.
func Command() *cobra.Command {
	var dir string
	var nodes int
	var latency time.Duration
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Run a rack of simulated BMCs, and move it by hand",
		Long: `Run a rack of simulated BMCs on this machine.

Every BMC answers Redfish over HTTPS on a port of the loopback interface, as
OpenBMC does, and is announced over mDNS. Accounts, certificates and power
states are kept in the state directory, so the same rack comes back. The
password of root is OpenBMC's own: 0penBmc.`,
		Example: `  chiba sim                           # the rack of eight that the examples use
  chiba sim --nodes 40 --latency 50ms
  chiba sim set r01-u04 cpu.temp 95   # from another terminal`,
		Args:         noArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			specs, err := specsFor(cmd, nodes)
			if err != nil {
				return err
			}
			return runRack(cmd, Config{Dir: dir, Specs: specs, Latency: latency})
		},
	}
	cmd.PersistentFlags().StringVar(&dir, "state", StateDir(), "directory of the state (or set CHIBA_STATE)")
	cmd.Flags().IntVar(&nodes, "nodes", 0, "run this many like servers, r01-u01 and so on, instead of the example rack")
	cmd.Flags().DurationVar(&latency, "latency", 0, "add this to every request, for example 50ms")
	cmd.AddCommand(setCommand(&dir), getCommand(&dir), faultCommand(&dir), statsCommand(&dir), nodesCommand(&dir))
	return cmd
}

func specsFor(cmd *cobra.Command, nodes int) ([]Spec, error) {
	switch {
	case !cmd.Flags().Changed("nodes"):
		return DevRack(), nil
	case nodes < 1 || nodes > 4000:
		return nil, usage(cmd, "--nodes must be from 1 to 4000")
	}
	return Racks(nodes), nil
}

func runRack(cmd *cobra.Command, cfg Config) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	writeNodes(out, r.Nodes())
	if why := r.Announced(); why != nil {
		fmt.Fprintf(out, "\nnot announced over mDNS: %v\n", why)
	} else {
		fmt.Fprintf(out, "\nannounced over mDNS as %s\n", serviceType)
	}
	fmt.Fprintln(out, "ready: Ctrl-C stops the rack; chiba sim set NODE cpu.temp 95 moves it")
	return r.Run(ctx)
}

func setCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "set NODE REF VALUE",
		Short: "Pin a sensor, or change the power, health or asset tag of a server",
		Long: `Pin every sensor behind an element of SCL, or one sensor by its id, to a value.
The value "auto" lets it move by itself again.`,
		Example: `  chiba sim set r01-u04 cpu.temp 95
  chiba sim set r01-u04 temperature_cpu1 88C
  chiba sim set r01-u04 cpu.temp auto
  chiba sim set ai-node-1 power.state off`,
		Args: exactArgs(3),
		RunE: withClient(dir, func(ctx context.Context, c *Client, cmd *cobra.Command, args []string) error {
			node := fleet.NodeName(args[0])
			if err := c.Set(ctx, node, args[1], args[2]); err != nil {
				return err
			}
			list, err := c.Get(ctx, node, args[1])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s = %s\n", node, args[1], list[0].Value)
			return nil
		}),
	}
}

func getCommand(dir *string) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "get NODE [REF]",
		Short: "Show what a server's sensors read",
		Example: `  chiba sim get r01-u04
  chiba sim get r01-u04 cpu.temp -o json`,
		Args: rangeArgs(1, 2),
		RunE: withClient(dir, func(ctx context.Context, c *Client, cmd *cobra.Command, args []string) error {
			ref := ""
			if len(args) == 2 {
				ref = args[1]
			}
			list, err := c.Get(ctx, fleet.NodeName(args[0]), ref)
			if err != nil {
				return err
			}
			return show(cmd, format, list, writeReadings)
		}),
	}
	outputFlag(cmd, &format)
	return cmd
}

func faultCommand(dir *string) *cobra.Command {
	var length time.Duration
	kinds := make([]string, 0, len(bmcsim.FaultKinds()))
	for _, k := range bmcsim.FaultKinds() {
		kinds = append(kinds, string(k))
	}
	cmd := &cobra.Command{
		Use:   "fault NODE KIND [DELAY]",
		Short: "Make a BMC fail, or work again",
		Long: `Make a BMC fail as BMCs do: ` + strings.Join(kinds, ", ") + `, and
logout, which ends all its sessions once. DELAY is how late "slow" answers and
when "503" asks to come back.`,
		Example: `  chiba sim fault r01-u04 hang
  chiba sim fault r01-u04 slow 3s --for 1m
  chiba sim fault r01-u04 none`,
		Args: rangeArgs(2, 3),
		RunE: withClient(dir, func(ctx context.Context, c *Client, cmd *cobra.Command, args []string) error {
			node := fleet.NodeName(args[0])
			if args[1] == "logout" {
				return c.ForgetSessions(ctx, node)
			}
			f := bmcsim.Fault{Kind: bmcsim.FaultKind(args[1]), For: length}
			if len(args) == 3 {
				delay, err := time.ParseDuration(args[2])
				if err != nil {
					return usage(cmd, fmt.Sprintf("%q is no duration, for example 3s", args[2]))
				}
				f.Delay = delay
			}
			return c.Fault(ctx, node, f)
		}),
	}
	cmd.Flags().DurationVar(&length, "for", 0, "how long the fault lasts; 0 is until it is changed")
	return cmd
}

func statsCommand(dir *string) *cobra.Command {
	var format string
	var reset bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Count the requests, writes, sessions and handshakes of every BMC",
		Example: `  chiba sim stats
  chiba sim stats --reset
  chiba sim stats -o json`,
		Args: noArgs,
		RunE: withClient(dir, func(ctx context.Context, c *Client, cmd *cobra.Command, _ []string) error {
			list, err := c.Stats(ctx)
			if err != nil {
				return err
			}
			if reset {
				if err := c.ResetStats(ctx); err != nil {
					return err
				}
			}
			return show(cmd, format, list, writeStats)
		}),
	}
	outputFlag(cmd, &format)
	cmd.Flags().BoolVar(&reset, "reset", false, "set the counters to zero after showing them")
	return cmd
}

func nodesCommand(dir *string) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "nodes",
		Short:   "List the simulated BMCs with address, serial number and pin",
		Example: "  chiba sim nodes -o json",
		Args:    noArgs,
		RunE: withClient(dir, func(ctx context.Context, c *Client, cmd *cobra.Command, _ []string) error {
			list, err := c.Nodes(ctx)
			if err != nil {
				return err
			}
			return show(cmd, format, list, writeNodes)
		}),
	}
	outputFlag(cmd, &format)
	return cmd
}

type clientRun func(ctx context.Context, c *Client, cmd *cobra.Command, args []string) error

func withClient(dir *string, run clientRun) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := Dial(*dir)
		if err != nil {
			return err
		}
		defer c.Close()
		return run(cmd.Context(), c, cmd, args)
	}
}

func outputFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVarP(format, "output", "o", "table", "table or json")
}

func show[T any](cmd *cobra.Command, format string, v T, table func(io.Writer, T)) error {
	switch format {
	case "table":
		table(cmd.OutOrStdout(), v)
		return nil
	case "json":
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	return usage(cmd, fmt.Sprintf("%q is no output format: table or json", format))
}

func writeNodes(w io.Writer, nodes []Node) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NODE\tADDRESS\tPOWER\tFAULT\tSERIAL\tPIN")
	for _, n := range nodes {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Address, n.Power, n.Fault, n.Serial, n.Pin)
	}
	_ = tw.Flush()
}

func writeStats(w io.Writer, list []NodeStats) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NODE\tREQUESTS\tWRITES\tLOGINS\tDENIED\tSESSIONS\tHANDSHAKES\tCONNECTIONS")
	for _, s := range list {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n",
			s.Name, s.Requests, s.Writes, s.Logins, s.Denied, s.Sessions, s.Handshakes, s.Connections)
	}
	_ = tw.Flush()
}

func writeReadings(w io.Writer, list []Reading) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "REF\tVALUE\tINSTANCES")
	for _, r := range list {
		parts := make([]string, len(r.Instances))
		for i, in := range r.Instances {
			parts[i] = in.Name + "=" + in.Value
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\n", r.Ref, r.Value, strings.Join(parts, " "))
	}
	_ = tw.Flush()
}

// usage is an error about how the command was typed.
func usage(cmd *cobra.Command, text string) error {
	return fault.New(fault.BadInput, "", text).WithHint("see " + cmd.CommandPath() + " --help")
}

func noArgs(cmd *cobra.Command, args []string) error { return rangeArgs(0, 0)(cmd, args) }

func exactArgs(n int) cobra.PositionalArgs { return rangeArgs(n, n) }

func rangeArgs(from, to int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > to && to == 0 && cmd.HasSubCommands():
			return usage(cmd, fmt.Sprintf("there is no command %q", args[0]))
		case len(args) < from || len(args) > to:
			return usage(cmd, "usage: "+cmd.UseLine())
		}
		return nil
	}
}
