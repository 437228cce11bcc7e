package ctl

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// manyResults is from where on equal results are one row.
const manyResults = 40

// printResults prints what a run did: readings as `chiba show` does, dumps as
// they are, everything else as a table, worst first in nothing but the node's
// name; many are grouped by what became of them.
func printResults(cmd *cobra.Command, results []fleet.Result) {
	var steps, reads []fleet.Result
	for _, r := range results {
		switch {
		case len(r.Readings) > 0 && strings.HasPrefix(r.Step, "(show"): // a wait has readings too
			reads = append(reads, r)
		case len(r.Body) > 0:
			fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(string(r.Node)+": "+r.Step))
			writeText(cmd, r.Body)
		default:
			steps = append(steps, r)
		}
	}
	if len(steps) > 0 {
		t := stepTable(steps)
		t.Print(cmd)
	}
	for _, step := range stepsOf(reads) {
		printReadings(cmd, readingsOf(step))
	}
}

// stepTable has a row per result, or per group of equal ones if they are many.
func stepTable(results []fleet.Result) *cli.Table {
	t := &cli.Table{}
	if len(results) <= manyResults {
		slices.SortStableFunc(results, func(a, b fleet.Result) int { return strings.Compare(string(a.Node), string(b.Node)) })
		t.Columns = cli.Columns("=NODE", "STEP", "=STATUS", "DETAIL", "+TOOK", "+ATTEMPTS")
		for _, r := range results {
			t.Add(string(r.Node), what(r), statusCell(r.Status), detail(r), r.Took.Round(time.Millisecond), r.Attempts)
		}
		return t
	}
	t.Columns = cli.Columns("COUNT", "STEP", "STATUS", "DETAIL", "NODES")
	for _, g := range grouped(results, func(r fleet.Result) [3]string { return [3]string{what(r), string(r.Status), detail(r)} }) {
		r := g[0]
		t.Add(strconv.Itoa(len(g)), what(r), statusCell(r.Status), detail(r),
			nodeList(mapped(g, func(r fleet.Result) fleet.NodeName { return r.Node })))
	}
	return t
}

// grouped puts what has the same key together, in the order of first sight.
func grouped[T any, K comparable](in []T, key func(T) K) [][]T {
	at := map[K]int{}
	var out [][]T
	for _, v := range in {
		k := key(v)
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], v)
	}
	return out
}

// stepsOf are the results of each step apart.
func stepsOf(results []fleet.Result) [][]fleet.Result {
	return grouped(results, func(r fleet.Result) string { return r.Step })
}

// nodeList names up to three nodes and counts the rest.
func nodeList(nodes []fleet.NodeName) string {
	names := mapped(nodes, func(n fleet.NodeName) string { return string(n) })
	slices.Sort(names)
	if len(names) > 4 {
		return strings.Join(names[:3], ", ") + " and " + strconv.Itoa(len(names)-3) + " more"
	}
	return strings.Join(names, ", ")
}

// what was done: the field of a configuration, else the command.
func what(r fleet.Result) string {
	if r.Path != "" {
		return r.Path
	}
	return r.Step
}

// detail is the change that was made, or why it was not.
func detail(r fleet.Result) string {
	switch {
	case r.Error != "":
		return without(r.Node, r.Error)
	case r.Path == "" && r.After == "":
		return values(r.Readings)
	case r.Path == "" && strings.HasPrefix(r.Step, "(update-firmware") && !strings.HasPrefix(r.After, r.Before):
		return arrow(r.Before, r.After)
	case r.Path == "": // a rule or a command: there was nothing before it
		return r.After
	case r.Before != "" || r.After != "":
		return arrow(r.Before, r.After)
	}
	return ""
}

// without is what is said of a node where its name stands beside it.
func without(node fleet.NodeName, text string) string {
	return strings.TrimPrefix(text, string(node)+": ")
}

func arrow(before, after string) string {
	if before == "" {
		before = "—"
	}
	if before == after {
		return after
	}
	return before + " -> " + after
}

func statusCell(s fleet.Status) cli.Cell {
	c := cli.Cell{Text: string(s)}
	switch s {
	case fleet.Confirmed, fleet.Unchanged:
		c.Colour = cli.Good
	case fleet.Attempted, fleet.Skipped:
		c.Colour = cli.Warn
	case fleet.Failed, fleet.Unknown, fleet.NotProvided:
		c.Colour = cli.Bad
	}
	return c
}

func runCell(s client.RunState) cli.Cell {
	c := cli.Cell{Text: string(s)}
	switch s {
	case client.Done:
		c.Colour = cli.Good
	case client.PartlyFailed, client.Canceled:
		c.Colour = cli.Warn
	case client.Failed:
		c.Colour = cli.Bad
	case client.Running:
	}
	return c
}

// runStateCell is the state of a run; one in waves that a person must have go on says
// so.
func runStateCell(r client.Run) cli.Cell {
	if !r.State.Ended() && r.Rollout.Waits() {
		return cli.Cell{Text: r.Rollout.State, Colour: cli.Warn}
	}
	return runCell(r.State)
}

// printRacks prints a table of the racks of a run.
func printRacks(cmd *cobra.Command, r client.Run) {
	t := cli.Table{Columns: cli.Columns("RACK", "STATE", "NODES", "OK", "FAILED", "ERROR")}
	for _, k := range r.Racks {
		t.Add(string(k.Rack), k.State, k.Nodes, k.OK, k.Failed, k.Error)
	}
	if len(t.Rows) > 0 {
		t.Print(cmd)
	}
}

// describeRun is a run in one line: "R7 of thermal: done, 8 nodes in 4s".
func describeRun(r client.Run) string {
	s := string(r.ID)
	if r.Script != "" {
		s += " of " + string(r.Script)
	}
	nodes, failed := totals(r)
	s += ": " + string(r.State) + ", " + cli.Count(nodes, "node")
	if failed > 0 {
		s += ", " + strconv.Itoa(failed) + " failed"
	}
	if t := took(r); t != "" {
		s += " in " + t
	}
	return s
}

// tally counts the results by status: "12 confirmed, 3 unchanged".
func tally(results []fleet.Result) string {
	order := []fleet.Status{
		fleet.Confirmed, fleet.Attempted, fleet.Unchanged, fleet.Failed, fleet.Unknown, fleet.NotProvided, fleet.Skipped,
	}
	n := map[fleet.Status]int{}
	for _, r := range results {
		n[r.Status]++
	}
	var parts []string
	for _, s := range order {
		if n[s] > 0 {
			parts = append(parts, strconv.Itoa(n[s])+" "+string(s))
		}
	}
	return strings.Join(parts, ", ")
}

func totals(r client.Run) (nodes, failed int) {
	for _, k := range r.Racks {
		nodes, failed = nodes+k.Nodes, failed+k.Failed
	}
	return nodes, failed
}

func took(r client.Run) string {
	if r.Ended.IsZero() || r.Started.IsZero() {
		return ""
	}
	d := r.Ended.Sub(r.Started)
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// writeText writes a text that others made. A terminal gets it line by line
// without what could drive it; a file gets every byte.
func writeText(cmd *cobra.Command, text []byte) {
	w := cmd.OutOrStdout()
	if !cli.ScreenOf(w).Terminal {
		_, _ = w.Write(text)
		if !bytes.HasSuffix(text, []byte("\n")) {
			fmt.Fprintln(w)
		}
		return
	}
	for line := range strings.Lines(string(text)) {
		fmt.Fprintln(w, cli.Clean(line))
	}
}
