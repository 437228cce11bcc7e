package sim

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/spool"
)

func TestQueueKeepsTimeAndOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var q queue
	var got, want []time.Duration
	for range 1000 {
		at := time.Duration(rnd.IntN(100))
		want = append(want, at)
		q.push(at, nil)
	}
	slices.Sort(want)
	var last event
	for len(q.heap) > 0 {
		e := q.pop()
		got = append(got, e.at)
		if e.at == last.at && e.turn < last.turn {
			t.Fatalf("at %v turn %d comes after turn %d", e.at, e.turn, last.turn)
		}
		last = e
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What a disk promises: a transaction is there or not, whatever happens to it.
func TestDisk(t *testing.T) {
	d := newDisk()
	put := func(key, value string) error {
		return d.Update(func(s spool.Store) error { return s.Put("t", key, []byte(value)) })
	}
	expect := func(why string, want ...string) {
		t.Helper()
		var got []string
		for key, value := range d.All("t", "") {
			got = append(got, key+"="+string(value))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", why, got, want)
		}
	}
	cut := func(at int) {
		t.Helper()
		defer func() {
			if _, ok := recover().(powerCut); !ok {
				t.Error("the power did not go")
			}
			d.boundary = func() {}
		}()
		d.boundary = func() {
			if at--; at == 0 {
				panic(powerCut{})
			}
		}
		_ = put("a", "after")
	}
	_ = put("b", "1")
	_ = put("a", "1")
	expect("in order", "a=1", "b=1")
	cut(1)
	expect("the power goes before", "a=1", "b=1")
	cut(2)
	expect("the power goes after", "a=after", "b=1")
	if err := d.Update(func(s spool.Store) error { return errors.Join(s.Delete("t", "b"), errors.New("no")) }); err == nil {
		t.Error("no error")
	}
	expect("the caller gives up", "a=after", "b=1")
	d.full = true
	if err := put("c", "1"); !errors.Is(err, errFull) {
		t.Errorf("full: %v", err)
	}
	if err := d.Update(func(s spool.Store) error { return s.Delete("t", "b") }); err != nil {
		t.Errorf("full, and it gets smaller: %v", err)
	}
	expect("full", "a=after")
	if by := d.back(3); by != 3 {
		t.Errorf("put back by %d", by)
	}
	expect("put back", "b=1")
	d.renew()
	expect("new")
	if d.used != 0 {
		t.Errorf("a new disk holds %d bytes", d.used)
	}
}

// Every planted bug that is found quickly is found here; make simulate-mutants has
// all of them.
func TestMutantsAreFound(t *testing.T) {
	for _, m := range []Mutant{AckBeforeCommit, SameEpoch, SkippedCommand} {
		found := false
		for seed := uint64(0); seed < 12 && !found; seed++ {
			found = len(Run(Options{Seed: seed, Mutant: m, Agents: 5}).Violations) > 0
		}
		if !found {
			t.Errorf("%s lives", m)
		}
	}
}

func TestShrink(t *testing.T) {
	o := Options{Seed: 0, Mutant: SkippedCommand, Agents: 4}
	v, which := Shrink(o, Run(o))
	if len(which) != 0 || len(v.Violations) == 0 || !strings.Contains(v.Violations[0], "another state") {
		t.Errorf("of a bug that needs no fault %d are left: %v", len(which), v.Violations)
	}
}

func TestLargeWorld(t *testing.T) {
	var log bytes.Buffer
	r, err := RunLarge(LargeOptions{Agents: 3, For: 2 * time.Minute, Log: &log})
	if err != nil || len(r.Violations) > 0 || r.Nodes != 300 {
		t.Errorf("%v %v\n%s", err, r.Violations, log.String())
	}
}
