package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/agent/link"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/author"
	"github.com/chiba-mesh/chiba/trust/ca"
)

const (
	// meshPatience bounds each wait.
	meshPatience = 5 * time.Minute
	pushSize     = 4 << 10
)

// MeshOptions say what is measured of a coordinator and its agents.
type MeshOptions struct {
	Binary string
	Agents int
	Idle   time.Duration // for which the agents do nothing, to see what that costs
	Say    io.Writer
}

// Mesh is what one coordinator, a process of its own, needed for its agents. They are
// the links of real agents, without a rack behind them, in this process on the same
// machine.
type Mesh struct {
	Agents    int
	Connect   float64 // s until all were welcomed, from none
	Reconnect float64 // s until all were welcomed again after kill -9
	// The processor time, in s, that the coordinator needed for either, and that all
	// agents together needed to connect.
	ConnectCPU, ReconnectCPU, AgentsCPU float64
	// The processor time, in s, that the coordinator needed for the push.
	PushCPU float64
	Dropped int64   // sessions that ended though nobody was killed
	Push    float64 // s until all had a script of 4 KiB that was applied
	Memory  float64 // bytes of the coordinator while they do nothing
	IdleCPU float64 // share of a processor, likewise
}

func meshCommand() *cobra.Command {
	var o MeshOptions
	cmd := &cobra.Command{
		Use:   "mesh",
		Short: "measure a coordinator with many agents",
		Long: `Measure what a coordinator needs for many agents: it is a process of its own, the
agents are links of real agents without a rack, in this process. They come all at
once, do nothing for a while, are sent a script of 4 KiB, and come back after the
coordinator was killed.`,
		Example: "  chiba bench mesh\n  chiba bench mesh --agents 3000\n  chiba bench mesh -o json",
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := cli.OutputOf(cmd)
			if err != nil {
				return err
			}
			if o.Agents < 1 {
				return cli.UsageError(fmt.Sprintf("--agents %d: at least one is needed", o.Agents), "")
			}
			if o.Binary, err = os.Executable(); err != nil {
				return fault.Wrap(fault.Internal, "find this program", err)
			}
			o.Say = cmd.ErrOrStderr()
			m, err := RunMesh(cmd.Context(), o)
			if err != nil {
				return err
			}
			if format.Machine() {
				return cli.Encode(cmd.OutOrStdout(), format, m)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "load of the machine in the minute before its end: %s\n\n", short(loadBefore()))
			verdicts(m.goals()).Print(cmd)
			return nil
		},
	}
	cmd.Flags().DurationVar(&o.Idle, "idle", 30*time.Second, "let them do nothing for this `time`, to see what that costs")
	cmd.Flags().IntVar(&o.Agents, "agents", 10_000, "connect `N` agents")
	return cmd
}

func (m Mesh) goals() []Goal {
	of := fmt.Sprintf("%d agents: ", m.Agents)
	return []Goal{
		{What: of + "seconds to connect all", Wanted: "≤ 30", Measured: short(m.Connect), Known: true, Met: m.Connect <= 30},
		{What: of + "sessions that ended by themselves", Wanted: "0", Measured: short(float64(m.Dropped)), Known: true, Met: m.Dropped == 0},
		{What: of + "memory of the coordinator, MB", Wanted: "≤ 1000", Measured: short(m.Memory / 1e6), Known: m.Memory > 0, Met: m.Memory <= 1e9},
		{What: of + "idle, share of a processor", Wanted: "≤ 0.1", Measured: short(m.IdleCPU), Known: true, Met: m.IdleCPU <= 0.1},
		{What: of + "seconds to push 4 KiB to all", Wanted: "≤ " + short(0.6*float64(m.Agents)/3000), Measured: short(m.Push), Known: true, Met: m.Push <= 0.6*float64(m.Agents)/3000},
		{What: of + "seconds to connect all again", Wanted: "≤ 30", Measured: short(m.Reconnect), Known: true, Met: m.Reconnect <= 30},
	}
}

// RunMesh measures. It leaves nothing behind.
func RunMesh(ctx context.Context, o MeshOptions) (m Mesh, err error) {
	dir, err := os.MkdirTemp("", "chiba-mesh-")
	if err != nil {
		return m, fault.Wrap(fault.Unavailable, "make a directory for the coordinator", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := newSwarm(o, dir)
	if err != nil {
		return m, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err = s.start(ctx); err != nil {
		return m, err
	}
	defer func() { s.kill() }()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	began, used := time.Now(), cpu()
	for _, l := range s.links {
		running.Go(func() { _ = l.Run(ctx) })
	}
	m.Agents = o.Agents
	if err = s.until(ctx, &s.met, int64(o.Agents)); err != nil {
		return m, err
	}
	m.Connect, m.ConnectCPU, m.AgentsCPU = time.Since(began).Seconds(), cpuOf(s.cmd.Process.Pid), cpu()-used
	fmt.Fprintf(o.Say, "%d agents are connected after %.1f s; that cost the coordinator %.1f s of a processor, and all agents %.1f s\n",
		o.Agents, m.Connect, m.ConnectCPU, m.AgentsCPU)
	return m, s.measure(ctx, &m)
}

// measure does the rest once all are connected.
func (s *swarm) measure(ctx context.Context, m *Mesh) error {
	pid := s.cmd.Process.Pid
	used, began := cpuOf(pid), time.Now()
	select {
	case <-time.After(s.Idle):
	case <-ctx.Done():
		return ctx.Err()
	}
	m.IdleCPU = (cpuOf(pid) - used) / time.Since(began).Seconds()
	m.Memory = resident(pid, residentNow)
	fmt.Fprintf(s.say, "idle: %.0f MB, %.0f %% of a processor\n", m.Memory/1e6, 100*m.IdleCPU)

	text := "(monitor \"all\" (trigger \"t\" (condition (> cpu.temp 90)) (action (log \"hot\"))))\n;"
	source := client.Source{File: "push.scl", Text: []byte(text + strings.Repeat("x", pushSize-len(text))), AllowEmpty: true}
	began, used = time.Now(), cpuOf(pid)
	if _, err := s.client.Apply(ctx, source, client.ApplyOptions{}); err != nil {
		return err
	}
	if err := s.until(ctx, &s.pushed, int64(m.Agents)); err != nil {
		return err
	}
	m.Push, m.PushCPU = time.Since(began).Seconds(), cpuOf(pid)-used
	fmt.Fprintf(s.say, "all have a script of 4 KiB after %.2f s; that cost the coordinator %.1f s of a processor\n", m.Push, m.PushCPU)

	m.Dropped = s.dropped.Load()
	s.why.tell(s.say)
	s.met.Store(0)
	s.life.Add(1)
	s.kill()
	began = time.Now()
	if err := s.start(ctx); err != nil {
		return err
	}
	if err := s.until(ctx, &s.met, int64(m.Agents)); err != nil {
		return err
	}
	m.Reconnect, m.ReconnectCPU = time.Since(began).Seconds(), cpuOf(s.cmd.Process.Pid)
	fmt.Fprintf(s.say, "all are back %.1f s after the coordinator was started again; that cost it %.1f s of a processor\n", m.Reconnect, m.ReconnectCPU)
	s.why.tell(s.say)
	return nil
}

// swarm is a coordinator and the links of its agents.
type swarm struct {
	MeshOptions
	say         io.Writer
	home, mesh  string
	api         string
	roots       trust.Credentials // what all agents believe
	client      *client.Client
	links       []*link.Link
	cmd         *exec.Cmd
	life        atomic.Int64 // how often the coordinator was killed
	met, pushed atomic.Int64 // agents that were welcomed in this life, that have the script
	dropped     atomic.Int64 // sessions that ended
	why         reasons      // why no session was had
}

func newSwarm(o MeshOptions, dir string) (*swarm, error) {
	s := &swarm{MeshOptions: o, say: o.Say, home: filepath.Join(dir, "c1")}
	authority, err := ca.Open(filepath.Join(dir, "ca"), site)
	if err != nil {
		return nil, err
	}
	person := filepath.Join(dir, "operator")
	err = errors.Join(authority.Ensure(s.home, trust.Identity{Role: trust.Coordinator, Name: "c1"}, "127.0.0.1"),
		authority.Ensure(person, trust.Identity{Role: trust.Operator, Name: "operator"}),
		author.Solo(filepath.Join(dir, "authors"), person, "operator", s.home), s.reserve())
	if err != nil {
		return nil, err
	}
	s.client, err = openClient(client.Context{
		Address: "https://" + s.api, CA: filepath.Join(person, trust.CAFile), Cert: filepath.Join(person, trust.CertFile),
		Key: filepath.Join(person, trust.KeyFile), Author: filepath.Join(person, author.KeyFile),
	})
	if err != nil {
		return s, err
	}
	s.roots, err = trust.Load(s.home)
	for i := 0; err == nil && i < o.Agents; i++ {
		err = s.add(authority, i)
	}
	return s, err
}

// reserve finds free ports, which are the same after a restart.
func (s *swarm) reserve() error {
	tcp, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return fault.Wrap(fault.Unavailable, "find a free port", err)
	}
	udp, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(fault.Wrap(fault.Unavailable, "find a free port", err), tcp.Close())
	}
	s.api, s.mesh = tcp.Addr().String(), udp.LocalAddr().String()
	return errors.Join(tcp.Close(), udp.Close())
}

// add makes the link of an agent.
func (s *swarm) add(authority *ca.Site, n int) error {
	name, rack := fmt.Sprintf("a%05d", n), fmt.Sprintf("r%05d", n)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	id := trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: rack}, Name: name}
	chain, err := authority.Issue(authority.In(id), key.Public())
	if err != nil {
		return err
	}
	cert := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	creds := s.roots // what an agent verifies once in its life is not done ten thousand times here
	creds.Certificate = cert
	l, err := link.New(link.Config{
		Agent: fleet.AgentName(name), Rack: fleet.RackName(rack), Site: site, Coordinators: []string{s.mesh},
		TLS:     func(context.Context, string) (*tls.Config, error) { return creds.Client(), nil },
		SealKey: func() (public, proof []byte, err error) { return nil, nil, nil },
		Log:     slog.New(&s.why),
	}, &idler{swarm: s}, empty{})
	s.links = append(s.links, l)
	return err
}

// start starts the coordinator and waits until it serves.
func (s *swarm) start(ctx context.Context) error {
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), s.Binary, "coordinator", "--state", s.home, "--mesh-addr", s.mesh, "--api-addr", s.api) //nolint:gosec // our own binary
	s.cmd.Stderr = io.Discard
	if err := s.cmd.Start(); err != nil {
		return fault.Wrap(fault.Unavailable, "start the coordinator", err)
	}
	ctx, cancel := context.WithTimeout(ctx, meshPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := s.client.Status(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fault.Wrap(fault.Timeout, "start the coordinator", err)
		}
	}
}

// kill is kill -9.
func (s *swarm) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// until waits until so many are counted.
func (s *swarm) until(ctx context.Context, count *atomic.Int64, want int64) error {
	ctx, cancel := context.WithTimeout(ctx, meshPatience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for count.Load() != want {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fault.New(fault.Timeout, "wait for the agents", fmt.Sprintf("%d of %d", count.Load(), want))
		}
	}
	return nil
}

// idler is an agent without a rack.
type idler struct {
	swarm  *swarm
	met    atomic.Int64 // the last life in which it was welcomed
	pushed atomic.Bool
}

func (*idler) Have() (revision uint64, scripts map[string]string) { return 0, nil }
func (*idler) PolicyVersion() uint64                              { return 0 }
func (*idler) CatalogueVersion() uint64                           { return 0 }
func (*idler) AuditSize() int64                                   { return 0 }
func (*idler) Introduce() error                                   { return nil }
func (*idler) Leased(*pb.Leased)                                  {}

func (a *idler) Desired(_ context.Context, d *pb.Desired) error {
	if len(d.GetScripts()) > 0 && len(d.GetScripts()[0].GetEnvelope())+len(d.GetScripts()[0].GetSource()) >= pushSize && !a.pushed.Swap(true) {
		a.swarm.pushed.Add(1)
	}
	return nil
}

func (*idler) Query(context.Context, *pb.Query, func(*pb.QueryEvent) error) *pb.QueryEvent_Done {
	return &pb.QueryEvent_Done{}
}

func (a *idler) Linked(connected bool, _ time.Time) {
	life := a.swarm.life.Load() + 1 // the first is not zero
	switch {
	case !connected:
		a.swarm.dropped.Add(1)
	case a.met.Swap(life) != life:
		a.swarm.met.Add(1)
	}
}

// empty is an outbox with nothing in it.
type empty struct{}

func (empty) Cursor() (spool.Cursor, error) {
	return spool.Cursor{Epoch: 1, First: 1, Next: 1}, nil
}
func (e empty) Opened() spool.Cursor                     { c, _ := e.Cursor(); return c }
func (empty) Talks() error                               { return nil }
func (empty) Batch(uint64, int) (*pb.RecordBatch, error) { return &pb.RecordBatch{}, nil }
func (empty) Ack(uint64, uint64) error                   { return nil }
func (empty) Restart(uint64) error                       { return nil }

func (empty) Wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
