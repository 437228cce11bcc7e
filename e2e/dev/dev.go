// Package dev is `chiba dev`: a whole fleet on one machine, in one process or
// in three. A coordinator, an agent and a rack of simulated BMCs speak to each
// other as they would in a data centre: over mutual-TLS QUIC, Raft on disk,
// Redfish over verified HTTPS, found over mDNS. Nothing needs root, nothing
// leaves the loopback interface, everything is kept in one directory.
//
// It lives in the e2e tree because only that tree may know both processes, and
// because the world a newcomer starts is the one the end-to-end tests drive.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/agent"
	"github.com/chiba-mesh/chiba/coordinator"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/sim"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// The parts of a dev fleet. `--only` starts one of them in a process of its own.
const (
	partSim         = "sim"
	partCoordinator = "coordinator"
	partAgent       = "agent"
	partStandby     = "standby" // the other agent of a rack
)

var allParts = []string{partSim, partCoordinator, partAgent, partStandby}

// Options of a dev fleet.
type Options struct {
	State string   // directory; made if it is not there
	Parts []string // of allParts, numbered from the second on: agent-2; empty: all
	// Coordinators and Racks are how many there are; 0: as many as last time, or one.
	Coordinators, Racks int
	// Standby: each rack has two agents, from now on.
	Standby bool

	Own  []string // --bmc: BMCs that are not simulated
	User string   // to log in on those with
	// PasswordFile holds that user's password.
	PasswordFile string
	Out          io.Writer // what a person reads
	Log          *slog.Logger
	// Ready is called once everything runs; its end does not end the fleet.
	Ready func(ctx context.Context) error
}

// running is a running dev fleet.
type running struct {
	layout
	opts  Options
	size  size
	rack  rack
	began time.Time
	taken takeovers // of all agents
}

// Run starts the parts and runs them until ctx ends or one of them fails.
func Run(ctx context.Context, opts Options) error {
	f := &running{layout: layout(opts.State), opts: opts, began: time.Now()}
	var err error
	if f.size, err = f.prepare(size{opts.Coordinators, opts.Racks, opts.Standby}); err != nil {
		return err
	}
	if len(opts.Parts) == 0 {
		f.opts.Parts = f.all()
	}
	for _, part := range f.opts.Parts {
		if !slices.Contains(f.all(), part) {
			return fault.New(fault.BadInput, "start the fleet", "it has no "+part).WithHint("it has " + strings.Join(f.all(), ", "))
		}
		unlock, err := lock(opts.State, part)
		if err != nil {
			return err
		}
		defer unlock()
	}
	// Each part is stopped by its own context, in the reverse order of their
	// start: an agent that stops still has BMCs to log out from and a
	// coordinator to report to.
	return f.start(ctx)
}

func (f *running) say(format string, args ...any) { fmt.Fprintf(f.opts.Out, format+"\n", args...) }

// part is one running part: stop ends it and waits for it.
type part struct {
	name string
	stop func() error
}

// all are the parts of this fleet.
func (f *running) all() []string {
	parts := []string{partSim}
	for n := 1; n <= f.size.Coordinators; n++ {
		parts = append(parts, numbered(partCoordinator, n))
	}
	for n := 1; n <= f.size.Racks; n++ {
		parts = append(parts, numbered(partAgent, n))
	}
	for n := 1; n <= f.size.Racks && f.size.Standby; n++ {
		parts = append(parts, numbered(partStandby, n))
	}
	return parts
}

// starter starts the nth of a kind.
type starter func(ctx context.Context, n int) (run func(context.Context) error, ready <-chan struct{}, err error)

func (f *running) start(ctx context.Context) (err error) {
	failed := make(chan error, len(f.all()))
	var parts []part
	defer func() {
		for _, p := range slices.Backward(parts) {
			if stopErr := p.stop(); err == nil {
				err = stopErr
			}
		}
		if err == nil {
			f.say("stopped; start again with the same directory to continue")
		}
	}()
	for _, kind := range []struct {
		name  string
		start starter
	}{
		{partSim, f.startSim}, {partCoordinator, f.startCoordinator}, {partAgent, f.startAgent}, {partStandby, f.startStandby},
	} {
		var waiting []<-chan struct{} // coordinators are ready when they have met
		for _, name := range f.of(kind.name) {
			_, n, _ := numberOf(name)
			run, ready, err := kind.start(ctx, n)
			if err != nil {
				return err
			}
			parts = append(parts, launch(name, run, failed))
			waiting = append(waiting, ready)
		}
		for _, ready := range waiting {
			select {
			case <-ready:
			case err := <-failed:
				return err
			case <-ctx.Done():
				return nil
			}
		}
	}
	return f.serve(ctx, failed)
}

// of are the parts of a kind that run in this process.
func (f *running) of(kind string) []string {
	return slices.DeleteFunc(slices.Clone(f.opts.Parts), func(part string) bool {
		k, _, _ := numberOf(part)
		return k != kind
	})
}

// launch runs one part until it is stopped; if it ends by itself it says so.
func launch(name string, run func(context.Context) error, failed chan<- error) part {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := run(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = fault.New(fault.Internal, "run the "+name, "it stopped by itself")
			}
			failed <- err
		}
		done <- err
	}()
	return part{name: name, stop: func() error {
		cancel()
		err := <-done
		if fault.Is(err, fault.Canceled) {
			return nil
		}
		return err
	}}
}

// serve says that the fleet is ready and waits for its end.
func (f *running) serve(ctx context.Context, failed <-chan error) error {
	f.say("ready in %s", time.Since(f.began).Round(10*time.Millisecond))
	ctx, cancel := context.WithCancel(ctx)
	toured := make(chan error, 1)
	var tour sync.WaitGroup
	if f.opts.Ready != nil {
		tour.Go(func() { toured <- f.opts.Ready(ctx) })
	}
	defer tour.Wait()
	defer cancel()
	for {
		select {
		case err := <-failed:
			return err
		case err := <-toured:
			if err != nil && ctx.Err() == nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

var immediately = func() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}()

func (f *running) startSim(ctx context.Context, _ int) (func(context.Context) error, <-chan struct{}, error) {
	simulated, err := sim.Open(ctx, sim.Config{Dir: f.opts.State, Specs: sim.DevRacks(f.size.Racks)})
	if err != nil {
		return nil, nil, err
	}
	if f.rack, err = f.readRack(); err == nil {
		f.rack.describe(simulated)
		err = f.writeRack(f.rack)
	}
	if err != nil {
		simulated.Close()
		return nil, nil, err
	}
	racks := "rack " + rackName(1)
	if f.size.Racks > 1 {
		racks = "racks " + rackName(1) + " to " + rackName(f.size.Racks)
	}
	f.say("%s: %d simulated BMCs on https://127.0.0.1", racks, len(f.rack.Nodes))
	return simulated.Run, immediately, nil
}

func (f *running) startCoordinator(_ context.Context, n int) (func(context.Context) error, <-chan struct{}, error) {
	creds, err := trust.Load(f.coordinator(n))
	if err != nil {
		return nil, nil, err
	}
	authority, err := ca.OpenSite(f.path("ca", "site"))
	if err != nil {
		return nil, nil, err
	}
	config := coordinator.Config{
		Name: coordinatorName(n), Dir: f.coordinator(n), Credentials: creds, Log: f.opts.Log,
		Certs: f.coordinator(n), Authority: authority, Lease: devLease,
	}
	if f.size.Coordinators > 1 {
		config.PeerAddr, config.Join, config.Expect = f.remembered(n, peerFile(n)), f.known(peerFile), f.size.Coordinators
	}
	if err = config.LoadAuthors(f.coordinator(n)); err != nil {
		return nil, nil, err
	}
	c, err := f.listen(n, config)
	if err != nil {
		return nil, nil, err
	}
	if err := f.remember(n, c); err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	f.say("coordinator %s: API https://%s, agents udp %s", coordinatorName(n), c.APIAddr(), c.MeshAddr())
	return c.Run, c.Ready(), nil
}

func (f *running) startAgent(ctx context.Context, n int) (func(context.Context) error, <-chan struct{}, error) {
	return f.startOneOf(ctx, n, false)
}

func (f *running) startStandby(ctx context.Context, n int) (func(context.Context) error, <-chan struct{}, error) {
	return f.startOneOf(ctx, n, true)
}

func (f *running) startOneOf(ctx context.Context, n int, standby bool) (func(context.Context) error, <-chan struct{}, error) {
	config, err := f.agentSetup(ctx, n, standby)
	if err != nil {
		return nil, nil, err
	}
	a, err := agent.New(config)
	if err != nil {
		return nil, nil, err
	}
	how := "found over mDNS on " + f.rack.Loopback
	if f.rack.Loopback == "" {
		how = "from the static list: " + f.rack.Silent
	}
	if standby {
		how = "stands by for " + agentName(n)
	}
	f.say("agent %s: %d BMCs, %s", config.Name, len(config.Nodes), how)
	return a.Run, a.Ready(), nil
}
