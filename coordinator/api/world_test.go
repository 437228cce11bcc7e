package api_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/coordinator/api"
	"github.com/chiba-mesh/chiba/coordinator/feed"
	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/seal"
	"github.com/chiba-mesh/chiba/trust/sign/signtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// world is the API over real HTTPS, before a real log; the agents are fakes.
type world struct {
	t       *testing.T
	dir     string
	ca      *ca.Site
	authors *signtest.Authors
	machine *state.Machine
	node    *raftnode.Node
	feed    *feed.Feed
	agents  *agents
	addr    string
	fleet   pbconnect.FleetClient
	stop    func()
	seqs    map[string]uint64
	keys    map[string]*seal.Key

	patience time.Duration // of the server
}

// alone is a group of one.
type alone struct{}

func (alone) Coordinators() []*pb.CoordinatorStatus {
	return []*pb.CoordinatorStatus{{Name: "c1", Answering: true}}
}
func (alone) Silent() []string                     { return nil }
func (alone) Remark() string                       { return "" }
func (alone) CatchUp(context.Context, bool) error  { return nil }
func (alone) Remove(context.Context, string) error { return nil }

// agents are fake agents.
type agents struct {
	mu        sync.Mutex
	connected map[string]bool
	broken    bool
	progress  []*pb.RackProgress
	asked     map[string]*pb.Query
	answer    func(ctx context.Context, rack string, q *pb.Query, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error)
}

func (a *agents) Connected(rack string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.connected[rack]
}

func (a *agents) Agents() []*pb.AgentStatus {
	a.mu.Lock()
	broken := a.broken
	a.mu.Unlock()
	if broken {
		panic("oops")
	}
	return []*pb.AgentStatus{{Name: "a-r1", Rack: "r1", Connected: a.Connected("r1")}, {Name: "a-r2", Rack: "r2", Connected: a.Connected("r2")}}
}

func (a *agents) Progress(string) []*pb.RackProgress {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.progress
}

func (a *agents) Query(ctx context.Context, rack string, q *pb.Query, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	a.mu.Lock()
	a.asked[rack] = q
	a.mu.Unlock()
	return a.answer(ctx, rack, q, each)
}

func (a *agents) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// newWorld has two racks with two nodes each, n1 and n2, n3 and n4; r2 is cut
// off.
// shelf takes whatever comes, to its end.
type shelf struct{}

func (shelf) Put(_ context.Context, r io.Reader, _ string, size int64) ([]string, error) {
	n, err := io.Copy(io.Discard, r)
	if err == nil && n != size {
		err = fault.New(fault.BadInput, "keep", "it has another size")
	}
	return []string{"c1"}, err
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, 0)
}

func newWorldWith(t *testing.T, patience time.Duration) *world {
	t.Helper()
	w := &world{
		patience: patience,
		t:        t, dir: t.TempDir(), machine: state.New(), feed: feed.New(), seqs: map[string]uint64{}, keys: map[string]*seal.Key{},
		agents: &agents{connected: map[string]bool{"r1": true}, asked: map[string]*pb.Query{}},
	}
	w.agents.answer = func(context.Context, string, *pb.Query, func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
		return &pb.QueryEvent_Done{}, nil
	}
	var err error
	if w.ca, err = ca.Open(filepath.Join(w.dir, "ca"), "s1"); err != nil {
		t.Fatal(err)
	}
	if w.authors, err = signtest.New(filepath.Join(w.dir, "authors")); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.commit(&pb.Command{Body: &pb.Command_PutPolicy{PutPolicy: &pb.PutPolicy{Version: 1, Envelope: w.authors.Signed(1, 1)}}})
	for rack, nodes := range map[string][]string{"r1": {"n1", "n2"}, "r2": {"n3", "n4"}} {
		w.register(rack)
		for _, n := range nodes {
			w.record(rack, &pb.Record{Body: &pb.Record_Node{Node: &pb.Node{Name: n, Bmc: "b-" + n, State: "ready"}}})
		}
	}
	return w
}

func (w *world) start() {
	w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	var err error
	w.node, err = raftnode.Open(raftnode.Config{
		Dir: filepath.Join(w.dir, "raft"), Name: "c1", Machine: w.machine, Log: log,
		Applied: func(o state.Outcome) {
			w.feed.Publish(o.Events...)
			w.feed.Touch(o.Runs...)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	server := api.New(api.Config{
		Name: "c1", Build: "test", Machine: w.machine, Commands: w.node, Agents: w.agents, Group: alone{}, Feed: w.feed, Root: w.authors.Root, Log: log, Patience: w.patience, Stock: shelf{},
		Raft: func() (name string, commit, applied uint64) { return "Leader", 7, 7 },
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- w.node.Run(ctx) }()
	go func() {
		ended <- server.Run(ctx, listener, w.credentials(trust.Coordinator, "c1").Server(trust.Operator))
	}()
	<-w.node.Ready()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, <-ended, w.node.Close()); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
	w.fleet = w.client(trust.Operator, "ada")
}

func (w *world) credentials(role trust.Role, name string) trust.Credentials {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	id := trust.Identity{Role: role, Name: name}
	if role == trust.Agent {
		id.Rack = strings.TrimPrefix(name, "a-")
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

func (w *world) client(role trust.Role, name string) pbconnect.FleetClient {
	w.t.Helper()
	return w.clientWith(w.credentials(role, name).Client())
}

func (w *world) clientWith(conf *tls.Config) pbconnect.FleetClient {
	transport := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}
	w.t.Cleanup(transport.CloseIdleConnections)
	return pbconnect.NewFleetClient(&http.Client{Transport: transport}, "https://"+w.addr)
}

func (w *world) commit(c *pb.Command) state.Outcome {
	w.t.Helper()
	o, err := w.node.Propose(w.t.Context(), c)
	if err = errors.Join(err, o.Err); err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *world) register(rack string) {
	w.t.Helper()
	key, err := seal.OpenKey(filepath.Join(w.dir, "seal-"+rack))
	if err != nil {
		w.t.Fatal(err)
	}
	w.keys[rack] = key
	proof, err := key.Prove(rack, w.credentials(trust.Agent, "a-"+rack).Certificate)
	if err != nil {
		w.t.Fatal(err)
	}
	w.commit(&pb.Command{Body: &pb.Command_PutAgent{PutAgent: &pb.PutAgent{Agent: &pb.AgentInfo{
		Name: "a-" + rack, Rack: rack, Site: "s1", SealKey: key.Public(), SealProof: proof, SpoolEpoch: 1,
	}}}})
}

func (w *world) record(rack string, records ...*pb.Record) {
	w.t.Helper()
	for _, r := range records {
		r.Seq = w.seqs[rack]
		w.seqs[rack]++
	}
	w.commit(&pb.Command{Body: &pb.Command_RecordResults{RecordResults: &pb.RecordResults{
		Agent: "a-" + rack, Rack: rack, SpoolEpoch: 1, Records: records,
	}}})
}

func (w *world) done(run, rack string) {
	w.t.Helper()
	w.record(rack,
		&pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Run: run, Node: rack + "-node", Status: "confirmed"}}},
		&pb.Record{Body: &pb.Record_Done{Done: &pb.RackRunDone{Run: run, Nodes: 1, Ok: 1}}},
	)
}

func (w *world) apply(name, source string) *pb.ApplyReply {
	w.t.Helper()
	answer, err := w.fleet.Apply(w.t.Context(), connect.NewRequest(w.authors.Apply(name, source)))
	if err != nil {
		w.t.Fatal(err)
	}
	return answer.Msg
}

func (w *world) plan(source string, allowEmpty bool) ([]*pb.QueryReply, error) {
	w.t.Helper()
	stream, err := w.fleet.Plan(w.t.Context(), connect.NewRequest(&pb.PlanRequest{File: "p.scl", Source: []byte(source), AllowEmpty: allowEmpty}))
	if err != nil {
		return nil, err
	}
	return drain(stream)
}

func (w *world) show(source string) ([]*pb.QueryReply, error) {
	w.t.Helper()
	stream, err := w.fleet.Show(w.t.Context(), connect.NewRequest(&pb.ShowRequest{File: "s.scl", Source: []byte(source)}))
	if err != nil {
		return nil, err
	}
	return drain(stream)
}

func drain[M any](stream *connect.ServerStreamForClient[M]) (all []*M, err error) {
	for stream.Receive() {
		all = append(all, stream.Msg())
	}
	return all, errors.Join(stream.Err(), stream.Close())
}

// kindOf is the kind in an answer's metadata.
func kindOf(err error) fault.Kind {
	var e *connect.Error
	if !errors.As(err, &e) {
		return ""
	}
	return fault.Kind(e.Meta().Get("chiba-kind"))
}

func hintOf(err error) string {
	var e *connect.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Meta().Get("chiba-hint")
}
