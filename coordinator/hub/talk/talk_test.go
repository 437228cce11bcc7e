package talk_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/hub/talk"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// machine is a replicated state with an agent, a policy of version 3 and, for rack r1,
// what a test puts there.
type machine struct {
	talk.Machine
	known   *pb.AgentInfo
	desired *pb.Desired
}

func (m machine) Agent(name string) (*pb.AgentInfo, bool) {
	return m.known, m.known.GetName() == name && name != ""
}
func (machine) Counts() state.Counts         { return state.Counts{Revision: 12} }
func (machine) Policy() ([]byte, uint64)     { return []byte("policy"), 3 }
func (machine) Site(string) *pb.Site         { return &pb.Site{} }
func (m machine) Desired(string) *pb.Desired { return proto.Clone(m.desired).(*pb.Desired) }

func hello(change ...func(*pb.Hello)) *pb.Hello {
	h := &pb.Hello{Agent: "a", Rack: "r1", Site: "s1", Build: "v1", Pair: "b", SpoolEpoch: 5, FirstUnacked: 10, Boot: 77, SealKey: []byte("key")}
	for _, c := range change {
		c(h)
	}
	return h
}

func known(change ...func(*pb.AgentInfo)) *pb.AgentInfo {
	a := &pb.AgentInfo{Name: "a", Rack: "r1", Site: "s1", Build: "v1", Pair: "b", SpoolEpoch: 5, NextSeq: 10, Boot: 77, SealKey: []byte("key")}
	for _, c := range change {
		c(a)
	}
	return a
}

// What a hello leads to: a command to be committed before the welcome, nothing, or a
// demand for what the agent can't have, which has it begin another epoch.
func TestGreet(t *testing.T) {
	for _, c := range []struct {
		what  string
		hello *pb.Hello
		known *pb.AgentInfo
		want  string // and the welcome when the log wants record 20 next
	}{
		{"an agent that nobody knows", hello(), nil, "commit, wants 20, for the first time"},
		{"one that has nothing new", hello(), known(), "wants 10"},
		{"one whose records are recorded further than it knows", hello(), known(func(a *pb.AgentInfo) { a.NextSeq = 15 }), "wants 15"},
		{"one whose records have been acknowledged elsewhere", hello(func(h *pb.Hello) { h.FirstUnacked = 12 }), known(), "commit, wants 20"},
		{"another process", hello(func(h *pb.Hello) { h.Boot = 78 }), known(), "commit, wants 20"},
		{"another build", hello(func(h *pb.Hello) { h.Build = "v2" }), known(), "commit, wants 20"},
		{"another partner", hello(func(h *pb.Hello) { h.Pair = "c" }), known(), "commit, wants 20"},
		{"another key to seal to", hello(func(h *pb.Hello) { h.SealKey = []byte("other") }), known(), "commit, wants 20"},
		{"a new disk", hello(func(h *pb.Hello) { h.SpoolEpoch = 6; h.FirstUnacked = 1 }), known(), "commit, wants 20"},
		{"an old disk", hello(func(h *pb.Hello) { h.SpoolEpoch = 4 }), known(), "old, wants what it has not"},
		{"an old disk and another process", hello(func(h *pb.Hello) { h.SpoolEpoch = 4; h.Boot = 78 }), known(), "old, wants what it has not"},
	} {
		m := machine{known: c.known}
		g := talk.Greet(m, c.hello)
		var got []string
		if g.Command != nil {
			got = append(got, "commit")
			if a := g.Command.GetPutAgent().GetAgent(); a.GetName() != "a" || a.GetBoot() != c.hello.GetBoot() || a.GetPair() != c.hello.GetPair() || a.GetNextSeq() != c.hello.GetFirstUnacked() {
				t.Errorf("%s: the command is %v", c.what, g.Command)
			}
		}
		if g.Old {
			got = append(got, "old")
		}
		w := g.Welcome(m, state.Outcome{NextWanted: 20})
		if w.GetNextWanted() == math.MaxUint64 {
			got = append(got, "wants what it has not")
		} else {
			got = append(got, fmt.Sprintf("wants %d", w.GetNextWanted()))
		}
		if w.GetFirstMeeting() {
			got = append(got, "for the first time")
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s: %s, want %s", c.what, text, c.want)
		}
		if w.GetVersion() != talk.Version || w.GetRevision() != 12 || w.GetSpoolEpoch() != c.known.GetSpoolEpoch() {
			t.Errorf("%s: the welcome is %v", c.what, w)
		}
	}
}

// A batch becomes a command in the name of the session's hello, whatever it says. What
// this version can't read never reaches the log.
func TestRecord(t *testing.T) {
	done := &pb.Record{Seq: 10, Body: &pb.Record_Done{Done: &pb.RackRunDone{Run: "R1"}}}
	c, err := talk.Record(hello(), &pb.RecordBatch{SpoolEpoch: 5, Records: []*pb.Record{done}})
	if err != nil {
		t.Fatal(err)
	}
	r := c.GetRecordResults()
	if r.GetAgent() != "a" || r.GetRack() != "r1" || r.GetBoot() != 77 || r.GetSpoolEpoch() != 5 || len(r.GetRecords()) != 1 {
		t.Errorf("the command is %v", c)
	}
	_, err = talk.Record(hello(), &pb.RecordBatch{SpoolEpoch: 5, Records: []*pb.Record{done, {Seq: 11}}})
	if !fault.Is(err, fault.Garbage) || !strings.Contains(err.Error(), "record 11") {
		t.Errorf("a record of an unknown type: %v", err)
	}
	ack := talk.Ack(&pb.RecordBatch{SpoolEpoch: 5}, state.Outcome{NextWanted: 11}).GetAck()
	if ack.GetSpoolEpoch() != 5 || ack.GetNextWanted() != 11 {
		t.Errorf("the ack is %v", ack)
	}
	if h := talk.Hint(machine{}).GetHint(); h.GetRevision() != 12 {
		t.Errorf("the hint is %v", h)
	}
}

// What a rack is sent of its desired state: nothing that it has, and no more than fits.
func TestDesired(t *testing.T) {
	script := func(name string, size int) *pb.Script {
		return &pb.Script{Name: name, Digest: "d-" + name, Version: 1, Source: make([]byte, size)}
	}
	run := func(id string, size int) *pb.Run { return &pb.Run{Id: id, Source: make([]byte, size)} }
	const large = 7 << 20
	ended := []*pb.Ended{{Name: "over"}}
	for _, c := range []struct {
		what    string
		desired *pb.Desired
		have    map[string]string
		policy  uint64
		want    string
	}{
		{"an agent that has nothing", &pb.Desired{Policy: []byte("p"), Scripts: []*pb.Script{script("hot", 9)}, Runs: []*pb.Run{run("R1", 9)}, Ended: ended}, nil, 0, "policy, R1, hot with its source"},
		{"one that has the policy", &pb.Desired{Policy: []byte("p")}, nil, 3, ""},
		{"one that has an older policy", &pb.Desired{Policy: []byte("p")}, nil, 2, "policy"},
		{"one that has the script", &pb.Desired{Scripts: []*pb.Script{script("hot", 9)}}, map[string]string{"hot": wire.Mark(script("hot", 9))}, 3, "hot"},
		{"one that has another version of it", &pb.Desired{Scripts: []*pb.Script{script("hot", 9)}}, map[string]string{"hot": "other"}, 3, "hot with its source"},
		{"one that has a script that is over", &pb.Desired{Ended: ended}, map[string]string{"over": "x"}, 3, "over has ended"},
		{"two runs that do not fit together", &pb.Desired{Runs: []*pb.Run{run("R1", large), run("R2", large), run("R3", 1)}}, nil, 3, "R1"},
		{"two scripts that do not fit together", &pb.Desired{Scripts: []*pb.Script{script("a", large), script("b", large)}}, nil, 3, "a with its source, b"},
		{"a run goes before a script", &pb.Desired{Runs: []*pb.Run{run("R1", large)}, Scripts: []*pb.Script{script("a", large)}}, nil, 3, "R1, a"},
	} {
		d := talk.Desired(machine{desired: c.desired}, hello(), &pb.Pull{Have: c.have, PolicyVersion: c.policy})
		var got []string
		if d.GetPolicy() != nil {
			got = append(got, "policy")
		}
		for _, r := range d.GetRuns() {
			got = append(got, r.GetId())
		}
		for _, s := range d.GetScripts() {
			text := s.GetName()
			if s.GetSource() != nil {
				text += " with its source"
			}
			if s.GetDigest() != "d-"+s.GetName() {
				t.Errorf("%s: %s has lost its digest", c.what, s.GetName())
			}
			got = append(got, text)
		}
		for _, e := range d.GetEnded() {
			got = append(got, e.GetName()+" has ended")
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s: %s, want %s", c.what, text, c.want)
		}
		if size := proto.Size(d); size > 16<<20 || d.GetSite() == nil {
			t.Errorf("%s: %d bytes, site %v", c.what, size, d.GetSite())
		}
	}
}
