package state_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// log applies commands to a machine, one second apart.
type log struct {
	*state.Machine
	t     testing.TB
	index uint64
}

func newLog(tb testing.TB) *log {
	tb.Helper()
	return &log{Machine: state.New(), t: tb}
}

func (l *log) try(c *pb.Command) state.Outcome {
	l.t.Helper()
	l.index++
	c.Version = state.Version
	if c.GetAtUnixMs() == 0 {
		c.AtUnixMs = int64(l.index) * 1000
	}
	o, err := l.Apply(l.index, c)
	if err != nil {
		l.t.Fatalf("command %d: %v", l.index, err)
	}
	return o
}

func (l *log) must(c *pb.Command) state.Outcome {
	l.t.Helper()
	o := l.try(c)
	if o.Err != nil {
		l.t.Fatalf("command %d: %v", l.index, o.Err)
	}
	return o
}

func putAgent(name, rack string) *pb.Command {
	return agent(&pb.AgentInfo{Name: name, Rack: rack, Site: "s1", SpoolEpoch: 7, NextSeq: 1, SealKey: []byte("key of " + name)})
}

func agent(a *pb.AgentInfo) *pb.Command {
	return &pb.Command{Body: &pb.Command_PutAgent{PutAgent: &pb.PutAgent{Agent: a}}}
}

func script(name, source string) *pb.Script {
	return &pb.Script{Name: name, Source: []byte(source), Digest: state.Digest([]byte(source))}
}

func runOf(source string, racks ...string) *pb.Run {
	r := &pb.Run{Source: []byte(source), Digest: state.Digest([]byte(source)), DeadlineUnixMs: 1e6}
	for _, name := range racks {
		r.Racks = append(r.Racks, &pb.RackRun{Rack: name})
	}
	return r
}

func apply(s *pb.Script, r *pb.Run) *pb.Command {
	return &pb.Command{Body: &pb.Command_ApplyScript{ApplyScript: &pb.ApplyScript{Script: s, Run: r}}}
}

func cancel(id string) *pb.Command {
	return &pb.Command{Body: &pb.Command_CancelRun{CancelRun: &pb.CancelRun{Id: id}}}
}

func removeScript(name string) *pb.Command {
	return &pb.Command{Body: &pb.Command_RemoveScript{RemoveScript: &pb.RemoveScript{Name: name}}}
}

// batch is a batch of an agent's spool in epoch 7; the records are numbered
// from first.
func batch(agent, rack string, first uint64, records ...*pb.Record) *pb.Command {
	for i, r := range records {
		r.Seq = first + uint64(i)
	}
	return &pb.Command{Body: &pb.Command_RecordResults{RecordResults: &pb.RecordResults{
		Agent: agent, Rack: rack, SpoolEpoch: 7, Records: records,
	}}}
}

func result(run, node string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Run: run, Node: node, Status: "confirmed"}}}
}

func accepted(run string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Accepted{Accepted: &pb.RackRunAccepted{Run: run, Nodes: 2}}}
}

func done(run string, ok, failed int32) *pb.Record {
	return &pb.Record{Body: &pb.Record_Done{Done: &pb.RackRunDone{Run: run, Nodes: ok + failed, Ok: ok, Failed: failed}}}
}

func node(name, bmc string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Node{Node: &pb.Node{Name: name, Bmc: bmc, State: "ready"}}}
}

func gone(name string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Gone{Gone: &pb.NodeGone{Node: name, Reason: "pulled"}}}
}

func firing(rule string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Firing{Firing: &pb.Firing{Rule: rule, Node: "n1"}}}
}

func hardware(node, path string) *pb.Record {
	return &pb.Record{Body: &pb.Record_Hardware{Hardware: &pb.HardwareNews{Node: node, Changes: []*pb.HardwareChange{{What: "added", Path: path}}}}}
}

// kinds writes events as one line.
func kinds(events []*pb.Event) string {
	var b []string
	for _, e := range events {
		switch x := e.GetBody().(type) {
		case *pb.Event_Script:
			b = append(b, "script "+x.Script.GetName())
		case *pb.Event_RemovedScript:
			b = append(b, "removed "+x.RemovedScript)
		case *pb.Event_Run:
			b = append(b, fmt.Sprintf("run %s %s", x.Run.GetId(), x.Run.GetState()))
		case *pb.Event_Node:
			b = append(b, fmt.Sprintf("node %s %s", x.Node.GetName(), x.Node.GetState()))
		case *pb.Event_Firing:
			b = append(b, "firing "+x.Firing.GetRule())
		default:
			b = append(b, fmt.Sprintf("%T", x))
		}
	}
	return strings.Join(b, ", ")
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func refusedAs(t *testing.T, o state.Outcome, k fault.Kind, text string) {
	t.Helper()
	if fault.KindOf(o.Err) != k || !strings.Contains(o.Err.Error(), text) {
		t.Errorf("refused with %q %v, want %q with %q", fault.KindOf(o.Err), o.Err, k, text)
	}
}
