package link_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/agent/link"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rackAgent is a fake of the agent behind the link.
type rackAgent struct {
	links   chan bool
	desired chan *pb.Desired
	query   func(ctx context.Context, q *pb.Query, send func(*pb.QueryEvent) error) *pb.QueryEvent_Done
}

func (*rackAgent) Have() (revision uint64, scripts map[string]string) {
	return 7, map[string]string{"base": "d1"}
}

func (a *rackAgent) Desired(_ context.Context, d *pb.Desired) error {
	a.desired <- d
	return nil
}

func (a *rackAgent) Query(ctx context.Context, q *pb.Query, send func(*pb.QueryEvent) error) *pb.QueryEvent_Done {
	return a.query(ctx, q, send)
}

func (*rackAgent) PolicyVersion() uint64 { return 3 }

func (*rackAgent) CatalogueVersion() uint64 { return 7 }

func (*rackAgent) AuditSize() int64 { return 5 }

func (a *rackAgent) Introduce() error  { return nil }
func (a *rackAgent) Leased(*pb.Leased) {}

func (a *rackAgent) Linked(connected bool, _ time.Time) { a.links <- connected }

// world is an agent's link, its spool and the authority of the mesh.
type world struct {
	t     *testing.T
	ca    *ca.Site
	dir   string
	agent *rackAgent
	spool *spool.Spool
	link  *link.Link
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	authority, err := ca.Open(filepath.Join(dir, "ca"), "s1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := spool.Open(filepath.Join(dir, "spool.db"), spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &world{
		t: t, ca: authority, dir: dir, spool: s,
		agent: &rackAgent{links: make(chan bool, 100), desired: make(chan *pb.Desired, 100)},
	}
}

func (w *world) credentials(id trust.Identity) trust.Credentials {
	w.t.Helper()
	dir := filepath.Join(w.dir, id.Name)
	if err := w.ca.Ensure(dir, id, "127.0.0.1"); err != nil {
		w.t.Fatal(err)
	}
	creds, err := trust.Load(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return creds
}

// dial starts the link; it is stopped when the test ends.
func (w *world) dial(addrs ...string) {
	w.t.Helper()
	creds := w.credentials(trust.Identity{Role: trust.Agent, Name: "a1"})
	var err error
	w.link, err = link.New(link.Config{
		Agent: "a1", Rack: "r1", Site: "s1", Build: "test", Coordinators: addrs,
		TLS:     func(context.Context, string) (*tls.Config, error) { return creds.Client(), nil },
		SealKey: func() (public, proof []byte, err error) { return []byte("key"), []byte("proof"), nil },
		Log:     slog.New(slog.DiscardHandler), PingEvery: 200 * time.Millisecond,
	}, w.agent, w.spool)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.link.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			w.t.Errorf("the link ended with %v", err)
		}
	})
}

func (w *world) add(texts ...string) {
	w.t.Helper()
	err := w.spool.Update(func(tx *spool.Tx) error {
		for _, text := range texts {
			tx.Append(time.Now(), &pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Step: text}}})
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) cursor() spool.Cursor {
	w.t.Helper()
	c, err := w.spool.Cursor()
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) expectLinked(want bool) {
	w.t.Helper()
	select {
	case got := <-w.agent.links:
		if got != want {
			w.t.Fatalf("linked: %v, want %v", got, want)
		}
	case <-time.After(20 * time.Second):
		w.t.Fatalf("never linked: %v", want)
	}
}

// coordinator is a real QUIC server that records what agents tell it, in memory,
// by the rules of the mesh: in order, each record once, acks after the fact.
type coordinator struct {
	t        *testing.T
	listener *mesh.Listener
	sessions chan *peer

	mu      sync.Mutex
	next    map[uint64]uint64 // epoch -> next wanted
	epoch   uint64            // the last one that it knows
	steps   []string
	mute    bool // sends no acks
	version uint32
	refuse  *pb.Refusal

	unlessAny bool // whom any coordinator will do is not refused
	refused   int
}

// peer is one session as the coordinator sees it.
type peer struct {
	conn    mesh.Session
	control *mesh.Channel
	hello   *pb.Hello
	pulls   chan *pb.Pull
	tells   chan *pb.Progress
}

func (w *world) coordinator(name string) *coordinator {
	w.t.Helper()
	creds := w.credentials(trust.Identity{Role: trust.Coordinator, Name: name})
	listener, err := mesh.Listen("127.0.0.1:0", creds.Server(trust.Agent), &[32]byte{1})
	if err != nil {
		w.t.Fatal(err)
	}
	c := &coordinator{t: w.t, listener: listener, sessions: make(chan *peer, 100), next: make(map[uint64]uint64), version: 1}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept(context.Background())
			if err != nil {
				return
			}
			wg.Go(func() { c.serve(conn) })
		}
	})
	w.t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	return c
}

func (c *coordinator) serve(conn mesh.Session) {
	var wg sync.WaitGroup
	defer wg.Wait()
	p := &peer{conn: conn, pulls: make(chan *pb.Pull, 100), tells: make(chan *pb.Progress, 100)}
	for {
		stream, err := conn.Accept(context.Background())
		if err != nil {
			return
		}
		wg.Go(func() {
			ch := mesh.NewChannel(stream, 0)
			var open pb.StreamOpen
			if ch.Receive(&open) != nil {
				return
			}
			if open.GetKind() == pb.StreamOpen_CONTROL {
				p.control = ch
				c.talk(p)
			} else {
				c.record(p, ch)
			}
		})
	}
}

func (c *coordinator) talk(p *peer) {
	for {
		var m pb.FromAgent
		if p.control.Receive(&m) != nil {
			return
		}
		switch body := m.GetBody().(type) {
		case *pb.FromAgent_Hello:
			p.hello = body.Hello
			c.welcome(p)
		case *pb.FromAgent_Ping:
			_ = p.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Pong{Pong: &pb.Pong{}}})
		case *pb.FromAgent_Pull:
			p.pulls <- body.Pull
		case *pb.FromAgent_Progress:
			p.tells <- body.Progress
		}
	}
}

func (c *coordinator) welcome(p *peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil && (!c.unlessAny || !p.hello.GetAny()) {
		c.refused++
		_ = p.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Refusal{Refusal: c.refuse}})
		return
	}
	next := max(1, c.next[p.hello.GetSpoolEpoch()])
	if p.hello.GetSpoolEpoch() < c.epoch {
		next = math.MaxUint64
	}
	_ = p.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Welcome{Welcome: &pb.Welcome{
		Version: c.version, NextWanted: next, Coordinator: "c1", SpoolEpoch: c.epoch,
	}}})
	c.sessions <- p
}

func (c *coordinator) record(p *peer, results *mesh.Channel) {
	for {
		var b pb.RecordBatch
		if results.Receive(&b) != nil {
			return
		}
		c.mu.Lock()
		next := max(1, c.next[b.GetSpoolEpoch()])
		for _, r := range b.GetRecords() {
			if r.GetSeq() > next {
				c.t.Errorf("record %d came, %d was the next", r.GetSeq(), next)
			}
			if r.GetSeq() == next {
				next++
				c.steps = append(c.steps, r.GetResult().GetStep())
			}
		}
		c.next[b.GetSpoolEpoch()] = next
		mute := c.mute
		c.mu.Unlock()
		if !mute {
			_ = p.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Ack{Ack: &pb.Ack{SpoolEpoch: b.GetSpoolEpoch(), NextWanted: next}}})
		}
	}
}

func (c *coordinator) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *coordinator) session() *peer {
	c.t.Helper()
	select {
	case p := <-c.sessions:
		return p
	case <-time.After(20 * time.Second):
		c.t.Fatal("no agent came")
		return nil
	}
}

// until waits for something that another goroutine brings about.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func (w *world) expectRecorded(c *coordinator, want ...string) {
	w.t.Helper()
	until(w.t, "the spool is empty", func() bool { cur := w.cursor(); return cur.First == cur.Next })
	c.mu.Lock()
	defer c.mu.Unlock()
	if diff := cmp.Diff(want, c.steps); diff != "" {
		w.t.Errorf("recorded (-want +got):\n%s", diff)
	}
}

func TestHelloTellsWhatTheAgentHas(t *testing.T) {
	w := newWorld(t)
	w.add("a")
	c := w.coordinator("c1")
	w.dial(c.listener.Addr())
	hello := c.session().hello
	cur := w.cursor()
	want := fmt.Sprintf("1 a1 r1 s1 %d 1 2 7 test", cur.Epoch)
	got := fmt.Sprint(hello.GetVersion(), " ", hello.GetAgent(), " ", hello.GetRack(), " ", hello.GetSite(), " ", hello.GetSpoolEpoch(), " ",
		hello.GetFirstUnacked(), " ", hello.GetNextSeq(), " ", hello.GetRevision(), " ", hello.GetBuild())
	if got != want {
		t.Errorf("hello is %s, want %s", got, want)
	}
	w.expectLinked(true)
	if on, since := w.link.Connected(); !on || time.Since(since) > time.Minute {
		t.Errorf("connected: %v since %v", on, since)
	}
	w.expectRecorded(c, "a")
}

func TestRecordsGoUpInOrderWhileTheyCome(t *testing.T) {
	w := newWorld(t)
	c := w.coordinator("c1")
	w.dial(c.listener.Addr())
	var want []string
	for i := range 300 {
		want = append(want, strconv.Itoa(i)+strings.Repeat(" ", 500))
		w.add(want[i])
	}
	w.expectRecorded(c, want...)
}

// The link is cut and healed at any moment; every record arrives once, in order.
func TestCutAndHeal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.coordinator("c1")
	wan := newWAN(t, c.listener.Addr())
	w.dial(wan.addr())
	w.expectLinked(true)
	var want []string
	for i := range 4 {
		wan.cut(true)
		for j := range 20 {
			want = append(want, fmt.Sprintf("%d.%d", i, j))
			w.add(want[len(want)-1])
		}
		w.expectLinked(false)
		if on, _ := w.link.Connected(); on {
			t.Error("it counts as connected over a cut link")
		}
		wan.cut(false)
		w.expectLinked(true)
		want = append(want, fmt.Sprintf("%d healed", i))
		w.add(want[len(want)-1])
	}
	w.expectRecorded(c, want...)
}

func TestLostAcksAreMadeUpFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.coordinator("c1")
	c.set(func() { c.mute = true })
	w.dial(c.listener.Addr())
	first := c.session()
	w.add("a", "b")
	<-first.conn.Done() // it gives a session up whose acks do not come
	c.set(func() { c.mute = false })
	w.expectRecorded(c, "a", "b")
}

func TestRolledBackDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.coordinator("c1")
	old := w.cursor().Epoch
	c.set(func() { c.next[old] = 50 })
	w.add("kept")
	w.dial(c.listener.Addr())
	w.expectRecorded(c, "kept")
	if now := w.cursor().Epoch; now <= old {
		t.Errorf("the epoch is %d after %d", now, old)
	}
}

// A new disk in a machine whose clock is behind: its epoch is below the one that
// the coordinators know, and the clock is no help in finding one above.
func TestNewDiskAndAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.coordinator("c1")
	known := w.cursor().Epoch + 1<<50
	c.set(func() { c.epoch = known })
	w.add("kept")
	w.dial(c.listener.Addr())
	w.expectRecorded(c, "kept")
	if now := w.cursor().Epoch; now <= known {
		t.Errorf("the epoch is %d, the coordinators know %d", now, known)
	}
}

func TestCoordinatorsThatForgot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("gone", "kept")
	old := w.cursor().Epoch
	if err := w.spool.Ack(old, 2); err != nil {
		t.Fatal(err)
	}
	c := w.coordinator("c1")
	w.dial(c.listener.Addr())
	w.expectRecorded(c, "kept")
	if now := w.cursor().Epoch; now <= old {
		t.Errorf("the epoch is %d after %d", now, old)
	}
}

func TestPullsAtOnceAndOnHint(t *testing.T) {
	w := newWorld(t)
	c := w.coordinator("c1")
	w.dial(c.listener.Addr())
	p := c.session()
	if diff := cmp.Diff(map[string]string{"base": "d1"}, (<-p.pulls).GetHave()); diff != "" {
		t.Error(diff)
	}
	for revision := range uint64(3) {
		if err := p.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Hint{Hint: &pb.Hint{Revision: revision}}}); err != nil {
			t.Fatal(err)
		}
		<-p.pulls
		if err := p.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Desired{Desired: &pb.Desired{Revision: revision}}}); err != nil {
			t.Fatal(err)
		}
		if d := <-w.agent.desired; d.GetRevision() != revision {
			t.Errorf("the agent got revision %d, want %d", d.GetRevision(), revision)
		}
	}
}

func TestProgressGoesUp(t *testing.T) {
	w := newWorld(t)
	c := w.coordinator("c1")
	w.dial(c.listener.Addr())
	p := c.session()
	w.link.Progress(&pb.Progress{Run: "R1", Done: 3})
	if got := <-p.tells; got.GetRun() != "R1" || got.GetDone() != 3 {
		t.Errorf("progress is %v", got)
	}
}

func TestNextCoordinator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bad, old, good := w.coordinator("bad"), w.coordinator("old"), w.coordinator("good")
	bad.set(func() { bad.refuse = &pb.Refusal{Kind: "denied", Error: "not here"} })
	old.set(func() { old.version = 9 })
	w.dial(bad.listener.Addr(), old.listener.Addr(), good.listener.Addr())
	p := good.session()
	w.expectLinked(true)
	if err := p.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Drain{Drain: &pb.Drain{Reason: "upgrade"}}}); err != nil {
		t.Fatal(err)
	}
	w.expectLinked(false)
	good.session() // the others still can't have it
	w.expectLinked(true)
}

// An agent that is sent away, and that nobody else takes, says that any will do; only
// then is it let in again.
func TestNobodyIsLed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.coordinator("one"), w.coordinator("two")
	for _, c := range []*coordinator{one, two} {
		c.set(func() { c.refuse, c.unlessAny = &pb.Refusal{Kind: "unavailable", Error: "no leader"}, true })
	}
	w.dial(one.listener.Addr(), two.listener.Addr())
	w.expectLinked(true)
	for _, c := range []*coordinator{one, two} {
		c.set(func() {
			if c.refused == 0 {
				t.Error("a coordinator was not asked before any would do")
			}
		})
	}
}

func TestStranger(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := newWorld(t) // another mesh
	w.dial(other.coordinator("c1").listener.Addr())
	select {
	case on := <-w.agent.links:
		t.Errorf("linked to a coordinator of another mesh: %v", on)
	case <-time.After(700 * time.Millisecond):
	}
}

func ask(t *testing.T, p *peer, q *pb.Query) *mesh.Channel {
	t.Helper()
	stream, err := p.conn.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ch := mesh.NewChannel(stream, 0)
	if err := ch.Send(&pb.StreamOpen{Kind: pb.StreamOpen_QUERY}); err != nil {
		t.Fatal(err)
	}
	if err := ch.Send(q); err != nil {
		t.Fatal(err)
	}
	return ch
}

func TestQueries(t *testing.T) {
	w := newWorld(t)
	w.agent.query = func(ctx context.Context, q *pb.Query, send func(*pb.QueryEvent) error) *pb.QueryEvent_Done {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("a query without a deadline")
		}
		for i := range 3 {
			if err := send(&pb.QueryEvent{Body: &pb.QueryEvent_Change{Change: &pb.Change{Path: fmt.Sprint(q.GetId(), i)}}}); err != nil {
				t.Error(err)
			}
		}
		return &pb.QueryEvent_Done{Nodes: 2}
	}
	c := w.coordinator("c1")
	w.dial(c.listener.Addr())
	p := c.session()
	for n := range 20 { // one after the other: the slots come back
		ch := ask(t, p, &pb.Query{Id: fmt.Sprint("q", n, ".")})
		var got []string
		for {
			var e pb.QueryEvent
			if err := ch.Receive(&e); err != nil {
				t.Fatal(err)
			}
			if d := e.GetDone(); d != nil {
				if d.GetNodes() != 2 {
					t.Errorf("done: %v", d)
				}
				break
			}
			got = append(got, e.GetChange().GetPath())
		}
		want := []string{fmt.Sprint("q", n, ".0"), fmt.Sprint("q", n, ".1"), fmt.Sprint("q", n, ".2")}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		_ = ch.Close()
	}
}

func TestTooManyQueries(t *testing.T) {
	w := newWorld(t)
	asked, ended := make(chan bool, 20), make(chan bool, 20)
	w.agent.query = func(ctx context.Context, _ *pb.Query, _ func(*pb.QueryEvent) error) *pb.QueryEvent_Done {
		asked <- true
		<-ctx.Done()
		ended <- true
		return &pb.QueryEvent_Done{}
	}
	c := w.coordinator("c1")
	w.dial(c.listener.Addr())
	p := c.session()
	var open []*mesh.Channel
	for range 8 {
		open = append(open, ask(t, p, &pb.Query{}))
		<-asked
	}
	var e pb.QueryEvent
	if err := ask(t, p, &pb.Query{}).Receive(&e); err != nil || e.GetDone().GetKind() != "unavailable" || e.GetDone().GetHint() == "" {
		t.Errorf("the ninth was told %v, %v", &e, err)
	}
	_ = open[0].Close() // who asked goes away: the work ends
	<-ended
}

func TestNoCoordinators(t *testing.T) {
	if _, err := link.New(link.Config{}, nil, nil); err == nil {
		t.Error("a link to nobody")
	}
}
