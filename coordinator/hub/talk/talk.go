// Package talk is a coordinator's part of the protocol with an agent: whether its
// hello is news, what it is welcomed with, what its batches become, what it is told
// to do. It decides from the replicated state alone; it has no connection, clock or
// goroutine. The hub carries it over QUIC, the simulator over streams in memory. The
// agent's part is agent/link/talk.
package talk

import (
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Version is the version of the protocol that this package speaks.
const Version = 1

// maxSources is how much of scripts goes into one Desired; the frame takes 16 MiB.
const maxSources = 12 << 20

// Machine is what is read of the replicated state; a *state.Machine is one.
type Machine interface {
	Agent(name string) (*pb.AgentInfo, bool)
	Counts() state.Counts
	Policy() (envelope []byte, version uint64)
	Desired(rack string) *pb.Desired
	Site(agent string) *pb.Site
}

// Greeting is what becomes of one hello.
type Greeting struct {
	// Command is to be committed before the welcome; nil: there is nothing new, or
	// the spool is Old.
	Command *pb.Command
	// Old is a spool of an earlier epoch than is known: an old copy of the agent's
	// disk, or a new disk and a clock that is behind.
	Old bool

	agent string
	met   bool
	next  uint64 // wanted, without a Command
}

// Greet compares a hello, whose sender has proven its name, with what is known of it.
func Greet(m Machine, h *pb.Hello) Greeting {
	said := &pb.AgentInfo{
		Name: h.GetAgent(), Rack: h.GetRack(), Site: h.GetSite(), SealKey: h.GetSealKey(), SealProof: h.GetSealProof(), Build: h.GetBuild(),
		SpoolEpoch: h.GetSpoolEpoch(), NextSeq: h.GetFirstUnacked(), Boot: h.GetBoot(), Pair: h.GetPair(),
		SiteGossip: h.GetSiteGossip(), SiteCalls: h.GetSiteCalls(),
	}
	known, met := m.Agent(said.GetName())
	g := Greeting{agent: said.GetName(), met: met, next: known.GetNextSeq()}
	switch {
	case known.GetSpoolEpoch() > said.GetSpoolEpoch():
		// It begins a new epoch when it is asked for records that it has not
		// written yet.
		g.Old, g.next = true, math.MaxUint64
	case !met || !same(known, said):
		g.Command = &pb.Command{Body: &pb.Command_PutAgent{PutAgent: &pb.PutAgent{Agent: said}}}
	}
	return g
}

// same reports whether there is nothing new in what the agent says.
func same(known, said *pb.AgentInfo) bool {
	return known.GetRack() == said.GetRack() && known.GetSite() == said.GetSite() && known.GetBuild() == said.GetBuild() && known.GetPair() == said.GetPair() &&
		string(known.GetSealKey()) == string(said.GetSealKey()) && string(known.GetSealProof()) == string(said.GetSealProof()) &&
		known.GetSiteGossip() == said.GetSiteGossip() && known.GetSiteCalls() == said.GetSiteCalls() &&
		known.GetBoot() == said.GetBoot() && known.GetSpoolEpoch() == said.GetSpoolEpoch() && known.GetNextSeq() >= said.GetNextSeq()
}

// Welcome is the answer to the hello, by the outcome of the Command if there was
// one. The state is one that has applied it.
func (g Greeting) Welcome(m Machine, o state.Outcome) *pb.Welcome {
	next := g.next
	if g.Command != nil {
		next = o.NextWanted
	}
	known, _ := m.Agent(g.agent)
	return &pb.Welcome{
		Version: Version, NextWanted: next, Revision: m.Counts().Revision,
		SpoolEpoch: known.GetSpoolEpoch(), FirstMeeting: !g.met,
	}
}

// Record is the command that records a batch. What a later version alone can read
// is kept out of the log: it would stop the machine. The hello is that of the session
// on which the batch has come.
func Record(h *pb.Hello, b *pb.RecordBatch) (*pb.Command, error) {
	for _, r := range b.GetRecords() {
		if r.GetBody() == nil {
			return nil, fault.New(fault.Garbage, "record results", fmt.Sprintf("record %d is of a type that this coordinator does not know", r.GetSeq())).
				WithHint("run the same build of chiba on agents and coordinators")
		}
	}
	return &pb.Command{Body: &pb.Command_RecordResults{RecordResults: &pb.RecordResults{
		Agent: h.GetAgent(), Rack: h.GetRack(), Boot: h.GetBoot(), SpoolEpoch: b.GetSpoolEpoch(), Records: b.GetRecords(),
	}}}, nil
}

// Ack is what the agent may forget when a batch was committed and applied.
func Ack(b *pb.RecordBatch, o state.Outcome) *pb.FromCoordinator {
	return &pb.FromCoordinator{Body: &pb.FromCoordinator_Ack{Ack: &pb.Ack{SpoolEpoch: b.GetSpoolEpoch(), NextWanted: o.NextWanted}}}
}

// Hint wakes an agent.
func Hint(m Machine) *pb.FromCoordinator {
	return &pb.FromCoordinator{Body: &pb.FromCoordinator_Hint{Hint: &pb.Hint{Revision: m.Counts().Revision}}}
}

// Desired is the desired state of a rack as its agent, which has said hello, needs
// it. What does not fit into one message goes without its source: the agent still
// lacks it and pulls again.
func Desired(m Machine, h *pb.Hello, pull *pb.Pull) *pb.Desired {
	have := pull.GetHave()
	d := m.Desired(h.GetRack())
	d.Site = m.Site(h.GetAgent())
	if _, version := m.Policy(); version == pull.GetPolicyVersion() {
		d.Policy = nil
	}
	if d.GetCatalogue().GetVersion() == pull.GetCatalogue() {
		d.Catalogue = nil
	}
	// Only who has a script needs to know that it is over.
	d.Ended = slices.DeleteFunc(d.GetEnded(), func(e *pb.Ended) bool { return have[e.GetName()] == "" })
	room := maxSources - size(d.GetEnded()) - size(d.GetCanceled()) - proto.Size(d.GetCatalogue())
	for i, r := range d.GetRuns() {
		if room -= len(r.GetSource()) + len(r.GetEnvelope()); room < 0 {
			d.Runs = d.GetRuns()[:i] // the later ones when these are done
			break
		}
	}
	for i, sc := range d.GetScripts() {
		if have[sc.GetName()] != wire.Mark(sc) {
			if room -= len(sc.GetSource()) + len(sc.GetEnvelope()); room >= 0 {
				continue
			}
		}
		d.Scripts[i] = &pb.Script{
			Name: sc.GetName(), File: sc.GetFile(), Digest: sc.GetDigest(), Revision: sc.GetRevision(), Version: sc.GetVersion(),
			AppliedUnixMs: sc.GetAppliedUnixMs(), AppliedBy: sc.GetAppliedBy(),
		}
	}
	return d
}

func size[M proto.Message](list []M) (n int) {
	for _, m := range list {
		n += proto.Size(m)
	}
	return n
}
