package state_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// rolling is a world in which R1 is done in waves on the racks r1 and r2.
type rolling struct {
	*log
	seq map[string]uint64
}

func newRolling(t *testing.T, ro *pb.Rollout) *rolling {
	t.Helper()
	r := &rolling{newLog(t), map[string]uint64{}}
	r.must(putAgent("a1", "r1"))
	r.must(putAgent("a2", "r2"))
	run := runOf("x", "r1", "r2")
	run.Rollout = ro
	r.must(apply(nil, run))
	return r
}

// told has a rack tell its nodes.
func (r *rolling) told(rack string, nodes ...string) {
	r.says(rack, &pb.Record{Body: &pb.Record_Rollout{Rollout: &pb.RolloutNodes{Run: "R1", Nodes: nodes}}}, accepted("R1"))
}

// ended has nodes end; one that failed has a "!" behind it.
func (r *rolling) ended(rack string, nodes ...string) {
	for _, n := range nodes {
		name, failed := strings.CutSuffix(n, "!")
		r.says(rack, &pb.Record{Body: &pb.Record_NodeEnded{NodeEnded: &pb.NodeEnded{Run: "R1", Node: name, Ok: !failed}}})
	}
}

func (r *rolling) says(rack string, records ...*pb.Record) state.Outcome {
	first := max(r.seq[rack], 1)
	r.seq[rack] = first + uint64(len(records))
	return r.must(batch("a"+rack[1:], rack, first, records...))
}

func steer(act string) *pb.Command {
	return &pb.Command{By: "ada", Body: &pb.Command_SteerRun{SteerRun: &pb.SteerRun{Id: "R1", Act: act}}}
}

// tick tells the time.
func tick(at int64) *pb.Command {
	c := steer("")
	c.AtUnixMs = at
	return c
}

// is where the run stands, in a line.
func (r *rolling) is() string {
	run, _, _ := r.Run("R1", 0)
	ro := run.GetRollout()
	var out []string
	for _, rack := range []string{"r1", "r2"} {
		for _, d := range r.Desired(rack).GetRuns() {
			out = append(out, d.GetReleased()...)
		}
	}
	slices.Sort(out)
	text := fmt.Sprintf("%s: wave %d, %d of %d ended", ro.GetState(), ro.GetWaves(), ro.GetEnded(), ro.GetNodes())
	if ro.GetFailed() > 0 {
		text += fmt.Sprintf(", %d failed", ro.GetFailed())
	}
	if ro.GetReason() != "" {
		text += " (" + ro.GetReason() + ")"
	}
	return text + ": " + strings.Join(out, " ")
}

func TestARolloutThatGoesWell(t *testing.T) {
	r := newRolling(t, &pb.Rollout{Canary: 2, Wave: &pb.Share{Percent: 40}})
	equal(t, "at first", r.is(), "gathering: wave 0, 0 of 0 ended: ")
	r.told("r1", "a", "b", "c")
	equal(t, "one rack has told", r.is(), "gathering: wave 0, 0 of 3 ended: ")
	r.told("r2", "x", "y")
	equal(t, "the canaries are of two racks", r.is(), "running: wave 1, 0 of 5 ended: a x")
	r.ended("r1", "a")
	equal(t, "one canary has ended", r.is(), "running: wave 1, 1 of 5 ended: a x")
	revision := r.Counts().Revision
	r.ended("r2", "x")
	equal(t, "40 % of five are two", r.is(), "running: wave 2, 2 of 5 ended: a b x y")
	equal(t, "the racks have something new", r.Counts().Revision, revision+1)
	r.ended("r1", "b", "b")
	r.ended("r2", "y")
	equal(t, "the rest", r.is(), "running: wave 3, 4 of 5 ended: a b c x y")
	r.ended("r1", "c")
	r.says("r1", done("R1", 3, 0))
	r.says("r2", done("R1", 2, 0))
	run, _, _ := r.Run("R1", 0)
	equal(t, "it has ended", run.GetState(), state.Done)
	refusedAs(t, r.try(steer(state.Pause)), fault.Conflict, "done already")
}

func TestARolloutThatGoesWrong(t *testing.T) {
	r := newRolling(t, &pb.Rollout{Canary: 1, Wave: &pb.Share{Count: 2}, MaxFailures: &pb.Share{Percent: 20}})
	r.told("r1", "a", "b", "c")
	r.told("r2", "x", "y")
	r.ended("r1", "a!")
	equal(t, "one of five may fail", r.is(), "running: wave 2, 1 of 5 ended, 1 failed: a b x")
	r.ended("r2", "x!")
	equal(t, "two may not", r.is(), "paused: wave 2, 2 of 5 ended, 2 failed (2 failed of 3, and 1 may): a b x")
	r.ended("r1", "b")
	equal(t, "what was begun ends", r.is(), "paused: wave 2, 3 of 5 ended, 2 failed (2 failed of 3, and 1 may): a b x")
	refusedAs(t, r.try(steer(state.Pause)), fault.Conflict, "paused already")
	r.must(steer(state.Resume))
	equal(t, "a person takes note", r.is(), "running: wave 3, 3 of 5 ended, 2 failed: a b c x y")
	r.ended("r1", "c!")
	equal(t, "as many more may fail", r.is(), "running: wave 3, 4 of 5 ended, 3 failed: a b c x y")
	r.ended("r2", "y!")
	equal(t, "no more", r.is(), "paused: wave 3, 5 of 5 ended, 4 failed (4 failed of 5, and 3 may): a b c x y")
}

func TestARolloutWaits(t *testing.T) {
	r := newRolling(t, &pb.Rollout{Wave: &pb.Share{Count: 1}, PauseMs: 60_000, Approve: "operators"})
	refusedAs(t, r.try(steer(state.Approve)), fault.Conflict, "is not waiting for approval: it is gathering")
	r.told("r1", "a", "b")
	r.told("r2")
	equal(t, "before it is approved", r.is(), "waiting for approval: wave 0, 0 of 2 ended: ")
	r.must(steer(state.Approve))
	run, _, _ := r.Run("R1", 0)
	equal(t, "who approved", run.GetRollout().GetApprovedBy(), "ada")
	equal(t, "approved", r.is(), "running: wave 1, 0 of 2 ended: a")
	r.ended("r1", "a")
	equal(t, "between two waves", r.is(), "running: wave 1, 1 of 2 ended: a")
	run, _, _ = r.Run("R1", 0)
	next := run.GetRollout().GetNextUnixMs()
	equal(t, "not due", [][]string{r.Due(next - 1), r.Due(next)}, [][]string{nil, {"R1"}})
	r.must(steer(""))
	equal(t, "too early", r.is(), "running: wave 1, 1 of 2 ended: a")
	r.must(tick(next))
	equal(t, "in time", r.is(), "running: wave 2, 1 of 2 ended: a b")
	equal(t, "nothing is due", r.Due(next+1e9), []string(nil))
}

func TestAPersonPausesARollout(t *testing.T) {
	r := newRolling(t, &pb.Rollout{Wave: &pb.Share{Count: 1}, PauseMs: 60_000})
	r.told("r1", "a", "b")
	r.told("r2")
	r.must(steer(state.Pause))
	r.ended("r1", "a")
	equal(t, "nothing begins", r.is(), "paused: wave 1, 1 of 2 ended (by ada): a")
	r.must(steer(state.Resume))
	equal(t, "at once, without the pause between waves", r.is(), "running: wave 2, 1 of 2 ended: a b")
	refusedAs(t, r.try(steer(state.Resume)), fault.Conflict, "is not paused: it is running")
	refusedAs(t, r.try(steer("faster")), fault.Conflict, `"faster" is not known`)
}

func TestARackThatIsCutOffComesLast(t *testing.T) {
	r := newRolling(t, &pb.Rollout{Wave: &pb.Share{Count: 1}})
	run, _, _ := r.Run("R1", 0)
	next := run.GetRollout().GetNextUnixMs()
	r.must(tick(next))
	equal(t, "nobody has told", r.is(), "gathering: wave 0, 0 of 0 ended: ")
	equal(t, "and nothing is due until one does", r.Due(next+1e9), []string(nil))
	r.told("r2", "x", "y", "z")
	equal(t, "it begins without r1", r.is(), "running: wave 1, 0 of 3 ended: x")
	r.told("r1", "a")
	r.told("r1", "b")
	equal(t, "a rack tells once", r.is(), "running: wave 1, 0 of 4 ended: x")
	r.ended("r2", "x")
	equal(t, "it has its turn", r.is(), "running: wave 2, 1 of 4 ended: a x")
	r.ended("r2", "a") // not its node
	equal(t, "no rack speaks for another", r.is(), "running: wave 2, 1 of 4 ended: a x")
	rec := done("R1", 0, 0)
	rec.GetDone().Error = "the run's deadline has passed"
	r.says("r2", rec)
	r.ended("r1", "a")
	equal(t, "a rack that gives up has failed", r.is(),
		"paused: wave 3, 3 of 4 ended, 1 failed (1 failed of 3, and 0 may): a")
}

func TestSteeringWhatIsNoRollout(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	refusedAs(t, l.try(steer(state.Pause)), fault.NotFound, `there is no run "R1"`)
	l.must(apply(nil, runOf("x", "r1")))
	refusedAs(t, l.try(steer(state.Pause)), fault.BadInput, "not done in waves")
	o := l.must(batch("a1", "r1", 1,
		&pb.Record{Body: &pb.Record_Rollout{Rollout: &pb.RolloutNodes{Run: "R1", Nodes: []string{"a"}}}},
		&pb.Record{Body: &pb.Record_NodeEnded{NodeEnded: &pb.NodeEnded{Run: "R1", Node: "a"}}}))
	equal(t, "dropped, and told", len(o.Dropped), 2)
}

func TestARolloutSurvivesASnapshot(t *testing.T) {
	r := newRolling(t, &pb.Rollout{Canary: 1, Wave: &pb.Share{Count: 2}})
	r.told("r1", "a", "b", "c")
	r.told("r2", "x")
	r.ended("r1", "a")
	s, err := state.Read(bytes.NewReader(written(t, r.Snapshot())))
	if err != nil {
		t.Fatal(err)
	}
	was := r.is()
	if err := r.Restore(s); err != nil {
		t.Fatal(err)
	}
	equal(t, "restored", r.is(), was)
	r.ended("r1", "b")
	r.ended("r2", "x")
	if diff := cmp.Diff("running: wave 3, 3 of 4 ended: a b c x", r.is()); diff != "" {
		t.Error(diff)
	}
	if err := r.Restore(&pb.Snapshot{Version: state.Version, Rolled: []*pb.RolledNodes{{Run: "R9"}}}); !fault.Is(err, fault.Garbage) {
		t.Errorf("nodes of no run: %v", err)
	}
}
