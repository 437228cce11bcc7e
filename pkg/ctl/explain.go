package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func trustExplain() *cobra.Command {
	return &cobra.Command{
		Use:   "explain TARGET",
		Short: "tell how far a node's BMC is believed, why, and what is missing",
		Long: `Tell how far a node's BMC is believed and what for, as its agent sees it now:
who observed what and when, what holds it down, what is missing for the next level
and what to do about it, and what it may be used for.

  TX  quarantined  something bad is known of it: nothing is sent to it
  T0  seen         it was not heard of lately, or never
  T1  exchanged    its key is known; no password is ever sent
  T2  admitted     the catalogue or a person lets it in: reading, take-over
  T3  identified   its key is vouched for, nothing weak is left: everything
  T4  attested     what it runs was measured; nothing measures it yet

What a site demands beyond that stands in (trust-policy …) of its scripts.`,
		Example:           "  chiba trust explain r01-u04\n  chiba trust explain 'r01-*' -o json",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := command(cmd, "dump", []string{"trust", target(args[0])})
			if err != nil {
				return err
			}
			return with(cmd, func(c *client.Client) error { return explain(cmd, c, src) })
		},
	}
}

func explain(cmd *cobra.Command, c *client.Client, src client.Source) error {
	a, err := gather(cmd, c.Show(cmd.Context(), src), nil)
	if err != nil {
		return sent(cmd, err)
	}
	all := []fleet.TrustExplanation{}
	for i, r := range a.results {
		if !r.Status.OK() {
			continue
		}
		var x fleet.TrustExplanation
		if err := json.Unmarshal(r.Body, &x); err != nil {
			a.results[i].Status, a.results[i].Kind, a.results[i].Error = fleet.Failed, string(fault.Garbage), "its agent's explanation can't be read: "+err.Error()
			continue
		}
		all = append(all, x)
	}
	if err := printExplanations(cmd, all); err != nil {
		return err
	}
	for _, r := range a.results {
		if !r.Status.OK() {
			cli.Note(cmd, "%s: %s", r.Node, without(r.Node, r.Error))
		}
	}
	a.printTrouble(cmd, "only its agent knows")
	return a.end(a.results)
}

func printExplanations(cmd *cobra.Command, all []fleet.TrustExplanation) error {
	format, err := cli.OutputOf(cmd)
	switch {
	case err != nil:
		return err
	case format.Machine():
		return cli.Encode(cmd.OutOrStdout(), format, all)
	case format == cli.NameFormat:
		return cli.BadFormat(format, cli.TableFormat, cli.WideFormat, cli.JSONFormat, cli.YAMLFormat)
	}
	for i, x := range all {
		if i > 0 {
			fmt.Fprintln(cmd.OutOrStdout())
		}
		printExplanation(cmd, x, format == cli.WideFormat)
	}
	return nil
}

// printExplanation writes an explanation; wide also the facts that did not count.
func printExplanation(cmd *cobra.Command, x fleet.TrustExplanation, wide bool) {
	w := cmd.OutOrStdout()
	since := ""
	if !x.Since.IsZero() {
		since = ", for " + ago(x.Since)
	}
	say(w, "%s is %s, %s%s; its key is %s", x.Node, x.Level, x.Word, since, x.Key)
	if len(x.Has) > 0 {
		t := cli.Table{Columns: cli.Columns("=BECAUSE", "FROM", "SEEN")}
		for _, r := range x.Has {
			t.Add(r.What, r.From, seen(r.At))
		}
		t.Print(cmd)
	}
	if wide {
		t := cli.Table{Columns: cli.Columns("=FACT", "=IS", "FROM", "SEEN")}
		for _, f := range x.Facts {
			t.Add(f.Name, f.Is, f.From, seen(f.At))
		}
		t.Print(cmd)
	}
	for _, l := range x.Lacks {
		what := "missing"
		if len(x.Bad) > 0 {
			what = "bad"
		}
		say(w, "%s: %s", what, l.What)
		say(w, "  do: %s", l.Do)
	}
	printDeeds(w, x.Deeds)
}

// seen is how long ago a fact was seen.
func seen(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return ago(at) + " ago"
}

func printDeeds(w io.Writer, deeds []fleet.TrustDeed) {
	var may, not []string
	for _, d := range deeds {
		if d.May {
			may = append(may, d.Deed)
		} else {
			not = append(not, d.Deed+" ("+d.Needs+")")
		}
	}
	if len(may) > 0 {
		say(w, "may be used for: %s", strings.Join(may, ", "))
	}
	if len(not) > 0 {
		say(w, "not for: %s", strings.Join(not, ", "))
	}
}

func say(w io.Writer, format string, args ...any) {
	fmt.Fprintln(w, cli.Clean(fmt.Sprintf(format, args...)))
}
