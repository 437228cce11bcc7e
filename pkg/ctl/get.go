package ctl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

func getCommand() *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use:        "get",
		GroupID:    cli.GroupSee,
		Short:      "list what the fleet knows: nodes, racks, sites, groups, BMCs, inventory, changes, agents, scripts, runs, firings, coordinators",
		SuggestFor: []string{"list", "ls", "nodes", "node", "status", "ps", "agents", "runs", "scripts", "firings", "describe"},
		Example:    "  chiba get nodes\n  chiba get nodes 'r01-*' -o wide\n  chiba get run R7\n  chiba get script thermal\n  chiba get runs --consistency linearizable",
	})
	cmd.AddCommand(getNodes(), getRacks(), getSites(), getGroups(), getBMCs(), getInventory(), getChanges(), getAgents(), getScripts(), getScript(), getRuns(), getRun(), getFirings(), getCoordinators())
	addConsistencyFlag(cmd)
	return cmd
}

func getNodes() *cobra.Command {
	return &cobra.Command{
		Use:               "nodes [TARGET…]",
		Short:             "list the nodes: all, or those that match",
		Example:           "  chiba get nodes\n  chiba get nodes 'r01-*' -o wide\n  chiba get nodes 'r01-u[01-04],ai-*'",
		Aliases:           []string{"node"},
		ValidArgsFunction: completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				nodes, err := c.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				if nodes, err = matching(cmd, c, nodes, args); err != nil {
					return err
				}
				if err := listNodes(nodes).Print(cmd); err != nil {
					return err
				}
				printReasons(cmd, nodes)
				return nil
			})
		},
	}
}

// matching are the nodes that one of the targets selects, or all if there is no
// target. One that selects none is an error: it is most likely a typo.
func matching(cmd *cobra.Command, c *client.Client, nodes []fleet.Node, args []string) ([]fleet.Node, error) {
	slices.SortFunc(nodes, func(a, b fleet.Node) int { return strings.Compare(string(a.Name), string(b.Name)) })
	if len(args) == 0 {
		return nodes, nil
	}
	wanted := map[fleet.NodeName]bool{}
	var known groups
	for _, arg := range args {
		selected, err := selection(cmd, arg)
		if err != nil {
			return nil, err
		}
		if known == nil && slices.ContainsFunc(selected.Names(), func(t scl.Target) bool { return t.Kind == scl.TargetGroup }) {
			if known, err = fleetGroups(cmd.Context(), c); err != nil {
				return nil, err
			}
		}
		if err := known.missing(selected); err != nil {
			return nil, err
		}
		found := false
		for _, n := range nodes {
			switch selected.Match(scl.Subject{Node: n, Group: known.lookup}) {
			case scl.True:
				wanted[n.Name], found = true, true
			case scl.Unknown: // of a group that is none, or of an element that the BMC must be asked for
				if !labelled(selected, known) {
					return nil, cli.UsageError("chiba get nodes selects by what is known without asking a BMC, not by "+arg, "try: chiba show '"+arg+"'")
				}
			case scl.False:
			}
		}
		if !found {
			return nil, fault.New(fault.NotFound, "", "no node matches "+arg).WithHint("see them all: chiba get nodes")
		}
	}
	return slices.DeleteFunc(nodes, func(n fleet.Node) bool { return !wanted[n.Name] }), nil
}

// selection is a TARGET argument.
func selection(cmd *cobra.Command, arg string) (scl.Target, error) {
	src, err := command(cmd, "show", []string{target(arg)})
	if err != nil {
		return scl.Target{}, err
	}
	program, _ := compile.Source(src.File, src.Text) // command saw that it is one step
	return program.Steps[0].Target, nil
}

func listNodes(nodes []fleet.Node) cli.List {
	l := cli.List{Data: mapped(nodes, viewNode), Names: []string{}}
	l.Table.Columns = cli.Columns("=NAME", "RACK", "POWER", "HEALTH", "=STATE", "TRUST", "MODEL",
		"+VENDOR", "+SERIAL", "+FIRMWARE", "+BIOS", "+SITE", "+ADDRESS", "+FOUND", "+SEEN", "+BMC", "+REASON")
	for _, n := range nodes {
		l.Names = append(l.Names, string(n.Name))
		l.Table.Add(string(n.Name), string(n.Rack), n.Power, healthCell(n.Health), stateCell(n), trustCell(n.Trust), n.Model,
			n.Vendor, n.Serial, n.Firmware, n.BIOS, string(n.Site), n.Address, n.Found, ago(n.Seen), n.BMC, without(n.Name, n.Reason))
	}
	return l
}

// printReasons says below the table why nodes are not ready; -o wide has a column
// for it.
func printReasons(cmd *cobra.Command, nodes []fleet.Node) {
	if format, _ := cli.OutputOf(cmd); format != cli.TableFormat {
		return
	}
	bad := slices.DeleteFunc(slices.Clone(nodes), func(n fleet.Node) bool { return n.State == fleet.Ready || n.Reason == "" })
	if len(bad) > 0 {
		fmt.Fprintln(cmd.OutOrStdout())
	}
	for _, g := range grouped(bad, func(n fleet.Node) string { return string(n.State) + ": " + without(n.Name, n.Reason) }) {
		who := nodeList(mapped(g, func(n fleet.Node) fleet.NodeName { return n.Name }))
		fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(who+": "+string(g[0].State)+": "+without(g[0].Name, g[0].Reason)))
	}
}

func healthCell(h string) cli.Cell {
	switch h {
	case "OK":
		return cli.Cell{Text: h, Colour: cli.Good}
	case "Warning":
		return cli.Cell{Text: h, Colour: cli.Warn}
	case "Critical":
		return cli.Cell{Text: h, Colour: cli.Bad}
	}
	return cli.Cell{Text: h}
}

func stateCell(n fleet.Node) cli.Cell {
	if n.State == fleet.Ready {
		return cli.Cell{Text: string(n.State), Colour: cli.Good}
	}
	return cli.Cell{Text: string(n.State), Colour: cli.Bad}
}

// trustCell is the trust level, marked where it keeps work from a node.
func trustCell(t fleet.BMCTrust) cli.Cell {
	switch t.Level {
	case "", "T3", "T4":
		return cli.Cell{Text: t.Level, Colour: cli.Good}
	case "TX":
		return cli.Cell{Text: t.Level, Colour: cli.Bad}
	}
	return cli.Cell{Text: t.Level, Colour: cli.Warn}
}

func getAgents() *cobra.Command {
	return &cobra.Command{
		Use:     "agents",
		Short:   "list the agents, what they do, and whether they are connected",
		Example: "  chiba get agents -o wide",
		Aliases: []string{"agent"},
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				agents, err := c.Agents(cmd.Context())
				if err != nil {
					return err
				}
				l := cli.List{Data: mapped(agents, viewAgent), Names: []string{}}
				l.Table.Columns = cli.Columns("NAME", "RACK", "SITE", "ROLE", "LINK", "SINCE", "REVISION", "KEY", "CERT", "+EPOCH", "+COORDINATOR", "+REMOTE", "+BUILD")
				for _, a := range agents {
					l.Names = append(l.Names, string(a.Name))
					link := cli.Cell{Text: "cut off", Colour: cli.Bad}
					if a.Connected {
						link = cli.Cell{Text: "connected", Colour: cli.Good}
					}
					if a.Locked != "" {
						link = cli.Cell{Text: "locked", Colour: cli.Bad}
					}
					l.Table.Add(string(a.Name), string(a.Rack), string(a.Site), a.Role, link, ago(a.Since), a.Revision, a.KeyKind, left(a.CertEnds), a.Epoch, a.Coordinator, a.Remote, a.Build)
				}
				if err := l.Print(cmd); err != nil {
					return err
				}
				printLocks(cmd, agents)
				return nil
			})
		},
	}
}

func getScripts() *cobra.Command {
	return &cobra.Command{
		Use:     "scripts",
		Short:   "list the scripts in force",
		Example: "  chiba get scripts",
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				scripts, err := c.Scripts(cmd.Context())
				if err != nil {
					return err
				}
				l := cli.List{Data: mapped(scripts, viewScript), Names: []string{}}
				columns := []string{"NAME", "REVISION", "APPLIED", "BY", "FILE", "+DIGEST"}
				if anyOnRack(scripts) {
					columns = append(columns, "IN FORCE")
				}
				l.Table.Columns = cli.Columns(columns...)
				for _, s := range scripts {
					l.Names = append(l.Names, string(s.Name))
					cells := []any{string(s.Name), s.Revision, ago(s.Applied), s.By, s.File, s.Digest, inForce(s)}
					l.Table.Add(cells[:len(columns)]...)
				}
				if err := l.Print(cmd); err != nil {
					return err
				}
				printRemarks(cmd, scripts)
				return nil
			})
		},
	}
}

func getScript() *cobra.Command {
	return &cobra.Command{
		Use:               "script NAME",
		Short:             "print the source of a script in force, secrets sealed",
		Example:           "  chiba get script thermal\n  chiba get runs --consistency linearizable",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeScripts,
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				s, err := c.Script(cmd.Context(), fleet.ScriptName(args[0]))
				if err != nil {
					return err
				}
				format, err := cli.OutputOf(cmd)
				switch {
				case err != nil:
					return err
				case format.Machine():
					return cli.Encode(cmd.OutOrStdout(), format, viewScript(*s))
				}
				writeText(cmd, s.Source)
				return nil
			})
		},
	}
}

func getRuns() *cobra.Command {
	return &cobra.Command{
		Use:     "runs",
		Short:   "list the runs, newest first",
		Example: "  chiba get runs",
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				runs, err := c.Runs(cmd.Context())
				if err != nil {
					return err
				}
				l := cli.List{Data: mapped(runs, viewRun), Names: []string{}}
				l.Table.Columns = cli.Columns("ID", "SCRIPT", "STATE", "NODES", "FAILED", "STARTED", "TOOK", "BY", "+DEADLINE")
				for _, r := range runs {
					l.Names = append(l.Names, string(r.ID))
					nodes, failed := totals(r)
					l.Table.Add(string(r.ID), string(r.Script), runStateCell(r), nodes, failed,
						ago(r.Started), took(r), r.By, clock(r.Deadline))
				}
				return l.Print(cmd)
			})
		},
	}
}

func getRun() *cobra.Command {
	return &cobra.Command{
		Use:               "run ID",
		Short:             "show a run: how far it is and what became of every step",
		Example:           "  chiba get run R7\n  chiba get run R7 -o json",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeRuns,
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				r, results, err := c.Run(cmd.Context(), fleet.RunID(args[0]))
				if err != nil {
					return err
				}
				format, err := cli.OutputOf(cmd)
				switch {
				case err != nil:
					return err
				case format.Machine():
					v := viewRun(*r)
					v.Results = mapped(results, viewResult)
					return cli.Encode(cmd.OutOrStdout(), format, v)
				}
				fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(describeRun(*r)))
				if r.Rollout != nil {
					fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(describeRollout(r.Rollout, time.Now())))
				}
				printRacks(cmd, *r)
				fmt.Fprintln(cmd.OutOrStdout())
				printResults(cmd, results)
				return nil
			})
		},
	}
}

func getFirings() *cobra.Command {
	return &cobra.Command{
		Use:     "firings",
		Short:   "list the latest firings of rules and what they did",
		Example: "  chiba get firings\n  chiba get firings -o json",
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				firings, err := c.Firings(cmd.Context())
				if err != nil {
					return err
				}
				l := cli.List{Data: mapped(firings, viewFiring)}
				l.Table.Columns = cli.Columns("=AT", "NODE", "=RULE", "VALUES", "DID", "+CONDITION")
				for _, f := range firings {
					l.Table.Add(stamp(f.At), string(f.Node), string(f.Script)+"/"+f.Rule, values(f.Readings), did(f), f.Condition)
				}
				return l.Print(cmd)
			})
		},
	}
}

// ago is how long ago t was, in its largest unit: "12s", "5m", "3h", "2d".
// left is how long a certificate is still good, or since when it is not.
func left(ends time.Time) string {
	switch d := time.Until(ends); {
	case ends.IsZero():
		return ""
	case d < 0:
		return "ended " + ago(ends) + " ago"
	default:
		return ago(time.Now().Add(-d)) + " left"
	}
}

// printLocks says why agents are let in no more, or take no new work, below a table.
func printLocks(cmd *cobra.Command, agents []client.Agent) {
	if format, err := cli.OutputOf(cmd); err != nil || format != cli.TableFormat && format != cli.WideFormat {
		return
	}
	for _, a := range agents {
		if a.Trouble != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "\n%s takes no new work: %s\n", cli.Clean(string(a.Name)), cli.Clean(a.Trouble))
		}
		if a.Locked != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "\n%s is locked: %s\n  then: chiba trust token create --rack %s, and chiba agent join on the machine that is ours\n",
				cli.Clean(string(a.Name)), cli.Clean(a.Locked), cli.Clean(string(a.Rack)))
		}
	}
}

func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := max(time.Since(t), 0)
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// clock is the local time of day.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.TimeOnly)
}

// stamp is the local date and time.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}
