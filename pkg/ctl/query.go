package ctl

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// answers is what the racks replied to a plan or a show.
type answers struct {
	cutOff  []fleet.RackName
	nodes   int // that answered or were tried
	changes []fleet.Change
	results []fleet.Result
	errs    []rackError
}

type rackError struct {
	rack fleet.RackName
	err  error
}

// gather reads replies to their end. Each result goes to take, or is kept if
// take is nil. On a terminal a live line per rack shows how far it is.
func gather(cmd *cobra.Command, replies iter.Seq2[*client.Reply, error], take func(fleet.Result) error) (*answers, error) {
	a := &answers{}
	bars := newRackBars(cmd)
	defer bars.clear()
	for r, err := range replies {
		if err != nil {
			return a, err
		}
		bars.reply(r)
		switch {
		case r.Racks != nil:
			a.cutOff = r.Racks.CutOff
		case r.Started != nil:
			a.nodes += r.Started.Nodes
		case r.Change != nil:
			a.changes = append(a.changes, *r.Change)
		case r.Result != nil:
			if take == nil {
				a.results = append(a.results, *r.Result)
			} else if err := take(*r.Result); err != nil {
				return a, err
			}
		case r.Ended != nil && r.Ended.Err != nil:
			a.errs = append(a.errs, rackError{r.Rack, r.Ended.Err})
		}
	}
	slices.SortStableFunc(a.results, func(x, y fleet.Result) int { return cmpNames(x.Node, y.Node) })
	slices.SortStableFunc(a.changes, func(x, y fleet.Change) int { return cmpNames(x.Node, y.Node) })
	return a, nil
}

func cmpNames(a, b fleet.NodeName) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// end is what a reading command ends with: nil if everybody answered, else an
// error with the exit code for all or for a part.
func (a *answers) end(results []fleet.Result) error {
	var first error
	failed := map[fleet.NodeName]bool{}
	ok := 0
	for _, r := range results {
		if r.Status.OK() {
			ok++
			continue
		}
		failed[r.Node] = true
		if first == nil {
			first = &fault.Error{Kind: fault.Kind(r.Kind), Node: r.Node, Err: errors.New(r.Error), Hint: r.Hint}
		}
	}
	missing := len(a.errs) + len(a.cutOff)
	if len(failed) == 0 && missing == 0 {
		return nil
	}
	if first == nil && len(a.errs) > 0 {
		first = a.errs[0].err
	}
	msg := "no answer from " + cli.Count(len(failed), "node")
	switch {
	case len(failed) == 0:
		msg = "no answer from " + cli.Count(missing, "rack")
	case missing > 0:
		msg += " and " + cli.Count(missing, "rack")
	}
	f := &fault.Error{Kind: fault.Unavailable, Err: errors.New(msg), Hint: fault.HintOf(first)}
	if f.Hint == "" && len(a.cutOff) > 0 {
		f.Hint = "see who is connected: chiba get agents"
	}
	return &cli.Exit{Code: failCode(ok > 0), Err: f}
}

func failCode(some bool) int {
	if some {
		return cli.Partly
	}
	return cli.Fail
}

// printTrouble says which racks gave no answer, and why.
func (a *answers) printTrouble(cmd *cobra.Command, cutOff string) {
	for _, r := range a.cutOff {
		fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(string(r)+" is cut off: "+cutOff))
	}
	for _, e := range a.errs {
		fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(string(e.rack)+": "+e.err.Error()))
	}
}

// rackBars shows how far the racks are, on stderr, and only on a terminal.
type rackBars struct {
	progress *cli.Progress
	bars     map[fleet.RackName]*cli.Bar
	seen     map[fleet.NodeName]bool
	drawn    time.Time
}

func newRackBars(cmd *cobra.Command) *rackBars {
	p := cli.NewProgress(cmd.ErrOrStderr(), time.Now())
	if !p.Live() || !cli.ScreenOf(cmd.OutOrStdout()).Terminal {
		p = nil
	}
	return &rackBars{progress: p, bars: map[fleet.RackName]*cli.Bar{}, seen: map[fleet.NodeName]bool{}}
}

// reply takes note of r and draws, no more than ten times a second.
func (b *rackBars) reply(r *client.Reply) {
	if b.progress == nil || r.Rack == "" {
		return
	}
	bar := b.bars[r.Rack]
	if bar == nil {
		bar = &cli.Bar{Name: string(r.Rack)}
		b.bars[r.Rack] = bar
	}
	switch {
	case r.Started != nil:
		bar.Total += r.Started.Nodes
	case r.Result != nil:
		b.node(bar, r.Result.Node, r.Result.Status.OK())
	case r.Change != nil:
		b.node(bar, r.Change.Node, true)
	case r.Ended != nil:
		bar.Ended, bar.Done = true, bar.Total
	}
	b.progress.Set(*bar)
	if now := time.Now(); now.Sub(b.drawn) >= 100*time.Millisecond {
		b.drawn = now
		b.progress.Draw(now)
	}
}

func (b *rackBars) node(bar *cli.Bar, n fleet.NodeName, ok bool) {
	if b.seen[n] {
		return
	}
	b.seen[n] = true
	bar.Done++
	if !ok {
		bar.Failed++
	}
}

func (b *rackBars) clear() {
	if b.progress != nil {
		b.progress.Clear()
	}
}
