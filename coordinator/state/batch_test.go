package state_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// of gives a command its place in a session.
func of(session string, seq uint64, c *pb.Command) *pb.Command {
	c.Version, c.Session, c.Seq = state.Version, session, seq
	return c
}

// entry is a batch as the log has it, read again.
func entry(tb testing.TB, at int64, list ...*pb.Command) []*pb.Command {
	tb.Helper()
	var encoded [][]byte
	for _, c := range list {
		b, err := proto.Marshal(c)
		if err != nil {
			tb.Fatal(err)
		}
		encoded = append(encoded, b)
	}
	b, err := state.Batch(at, encoded)
	if err != nil {
		tb.Fatal(err)
	}
	read, err := state.Commands(1, b)
	if err != nil {
		tb.Fatal(err)
	}
	return read
}

// Each command of a batch has its own outcome, its own place in the audit log, and the
// time of the batch.
func TestABatch(t *testing.T) {
	m := state.New()
	all, err := m.ApplyAll(7, entry(t, 5000,
		of("c1/a", 1, putAgent("a1", "r1")),
		of("c1/a", 2, removeScript("none")),
		of("c1/a", 3, apply(script("s", "x"), runOf("x", "r1"))),
		of("c1/a", 1, putAgent("a1", "r1")),
	))
	if err != nil {
		t.Fatal(err)
	}
	refusedAs(t, all[1], fault.NotFound, `no script named "none"`)
	if all[0].Err != nil || all[2].Run.GetId() != "R1" || all[2].Run.GetStartedUnixMs() != 5000 || !all[3].Repeated {
		t.Errorf("the outcomes are %+v", all)
	}
	if records := m.Audit(0, 10); len(records) != 2 {
		t.Errorf("the audit log has %d records: %s", len(records), records)
	}
	if _, err := m.Apply(7, of("c1/a", 4, removeScript("s"))); err == nil {
		t.Error("an entry of the same place was applied")
	}
}

// One command that can't be read stops the machine before any other of its entry.
func TestABatchWithOneUnreadable(t *testing.T) {
	for name, bad := range map[string]*pb.Command{
		"of no type":      of("c1/a", 2, &pb.Command{}),
		"a batch of them": of("c1/a", 2, &pb.Command{Body: &pb.Command_Batch{Batch: &pb.Batch{}}}),
	} {
		m := state.New()
		before := hash(t, m)
		if _, err := m.ApplyAll(1, entry(t, 1, of("c1/a", 1, putAgent("a1", "r1")), bad)); !fault.Is(err, fault.Unsupported) {
			t.Errorf("%s: %v", name, err)
		}
		if hash(t, m) != before {
			t.Errorf("%s: the state has changed", name)
		}
	}
	future := &pb.Command{Version: 2, Body: &pb.Command_Batch{Batch: &pb.Batch{}}}
	b, err := proto.Marshal(future)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := state.Commands(1, b); !fault.Is(err, fault.Unsupported) {
		t.Errorf("a batch of another version: %v", err)
	}
}

// An entry of a log from before there were batches is one command, known by its id.
func TestAnEarlierEntry(t *testing.T) {
	old := putAgent("a1", "r1")
	old.Version, old.Id, old.AtUnixMs = state.Version, "c1/old/1", 9
	b, err := proto.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	m := state.New()
	for i, repeated := range []bool{false, true} {
		list, err := state.Commands(uint64(i), b)
		if err != nil {
			t.Fatal(err)
		}
		all, err := m.ApplyAll(uint64(i+1), list)
		if err != nil || len(all) != 1 || all[0].Repeated != repeated {
			t.Errorf("time %d: %+v, %v", i+1, all, err)
		}
	}
}

// In whatever order and however often the numbers of a session come, each counts
// once, also after a snapshot; and what is remembered stays small.
func TestASessionCountsEachNumberOnce(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 3))
		m := state.New()
		const total = 400
		seen := map[uint64]bool{}
		for i := uint64(1); len(seen) < total; i++ {
			seq := min(1+uint64(len(seen))+r.Uint64N(20), total)
			if r.IntN(3) == 0 || i > 20*total {
				seq = 1 + r.Uint64N(total)
			}
			o, err := m.Apply(i, of("c1/a", seq, &pb.Command{Body: &pb.Command_Mark{Mark: &pb.Mark{}}}))
			if err != nil || o.Repeated != seen[seq] {
				t.Fatalf("seed %d, number %d: repeated %v, %v", seed, seq, o.Repeated, err)
			}
			seen[seq] = true
			if r.IntN(40) == 0 {
				m = again(t, m)
			}
		}
		if s := m.Snapshot().GetSessions(); len(s) != 1 || len(s[0].GetSpans()) != 2 || s[0].GetSpans()[1] != total {
			t.Errorf("seed %d: it remembers %v", seed, s)
		}
	}
}

// Lives of coordinators that are long over are forgotten, the longest silent first.
func TestSessionsAreForgotten(t *testing.T) {
	m := state.New()
	for i := range uint64(200) {
		for j, name := range []string{"c1/lives", fmt.Sprint("c2/", i)} {
			if _, err := m.Apply(2*i+uint64(j)+1, of(name, i+1, &pb.Command{Body: &pb.Command_Mark{Mark: &pb.Mark{}}})); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := m.Snapshot().GetSessions()
	if len(s) != 64 || s[0].GetName() != "c1/lives" || s[0].GetSpans()[1] != 200 || s[1].GetName() != "c2/137" {
		t.Errorf("%d are remembered, the first are %v", len(s), s[:2])
	}
}

// Gaps that nobody fills close from below, so that a session stays small.
func TestASessionWithManyGaps(t *testing.T) {
	m := state.New()
	var list []*pb.Command
	for i := range uint64(10_000) {
		list = append(list, of("c1/a", 2*(i+1), &pb.Command{Body: &pb.Command_Mark{Mark: &pb.Mark{}}}))
	}
	if _, err := m.ApplyAll(1, list); err != nil {
		t.Fatal(err)
	}
	if s := m.Snapshot().GetSessions()[0]; len(s.GetSpans()) != 2*8192 || s.GetSpans()[0] != 2 || s.GetSpans()[1] != 2*(10_000-8191) {
		t.Errorf("it has %d numbers, the first %v", len(s.GetSpans()), s.GetSpans()[:2])
	}
}

// FuzzCommands: whatever lies on a disk is read or refused.
func FuzzCommands(f *testing.F) {
	b, err := state.Batch(3, [][]byte{{}, {8, 1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := state.Commands(1, b)
		if err != nil {
			return
		}
		m := state.New()
		all, err := m.ApplyAll(1, list)
		if err == nil && len(all) != len(list) {
			t.Errorf("%d outcomes of %d commands", len(all), len(list))
		}
		if hash(t, again(t, m)) != hash(t, m) {
			t.Error("restored, it is another state")
		}
	})
}

// BenchmarkApply is the state's part of one command.
func BenchmarkApply(b *testing.B) {
	records := make([]*pb.Record, 16)
	for i := range records {
		records[i] = result("R1", fmt.Sprint("n", i))
	}
	for name, next := range map[string]func(i uint64) *pb.Command{
		"mark":       func(uint64) *pb.Command { return &pb.Command{Body: &pb.Command_Mark{Mark: &pb.Mark{}}} },
		"apply":      func(i uint64) *pb.Command { return apply(script(fmt.Sprint("s", i%1000), "(config all)"), nil) },
		"16 results": func(i uint64) *pb.Command { return batch("a1", "r1", 1+(i-1)*16, records...) },
	} {
		b.Run(name, func(b *testing.B) {
			m := state.New()
			for i, c := range []*pb.Command{putAgent("a1", "r1"), apply(nil, runOf("x", "r1"))} {
				if _, err := m.Apply(uint64(i+1), of("c1/a", uint64(i+1), c)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for i := uint64(1); b.Loop(); i++ {
				if _, err := m.Apply(i+2, of("c1/a", i+2, next(i))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHash is a digest of a state with 1,000 nodes and 20,000 results.
func BenchmarkHash(b *testing.B) {
	l := newLog(b)
	l.must(putAgent("a1", "r1"))
	l.must(apply(nil, runOf("x", "r1")))
	for i := range 1000 {
		name := fmt.Sprint("n", i)
		records := []*pb.Record{node(name, "b"+name)}
		for range 20 {
			records = append(records, result("R1", name))
		}
		l.must(batch("a1", "r1", uint64(1+i*21), records...))
	}
	for b.Loop() {
		if _, err := l.Hash(); err != nil {
			b.Fatal(err)
		}
	}
}
