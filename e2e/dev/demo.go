package dev

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func nextSteps(out io.Writer) {
	fmt.Fprint(out, `
In another terminal:
  chiba get nodes                           who is there
  chiba show all cpu.temp power.watts       read sensors
  chiba apply docs/examples/thermal.scl     put a rule into force
  chiba sim set ai-node-0 cpu.temp 95       heat a CPU, and see the rule fire:
  chiba watch --past
Ctrl-C stops the fleet; its state is kept.
`)
}

// tour plays the main job once, by running the very commands it shows.
type tour struct {
	examples fs.FS
	root     func() *cobra.Command
	state    string
	out      io.Writer
}

// patience bounds the wait for the rule: two sampling periods and some.
const patience = 45 * time.Second

func (t *tour) play(ctx context.Context) error {
	if err := t.trusted(ctx); err != nil {
		return err
	}
	script, cleanup, err := t.example("thermal.scl")
	if err != nil {
		return err
	}
	defer cleanup()
	fmt.Fprintf(t.out, "\nThe main job, once. The rule of docs/examples/thermal.scl:\n\n%s\n", indent(script.text))

	watchCtx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	fired := make(chan error, 1)
	began := time.Now().Add(-time.Second)
	go func() { fired <- t.watch(watchCtx, began) }()

	// The spare is switched off first, so that the tour is the same each time.
	steps := [][]string{
		{"sim", "set", "ai-node-0", "cpu.temp", "auto"},
		{"sim", "set", "ai-node-1", "power.state", "off"},
		{"apply", script.path, "--yes"},
		{"show", "ai-node-0,ai-node-1", "power.state", "cpu.temp"},
		{"sim", "set", "ai-node-0", "cpu.temp", "95"},
	}
	for _, args := range steps {
		if err := t.run(ctx, args...); err != nil {
			stop()
			return errors.Join(err, <-fired)
		}
	}
	fmt.Fprintf(t.out, "\n$ chiba watch\n")
	if err := <-fired; err != nil {
		return err
	}
	if err := t.run(ctx, "show", "ai-node-0,ai-node-1", "power.state", "cpu.temp"); err != nil {
		return err
	}
	fmt.Fprint(t.out, "\nThat was it. The fleet stays up.\n")
	nextSteps(t.out)
	return nil
}

// trusted waits until the BMCs are taken over: before that no rule may switch one
// of their servers on.
func (t *tour) trusted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := t.client()
	if err != nil {
		return err
	}
	defer c.Close()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, err := c.Nodes(ctx)
		if err != nil {
			return fault.Wrap(fault.KindOf(err), "wait for the take-over", err)
		}
		if !slices.ContainsFunc(nodes, func(n fleet.Node) bool { return n.Trust.Wanted && n.Trust.Level < "T3" }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Timeout, "wait for the take-over", "not all BMCs were taken over within "+patience.String()).
				WithHint("see how far they are: chiba get bmcs")
		case <-tick.C:
		}
	}
}

// client is one that only looks.
func (t *tour) client() (*client.Client, error) {
	path, err := client.Find(t.state)
	if err != nil {
		return nil, err
	}
	found, err := client.Load(path)
	if err != nil {
		return nil, err
	}
	return client.Open(found, nil)
}

type example struct{ path, text string }

// example is an embedded example in a file, for the command to read: in its own
// if the binary was started there, which may have been anywhere.
func (t *tour) example(name string) (example, func(), error) {
	text, err := fs.ReadFile(t.examples, name)
	if err != nil {
		return example{}, nil, fault.Wrap(fault.Internal, "read example", err)
	}
	here := filepath.Join("docs", "examples", name)
	if same, readErr := os.ReadFile(here); readErr == nil && bytes.Equal(same, text) {
		return example{here, string(text)}, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "chiba-demo-")
	if err != nil {
		return example{}, nil, fault.Wrap(fault.Unavailable, "write example", err)
	}
	cleanup := func() { _ = os.RemoveAll(dir) }
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		cleanup()
		return example{}, nil, fault.Wrap(fault.Unavailable, "write example", err)
	}
	return example{path, string(text)}, cleanup, nil
}

// run runs one command as a person would, and shows it.
func (t *tour) run(ctx context.Context, args ...string) error {
	shown := make([]string, len(args))
	for i, arg := range args {
		if shown[i] = arg; filepath.IsAbs(arg) {
			shown[i] = filepath.Base(arg)
		}
		if strings.Contains(arg, " ") {
			shown[i] = "'" + arg + "'"
		}
	}
	fmt.Fprintf(t.out, "\n$ chiba %s\n", strings.Join(shown, " "))
	root := t.root()
	root.SetArgs(append(args, "--state", t.state))
	root.SetOut(t.out)
	root.SetErr(t.out)
	return root.ExecuteContext(ctx)
}

// watch waits for the firing and shows it.
func (t *tour) watch(ctx context.Context, began time.Time) error {
	c, err := t.client()
	if err != nil {
		return err
	}
	defer c.Close()
	for event, err := range c.Watch(ctx, true) {
		if err != nil {
			return fault.Wrap(fault.KindOf(err), "wait for the rule", err)
		}
		if f := event.Firing; f != nil && f.At.After(began) && f.Script == "thermal" {
			t.tell(f)
			return nil
		}
	}
	return fault.New(fault.Timeout, "wait for the rule", "it did not fire within "+patience.String()).
		WithHint("see why: chiba get firings, chiba get nodes")
}

func (t *tour) tell(f *fleet.Firing) {
	var values []string
	for _, r := range f.Readings {
		values = append(values, fmt.Sprintf("%s = %s", r.Ref, r.Value.Short()))
	}
	fmt.Fprintf(t.out, "%s  rule %s of %s fired on %s: %s\n", f.At.Format(time.TimeOnly), f.Rule, f.Script, f.Node, strings.Join(values, ", "))
	if f.Held != "" {
		fmt.Fprintf(t.out, "          held back: %s\n          play it in a new directory: chiba dev --demo --state DIR\n", f.Held)
	}
	for _, did := range f.Results {
		fmt.Fprintf(t.out, "          %s: %s: %s: %s\n", did.Node, did.Step, did.Status, cmp.Or(did.Error, did.After))
	}
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n    ") + "\n"
}
