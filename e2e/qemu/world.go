//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/chiba-mesh/chiba/e2e/qemu/l2"
	"github.com/chiba-mesh/chiba/e2e/qemu/proc"
)

// The names of the one agent, for which `chiba dev` makes credentials.
const (
	agentName = "agent-r01"
	rackName  = "r01"
	siteName  = "dev"
	fleetDir  = "fleet" // state directory of the coordinator and of the person
	meshAddr  = "127.0.0.1:7443"
)

const (
	// patience bounds each wait; an emulated BMC takes seconds for a key.
	patience = 4 * time.Minute
	// again is the pause between two looks.
	again = 500 * time.Millisecond
)

// world is everything that runs in the namespaces.
type world struct {
	options
	teller
	guests []*guest
	others []*proc.Process // coordinator, agent
}

// play builds the world and drives the line through it.
func play(ctx context.Context, o options, t teller) (err error) {
	w := &world{options: o, teller: t}
	if err = furnish(o.work()); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			w.explain()
		}
	}()
	ctx, stop := context.WithCancelCause(ctx)
	segmentDone, err := w.wire(ctx, stop)
	if err != nil {
		return err
	}
	err = w.line(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = errors.Join(err, cause)
	}
	err = errors.Join(err, w.end())
	stop(nil)
	<-segmentDone
	return err
}

// wire makes the segment: a switch, a port for each guest, a TAP for the agent. It
// runs until ctx ends, and ends ctx if it fails; done is closed when it has ended.
func (w *world) wire(ctx context.Context, stop context.CancelCauseFunc) (done <-chan struct{}, err error) {
	hub := l2.New(rand.New(rand.NewPCG(rand.Uint64(), 0)))
	tap, err := l2.TAP(segment)
	if err != nil {
		return nil, err
	}
	hub.Plug(segment, tap)
	for n := range w.count {
		m := newMachine(n + 1)
		socket, err := l2.Socket(m.port, m.card)
		if err != nil {
			return nil, err
		}
		w.guests = append(w.guests, &guest{machine: m, cable: hub.Plug(m.name, socket)})
	}
	if err := errors.Join(switchOn("lo", ""), switchOn(segment, host)); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := hub.Run(ctx); err != nil {
			stop(fmt.Errorf("the switch: %w", err))
		}
	}()
	return ended, nil
}

// end stops everybody, the agent first: it logs out from the BMCs.
func (w *world) end() error {
	var err error
	for _, p := range slices.Backward(w.others) {
		if stopped := p.Stop(stopPatience); stopped != nil {
			err = errors.Join(err, fmt.Errorf("stop %s: %w", p.Name(), stopped))
		}
	}
	for _, g := range w.guests {
		if g.console != nil {
			_ = g.console.Stop(stopPatience)
		}
	}
	return err
}

// explain shows the end of what everybody said.
func (w *world) explain() {
	for _, p := range w.others {
		w.say("the last of %s:", p.Name())
		w.show(p.Tail(25))
	}
	for _, g := range w.guests {
		if g.console != nil {
			w.say("the last of the console of %s:", g.name)
			w.show(g.console.Tail(15))
		}
	}
	w.say("all of it is in %s", w.logs)
}

// launch starts chiba until the world ends.
func (w *world) launch(name string, args ...string) (*proc.Process, error) {
	keep, err := w.keep(name)
	if err != nil {
		return nil, err
	}
	p, err := proc.Start(name, keep, w.chiba, args...)
	if err == nil {
		w.others = append(w.others, p)
	}
	return p, err
}

// run runs one command of chiba to its end and returns what it printed.
func (w *world) run(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it took more than %s", patience))
	defer cancel()
	var out, why bytes.Buffer
	cmd := exec.CommandContext(ctx, w.chiba, append(args, "--state", fleetDir)...)
	cmd.Stdout, cmd.Stderr = &out, &why
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("chiba %s: %w\n%s", strings.Join(args, " "), err, indent(out.String()+why.String()))
	}
	return out.String(), nil
}

// do shows a command and what it prints, as a person would see it.
func (w *world) do(ctx context.Context, args ...string) error {
	w.say("$ chiba %s", strings.Join(args, " "))
	out, err := w.run(ctx, args...)
	if err == nil {
		w.show(out)
	}
	return err
}

// decode runs a command with -o json and decodes what it prints.
func (w *world) decode(ctx context.Context, v any, args ...string) error {
	out, err := w.run(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("chiba %s -o json: %w\n%s", strings.Join(args, " "), err, indent(out))
	}
	return nil
}

// until looks again and again until it is so. What it saw last is in the error when
// patience ends.
func (w *world) until(ctx context.Context, what string, so func(context.Context) (bool, string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for last := ""; ; {
		is, seen, err := so(ctx)
		if is || err != nil && ctx.Err() == nil {
			return err
		}
		if seen != "" {
			last = seen
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s; last seen:\n%s", what, patience, indent(last))
		case <-time.After(again):
		}
	}
}

// agentConfig writes the agent's configuration, as a person would: the BMCs that were
// discovered are its catalogue, known by the keys they showed.
func (w *world) agentConfig(found []candidate) (dir string, err error) {
	dir = filepath.Join(fleetDir, "agent")
	nodes := make([]map[string]any, len(found))
	for i, f := range found {
		nodes[i] = map[string]any{"name": w.guests[i].name, "pin": f.Pin}
		if w.image != "" { // a stock image may announce its console alone
			nodes[i]["address"] = f.Addresses[0]
		}
		if w.takeover {
			nodes[i]["takeover"] = true
		}
	}
	text, err := yaml.Marshal(map[string]any{
		"name": agentName, "rack": rackName, "site": siteName, "state": ".",
		"coordinators": []string{meshAddr}, "heartbeat": "2s", "interfaces": []string{segment},
		"login": map[string]string{"factory": "openbmc"}, "nodes": nodes,
	})
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "agent.yaml"), text, 0o600)
}

func indent(text string) string {
	var out strings.Builder
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		out.WriteString("            " + line)
	}
	return out.String()
}

// or is the list as a sentence, or the text for an empty one.
func or(list []string, empty string) string {
	if len(list) == 0 {
		return empty
	}
	return "installed " + strings.Join(list, ", ")
}
