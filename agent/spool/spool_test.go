package spool_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/quick"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const writerEnv = "CHIBA_TEST_SPOOL_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerEnv); path != "" {
		write(path)
		return
	}
	os.Exit(m.Run())
}

var at = time.UnixMilli(1_700_000_000_000)

func open(tb testing.TB, path string) *spool.Spool {
	tb.Helper()
	s, err := spool.Open(path, spool.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func temp(tb testing.TB) string {
	tb.Helper()
	return filepath.Join(tb.TempDir(), "state", "spool.db")
}

func result(text string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Step: text}}}
}

func add(tb testing.TB, s *spool.Spool, texts ...string) {
	tb.Helper()
	err := s.Update(func(tx *spool.Tx) error {
		for _, text := range texts {
			tx.Append(at, result(text))
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
}

func steps(tb testing.TB, s *spool.Spool, from uint64, size int) []string {
	tb.Helper()
	b, err := s.Batch(from, size)
	if err != nil {
		tb.Fatal(err)
	}
	var texts []string
	for i, r := range b.GetRecords() {
		if r.GetSeq() != from+uint64(i) {
			tb.Fatalf("record %d of a batch from %d has seq %d", i, from, r.GetSeq())
		}
		texts = append(texts, r.GetResult().GetStep())
	}
	return texts
}

func cursor(tb testing.TB, s *spool.Spool) spool.Cursor {
	tb.Helper()
	c, err := s.Cursor()
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestOutboxKeepsUntilAcknowledged(t *testing.T) {
	path := temp(t)
	s := open(t, path)
	add(t, s, "a", "b", "c")
	epoch := cursor(t, s).Epoch
	if err := s.Ack(epoch, 3); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	add(t, s, "d")
	if diff := cmp.Diff(spool.Cursor{Epoch: epoch, First: 3, Next: 5}, cursor(t, s)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"c", "d"}, steps(t, s, 3, 1<<20)); diff != "" {
		t.Error(diff)
	}
	if got := steps(t, s, 1, 1<<20); got != nil {
		t.Errorf("what was acknowledged is still there: %v", got)
	}
}

// An acknowledgement holds at once and costs no commit of its own: a process that
// is killed before the next one finds the records again, and is told again.
func TestAckWaitsForACommit(t *testing.T) {
	path := temp(t)
	s := open(t, path)
	add(t, s, "a", "b", "c")
	c := cursor(t, s)
	inFile := func() spool.Cursor {
		image, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "spool.db")
		if err = os.WriteFile(copied, image, 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, copied)
		defer func() { _ = again.Close() }()
		return cursor(t, again)
	}
	if err := s.Ack(c.Epoch, 3); err != nil {
		t.Fatal(err)
	}
	if got := cursor(t, s).First; got != 3 {
		t.Errorf("the first is %d after an ack up to 3", got)
	}
	if got := inFile(); got != c {
		t.Errorf("the file has %v, an ack alone was to leave %v", got, c)
	}
	if err := s.Update(func(*spool.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spool.Cursor{Epoch: c.Epoch, First: 3, Next: 4}, inFile()); diff != "" {
		t.Error(diff)
	}
}

// What many do one by one waits a little for others, and no longer than until
// somebody commits.
func TestSoonSharesACommit(t *testing.T) {
	path := temp(t)
	synctest.Test(t, func(t *testing.T) {
		s, err := spool.Open(path, spool.Options{Gather: 5 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		put := func(key string) func(*spool.Tx) error {
			return func(tx *spool.Tx) error {
				tx.Put(spool.Intents, key, nil)
				return nil
			}
		}
		alone := make(chan time.Duration, 1)
		go func() {
			if err := s.UpdateSoon(put("a")); err != nil {
				t.Error(err)
			}
			alone <- time.Since(begun)
		}()
		if took := <-alone; took != 5*time.Millisecond {
			t.Errorf("alone it was durable after %s", took)
		}
		begun = time.Now()
		go func() {
			if err := s.UpdateSoon(put("b")); err != nil {
				t.Error(err)
			}
			alone <- time.Since(begun)
		}()
		synctest.Wait()
		if err := s.Update(put("c")); err != nil {
			t.Error(err)
		}
		if took := <-alone; took != 0 {
			t.Errorf("it waited %s though another one committed", took)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAckThatMakesNoSense(t *testing.T) {
	s := open(t, temp(t))
	add(t, s, "a")
	c := cursor(t, s)
	if err := s.Ack(c.Epoch-1, 2); err != nil {
		t.Errorf("an ack of an earlier epoch: %v, want it ignored", err)
	}
	if err := s.Ack(c.Epoch, 7); !fault.Is(err, fault.Garbage) {
		t.Errorf("an ack beyond what was sent: %v, want garbage", err)
	}
	if got := cursor(t, s); got != c {
		t.Errorf("they moved the cursor: %v, was %v", got, c)
	}
}

func TestBatchIsBounded(t *testing.T) {
	s := open(t, temp(t))
	big := strings.Repeat("x", 1000)
	for range 100 {
		add(t, s, big)
	}
	var got int
	for from := uint64(1); from < cursor(t, s).Next; {
		b, err := s.Batch(from, 32<<10)
		if err != nil {
			t.Fatal(err)
		}
		if size := proto.Size(b); size > 32<<10 {
			t.Fatalf("a batch of %d bytes", size)
		}
		got += len(b.GetRecords())
		from += uint64(len(b.GetRecords()))
	}
	if got != 100 {
		t.Errorf("%d records came out, 100 went in", got)
	}
	add(t, s, strings.Repeat("y", 100<<10))
	if got := steps(t, s, 101, 32<<10); len(got) != 1 {
		t.Errorf("a record larger than a batch must travel alone, got %d", len(got))
	}
}

func TestRolledBackDiskStartsANewEpoch(t *testing.T) {
	s := open(t, temp(t))
	add(t, s, "a", "b", "c")
	old := cursor(t, s)
	if err := s.Ack(old.Epoch, 2); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(0); err != nil {
		t.Fatal(err)
	}
	c := cursor(t, s)
	if c.Epoch <= old.Epoch || c.First != 1 || c.Next != 3 {
		t.Errorf("the cursor is %+v after %+v", c, old)
	}
	if diff := cmp.Diff([]string{"b", "c"}, steps(t, s, 1, 1<<20)); diff != "" {
		t.Error(diff)
	}
}

func TestEpochsGrowFromFileToFile(t *testing.T) {
	dir := t.TempDir()
	var last uint64
	for i := range 20 {
		s := open(t, filepath.Join(dir, strconv.Itoa(i)))
		// Two files of one millisecond differ by chance alone; their order does not matter.
		if e := cursor(t, s).Epoch; e>>20 < last>>20 || e == last {
			t.Fatalf("epoch %d after %d", e, last)
		} else {
			last = e
		}
	}
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	s := open(t, temp(t))
	refused := errors.New("refused")
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := s.Update(func(tx *spool.Tx) error {
				tx.Put(spool.Notes, strconv.Itoa(i), nil)
				tx.Append(at, result(strconv.Itoa(i)))
				if i%5 == 0 {
					return refused
				}
				return nil
			})
			if (i%5 == 0) != errors.Is(err, refused) {
				t.Errorf("caller %d was told %v", i, err)
			}
		})
	}
	wg.Wait()
	if got := len(steps(t, s, 1, 1<<20)); got != 40 {
		t.Errorf("%d records, want those of the 40 that did not fail", got)
	}
	err := s.View(func(tx *spool.Tx) error {
		for i := range 50 {
			if has := tx.Has(spool.Notes, strconv.Itoa(i)); has != (i%5 != 0) {
				t.Errorf("note %d is there: %v", i, has)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A copy of the file at any commit is a spool that opens and holds exactly what
// was committed until then.
func TestEveryCommitReopens(t *testing.T) {
	path := temp(t)
	s := open(t, path)
	copies := t.TempDir()
	for i := range 60 {
		if i%7 == 6 { // it is kept with the commit that follows
			if err := s.Ack(cursor(t, s).Epoch, uint64(i)-2); err != nil {
				t.Fatal(err)
			}
		}
		err := s.Update(func(tx *spool.Tx) error {
			tx.Append(at, result(strconv.Itoa(i)))
			tx.Put(spool.Intents, strconv.Itoa(i), []byte(strings.Repeat("i", i*50)))
			tx.Delete(spool.Intents, strconv.Itoa(i-3))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		image, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(copies, strconv.Itoa(i))
		if err := os.WriteFile(copied, image, 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, copied)
		if diff := cmp.Diff(cursor(t, s), cursor(t, again)); diff != "" {
			t.Fatalf("commit %d: %s", i, diff)
		}
		from := cursor(t, s).First
		if diff := cmp.Diff(steps(t, s, from, 1<<20), steps(t, again, from, 1<<20)); diff != "" {
			t.Fatalf("commit %d: %s", i, diff)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// write is the child of TestKilled: it appends for ever and prints each seq when
// Update has said that it is durable.
func write(path string) {
	s, err := spool.Open(path, spool.Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for {
		r := result("x")
		err := s.Update(func(tx *spool.Tx) error {
			tx.Append(time.Now(), r)
			tx.Put(spool.Done, strconv.FormatUint(r.GetSeq(), 10), nil)
			return nil
		})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(r.GetSeq())
	}
}

func TestKilled(t *testing.T) {
	path := temp(t)
	var told uint64
	for range 5 {
		told = max(told, killWriter(t, path))
	}
	s := open(t, path)
	c := cursor(t, s)
	if told == 0 || c.Next <= told {
		t.Errorf("the writer was told that %d is durable, the spool ends before %d", told, c.Next)
	}
	if got := len(steps(t, s, 1, 1<<30)); uint64(got) != c.Next-1 {
		t.Errorf("%d records up to seq %d", got, c.Next)
	}
	err := s.View(func(tx *spool.Tx) error {
		for seq := uint64(1); seq < c.Next; seq++ {
			if !tx.Has(spool.Done, strconv.FormatUint(seq, 10)) {
				t.Errorf("record %d has lost its mark", seq)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// killWriter starts a writer, kills it after some commits, and returns the last
// seq it was told of.
func killWriter(t *testing.T, path string) (last uint64) {
	t.Helper()
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), writerEnv+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		seq, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			t.Errorf("the writer says %q", lines.Text())
			break
		}
		if last = seq; n == 20 {
			kill() // SIGKILL; what it has printed already still comes
		}
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait() // killed
	return last
}

func TestInUse(t *testing.T) {
	path := temp(t)
	open(t, path)
	if _, err := spool.Open(path, spool.Options{}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second opener was told %v", err)
	}
}

func TestFullRefusesWorkAndKeepsResults(t *testing.T) {
	s, err := spool.Open(temp(t), spool.Options{MaxSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Full(); err != nil {
		t.Fatalf("an empty spool says %v", err)
	}
	for s.Full() == nil {
		add(t, s, strings.Repeat("x", 10<<10))
	}
	if err := s.Full(); !fault.Is(err, fault.Unavailable) || fault.HintOf(err) == "" {
		t.Errorf("a full spool says %v", err)
	}
	for range 50 {
		add(t, s, strings.Repeat("y", 10<<10))
	}
	c := cursor(t, s)
	if got := len(steps(t, s, 1, 1<<30)); uint64(got) != c.Next-1 {
		t.Errorf("%d records of %d are there", got, c.Next-1)
	}
	if err := s.Ack(c.Epoch, c.Next); err != nil {
		t.Fatal(err)
	}
	add(t, s, "z") // frees what the transaction before gave back
	if err := s.Full(); err != nil {
		t.Errorf("an emptied spool says %v", err)
	}
}

func TestCompactsWhenMostlyFree(t *testing.T) {
	path := temp(t)
	s := open(t, path)
	for range 40 {
		add(t, s, strings.Repeat("x", 1<<20))
	}
	c := cursor(t, s)
	if err := s.Ack(c.Epoch, c.Next); err != nil {
		t.Fatal(err)
	}
	add(t, s, "last")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Size() > 4<<20 { // of what is acknowledged some is kept
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
	if diff := cmp.Diff([]string{"last"}, steps(t, s, c.Next, 1<<20)); diff != "" {
		t.Error(diff)
	}
}

func TestWaitWakesTheSender(t *testing.T) {
	path := temp(t)
	s := open(t, path)
	if err := s.Wait(t.Context()); err != nil { // what an earlier process may have left
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx); err == nil {
		t.Error("it woke for nothing")
	}
	add(t, s, "a")
	if err := s.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	roundTrip := func(parts []string, more string) bool {
		key := spool.Key(parts...)
		return strings.HasPrefix(spool.Key(append(parts, more)...), key) &&
			cmp.Equal(append([]string(nil), split(key)...), append([]string(nil), parts...))
	}
	if err := quick.Check(roundTrip, nil); err != nil {
		t.Error(err)
	}
	if spool.Key("R1", "2") == spool.Key("R12") || spool.Key("a", "") == spool.Key("a") {
		t.Error("two lists of parts have one key")
	}
}

func TestTables(t *testing.T) {
	s := open(t, temp(t))
	err := s.Update(func(tx *spool.Tx) error {
		tx.PutMessage(spool.Runs, "R1", &pb.Run{Id: "R1"})
		tx.PutTime(spool.Finished, "R0", at)
		for _, node := range []string{"n1", "n2"} {
			tx.Put(spool.Done, spool.Key("R1", node, "0"), nil)
			tx.Put(spool.Done, spool.Key("R2", node, "0"), nil)
		}
		tx.DeleteAll(spool.Done, spool.Key("R1"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.View(func(tx *spool.Tx) error {
		var keys []string
		for key := range tx.All(spool.Done, "") {
			keys = append(keys, strings.Join(split(key), "/"))
		}
		if diff := cmp.Diff([]string{"R2/n1/0", "R2/n2/0"}, keys); diff != "" {
			t.Error(diff)
		}
		if got := tx.Time(spool.Finished, "R0"); !got.Equal(at) {
			t.Errorf("the time is %v", got)
		}
		run := &pb.Run{}
		return proto.Unmarshal(tx.Get(spool.Runs, "R1"), run)
	})
	if err != nil {
		t.Error(err)
	}
}

// split is the inverse of Key.
func split(key string) []string {
	var parts []string
	for b := []byte(key); len(b) > 0; {
		n, size := binary.Uvarint(b)
		parts = append(parts, string(b[size:size+int(n)]))
		b = b[size+int(n):]
	}
	return parts
}
