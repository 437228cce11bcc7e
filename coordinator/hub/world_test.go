package hub_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/coordinator/feed"
	"github.com/chiba-mesh/chiba/coordinator/hub"
	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// world is a hub behind a real QUIC listener, before a real Raft log.
type world struct {
	t       *testing.T
	hub     *hub.Hub
	machine *state.Machine
	node    *raftnode.Node
	feed    *feed.Feed
	ca      *ca.Site
	denied  trust.Denials
	dir     string
	addr    string
	stop    func()
	mute    atomic.Bool // nothing can be decided
	lost    atomic.Bool // nobody leads
}

// commands are the log, while something can be decided.
type commands struct{ w *world }

func (c commands) Propose(ctx context.Context, m *pb.Command) (state.Outcome, error) {
	if c.w.mute.Load() {
		return state.Outcome{}, fault.New(fault.Unavailable, "commit", "no leader")
	}
	return c.w.node.Propose(ctx, m)
}

func newWorld(t *testing.T, idle time.Duration) *world {
	t.Helper()
	return openWorld(t, hub.Config{Idle: idle})
}

func newWorldWithLease(t *testing.T, lease time.Duration) *world {
	t.Helper()
	return openWorld(t, hub.Config{Lease: lease})
}

func openWorld(t *testing.T, conf hub.Config) *world {
	t.Helper()
	w := &world{t: t, machine: state.New(), feed: feed.New(), dir: t.TempDir()}
	var err error
	if w.ca, err = ca.Open(filepath.Join(w.dir, "ca"), "s1"); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	w.node, err = raftnode.Open(raftnode.Config{
		Dir: filepath.Join(w.dir, "raft"), Name: "c1", Machine: w.machine, Log: log,
		Applied: func(o state.Outcome) {
			w.feed.Publish(o.Events...)
			w.feed.Touch(o.Runs...)
			w.denied.Set(wire.FromDenials(w.machine.Denied()))
			w.hub.Applied(o)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := trust.NewEndpoint(w.credentials(trust.Coordinator, "c1"), trust.Options{Denied: &w.denied})
	conf.Name, conf.Machine, conf.Commands, conf.Watchers, conf.Log = "c1", w.machine, commands{w}, w.feed, log
	conf.Endpoint, conf.Denied, conf.Authority = endpoint, &w.denied, w.ca
	conf.Led, conf.Leaderless = func() bool { return !w.lost.Load() }, 100*time.Millisecond
	w.hub = hub.New(conf)
	listener, err := mesh.Listen("127.0.0.1:0", endpoint.Server(trust.Agent), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.addr = listener.Addr()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- w.node.Run(ctx) }()
	go func() { ended <- w.hub.Run(ctx, listener) }()
	<-w.node.Ready()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, <-ended, listener.Close(), w.node.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

func (w *world) credentials(role trust.Role, name string) trust.Credentials {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	id := trust.Identity{Role: role, Name: name}
	if role == trust.Agent { // "a-r1" or "a9"
		id.Rack = strings.TrimPrefix(strings.TrimPrefix(strings.Replace(name, "a9", "a-r9", 1), "a-"), "b-")
	}
	if err := w.ca.Ensure(dir, id, "127.0.0.1"); err != nil {
		w.t.Fatal(err)
	}
	creds, err := trust.Load(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return creds
}

// agent is one connection of a fake agent.
type agent struct {
	t       *testing.T
	conn    mesh.Session
	control *mesh.Channel
	results *mesh.Channel
	next    uint64
	asks    uint64 // for leases
}

func (w *world) dial(name string) *agent {
	w.t.Helper()
	a := &agent{t: w.t, conn: w.session(name)}
	a.control = a.open(pb.StreamOpen_CONTROL)
	return a
}

// session may be one that the hub ends at once.
func (w *world) session(name string) mesh.Session {
	w.t.Helper()
	conn, err := mesh.Dial(w.t.Context(), w.addr, w.credentials(trust.Agent, name).Client())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close("test over") })
	return conn
}

func (a *agent) open(kind pb.StreamOpen_Kind) *mesh.Channel {
	a.t.Helper()
	stream, err := a.conn.Open(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	ch := mesh.NewChannel(stream, 0)
	if err := ch.Send(&pb.StreamOpen{Kind: kind}); err != nil {
		a.t.Fatal(err)
	}
	return ch
}

func hello(name, rack string) *pb.Hello {
	return &pb.Hello{Version: 1, Agent: name, Rack: rack, Site: "s1", SpoolEpoch: 7, FirstUnacked: 1, NextSeq: 1, Build: "test"}
}

func (a *agent) say(m *pb.FromAgent) {
	a.t.Helper()
	if err := a.control.Send(m); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) greet(h *pb.Hello) { a.say(&pb.FromAgent{Body: &pb.FromAgent_Hello{Hello: h}}) }

// hear is the next message of the coordinator.
func (a *agent) hear() (*pb.FromCoordinator, error) {
	if err := a.control.SetReceiveDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	m := &pb.FromCoordinator{}
	return m, a.control.Receive(m)
}

func (a *agent) expect(body func(*pb.FromCoordinator) bool) *pb.FromCoordinator {
	a.t.Helper()
	m, err := a.hear()
	if err != nil || !body(m) {
		a.t.Fatalf("heard %v, %v", m, err)
	}
	return m
}

func (a *agent) welcome() *pb.Welcome {
	a.t.Helper()
	return a.expect(func(m *pb.FromCoordinator) bool { return m.GetWelcome() != nil }).GetWelcome()
}

// join connects an agent of the name a-RACK.
func (w *world) join(rack string) *agent {
	w.t.Helper()
	a := w.dial("a-" + rack)
	a.greet(hello("a-"+rack, rack))
	a.next = a.welcome().GetNextWanted()
	return a
}

// report sends records and waits until they are acknowledged.
func (a *agent) report(records ...*pb.Record) {
	a.t.Helper()
	if a.results == nil {
		a.results = a.open(pb.StreamOpen_RESULTS)
	}
	for _, r := range records {
		r.Seq = a.next
		a.next++
	}
	if err := a.results.Send(&pb.RecordBatch{SpoolEpoch: 7, Records: records}); err != nil {
		a.t.Fatal(err)
	}
	for {
		m, err := a.hear()
		if err != nil {
			a.t.Fatal(err)
		}
		if ack := m.GetAck(); ack.GetNextWanted() == a.next && ack.GetSpoolEpoch() == 7 {
			return
		}
	}
}

// ends waits until the coordinator has ended the session, and tells the refusal,
// if there was one.
func (a *agent) ends() *pb.Refusal {
	a.t.Helper()
	for {
		m, err := a.hear()
		if r := m.GetRefusal(); r != nil {
			a.conn.Close("refused")
			return r
		}
		if err != nil {
			select {
			case <-a.conn.Done():
			case <-time.After(patience):
				a.t.Fatalf("the stream has ended with %v, the session lives", err)
			}
			return nil
		}
	}
}

// fine checks that another agent is served as if nothing had happened.
func (a *agent) fine() {
	a.t.Helper()
	a.say(&pb.FromAgent{Body: &pb.FromAgent_Ping{Ping: &pb.Ping{SentUnixMs: 5}}})
	a.expect(func(m *pb.FromCoordinator) bool { return m.GetPong().GetSentUnixMs() == 5 })
	a.report(node("n1"))
}

func node(name string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Node{Node: &pb.Node{Name: name, Bmc: "b-" + name, State: "ready"}}}
}

func (w *world) commit(c *pb.Command) state.Outcome {
	w.t.Helper()
	o, err := w.node.Propose(w.t.Context(), c)
	if err = errors.Join(err, o.Err); err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *world) apply(name, source string, racks ...string) state.Outcome {
	w.t.Helper()
	digest := order.Digest([]byte(source))
	run := &pb.Run{Source: []byte(source), Digest: digest}
	for _, r := range racks {
		run.Racks = append(run.Racks, &pb.RackRun{Rack: r})
	}
	s := &pb.Script{Name: name, Source: []byte(source), Digest: digest}
	return w.commit(&pb.Command{Body: &pb.Command_ApplyScript{ApplyScript: &pb.ApplyScript{Script: s, Run: run}}})
}

func (a *agent) pull(have map[string]string) *pb.Desired {
	a.t.Helper()
	a.say(&pb.FromAgent{Body: &pb.FromAgent_Pull{Pull: &pb.Pull{Have: have}}})
	return a.expect(func(m *pb.FromCoordinator) bool { return m.GetDesired() != nil }).GetDesired()
}
