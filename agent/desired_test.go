package agent

import (
	"bytes"
	"maps"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func standingScript(name, source string) *pb.Script {
	return &pb.Script{Name: name, File: name + ".scl", Source: []byte(source)}
}

const quiet = `(monitor "n1" (condition (> cpu.temp 900)) (action (log "x")))`

func (w *world) expectHave(revision uint64, want ...string) {
	w.t.Helper()
	got, marks := w.agent.Have()
	have := slices.Sorted(maps.Keys(marks))
	if diff := cmp.Diff(want, have); diff != "" || got != revision {
		w.t.Errorf("revision %d, want %d; scripts:\n%s", got, revision, diff)
	}
}

func TestDesiredReplacesTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		w.expectHave(0)
		w.desire(&pb.Desired{Revision: 5, Scripts: []*pb.Script{standingScript("a", quiet), standingScript("b", quiet), standingScript("e", quiet)}})
		w.desire(&pb.Desired{Revision: 6, Ended: []*pb.Ended{w.ended("e")}, Scripts: []*pb.Script{
			{Name: "a", Digest: "d1"},    // we have it
			{Name: "b", Digest: "d2"},    // changed, too large for this message
			{Name: "c", Digest: "d1"},    // new, too large for this message
			standingScript("d", "(oops"), // from a later version
		}})
		w.expectHave(6, "a", "b", "d")
		w.stop()
		w.start(w.dir)
		defer w.stop()
		w.expectHave(6, "a", "b", "d")
		if n := len(w.agent.programs()); n != 2 {
			t.Errorf("%d programs are in force", n)
		}
	})
}

// An older state is what a coordinator that lags tells. One that keeps telling it
// was restored from a backup, and is the truth now; but what it merely does not
// know goes on, until an author ends it.
func TestOlderState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		w.desire(&pb.Desired{Revision: 5, Scripts: []*pb.Script{standingScript("a", quiet)}})
		for range journal.StalePulls {
			w.desire(&pb.Desired{Revision: 4})
			w.expectHave(5, "a")
		}
		w.desire(&pb.Desired{Revision: 4})
		w.expectHave(4, "a")
		w.desire(&pb.Desired{Revision: 5, Ended: []*pb.Ended{w.ended("a")}})
		w.expectHave(5)
	})
}

// Agents pull every minute; what they have already costs their disks nothing.
func TestNothingNewWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		state := func(revision uint64) *pb.Desired {
			return &pb.Desired{
				Revision: revision, Scripts: []*pb.Script{standingScript("a", quiet)},
				Runs: []*pb.Run{{Id: "R1", File: "s.scl", Source: []byte(`(config "n1" (asset-tag "x"))`)}},
			}
		}
		w.desire(state(5))
		before := w.image()
		w.desire(state(5))
		if !bytes.Equal(before, w.image()) {
			t.Error("the same again was written")
		}
		w.desire(state(6))
		w.expectHave(6, "a")
	})
}

// Coordinators that were restored from a backup give the numbers of runs again.
func TestAnotherRunOfTheSameNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		for _, started := range []int64{1000, 2000} {
			w.desire(&pb.Desired{Revision: 1, Runs: []*pb.Run{{
				Id: "R1", StartedUnixMs: started, File: "s.scl", Source: []byte(`(config "n1" (asset-tag "x"))`),
			}}})
		}
		if got := w.lanes["n1"].did(); got != "set asset-tag; set asset-tag" {
			t.Errorf("n1 was told %q", got)
		}
	})
}
