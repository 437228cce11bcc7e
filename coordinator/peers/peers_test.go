package peers_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/coordinator/peers"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers a call with who called, and a question with two events.
type echo struct{ hang chan struct{} }

func (echo) Member(name string) bool { return name != "stranger" }

func (e echo) Call(ctx context.Context, from string, c *pb.PeerCall) *pb.PeerReply {
	if c.GetRemove().GetName() == "hang" {
		select {
		case <-e.hang:
		case <-ctx.Done():
		}
	}
	return &pb.PeerReply{Name: from, Kind: string(fault.Conflict), Error: c.GetMeet().GetName()}
}

func (echo) Artifact(context.Context, *mesh.Channel) {}

func (echo) Query(_ context.Context, rack string, q *pb.Query, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	if rack == "r9" {
		return nil, fault.New(fault.NotFound, "ask", "no such rack").WithHint("look elsewhere")
	}
	for range 2 {
		if err := each(&pb.QueryEvent{Body: &pb.QueryEvent_Started_{Started: &pb.QueryEvent_Started{Nodes: int32(len(q.GetId()))}}}); err != nil {
			return nil, err
		}
	}
	return &pb.QueryEvent_Done{Nodes: 7}, nil
}

type world struct {
	t         *testing.T
	authority *ca.Site
}

func newWorld(t *testing.T) *world {
	t.Helper()
	authority, err := ca.Open(t.TempDir(), "s1")
	if err != nil {
		t.Fatal(err)
	}
	return &world{t, authority}
}

func (w *world) credentials(id trust.Identity) trust.Credentials {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := w.authority.Ensure(dir, id, "127.0.0.1"); err != nil {
		w.t.Fatal(err)
	}
	c, err := trust.Load(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// peer is a coordinator that listens, and serves h if there is one.
func (w *world) peer(name string, h peers.Handler) *peers.Peers {
	w.t.Helper()
	c := w.credentials(trust.Identity{Role: trust.Coordinator, Name: name})
	p, err := peers.Listen(peers.Config{
		Name: name, Addr: "127.0.0.1:0", Server: c.Server(trust.Coordinator), Client: c.Client(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	var running sync.WaitGroup
	if h != nil {
		running.Go(func() {
			if err := p.Run(context.Background(), h); err != nil {
				w.t.Errorf("%s: %v", name, err)
			}
		})
	}
	w.t.Cleanup(func() {
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			w.t.Errorf("close %s: %v", name, err)
		}
		running.Wait()
	})
	return p
}

func meet(name string) *pb.PeerCall {
	return &pb.PeerCall{Body: &pb.PeerCall_Meet{Meet: &pb.Meet{Name: name}}}
}

func TestCall(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("c1", nil), w.peer("c2", echo{})
	var calls sync.WaitGroup
	for range 50 {
		calls.Go(func() {
			r, err := a.Call(t.Context(), b.Addr(), meet("who"))
			if err != nil || r.GetName() != "c1" || r.GetError() != "who" {
				t.Errorf("it answers %v, %v", r, err)
			}
		})
	}
	calls.Wait()
}

func TestACallThatIsNotAnswered(t *testing.T) {
	w := newWorld(t)
	e := echo{hang: make(chan struct{})}
	a, b := w.peer("c1", nil), w.peer("c2", e)
	if _, err := a.Call(t.Context(), b.Addr(), meet("x")); err != nil { // a session; its handshake may take any time
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := a.Call(ctx, b.Addr(), &pb.PeerCall{Body: &pb.PeerCall_Remove{Remove: &pb.Remove{Name: "hang"}}})
	if !fault.Is(err, fault.Timeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call that may have been heard ends with %v (%s)", err, fault.KindOf(err))
	}
	close(e.hang)
	gone := w.peer("c3", echo{})
	if err = gone.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = a.Call(t.Context(), gone.Addr(), meet("x")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a call that nobody hears ends with %v (%s)", err, fault.KindOf(err))
	}
}

// While one peer is dialled that does not answer, another is reached.
func TestADeadPeerDelaysNoOther(t *testing.T) {
	w := newWorld(t)
	a, b, dead := w.peer("c1", nil), w.peer("c2", echo{}), w.peer("c3", nil) // it takes handshakes and answers nothing
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	waiting.Go(func() { _, _ = a.Call(ctx, dead.Addr(), meet("x")) })
	if _, err := a.Call(t.Context(), b.Addr(), meet("x")); err != nil {
		t.Error(err)
	}
	cancel()
	waiting.Wait()
}

func TestQuery(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("c1", nil), w.peer("c2", echo{})
	events := 0
	count := func(e *pb.QueryEvent) error {
		if e.GetStarted().GetNodes() != 3 {
			t.Errorf("an event is %v", e)
		}
		events++
		return nil
	}
	done, err := a.Query(t.Context(), b.Addr(), &pb.PeerQuery{Rack: "r1", Query: &pb.Query{Id: "abc"}}, count)
	if err != nil || done.GetNodes() != 7 || events != 2 {
		t.Errorf("%v, %v after %d events", done, err, events)
	}
	done, err = a.Query(t.Context(), b.Addr(), &pb.PeerQuery{Rack: "r9"}, count)
	if err != nil || done.GetKind() != string(fault.NotFound) || done.GetHint() != "look elsewhere" {
		t.Errorf("a failure is told as %v, %v", done, err)
	}
	stop := errors.New("enough")
	if _, err = a.Query(t.Context(), b.Addr(), &pb.PeerQuery{Rack: "r1"}, func(*pb.QueryEvent) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a reader that stops gets %v", err)
	}
}

func TestRaftHasAConnection(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("c1", nil), w.peer("c2", echo{})
	out, err := a.Dial(b.Addr(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = out.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	in, err := b.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err = io.ReadFull(in, got); err != nil || string(got) != "ping" {
		t.Errorf("it carries %q, %v", got, err)
	}
	if err = in.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err = in.Read(got); err == nil {
		t.Error("a read without an end has none")
	}
	if out.LocalAddr().String() != a.Addr() || in.LocalAddr().Network() != "quic" || in.RemoteAddr().String() == "" {
		t.Errorf("addresses: %s, %s, %s", out.LocalAddr(), in.LocalAddr(), in.RemoteAddr())
	}
	if err = in.Close(); err != nil {
		t.Error(err)
	}
	if err = in.Close(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a second close says %v", err)
	}
	if err = b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = b.Accept(); err == nil {
		t.Error("a closed one accepts")
	}
	if err = a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = a.Dial(b.Addr(), time.Second); err == nil {
		t.Error("a closed one dials")
	}
}

func TestAStrangerHasNone(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("stranger", nil), w.peer("c2", echo{})
	c, err := a.Dial(b.Addr(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err = c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err = c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it may go on: %v", err)
	}
}

// Who sends garbage, too much, or nothing loses its stream. Another role does not
// get in at all. A third goes on meanwhile.
func TestHostilePeers(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("c1", nil), w.peer("c2", echo{})
	creds := w.credentials(trust.Identity{Role: trust.Coordinator, Name: "c3"})
	session, err := mesh.DialPeer(t.Context(), b.Addr(), creds.Client())
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close("done")
	for name, bytes := range map[string]string{
		"no protobuf":    "\x00\x00\x00\x04\xff\xff\xff\xff",
		"far too long":   "\xff\xff\xff\xff",
		"no kind":        "\x00\x00\x00\x00",
		"unknown kind":   "\x00\x00\x00\x02\x08\x63",
		"call of rubble": "\x00\x00\x00\x02\x08\x02\x00\x00\x00\x04\xff\xff\xff\xff",
		"huge call":      "\x00\x00\x00\x02\x08\x02\x7f\xff\xff\xff",
		"rubble asked":   "\x00\x00\x00\x02\x08\x03\x00\x00\x00\x04\xff\xff\xff\xff",
	} {
		stream, err := session.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err = stream.Write([]byte(bytes)); err != nil {
			t.Fatal(err)
		}
		if err = stream.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := stream.Read(make([]byte, 1)); n != 0 || err == nil || strings.Contains(err.Error(), "deadline") {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		if _, err := a.Call(t.Context(), b.Addr(), meet("x")); err != nil {
			t.Errorf("%s harms another: %v", name, err)
		}
	}
	for _, role := range []trust.Role{trust.Agent, trust.Operator} {
		other := w.credentials(trust.Identity{Role: role, Name: "x"})
		session, err := mesh.DialPeer(t.Context(), b.Addr(), other.Client())
		if err != nil {
			continue // refused in the handshake
		}
		select {
		case <-session.Done():
		case <-time.After(10 * time.Second):
			t.Errorf("an %s gets in", role)
		}
	}
}
