package story_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/story"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func local(kind, name, run string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Local{Local: &pb.LocalOrder{Kind: kind, Name: name, Run: run, User: "root", Signers: []string{"ada"}, Version: 7, Envelope: []byte("e")}}}
}

func accepted(run, script string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Accepted{Accepted: &pb.RackRunAccepted{Run: run, Nodes: 2, Script: script, By: "ann"}}}
}

func result(run, status string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Run: run, Script: "s", Status: status}}}
}

func done(run string, ok, failed int32, text string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Done{Done: &pb.RackRunDone{Run: run, Nodes: ok + failed, Ok: ok, Failed: failed, Error: text}}}
}

// line is a run in a line.
func line(r *pb.Run) string {
	k := r.GetRacks()[0]
	text := fmt.Sprintf("%s of %s by %s: %s, rack %s", r.GetId(), r.GetScript(), r.GetStartedBy(), r.GetState(), k.GetState())
	if k.GetError() != "" {
		text += ", " + k.GetError()
	}
	return text
}

func TestRuns(t *testing.T) {
	for name, c := range map[string]struct {
		records []*pb.Record
		want    string
	}{
		"begun here, to its end": {
			[]*pb.Record{local("run", "s", "r1-Lx"), accepted("r1-Lx", "s"), result("r1-Lx", "confirmed"), done("r1-Lx", 2, 0, "")},
			"r1-Lx of s by root@r1: done, rack done",
		},
		"begun here, not accepted":    {[]*pb.Record{local("standing", "s", "r1-Lx")}, "r1-Lx of s by root@r1: running, rack waiting"},
		"of a coordinator, under way": {[]*pb.Record{accepted("R1", "s")}, "R1 of s by ann: running, rack accepted"},
		"partly failed":               {[]*pb.Record{accepted("R1", "s"), done("R1", 1, 1, "")}, "R1 of s by ann: partly failed, rack done"},
		"failed as a whole":           {[]*pb.Record{accepted("R1", "s"), done("R1", 0, 0, "no key")}, "R1 of s by ann: failed, rack done, no key"},
		"stopped here": {
			[]*pb.Record{accepted("R1", "s"), local("cancel", "s", "R1"), done("R1", 0, 2, "the run was canceled")},
			"R1 of s by ann: canceled, rack done, the run was canceled",
		},
		"stopped too late":           {[]*pb.Record{accepted("R1", "s"), local("cancel", "s", "R1"), done("R1", 2, 0, "")}, "R1 of s by ann: done, rack done"},
		"its beginning is forgotten": {[]*pb.Record{result("R1", "confirmed"), done("R1", 1, 0, "")}, "R1 of s by : done, rack done"},
		"a number that comes again": {
			[]*pb.Record{accepted("R1", "old"), done("R1", 1, 0, ""), accepted("R1", "new")},
			"R1 of new by ann: running, rack accepted; R1 of old by ann: done, rack done",
		},
		"an end of nothing": {[]*pb.Record{local("cancel", "s", "R1"), local("remove", "s", "")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := story.New("a1", "r1", "R1")
			for _, r := range c.records {
				if run := s.Take(r); run != nil && run.GetId() != s.Runs()[0].GetId() {
					t.Errorf("it says that %s has changed", run.GetId())
				}
			}
			var all []string
			for _, r := range s.Runs() {
				if len(r.GetSource())+len(r.GetEnvelope()) > 0 {
					t.Error("a list has sources")
				}
				all = append(all, line(r))
			}
			if diff := cmp.Diff(c.want, strings.Join(all, "; ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A run that was told of is not begun again by what lies on the disk.
func TestBeginIsForWhatNobodyHasToldOf(t *testing.T) {
	s := story.New("a1", "r1", "")
	s.Take(accepted("R1", "s"))
	for _, id := range []string{"R1", "R2"} {
		s.Begin(&pb.Run{Id: id, Script: "disk"})
	}
	if got := line(s.Run("R1")) + "; " + line(s.Run("R2")); got != "R1 of s by ann: running, rack accepted; R2 of disk by : running, rack waiting" {
		t.Error(got)
	}
	if s.Run("R3") != nil {
		t.Error("there is a run that nobody began")
	}
}

// The records of days are told in bounds; results of one run alone are kept.
func TestBounds(t *testing.T) {
	s := story.New("a1", "r1", "R7")
	for i := range 20_000 {
		id := fmt.Sprint("R", i)
		s.Take(accepted(id, "s"))
		s.Take(result(id, "confirmed"))
		s.Take(&pb.Record{Body: &pb.Record_Firing{Firing: &pb.Firing{Rule: id}}})
		s.Take(&pb.Record{Body: &pb.Record_Hardware{Hardware: &pb.HardwareNews{Node: id}}})
		s.Take(&pb.Record{Body: &pb.Record_Refused{Refused: &pb.Refused{What: "run", Name: id}}})
	}
	got := []int{len(s.Runs()), len(s.Firings()), len(s.News()), len(s.Audit()), len(s.Results(0)), len(s.Results(5))}
	if diff := cmp.Diff([]int{story.MaxRuns, story.MaxFirings, story.MaxNews, story.MaxAudit, 1, 0}, got); diff != "" {
		t.Error(diff)
	}
	if last := s.Firings()[story.MaxFirings-1].GetRule(); last != "R19999" || s.Runs()[0].GetId() != last {
		t.Errorf("the last is %s", last)
	}
}

// What a watcher is told holds no script and no envelope.
func TestEvents(t *testing.T) {
	s := story.New("a1", "r1", "")
	var told []string
	for _, r := range []*pb.Record{
		local("run", "s", "r1-Lx"), accepted("r1-Lx", "s"), result("r1-Lx", "confirmed"), done("r1-Lx", 1, 0, ""),
		{Body: &pb.Record_Firing{Firing: &pb.Firing{Rule: "hot"}}},
		{Body: &pb.Record_Node{Node: &pb.Node{Name: "n1"}}},
		{Body: &pb.Record_Hardware{Hardware: &pb.HardwareNews{Node: "n2"}}},
		{Body: &pb.Record_Refused{Refused: &pb.Refused{}}},
	} {
		e := story.Event(r, s.Take(r), "r1")
		if len(e.GetLocal().GetOrder().GetEnvelope()) > 0 {
			t.Error("a watcher gets an envelope")
		}
		if e != nil {
			told = append(told, e.GetLocal().GetOrder().GetKind()+e.GetRun().GetState()+e.GetFiring().GetRule()+e.GetNode().GetName()+e.GetHardware().GetNode())
		}
	}
	if diff := cmp.Diff([]string{"run", "running", "done", "hot", "n1", "n2"}, told); diff != "" {
		t.Error(diff)
	}
}
