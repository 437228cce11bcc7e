package spool

import (
	"errors"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func openMirrored(t *testing.T) *Spool {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "spool.db"), Options{Mirrored: func(table Table, key string) bool { return table == Done && key != "own" }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t *testing.T, s *Spool, fn func(tx *Tx)) {
	t.Helper()
	if err := s.Update(func(tx *Tx) error { fn(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

func everything(t *testing.T, s *Spool) map[string]string {
	t.Helper()
	rows, _, err := s.Everything()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, r := range rows {
		all[r.Key] = string(r.Value)
	}
	return all
}

// Changes brought over one by one, and everything at once, make the same mirror.
func TestAMirrorIsTheSame(t *testing.T) {
	from, to := openMirrored(t), openMirrored(t)
	none := func(*Tx, Change) bool { return false }
	put(t, to, func(tx *Tx) { tx.Put(Done, "old", nil); tx.Put(Done, "own", []byte("mine")) })
	put(t, from, func(tx *Tx) { tx.Put(Done, "a", []byte("1")); tx.Put(Done, "own", []byte("not yours")) })
	rows, last, err := from.Everything()
	if err != nil {
		t.Fatal(err)
	}
	if err = to.Take(rows, true, none); err != nil {
		t.Fatal(err)
	}
	_, next := from.Version()
	put(t, from, func(tx *Tx) { tx.Put(Done, "b", []byte("2")); tx.Put(Notes, "n", nil) })
	select {
	case <-next:
	default:
		t.Error("a change is not told")
	}
	put(t, from, func(tx *Tx) { tx.DeleteAll(Done, "a"); tx.Put(Done, "b", []byte("3")) })
	_ = from.Update(func(tx *Tx) error { tx.Put(Done, "failed", nil); return errors.New("no") })
	changes, now, ok := from.Changes(last)
	if !ok || now != last+3 {
		t.Errorf("%d changes up to %d: %v", len(changes), now, ok)
	}
	if err = to.Take(changes, false, none); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(everything(t, from), everything(t, to)); diff != "" || len(everything(t, to)) != 1 {
		t.Errorf("the mirror differs: %s", diff)
	}
	_ = to.View(func(tx *Tx) error {
		if string(tx.Get(Done, "own")) != "mine" {
			t.Error("what is not mirrored was touched")
		}
		return nil
	})
	if changes, _, ok = from.Changes(now); !ok || len(changes) != 0 {
		t.Errorf("nothing new is %v, %v", changes, ok)
	}
	if _, _, ok = from.Changes(now + 1); ok {
		t.Error("changes of another life are taken for ours")
	}
}

// Who has nothing of this life of a spool lacks what was written in an earlier one, also
// before anything new is written.
func TestAMirrorOfAnEarlierLife(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool.db")
	options := Options{Mirrored: func(table Table, _ string) bool { return table == Done }}
	before, err := Open(path, options)
	if err != nil {
		t.Fatal(err)
	}
	put(t, before, func(tx *Tx) { tx.Put(Done, "a", []byte("1")) })
	if err = before.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path, options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	last, _ := s.Version()
	if _, _, ok := s.Changes(0); last == 0 || ok {
		t.Errorf("who has nothing of it seems to have all of its %d changes: %v", last, ok)
	}
	if changes, _, ok := s.Changes(last); !ok || len(changes) > 0 {
		t.Errorf("who has everything lacks %v, %v", changes, ok)
	}
}

func TestAMirrorThatIsTooFarBehind(t *testing.T) {
	s := openMirrored(t)
	put(t, s, func(tx *Tx) {
		for i := range maxChanges + 10 {
			tx.Put(Done, strconv.Itoa(i), nil)
		}
	})
	if _, _, ok := s.Changes(6); ok {
		t.Error("it is told changes that are no longer held")
	}
	if changes, _, ok := s.Changes(11); !ok || len(changes) != maxChanges {
		t.Errorf("%d changes, %v", len(changes), ok)
	}
	put(t, s, func(tx *Tx) { tx.Put(Done, "large", make([]byte, maxChangeBytes+1)) })
	if _, _, ok := s.Changes(maxChanges + 11); ok {
		t.Error("more is held than there is room for")
	}
}

func TestWhatIsSkippedStays(t *testing.T) {
	s := openMirrored(t)
	put(t, s, func(tx *Tx) { tx.Put(Done, "floor", []byte("9")) })
	keep := func(_ *Tx, c Change) bool { return c.Key == "floor" }
	if err := s.Take([]Change{{Done, "floor", []byte("1")}, {Notes, "not", []byte("mirrored")}}, true, keep); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"floor": "9"}, everything(t, s)); diff != "" {
		t.Error(diff)
	}
}
