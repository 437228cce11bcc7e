package state_test

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// written is a snapshot as it lies on the disk.
func written(tb testing.TB, s *pb.Snapshot) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := state.Write(&b, s); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// many is a machine with so many nodes, of some hundred bytes each.
func many(tb testing.TB, nodes int) *state.Machine {
	tb.Helper()
	l := newLog(tb)
	for rack := 0; nodes > 0; rack++ {
		agent, name := fmt.Sprint("a", rack), fmt.Sprint("r", rack)
		l.must(putAgent(agent, name))
		var records []*pb.Record
		for ; nodes > 0 && len(records) < 100; nodes-- {
			n := node(fmt.Sprint("n", nodes), fmt.Sprint("b", nodes))
			n.GetNode().Labels = map[string]string{"row": "12", "role": "worker", "owner": strings.Repeat("x", 200)}
			n.GetNode().Model, n.GetNode().State = "Model", "ready"
			records = append(records, n)
		}
		l.must(batch(agent, name, 1, records...))
	}
	return l.Machine
}

func TestASnapshotIsOneMessageHoweverItIsWritten(t *testing.T) {
	random := newLog(t)
	for _, c := range randomLog(rand.New(rand.NewPCG(3, 4)), 400) {
		random.try(c)
	}
	for name, m := range map[string]*state.Machine{"empty": state.New(), "of a random log": random.Machine, "of several parts": many(t, 9_000)} {
		s := m.Snapshot()
		data := written(t, s)
		var plain pb.Snapshot
		if err := proto.Unmarshal(data, &plain); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		read, err := state.Read(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !proto.Equal(s, &plain) || !proto.Equal(s, read) {
			t.Errorf("%s: what was read is another state", name)
		}
		if !bytes.Equal(data, written(t, read)) {
			t.Errorf("%s: written again, it is other bytes", name)
		}
	}
}

// A disk that ends in the middle of a field is told. One that ends between two is found by the
// checksum that Raft keeps beside each snapshot.
func TestASnapshotThatEndsTooSoon(t *testing.T) {
	s := many(t, 1).Snapshot()
	data := written(t, s)
	whole := 0
	for end := range data {
		read, err := state.Read(bytes.NewReader(data[:end]))
		if err == nil {
			whole++
			if proto.Equal(read, s) {
				t.Errorf("%d of %d bytes are the whole state", end, len(data))
			}
		}
	}
	if fields := 8; whole > fields {
		t.Errorf("%d of its beginnings are read without an error, it has not that many fields", whole)
	}
}

func TestASnapshotThatLies(t *testing.T) {
	tag := protowire.AppendTag(nil, 7, protowire.BytesType)
	for name, data := range map[string][]byte{
		"a node of 8 EiB":                  protowire.AppendVarint(bytes.Clone(tag), math.MaxInt64),
		"a node of 1 GiB, of which 9 come": append(protowire.AppendVarint(bytes.Clone(tag), 1<<30), "some text"...),
		"a group":                          protowire.AppendTag(nil, 7, protowire.StartGroupType),
		"a number without an end":          bytes.Repeat([]byte{0xff}, 20),
		"a node that is none":              protowire.AppendBytes(bytes.Clone(tag), []byte{0xff}),
		"field 0":                          {0, 0},
	} {
		allocated := testing.AllocsPerRun(1, func() {
			if _, err := state.Read(bytes.NewReader(data)); err == nil {
				t.Errorf("%s is a snapshot", name)
			}
		})
		if allocated > 100 {
			t.Errorf("%s: %v allocations", name, allocated)
		}
	}
}

func TestASnapshotThatCantBeWritten(t *testing.T) {
	r, w := io.Pipe()
	_ = r.CloseWithError(io.ErrShortWrite)
	if err := state.Write(w, many(t, 1).Snapshot()); err == nil {
		t.Error("nobody was told")
	}
}

func FuzzReadSnapshot(f *testing.F) {
	f.Add(written(f, many(f, 3).Snapshot()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := state.Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		if err := state.New().Restore(s); err != nil {
			return
		}
		if read, err := state.Read(bytes.NewReader(written(t, s))); err != nil || !proto.Equal(read, s) && len(s.ProtoReflect().GetUnknown()) == 0 {
			t.Errorf("written and read again it is another one: %v", err)
		}
	})
}

// BenchmarkSnapshot is what a snapshot of 100,000 nodes costs: taking it, which holds up
// the commands, writing it and reading it.
func BenchmarkSnapshot(b *testing.B) {
	m := many(b, 100_000)
	s := m.Snapshot()
	data := written(b, s)
	b.Run("take", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Snapshot()
		}
	})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if err := state.Write(io.Discard, s); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := state.Read(bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("restore", func(b *testing.B) {
		for b.Loop() {
			if err := state.New().Restore(s); err != nil {
				b.Fatal(err)
			}
		}
	})
}
