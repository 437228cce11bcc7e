package ctl

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// follower watches a run to its end and shows how far it is.
type follower struct {
	cmd    *cobra.Command
	client *client.Client
	id     fleet.RunID
	// patience is for all but these racks, which are cut off: while they wait,
	// and all others have ended, the follower does not.
	patience []fleet.RackName
	quiet    bool // no progress
	halts    bool // it does not wait for what a person has to have go on
	retry    retries

	progress *cli.Progress
	bars     map[fleet.RackName]cli.Bar
	run      client.Run
	results  []fleet.Result
}

// ran is what became of a run.
type ran struct {
	run     client.Run
	results []fleet.Result
	waiting []fleet.RackName // cut off, still to do their part
}

// follow returns when the run has ended, or when nothing but racks that are cut
// off is left of it. A lost coordinator is tried again; Ctrl-C detaches.
func (f *follower) follow() (*ran, error) {
	f.progress = cli.NewProgress(f.cmd.OutOrStdout(), time.Now())
	f.bars = map[fleet.RackName]cli.Bar{}
	if !f.quiet {
		defer f.progress.Clear()
	}
	for {
		over, err := f.once()
		switch {
		case over:
			return &ran{f.run, f.results, f.waiting()}, nil
		case f.cmd.Context().Err() != nil:
			return nil, f.detached()
		case !f.retry.again(f.cmd.Context(), err):
			if err == nil {
				err = fault.New(fault.Unavailable, "watch run "+string(f.id), "the coordinator stopped telling")
			}
			if fault.Is(err, fault.Unavailable) || fault.Is(err, fault.Timeout) {
				err = withHint(err, "the run goes on; come back with: "+comeBack(f.id))
			}
			return nil, err
		}
	}
}

// once watches until the stream ends. Each stream tells from the beginning.
func (f *follower) once() (over bool, err error) {
	f.results = nil
	ctx, cancel := context.WithCancel(f.cmd.Context())
	events := pump(ctx, f.client.WatchRun(ctx, f.id))
	defer drain(events)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return f.run.State.Ended(), err
			}
			if err = e.err; err != nil {
				continue
			}
			f.retry.reset()
			f.take(e.value)
			if !f.run.State.Ended() && (f.onlyCutOff() || f.halts && f.run.Rollout.Waits()) {
				return true, nil
			}
		case now := <-tick.C:
			if !f.quiet {
				f.progress.Draw(now)
			}
		}
	}
}

func (f *follower) take(e *client.RunEvent) {
	switch {
	case e.Run != nil:
		f.run = *e.Run
		if ro := f.run.Rollout; ro != nil {
			f.set(waveBar, func(b *cli.Bar) {
				b.Total, b.Done, b.Failed, b.Ended, b.Note = ro.Nodes, ro.Ended, ro.Failed, f.run.State.Ended(), waveNote(ro)
			})
		}
		for _, k := range e.Run.Racks {
			f.set(k.Rack, func(b *cli.Bar) {
				b.Ended = k.State == "done" || k.State == "canceled"
				if n := note(k); n != "running" || b.Note == "" || b.Note == "waiting" { // what it is doing says more
					b.Note = n
				}
				b.Total = max(b.Total, k.Nodes)
				if k.State == "done" {
					b.Done, b.Failed = k.OK+k.Failed, k.Failed
				}
			})
		}
	case e.Progress != nil:
		p := e.Progress
		f.set(p.Rack, func(b *cli.Bar) {
			b.Total, b.Done, b.Failed = p.Nodes, p.Done, p.Failed
			switch {
			case p.Doing != "":
				b.Note = p.Doing
			case b.Note == "waiting" || p.Done < p.Nodes:
				b.Note = "running"
			default: // the numbers say it
				b.Note = ""
			}
		})
	case e.Result != nil:
		f.results = append(f.results, *e.Result)
	}
}

// note is the state of a rack in a word; that it is done the numbers say.
func note(k client.RackRun) string {
	s := k.State
	switch s {
	case "accepted":
		s = "running"
	case "done":
		s = ""
	}
	switch {
	case k.Error == "":
		return s
	case s == "":
		return k.Error
	}
	return s + ": " + k.Error
}

func (f *follower) set(rack fleet.RackName, change func(*cli.Bar)) {
	b := f.bars[rack]
	b.Name = string(rack)
	change(&b)
	f.bars[rack] = b
	if !f.quiet {
		f.progress.Set(b)
	}
}

// waiting are the racks that are cut off and have not begun.
func (f *follower) waiting() []fleet.RackName {
	var out []fleet.RackName
	for _, k := range f.run.Racks {
		if k.State == "waiting" && slices.Contains(f.patience, k.Rack) {
			out = append(out, k.Rack)
		}
	}
	return out
}

func (f *follower) onlyCutOff() bool {
	open := 0
	for _, k := range f.run.Racks {
		if k.State != "done" && k.State != "canceled" {
			open++
		}
	}
	return open > 0 && open == len(f.waiting())
}

func comeBack(id fleet.RunID) string {
	return "chiba watch run " + string(id) + " or chiba get run " + string(id)
}

// detached is what Ctrl-C leads to.
func (f *follower) detached() error {
	return &cli.Exit{Code: cli.Fail, Err: fault.New(fault.Canceled, "", "detached from "+string(f.id)+", which goes on").
		WithHint("come back with: " + comeBack(f.id) + "; stop it with: chiba cancel run " + string(f.id))}
}

// print prints the results, and the whole in one line.
func (r *ran) print(cmd *cobra.Command) {
	if len(r.results) > 0 {
		fmt.Fprintln(cmd.OutOrStdout())
		printResults(cmd, r.results)
		fmt.Fprintln(cmd.OutOrStdout())
	}
	line := describeRun(r.run)
	if t := tally(r.results); t != "" {
		line += ": " + t
	}
	fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(line))
}

// err is what a run ends with: nil, or an error with the exit code for all or a
// part.
func (r *ran) err() error {
	if !r.run.State.Ended() && r.run.Rollout.Waits() {
		return r.waits()
	}
	if len(r.waiting) > 0 {
		return &cli.Exit{Code: cli.Partly, Err: fault.New(fault.Unavailable, "",
			names(r.waiting)+" is cut off and does its part when it is back").
			WithHint("it has until " + stamp(r.run.Deadline) + "; wait for it with: chiba watch run " + string(r.run.ID))}
	}
	nodes, failed := totals(r.run)
	f := &fault.Error{Kind: fault.Unavailable, Hint: r.hint()}
	code := cli.Fail
	switch r.run.State {
	case client.Done:
		return nil
	case client.PartlyFailed:
		code = cli.Partly
		f.Err = fmt.Errorf("%s: %d of %s failed", r.run.ID, failed, cli.Count(nodes, "node"))
	case client.Canceled:
		f.Kind, f.Err = fault.Canceled, fmt.Errorf("%s was canceled", r.run.ID)
	case client.Failed:
		f.Err = fmt.Errorf("%s failed", r.run.ID)
	case client.Running:
		f.Err = fmt.Errorf("%s has not ended", r.run.ID)
	}
	return &cli.Exit{Code: code, Err: f}
}

// hint is what the first failed step advises.
func (r *ran) hint() string {
	for _, s := range r.results {
		if !s.Status.OK() && s.Hint != "" {
			return s.Hint
		}
	}
	return "see: chiba get run " + string(r.run.ID)
}

func names(racks []fleet.RackName) string {
	return strings.Join(mapped(racks, func(r fleet.RackName) string { return string(r) }), ", ")
}

// withHint adds a hint to those that err has.
func withHint(err error, hint string) error {
	if fault.HintOf(err) != "" {
		hint = fault.HintOf(err) + "; " + hint
	}
	return &fault.Error{Kind: fault.KindOf(err), Hint: hint, Err: err}
}

// retries are the tries to reach a coordinator that was lost, with longer and
// longer pauses: a minute in all. One that never answered is not tried again.
type retries struct {
	left  int
	pause time.Duration
}

// reset takes note that the coordinator answers.
func (r *retries) reset() { r.left, r.pause = 8, 250*time.Millisecond }

// again waits for the next try, and reports whether there is one.
func (r *retries) again(ctx context.Context, err error) bool {
	if r.left == 0 || err != nil && !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Timeout) {
		return false
	}
	pause := time.NewTimer(r.pause)
	defer pause.Stop()
	r.left, r.pause = r.left-1, 2*r.pause
	select {
	case <-pause.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// item is a value of a sequence, or its error.
type item[T any] struct {
	value T
	err   error
}

// pump reads seq in a goroutine that ends with seq or ctx and closes the
// channel then; drain waits for it.
func pump[T any](ctx context.Context, seq iter.Seq2[T, error]) <-chan item[T] {
	out := make(chan item[T])
	go func() {
		defer close(out)
		for v, err := range seq {
			select {
			case out <- item[T]{v, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// drain waits for a pump whose context has ended.
func drain[T any](in <-chan item[T]) {
	for range in {
	}
}
