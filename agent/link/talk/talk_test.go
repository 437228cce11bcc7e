package talk

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// rack is an agent that keeps nothing.
type rack struct{ desired, introduced int }

func (*rack) Have() (revision uint64, scripts map[string]string) { return 7, nil }
func (*rack) PolicyVersion() uint64                              { return 0 }
func (*rack) CatalogueVersion() uint64                           { return 0 }
func (*rack) AuditSize() int64                                   { return 0 }
func (r *rack) Desired(context.Context, *pb.Desired) error       { r.desired++; return nil }
func (r *rack) Introduce() error                                 { r.introduced++; return nil }

func open(t *testing.T, path string) *spool.Spool {
	t.Helper()
	s, err := spool.Open(path, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func add(t *testing.T, s *spool.Spool, n int) {
	t.Helper()
	err := s.Update(func(tx *spool.Tx) error {
		for range n {
			tx.Append(time.Now(), &pb.Record{Body: &pb.Record_Result{Result: &pb.Result{}}})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// greet says hello and is welcomed with the record that is wanted next.
func greet(t *testing.T, side *Side, next, epoch uint64) (*Session, error) {
	t.Helper()
	hello, err := side.Hello(Now{})
	if err != nil {
		t.Fatal(err)
	}
	if epoch == 0 {
		epoch = hello.GetSpoolEpoch()
	}
	return side.Answered(time.Now(), hello, &pb.FromCoordinator{Body: &pb.FromCoordinator_Welcome{Welcome: &pb.Welcome{
		Version: Version, NextWanted: next, SpoolEpoch: epoch, Coordinator: "c1",
	}}})
}

func copyOf(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// send sends all that waits and returns the number of the last record.
func send(t *testing.T, s *Session) (last uint64) {
	t.Helper()
	for {
		b, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			return last
		}
		last = b.GetRecords()[len(b.GetRecords())-1].GetSeq()
	}
}

// What a process has sent may be wanted no more at its next hello, and what an
// earlier one has left in the file may have been sent by it.
func TestGoingOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool.db")
	s := open(t, path)
	add(t, s, 3)
	side := New(Self{Agent: "a1"}, &rack{}, s)
	first, err := greet(t, side, 1, 0)
	if err != nil || send(t, first) != 3 {
		t.Fatalf("greeted for the first time: %v", err)
	}
	again, err := greet(t, side, 4, 0)
	if err != nil {
		t.Fatal(err)
	}
	add(t, s, 2)
	if last := send(t, again); last != 5 {
		t.Errorf("it has sent up to %d", last)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s = open(t, path)
		if _, err := greet(t, New(Self{Agent: "a1"}, &rack{}, s), 6, 0); err != nil {
			t.Errorf("the next process: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A disk is put back to what it was, and the process writes records before it says
// hello, under numbers under which another life of the disk has told others. Those
// would be taken for the same, and be lost.
func TestDiskThatWasPutBackAndWrittenTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool.db")
	s := open(t, path)
	add(t, s, 1)
	old := copyOf(t, path)
	add(t, s, 2) // told: the coordinators want record 4

	s = open(t, old)
	add(t, s, 5) // records 2 to 6, that nobody has
	before, _ := s.Cursor()
	_, err := greet(t, New(Self{Agent: "a1"}, &rack{}, s), 4, 0)
	if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "old copy of itself") {
		t.Errorf("it is welcomed: %v", err)
	}
	after, _ := s.Cursor()
	if after.Epoch <= before.Epoch || after.Next-after.First != 6 {
		t.Errorf("the outbox went from %+v to %+v, want a new epoch with all 6 records", before, after)
	}
	session, err := greet(t, New(Self{Agent: "a1"}, &rack{}, s), 1, 0)
	if err != nil || send(t, session) != 6 {
		t.Errorf("the new epoch: %v", err)
	}
}

// The same, and the process that has written reaches nobody and dies: the one after it
// must not take that for told either.
func TestDiskThatWasPutBackTwoProcessesAgo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool.db")
	s := open(t, path)
	add(t, s, 1)
	if _, err := greet(t, New(Self{Agent: "a1"}, &rack{}, s), 1, 0); err != nil {
		t.Fatal(err)
	}
	old := copyOf(t, path)
	add(t, s, 2) // told

	s = open(t, old)
	add(t, s, 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, old)
	_, err := greet(t, New(Self{Agent: "a1"}, &rack{}, s), 4, 0)
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("it is welcomed: %v", err)
	}
}

// A coordinator that has forgotten what was acknowledged lags; the third in a row
// is believed.
func TestForgetfulCoordinators(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "spool.db"))
	add(t, s, 3)
	side := New(Self{Agent: "a1"}, &rack{}, s)
	session, err := greet(t, side, 1, 0)
	if err != nil || send(t, session) != 3 {
		t.Fatal(err)
	}
	if _, err := greet(t, side, 4, 0); err != nil {
		t.Fatal(err)
	}
	known, _ := s.Cursor()
	for i, want := range []string{"it has not yet", "it has not yet", "have lost records"} {
		_, err := greet(t, side, 2, 0)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("welcome %d: %v", i, err)
		}
	}
	if fresh, _ := s.Cursor(); fresh.Epoch <= known.Epoch {
		t.Errorf("the epoch is %d after %d", fresh.Epoch, known.Epoch)
	}
}

// A clock that is behind makes epochs that are too small: the next is above the one
// that the coordinator knows.
func TestEpochAboveTheKnownOne(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "spool.db"))
	const known = 1 << 62
	if _, err := greet(t, New(Self{Agent: "a1"}, &rack{}, s), 1<<63, known); err == nil {
		t.Error("it is welcomed")
	}
	if c, _ := s.Cursor(); c.Epoch <= known {
		t.Errorf("the epoch is %d", c.Epoch)
	}
}

func TestTake(t *testing.T) {
	agent := &rack{}
	s := open(t, filepath.Join(t.TempDir(), "spool.db"))
	session, err := greet(t, New(Self{Agent: "a1"}, agent, s), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		m    *pb.FromCoordinator
		ask  Ask
		kind fault.Kind
	}{
		{m: &pb.FromCoordinator{Body: &pb.FromCoordinator_Hint{}}, ask: ToPull},
		{m: &pb.FromCoordinator{Body: &pb.FromCoordinator_Desired{Desired: &pb.Desired{}}}, ask: Kept},
		{m: &pb.FromCoordinator{Body: &pb.FromCoordinator_Renewed{}}, ask: Renewed},
		{m: &pb.FromCoordinator{Body: &pb.FromCoordinator_Leased{}}, ask: Leased},
		{m: &pb.FromCoordinator{Body: &pb.FromCoordinator_Pong{}}},
		{m: &pb.FromCoordinator{}},
		{m: &pb.FromCoordinator{Body: &pb.FromCoordinator_Drain{Drain: &pb.Drain{Reason: "stops"}}}, kind: fault.Unavailable},
		{m: &pb.FromCoordinator{Body: &pb.FromCoordinator_Refusal{Refusal: &pb.Refusal{Kind: string(fault.Denied), Error: "no"}}}, kind: fault.Denied},
	} {
		ask, err := session.Take(t.Context(), time.Now(), c.m)
		if ask != c.ask || c.kind == "" && err != nil || c.kind != "" && fault.KindOf(err) != c.kind {
			t.Errorf("%v: %v, %v", c.m, ask, err)
		}
	}
	if agent.desired != 1 {
		t.Errorf("the desired state was taken %d times", agent.desired)
	}
}

func TestStalled(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "spool.db"))
	session, err := greet(t, New(Self{Agent: "a1"}, &rack{}, s), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	now, ping := time.Now(), time.Second
	if err := session.Stalled(now.Add(time.Minute), ping); err != nil {
		t.Errorf("nothing waits: %v", err)
	}
	add(t, s, 1)
	if err := session.Stalled(now.Add(time.Minute+2*time.Second), ping); err != nil {
		t.Errorf("for two pings: %v", err)
	}
	if err := session.Stalled(now.Add(time.Minute+4*time.Second), ping); !fault.Is(err, fault.Timeout) {
		t.Errorf("for four pings: %v", err)
	}
}
