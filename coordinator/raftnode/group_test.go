package raftnode_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/peers"
	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// group is some coordinators' logs in one process, with their own sockets.
type group struct {
	t         *testing.T
	authority *ca.Site
	members   map[string]*member
	alive     sync.RWMutex // for who reads the members while they are killed and started
	stable    time.Duration
	dead      time.Duration
	network   *network                                          // between them; nil: nothing ever fails
	room      func(name string) (free, total uint64, err error) // nil: what there is
}

// member is one of them. It may be down.
type member struct {
	dir, addr string
	node      *raftnode.Node
	machine   *state.Machine
	began     time.Time
	kill      func() // in an instant, as far as the others can see
}

// handler is a node as the others see it.
type handler struct{ *raftnode.Node }

func (handler) Artifact(context.Context, *mesh.Channel) {}

func (handler) Query(context.Context, string, *pb.Query, func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	return nil, errors.New("no agents here")
}

func newGroup(t *testing.T) *group {
	t.Helper()
	authority, err := ca.Open(t.TempDir(), "s1")
	if err != nil {
		t.Fatal(err)
	}
	return &group{t: t, authority: authority, members: map[string]*member{}}
}

// founded is a group of three that has begun.
func founded(t *testing.T) *group {
	t.Helper()
	g := newGroup(t)
	var join []string
	for i := range 3 {
		name := fmt.Sprintf("c%d", i+1)
		g.start(name, 3, join...)
		join = append(join, g.members[name].addr)
	}
	g.ready()
	return g
}

func (g *group) credentials(name string) trust.Credentials {
	g.t.Helper()
	dir := g.t.TempDir()
	if err := g.authority.Ensure(dir, trust.Identity{Role: trust.Coordinator, Name: name}, "127.0.0.1"); err != nil {
		g.t.Fatal(err)
	}
	c, err := trust.Load(dir)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// start starts a member, anew or on the directory and address that it had.
func (g *group) start(name string, expect int, join ...string) *member {
	g.t.Helper()
	m, err := g.open(name, expect, join...)
	if err != nil {
		g.t.Fatal(err)
	}
	return m
}

// open is start, which may fail.
func (g *group) open(name string, expect int, join ...string) (*member, error) {
	g.t.Helper()
	m := g.members[name]
	if m == nil {
		m = &member{dir: g.t.TempDir(), addr: "127.0.0.1:0"}
		g.members[name] = m
	}
	creds := g.credentials(name)
	log := slog.New(slog.DiscardHandler)
	p, err := peers.Listen(peers.Config{Name: name, Addr: m.addr, Server: creds.Server(trust.Coordinator), Client: creds.Client(), Log: log})
	if err != nil {
		g.t.Fatal(err)
	}
	g.alive.Lock()
	defer g.alive.Unlock()
	m.addr, m.machine, m.began = p.Addr(), state.New(), time.Now()
	conf := raftnode.Config{Dir: m.dir, Name: name, Machine: m.machine, Wire: p, Expect: expect, Join: join, CheckEvery: 10, StableAfter: g.stable, DeadAfter: g.dead, Log: log}
	if g.network != nil {
		conf.Wire = behind{p, g.network}
	}
	if g.room != nil {
		conf.Room = func() (uint64, uint64, error) { return g.room(name) }
	}
	node, err := raftnode.Open(conf)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	m.node = node
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx, handler{node}); err != nil {
			g.t.Errorf("the peers of %s: %v", name, err)
		}
	})
	running.Go(func() {
		if err := node.Run(ctx); err != nil {
			g.t.Errorf("the node %s: %v", name, err)
		}
	})
	m.kill = sync.OnceFunc(func() {
		g.alive.Lock()
		m.node = nil
		g.alive.Unlock()
		_ = p.Close() // first: a killed process says goodbye to nobody
		cancel()
		_ = node.Close()
		running.Wait()
	})
	g.t.Cleanup(m.kill)
	return m, nil
}

func (g *group) ready() {
	g.t.Helper()
	for name, m := range g.members {
		if m.node == nil {
			continue
		}
		select {
		case <-m.node.Ready():
		case <-time.After(20 * time.Second):
			g.t.Fatalf("%s is not ready: %+v", name, m.node.Status())
		}
	}
}

// leader is the member that leads.
func (g *group) leader() (name string, m *member) {
	g.t.Helper()
	g.until("somebody leads", func() bool {
		for n, one := range g.members {
			if one.node != nil && one.node.Status().State == "Leader" {
				name, m = n, one
				return true
			}
		}
		return false
	})
	return name, m
}

// follower is one that does not lead.
func (g *group) follower() (name string, m *member) {
	leads, _ := g.leader()
	for _, n := range g.names() {
		if n != leads && g.members[n].node != nil {
			return n, g.members[n]
		}
	}
	g.t.Fatal("there is no follower")
	return "", nil
}

func (g *group) names() []string {
	var all []string
	for n := range g.members {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

func (g *group) until(what string, is func() bool) {
	g.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for over := time.After(20 * time.Second); !is(); {
		select {
		case <-tick.C:
		case <-over:
			for n, m := range g.members {
				if m.node != nil {
					g.t.Logf("%s: %+v", n, m.node.Status())
				}
			}
			g.t.Fatalf("it did not happen: %s", what)
		}
	}
}

// put commits a script through a member and finds it there.
func (g *group) put(m *member, name string) {
	g.t.Helper()
	o, err := m.node.Propose(g.t.Context(), script(name))
	if err != nil || o.Err != nil || o.Script.GetName() != name {
		g.t.Fatalf("put %s: %v, %+v", name, err, o)
	}
	if !has(m, name) {
		g.t.Errorf("%s is not where it was put", name)
	}
}

func has(m *member, script string) bool {
	_, ok := m.machine.Script(script)
	return ok
}

// same waits until all that live hold the same state.
func (g *group) same() {
	g.t.Helper()
	g.until("all have the same state", func() bool {
		hashes := map[string]bool{}
		for _, m := range g.members {
			if m.node == nil {
				continue
			}
			h, err := m.machine.Hash()
			if err != nil {
				g.t.Fatal(err)
			}
			hashes[h] = true
		}
		return len(hashes) == 1
	})
}

func TestThreeBeginAGroup(t *testing.T) {
	g := founded(t)
	for _, name := range g.names() {
		g.put(g.members[name], "by-"+name)
		s := g.members[name].node.Status()
		if len(s.Members) != 3 || s.Leader == "" {
			t.Errorf("%s: %+v", name, s)
		}
	}
	g.same()
}

// Whoever is asked, a command that was reported is there after the leader is
// killed, once, and what is asked meanwhile is done by the next one.
func TestTheLeaderIsKilled(t *testing.T) {
	g := founded(t)
	_, asked := g.follower()
	leads, leader := g.leader()
	var writers sync.WaitGroup
	begun := make(chan struct{}, 4)
	for w := range 4 {
		writers.Go(func() {
			for i := range 50 {
				name := fmt.Sprintf("w%d-%d", w, i)
				o, err := asked.node.Propose(context.Background(), script(name))
				if err != nil || o.Err != nil {
					t.Errorf("%s: %v, %v", name, err, o.Err)
					begun <- struct{}{}
					return
				}
				if i == 5 {
					begun <- struct{}{}
				}
			}
		})
	}
	<-begun
	at := time.Now()
	var killing sync.WaitGroup
	killing.Go(leader.kill)
	g.put(asked, "after")
	t.Logf("the first command after the leader's death took %s", time.Since(at).Round(time.Millisecond))
	writers.Wait()
	killing.Wait()
	if got := len(asked.machine.Scripts()); got != 201 {
		t.Errorf("%d scripts, want 201", got)
	}
	g.start(leads, 3)
	g.ready()
	g.same()
}

func TestALeaderThatStopsYields(t *testing.T) {
	g := founded(t)
	_, asked := g.follower()
	_, leader := g.leader()
	if err := leader.node.Close(); err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	g.put(asked, "after")
	if took := time.Since(at); took > 400*time.Millisecond {
		t.Errorf("the first command after it took %s: as long as an election", took)
	}
}

// Two of three decide; one of three does not, says so in time, and tells what it
// knows all the same.
func TestAMinorityDecidesNothing(t *testing.T) {
	g := founded(t)
	g.put(g.members["c1"], "kept")
	g.same()
	_, last := g.follower()
	for _, m := range g.members {
		if m != last {
			m.kill()
		}
	}
	g.until("it knows no leader", func() bool { return last.node.Status().Leader == "" })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := last.node.Propose(ctx, script("lost")); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "no leader") || fault.HintOf(err) == "" {
		t.Errorf("it says %v, hint %q", err, fault.HintOf(err))
	}
	if !has(last, "kept") || has(last, "lost") {
		t.Error("it does not know what it knew")
	}
	if s := last.node.Status(); s.Leader != "" || s.Behind == 0 {
		t.Errorf("it thinks that %+v", s)
	}
}

// One more joins a group that works, gets all of it, even what is only in a
// snapshot any more, and can be taken out again.
func TestOneJoinsAndOneLeaves(t *testing.T) {
	g := founded(t)
	for i := range 20 {
		g.put(g.members["c1"], fmt.Sprint("s", i))
	}
	for _, m := range g.members {
		if err := m.node.Snapshot(); err != nil {
			t.Fatal(err)
		}
	}
	_, f := g.follower()
	fresh := g.start("c4", 0, f.addr)
	g.ready()
	g.same()
	if n := len(fresh.node.Status().Members); n != 4 {
		t.Errorf("it sees %d members", n)
	}
	g.put(fresh, "by-c4")
	_, f = g.follower()
	if err := f.node.Remove(t.Context(), "c4"); err != nil {
		t.Fatal(err)
	}
	fresh.kill()
	g.until("c4 is out", func() bool { return len(f.node.Status().Members) == 3 })
	if err := f.node.Remove(t.Context(), "c9"); !fault.Is(err, fault.NotFound) {
		t.Errorf("removing nobody: %v", err)
	}
}

// A coordinator of the mesh that is not of the group can't speak for it.
func TestAStrangerIsNoMember(t *testing.T) {
	g := founded(t)
	_, leader := g.leader()
	creds := g.credentials("c9")
	p, err := peers.Listen(peers.Config{Name: "c9", Addr: "127.0.0.1:0", Server: creds.Server(trust.Coordinator), Client: creds.Client(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	for _, c := range []struct {
		want string
		call *pb.PeerCall
	}{
		{"no member of the group", &pb.PeerCall{Body: &pb.PeerCall_Commit{Commit: &pb.Commit{}}}},
		{"no member of the group", &pb.PeerCall{Body: &pb.PeerCall_Remove{Remove: &pb.Remove{Name: "c1"}}}},
		{`it says it is "c1"`, &pb.PeerCall{Body: &pb.PeerCall_Join{Join: &pb.Join{Peer: &pb.Peer{Name: "c1", Addr: p.Addr()}}}}},
		{`its certificate is of "c9"`, &pb.PeerCall{Body: &pb.PeerCall_Meet{Meet: &pb.Meet{Name: "c2", Addr: p.Addr()}}}},
		{"what this version does not", &pb.PeerCall{}},
	} {
		r, callErr := p.Call(t.Context(), leader.addr, c.call)
		if callErr != nil || !strings.Contains(r.GetError(), c.want) {
			t.Errorf("%v is answered %q, %v; want %q", c.call, r.GetError(), callErr, c.want)
		}
	}
	conn, err := p.Dial(leader.addr, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("it may speak Raft: %d bytes", n)
	}
}

func TestTooManyBegin(t *testing.T) {
	g := newGroup(t)
	first := g.start("c1", 2)
	second := g.start("c2", 3, first.addr)
	for _, m := range []*member{first, second} {
		select {
		case <-m.node.Ready():
			t.Error("they began without agreeing how many they are")
		case <-time.After(700 * time.Millisecond): // some meetings
		}
	}
}
