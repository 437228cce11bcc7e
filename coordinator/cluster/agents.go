package cluster

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Connected reports whether the agent that works on a rack is connected to any
// coordinator.
func (c *Cluster) Connected(rack string) bool {
	_, a := c.connected(c.conf.Hub.Owner(rack))
	return a != nil || c.conf.Hub.Connected(rack)
}

// Agents are all agents that were ever greeted, by name. That an agent is
// connected is said by whoever it is connected to.
func (c *Cluster) Agents() []*pb.AgentStatus {
	all := c.conf.Hub.Agents()
	for i, a := range all {
		if _, there := c.connected(a.GetName()); there != nil && (!a.GetConnected() || there.GetSinceUnixMs() > a.GetSinceUnixMs()) {
			all[i] = proto.CloneOf(there)
			all[i].Role, all[i].Epoch = c.conf.Hub.Role(there)
		}
	}
	return all
}

// Progress is what the racks last said of a run under way, by rack.
func (c *Cluster) Progress(run string) []*pb.RackProgress {
	all := c.conf.Hub.Progress(run)
	c.mu.Lock()
	for _, o := range c.others {
		all = append(all, o.progress[run]...)
	}
	c.mu.Unlock()
	// An agent that has moved has left a word at its earlier coordinator: what
	// says more was said later.
	slices.SortFunc(all, func(a, b *pb.RackProgress) int {
		return cmp.Or(cmp.Compare(a.GetRack(), b.GetRack()), -cmp.Compare(a.GetDone(), b.GetDone()))
	})
	return slices.CompactFunc(all, func(a, b *pb.RackProgress) bool { return a.GetRack() == b.GetRack() })
}

// Query asks the agent of a rack, wherever it is connected. See hub.Hub.Query.
func (c *Cluster) Query(ctx context.Context, rack string, q *pb.Query, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	at, _ := c.connected(c.conf.Hub.Owner(rack))
	if at == nil || c.conf.Hub.Connected(rack) {
		return c.conf.Hub.Query(ctx, rack, q, each)
	}
	done, err := c.conf.Peers.Query(ctx, at.addr, &pb.PeerQuery{Rack: rack, Query: q}, each)
	if err != nil {
		return nil, err
	}
	return done, wire.FromFault(done.GetKind(), done.GetError(), done.GetHint())
}

// Handler answers the other coordinators; it is a peers.Handler.
type Handler struct{ *Cluster }

// Member implements peers.Handler.
func (h Handler) Member(name string) bool { return h.conf.Node.Member(name) }

// Call implements peers.Handler.
func (h Handler) Call(ctx context.Context, from string, call *pb.PeerCall) *pb.PeerReply {
	presence, artifact, lent := call.GetPresence(), call.GetKeepArtifact(), call.GetLent()
	if presence == nil && artifact == nil && lent == nil {
		return h.conf.Node.Call(ctx, from, call)
	}
	if !h.Member(from) {
		return refused(fault.New(fault.Denied, "tell who is connected", from+" is no member of the group"))
	}
	switch {
	case presence != nil:
		return h.presence(presence)
	case lent != nil:
		return h.lent(lent.GetAgent())
	case h.conf.Stock == nil:
		return refused(fault.New(fault.Unsupported, "keep an artifact", "this coordinator keeps none"))
	}
	if err := h.conf.Stock.Keep(artifact); err != nil {
		return refused(err)
	}
	return &pb.PeerReply{Name: h.conf.Name}
}

// Artifact implements peers.Handler.
func (h Handler) Artifact(ctx context.Context, ch *mesh.Channel) {
	if h.conf.Stock != nil {
		h.conf.Stock.Give(ctx, ch)
	}
}

func (c *Cluster) presence(p *pb.Presence) *pb.PeerReply {
	s := c.conf.Node.Status()
	reply := &pb.PeerReply{Name: c.conf.Name, BehindMs: s.Behind.Milliseconds()}
	if s.Damage != nil {
		reply.Damage, reply.DamageNext = s.Damage.Error(), fault.HintOf(s.Damage)
	}
	reply.Agents, reply.Version = c.conf.Hub.Present(p.GetKnown())
	reply.Hashes, reply.Applied = c.conf.Node.Hashes()
	for _, run := range p.GetRuns() {
		if racks := c.conf.Hub.Progress(run); len(racks) > 0 {
			reply.Progress = append(reply.Progress, &pb.RunProgress{Run: run, Racks: racks})
		}
	}
	return reply
}

// Query implements peers.Handler: it is for the agents that are connected here,
// and goes no further.
func (h Handler) Query(ctx context.Context, rack string, q *pb.Query, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	done, err := h.conf.Hub.Query(ctx, rack, q, each)
	if err != nil {
		h.conf.Log.Debug("asking for another coordinator", obs.Rack, rack, obs.Err, err)
	}
	return done, err
}

func refused(err error) *pb.PeerReply {
	kind, text, hint := wire.ToFault(err)
	return &pb.PeerReply{Kind: kind, Error: text, Hint: hint}
}
