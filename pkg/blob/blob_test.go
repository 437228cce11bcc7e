package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/pkg/blob"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, quota int64) (store *blob.Store, dir string) {
	t.Helper()
	dir = t.TempDir()
	s, err := blob.Open(dir, quota)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, dir
}

// file is content of a size, the same for each seed.
func file(size int, seed byte) ([]byte, blob.Digest) {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
	sum := sha256.Sum256(data)
	return data, blob.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

func put(t *testing.T, s *blob.Store, data []byte, d blob.Digest) {
	t.Helper()
	if err := s.Put(bytes.NewReader(data), d, int64(len(data))); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, s *blob.Store, d blob.Digest) []byte {
	t.Helper()
	f, err := s.Use(d)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// far is a source whose streams end in a goroutine here.
type far struct {
	t      *testing.T
	store  *blob.Store
	spoil  func(q *pb.ArtifactPull, p *pb.ArtifactPiece) // changes what is served
	left   atomic.Int64                                  // bytes until it is cut; negative: never
	served atomic.Int64
	conns  atomic.Int64
	serve  sync.WaitGroup
}

func newFar(t *testing.T, s *blob.Store) *far {
	t.Helper()
	f := &far{t: t, store: s}
	f.left.Store(-1)
	t.Cleanup(f.serve.Wait)
	return f
}

func (f *far) source() blob.Source {
	return blob.Source{Name: "far", Connect: func(context.Context) (blob.Conn, error) {
		f.conns.Add(1)
		if f.left.Load() == 0 {
			return nil, fault.New(fault.Unavailable, "", "cut")
		}
		return f, nil
	}}
}

func (f *far) Close(string) {}

func (f *far) Open(context.Context) (mesh.Stream, *mesh.Channel, error) {
	near, other := net.Pipe()
	f.serve.Go(func() {
		defer other.Close()
		if f.spoil == nil {
			_ = f.store.Serve(context.Background(), mesh.NewChannel(&counted{other, f}, 0))
			return
		}
		ch := mesh.NewChannel(other, 0)
		var q pb.ArtifactPull
		if ch.Receive(&q) == nil {
			p := &pb.ArtifactPiece{Last: true}
			f.spoil(&q, p)
			_ = ch.Send(p)
		}
	})
	return near, mesh.NewChannel(near, 0), nil
}

// counted counts what is served, and is cut when that was enough.
type counted struct {
	net.Conn
	far *far
}

func (c *counted) Write(b []byte) (int, error) {
	c.far.served.Add(int64(len(b)))
	if left := c.far.left.Load(); left >= 0 {
		if left < int64(len(b)) {
			c.far.left.Store(0)
			_ = c.Close()
			return 0, io.ErrClosedPipe
		}
		c.far.left.Add(-int64(len(b)))
	}
	return c.Conn.Write(b)
}

func TestPull(t *testing.T) {
	for _, size := range []int{1, blob.ChunkSize - 1, blob.ChunkSize, 5*blob.ChunkSize + 3} {
		there, _ := open(t, 0)
		here, dir := open(t, 0)
		data, d := file(size, 1)
		put(t, there, data, d)
		f := newFar(t, there)
		last := int64(0)
		var mu sync.Mutex
		err := here.Pull(t.Context(), d, f.source(), func(have, of int64) {
			mu.Lock()
			defer mu.Unlock()
			if of != int64(size) {
				t.Errorf("its size is told as %d", of)
			}
			last = max(last, have)
		})
		if err != nil || !bytes.Equal(content(t, here, d), data) || last != int64(size) {
			t.Errorf("%d bytes: %v, told %d", size, err, last)
		}
		if n := f.served.Load(); n > int64(size)+int64(size)/100+4096 {
			t.Errorf("%d bytes were served for %d", n, size)
		}
		left, _ := filepath.Glob(dir + "/*.part")
		if len(left) > 0 {
			t.Errorf("%v is left", left)
		}
		if err := here.Pull(t.Context(), d, blob.Source{}, nil); err != nil {
			t.Errorf("what is there is pulled again: %v", err)
		}
	}
}

// Over how many connections is pulled can be said from outside: a thin line takes few.
func TestAPullOverFewerConnections(t *testing.T) {
	for said, want := range map[int]int64{1: 1, 2: 2, 4: 4} {
		there, _ := open(t, 0)
		here, _ := open(t, 0)
		data, d := file(8*blob.ChunkSize, 1)
		put(t, there, data, d)
		f := newFar(t, there)
		from := f.source()
		from.Streams = func(int) int { return said }
		if err := here.Pull(t.Context(), d, from, nil); err != nil {
			t.Fatal(err)
		}
		if n := f.conns.Load() - 1; n > want { // the first asks how large it is
			t.Errorf("%d connections, and %d are allowed", n, said)
		}
	}
}

// A pull that is cut goes on where it was, also in the next process, and with another
// source.
func TestAPullIsResumed(t *testing.T) {
	there, _ := open(t, 0)
	here, dir := open(t, 0)
	const size = 20 * blob.ChunkSize
	data, d := file(size, 2)
	put(t, there, data, d)
	first := newFar(t, there)
	first.left.Store(size / 2)
	if err := here.Pull(t.Context(), d, first.source(), nil); !fault.Is(err, fault.Unavailable) {
		t.Fatalf("the cut pull ended with %v", err)
	}
	if _, has := here.Size(d); has {
		t.Error("half of it counts as the whole")
	}
	if _, err := here.Info(d); err != nil {
		t.Errorf("what it consists of was forgotten: %v", err)
	}
	parts, err := filepath.Glob(dir + "/*.part")
	if err != nil || len(parts) != 1 {
		t.Fatalf("%v, %v", parts, err)
	}
	damaged, err := os.OpenFile(parts[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = damaged.WriteAt([]byte("a block that the crash did not write"), 100); err != nil {
		t.Fatal(err)
	}
	_ = damaged.Close()
	again, err := blob.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	second := newFar(t, there)
	if err := again.Pull(t.Context(), d, second.source(), nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, again, d), data) {
		t.Error("it is another file now")
	}
	if sum := first.served.Load() + second.served.Load(); sum > size+size/4+8*blob.ChunkSize/2 {
		t.Errorf("%d bytes were served for %d: %d before the cut, %d after it", sum, size, first.served.Load(), second.served.Load())
	}
}

// What a liar serves is not kept, and what was true before stays.
func TestALiarIsTold(t *testing.T) {
	there, _ := open(t, 0)
	data, d := file(8*blob.ChunkSize, 3)
	put(t, there, data, d)
	info, err := there.Info(d)
	if err != nil {
		t.Fatal(err)
	}
	garbage, _ := file(blob.ChunkSize, 4)
	sum := sha256.Sum256(garbage)
	serve := func(info *pb.ArtifactInfo) func(*pb.ArtifactPull, *pb.ArtifactPiece) {
		return func(q *pb.ArtifactPull, p *pb.ArtifactPiece) {
			if q.GetInfo() {
				p.Info = info
				return
			}
			p.Data = garbage[:min(len(garbage), int(info.GetSize()-q.GetChunk()*blob.ChunkSize))]
		}
	}
	for name, spoil := range map[string]func(*pb.ArtifactPull, *pb.ArtifactPiece){
		"garbage for the right list": serve(info),
		"its own list":               serve(&pb.ArtifactInfo{Digest: string(d), Size: info.GetSize(), Chunks: bytes.Repeat(sum[:], 8)}),
		"a list of nothing":          serve(&pb.ArtifactInfo{Digest: string(d)}),
		"a list of another":          serve(&pb.ArtifactInfo{Digest: "sha256:00", Size: 1, Chunks: sum[:]}),
		"a huge one":                 serve(&pb.ArtifactInfo{Digest: string(d), Size: 1 << 62}),
		"no list":                    serve(nil),
		"too much": func(q *pb.ArtifactPull, p *pb.ArtifactPiece) {
			if q.GetInfo() {
				p.Info = info
				return
			}
			p.Data = make([]byte, 2*blob.ChunkSize)
		},
	} {
		here, dir := open(t, 0)
		liar := newFar(t, there)
		liar.spoil = spoil
		if err := here.Pull(t.Context(), d, liar.source(), nil); !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), "far") {
			t.Errorf("%s: %v", name, err)
		}
		if parts, _ := filepath.Glob(dir + "/*"); len(parts) > 0 {
			t.Errorf("%s: %v is left", name, parts)
		}
		honest := newFar(t, there)
		if err := here.Pull(t.Context(), d, honest.source(), nil); err != nil || !bytes.Equal(content(t, here, d), data) {
			t.Errorf("after %s: %v", name, err)
		}
	}
}

// A liar in the middle costs nothing of what came before it.
func TestALiarAfterACut(t *testing.T) {
	there, _ := open(t, 0)
	here, _ := open(t, 0)
	const size = 20 * blob.ChunkSize
	data, d := file(size, 5)
	put(t, there, data, d)
	first := newFar(t, there)
	first.left.Store(size / 2)
	if err := here.Pull(t.Context(), d, first.source(), nil); err == nil {
		t.Fatal("it was not cut")
	}
	liar := newFar(t, there)
	liar.spoil = func(_ *pb.ArtifactPull, p *pb.ArtifactPiece) { p.Data = make([]byte, blob.ChunkSize) }
	if err := here.Pull(t.Context(), d, liar.source(), nil); !fault.Is(err, fault.Untrusted) {
		t.Errorf("the liar: %v", err)
	}
	second := newFar(t, there)
	if err := here.Pull(t.Context(), d, second.source(), nil); err != nil || !bytes.Equal(content(t, here, d), data) {
		t.Fatal(err)
	}
	if n := second.served.Load(); n > size*3/4 {
		t.Errorf("%d bytes were served anew", n)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	there, _ := open(t, 0)
	here, _ := open(t, 0)
	_, d := file(10, 6)
	if err := here.Pull(t.Context(), d, newFar(t, there).source(), nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("an unknown blob: %v", err)
	}
	f := newFar(t, there)
	f.left.Store(0)
	if err := here.Pull(t.Context(), d, f.source(), nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := here.Use(d); !fault.Is(err, fault.NotFound) {
		t.Errorf("an unknown blob is opened: %v", err)
	}
}

func TestPutTakesOnlyWhatWasSaid(t *testing.T) {
	s, dir := open(t, 0)
	data, d := file(1000, 7)
	_, other := file(1000, 8)
	broken := io.MultiReader(bytes.NewReader(data[:500]), failing{})
	for name, err := range map[string]error{
		"another digest": s.Put(bytes.NewReader(data), other, 1000),
		"too short":      s.Put(bytes.NewReader(data[:999]), d, 1000),
		"too long":       s.Put(bytes.NewReader(append(data, 0)), d, 1000),
		"nothing":        s.Put(bytes.NewReader(nil), d, 0),
		"huge":           s.Put(bytes.NewReader(nil), d, blob.MaxSize+1),
		"a broken one":   s.Put(broken, d, 1000),
	} {
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	put(t, s, data, d)
	put(t, s, data, d) // again
	if all, err := s.List(); err != nil || len(all) != 1 || all[0].Digest != d || all[0].Size != 1000 {
		t.Errorf("%v, %v", all, err)
	}
	if err := errors.Join(s.Remove(d), s.Remove(d)); err != nil {
		t.Error(err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the line is cut") }

// What was used longest ago goes first, and what does not fit at all goes nowhere.
func TestQuota(t *testing.T) {
	there, _ := open(t, 0)
	here, dir := open(t, 3*blob.ChunkSize)
	var all []blob.Digest
	for i := range 4 {
		data, d := file(blob.ChunkSize, byte(10+i))
		put(t, there, data, d)
		all = append(all, d)
	}
	pull := func(d blob.Digest) {
		if err := here.Pull(t.Context(), d, newFar(t, there).source(), nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, d := range all[:3] {
		pull(d)
		at := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(filepath.Join(dir, strings.Replace(string(d), ":", "-", 1)), at, at); err != nil {
			t.Fatal(err)
		}
	}
	f, err := here.Use(all[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	pull(all[3])
	for i, want := range []bool{true, false, true, true} {
		if _, has := here.Size(all[i]); has != want {
			t.Errorf("blob %d is there: %v", i, has)
		}
	}
	big, d := file(4*blob.ChunkSize, 20)
	put(t, there, big, d)
	if err := here.Pull(t.Context(), d, newFar(t, there).source(), nil); !fault.Is(err, fault.TooLarge) || fault.HintOf(err) == "" {
		t.Errorf("one that is too large: %v", err)
	}
}

func FuzzDigest(f *testing.F) {
	_, d := file(1, 1)
	f.Add(string(d))
	f.Add("sha256:../../etc/passwd")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := blob.ParseDigest(s); err == nil && (len(s) != 71 || strings.ContainsAny(s, "/.")) {
			t.Errorf("%q is a digest", s)
		}
	})
}
