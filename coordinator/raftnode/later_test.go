package raftnode

import (
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func entryOf(t *testing.T, index uint64, c *pb.Command) *raft.Log {
	t.Helper()
	data, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: data}
}

func agentCommand(version uint32, name string) *pb.Command {
	return &pb.Command{Version: version, Body: &pb.Command_PutAgent{PutAgent: &pb.PutAgent{Agent: &pb.AgentInfo{Name: name, Rack: "r-" + name}}}}
}

// A replica of an earlier build that is told of a command which a later one has made
// stops there, says why and what to do, and applies nothing that comes after it: it
// would differ from the others for ever. Started with their build on the same log it
// goes on.
func TestAReplicaStopsAtWhatALaterBuildHasMade(t *testing.T) {
	for name, later := range map[string]*pb.Command{
		"another version": agentCommand(state.Version+1, "a2"),
		// The body of a type that is not known is dropped when it is read.
		"another type": {Version: state.Version},
	} {
		t.Run(name, func(t *testing.T) {
			machine := state.New()
			f := newFSM(machine, "c1/1", func(state.Outcome) {})
			first := entryOf(t, 1, agentCommand(state.Version, "a1"))
			if r, ok := f.Apply(first).(response); !ok || r.err != nil {
				t.Fatalf("%+v", r)
			}
			before, err := machine.Hash()
			if err != nil {
				t.Fatal(err)
			}
			all := f.ApplyBatch([]*raft.Log{entryOf(t, 2, later), entryOf(t, 3, agentCommand(state.Version, "a3"))})
			for i, r := range all {
				if got, ok := r.(response); !ok || !fault.Is(got.err, fault.Unsupported) {
					t.Errorf("entry %d: %+v", i+2, r)
				}
			}
			why := <-f.failed // what Run ends with
			if !strings.Contains(why.Error(), "apply command 2") || fault.HintOf(why) != "start the chiba version that the other coordinators run; nothing was lost" {
				t.Errorf("it stops with %v, hint %q", why, fault.HintOf(why))
			}
			select {
			case <-f.halted:
			default:
				t.Error("who waits for it is not told")
			}
			if after, _ := machine.Hash(); after != before {
				t.Error("the state has changed")
			}
			if len(machine.Agents()) != 1 {
				t.Errorf("what came later was applied: %v", machine.Agents())
			}
		})
	}
}
