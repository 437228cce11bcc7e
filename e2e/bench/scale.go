package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/agent"
	"github.com/chiba-mesh/chiba/coordinator"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/sim"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// perAgent is a rack: sim.Racks puts as many into one.
const perAgent = 40

// w1 is the script of W1.
const w1 = `(action all (boot pxe (once)) (power reset))`

// Scale is what a fleet of many racks needed. The coordinator and all agents are
// one process, the BMCs another.
type Scale struct {
	Nodes, Agents int
	Start         float64 // s until every node was ready
	StartCPU      float64 // s
	Memory        float64 // bytes of the coordinator and all agents, when ready
	Peak          float64 // bytes
	Well, Sick    ScaleRun
}

// ScaleRun is W1 once, from the call to the last result that the coordinator
// committed.
type ScaleRun struct {
	Seconds   float64
	P50, P99  float64 // s until a healthy node's last result, from the call
	CPU       float64 // s
	Healthy   int
	Confirmed int // results of healthy nodes that were read back
	Lost      int // results that did not come
	Doubled   int
	Why       string // of the first healthy node's that failed
}

// RunScale starts a coordinator and an agent for every 40 BMCs and runs W1: with
// all BMCs well, and with one in ten hanging, slow or lying.
func RunScale(ctx context.Context, o Options) (Scale, error) {
	s := Scale{Nodes: o.Nodes, Agents: (o.Nodes + perAgent - 1) / perAgent}
	rack, err := startRack(ctx, o, []string{"--at-once", "1"})
	if err != nil {
		return s, err
	}
	dir, err := os.MkdirTemp("", "chiba-scale-")
	if err != nil {
		return s, errors.Join(fault.Wrap(fault.Unavailable, "make a directory for the fleet", err), rack.stop())
	}
	err = s.run(ctx, o, rack, dir)
	return s, errors.Join(err, rack.stop(), os.RemoveAll(dir))
}

func (s *Scale) run(ctx context.Context, o Options, rack *rack, dir string) error {
	f, err := newCrowd(ctx, rack, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Say, "%d simulated BMCs, %d agents, a coordinator\n", s.Nodes, s.Agents)
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- f.run(runCtx) }()
	err = s.measure(ctx, o, f, ended)
	cancel()
	stopped := <-ended
	if err == nil && !fault.Is(stopped, fault.Canceled) && !errors.Is(stopped, context.Canceled) {
		err = stopped
	}
	return err
}

func (s *Scale) measure(ctx context.Context, o Options, f *crowd, ended chan error) error {
	began, used := time.Now(), cpu()
	if err := f.ready(ctx, s.Nodes, ended); err != nil {
		return err
	}
	s.Start, s.StartCPU = time.Since(began).Seconds(), cpu()-used
	runtime.GC() // what is kept counts, not what is garbage
	s.Memory = resident("VmRSS:")
	fmt.Fprintf(o.Say, "  all are ready after %.1f s\n", s.Start)
	healthy := map[fleet.NodeName]bool{}
	nodes, err := f.rack.client.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		healthy[n.Name] = true
	}
	if s.Well, err = f.w1(ctx, healthy); err != nil {
		return err
	}
	fmt.Fprintf(o.Say, "  W1 took %.2f s, p50 %.2f s, %d of %d results confirmed %s\n", s.Well.Seconds, s.Well.P50, s.Well.Confirmed, 2*s.Well.Healthy, s.Well.Why)
	faults := []bmcsim.Fault{{Kind: bmcsim.Hang}, {Kind: bmcsim.Slow, Delay: 5 * time.Second}, {Kind: bmcsim.Garbage}}
	for i, n := range nodes {
		if i%10 != 3 {
			continue
		}
		delete(healthy, n.Name)
		if err = f.rack.client.Fault(ctx, n.Name, faults[i/10%len(faults)]); err != nil {
			return err
		}
	}
	if s.Sick, err = f.w1(ctx, healthy); err != nil {
		return err
	}
	fmt.Fprintf(o.Say, "  with %d sick BMCs it took %.2f s\n", s.Nodes-len(healthy), s.Sick.Seconds)
	s.Peak = peak()
	return nil
}

// crowd is a coordinator with its agents.
type crowd struct {
	rack        *rack
	coordinator *coordinator.Coordinator
	agents      []*agent.Agent
	client      *client.Client
}

func newCrowd(ctx context.Context, rack *rack, dir string) (*crowd, error) {
	nodes, err := rack.client.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	authority, err := ca.Open(filepath.Join(dir, "ca"), site)
	if err != nil {
		return nil, err
	}
	creds := func(name string, role trust.Role, hosts ...string) (string, error) {
		at := filepath.Join(dir, name)
		id := trust.Identity{Role: role, Name: name}
		if role == trust.Agent {
			id.Rack = rackOf(name)
		}
		return at, authority.Ensure(at, id, hosts...)
	}
	quiet := slog.New(slog.DiscardHandler)
	home, err := creds("c1", trust.Coordinator, "127.0.0.1")
	if err != nil {
		return nil, err
	}
	own, err := trust.Load(home)
	if err != nil {
		return nil, err
	}
	f := &crowd{rack: rack}
	f.coordinator, err = coordinator.New(coordinator.Config{
		Dir: home, MeshAddr: "127.0.0.1:0", APIAddr: "127.0.0.1:0", Credentials: own, Log: quiet,
	})
	if err != nil {
		return nil, err
	}
	person, err := creds("operator", trust.Operator)
	if err == nil {
		f.client, err = client.Open(client.Context{
			Address: "https://" + f.coordinator.APIAddr(), CA: filepath.Join(person, trust.CAFile),
			Cert: filepath.Join(person, trust.CertFile), Key: filepath.Join(person, trust.KeyFile),
		})
	}
	for i := 0; err == nil && i < len(nodes); i += perAgent {
		var home string
		name := fmt.Sprintf("agent-%03d", i/perAgent+1)
		if home, err = creds(name, trust.Agent); err == nil {
			err = f.add(name, home, nodes[i:min(i+perAgent, len(nodes))], quiet)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.coordinator.Close())
	}
	return f, nil
}

// site is the site of the fleet.
const site = "bench"

func rackOf(agent string) string { return "rack-" + agent }

// add makes the agent of one rack.
func (f *crowd) add(name, home string, nodes []sim.Node, log *slog.Logger) error {
	c := agent.Config{
		Name: fleet.AgentName(name), Rack: fleet.RackName(rackOf(name)), Site: site, State: home,
		Coordinators: []string{f.coordinator.MeshAddr()}, NoMDNS: true,
		Login: agent.Login{Factory: agent.FactoryOpenBMC}, Log: log,
	}
	for _, n := range nodes {
		c.Nodes = append(c.Nodes, agent.Entry{Name: n.Name, Pin: n.Pin, Address: n.Address, Serial: n.Serial})
	}
	a, err := agent.New(c)
	f.agents = append(f.agents, a)
	return err
}

// run runs all of them until ctx ends or one fails.
func (f *crowd) run(ctx context.Context) error {
	defer f.client.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.coordinator.Run(ctx) })
	for _, a := range f.agents {
		g.Go(func() error { return a.Run(ctx) })
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
	if err := settle(ctx); err != nil {
		return r, err
	}
	began, used := time.Now(), cpu()
	applied, err := f.client.Apply(ctx, client.Source{File: "w1.scl", Text: []byte(w1)}, client.ApplyOptions{Timeout: 5 * time.Minute})
	if err != nil {
		return r, err
	}
	for _, err := range f.client.WatchRun(ctx, applied.Run.ID) {
		if err != nil {
			return r, err
		}
	}
	r.Seconds, r.CPU = time.Since(began).Seconds(), cpu()-used
	_, results, err := f.client.Run(ctx, applied.Run.ID)
	if err != nil {
		return r, err
	}
	r.count(results, healthy, began)
	return r, nil
}

// count judges the results of the healthy nodes: two of each.
func (r *ScaleRun) count(results []fleet.Result, healthy map[fleet.NodeName]bool, began time.Time) {
	const steps = 2
	seen := map[fleet.NodeName]int{}
	last := map[fleet.NodeName]float64{}
	for _, res := range results {
		if !healthy[res.Node] {
			continue
		}
		seen[res.Node]++
		last[res.Node] = max(last[res.Node], res.Started.Add(res.Took).Sub(began).Seconds())
		if res.Status == fleet.Confirmed {
			r.Confirmed++
		} else if r.Why == "" {
			r.Why = fmt.Sprintf("%s: %s: %s %s", res.Node, res.Step, res.Status, res.Error)
		}
	}
	var took []float64
	for name := range healthy {
		r.Lost += max(0, steps-seen[name])
		r.Doubled += max(0, seen[name]-steps)
		took = append(took, last[name])
	}
	slices.SortFunc(took, cmp.Compare)
	if len(took) > 0 {
		r.P50, r.P99 = took[len(took)/2], took[len(took)*99/100]
	}
}

// print writes the scale for a person.
func (s Scale) print(out io.Writer) {
	per := func(n float64) string { return short(n / float64(max(s.Nodes, 1))) }
	fmt.Fprintf(out, "%d BMCs, %d agents, one coordinator with Raft on disk, in one process\n", s.Nodes, s.Agents)
	fmt.Fprintf(out, "  start: %s s until all are ready, %s ms CPU per BMC\n", short(s.Start), per(s.StartCPU*1e3))
	fmt.Fprintf(out, "  memory: %s MB when ready, %s kB per BMC; peak %s MB\n", short(s.Memory/1e6), per(s.Memory/1e3), short(s.Peak/1e6))
	for _, r := range []struct {
		name string
		ScaleRun
	}{{"W1", s.Well}, {"W1, one BMC in ten sick", s.Sick}} {
		fmt.Fprintf(out, "  %s: %s s until the run ended, %s ms CPU per BMC\n", r.name, short(r.Seconds), per(r.CPU*1e3))
		fmt.Fprintf(out, "    %d healthy: p50 %s s, p99 %s s; %d of %d results confirmed, %d lost, %d doubled\n",
			r.Healthy, short(r.P50), short(r.P99), r.Confirmed, 2*r.Healthy, r.Lost, r.Doubled)
		if r.Why != "" {
			fmt.Fprintf(out, "    the first that did not: %.200s\n", r.Why)
		}
	}
}

// goals holds the scale against the goals.
func (s Scale) goals() []Goal {
	shift := 0.0
	if s.Well.P99 > 0 {
		shift = s.Sick.P99/s.Well.P99 - 1
	}
	return []Goal{
		{
			Number: 4, What: "2,000 BMCs on 50 agents: W1 with Raft", Wanted: "≤ 3.0 s", Measured: short(s.Well.Seconds) + " s",
			Known: s.Nodes == 2000, Met: s.Well.Seconds <= 3,
		},
		{
			Number: 4, What: "p99 of the others when one in ten is sick", Wanted: "< 10 % more", Measured: fmt.Sprintf("%.0f %%", shift*100),
			Known: true, Met: shift < 0.1,
		},
		{
			Number: 12, What: "results lost or doubled", Wanted: "0", Measured: strconv.Itoa(s.Well.Lost + s.Well.Doubled + s.Sick.Lost + s.Sick.Doubled),
			Known: true, Met: s.Well.Lost+s.Well.Doubled+s.Sick.Lost+s.Sick.Doubled == 0,
		},
		{
			Number: 12, What: "memory with the coordinator, MB", Wanted: "≤ " + short(30*float64(s.Agents)+0.12*float64(s.Nodes)),
			Measured: short(s.Peak / 1e6), Known: true, Met: s.Peak/1e6 <= 30*float64(s.Agents)+0.12*float64(s.Nodes),
		},
	}
}
