package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// InTouch reports whether this coordinator leads, or has just heard of who does: what
// it tells of the owner of a rack is then what a majority knows.
func (c *Cluster) InTouch() bool {
	s := c.conf.Node.Status()
	return s.State == raftnode.Leader || s.Leader != "" && s.Behind <= behindAfter
}

// Lent is when any of the other coordinators last gave an agent its rack, the zero
// time if none has, and whether the agent says that BMCs have shut it out. One that
// does not answer may do so now; if it is dead, it is taken out of the count only
// when it has been silent for long enough to have told nobody anything.
func (c *Cluster) Lent(ctx context.Context, agent string) (at time.Time, shut bool) {
	if c.conf.Peers == nil {
		return time.Time{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, m := range c.rest() {
		asking.Go(func() {
			last, theirs := c.lentBy(ctx, m, agent)
			mu.Lock()
			defer mu.Unlock()
			shut = shut || theirs
			if last.After(at) {
				at = last
			}
		})
	}
	asking.Wait()
	return at, shut
}

func (c *Cluster) lentBy(ctx context.Context, m raftnode.Member, agent string) (at time.Time, shut bool) {
	asked := time.Now()
	reply, err := c.conf.Peers.Call(ctx, m.Addr, &pb.PeerCall{Body: &pb.PeerCall_Lent{Lent: &pb.Lent{Agent: agent}}})
	if err == nil && reply.GetKind() == "" {
		if reply.GetLentMs() == 0 {
			return time.Time{}, reply.GetShut()
		}
		return asked.Add(-time.Duration(reply.GetLentMs()) * time.Millisecond), reply.GetShut()
	}
	c.conf.Log.Debug("a coordinator does not say whom it has lent what", obs.Peer, m.Name, obs.Agent, agent, obs.Err, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	// It lends nothing without a majority, and loses that soon after it is not heard
	// of any more.
	if o := c.others[m.Name]; o != nil {
		return latest(o.heard, o.since).Add(behindAfter), false
	}
	return asked, false
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// lent answers another coordinator.
func (c *Cluster) lent(agent string) *pb.PeerReply {
	at, shut := c.conf.Hub.Lent(agent)
	reply := &pb.PeerReply{Name: c.conf.Name, Shut: shut}
	if !at.IsZero() {
		reply.LentMs = max(1, time.Since(at).Milliseconds())
	}
	return reply
}
