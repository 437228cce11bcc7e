package state_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// randomLog is a log of commands, good and bad ones, among few names so that
// they meet.
func randomLog(r *rand.Rand, n int) []*pb.Command {
	name := func(prefix string, of int) string { return fmt.Sprint(prefix, r.IntN(of)) }
	record := func() *pb.Record {
		run := name("R", 12)
		switch r.IntN(12) {
		case 8:
			return onRack(order.Standing, name("s", 4), r.Uint64N(40_000_000))
		case 9:
			return onRack(order.Remove, name("s", 4), r.Uint64N(40_000_000))
		case 6:
			return &pb.Record{Body: &pb.Record_Rollout{Rollout: &pb.RolloutNodes{Run: run, Nodes: []string{name("n", 6), name("n", 6)}}}}
		case 7:
			return &pb.Record{Body: &pb.Record_NodeEnded{NodeEnded: &pb.NodeEnded{Run: run, Node: name("n", 6), Ok: r.IntN(3) > 0}}}
		case 0:
			return result(run, name("n", 6))
		case 1:
			return done(run, r.Int32N(3), r.Int32N(2))
		case 2:
			return firing(name("m", 3))
		case 3:
			return gone(name("n", 6))
		case 4:
			return accepted(run)
		case 5:
			return hardware(name("n", 6), name("d", 3))
		default:
			rec := node(name("n", 6), name("b", 4))
			rec.GetNode().Labels = map[string]string{name("k", 5): "v", name("k", 5): "w"}
			rec.GetNode().Serial, rec.GetNode().Trust = name("S", 3), &pb.BMCTrust{Pin: name("sha256/", 4)}
			if r.IntN(2) == 0 {
				rec.GetNode().Admission = &pb.Admission{State: "waiting", Uuid: name("u", 2)}
			}
			return rec
		}
	}
	log, catalogued := make([]*pb.Command, n), uint64(0)
	for i := range log {
		rack := name("r", 4)
		switch r.IntN(23) {
		case 15:
			run := runOf("x", rack, name("r", 4)+"x")
			run.Rollout = &pb.Rollout{Canary: 1, Wave: &pb.Share{Percent: 30}, MaxFailures: &pb.Share{Count: r.Int32N(3)}, PauseMs: r.Int64N(2) * 70_000}
			log[i] = apply(nil, run)
		case 16:
			log[i] = &pb.Command{By: "ada", Body: &pb.Command_SteerRun{SteerRun: &pb.SteerRun{
				Id: name("R", 12), Act: []string{"", state.Pause, state.Resume, state.Approve}[r.IntN(4)],
			}}}
		case 11:
			log[i] = &pb.Command{Body: &pb.Command_PutToken{PutToken: &pb.PutToken{Token: &pb.JoinToken{
				Id: name("t", 9), Key: key("k"), Rack: rack, Name: "a" + rack, By: "ada", Replace: r.IntN(2) == 0, UntilUnixMs: r.Int64N(40_000_000),
			}}}}
		case 12:
			log[i] = &pb.Command{Body: &pb.Command_EnrolAgent{EnrolAgent: &pb.EnrolAgent{
				Token: name("t", 9), Rack: rack, Name: "a" + rack, Spki: key(name("", 3)), Serial: []byte{1}, LifeMs: 1, Mark: []byte("m"),
			}}}
		case 13:
			log[i] = &pb.Command{Body: &pb.Command_RenewAgent{RenewAgent: &pb.RenewAgent{
				Rack: rack, Name: "a" + rack, Spki: key(name("", 3)), Serial: []byte{1}, LifeMs: 1, State: joinState(uint64(r.IntN(3)), name("m", 2), name("m", 2)),
			}}}
		case 14:
			log[i] = &pb.Command{Body: &pb.Command_AskJoin{AskJoin: &pb.AskJoin{Pending: &pb.PendingJoin{
				Spki: key(name("", 9)), Code: name("c", 5), Name: "a" + rack, Rack: rack, Remote: "x", UntilUnixMs: r.Int64N(40_000_000),
			}}}}
		case 22:
			from := catalogued
			if r.IntN(4) == 0 {
				from++ // another one came in between
			} else if i > 0 {
				catalogued = uint64(i)
			}
			log[i] = putCatalogue(uint64(i), from, []string{name("r", 4)}, name("r", 4))
		case 19:
			log[i] = putArtifact(name("f", 4), r.IntN(4), name("c", 3))
		case 20:
			log[i] = dropArtifact(r.IntN(4))
		case 21:
			log[i] = holds(r.IntN(4), name("c", 3), r.IntN(2) == 0)
		case 17:
			log[i] = inSite("a"+rack, rack, name("10.0.0.", 3), name("key", 3))
		case 18:
			log[i] = siteKey("s1", "a"+rack, name("ar", 4))
		case 9:
			log[i] = denyAt(r.Int64N(20_000_000), name("agent/a", 6), name("rack/r", 4))
		case 10:
			log[i] = allowAt(0, name("agent/a", 6))
		case 0:
			log[i] = putAgent("a"+rack, name("r", 4))
		case 1:
			s := script(name("s", 4), name("x", 9))
			s.Version = uint64(i) * 50_000
			log[i] = apply(s, runOf("x", rack))
		case 2:
			log[i] = apply(nil, runOf("x", name("r", 4)))
		case 3:
			log[i] = removeScript(name("s", 4))
		case 4:
			log[i] = cancel(name("R", 12))
		default:
			records := []*pb.Record{record(), record(), record()}
			log[i] = batch("a"+rack, rack, 1+r.Uint64N(20), records...)
		}
		log[i].Version = state.Version
		log[i].AtUnixMs = int64(i+1) * 50_000
	}
	return log
}

// A machine that was snapshotted, encoded, decoded and restored in the middle is
// the same as one that was not.
func TestTwoMachinesAgree(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		log := randomLog(r, 300)
		one, two := state.New(), state.New()
		for i, c := range log {
			o1, err1 := one.Apply(uint64(i+1), c)
			o2, err2 := two.Apply(uint64(i+1), proto.CloneOf(c))
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			if fmt.Sprint(o1.Err) != fmt.Sprint(o2.Err) || o1.NextWanted != o2.NextWanted || fmt.Sprint(o1.Racks, one.Conflicts()) != fmt.Sprint(o2.Racks, two.Conflicts()) || kinds(o1.Events) != kinds(o2.Events) {
				t.Fatalf("seed %d, command %d: outcomes differ:\n%v\n%v", seed, i, o1, o2)
			}
			if r.IntN(20) == 0 {
				two = again(t, two)
			}
		}
		if h1, h2 := hash(t, one), hash(t, two); h1 != h2 {
			t.Fatalf("seed %d: %s and %s", seed, h1, h2)
		}
	}
}

// The same with batches, as several coordinators propose them: some commands come
// twice. What was snapshotted and restored on the way repeats nothing, and a batch does
// what its commands do alone.
func TestTwoMachinesAgreeOnBatches(t *testing.T) {
	for seed := range uint64(15) {
		r := rand.New(rand.NewPCG(seed, 4))
		log := randomLog(r, 300)
		one, two, single := state.New(), state.New(), state.New()
		var sent []*pb.Command
		for index := uint64(1); len(log) > 0; index++ {
			var list []*pb.Command
			for range 1 + r.IntN(6) {
				if len(sent) > 0 && r.IntN(4) == 0 { // its answer was lost
					list = append(list, sent[r.IntN(len(sent))])
				} else if len(log) > 0 {
					c := of(fmt.Sprint("c", r.IntN(3), "/x"), uint64(len(sent)+1), log[0])
					sent, list, log = append(sent, c), append(list, c), log[1:]
				}
			}
			if len(list) == 0 {
				continue
			}
			at := int64(index) * 50_000
			o1, err1 := one.ApplyAll(index, entry(t, at, list...))
			o2, err2 := two.ApplyAll(index, entry(t, at, list...))
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			for i, c := range entry(t, at, list...) {
				o3, err := single.Apply(1000*index+uint64(i), c)
				if err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(o1[i].Err, o1[i].Repeated, o1[i].Run, o1[i].NextWanted) != fmt.Sprint(o2[i].Err, o2[i].Repeated, o2[i].Run, o2[i].NextWanted) ||
					kinds(o1[i].Events) != kinds(o3.Events) || o1[i].Repeated != o3.Repeated {
					t.Fatalf("seed %d, entry %d: outcomes differ:\n%v\n%v\n%v", seed, index, o1[i], o2[i], o3)
				}
			}
			if r.IntN(8) == 0 {
				two = again(t, two)
			}
		}
		if h1, h2 := hash(t, one), hash(t, two); h1 != h2 {
			t.Fatalf("seed %d: %s and %s", seed, h1, h2)
		}
		if one.Counts() != single.Counts() {
			t.Fatalf("seed %d: batches make %+v, their commands alone %+v", seed, one.Counts(), single.Counts())
		}
	}
}

func again(t *testing.T, m *state.Machine) *state.Machine {
	t.Helper()
	s, err := state.Read(bytes.NewReader(written(t, m.Snapshot())))
	if err != nil {
		t.Fatal(err)
	}
	restored := state.New()
	if err := restored.Restore(s); err != nil {
		t.Fatal(err)
	}
	return restored
}

func hash(t *testing.T, m *state.Machine) string {
	t.Helper()
	h, err := m.Hash()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestTheHashSeesEveryChange(t *testing.T) {
	l := newLog(t)
	seen := map[string]bool{hash(t, l.Machine): true}
	for _, c := range []*pb.Command{
		putAgent("a1", "r1"),
		apply(script("s", "x"), nil),
		apply(nil, runOf("x", "r1")),
		batch("a1", "r1", 1, node("n1", "b")),
		batch("a1", "r1", 2, result("R1", "n1")),
		batch("a1", "r1", 3, firing("m")),
		batch("a1", "r1", 4, found("r1-x", "waiting", "sha256/x")),
		batch("a1", "r1", 5, found("r1-x", "refused", "sha256/x")),
		batch("a1", "r1", 6, gone("r1-x")),
		batch("a1", "r1", 7, done("R1", 1, 0)),
		removeScript("s"),
	} {
		l.must(c)
		h := hash(t, l.Machine)
		if seen[h] {
			t.Errorf("command %d did not change the hash", l.index)
		}
		seen[h] = true
	}
}

func TestASnapshotIsNotChangedByLaterCommands(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(apply(nil, runOf("x", "r1")))
	l.must(batch("a1", "r1", 1, result("R1", "n1"), firing("m")))
	s := l.Snapshot()
	before := proto.CloneOf(s)
	l.must(batch("a1", "r1", 3, result("R1", "n2"), firing("m2"), done("R1", 2, 0)))
	equal(t, "snapshot", s, before)
}

func TestABadSnapshotChangesNothing(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	before := hash(t, l.Machine)
	for _, s := range []*pb.Snapshot{
		{Version: 2},
		{Version: 1, Results: []*pb.RunResults{{Run: "R1"}}},
	} {
		if err := l.Restore(s); err == nil {
			t.Errorf("restored %v", s)
		}
	}
	if hash(t, l.Machine) != before {
		t.Error("the state has changed")
	}
}

// The network between an agent and the coordinators loses, doubles and reorders
// batches; every result is recorded once all the same, in order.
func TestExactlyOnceOverABadNetwork(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 2))
		l := newLog(t)
		l.must(putAgent("a1", "r1"))
		l.must(apply(nil, runOf("x", "r1")))
		const total = 200
		acked := uint64(1)
		var flying []*pb.Command
		for step := 0; acked <= total; step++ {
			if step > 100_000 {
				t.Fatalf("seed %d: no end at record %d", seed, acked)
			}
			if len(flying) < 8 { // the agent sends from somewhere at or after what it knows is acked
				first := acked + r.Uint64N(5)
				var records []*pb.Record
				for seq := first; seq <= total && len(records) < 1+r.IntN(9); seq++ {
					records = append(records, result("R1", strconv.FormatUint(seq, 10)))
				}
				if len(records) > 0 {
					flying = append(flying, batch("a1", "r1", first, records...))
				}
				continue
			}
			i := r.IntN(len(flying))
			if r.IntN(5) > 0 {
				o := l.try(proto.CloneOf(flying[i]))
				if r.IntN(3) > 0 {
					acked = max(acked, o.NextWanted)
				}
			}
			if r.IntN(3) > 0 {
				flying = append(flying[:i], flying[i+1:]...)
			}
		}
		_, results, _ := l.Run("R1", 0)
		if len(results) != total {
			t.Fatalf("seed %d: %d results, want %d", seed, len(results), total)
		}
		for i, res := range results {
			if res.GetNode() != strconv.Itoa(i+1) {
				t.Fatalf("seed %d: result %d is of %s", seed, i, res.GetNode())
			}
		}
	}
}

// Readers and encoders of snapshots run beside Apply; the race detector judges.
func TestReadersBesideApply(t *testing.T) {
	m := state.New()
	log := randomLog(rand.New(rand.NewPCG(5, 5)), 2000)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, list := range []any{m.Scripts(), m.Runs(), m.Nodes(), m.Agents(), m.Firings(100), m.Desired("r1"), m.Counts()} {
					_ = list
				}
				m.Run("R1", 0)
				m.Overdue(1)
				if _, err := m.Hash(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i, c := range log {
		if _, err := m.Apply(uint64(i+1), c); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
}

// Whatever bytes decode to a command can be applied, snapshotted and restored.
func FuzzApply(f *testing.F) {
	for _, c := range randomLog(rand.New(rand.NewPCG(9, 9)), 40) {
		b, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c pb.Command
		if proto.Unmarshal(b, &c) != nil {
			return
		}
		l := newLog(t)
		l.must(putAgent("ar1", "r1"))
		l.must(apply(script("s1", "x"), runOf("x", "r1")))
		before := hash(t, l.Machine)
		o, err := l.Apply(l.index+1, &c)
		if (err != nil || o.Err != nil) && hash(t, l.Machine) != before {
			t.Error("it was refused, and the state has changed")
		}
		if hash(t, again(t, l.Machine)) != hash(t, l.Machine) {
			t.Error("restored, it is another state")
		}
	})
}
