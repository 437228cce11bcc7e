package sim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// Command is `chiba sim`. It uses the flags of cli.NewRoot.
func Command() *cobra.Command {
	var nodes, first int
	var password string
	var latency time.Duration
	var quiet bool
	var mocks []string
	var k knobs
	cmd := &cobra.Command{
		Use:     "sim",
		GroupID: cli.GroupRun,
		Short:   "run a rack of simulated BMCs, and move it by hand",
		Long: `Run a rack of simulated BMCs on this machine.

Every BMC answers Redfish over HTTPS on a port of the loopback interface, as
OpenBMC does, and is announced over mDNS. Accounts, certificates and power
states are kept in the state directory, so the same rack comes back. The
password of root is OpenBMC's own: 0penBmc.

With --mock, recorded resource trees are served instead: a folder with one
index.json per resource, in DMTF's mockup layout or below /redfish/v1, as it is
or as a .tar.gz or .zip; or the one file that chiba dump json has written.

The subcommands move a rack that runs, this one or that of chiba dev.`,
		Example: `  chiba sim                           # the rack of eight that the examples use
  chiba sim --nodes 40 --latency 50ms
  chiba sim --mock r740=dumps/idrac9  # what that BMC showed, read-only
  chiba sim set r01-u04 cpu.temp 95   # from another terminal`,
		Args: cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			specs := DevRack()
			if cmd.Flags().Changed("nodes") {
				if nodes < 1 || nodes > maxNodes {
					return cli.UsageError(fmt.Sprintf("--nodes %d: from 1 to %d can be simulated", nodes, maxNodes), "")
				}
				if first < 1 || first > maxRack {
					return cli.UsageError(fmt.Sprintf("--first-rack %d: it is from 1 to %d", first, maxRack), "")
				}
				specs = Racks(first, nodes)
			}
			for i := range specs {
				if password != "" {
					specs[i].Config.Password = fleet.NewSecret(password)
				}
			}
			shape, err := k.shape()
			if err != nil {
				return err
			}
			cfg := Config{Dir: stateDir(cmd), Specs: specs, Latency: latency, Quiet: quiet, Shape: shape}
			for _, text := range mocks {
				m, err := parseMock(text)
				if err != nil {
					return err
				}
				cfg.Mocks = append(cfg.Mocks, m)
			}
			if len(mocks) > 0 && !cmd.Flags().Changed("nodes") {
				cfg.Specs = nil
			}
			return runRack(cmd, cfg)
		},
	}
	cmd.Flags().IntVar(&nodes, "nodes", 0, "run `N` like servers, r01-u01 and so on, instead of the example rack")
	cmd.Flags().IntVar(&first, "first-rack", 1, "with --nodes: number the racks from `N`; two simulators of one fleet need different ones")
	cmd.Flags().StringVar(&password, "root-password", "", "root's `password` at the first start, instead of the factory's")
	cmd.Flags().DurationVar(&latency, "latency", 0, "add `TIME` to every request, for example 50ms")
	cmd.Flags().StringArrayVar(&mocks, "mock", nil, "serve a recorded tree of a real BMC, read-only: `[NAME=]DIR`; repeatable")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "announce nothing over mDNS")
	k.flags(cmd)
	cmd.AddCommand(setCommand(), getCommand(), faultCommand(), logCommand(), statsCommand(), nodesCommand())
	return cmd
}

// maxRack is the highest number of a rack.
const maxRack = 9999

// maxNodes is as many BMCs as one process should listen for.
const maxNodes = 4000

// stateDir is --state, else CHIBA_STATE, else the .chiba here or in the nearest
// directory above that has one, else ./.chiba.
func stateDir(cmd *cobra.Command) string {
	if dir := cli.State(cmd); dir != "" {
		return dir
	}
	if dir := os.Getenv(client.StateVar); dir != "" {
		return dir
	}
	at, err := os.Getwd()
	for err == nil {
		dir := filepath.Join(at, client.StateDir)
		if info, missing := os.Stat(dir); missing == nil && info.IsDir() {
			return dir
		}
		if at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	return client.StateDir
}

func runRack(cmd *cobra.Command, cfg Config) error {
	r, err := Open(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	list := listNodes(r.Nodes())
	list.Table.Print(cmd)
	if why := r.Announced(); why != nil {
		cli.Note(cmd, "not announced over mDNS: %v", why)
	} else {
		cli.Note(cmd, "announced over mDNS as %s", serviceType)
	}
	cli.Note(cmd, "ready: chiba sim set NODE cpu.temp 95 moves it, Ctrl-C stops it")
	return r.Run(cmd.Context())
}

func setCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set NODE REF VALUE",
		Short: "pin a sensor, or change the power, health or asset tag of a server",
		Long: `Pin every sensor behind an element of SCL, or one sensor by its id, to a value.
The value "auto" lets it move by itself again.`,
		Example: `  chiba sim set r01-u04 cpu.temp 95
  chiba sim set r01-u04 temperature_cpu1 88C
  chiba sim set r01-u04 cpu.temp auto
  chiba sim set ai-node-1 power.state off`,
		Args:              cli.Args(3, 3),
		ValidArgsFunction: completeArgs(true, "auto", "on", "off"),
		RunE: withClient(func(ctx context.Context, c *Client, cmd *cobra.Command, args []string) error {
			node := fleet.NodeName(args[0])
			if err := c.Set(ctx, node, args[1], args[2]); err != nil {
				return err
			}
			list, err := c.Get(ctx, node, args[1])
			if err != nil {
				return err
			}
			for _, r := range list {
				cli.Note(cmd, "%s %s is %s", node, args[1], r.Value)
			}
			return nil
		}),
	}
}

func getCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get NODE [REF]",
		Short: "show what a server's sensors read",
		Example: `  chiba sim get r01-u04
  chiba sim get r01-u04 cpu.temp -o json`,
		Args:              cli.Args(1, 2),
		ValidArgsFunction: completeArgs(true),
		RunE: withClient(func(ctx context.Context, c *Client, cmd *cobra.Command, args []string) error {
			ref := strings.Join(args[1:], "")
			list, err := c.Get(ctx, fleet.NodeName(args[0]), ref)
			if err != nil {
				return err
			}
			return listReadings(list).Print(cmd)
		}),
	}
}

func faultCommand() *cobra.Command {
	var length time.Duration
	kinds := make([]string, 0, len(bmcsim.FaultKinds()))
	for _, k := range bmcsim.FaultKinds() {
		kinds = append(kinds, string(k))
	}
	cmd := &cobra.Command{
		Use:   "fault NODE KIND [DELAY]",
		Short: "make a BMC fail, or work again",
		Long: `Make a BMC fail as BMCs do: ` + strings.Join(kinds, ", ") + `,
and logout, which ends all its sessions once. DELAY is how late "slow" answers
and when "503" asks to come back.`,
		Example: `  chiba sim fault r01-u04 hang
  chiba sim fault r01-u04 slow 3s --for 1m
  chiba sim fault r01-u04 none`,
		Args:              cli.Args(2, 3),
		ValidArgsFunction: completeArgs(false, append(kinds, logout)...),
		RunE: withClient(func(ctx context.Context, c *Client, _ *cobra.Command, args []string) error {
			node := fleet.NodeName(args[0])
			if args[1] == logout {
				return c.ForgetSessions(ctx, node)
			}
			f := bmcsim.Fault{Kind: bmcsim.FaultKind(args[1]), For: length}
			if len(args) == 3 {
				delay, err := time.ParseDuration(args[2])
				if err != nil {
					return cli.UsageError(fmt.Sprintf("%q is no duration", args[2]), "for example 3s")
				}
				f.Delay = delay
			}
			return c.Fault(ctx, node, f)
		}),
	}
	cmd.Flags().DurationVar(&length, "for", 0, "how long the fault lasts; 0 is until it is changed")
	return cmd
}

// logout is what `fault` knows besides the faults that last.
const logout = "logout"

func logCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "log NODE KEY [TEXT]",
		Short: "write into a server's event log, which its BMC tells of",
		Long: `Write an entry into a server's event log. Its message id is OpenBMC.0.5.KEY, and
the BMC tells whoever listens for events of it.`,
		Example: `  chiba sim log r01-u04 PowerSupplyFanFailed "fan of psu0 failed"
  chiba sim log r01-u04 InventoryRemoved`,
		Args:              cli.Args(2, 3),
		ValidArgsFunction: completeArgs(false, "PowerSupplyFanFailed", "PowerSupplyRemoved", "InventoryRemoved", "MemoryECCCorrectable"),
		RunE: withClient(func(ctx context.Context, c *Client, cmd *cobra.Command, args []string) error {
			text := args[1]
			if len(args) == 3 {
				text = args[2]
			}
			if err := c.Log(ctx, fleet.NodeName(args[0]), args[1], text); err != nil {
				return err
			}
			cli.Note(cmd, "%s has logged OpenBMC.0.5.%s", args[0], args[1])
			return nil
		}),
	}
}

func statsCommand() *cobra.Command {
	var reset bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "count the requests, writes, sessions and handshakes of every BMC",
		Example: `  chiba sim stats
  chiba sim stats --reset
  chiba sim stats -o json`,
		Args: cli.Args(0, 0),
		RunE: withClient(func(ctx context.Context, c *Client, cmd *cobra.Command, _ []string) error {
			list, err := c.Stats(ctx)
			if err != nil {
				return err
			}
			if reset {
				if err := c.ResetStats(ctx); err != nil {
					return err
				}
			}
			return listStats(list).Print(cmd)
		}),
	}
	cmd.Flags().BoolVar(&reset, "reset", false, "set the counters to zero after showing them")
	return cmd
}

func nodesCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "nodes",
		Short:   "list the simulated BMCs with address, serial number and pin",
		Example: "  chiba sim nodes -o json",
		Args:    cli.Args(0, 0),
		RunE: withClient(func(ctx context.Context, c *Client, cmd *cobra.Command, _ []string) error {
			list, err := c.Nodes(ctx)
			if err != nil {
				return err
			}
			return listNodes(list).Print(cmd)
		}),
	}
}

type clientRun func(ctx context.Context, c *Client, cmd *cobra.Command, args []string) error

func withClient(run clientRun) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := Dial(stateDir(cmd))
		if err != nil {
			return err
		}
		defer c.Close()
		return run(cmd.Context(), c, cmd, args)
	}
}

func listNodes(nodes []Node) cli.List {
	l := cli.List{Data: nodes, Names: []string{}}
	l.Table.Columns = cli.Columns("NODE", "ADDRESS", "POWER", "FAULT", "SERIAL", "+PIN")
	for _, n := range nodes {
		l.Names = append(l.Names, string(n.Name))
		l.Table.Add(string(n.Name), n.Address, n.Power, n.Fault, n.Serial, n.Pin)
	}
	return l
}

func listStats(stats []NodeStats) cli.List {
	l := cli.List{Data: stats}
	l.Table.Columns = cli.Columns("NODE", "REQUESTS", "WRITES", "LOGINS", "DENIED", "SESSIONS", "HANDSHAKES", "CONNECTIONS")
	for _, s := range stats {
		l.Table.Add(string(s.Name), s.Requests, s.Writes, s.Logins, s.Denied, s.Sessions, s.Handshakes, s.Connections)
	}
	return l
}

func listReadings(list []Reading) cli.List {
	l := cli.List{Data: list}
	l.Table.Columns = cli.Columns("REF", "VALUE", "INSTANCES")
	for _, r := range list {
		parts := make([]string, len(r.Instances))
		for i, in := range r.Instances {
			parts[i] = in.Name + "=" + in.Value
		}
		l.Table.Add(r.Ref, r.Value, strings.Join(parts, " "))
	}
	return l
}
