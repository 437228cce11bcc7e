package raftnode_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/peers"
	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// three is a group on loopback and the temporary directory's disk, and its leader.
func three(b *testing.B) (leader, follower *raftnode.Node) {
	b.Helper()
	dir := b.TempDir()
	authority, err := ca.Open(filepath.Join(dir, "ca"), "s1")
	if err != nil {
		b.Fatal(err)
	}
	var nodes []*raftnode.Node
	var join []string
	log := slog.New(slog.DiscardHandler)
	for i := range 3 {
		name := fmt.Sprint("c", i+1)
		certs := filepath.Join(dir, "certs", name)
		if err = authority.Ensure(certs, trust.Identity{Role: trust.Coordinator, Name: name}, "127.0.0.1"); err != nil {
			b.Fatal(err)
		}
		creds, err := trust.Load(certs)
		if err != nil {
			b.Fatal(err)
		}
		p, err := peers.Listen(peers.Config{Name: name, Addr: "127.0.0.1:0", Server: creds.Server(trust.Coordinator), Client: creds.Client(), Log: log})
		if err != nil {
			b.Fatal(err)
		}
		n, err := raftnode.Open(raftnode.Config{Dir: filepath.Join(dir, name), Name: name, Machine: state.New(), Wire: p, Expect: 3, Join: join, Log: log})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = p.Run(ctx, handler{n}) })
		running.Go(func() { _ = n.Run(ctx) })
		b.Cleanup(func() {
			cancel()
			_ = n.Close()
			_ = p.Close()
			running.Wait()
		})
		nodes, join = append(nodes, n), append(join, p.Addr())
	}
	for _, n := range nodes {
		<-n.Ready()
	}
	for {
		for i, n := range nodes {
			if n.Leads() {
				return n, nodes[(i+1)%3]
			}
		}
	}
}

func mark() *pb.Command { return &pb.Command{Body: &pb.Command_Mark{Mark: &pb.Mark{}}} }

// BenchmarkCommit is one commit after the other, through the leader and through a
// follower. The goal is 1 ms at the median, at the leader.
func BenchmarkCommit(b *testing.B) {
	leader, follower := three(b)
	for _, c := range []struct {
		name string
		node *raftnode.Node
	}{{"leader", leader}, {"follower", follower}} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if _, err := c.node.Propose(b.Context(), mark()); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
		})
	}
}

// BenchmarkCommits is many callers at once, through the leader, through a follower and
// through all three. The goal is 30,000 commands a second with 512 of them.
func BenchmarkCommits(b *testing.B) {
	leader, follower := three(b)
	for _, at := range []struct {
		name  string
		nodes []*raftnode.Node
	}{{"leader", []*raftnode.Node{leader}}, {"follower", []*raftnode.Node{follower}}, {"both", []*raftnode.Node{leader, follower}}} {
		for _, callers := range []int{64, 512} {
			b.Run(fmt.Sprint(at.name, "/", callers), func(b *testing.B) {
				var which atomic.Int64
				b.SetParallelism(callers / runtime.GOMAXPROCS(0))
				b.RunParallel(func(p *testing.PB) {
					node := at.nodes[int(which.Add(1))%len(at.nodes)]
					for p.Next() {
						if _, err := node.Propose(context.Background(), mark()); err != nil {
							b.Error(err)
							return
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
			})
		}
	}
}
