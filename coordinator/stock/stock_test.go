package stock_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/coordinator/stock"
	"github.com/chiba-mesh/chiba/pkg/blob"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is some coordinators with one log in memory, on real QUIC.
type world struct {
	t       *testing.T
	ca      *ca.Site
	mu      sync.Mutex
	index   uint64
	machine *state.Machine
	members []stock.Member
	stocks  map[string]*stock.Stock // by address
}

func newWorld(t *testing.T) *world {
	t.Helper()
	authority, err := ca.Open(filepath.Join(t.TempDir(), "ca"), "s1")
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, ca: authority, machine: state.New(), stocks: map[string]*stock.Stock{}}
}

// Propose implements stock.Log.
func (w *world) Propose(_ context.Context, c *pb.Command) (state.Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	c.Version = state.Version
	return w.machine.Apply(w.index, c)
}

func (w *world) endpoint(id trust.Identity) (*trust.Endpoint, *trust.Denials) {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := w.ca.Ensure(dir, id, "127.0.0.1"); err != nil {
		w.t.Fatal(err)
	}
	creds, err := trust.Load(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	denied := &trust.Denials{}
	return trust.NewEndpoint(creds, trust.Options{Denied: denied}), denied
}

// peers is the way of one coordinator to the others.
type peers struct {
	w  *world
	me *trust.Endpoint
}

func (p peers) Call(_ context.Context, addr string, c *pb.PeerCall) (*pb.PeerReply, error) {
	s := p.w.stocks[addr]
	if s == nil {
		return nil, fault.New(fault.Unavailable, "", "down")
	}
	reply := &pb.PeerReply{}
	if err := s.Keep(c.GetKeepArtifact()); err != nil {
		reply.Kind, reply.Error, reply.Hint = wire.ToFault(err)
	}
	return reply, nil
}

func (p peers) Connect(ctx context.Context, addr string) (mesh.Session, error) {
	return mesh.DialPeer(ctx, addr, p.me.Client())
}

// start runs a coordinator with its files in dir; peers and agents pull from it.
func (w *world) start(name, dir string) (s *stock.Stock, agents string) {
	w.t.Helper()
	e, denied := w.endpoint(trust.Identity{Role: trust.Coordinator, Name: name})
	door, err := mesh.ListenPeers("127.0.0.1:0", e.Server(trust.Coordinator), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	front, err := mesh.Listen("127.0.0.1:0", e.Server(trust.Agent), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err = stock.New(stock.Config{
		Name: name, Dir: dir, Machine: w.machine, Commands: w, Peers: peers{w, e}, Endpoint: e, Log: slog.New(slog.DiscardHandler),
		Others: func() (all []stock.Member) {
			for _, m := range w.members {
				if m.Name != name {
					all = append(all, m)
				}
			}
			return all
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.members = append(w.members, stock.Member{Name: name, Addr: door.Addr()})
	w.stocks[door.Addr()] = s
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	running.Go(func() { accept(ctx, door, func(conn mesh.Session) { give(ctx, s, conn) }) })
	running.Go(func() { accept(ctx, front, func(conn mesh.Session) { s.Serve(ctx, conn) }) })
	w.t.Cleanup(func() {
		cancel()
		_ = errors.Join(door.Close(), front.Close())
		running.Wait()
		_ = s.Close()
	})
	denied.Set([]fleet.Denial{{Subject: "agent/thief", Reason: "stolen", At: time.Now()}})
	return s, front.Addr()
}

func accept(ctx context.Context, l *mesh.Listener, serve func(mesh.Session)) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := l.Accept(ctx)
		if err != nil {
			return
		}
		all.Go(func() { serve(conn) })
	}
}

// give answers another coordinator, as peers do.
func give(ctx context.Context, s *stock.Stock, conn mesh.Session) {
	for {
		stream, err := conn.Accept(ctx)
		if err != nil {
			return
		}
		ch := mesh.NewChannel(stream, 0)
		var open pb.PeerOpen
		if ch.Receive(&open) == nil && open.GetKind() == pb.PeerOpen_ARTIFACT {
			s.Give(ctx, ch)
		}
		_ = stream.Close()
	}
}

func file(size int) (data []byte, digest string) {
	data = bytes.Repeat([]byte("chiba"), size/5)
	sum := sha256.Sum256(data)
	return data, "sha256:" + hex.EncodeToString(sum[:])
}

// What is given to one is on two before it is told to be kept, and what one has lost
// it gets again.
func TestOnTwoCoordinatorsAtLeast(t *testing.T) {
	w := newWorld(t)
	data, digest := file(3 << 20)
	alone, _ := w.start("c1", t.TempDir())
	if holders, err := alone.Put(t.Context(), bytes.NewReader(data), digest, int64(len(data))); err != nil || len(holders) != 1 {
		t.Errorf("the only one: %v, %v", holders, err)
	}
	w.members = append(w.members, stock.Member{Name: "c9", Addr: "127.0.0.1:1"}) // it is down
	if _, err := alone.Put(t.Context(), bytes.NewReader(data), digest, int64(len(data))); !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.HintOf(err), "on two at least") {
		t.Errorf("with nobody else up: %v", err)
	}
	lost := t.TempDir()
	w.start("c2", lost)
	holders, err := alone.Put(t.Context(), bytes.NewReader(data), digest, int64(len(data)))
	if err != nil || strings.Join(holders, " ") != "c1 c2" {
		t.Fatalf("%v, %v", holders, err)
	}
	files, err := filepath.Glob(lost + "/sha256-" + strings.TrimPrefix(digest, "sha256:"))
	if err != nil || len(files) != 1 {
		t.Errorf("c2 has %v", files)
	}
	artifact := &pb.Artifact{Name: "bmc.tar", Digest: digest, Size: int64(len(data)), Holders: holders}
	if _, err = w.Propose(t.Context(), &pb.Command{Body: &pb.Command_PutArtifact{PutArtifact: &pb.PutArtifact{Artifact: artifact}}}); err != nil {
		t.Fatal(err)
	}
	third, _ := w.start("c3", t.TempDir())
	third.Repair(t.Context())
	if got := w.machine.Artifacts()[0].GetHolders(); strings.Join(got, " ") != "c1 c2 c3" {
		t.Errorf("after the repair %v have it", got)
	}
}

// Agents pull what is there over connections of their own; who is denied does not.
func TestAgentsPull(t *testing.T) {
	w := newWorld(t)
	data, digest := file(2<<20 + 5)
	s, addr := w.start("c1", t.TempDir())
	if _, err := s.Put(t.Context(), bytes.NewReader(data), digest, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"a1": true, "thief": false} {
		e, _ := w.endpoint(trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: "r1"}, Name: name})
		store, err := blob.Open(t.TempDir(), 0)
		if err != nil {
			t.Fatal(err)
		}
		err = store.Pull(t.Context(), blob.Digest(digest), blob.Source{Name: "c1", Connect: func(ctx context.Context) (blob.Conn, error) {
			session, dialErr := mesh.DialBulk(ctx, addr, e.Client())
			if dialErr != nil {
				return nil, dialErr
			}
			return blob.Over(session, &pb.StreamOpen{Kind: pb.StreamOpen_ARTIFACT}), nil
		}}, nil)
		if (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
		_ = store.Close()
	}
}

// A file that no entry names goes, but not within a day.
func TestWhatNobodyNeedsGoes(t *testing.T) {
	w := newWorld(t)
	data, digest := file(1000)
	dir := t.TempDir()
	s, _ := w.start("c1", dir)
	if _, err := s.Put(t.Context(), bytes.NewReader(data), digest, int64(len(data))); err != nil {
		t.Fatal(err)
	}
	there := func() bool {
		files, _ := filepath.Glob(dir + "/sha256-*")
		return len(files) > 0
	}
	now := time.Now()
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {23 * time.Hour, true}, {25 * time.Hour, false}} {
		if s.Sweep(now.Add(c.after)); there() != c.want {
			t.Errorf("after %s it is there: %v", c.after, there())
		}
	}
}

// One that is added a second time is needed from then on: its entry is on the way.
func TestWhatIsAddedAgainStays(t *testing.T) {
	w := newWorld(t)
	data, digest := file(1000)
	dir := t.TempDir()
	s, _ := w.start("c1", dir)
	now := time.Now()
	for _, again := range map[string]func() error{
		"by a person": func() error {
			_, err := s.Put(t.Context(), bytes.NewReader(data), digest, int64(len(data)))
			return err
		},
		"by another coordinator": func() error { return s.Keep(&pb.KeepArtifact{Digest: digest, From: "c2"}) },
	} {
		if _, err := s.Put(t.Context(), bytes.NewReader(data), digest, int64(len(data))); err != nil {
			t.Fatal(err)
		}
		s.Sweep(now)
		if err := again(); err != nil {
			t.Fatal(err)
		}
		now = now.Add(25 * time.Hour)
		s.Sweep(now)
		if files, _ := filepath.Glob(dir + "/sha256-*"); len(files) == 0 {
			t.Error("it is gone a moment after it was added")
		}
	}
}
