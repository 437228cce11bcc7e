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
)

func rolloutCommand() *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use:     "rollout",
		GroupID: cli.GroupChange,
		Short:   "steer a run in waves: pause, resume, approve, retry",
		Long: `Steer a run in waves, which a script with (rollout …) makes: a few nodes first, and
the others only as long as it goes well. It pauses by itself when too many nodes
fail. See how far it is with: chiba get run ID. Stop it with: chiba cancel run ID.`,
		Example: "  chiba rollout pause R7\n  chiba rollout resume R7\n  chiba rollout retry R7",
	})
	cmd.AddCommand(
		steerCommand(client.Pause, "begin no further wave; nodes at work go on", ""),
		steerCommand(client.Resume, "go on after a pause", `Go on after a pause. The nodes that have failed so far are taken note of; it
pauses again when as many more fail as its script allows.`),
		steerCommand(client.Approve, "let the first wave of a run begin that waits for approval", ""),
		retryCommand(),
	)
	return cmd
}

func steerCommand(act, short, long string) *cobra.Command {
	return &cobra.Command{
		Use:               act + " ID",
		Short:             short,
		Long:              long,
		Example:           "  chiba rollout " + act + " R7",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeRuns,
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				r, err := c.SteerRun(cmd.Context(), fleet.RunID(args[0]), act)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(string(r.ID)+": "+describeRollout(r.Rollout, time.Now())))
				return nil
			})
		},
	}
}

func retryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retry ID",
		Short: "do a run again on the nodes that failed in it",
		Long: `Do a run again on the nodes that failed in it, that were skipped, or whose rack was
cut off in their wave and not waited for: a new run of the same script, signed by
you, which touches no other node. It is for any run, in waves or not.`,
		Example:           "  chiba rollout retry R7\n  chiba rollout retry R7 --yes",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeRuns,
	}
	var f applyFlags
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "don't ask")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "how long the run may take (default 1h, in waves 24h)")
	addKeyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return with(cmd, func(c *client.Client) error { return retry(cmd, c, fleet.RunID(args[0]), f) })
	}
	return cmd
}

// retry does a run again where it failed.
func retry(cmd *cobra.Command, c *client.Client, id fleet.RunID, f applyFlags) error {
	r, results, err := c.Run(cmd.Context(), id)
	if err != nil {
		return err
	}
	op := "do " + string(id) + " again"
	if !r.State.Ended() {
		return fault.New(fault.Conflict, op, "it has not ended").WithHint("wait for it, or stop it: chiba cancel run " + string(id))
	}
	failed := slices.Concat(failedIn(results), r.Rollout.Lost())
	slices.Sort(failed)
	failed = slices.Compact(failed)
	if len(failed) == 0 {
		return fault.New(fault.NotFound, op, "no node failed in it").WithHint("see: chiba get run " + string(id))
	}
	said := fmt.Sprintf("%s again on %s: %s", r.Script, cli.Count(len(failed), "node"), nodeList(failed))
	switch {
	case f.yes:
		fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(said))
	case !cli.Asks(cmd):
		return cli.UsageError("it needs your consent: "+said, "add --yes")
	case !cli.Ask(cmd, cli.Clean(said)+"\ndo it?"):
		return &cli.Exit{Code: cli.Fail, Err: fault.New(fault.Canceled, "", "nothing was done")}
	}
	a, err := c.Apply(cmd.Context(), client.Source{File: r.File, Text: r.Source}, client.ApplyOptions{Name: string(r.Script), Timeout: f.timeout, Only: failed})
	if err != nil {
		return sent(cmd, err)
	}
	run := follower{cmd: cmd, client: c, id: a.Run.ID, patience: a.CutOff, halts: true}
	run.retry.reset()
	o, err := run.follow()
	if err != nil {
		return err
	}
	o.print(cmd)
	return o.err()
}

// failedIn are the nodes of which not every step succeeded, in order.
func failedIn(results []fleet.Result) (nodes []fleet.NodeName) {
	for _, r := range results {
		if !r.Status.OK() {
			nodes = append(nodes, r.Node)
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// waveBar is the bar of the whole run, above those of its racks.
const waveBar = "waves"

// waveNote is what its bar says besides the numbers.
func waveNote(r *client.Rollout) string {
	if r.State != client.Rolling {
		return strings.TrimSuffix(r.State+": "+r.Reason, ": ")
	}
	notes := []string{"wave " + strconv.Itoa(r.Waves)}
	for _, c := range r.CutOff {
		if !c.Since.IsZero() {
			notes = append(notes, "rack "+string(c.Rack)+" is cut off")
		}
	}
	return strings.Join(notes, ", ")
}

// describeRollout is how far a run in waves is, in one line: "wave 2, 12 of 40
// nodes ended, 1 failed, paused: by ada".
func describeRollout(r *client.Rollout, now time.Time) string {
	parts := []string{fmt.Sprintf("wave %d, %d of %s ended", r.Waves, r.Ended, cli.Count(r.Nodes, "node"))}
	if r.Failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", r.Failed))
	}
	switch {
	case r.State == client.Paused:
		parts = append(parts, "paused: "+r.Reason)
	case r.State != client.Rolling:
		parts = append(parts, r.State)
	case r.Next.After(now):
		parts = append(parts, "the next in "+r.Next.Sub(now).Round(time.Second).String())
	}
	return strings.Join(append(parts, describeCuts(r, now)...), ", ")
}

// describeCuts says of each rack that is cut off how long it has been, and how many of
// its nodes count as failed because of it.
func describeCuts(r *client.Rollout, now time.Time) (parts []string) {
	for _, c := range r.CutOff {
		part := "rack " + string(c.Rack) + " was cut off"
		if !c.Since.IsZero() {
			part = "rack " + string(c.Rack) + " has been cut off for " + now.Sub(c.Since).Round(time.Second).String()
		}
		if len(c.Lost) > 0 {
			part += ": " + cli.Count(len(c.Lost), "node") + " not waited for"
		}
		parts = append(parts, part)
	}
	return parts
}

// wavesOf says in which waves a script is carried out: "in waves: 2 nodes first, then
// 10% at a time".
func wavesOf(r *scl.Rollout) string {
	var parts []string
	if r.Canary > 0 {
		parts = append(parts, cli.Count(r.Canary, "node")+" first")
	}
	if r.Wave != (scl.Share{}) {
		parts = append(parts, "then "+r.Wave.String()+" at a time")
	} else {
		parts = append(parts, "then the others")
	}
	if r.Parallel > 0 {
		parts = append(parts, strconv.Itoa(r.Parallel)+" at once in a rack")
	}
	if r.Pause > 0 {
		parts = append(parts, r.Pause.String()+" between two waves")
	}
	if r.MaxFailures == (scl.Share{}) {
		parts = append(parts, "pauses when one fails")
	} else {
		parts = append(parts, "pauses when more than "+r.MaxFailures.String()+" fail")
	}
	if r.Approve != "" {
		parts = append(parts, "begins when "+r.Approve+" approve")
	}
	return "in waves: " + strings.TrimPrefix(strings.Join(parts, ", "), "then ")
}

// waits is the error of a run in waves that a person has to have go on.
func (r *ran) waits() error {
	ro, id := r.run.Rollout, string(r.run.ID)
	hint := "look at it: chiba get run " + id + "; go on: chiba rollout resume " + id + "; stop: chiba cancel run " + id
	text := "is paused: " + ro.Reason
	if ro.State == client.ForApproval {
		text = "waits for " + ro.Approve
		hint = "let it begin: chiba rollout approve " + id + "; stop: chiba cancel run " + id
	}
	return &cli.Exit{Code: cli.Partly, Err: fault.New(fault.Unavailable, "", id+" "+text).WithHint(hint)}
}
