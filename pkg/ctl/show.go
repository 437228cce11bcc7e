package ctl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

func showCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show TARGET [REF…]",
		GroupID: cli.GroupSee,
		Short:   "read elements of nodes now; no REF means the summary",
		Long: `Read elements of nodes now, a row per node; no REF means the summary.

TARGET is all, a name, a glob, several of them with commas between, or any
target of SCL in parentheses: '(rack "r01")'. An unknown value shows as — with
the reason below the table. -o wide shows a row per value, with its source.`,
		Example: `  chiba show all cpu.temp power.watts
  chiba show 'r01-*' cpu.temp
  chiba show '(where (= system.health "Critical"))'`,
		Args:              cli.Args(1, -1),
		ValidArgsFunction: completeShow,
	}
	allowEmpty := cmd.Flags().Bool("allow-empty", false, "no error if TARGET matches no node")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		src, err := command(cmd, "show", append([]string{target(args[0])}, references(args[1:])...))
		if err != nil {
			return err
		}
		src.AllowEmpty = *allowEmpty
		return with(cmd, func(c *client.Client) error {
			a, err := gather(cmd, c.Show(cmd.Context(), src), nil)
			if err != nil {
				return sent(cmd, err)
			}
			return printShow(cmd, a)
		})
	}
	return cmd
}

func refreshCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "refresh TARGET",
		GroupID:           cli.GroupChange,
		Short:             "have the agents read everything about nodes anew",
		Example:           "  chiba refresh all\n  chiba refresh r01-u04",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeShow,
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := command(cmd, "refresh", []string{target(args[0])})
			if err != nil {
				return err
			}
			return with(cmd, func(c *client.Client) error {
				a, err := gather(cmd, c.Show(cmd.Context(), src), nil)
				if err != nil {
					return sent(cmd, err)
				}
				t := stepTable(a.results)
				if err := (cli.List{Table: *t, Data: mapped(a.results, viewResult)}).Print(cmd); err != nil {
					return err
				}
				return a.end(a.results)
			})
		},
	}
}

// target is the SCL of a TARGET argument: all, a form as it is, else names and
// globs as strings.
func target(arg string) string {
	if arg == "all" || strings.HasPrefix(arg, "(") {
		return arg
	}
	names := strings.Split(arg, ",")
	for i, n := range names {
		names[i] = syntax.Quote(n)
	}
	if len(names) == 1 {
		return names[0]
	}
	return "(" + strings.Join(names, " ") + ")"
}

// references are REF arguments; commas between them are as good as spaces.
func references(args []string) []string {
	var refs []string
	for _, arg := range args {
		if strings.ContainsAny(arg, `("`) {
			refs = append(refs, arg)
			continue
		}
		refs = append(refs, strings.FieldsFunc(arg, func(r rune) bool { return r == ',' })...)
	}
	return refs
}

// printShow prints the readings and says who gave none.
func printShow(cmd *cobra.Command, a *answers) error {
	readings := readingsOf(a.results)
	format, err := cli.OutputOf(cmd)
	switch {
	case err != nil:
		return err
	case format.Machine():
		if err := cli.Encode(cmd.OutOrStdout(), format, mapped(readings, viewReading)); err != nil {
			return err
		}
		return a.end(a.results)
	case format == cli.NameFormat:
		return cli.BadFormat(format, cli.TableFormat, cli.WideFormat, cli.JSONFormat, cli.YAMLFormat)
	}
	printReadings(cmd, readings)
	a.printTrouble(cmd, "it gave no answer")
	return a.end(a.results)
}

// readingsOf are the readings in results. A node that could not be read has one
// reading without a ref that says why.
func readingsOf(results []fleet.Result) []fleet.Reading {
	var out []fleet.Reading
	for _, r := range results {
		for _, reading := range r.Readings {
			if reading.Node == "" {
				reading.Node = r.Node
			}
			out = append(out, reading)
		}
		if len(r.Readings) == 0 && !r.Status.OK() {
			out = append(out, fleet.Reading{Node: r.Node, Value: fleet.NoValue(without(r.Node, r.Error)), At: r.Started})
		}
	}
	return out
}

// printReadings prints a row per node and a column per element; with -o wide,
// or for a single node with many elements, a row per value. The reasons of
// unknown values stand below.
func printReadings(cmd *cobra.Command, readings []fleet.Reading) {
	if len(readings) == 0 {
		return
	}
	wide := cmd.Flag("output") != nil && cmd.Flag("output").Value.String() == string(cli.WideFormat)
	refs, nodes := refsOf(readings), nodesOf(readings)
	switch {
	case wide:
		longTable(readings).Print(cmd)
		return
	case len(nodes) == 1 && len(refs) > 4:
		t := cli.Table{Columns: cli.Columns("REF", "VALUE")}
		for _, r := range readings {
			t.Add(r.Ref, valueCell(r.Value))
		}
		t.Print(cmd)
	default:
		crossTable(readings, refs, nodes).Print(cmd)
	}
	notes := footnotes(readings)
	if len(notes) > 0 {
		fmt.Fprintln(cmd.OutOrStdout())
	}
	for _, note := range notes {
		fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(note))
	}
}

func refsOf(readings []fleet.Reading) []string {
	var refs []string
	seen := map[string]bool{"": true}
	for _, r := range readings {
		if !seen[r.Ref] {
			seen[r.Ref] = true
			refs = append(refs, r.Ref)
		}
	}
	return refs
}

func nodesOf(readings []fleet.Reading) []fleet.NodeName {
	var nodes []fleet.NodeName
	for _, r := range readings {
		nodes = append(nodes, r.Node)
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

func crossTable(readings []fleet.Reading, refs []string, nodes []fleet.NodeName) *cli.Table {
	type at struct {
		node fleet.NodeName
		ref  string
	}
	values := map[at]fleet.Value{}
	for _, r := range readings {
		values[at{r.Node, r.Ref}] = r.Value
	}
	t := &cli.Table{Columns: cli.Columns(append([]string{"NODE"}, refs...)...)}
	for _, n := range nodes {
		row := []any{string(n)}
		for _, ref := range refs {
			row = append(row, valueCell(values[at{n, ref}]))
		}
		t.Add(row...)
	}
	return t
}

func valueCell(v fleet.Value) cli.Cell {
	if !v.Known() {
		return cli.Cell{Text: v.String(), Colour: cli.Faint}
	}
	return cli.Cell{Text: v.Short()}
}

func longTable(readings []fleet.Reading) *cli.Table {
	t := &cli.Table{Columns: cli.Columns("NODE", "REF", "VALUE", "INSTANCES", "AT", "SOURCE", "REASON")}
	for _, r := range readings {
		t.Add(string(r.Node), r.Ref, valueCell(r.Value), instances(r.Instances), clock(r.At), r.Source, r.Value.Why())
	}
	return t
}

// instances are the values behind a reading: "cpu0=54C cpu1=61C"; one alone
// says nothing new.
func instances(in []fleet.Instance) string {
	if len(in) < 2 {
		return ""
	}
	return strings.Join(mapped(in, func(i fleet.Instance) string { return i.Name + "=" + i.Value.Short() }), " ")
}

// footnotes say why values are unknown, a line per reason and the nodes and
// elements it is the reason of.
func footnotes(readings []fleet.Reading) []string {
	type gap struct{ nodes, why, ref string }
	var unknown []fleet.Reading
	for _, r := range readings {
		if !r.Value.Known() {
			unknown = append(unknown, r)
		}
	}
	var gaps []gap
	for _, g := range grouped(unknown, func(r fleet.Reading) [2]string { return [2]string{r.Ref, r.Value.Why()} }) {
		why := g[0].Value.Why()
		if why == "" {
			why = "no reason given"
		}
		gaps = append(gaps, gap{nodeList(mapped(g, func(r fleet.Reading) fleet.NodeName { return r.Node })), why, g[0].Ref})
	}
	var notes []string
	for _, g := range grouped(gaps, func(g gap) [2]string { return [2]string{g.nodes, g.why} }) {
		refs := slices.DeleteFunc(mapped(g, func(g gap) string { return g.ref }), func(ref string) bool { return ref == "" })
		switch len(refs) {
		case 0:
			notes = append(notes, g[0].nodes+": "+g[0].why)
		case 1:
			notes = append(notes, g[0].nodes+": "+refs[0]+" is unknown: "+g[0].why)
		default:
			notes = append(notes, g[0].nodes+": "+strings.Join(refs, ", ")+" are unknown: "+g[0].why)
		}
	}
	return notes
}

// values are readings in one line: "cpu.temp=95C power.watts=—".
func values(readings []fleet.Reading) string {
	return strings.Join(mapped(readings, func(r fleet.Reading) string { return r.Ref + "=" + r.Value.Short() }), " ")
}

// did is what a firing did, in one line.
func did(f fleet.Firing) string {
	if f.Held != "" {
		return "held: " + f.Held
	}
	s := strings.Join(mapped(f.Results, outcome), "; ")
	if f.Asked.Rack != "" {
		s += ", " + askedBy(f.Asked)
	}
	return s
}

// askedBy is who had a node's agent act.
func askedBy(a fleet.Asked) string {
	return fmt.Sprintf("asked by %s, where the rule fired on %s", a.Agent, a.Node)
}

// outcome is a result in one line: `(power off) on r01-u03: confirmed`.
func outcome(r fleet.Result) string {
	s := what(r)
	if r.Node != "" {
		s += " on " + string(r.Node)
	}
	if r.By != "" {
		s += " by " + r.By
	}
	s += ": " + string(r.Status)
	if d := detail(r); d != "" {
		s += " (" + d + ")"
	}
	return s
}
