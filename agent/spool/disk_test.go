package spool_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// told are the texts of what is in the file from the seq from on.
func told(tb testing.TB, s *spool.Spool, from uint64) (texts []string) {
	tb.Helper()
	err := s.View(func(tx *spool.Tx) error {
		for r, err := range tx.Records(from) {
			if err != nil {
				return err
			}
			texts = append(texts, r.GetResult().GetStep())
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return texts
}

func acknowledge(tb testing.TB, s *spool.Spool) {
	tb.Helper()
	c := cursor(tb, s)
	if err := s.Ack(c.Epoch, c.Next); err != nil {
		tb.Fatal(err)
	}
}

// What the coordinators have is still told on the rack, after a restart too.
func TestWhatIsAcknowledgedCanBeRead(t *testing.T) {
	path := temp(t)
	s := open(t, path)
	add(t, s, "a", "b")
	acknowledge(t, s)
	add(t, s, "c")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if diff := cmp.Diff([]string{"a", "b", "c"}, told(t, s, 0)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"c"}, told(t, s, 3)); diff != "" {
		t.Error(diff)
	}
	if err := s.Restart(0); err != nil { // another epoch begins with what nobody has
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"c"}, told(t, s, 0)); diff != "" {
		t.Error(diff)
	}
}

// However much is acknowledged, the file keeps the last of it alone.
func TestWhatIsAcknowledgedIsBounded(t *testing.T) {
	s := open(t, temp(t))
	var few []string
	for i := range 5000 {
		few = append(few, strconv.Itoa(i))
	}
	add(t, s, few...)
	acknowledge(t, s)
	add(t, s, "last")
	if got := told(t, s, 0); len(got) != 4096+1 || got[0] != "904" || got[len(got)-1] != "last" {
		t.Errorf("%d records, the first %q", len(got), got[0])
	}
	for i := range 40 {
		add(t, s, strconv.Itoa(i)+strings.Repeat("x", 100<<10))
	}
	acknowledge(t, s)
	add(t, s, "last")
	if got := told(t, s, 0); len(got) < 15 || len(got) > 25 {
		t.Errorf("%d records of 100 KiB are kept", len(got))
	}
}

// A spool that fills up first lets go of what is acknowledged, and tells that the
// latest state of things shall wait.
func TestTightLetsGoOfWhatIsAcknowledged(t *testing.T) {
	s, err := spool.Open(temp(t), spool.Options{MaxSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	add(t, s, "acknowledged")
	acknowledge(t, s)
	if s.Tight() {
		t.Fatal("an empty spool is tight")
	}
	for !s.Tight() {
		add(t, s, strings.Repeat("x", 10<<10))
	}
	if s.Full() != nil {
		t.Error("it refuses work already")
	}
	add(t, s, "more")
	if got := told(t, s, 0); got[0] == "acknowledged" || got[len(got)-1] != "more" {
		t.Errorf("the first of %d records is %.20q", len(got), got[0])
	}
}

// How large a spool is meant to become can be said later, and taken back.
func TestTheLimitOfASpoolCanBeChanged(t *testing.T) {
	s, err := spool.Open(temp(t), spool.Options{MaxSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	add(t, s, strings.Repeat("x", 1<<20))
	if s.Full() != nil {
		t.Fatal("it is full at the beginning")
	}
	s.Limit(1 << 20)
	if s.Full() == nil || !s.Tight() {
		t.Error("a smaller limit does not count")
	}
	s.Limit(0)
	if s.Full() != nil || s.Tight() {
		t.Error("the limit stays when it is taken back")
	}
}

// After an error that is not want of space nobody knows what is on the disk. Nothing
// more is written, and what was there is there when the file is opened anew.
func TestADiskThatFailsIsTheEnd(t *testing.T) {
	path := temp(t)
	s, file := spool.OpenOn(t, path)
	add(t, s, "before")
	_ = file.Close() // what the kernel says of a disk that is gone is as final
	for range 2 {
		err := s.Update(func(tx *spool.Tx) error {
			tx.Append(at, result("after"))
			return nil
		})
		if !fault.Is(err, fault.Internal) || fault.HintOf(err) == "" {
			t.Fatalf("a write to a broken disk: %v", err)
		}
	}
	select {
	case <-s.Broken():
	default:
		t.Error("nobody is told")
	}
	if s.Err() == nil {
		t.Error("there is no reason")
	}
	_ = s.Close()
	if diff := cmp.Diff([]string{"before"}, told(t, open(t, path), 0)); diff != "" {
		t.Error(diff)
	}
}

func TestReadersAreToldOfRecords(t *testing.T) {
	s := open(t, temp(t))
	more := s.Appended()
	if err := s.Update(func(tx *spool.Tx) error { tx.Put(spool.Notes, "a", nil); return nil }); err != nil {
		t.Fatal(err)
	}
	select {
	case <-more:
		t.Error("a commit without a record is news")
	default:
	}
	add(t, s, "a")
	<-more
}

// ballastOf is how much is held back beside the spool at path.
func ballastOf(tb testing.TB, path string) int64 {
	tb.Helper()
	at, err := os.Stat(path + ".ballast")
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		tb.Fatal(err)
	}
	return at.Size()
}

func TestBallastIsThereOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool.db")
	for range 2 {
		s, err := spool.Open(path, spool.Options{Ballast: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		if got := ballastOf(t, path); got != 64<<10 {
			t.Errorf("a ballast of %d bytes", got)
		}
		if err := s.Full(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
