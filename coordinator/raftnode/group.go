package raftnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	meetEvery   = 200 * time.Millisecond
	meetTimeout = 2 * time.Second
	// tellAfter is how long the others may be away before it is said.
	tellAfter = 10 * time.Second
	// maxMembers is the largest group: each one more makes every commit slower.
	maxMembers = 9
	raftPool   = 4 // streams that wait for the next message to one peer
	raftWait   = 5 * time.Second
)

// transport is how Raft reaches the other members.
func (n *Node) transport(log *logger) raft.Transport {
	if n.conf.Wire == nil {
		_, t := raft.NewInmemTransport(nobody)
		return t
	}
	n.wire = newPushing(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer{n.conf.Wire}, MaxPool: raftPool, Timeout: raftWait, Logger: log, MaxRPCsInFlight: 2,
	}))
	return n.wire
}

// layer makes a raft.StreamLayer of a Wire.
type layer struct{ wire Wire }

func (l layer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return l.wire.Dial(string(addr), timeout)
}
func (l layer) Accept() (net.Conn, error) { return l.wire.Accept() }
func (l layer) Addr() net.Addr            { return address(l.wire.Addr()) }

// Close implements net.Listener. Who made the Wire closes it.
func (layer) Close() error { return nil }

var _ io.Closer = layer{}

type address string

func (address) Network() string  { return "quic" }
func (a address) String() string { return string(a) }

// meetings is whom a node without a group has met.
type meetings struct {
	mu    sync.Mutex
	known map[string]*pb.Peer // by name
}

func (m *meetings) add(p *pb.Peer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = map[string]*pb.Peer{}
	}
	if len(m.known) <= maxMembers && p.GetName() != "" && p.GetAddr() != "" {
		m.known[p.GetName()] = p
	}
}

// all are those that were met, by name.
func (m *meetings) all() []*pb.Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*pb.Peer, 0, len(m.known))
	for _, p := range m.known {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *pb.Peer) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return all
}

func (n *Node) self() *pb.Peer { return &pb.Peer{Name: n.conf.Name, Addr: n.conf.Wire.Addr()} }

// form makes the node a member of a group, and returns when it is one: it begins
// one with the others that it expects, or joins the one that they are in.
func (n *Node) form(ctx context.Context) error {
	if n.conf.Wire == nil || len(n.members()) > 0 {
		return nil
	}
	n.met.add(n.self())
	tick := time.NewTicker(meetEvery)
	defer tick.Stop()
	told := time.Now()
	for len(n.members()) == 0 {
		if err := n.meetAll(ctx); err != nil {
			return err
		}
		if time.Since(told) > tellAfter {
			told = time.Now()
			n.conf.Log.Warn("waits for the other coordinators", obs.Count, len(n.met.all()), "expected", n.conf.Expect)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	n.conf.Log.Info("is a member of the group", obs.Count, len(n.members()))
	return nil
}

// meetAll asks everybody it knows of who they are. It begins the group when all
// that are expected have met the same ones, and asks to join one that exists.
func (n *Node) meetAll(ctx context.Context) error {
	agreed := 1
	for _, addr := range n.acquaintances() {
		reply, err := n.meet(ctx, addr)
		switch {
		case err != nil:
			continue
		case len(reply.GetMembers()) > 0:
			n.ask(ctx, addr, reply)
			return nil
		case n.agrees(reply):
			agreed++
		}
	}
	met := n.met.all()
	switch {
	case n.conf.Expect == 0 || len(met) < n.conf.Expect:
		return nil
	case len(met) > n.conf.Expect:
		return fault.New(fault.Conflict, "begin the group", fmt.Sprintf("%d coordinators are there, %d are expected: %s", len(met), n.conf.Expect, names(met))).
			WithHint("start each with the same --expect, and no more of them")
	case agreed == len(met):
		return n.begin(met)
	}
	return nil
}

// agrees reports whether another one waits for the same group.
func (n *Node) agrees(reply *pb.PeerReply) bool {
	return int(reply.GetExpect()) == n.conf.Expect && names(reply.GetKnown()) == names(n.met.all())
}

func names(all []*pb.Peer) string {
	var text []string
	for _, p := range all {
		text = append(text, p.GetName()+" at "+p.GetAddr())
	}
	slices.Sort(text)
	return strings.Join(text, ", ")
}

// acquaintances are the addresses of --join and those that were met.
func (n *Node) acquaintances() []string {
	all := slices.Clone(n.conf.Join)
	for _, p := range n.met.all() {
		all = append(all, p.GetAddr())
	}
	slices.Sort(all)
	own := n.conf.Wire.Addr()
	return slices.DeleteFunc(slices.Compact(all), func(addr string) bool { return addr == own })
}

func (n *Node) meet(ctx context.Context, addr string) (*pb.PeerReply, error) {
	ctx, cancel := context.WithTimeout(ctx, meetTimeout)
	defer cancel()
	self := n.self()
	reply, err := n.conf.Wire.Call(ctx, addr, &pb.PeerCall{Body: &pb.PeerCall_Meet{Meet: &pb.Meet{
		Name: self.GetName(), Addr: self.GetAddr(), Expect: int32(n.conf.Expect), Known: n.met.all(),
	}}})
	if err = errors.Join(err, failure(reply)); err != nil {
		n.conf.Log.Debug("meeting a coordinator", obs.Addr, addr, obs.Err, err)
		return nil, err
	}
	for _, p := range reply.GetKnown() {
		n.met.add(p)
	}
	return reply, nil
}

// ask asks the leader of an existing group for a place in it. The answer comes as
// the group's configuration.
func (n *Node) ask(ctx context.Context, addr string, reply *pb.PeerReply) {
	ctx, cancel := context.WithTimeout(ctx, meetTimeout)
	defer cancel()
	if slices.ContainsFunc(reply.GetMembers(), func(p *pb.Peer) bool { return p.GetName() == n.conf.Name && p.GetAddr() == n.conf.Wire.Addr() }) {
		return // it was given; the leader's first entries are on their way
	}
	answer, err := n.conf.Wire.Call(ctx, cmp.Or(reply.GetLeader(), addr), &pb.PeerCall{Body: &pb.PeerCall_Join{Join: &pb.Join{Peer: n.self()}}})
	if err = errors.Join(err, failure(answer)); err != nil {
		n.conf.Log.Warn("joining the group", obs.Addr, addr, obs.Err, err)
	}
}

// begin writes the first entry of the log. Each member of the new group writes
// the same one.
func (n *Node) begin(all []*pb.Peer) error {
	var c raft.Configuration
	for _, p := range all {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(p.GetName()), Address: raft.ServerAddress(p.GetAddr())})
	}
	n.conf.Log.Info("begins a group", "members", names(all))
	err := n.raft.BootstrapCluster(c).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		return nil // the leader was quicker than we
	}
	return fault.Wrap(fault.Unavailable, "begin the group", err)
}

// members are the members of the group, by name; none if there is no group yet.
func (n *Node) members() []Member {
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	servers := f.Configuration().Servers
	all := make([]Member, 0, len(servers))
	for _, s := range servers {
		all = append(all, Member{Name: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter})
	}
	slices.SortFunc(all, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Member reports whether the coordinator of that name may speak Raft to us: it is
// of the group. Before there is one, whoever we wait for may begin it.
func (n *Node) Member(name string) bool {
	all := n.members()
	return len(all) == 0 || slices.ContainsFunc(all, func(m Member) bool { return m.Name == name })
}

// Call answers a call of another coordinator, whose certificate says that its
// name is from.
func (n *Node) Call(ctx context.Context, from string, c *pb.PeerCall) *pb.PeerReply {
	switch b := c.GetBody().(type) {
	case *pb.PeerCall_Commit:
		return n.answerCommit(ctx, from, b.Commit)
	case *pb.PeerCall_ReadIndex:
		return n.answerIndex(ctx, from, b.ReadIndex)
	case *pb.PeerCall_LogState:
		return n.answerLogState(from)
	case *pb.PeerCall_Meet:
		return n.answerMeet(from, b.Meet)
	case *pb.PeerCall_Join:
		return replyOf(n.admit(from, b.Join.GetPeer()))
	case *pb.PeerCall_Remove:
		return replyOf(n.removeFor(from, b.Remove.GetName()))
	default:
		return replyOf(fault.New(fault.Unsupported, "answer a coordinator", "it asks for what this version does not know").
			WithHint("run the same build of chiba on all coordinators"))
	}
}

func (n *Node) answerCommit(ctx context.Context, from string, c *pb.Commit) *pb.PeerReply {
	const op = "commit for another coordinator"
	if !n.Member(from) {
		return replyOf(fault.New(fault.Denied, op, from+" is no member of the group"))
	}
	for _, data := range c.GetCommands() {
		if err := ours(from, data); err != nil {
			return replyOf(fault.Wrap(fault.KindOf(err), op, err))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, n.conf.Patience)
	defer cancel()
	p := newProposal(ctx.Done(), true, c.GetCommands()...)
	n.propose(p)
	var a answer
	select {
	case a = <-p.answer:
	case <-n.shut:
		a.err = raft.ErrRaftShutdown
	case <-ctx.Done():
		a.err = ctx.Err()
	}
	reply := replyOf(proposeError(op, a.err))
	reply.Index, reply.Term = a.index, a.term
	_, reply.Final = a.err.(*fault.Error) //nolint:errorlint // our own refusal, not one that wraps what Raft says
	reply.Unsure = a.err != nil && !reply.GetFinal() && !errors.Is(a.err, raft.ErrNotLeader)
	return reply
}

// ours says whether a command that another coordinator sends is one that this version
// can commit for it.
func ours(from string, data []byte) error {
	var c pb.Command
	if err := proto.Unmarshal(data, &c); err != nil {
		return fault.Wrap(fault.Garbage, "decode its command", err)
	}
	if c.GetVersion() != state.Version || c.GetBatch() != nil || !strings.HasPrefix(c.GetSession(), from+"/") {
		return fault.New(fault.Unsupported, "", fmt.Sprintf("its version is %d, its session %q", c.GetVersion(), c.GetSession())).
			WithHint("run the same build of chiba on all coordinators")
	}
	return nil
}

func (n *Node) answerMeet(from string, m *pb.Meet) *pb.PeerReply {
	if from != m.GetName() {
		return replyOf(fault.New(fault.Denied, "meet a coordinator", fmt.Sprintf("it says it is %q, its certificate is of %q", m.GetName(), from)))
	}
	leader, _ := n.raft.LeaderWithID()
	reply := &pb.PeerReply{Name: n.conf.Name, Leader: string(leader), Expect: int32(n.conf.Expect)}
	for _, member := range n.members() {
		reply.Members = append(reply.Members, &pb.Peer{Name: member.Name, Addr: member.Addr})
	}
	if len(reply.GetMembers()) == 0 {
		n.met.add(&pb.Peer{Name: m.GetName(), Addr: m.GetAddr()})
		reply.Known = n.met.all()
	}
	return reply
}

// admit gives a coordinator a place in the group, as the leader; it has a vote when it
// keeps up, see care. One that comes back with another address is met there from now on.
func (n *Node) admit(from string, p *pb.Peer) error {
	const op = "join the group"
	all := n.members()
	known := slices.ContainsFunc(all, func(m Member) bool { return m.Name == p.GetName() })
	switch {
	case from != p.GetName() || p.GetAddr() == "":
		return fault.New(fault.Denied, op, fmt.Sprintf("it says it is %q, its certificate is of %q", p.GetName(), from))
	case len(all) >= maxMembers && !known:
		return fault.New(fault.Conflict, op, fmt.Sprintf("the group has %d members, which is the most", len(all))).
			WithHint("chiba coordinator remove NAME makes room")
	}
	n.conf.Log.Info("a coordinator joins", obs.Peer, p.GetName(), obs.Addr, p.GetAddr())
	add := n.raft.AddNonvoter
	if slices.ContainsFunc(all, func(m Member) bool { return m.Name == p.GetName() && m.Voter }) {
		add = n.raft.AddVoter
	}
	err := add(raft.ServerID(p.GetName()), raft.ServerAddress(p.GetAddr()), 0, meetTimeout).Error()
	return fault.Wrap(fault.Unavailable, op, err)
}

// Remove takes a coordinator out of the group. One that comes back must begin
// with an empty directory.
func (n *Node) Remove(ctx context.Context, name string) error {
	if n.conf.Wire == nil || n.raft.State() == raft.Leader {
		return n.remove(name)
	}
	leader, _ := n.raft.LeaderWithID()
	if leader == "" {
		return proposeError("remove a coordinator", errNoLeader)
	}
	reply, err := n.conf.Wire.Call(ctx, string(leader), &pb.PeerCall{Body: &pb.PeerCall_Remove{Remove: &pb.Remove{Name: name}}})
	return errors.Join(err, failure(reply))
}

func (n *Node) removeFor(from, name string) error {
	if !n.Member(from) {
		return fault.New(fault.Denied, "remove a coordinator", from+" is no member of the group")
	}
	return n.remove(name)
}

func (n *Node) remove(name string) error {
	const op = "remove a coordinator"
	all := n.members()
	switch {
	case !slices.ContainsFunc(all, func(m Member) bool { return m.Name == name }):
		return fault.New(fault.NotFound, op, fmt.Sprintf("%q is no member of the group", name)).WithHint("chiba get coordinators lists them")
	case len(all) == 1:
		return fault.New(fault.Conflict, op, "it is the only one")
	}
	return fault.Wrap(fault.Unavailable, op, n.raft.RemoveServer(raft.ServerID(name), 0, meetTimeout).Error())
}

// replyOf is an answer that says how it ended.
func replyOf(err error) *pb.PeerReply {
	if err == nil {
		return &pb.PeerReply{}
	}
	return &pb.PeerReply{Kind: string(fault.KindOf(err)), Error: err.Error(), Hint: fault.HintOf(err)}
}

// failure is the error that a reply tells.
func failure(r *pb.PeerReply) error {
	if r.GetKind() == "" {
		return nil
	}
	return &fault.Error{Kind: fault.Kind(r.GetKind()), Err: errors.New(r.GetError()), Hint: r.GetHint()}
}
