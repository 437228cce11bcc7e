package ctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func watchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "watch",
		GroupID: cli.GroupSee,
		Short:   "tell what happens in the fleet as it happens, or how far a run is",
		Long: `Tell what happens in the fleet as it happens: rules that fire, with the values
that made them true and what they did; hardware that was added, removed or
changed; nodes, agents, scripts and runs that change. -o json has one JSON object
per line. Ctrl-C ends it.`,
		Example: "  chiba watch\n  chiba watch --past -o json\n  chiba watch run R7",
	}
	cli.Parent(cmd)
	unknown := cmd.RunE
	past := cmd.Flags().Bool("past", false, "begin with the last firings")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknown(cmd, args)
		}
		return with(cmd, func(c *client.Client) error { return watch(cmd, c, *past) })
	}
	cmd.AddCommand(watchRun())
	return cmd
}

func watchRun() *cobra.Command {
	return &cobra.Command{
		Use:               "run ID",
		Short:             "watch a run until it has ended",
		Long:              "Watch a run until it has ended. It exits as apply does; Ctrl-C stops the watching, not the run.",
		Example:           "  chiba watch run R7",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeRuns,
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := cli.OutputOf(cmd)
			if err != nil {
				return err
			}
			return with(cmd, func(c *client.Client) error {
				f := follower{cmd: cmd, client: c, id: fleet.RunID(args[0]), quiet: format.Machine()}
				r, err := f.follow()
				if err != nil {
					return err
				}
				if !format.Machine() {
					r.print(cmd)
					return r.err()
				}
				v := viewRun(r.run)
				v.Results = mapped(r.results, viewResult)
				if err := cli.Encode(cmd.OutOrStdout(), format, v); err != nil {
					return err
				}
				return r.err()
			})
		},
	}
}

// watch prints events until Ctrl-C. It always asks for the latest firings and
// leaves out those it knows, so that none is lost with the coordinator.
func watch(cmd *cobra.Command, c *client.Client, past bool) error {
	format, err := cli.OutputOf(cmd)
	if err != nil {
		return err
	}
	if format != cli.TableFormat && format != cli.WideFormat && format != cli.JSONFormat {
		return cli.BadFormat(format, cli.TableFormat, cli.JSONFormat)
	}
	ctx := cmd.Context()
	known := recent{}
	if !past {
		firings, err := c.Firings(ctx)
		if err != nil {
			return err
		}
		for i := range firings {
			known.add(&firings[i])
		}
	}
	retry := retries{}
	for {
		lost := watchOnce(ctx, c, func(e *client.Event) error {
			retry.reset()
			if e.Firing != nil && !known.add(e.Firing) {
				return nil
			}
			if format == cli.JSONFormat {
				return cli.Line(cmd.OutOrStdout(), viewEvent(e))
			}
			printEvent(cmd, e)
			return nil
		})
		again := retry.again(ctx, lost)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // Ctrl-C is how it ends
		case !again:
			return lost
		}
		cli.Note(cmd, "%s; trying again", lost)
	}
}

// watchOnce watches until the stream ends, and says why it did.
func watchOnce(ctx context.Context, c *client.Client, each func(*client.Event) error) error {
	for e, err := range c.Watch(ctx, true) {
		if err != nil {
			return err
		}
		if err := each(e); err != nil {
			return err
		}
	}
	return fault.New(fault.Unavailable, "watch", "the coordinator stopped telling")
}

// recent remembers the firings that a coordinator may tell twice.
type recent struct {
	seen  map[firingKey]bool
	order []firingKey
}

type firingKey struct {
	script fleet.ScriptName
	rule   string
	node   fleet.NodeName
	at     int64
}

// remembered is more than a coordinator tells of the past.
const remembered = 10_000

// add reports whether f is new.
func (r *recent) add(f *fleet.Firing) bool {
	k := firingKey{f.Script, f.Rule, f.Node, f.At.UnixMilli()}
	if r.seen[k] {
		return false
	}
	if r.seen == nil {
		r.seen = map[firingKey]bool{}
	}
	r.seen[k] = true
	r.order = append(r.order, k)
	if len(r.order) > remembered {
		delete(r.seen, r.order[0])
		r.order = r.order[1:]
	}
	return true
}

type eventView struct {
	At            time.Time        `json:"at"`
	Kind          string           `json:"kind"`
	Firing        *firingView      `json:"firing,omitempty"`
	Node          *nodeView        `json:"node,omitempty"`
	Run           *runView         `json:"run,omitempty"`
	Script        *scriptView      `json:"script,omitempty"`
	RemovedScript fleet.ScriptName `json:"removed_script,omitempty"`
	Agent         *agentView       `json:"agent,omitempty"`
	Hardware      *hardwareView    `json:"hardware,omitempty"`
	OnRack        *onRackView      `json:"on_rack,omitempty"`
}

func viewEvent(e *client.Event) eventView {
	v := eventView{At: e.At}
	switch {
	case e.Firing != nil:
		f := viewFiring(*e.Firing)
		v.Kind, v.Firing = "firing", &f
	case e.Node != nil:
		n := viewNode(*e.Node)
		v.Kind, v.Node = "node", &n
	case e.Run != nil:
		r := viewRun(*e.Run)
		v.Kind, v.Run = "run", &r
	case e.Script != nil:
		s := viewScript(*e.Script)
		v.Kind, v.Script = "script", &s
	case e.Agent != nil:
		a := viewAgent(*e.Agent)
		v.Kind, v.Agent = "agent", &a
	case e.Hardware != nil:
		h := viewHardware(*e.Hardware)
		v.Kind, v.Hardware = "hardware", &h
	case e.Local != nil:
		v.Kind, v.OnRack = "on-rack", viewOnRack(e.Local)
	default:
		v.Kind, v.RemovedScript = "removed-script", e.RemovedScript
	}
	return v
}

// printEvent prints a line, and for a firing one more for each thing it did.
func printEvent(cmd *cobra.Command, e *client.Event) {
	w := cmd.OutOrStdout()
	screen := cli.ScreenOf(w)
	say := func(c cli.Colour, format string, args ...any) {
		line := cli.Clean(fmt.Sprintf(format, args...))
		fmt.Fprintln(w, clock(e.At)+"  "+screen.Paint(c, line))
	}
	switch {
	case e.Firing != nil:
		f := e.Firing
		if f.Asked.Rack != "" {
			say(cli.Warn, "%s: %s/%s%s, %s", f.Node, f.Script, f.Rule, late(e), askedBy(f.Asked))
		} else {
			say(cli.Warn, "%s: %s/%s fired%s: %s makes %s true", f.Node, f.Script, f.Rule, late(e), values(f.Readings), f.Condition)
		}
		if f.Held != "" {
			say(cli.Faint, "  held: %s", f.Held)
		}
		for _, r := range f.Results {
			say(statusCell(r.Status).Colour, "  did %s", outcome(r))
		}
	case e.Node != nil:
		n := e.Node
		line := fmt.Sprintf("%s: %s", n.Name, n.State)
		if n.Reason != "" {
			line += " (" + without(n.Name, n.Reason) + ")"
		}
		if n.Power != "" {
			line += ", power " + n.Power
		}
		if n.Health != "" {
			line += ", health " + n.Health
		}
		if n.Trust.Wanted && n.Trust.Takeover != fleet.TakeoverNone {
			line += ", take-over " + string(n.Trust.Takeover)
		}
		say(stateCell(*n).Colour, "%s", line)
	case e.Run != nil:
		say(runCell(e.Run.State).Colour, "%s", describeRun(*e.Run))
	case e.Script != nil:
		say(cli.Plain, "%s is in force, revision %d", e.Script.Name, e.Script.Revision)
	case e.Agent != nil && e.Agent.Connected:
		say(cli.Good, "%s: agent %s connected", e.Agent.Rack, e.Agent.Name)
	case e.Agent != nil:
		say(cli.Bad, "%s: agent %s is cut off", e.Agent.Rack, e.Agent.Name)
	case e.Hardware != nil:
		for _, c := range e.Hardware.Changes {
			say(cli.Warn, "%s: %s", e.Hardware.Node, hardwareLine(c))
		}
		if more := e.Hardware.More; more > 0 {
			say(cli.Warn, "%s: and %s more: chiba get inventory %s", e.Hardware.Node, cli.Count(more, "change"), e.Hardware.Node)
		}
	case e.Local != nil:
		colour := cli.Plain
		if e.Local.Superseded {
			colour = cli.Warn
		}
		say(colour, "%s", onRack(e.Local))
	default:
		say(cli.Plain, "%s is no longer in force", e.RemovedScript)
	}
}

// late says when a rule fired of which we hear only now.
func late(e *client.Event) string {
	s := ""
	if clock(e.Firing.At) != clock(e.At) {
		s = " at " + stamp(e.Firing.At)
	}
	if e.Firing.CutOff {
		s += " while cut off"
	}
	return s
}
