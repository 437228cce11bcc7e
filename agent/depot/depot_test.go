package depot_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/agent/depot"
	"github.com/chiba-mesh/chiba/pkg/blob"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a coordinator behind a WAN that counts what passes, and agents.
type world struct {
	t      *testing.T
	store  *blob.Store // the coordinator's
	passed atomic.Int64
	cutAt  atomic.Int64 // what may pass until it is cut; negative: it is whole
	cut    atomic.Bool
	agents map[fleet.AgentName]*agent
	pipes  sync.WaitGroup
}

type agent struct {
	*depot.Depot
	w      *world
	name   fleet.AgentName
	store  *blob.Store
	lies   atomic.Bool // it serves garbage
	dead   atomic.Bool
	served atomic.Int64
}

func newWorld(t *testing.T, names ...fleet.AgentName) *world {
	t.Helper()
	w := &world{t: t, store: open(t), agents: make(map[fleet.AgentName]*agent)}
	w.cutAt.Store(-1)
	t.Cleanup(w.pipes.Wait)
	for _, name := range names {
		a := &agent{w: w, name: name, store: open(t)}
		a.Depot = depot.New(depot.Config{
			Agent: name, Store: a.store, Site: a, Linked: func() bool { return !w.cut.Load() },
			Coordinators: []blob.Source{{Name: "the coordinator", Connect: w.connect}}, Log: slog.New(slog.DiscardHandler),
		})
		w.agents[name] = a
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	return w
}

func open(t *testing.T) *blob.Store {
	t.Helper()
	s, err := blob.Open(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// add gives the coordinator a file of a size.
func (w *world) add(size int) blob.Digest {
	w.t.Helper()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(data)
	sum := sha256.Sum256(data)
	d := blob.Digest("sha256:" + hex.EncodeToString(sum[:]))
	if err := w.store.Put(bytes.NewReader(data), d, int64(size)); err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) connect(context.Context) (blob.Conn, error) {
	if w.cut.Load() {
		return nil, fault.New(fault.Unavailable, "", "the WAN is cut")
	}
	return &line{w: w, store: w.store, wan: true}, nil
}

// line is a connection; each of its streams is a pipe.
type line struct {
	w     *world
	store *blob.Store
	wan   bool
	lies  bool
	from  *agent
}

func (*line) Close(string) {}

func (l *line) Open(context.Context) (mesh.Stream, *mesh.Channel, error) {
	near, far := net.Pipe()
	l.w.pipes.Go(func() {
		defer far.Close()
		_ = l.store.Serve(context.Background(), mesh.NewChannel(&counted{Conn: far, l: l}, 0))
	})
	return near, mesh.NewChannel(near, 0), nil
}

type counted struct {
	net.Conn
	l *line
}

func (c *counted) Write(b []byte) (int, error) {
	if c.l.from != nil {
		c.l.from.served.Add(int64(len(b)))
	}
	if c.l.lies && len(b) > 4096 {
		b = bytes.Clone(b)
		b[2048] ^= 1
	}
	if c.l.wan {
		n := c.l.w.passed.Add(int64(len(b)))
		if at := c.l.w.cutAt.Load(); at >= 0 && n > at {
			c.l.w.cut.Store(true)
		}
		if c.l.w.cut.Load() {
			_ = c.Close()
			return 0, io.ErrClosedPipe
		}
	}
	return c.Conn.Write(b)
}

// Alive, Ask and Source are the site as an agent sees it.
func (a *agent) Alive() (all []fleet.AgentName) {
	for name, other := range a.w.agents {
		if name != a.name && !other.dead.Load() {
			all = append(all, name)
		}
	}
	return all
}

func (a *agent) Ask(_ context.Context, name fleet.AgentName, c *pb.SiteCall) (*pb.SiteReply, error) {
	if a.w.agents[name].dead.Load() {
		return nil, fault.New(fault.Unavailable, "", "dead")
	}
	s, err := a.w.agents[name].Answer(c.GetArtifact())
	return &pb.SiteReply{Body: &pb.SiteReply_Artifact{Artifact: s}}, err
}

func (a *agent) Source(name fleet.AgentName) blob.Source {
	other := a.w.agents[name]
	return blob.Source{Name: string(name), Connect: func(context.Context) (blob.Conn, error) {
		if other.dead.Load() {
			return nil, fault.New(fault.Unavailable, "", "dead")
		}
		return &line{w: a.w, store: other.store, lies: other.lies.Load(), from: other}, nil
	}}
}

// getAll has every agent get an artifact at once.
func (w *world) getAll(ctx context.Context, d blob.Digest) {
	w.t.Helper()
	var all sync.WaitGroup
	for _, a := range w.agents {
		if a.dead.Load() {
			continue
		}
		all.Go(func() {
			if err := a.Get(ctx, d, nil); err != nil {
				w.t.Errorf("%s: %v", a.name, err)
			}
		})
	}
	all.Wait()
	for _, a := range w.agents {
		if _, has := a.store.Size(d); !has && !a.dead.Load() {
			w.t.Errorf("%s has it not", a.name)
		}
	}
}

const size = 10*blob.ChunkSize + 77

// once is what may pass the WAN for one copy: the file, its framing, and perhaps what
// was under way when it was cut.
func (w *world) once(cuts int64) {
	w.t.Helper()
	if n, most := w.passed.Load(), int64(size+size/50)+cuts*4*blob.ChunkSize; n > most || n < size {
		w.t.Errorf("%d bytes crossed the WAN, one copy is %d", n, size)
	}
}

func TestOneCopyCrossesTheWAN(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a1", "a2", "a3")
	w.getAll(t.Context(), w.add(size))
	w.once(0)
}

func TestThePullGoesOnAfterACut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a1", "a2", "a3")
	d := w.add(size)
	w.cutAt.Store(size / 2)
	heal := time.AfterFunc(3*time.Second, func() {
		w.cutAt.Store(-1)
		w.cut.Store(false)
	})
	defer heal.Stop()
	w.getAll(t.Context(), d)
	w.once(1)
}

// While the WAN is cut the site helps itself; what nobody has is waited for, and the
// wait says for what.
func TestCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a1", "a2", "a3")
	d := w.add(size)
	if err := w.agents["a1"].Get(t.Context(), d, nil); err != nil {
		t.Fatal(err)
	}
	w.cut.Store(true)
	w.getAll(t.Context(), d)
	missing := w.add(4711)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := w.agents["a2"].Get(ctx, missing, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !bytes.Contains([]byte(err.Error()), []byte("none reaches a coordinator")) {
		t.Errorf("what nobody has: %v", err)
	}
	if err := w.agents["a2"].Try(t.Context(), missing, nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("who does not want to wait: %v", err)
	}
}

func TestWhatNobodyKnows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a1", "a2", "a3")
	d := blob.Digest("sha256:" + hex.EncodeToString(make([]byte, 32)))
	for _, a := range w.agents {
		if err := a.Get(t.Context(), d, nil); !fault.Is(err, fault.NotFound) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v", a.name, err)
		}
	}
	if _, err := w.agents["a1"].Answer(&pb.ArtifactAsk{Digest: "../x"}); !fault.Is(err, fault.BadInput) {
		t.Errorf("no digest: %v", err)
	}
}

// Whoever would fetch it is dead: the next one does.
func TestTheNextOneFetches(t *testing.T) {
	t.Parallel()
	for _, dead := range []fleet.AgentName{"a1", "a2", "a3"} {
		w := newWorld(t, "a1", "a2", "a3")
		w.agents[dead].dead.Store(true)
		w.getAll(t.Context(), w.add(size))
		w.once(0)
	}
}

// One that serves garbage is left alone after the first chunk, and the others get the
// right bytes.
func TestALiarOfTheSite(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a1", "a2")
	d := w.add(size)
	if err := w.agents["a1"].Get(t.Context(), d, nil); err != nil {
		t.Fatal(err)
	}
	w.agents["a1"].lies.Store(true)
	if err := w.agents["a2"].Get(t.Context(), d, nil); err != nil {
		t.Fatal(err)
	}
	f, err := w.agents["a2"].store.Use(d)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil || "sha256:"+hex.EncodeToString(sum.Sum(nil)) != string(d) {
		t.Errorf("a2 has garbage, %v", err)
	}
	if n := w.agents["a1"].served.Load(); n > 5*blob.ChunkSize {
		t.Errorf("the liar could serve %d bytes", n)
	}
}

// An agent that makes up digests fills no other's memory with them, whether it asks
// or wants them fetched.
func TestMadeUpDigestsLeaveNothing(t *testing.T) {
	w := newWorld(t, "a")
	a := w.agents["a"]
	ask := func(n int, fetch bool) {
		sum := sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(n)))
		if _, err := a.Answer(&pb.ArtifactAsk{Digest: "sha256:" + hex.EncodeToString(sum[:]), Fetch: fetch}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 5000 {
		ask(n, false)
	}
	if n := a.Jobs(); n != 0 {
		t.Errorf("%d artifacts are remembered that somebody has asked for", n)
	}
	for n := range 5000 {
		ask(n, true)
	}
	if n := a.Jobs(); n == 0 || n > 256 {
		t.Errorf("%d artifacts are remembered that somebody wants", n)
	}
}
