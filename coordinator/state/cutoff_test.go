package state_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// cut tells at a time which racks reach no coordinator.
func cut(at int64, racks ...string) *pb.Command {
	c := steer(state.CutOff)
	c.AtUnixMs, c.GetSteerRun().Racks = at, racks
	return c
}

const halfHour = 30 * 60_000

// started is when the run of a world in waves began.
func (r *rolling) started() int64 {
	run, _, _ := r.Run("R1", 0)
	return run.GetStartedUnixMs()
}

func (r *rolling) cuts() []*pb.CutOffRack {
	run, _, _ := r.Run("R1", 0)
	return run.GetRollout().GetCutOff()
}

// A rack that is cut off amid a wave is waited for, and not for ever: its nodes of the
// wave count as failed, which the script may allow; its others come last.
func TestAWaveDoesNotWaitForARackForEver(t *testing.T) {
	r := newRolling(t, &pb.Rollout{Wave: &pb.Share{Count: 2}, MaxFailures: &pb.Share{Count: 1}})
	r.told("r1", "a", "b", "c")
	r.told("r2", "x", "y", "z")
	r.ended("r1", "a")
	equal(t, "it waits", r.is(), "running: wave 1, 1 of 6 ended: a x")
	equal(t, "for r2", r.Awaited(), []state.Awaited{{Run: "R1", Racks: []string{"r2"}}})
	at := r.started() + 1000
	r.must(cut(at, "r2"))
	equal(t, "that is gone", r.Awaited(), []state.Awaited{{Run: "R1", Racks: []string{"r2"}, Gone: []string{"r2"}}})
	equal(t, "when it is due", [][]string{r.Due(at + halfHour - 1), r.Due(at + halfHour)}, [][]string{nil, {"R1"}})
	r.must(tick(at + halfHour - 1))
	equal(t, "not yet", r.is(), "running: wave 1, 1 of 6 ended: a x")
	r.must(cut(at+5000, "r2")) // a new leader says it again
	r.must(tick(at + halfHour))
	equal(t, "it goes on", r.is(), "running: wave 2, 2 of 6 ended, 1 failed: a b c x")
	equal(t, "and says why", r.cuts(), []*pb.CutOffRack{{Rack: "r2", SinceUnixMs: at, Lost: []string{"x"}}})
	equal(t, "a restored state is the same", hash(t, again(t, r.Machine)), hash(t, r.Machine))

	r.ended("r1", "b", "c")
	equal(t, "what comes last is not waited for again", r.is(),
		"running: wave 3, 4 of 6 ended, 1 failed: a b c x y z")
	r.must(tick(at + halfHour + 1000))
	equal(t, "more than may fail", r.is(),
		"paused: wave 3, 6 of 6 ended, 3 failed (3 failed of 6, and 1 may; 3 of them on racks that were cut off: r2): a b c x y z")
}

// A rack that is back in time was only slow; one that is back later corrects what was
// said of its nodes.
func TestARackThatWasCutOffIsBack(t *testing.T) {
	r := newRolling(t, &pb.Rollout{Wave: &pb.Share{Count: 2}, MaxFailures: &pb.Share{Count: 2}, LostAfterMs: 60_000})
	r.told("r1", "a", "b")
	r.told("r2", "x", "y")
	r.ended("r1", "a")
	at := r.started() + 1000
	r.must(cut(at, "r2"))
	r.must(cut(at + 59_000))
	r.must(tick(at + 60_000))
	equal(t, "it is waited for", r.is(), "running: wave 1, 1 of 4 ended: a x")
	equal(t, "nothing is told of it", r.cuts(), []*pb.CutOffRack(nil))

	r.must(cut(at+70_000, "r2"))
	r.must(tick(at + 130_000))
	equal(t, "it goes on", r.is(), "running: wave 2, 3 of 4 ended, 2 failed: a b x y")
	r.must(cut(at + 131_000))
	r.ended("r2", "x", "y!")
	equal(t, "x is well after all", r.is(), "running: wave 2, 3 of 4 ended, 1 failed: a b x y")
	if got := r.cuts(); len(got) != 1 || !proto.Equal(got[0], &pb.CutOffRack{Rack: "r2", Lost: []string{"y"}}) {
		t.Errorf("told of r2: %v", got)
	}
}
