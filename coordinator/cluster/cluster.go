// Package cluster makes one of several coordinators: what each of them alone
// knows (which agents are connected to it, how far they are) the others ask it
// for, twice a second, so that any of them answers for all. What they have in
// common is in the log and needs none of this.
//
// With no other coordinators it is the hub and nothing more.
package cluster

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	askEvery   = 500 * time.Millisecond
	askTimeout = time.Second
	// silentAfter is when one that does not answer is said not to: by then its
	// agents are as good as gone, too.
	silentAfter = 3 * time.Second
	// behindAfter is how long a coordinator may not have heard of the leader
	// before it says so with what it tells.
	behindAfter = time.Second
)

// Hub holds the agents that are connected here; a *hub.Hub is one.
type Hub interface {
	Connected(rack string) bool
	Owner(rack string) string
	Role(a *pb.AgentStatus) (role, epoch string)
	Lent(agent string) (at time.Time, shut bool)
	Agents() []*pb.AgentStatus
	Present(known uint64) (agents []*pb.AgentStatus, version uint64)
	Progress(run string) []*pb.RackProgress
	Query(ctx context.Context, rack string, q *pb.Query, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error)
}

// Log is this coordinator's part of the log; a *raftnode.Node is one.
type Log interface {
	Status() raftnode.Status
	Hashes() (list []*pb.StateHash, applied uint64)
	Member(name string) bool
	Call(ctx context.Context, from string, c *pb.PeerCall) *pb.PeerReply
	CatchUp(ctx context.Context, verified bool) error
	Remove(ctx context.Context, name string) error
}

// Peers reach the other coordinators; a *peers.Peers is one.
type Peers interface {
	Call(ctx context.Context, addr string, c *pb.PeerCall) (*pb.PeerReply, error)
	Query(ctx context.Context, addr string, q *pb.PeerQuery, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error)
}

// Watches are the runs that somebody watches here; a *feed.Feed is one.
type Watches interface {
	Watched() []string
	Touch(runs ...string)
}

// Stock keeps artifacts; a *stock.Stock is one.
type Stock interface {
	Keep(k *pb.KeepArtifact) error
	Give(ctx context.Context, ch *mesh.Channel)
}

// Config is what a Cluster needs.
type Config struct {
	Name    string // of this coordinator
	Hub     Hub
	Node    Log
	Peers   Peers // nil: there are no others
	Watches Watches
	Stock   Stock // nil: it keeps none
	Log     *slog.Logger
}

// Cluster is the coordinators, seen from one of them. All methods are safe for
// concurrent use.
type Cluster struct {
	conf Config

	mu     sync.Mutex
	others map[string]*other // by name
	differ map[string]uint64 // index at which another has had another state, by name
}

// other is what another coordinator last said.
type other struct {
	addr     string
	since    time.Time // when it became one of us, as far as we know
	heard    time.Time
	asking   bool
	version  uint64
	agents   map[string]*pb.AgentStatus // connected to it, by name
	progress map[string][]*pb.RackProgress
	applied  uint64
	behind   time.Duration
	damage   string // what is wrong with its log, and what to do about it
	next     string
}

// New is a cluster of which nothing is known yet.
func New(c Config) *Cluster {
	return &Cluster{conf: c, others: map[string]*other{}, differ: map[string]uint64{}}
}

// Run asks the others until ctx ends.
func (c *Cluster) Run(ctx context.Context) error {
	if c.conf.Peers == nil {
		return nil
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		for _, m := range c.due() {
			asking.Go(func() { c.ask(ctx, m) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// due are the members that are to be asked now. Those that have left the group are
// forgotten.
func (c *Cluster) due() []raftnode.Member {
	all := c.rest()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.others {
		if !slices.ContainsFunc(all, func(m raftnode.Member) bool { return m.Name == name }) {
			delete(c.others, name)
			delete(c.differ, name)
		}
	}
	return slices.DeleteFunc(all, func(m raftnode.Member) bool {
		o := c.others[m.Name]
		if o == nil {
			o = &other{since: time.Now()}
			c.others[m.Name] = o
		}
		busy := o.asking
		o.asking, o.addr = true, m.Addr
		return busy
	})
}

// rest are the members but this one.
func (c *Cluster) rest() []raftnode.Member {
	return slices.DeleteFunc(slices.Clone(c.conf.Node.Status().Members), func(m raftnode.Member) bool { return m.Name == c.conf.Name })
}

// ask asks one of the others what it alone knows.
func (c *Cluster) ask(ctx context.Context, m raftnode.Member) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	watched := c.conf.Watches.Watched()
	c.mu.Lock()
	known := uint64(0)
	if o := c.others[m.Name]; o != nil {
		known = o.version
	}
	c.mu.Unlock()
	reply, err := c.conf.Peers.Call(ctx, m.Addr, &pb.PeerCall{Body: &pb.PeerCall_Presence{Presence: &pb.Presence{Runs: watched, Known: known}}})
	if err == nil && reply.GetKind() != "" {
		err = fault.New(fault.Kind(reply.GetKind()), "ask a coordinator", reply.GetError())
	}
	if err != nil {
		c.conf.Log.Debug("a coordinator does not say who is connected to it", obs.Peer, m.Name, obs.Err, err)
	}
	c.take(m.Name, reply, err == nil)
	if err == nil {
		c.compare(m.Name, reply.GetHashes())
		c.conf.Watches.Touch(watched...)
	}
}

// take keeps what one has said.
func (c *Cluster) take(name string, reply *pb.PeerReply, answered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.others[name]
	if o == nil {
		return
	}
	o.asking = false
	if !answered {
		return
	}
	o.heard, o.applied, o.behind = time.Now(), reply.GetApplied(), time.Duration(reply.GetBehindMs())*time.Millisecond
	o.damage, o.next = reply.GetDamage(), reply.GetDamageNext()
	if o.version != reply.GetVersion() || o.agents == nil {
		o.version, o.agents = reply.GetVersion(), map[string]*pb.AgentStatus{}
		for _, a := range reply.GetAgents() {
			o.agents[a.GetName()] = a
		}
	}
	o.progress = map[string][]*pb.RackProgress{}
	for _, p := range reply.GetProgress() {
		o.progress[p.GetRun()] = p.GetRacks()
	}
}

// compare looks whether another has had the same state as we at the same command.
func (c *Cluster) compare(name string, theirs []*pb.StateHash) {
	ours, _ := c.conf.Node.Hashes()
	for _, their := range theirs {
		for _, our := range ours {
			if our.GetIndex() == their.GetIndex() && our.GetHash() != their.GetHash() {
				c.differs(name, our, their)
				return
			}
		}
	}
}

func (c *Cluster) differs(name string, our, their *pb.StateHash) {
	c.mu.Lock()
	_, said := c.differ[name]
	c.differ[name] = our.GetIndex()
	c.mu.Unlock()
	if !said {
		c.conf.Log.Error("two coordinators do not have the same state any more", obs.Peer, name,
			"index", our.GetIndex(), "ours", our.GetHash(), "theirs", their.GetHash())
	}
}

// silent reports whether o has not answered for too long.
func (o *other) silent() bool {
	since := o.heard
	if since.IsZero() {
		since = o.since
	}
	return time.Since(since) > silentAfter
}

// connected is the one of the others that an agent is connected to.
func (c *Cluster) connected(agent string) (at *other, a *pb.AgentStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.others {
		if s := o.agents[agent]; s != nil && !o.silent() && s.GetSinceUnixMs() >= a.GetSinceUnixMs() {
			at, a = o, s
		}
	}
	return at, a
}
