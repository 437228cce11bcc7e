package client_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/client/clienttest"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted answers as each test says.
type scripted struct {
	pbconnect.UnimplementedFleetHandler
	nodes func(context.Context) (*pb.ListNodesReply, error)
	show  func(context.Context, *pb.ShowRequest, func(*pb.QueryReply) error) error
	watch func(context.Context, func(*pb.Event) error) error
	apply func(*pb.ApplyRequest) (*pb.ApplyReply, error)
}

func (s *scripted) ListNodes(ctx context.Context, _ *connect.Request[pb.ListNodesRequest]) (*connect.Response[pb.ListNodesReply], error) {
	return respond(s.nodes(ctx))
}

func (*scripted) Prepare(context.Context, *connect.Request[pb.PrepareRequest]) (*connect.Response[pb.PrepareReply], error) {
	return connect.NewResponse(&pb.PrepareReply{Name: "a"}), nil
}

func (s *scripted) Apply(_ context.Context, q *connect.Request[pb.ApplyRequest]) (*connect.Response[pb.ApplyReply], error) {
	return respond(s.apply(q.Msg))
}

func (s *scripted) Show(ctx context.Context, q *connect.Request[pb.ShowRequest], out *connect.ServerStream[pb.QueryReply]) error {
	return s.show(ctx, q.Msg, out.Send)
}

func (s *scripted) Watch(ctx context.Context, _ *connect.Request[pb.WatchRequest], out *connect.ServerStream[pb.Event]) error {
	return s.watch(ctx, out.Send)
}

func respond[A any](a *A, err error) (*connect.Response[A], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(a), nil
}

// serve is a client of h, and the context it was opened with.
func serve(t *testing.T, h pbconnect.FleetHandler) (*client.Client, client.Context) {
	t.Helper()
	dir := t.TempDir()
	s, err := clienttest.Start(dir, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c, err := client.Load(filepath.Join(dir, client.ContextFile))
	if err != nil {
		t.Fatal(err)
	}
	return open(t, c), c
}

func open(t *testing.T, c client.Context) *client.Client {
	t.Helper()
	cl, err := client.Open(c, clienttest.Author{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func oneNode(context.Context) (*pb.ListNodesReply, error) {
	return &pb.ListNodesReply{Nodes: []*pb.Node{{Name: "r01-u01", State: "ready"}}}, nil
}

// same reports whether err is a fault of kind k that says text and has a hint.
func same(t *testing.T, err error, k fault.Kind, text string) {
	t.Helper()
	if !fault.Is(err, k) || !strings.Contains(err.Error(), text) {
		t.Errorf("%q of kind %s, want %q of kind %s", err, fault.KindOf(err), text, k)
	}
	if fault.HintOf(err) == "" {
		t.Errorf("%q has no hint", err)
	}
}

func TestAnswersAreNouns(t *testing.T) {
	c, _ := serve(t, &scripted{nodes: oneNode})
	got, err := c.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]fleet.Node{{Name: "r01-u01", State: fleet.Ready}}, got); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsKeepKindAndHint(t *testing.T) {
	c, _ := serve(t, &scripted{
		nodes: func(context.Context) (*pb.ListNodesReply, error) {
			return nil, clienttest.Error(connect.CodeUnknown, fault.New(fault.Untrusted, "", "no, „nein“").WithHint("ask somebody"))
		},
		show: func(context.Context, *pb.ShowRequest, func(*pb.QueryReply) error) error {
			return clienttest.Error(connect.CodeUnknown, fault.New(fault.Conflict, "", "not now").WithHint("later"))
		},
	})
	_, err := c.Nodes(t.Context())
	same(t, err, fault.Untrusted, "list the nodes: no, „nein“")
	for _, err = range c.Show(t.Context(), client.Source{}) {
		same(t, err, fault.Conflict, "read: not now")
	}
}

func TestAnOlderCoordinatorTellsOnlyACode(t *testing.T) {
	c, _ := serve(t, &scripted{})
	_, err := c.Agents(t.Context())
	if !fault.Is(err, fault.Unsupported) {
		t.Errorf("%v of kind %s, want unsupported", err, fault.KindOf(err))
	}
}

func TestWrongScripts(t *testing.T) {
	wrong := &pb.Diagnostics{Text: "a.scl:1:1: error\n", Json: []byte("[]"), Errors: 2}
	c, _ := serve(t, &scripted{
		apply: func(*pb.ApplyRequest) (*pb.ApplyReply, error) { return &pb.ApplyReply{Diagnostics: wrong}, nil },
		show: func(_ context.Context, _ *pb.ShowRequest, send func(*pb.QueryReply) error) error {
			return send(&pb.QueryReply{Body: &pb.QueryReply_Diagnostics{Diagnostics: wrong}})
		},
	})
	_, err := c.Apply(t.Context(), client.Source{File: "a.scl"}, client.ApplyOptions{})
	same(t, err, fault.BadInput, "2 errors in the script")
	for _, err = range c.Show(t.Context(), client.Source{}) {
		var s *client.ScriptError
		if !errors.As(err, &s) || s.Text != wrong.GetText() {
			t.Errorf("%v, want the diagnostics", err)
		}
	}
}

func TestRepliesInOrder(t *testing.T) {
	c, _ := serve(t, &scripted{show: func(_ context.Context, q *pb.ShowRequest, send func(*pb.QueryReply) error) error {
		return errors.Join(
			send(&pb.QueryReply{Body: &pb.QueryReply_Racks_{Racks: &pb.QueryReply_Racks{Asked: []string{"r01"}, CutOff: []string{"r02"}}}}),
			send(&pb.QueryReply{Rack: "r01"}), // of a later version
			send(&pb.QueryReply{Rack: "r01", Body: &pb.QueryReply_Result{Result: &pb.Result{Node: "r01-u01", Step: string(q.GetSource())}}}),
			send(&pb.QueryReply{Rack: "r01", Body: &pb.QueryReply_Ended_{Ended: &pb.QueryReply_Ended{Nodes: 1, Kind: "timeout", Error: "too slow"}}}),
		)
	}})
	var got []string
	for r, err := range c.Show(t.Context(), client.Source{Text: []byte("(refresh all)")}) {
		switch {
		case err != nil:
			t.Fatal(err)
		case r.Racks != nil:
			got = append(got, "cut off "+string(r.Racks.CutOff[0]))
		case r.Result != nil:
			got = append(got, r.Result.Step)
		case r.Ended != nil:
			got = append(got, r.Ended.Err.Error()+" "+string(fault.KindOf(r.Ended.Err)))
		}
	}
	if diff := cmp.Diff([]string{"cut off r02", "(refresh all)", "too slow timeout"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestLeavingALoopEndsTheCall(t *testing.T) {
	ended := make(chan struct{})
	c, _ := serve(t, &scripted{watch: func(ctx context.Context, send func(*pb.Event) error) error {
		defer close(ended)
		for ctx.Err() == nil {
			if err := send(&pb.Event{Body: &pb.Event_RemovedScript{RemovedScript: "a"}}); err != nil {
				return err
			}
		}
		return ctx.Err()
	}})
	for _, err := range c.Watch(t.Context(), false) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	<-ended // or the test hangs
}

func TestNobodyListens(t *testing.T) {
	_, ctx := serve(t, &scripted{})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx.Address = "https://" + l.Addr().String()
	_ = l.Close()
	_, err = open(t, ctx).Nodes(t.Context())
	same(t, err, fault.Unavailable, "nothing listens at "+l.Addr().String())
}

// Where one coordinator is dead and another program has taken the place of a second,
// the third answers, also with a stream, and is asked first from then on.
func TestTheNextCoordinatorAnswers(t *testing.T) {
	_, ctx := serve(t, &scripted{nodes: oneNode, watch: func(_ context.Context, tell func(*pb.Event) error) error {
		return tell(&pb.Event{Body: &pb.Event_RemovedScript{RemovedScript: "x"}})
	}})
	_, strange := serve(t, &scripted{nodes: oneNode})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "https://" + l.Addr().String()
	_ = l.Close()
	all := ctx
	all.Address = dead + ", " + strange.Address + "," + ctx.Address
	if diff := cmp.Diff([]string{dead, strange.Address, ctx.Address}, all.Addresses()); diff != "" {
		t.Error(diff)
	}
	for range 3 {
		if nodes, lost := open(t, all).Nodes(t.Context()); lost != nil || len(nodes) != 1 {
			t.Fatalf("%v, %v", nodes, lost)
		}
	}
	seen := 0
	for e, lost := range open(t, all).Watch(t.Context(), false) {
		if lost != nil {
			t.Fatal(lost)
		}
		if e.RemovedScript == "x" {
			seen++
		}
	}
	if seen != 1 {
		t.Errorf("the event came %d times", seen)
	}
	all.Address = dead + "," + dead
	_, err = open(t, all).Nodes(t.Context())
	same(t, err, fault.Unavailable, "none of the 2 coordinators answers")
}

// An answer is an answer: what one coordinator refuses no other is asked for; one
// that has lost the others is passed over.
func TestWhoIsAskedNext(t *testing.T) {
	for name, c := range map[string]struct {
		says error
		want fault.Kind
	}{
		"a refusal":   {clienttest.Error(connect.CodeFailedPrecondition, fault.New(fault.Conflict, "", "not now")), fault.Conflict},
		"a no leader": {clienttest.Error(connect.CodeUnavailable, fault.New(fault.Unavailable, "", "no leader")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			first := 0
			h := &scripted{nodes: func(ctx context.Context) (*pb.ListNodesReply, error) {
				if first++; first == 1 {
					return nil, c.says
				}
				return oneNode(ctx)
			}}
			_, ctx := serve(t, h)
			ctx.Address += "," + ctx.Address
			_, err := open(t, ctx).Nodes(t.Context())
			if fault.KindOf(err) != c.want {
				t.Errorf("it ends with %v", err)
			}
		})
	}
}

func TestACoordinatorOfAnotherFleet(t *testing.T) {
	_, ours := serve(t, &scripted{nodes: oneNode})
	_, theirs := serve(t, &scripted{nodes: oneNode})

	other := ours
	other.CA = theirs.CA
	_, err := open(t, other).Nodes(t.Context())
	same(t, err, fault.Untrusted, "is not trusted")

	other = ours
	other.ServerName = "somebody.else"
	_, err = open(t, other).Nodes(t.Context())
	same(t, err, fault.Untrusted, "is not trusted")

	other = ours
	other.Cert, other.Key = theirs.Cert, theirs.Key
	_, err = open(t, other).Nodes(t.Context())
	same(t, err, fault.Denied, "refused our certificate")
}

func TestDeadlines(t *testing.T) {
	c, _ := serve(t, &scripted{nodes: func(ctx context.Context) (*pb.ListNodesReply, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Nodes(ctx)
	if !fault.Is(err, fault.Timeout) {
		t.Errorf("%v of kind %s, want a timeout", err, fault.KindOf(err))
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	_, err = c.Nodes(stopped)
	if !fault.Is(err, fault.Canceled) {
		t.Errorf("%v of kind %s, want canceled", err, fault.KindOf(err))
	}
}

func TestACoordinatorThatGoesAway(t *testing.T) {
	dir := t.TempDir()
	var s *clienttest.Server
	s, err := clienttest.Start(dir, &scripted{watch: func(ctx context.Context, send func(*pb.Event) error) error {
		err := send(&pb.Event{AtUnixMs: wire.ToTime(time.Unix(1, 0)), Body: &pb.Event_RemovedScript{RemovedScript: "a"}})
		<-ctx.Done()
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := client.Load(filepath.Join(dir, client.ContextFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, err = range open(t, ctx).Watch(t.Context(), false) {
		if err == nil {
			s.Close()
			continue
		}
		same(t, err, fault.Unavailable, "lost the coordinator")
	}
	if err == nil {
		t.Error("the stream ended as if all were well")
	}
}

// relay carries bytes to a server and back, until it is cut: then all that comes is
// swallowed, as on a network that is cut.
func relay(t *testing.T, to string) (addr string, cut func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var silent atomic.Bool
	var running sync.WaitGroup
	carry := func(to, from net.Conn) {
		defer to.Close()
		for bytes := make([]byte, 4096); ; {
			n, err := from.Read(bytes)
			if err != nil {
				return
			}
			if !silent.Load() {
				_, _ = to.Write(bytes[:n])
			}
		}
	}
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", to)
			if err != nil {
				_ = near.Close()
				return
			}
			running.Go(func() { carry(near, far) })
			running.Go(func() { carry(far, near) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return l.Addr().String(), func() { silent.Store(true) }
}

// A coordinator that the network no longer leads to is lost, as one that was killed
// is: who watches goes on to another.
func TestACoordinatorThatIsCutOff(t *testing.T) {
	_, ctx := serve(t, &scripted{watch: func(ctx context.Context, send func(*pb.Event) error) error {
		err := send(&pb.Event{AtUnixMs: 1, Body: &pb.Event_RemovedScript{RemovedScript: "a"}})
		<-ctx.Done()
		return err
	}})
	addr, cut := relay(t, strings.TrimPrefix(ctx.Address, "https://"))
	ctx.Address = "https://" + addr
	c := open(t, ctx)
	c.Ping(20*time.Millisecond, 200*time.Millisecond)
	var err error
	for _, err = range c.Watch(t.Context(), false) {
		if err == nil {
			cut()
			continue
		}
		same(t, err, fault.Unavailable, "lost the coordinator at "+addr)
	}
	if err == nil {
		t.Error("the stream ended as if all were well")
	}
}

func TestFindLooksUpwards(t *testing.T) {
	top := t.TempDir()
	deep := filepath.Join(top, "a", "b")
	state := filepath.Join(top, client.StateDir)
	for _, dir := range []string{deep, state} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(deep)
	t.Setenv(client.StateVar, "")
	_, err := client.Find("")
	same(t, err, fault.NotFound, "no .chiba/context.yaml here")

	want := client.Context{Address: "https://127.0.0.1:7443", CA: "ca.pem", Cert: "sub/cert.pem", Key: "/etc/key.pem"}
	if err = want.Save(state); err != nil {
		t.Fatal(err)
	}
	path, err := client.Find("")
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.CA != filepath.Join(filepath.Dir(path), "ca.pem") || got.Key != "/etc/key.pem" {
		t.Errorf("paths %s and %s, want them relative to the file, and as they were", got.CA, got.Key)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: a context is for its owner", info.Mode(), err)
	}
	_, err = client.Find(deep)
	same(t, err, fault.NotFound, "no context.yaml in "+deep)
}
