package coordinator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/coordinator"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/sign/signtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// world is a mesh in a directory.
type world struct {
	authors *signtest.Authors
	t       *testing.T
	dir     string
	ca      *ca.Site
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	var err error
	if w.authors, err = signtest.New(filepath.Join(w.dir, "authors")); err != nil {
		t.Fatal(err)
	}
	if w.ca, err = ca.Open(filepath.Join(w.dir, "ca"), "s1"); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) credentials(role trust.Role, name string) trust.Credentials {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	id := trust.Identity{Role: role, Name: name}
	if role == trust.Agent {
		id.Rack = name
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

func (w *world) config() coordinator.Config {
	return coordinator.Config{
		Dir: filepath.Join(w.dir, "c1"), MeshAddr: "127.0.0.1:0", APIAddr: "127.0.0.1:0", Build: "test",
		Credentials: w.credentials(trust.Coordinator, "c1"), Log: slog.New(slog.DiscardHandler),
		Root: w.authors.Root, Policy: w.authors.Signed(1, 1),
	}
}

// running is a coordinator that serves.
type running struct {
	*coordinator.Coordinator
	authors *signtest.Authors
	fleet   pbconnect.FleetClient
	stop    func()
}

func (w *world) start(conf coordinator.Config) *running {
	w.t.Helper()
	r := w.launch(conf)
	w.ready(r)
	return r
}

func (w *world) ready(r *running) {
	w.t.Helper()
	select {
	case <-r.Ready():
	case <-time.After(patience):
		w.t.Fatal("it is not ready")
	}
}

// launch starts a coordinator and does not wait for it.
func (w *world) launch(conf coordinator.Config) *running {
	w.t.Helper()
	c, err := coordinator.New(conf)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	r := &running{Coordinator: c, authors: w.authors}
	transport := &http.Transport{TLSClientConfig: w.credentials(trust.Operator, "ada").Client(), ForceAttemptHTTP2: true}
	r.stop = sync.OnceFunc(func() {
		cancel()
		transport.CloseIdleConnections()
		select {
		case err := <-ended:
			if err != nil {
				w.t.Error(err)
			}
		case <-time.After(patience):
			w.t.Error("it does not stop")
		}
	})
	w.t.Cleanup(r.stop)
	r.fleet = pbconnect.NewFleetClient(&http.Client{Transport: transport}, "https://"+c.APIAddr())
	return r
}

// rack is a fake agent that does whatever its rack shall do, at once.
type rack struct {
	t       *testing.T
	conn    mesh.Session
	control *mesh.Channel
	results *mesh.Channel
	next    uint64
	did     []string
}

func (w *world) rack(c *running, name string) *rack {
	w.t.Helper()
	conn, err := mesh.Dial(w.t.Context(), c.MeshAddr(), w.credentials(trust.Agent, name).Client())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close("test over") })
	r := &rack{t: w.t, conn: conn}
	r.control = r.open(pb.StreamOpen_CONTROL)
	r.say(&pb.FromAgent{Body: &pb.FromAgent_Hello{Hello: &pb.Hello{Version: 1, Agent: name, Rack: name, SpoolEpoch: 1, FirstUnacked: 1, NextSeq: 1}}})
	r.next = r.hear().GetWelcome().GetNextWanted()
	r.results = r.open(pb.StreamOpen_RESULTS)
	return r
}

func (r *rack) open(kind pb.StreamOpen_Kind) *mesh.Channel {
	r.t.Helper()
	stream, err := r.conn.Open(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	ch := mesh.NewChannel(stream, 0)
	if err := ch.Send(&pb.StreamOpen{Kind: kind}); err != nil {
		r.t.Fatal(err)
	}
	return ch
}

func (r *rack) say(m *pb.FromAgent) {
	r.t.Helper()
	if err := r.control.Send(m); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rack) hear() *pb.FromCoordinator {
	r.t.Helper()
	if err := r.control.SetReceiveDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	var m pb.FromCoordinator
	if err := r.control.Receive(&m); err != nil {
		r.t.Fatal(err)
	}
	return &m
}

func (r *rack) report(records ...*pb.Record) {
	r.t.Helper()
	for _, rec := range records {
		rec.Seq = r.next
		r.next++
	}
	if err := r.results.Send(&pb.RecordBatch{SpoolEpoch: 1, Records: records}); err != nil {
		r.t.Fatal(err)
	}
	for r.hear().GetAck().GetNextWanted() != r.next { // between hints
	}
}

// work pulls and does every run there is.
func (r *rack) work() {
	r.t.Helper()
	r.say(&pb.FromAgent{Body: &pb.FromAgent_Pull{Pull: &pb.Pull{}}})
	var d *pb.Desired
	for d == nil {
		d = r.hear().GetDesired()
	}
	for _, run := range d.GetRuns() {
		r.did = append(r.did, run.GetId())
		r.report(
			&pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Run: run.GetId(), Node: "n1", Status: "confirmed"}}},
			&pb.Record{Body: &pb.Record_Done{Done: &pb.RackRunDone{Run: run.GetId(), Nodes: 1, Ok: 1}}},
		)
	}
}

func (r *rack) serves(node string) {
	r.t.Helper()
	r.report(&pb.Record{Body: &pb.Record_Node{Node: &pb.Node{Name: node, Bmc: "b-" + node, State: "ready"}}})
}

func (c *running) apply(t *testing.T, q *pb.ApplyRequest) *pb.ApplyReply {
	t.Helper()
	answer, err := c.fleet.Apply(t.Context(), connect.NewRequest(q))
	if err != nil || answer.Msg.GetDiagnostics() != nil {
		t.Fatalf("apply: %v, %v", answer, err)
	}
	return answer.Msg
}

const powerOn = `(config all (power (state "on")))`

func TestFromTheScriptToItsResult(t *testing.T) {
	w := newWorld(t)
	c := w.start(w.config())
	r := w.rack(c, "r1")
	r.serves("n1")
	run := c.apply(t, c.authors.Apply("night", powerOn)).GetRun()
	stream, err := c.fleet.WatchRun(t.Context(), connect.NewRequest(&pb.WatchRunRequest{Id: run.GetId()}))
	if err != nil {
		t.Fatal(err)
	}
	r.work()
	var got []string
	for stream.Receive() {
		switch b := stream.Msg().GetBody().(type) {
		case *pb.RunEvent_Run:
			if n := len(got); n == 0 || got[n-1] != b.Run.GetState() {
				got = append(got, b.Run.GetState())
			}
		case *pb.RunEvent_Result:
			got = append(got, "result of "+b.Result.GetNode())
		}
	}
	if err = errors.Join(stream.Err(), stream.Close()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"running", "result of n1", "done"}, got); diff != "" {
		t.Error(diff)
	}
	status, err := c.fleet.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
	if s := status.Msg; err != nil || s.GetCoordinator() != "c1" || s.GetRaftState() != "Leader" || s.GetConnected() != 1 || s.GetNodes() != 1 || s.GetRevision() != 2 || s.GetBuild() != "test" {
		t.Errorf("status %v, %v", status, err)
	}
}

// A coordinator that stops and starts again goes on where it was; so does the
// agent's spool.
func TestARestart(t *testing.T) {
	w := newWorld(t)
	c := w.start(w.config())
	r := w.rack(c, "r1")
	r.serves("n1")
	c.apply(t, c.authors.Apply("night", powerOn))
	c.stop()

	begun := time.Now()
	c = w.start(w.config())
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it took %v to be ready", took)
	}
	r = w.rack(c, "r1")
	if r.next != 2 {
		t.Errorf("the spool goes on at %d, want 2", r.next)
	}
	r.work()
	if diff := cmp.Diff([]string{"R1"}, r.did); diff != "" {
		t.Errorf("the rack did %s", diff)
	}
	runs, err := c.fleet.ListRuns(t.Context(), connect.NewRequest(&pb.ListRunsRequest{}))
	if err != nil || len(runs.Msg.GetRuns()) != 1 || runs.Msg.GetRuns()[0].GetState() != "done" {
		t.Errorf("runs %v, %v", runs, err)
	}
}

func TestAnOverdueRunEnds(t *testing.T) {
	w := newWorld(t)
	c := w.start(w.config())
	r := w.rack(c, "r1")
	r.serves("n1")
	c.apply(t, c.authors.Apply("late", powerOn, func(o *order.Order) { o.NotAfter = time.Now().Add(200 * time.Millisecond).Truncate(time.Millisecond) }))
	slow := c.apply(t, c.authors.Apply("slow", powerOn))
	get := func() (*connect.Response[pb.GetRunReply], error) {
		return c.fleet.GetRun(t.Context(), connect.NewRequest(&pb.GetRunRequest{Id: "R1"}))
	}
	run, err := get()
	for begun := time.Now(); err == nil && run.Msg.GetRun().GetState() == "running" && time.Since(begun) < patience; run, err = get() {
		c.EndOverdue(t.Context(), time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	part := run.Msg.GetRun().GetRacks()[0]
	if run.Msg.GetRun().GetState() != "failed" || !strings.Contains(part.GetError(), "deadline") {
		t.Errorf("the run is %v", run.Msg.GetRun())
	}
	run, err = c.fleet.GetRun(t.Context(), connect.NewRequest(&pb.GetRunRequest{Id: slow.GetRun().GetId()}))
	if err != nil || run.Msg.GetRun().GetState() != "running" {
		t.Errorf("the one with time left is %v, %v", run, err)
	}
}

func TestManyRacks(t *testing.T) {
	w := newWorld(t)
	c := w.start(w.config())
	const racks = 20
	all := make([]*rack, racks)
	for i := range all {
		all[i] = w.rack(c, fmt.Sprintf("r%02d", i))
		all[i].serves(fmt.Sprint("n", i))
	}
	run := c.apply(t, c.authors.Apply("all", powerOn)).GetRun()
	if len(run.GetRacks()) != racks {
		t.Fatalf("it concerns %d racks", len(run.GetRacks()))
	}
	var working sync.WaitGroup
	for _, r := range all {
		working.Go(r.work)
	}
	working.Wait()
	got, err := c.fleet.GetRun(t.Context(), connect.NewRequest(&pb.GetRunRequest{Id: run.GetId()}))
	if err != nil || got.Msg.GetRun().GetState() != "done" || len(got.Msg.GetResults()) != racks {
		t.Errorf("the run is %v with %d results, %v", got.Msg.GetRun().GetState(), len(got.Msg.GetResults()), err)
	}
}

func TestWhatCannotStart(t *testing.T) {
	w := newWorld(t)
	free := w.config()
	running := w.start(free)
	for name, c := range map[string]struct {
		change func(*coordinator.Config)
		kind   fault.Kind
	}{
		"an agent's certificate": {func(c *coordinator.Config) { c.Credentials = w.credentials(trust.Agent, "r1") }, fault.BadInput},
		"another's name":         {func(c *coordinator.Config) { c.Name = "c2" }, fault.BadInput},
		"a directory in use":     {func(c *coordinator.Config) { c.Dir = free.Dir }, fault.Conflict},
		"an address in use":      {func(c *coordinator.Config) { c.APIAddr = running.APIAddr() }, fault.Unavailable},
		"no address":             {func(c *coordinator.Config) { c.MeshAddr = "nonsense" }, fault.BadInput},
		"no directory":           {func(c *coordinator.Config) { c.Dir = "" }, fault.Internal},
	} {
		conf := w.config()
		conf.Dir = filepath.Join(t.TempDir(), "other")
		c.change(&conf)
		got, err := coordinator.New(conf)
		if fault.KindOf(err) != c.kind {
			t.Errorf("%s: got %s: %v, want %s", name, fault.KindOf(err), err, c.kind)
		}
		if got != nil {
			t.Errorf("%s: it has started", name)
		}
	}
}

func TestTheCommand(t *testing.T) {
	w := newWorld(t)
	w.credentials(trust.Coordinator, "c1")
	out := &output{ready: make(chan struct{})}
	cmd := coordinator.Command()
	cmd.SetOut(out)
	cmd.SetErr(out)
	cmd.SetArgs([]string{"--state", filepath.Join(w.dir, "state"), "--certs", filepath.Join(w.dir, "c1"), "--mesh-addr", "127.0.0.1:0", "--api-addr", "127.0.0.1:0"})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	select {
	case <-out.ready:
	case err := <-ended:
		t.Fatalf("it ended: %v\n%s", err, out.text())
	case <-time.After(patience):
		t.Fatalf("it is not ready:\n%s", out.text())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.text(), "api: https://127.0.0.1:") {
		t.Errorf("it says:\n%s", out.text())
	}
	bare := coordinator.Command()
	bare.SilenceErrors, bare.SilenceUsage = true, true
	bare.SetArgs(nil)
	if err := bare.ExecuteContext(t.Context()); fault.HintOf(err) == "" {
		t.Errorf("without a directory: %v, and no hint", err)
	}
}

// output is what a command says; ready is closed when it says that it is.
type output struct {
	mu    sync.Mutex
	b     bytes.Buffer
	once  sync.Once
	ready chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b.Write(p)
	if strings.Contains(o.b.String(), "coordinator ready") {
		o.once.Do(func() { close(o.ready) })
	}
	return len(p), nil
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
