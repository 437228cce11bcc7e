package ctl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

func bmcAdmit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "admit (NAME | KEY)",
		Short: "let a BMC in that was found, or be one voice more for one that is in",
		Long: `Let a BMC in that was found and stands in no catalogue: it is a node like any other
from then on. Before that nothing but the question for its key and its service root
is sent to it. The order names its key: compare it with what the BMC itself shows.

The agent then logs in with what the make leaves the factory with, or with --user and
--password-file, which are sealed to the agents of the rack. With --serial the server
must tell that number; that, or a second person, is what the level T3 needs besides
the take-over. Who admits is the author whose key signs the order; where a policy
says (approve 2), two different ones must.`,
		Example:           "  chiba get bmcs --all --why\n  chiba bmc admit r01-7k2m4q --as r01-u05 --serial S123\n  chiba bmc admit sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU= --user admin --password-file FILE",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeFound,
	}
	var as, serial, user, file string
	cmd.Flags().StringVar(&as, "as", "", "the `name` that the node gets (default: its rack and six letters)")
	cmd.Flags().StringVar(&serial, "serial", "", "the serial `number` that the server must tell")
	cmd.Flags().StringVar(&user, "user", "", "the `account` to log in with")
	cmd.Flags().StringVar(&file, "password-file", "", "`file` with its password; - is standard input")
	f := bmcFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (user == "") != (file == "") {
			return cli.UsageError("--user and --password-file are needed together", cmd.CommandPath()+" NAME --user USER --password-file FILE")
		}
		parts := ""
		if as != "" {
			parts += " (as " + syntax.Quote(as) + ")"
		}
		if serial != "" {
			parts += " (serial " + syntax.Quote(serial) + ")"
		}
		if file != "" {
			password, err := readPassword(cmd, file)
			if err != nil {
				return err
			}
			parts += " (login " + syntax.Quote(user) + " (password " + syntax.Quote(password) + "))"
		}
		return f.about(cmd, args[0], func(n fleet.Node) string { return "(bmc-admit " + syntax.Quote(n.Trust.Pin) + parts + ")" })
	}
	return cmd
}

func bmcRefuse() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "refuse (NAME | KEY)",
		Short: "keep a BMC out that was found, or that was let in",
		Long: `Keep a BMC out: it is told no secret and stays a stranger, whatever the policies say,
until chiba bmc admit or chiba bmc forget. One that was let in leaves the fleet; one
that was taken over must be given back first. To keep a key or a server out of every
rack: chiba trust deny.`,
		Example:           "  chiba bmc refuse r01-7k2m4q --reason 'not ours'",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeFound,
	}
	var reason string
	cmd.Flags().StringVar(&reason, "reason", "", "why, as a `text` for whoever meets it")
	f := bmcFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		what := "(bmc-refuse)"
		if reason != "" {
			what = "(bmc-refuse " + syntax.Quote(reason) + ")"
		}
		return f.about(cmd, args[0], func(fleet.Node) string { return what })
	}
	return cmd
}

func bmcForget() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget (NAME | KEY)",
		Short: "take back that a BMC was admitted or refused: it is a stranger again",
		Long: `Take back what people have said of a BMC: one that was let in leaves the fleet, and
what let the agent into it is forgotten; one that was refused waits again. One that
was taken over must be given back first: chiba bmc release.`,
		Example:           "  chiba bmc release r01-u05 && chiba bmc forget r01-u05",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeFound,
	}
	f := bmcFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.about(cmd, args[0], func(fleet.Node) string { return "(bmc-forget)" })
	}
	return cmd
}

// about runs a command on the one BMC that who names, by its name or its key.
func (f bmcRun) about(cmd *cobra.Command, who string, what func(fleet.Node) string) error {
	var n fleet.Node
	err := with(cmd, func(c *client.Client) (err error) {
		n, err = one(cmd, c, who)
		return err
	})
	if err != nil {
		return err
	}
	return f.run(cmd, string(n.Name), what(n))
}

// one is the BMC that was found, or the node, with a name or a key.
func one(cmd *cobra.Command, c *client.Client, who string) (fleet.Node, error) {
	all, err := c.Found(cmd.Context())
	if err != nil {
		return fleet.Node{}, err
	}
	nodes, err := c.Nodes(cmd.Context())
	if err != nil {
		return fleet.Node{}, err
	}
	all = slices.DeleteFunc(append(all, nodes...), func(n fleet.Node) bool { return string(n.Name) != who && n.Trust.Pin != who })
	switch len(all) {
	case 0:
		return fleet.Node{}, fault.New(fault.NotFound, "", "no BMC of that name or key was found: "+who).WithHint("see them all: chiba get bmcs --all")
	case 1:
		return all[0], nil
	}
	return fleet.Node{}, fault.New(fault.Conflict, "", who+" is more than one: "+nodeList(mapped(all, func(n fleet.Node) fleet.NodeName { return n.Name }))).
		WithHint("give the name of one of them; who has the same key is told by: chiba get bmcs --all --why")
}

// chosen are the nodes with a name that one of the globs matches; without any, all.
func chosen(nodes []fleet.Node, globs []string) []fleet.Node {
	return slices.DeleteFunc(nodes, func(n fleet.Node) bool {
		return len(globs) > 0 && !slices.ContainsFunc(globs, func(g string) bool { return scl.Glob(g, string(n.Name)) })
	})
}

// stateOf is whether a BMC is one of the fleet, in a word.
func stateOf(n fleet.Node) string {
	if n.Admission.State == fleet.Listed {
		return "listed"
	}
	return string(n.Admission.State)
}

func admissionCell(n fleet.Node) cli.Cell {
	c := cli.Cell{Text: stateOf(n)}
	switch n.Admission.State {
	case fleet.Waiting:
		c.Colour = cli.Warn
	case fleet.Barring:
		c.Colour = cli.Bad
	case fleet.Admitted, fleet.Listed:
	}
	return c
}

// printEvidence says below the table what was seen of each BMC, and by whom.
func printEvidence(cmd *cobra.Command, nodes []fleet.Node) {
	if format, _ := cli.OutputOf(cmd); format != cli.TableFormat && format != cli.WideFormat {
		return
	}
	w := cmd.OutOrStdout()
	for _, n := range nodes {
		fmt.Fprintln(w)
		say(w, "%s, rack %s: %s", n.Name, n.Rack, strings.TrimSuffix(stateOf(n)+": "+n.Admission.Why, ": "))
		t := cli.Table{Columns: cli.Columns("=SEEN", "=AS", "FROM")}
		t.Add("key", n.Trust.Pin, "TLS handshake")
		for _, e := range n.Admission.Evidence {
			t.Add(e.What, e.Is, e.From)
		}
		t.Print(cmd)
	}
}
