package ctl

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

func planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "plan FILE…",
		GroupID: cli.GroupSee,
		Short:   "show what a script would change, and change nothing",
		Example: "  chiba plan rack.scl\n  chiba plan -o json rack.scl\n  generate | chiba plan -",
		Args:    cli.Args(1, -1),

		ValidArgsFunction: completeFiles,
	}
	allowEmpty := cmd.Flags().Bool("allow-empty", false, "no error if a target matches no node")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		scripts, err := readScripts(cmd, args)
		if err != nil {
			return err
		}
		return with(cmd, func(c *client.Client) error {
			plans, err := makePlans(cmd, c, scripts, *allowEmpty)
			if err != nil {
				return err
			}
			return showPlans(cmd, plans)
		})
	}
	return cmd
}

// script is a file that passed the local check.
type script struct {
	name     string // if it is not to be the file's
	source   client.Source
	program  *scl.Program
	warnings string         // already printed
	signed   *client.Signed // nil: it is signed when it is applied
}

// planName is the name under which it would be applied. What has none yet is
// compared all the same.
func (s script) planName() string {
	if s.name == "" && (s.source.File == stdinName || s.source.File == arguments) {
		return "plan"
	}
	return s.name
}

// plan is what a script would do.
type plan struct {
	script
	answers *answers
}

func makePlans(cmd *cobra.Command, c *client.Client, scripts []script, allowEmpty bool) ([]plan, error) {
	plans := make([]plan, len(scripts))
	for i, s := range scripts {
		s.source.AllowEmpty = allowEmpty
		a, err := gather(cmd, c.Plan(cmd.Context(), s.source, s.planName()), nil)
		if err != nil && c.Several() && fault.Is(err, fault.Unavailable) { // lost in the middle: another one knows as much
			a, err = gather(cmd, c.Plan(cmd.Context(), s.source, s.planName()), nil)
		}
		if err != nil {
			return nil, sent(cmd, err)
		}
		plans[i] = plan{s, a}
	}
	return plans, nil
}

// showPlans prints the plans and ends with the worst of them.
func showPlans(cmd *cobra.Command, plans []plan) error {
	format, err := cli.OutputOf(cmd)
	if err != nil {
		return err
	}
	switch {
	case format.Machine():
		if err := cli.Encode(cmd.OutOrStdout(), format, mapped(plans, plan.view)); err != nil {
			return err
		}
	case format == cli.NameFormat:
		return cli.BadFormat(format, cli.TableFormat, cli.JSONFormat, cli.YAMLFormat)
	default:
		for _, p := range plans {
			p.print(cmd.OutOrStdout())
		}
	}
	for _, p := range plans {
		if err := p.trouble(); err != nil {
			return err
		}
	}
	return nil
}

// trouble is what made a plan incomplete. A rack that is cut off did not: it
// gets its part of the script when it is back.
func (p plan) trouble() error {
	a := *p.answers
	a.cutOff = nil
	if err := a.end(a.results); err != nil {
		return &cli.Exit{Code: failCode(len(a.changes) > 0 || len(a.results) > 0), Err: err}
	}
	return nil
}

// print writes p for a person: equal changes of many nodes once.
func (p plan) print(w io.Writer) {
	say := func(format string, args ...any) { fmt.Fprintln(w, cli.Clean(fmt.Sprintf(format, args...))) }
	say("%s", p.source.File)
	for _, g := range p.groups() {
		say("  %s", nodeList(g.nodes))
		for _, l := range g.lines {
			say("    %s", l)
		}
	}
	for _, r := range p.answers.results {
		if !r.Status.OK() {
			say("  %s: %s", r.Node, without(r.Node, r.Error))
		}
	}
	if r := p.program.Rollout; r != nil {
		say("  %s", wavesOf(r))
	}
	for _, g := range p.program.Groups {
		say("  group %s: %s", g.Name, g.Members.Text)
	}
	for _, s := range p.program.Steps {
		if len(s.Action) == 0 { // an action is a change of each of its nodes
			say("  once: %s", s.Text)
		}
	}
	for _, r := range p.answers.cutOff {
		say("  %s is cut off now: it gets its part when it is back", r)
	}
	for _, e := range p.answers.errs {
		say("  %s: %s", e.rack, e.err)
	}
	say("%s", p.summary())
}

// changeGroup is nodes that change in the same way.
type changeGroup struct {
	nodes []fleet.NodeName
	lines []string
}

func (p plan) groups() []changeGroup {
	var nodes []changeGroup
	for _, g := range grouped(p.answers.changes, func(c fleet.Change) fleet.NodeName { return c.Node }) {
		var lines []string
		for _, c := range g {
			if c.Verdict != fleet.Same {
				lines = append(lines, changeLine(c))
			}
		}
		if len(lines) > 0 {
			nodes = append(nodes, changeGroup{nodes: []fleet.NodeName{g[0].Node}, lines: lines})
		}
	}
	var out []changeGroup
	for _, g := range grouped(nodes, func(g changeGroup) string { return strings.Join(g.lines, "\n") }) {
		all := changeGroup{lines: g[0].lines}
		for _, one := range g {
			all.nodes = append(all.nodes, one.nodes...)
		}
		out = append(out, all)
	}
	return out
}

func changeLine(c fleet.Change) string {
	note := ""
	if c.Note != "" {
		note = " (" + without(c.Node, c.Note) + ")"
	}
	switch c.Verdict {
	case fleet.Unsupported:
		return c.Path + ": not supported by this BMC" + note
	case fleet.Unreadable:
		return c.Path + ": can't be compared" + note
	case fleet.Barred:
		if c.Before == "" {
			return c.Path + ": " + c.After + ": will be refused" + note
		}
		return c.Path + ": " + arrow(c.Before, c.After) + ": will be refused" + note
	case fleet.Differs, fleet.Same:
	}
	if c.Before == "" && (c.Path == "action" || strings.HasPrefix(c.Path, "rule ")) {
		return c.Path + ": " + c.After + note // there is nothing it replaces
	}
	return c.Path + ": " + arrow(c.Before, c.After) + note
}

// summary is p in one line.
func (p plan) summary() string {
	n := map[fleet.Verdict]int{}
	touched := map[fleet.NodeName]bool{}
	for _, c := range p.answers.changes {
		n[c.Verdict]++
		if c.Verdict == fleet.Differs {
			touched[c.Node] = true
		}
	}
	var parts []string
	if n[fleet.Differs] > 0 {
		parts = append(parts, cli.Count(n[fleet.Differs], "change")+" on "+cli.Count(len(touched), "node"))
	}
	if k := n[fleet.Unsupported]; k > 0 {
		parts = append(parts, cli.Count(k, "field")+" not supported")
	}
	if k := n[fleet.Unreadable]; k > 0 {
		parts = append(parts, cli.Count(k, "field")+" not comparable")
	}
	if k := n[fleet.Barred]; k > 0 {
		parts = append(parts, cli.Count(k, "change")+" refused")
	}
	reading := 0
	for _, s := range p.program.Steps {
		if len(s.Action) == 0 {
			reading++
		}
	}
	if reading > 0 {
		parts = append(parts, cli.Count(reading, "step")+" to run once")
	}
	switch {
	case len(parts) > 0:
	case len(p.answers.cutOff) > 0 && p.answers.nodes == 0:
		return "nothing could be compared now"
	default:
		return "no change"
	}
	return strings.Join(parts, ", ")
}

// risks says in words what in p could hurt a server that works: it is asked
// about, and not done unasked where nobody can answer.
func (p plan) risks() []string {
	var out []string
	for _, s := range p.program.Steps {
		for _, c := range s.Action {
			if risky(c) {
				out = append(out, c.Text+" on "+s.Target.Text)
			}
		}
	}
	for _, c := range p.answers.changes {
		if c.Verdict != fleet.Same && c.Path == string(scl.Power)+".state" && c.After == "off" {
			out = append(out, string(c.Node)+" "+changeLine(c))
		}
	}
	return out
}

func risky(c scl.Command) bool {
	switch c.Verb {
	case scl.DoLog, scl.DoWait, scl.DoIndicator:
		return false
	case scl.DoSequence:
		return slices.ContainsFunc(c.Commands, risky)
	case scl.DoPower, scl.DoReboot, scl.DoBoot, scl.DoClearLog, scl.DoBMCReset, scl.DoStartImage, scl.DoFirmware,
		scl.DoTakeOver, scl.DoRelease, scl.DoAccept, scl.DoRekey, scl.DoRekeyAbort, scl.DoAdmit, scl.DoRefuse, scl.DoForget:
	}
	return true
}

// reads reports whether p's script does nothing but read.
func (p plan) reads() bool {
	if p.program.Standing() {
		return false
	}
	for _, s := range p.program.Steps {
		if len(s.Action) > 0 {
			return false
		}
	}
	return true
}

type planView struct {
	File    string           `json:"file"`
	Nodes   int              `json:"nodes"`
	Changes []changeView     `json:"changes"`
	Rules   []ruleView       `json:"rules"`
	Steps   []string         `json:"steps"`
	Failed  []resultView     `json:"failed,omitempty"`
	CutOff  []fleet.RackName `json:"cut_off,omitempty"`
	Errors  []errorView      `json:"errors,omitempty"`
}

type ruleView struct {
	Name      string   `json:"name"`
	Target    string   `json:"target"`
	Condition string   `json:"condition"`
	On        string   `json:"on,omitempty"` // the nodes that the commands are done on, if the rule names them
	Commands  []string `json:"commands"`
}

func (p plan) view() planView {
	v := planView{
		File: p.source.File, Nodes: p.answers.nodes, CutOff: p.answers.cutOff,
		Changes: []changeView{},
		Rules: mapped(p.program.Monitors, func(m scl.Monitor) ruleView {
			return ruleView{m.Name, m.Target.Text, m.Condition.Text, m.On.Text, mapped(m.Commands, func(c scl.Command) string { return c.Text })}
		}),
		Steps:  mapped(p.program.Steps, func(s scl.Step) string { return s.Text }),
		Errors: mapped(p.answers.errs, func(e rackError) errorView { return viewError(e.rack, e.err) }),
	}
	for _, c := range p.answers.changes {
		if c.Verdict != fleet.Same {
			v.Changes = append(v.Changes, changeView(c))
		}
	}
	for _, r := range p.answers.results {
		if !r.Status.OK() {
			v.Failed = append(v.Failed, viewResult(r))
		}
	}
	return v
}
