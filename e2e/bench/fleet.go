package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/goccy/go-yaml"
	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/agent"
	"github.com/chiba-mesh/chiba/coordinator"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/sim"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/author"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/sign"
)

// perAgent is a rack: sim.Racks puts as many into one.
const perAgent = 40

// w1 is the script of W1.
const w1 = `(action all (boot pxe (once)) (power reset))`

// site is the site of the fleet.
const site = "bench"

func rackOf(agent string) string { return "rack-" + agent }

// crowd is a coordinator with its agents.
type crowd struct {
	rack        *rack
	alone       []string // the command of the one agent that is a process of its own; none: all are in this one
	dir         string
	authority   *ca.Site
	coordinator *coordinator.Coordinator
	scriptRoot  string                        // the file of who signs the policy of authors
	parts       []func(context.Context) error // the agents
	own         chan int                      // the process id of an agent that has one
	client      *client.Client
}

func newCrowd(ctx context.Context, rack *rack, dir string, alone []string) (*crowd, error) {
	nodes, err := rack.client.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	f := &crowd{rack: rack, dir: dir, alone: alone, own: make(chan int, 1)}
	if f.authority, err = ca.Open(filepath.Join(dir, "ca"), site); err != nil {
		return nil, err
	}
	if err = f.coordinate(); err != nil {
		return nil, err
	}
	for i := 0; err == nil && i < len(nodes); i += perAgent {
		err = f.add(fmt.Sprintf("agent-%03d", i/perAgent+1), nodes[i:min(i+perAgent, len(nodes))])
	}
	if err != nil {
		return nil, errors.Join(err, f.coordinator.Close())
	}
	return f, nil
}

// creds makes the credentials of somebody, in a directory of their own.
func (f *crowd) creds(name string, role trust.Role, hosts ...string) (string, error) {
	at := filepath.Join(f.dir, name)
	id := trust.Identity{Role: role, Name: name}
	if role == trust.Agent {
		id.Rack = rackOf(name)
	}
	return at, f.authority.Ensure(at, id, hosts...)
}

// coordinate makes the coordinator and its client.
func (f *crowd) coordinate() error {
	home, err := f.creds("c1", trust.Coordinator, "127.0.0.1")
	if err != nil {
		return err
	}
	own, err := trust.Load(home)
	if err != nil {
		return err
	}
	person, err := f.creds("operator", trust.Operator)
	if err == nil {
		err = author.Solo(filepath.Join(f.dir, "authors"), person, "operator", home)
	}
	if err != nil {
		return err
	}
	conf := coordinator.Config{
		Dir: home, MeshAddr: "127.0.0.1:0", APIAddr: "127.0.0.1:0", Credentials: own, Log: slog.New(slog.DiscardHandler),
	}
	if err = conf.LoadAuthors(home); err != nil {
		return err
	}
	if f.coordinator, err = coordinator.New(conf); err != nil {
		return err
	}
	f.scriptRoot = filepath.Join(home, sign.RootFile)
	f.client, err = openClient(client.Context{
		Address: "https://" + f.coordinator.APIAddr(), CA: filepath.Join(person, trust.CAFile),
		Cert: filepath.Join(person, trust.CertFile), Key: filepath.Join(person, trust.KeyFile),
	})
	return err
}

func openClient(c client.Context) (*client.Client, error) {
	who, err := author.Open(c)
	if err != nil {
		return nil, err
	}
	return client.Open(c, who)
}

// rootPassword is root's on the simulated BMCs. With the factory's an agent would
// only read them.
const rootPassword = "0f-the-Bench"

// add makes the agent of one rack.
func (f *crowd) add(name string, nodes []sim.Node) error {
	home, err := f.creds(name, trust.Agent)
	if err != nil {
		return err
	}
	password := filepath.Join(home, "bmc-password")
	if err = os.WriteFile(password, []byte(rootPassword), 0o600); err != nil {
		return fault.Wrap(fault.Unavailable, "write the BMCs' password", err)
	}
	c := agent.Config{
		Name: fleet.AgentName(name), Rack: fleet.RackName(rackOf(name)), Site: site, State: home,
		Coordinators: []string{f.coordinator.MeshAddr()}, NoMDNS: true, ScriptRoot: f.scriptRoot, Login: agent.Login{User: "root", PasswordFile: password},
	}
	for _, n := range nodes {
		c.Nodes = append(c.Nodes, agent.Entry{Name: n.Name, Pin: n.Pin, Address: n.Address, Serial: n.Serial})
	}
	if len(f.alone) > 0 {
		return f.addProcess(c)
	}
	c.Log = slog.New(slog.DiscardHandler)
	a, err := agent.New(c)
	if err == nil {
		f.parts = append(f.parts, a.Run)
	}
	return err
}

// addProcess makes an agent as a site would run it: `chiba agent`.
func (f *crowd) addProcess(c agent.Config) error {
	text, err := yaml.MarshalWithOptions(c, yaml.OmitEmpty())
	if err == nil {
		err = os.WriteFile(filepath.Join(c.State, agent.ConfigFile), text, 0o600)
	}
	f.parts = append(f.parts, func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, f.alone[0], append(slices.Clip(f.alone[1:]), "--state", c.State)...) //nolint:gosec // our own binary
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 10 * time.Second
		if failed := cmd.Start(); failed != nil {
			return fault.Wrap(fault.Internal, "start the agent", failed)
		}
		f.own <- cmd.Process.Pid
		ended := cmd.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fault.Wrap(fault.Internal, "run the agent", ended)
	})
	return fault.Wrap(fault.Internal, "write "+agent.ConfigFile, err)
}

// run runs all of them until ctx ends or one fails.
func (f *crowd) run(ctx context.Context) error {
	defer f.client.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.coordinator.Run(ctx) })
	for _, part := range f.parts {
		g.Go(func() error { return part(ctx) })
	}
	return g.Wait()
}

// ready waits until the coordinator knows every node as ready.
func (f *crowd) ready(ctx context.Context, want int, ended chan error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, err := f.client.Nodes(ctx)
		ready := 0
		for _, n := range nodes {
			if n.State == fleet.Ready {
				ready++
			}
		}
		if err == nil && ready == want {
			return nil
		}
		select {
		case <-tick.C:
		case err = <-ended:
			ended <- err
			return err
		case <-ctx.Done():
			return fault.New(fault.Timeout, "start the fleet", fmt.Sprintf("%d nodes of %d are ready: %v", ready, want, err))
		}
	}
}

// settle waits until no BMC's clock shows the second of the last restart: a
// restart is seen by LastResetTime, which counts in seconds.
func settle(ctx context.Context) error {
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// w1 applies the script and waits for the run's end.
func (f *crowd) w1(ctx context.Context, healthy map[fleet.NodeName]bool) (ScaleRun, error) {
	r := ScaleRun{Healthy: len(healthy)}
	if err := errors.Join(settle(ctx), f.rack.client.ResetStats(ctx)); err != nil {
		return r, err
	}
	pid := f.rack.cmd.Process.Pid
	began, used, simUsed := time.Now(), cpu(), cpuOf(pid)
	applied, err := f.client.Apply(ctx, client.Source{File: "w1.scl", Text: []byte(w1)}, client.ApplyOptions{Timeout: 5 * time.Minute})
	if err != nil {
		return r, err
	}
	for _, err := range f.client.WatchRun(ctx, applied.Run.ID) {
		if err != nil {
			return r, err
		}
	}
	r.Seconds, r.FleetCPU, r.SimCPU = time.Since(began).Seconds(), cpu()-used, cpuOf(pid)-simUsed
	if r.Requests, _, err = f.rack.perBMC(ctx); err != nil {
		return r, err
	}
	_, results, err := f.client.Run(ctx, applied.Run.ID)
	if err != nil {
		return r, err
	}
	r.count(results, healthy, began)
	return r, nil
}
