package raftnode

import (
	"context"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// stableAfter is how long one that has joined must keep up before it has a vote:
	// a vote that is not cast makes a majority harder to reach.
	stableAfter = 10 * time.Second
	// deadAfter is how long a coordinator may be silent before it is taken out of the
	// group: longer than a machine takes to be repaired by starting it again.
	deadAfter = time.Hour
	// leastVoters is how many must be left in the group when one is taken out for its
	// silence: of three none ever is, so that its own return makes the group whole. Of
	// four, when a new one has come for it, it is.
	leastVoters = 3
	// careEvery is how often the leader looks at the others.
	careEvery = time.Second
	// keepsUp is how recently one that keeps up has heard of the leader, and how many
	// entries it may lack.
	keepsUp     = 2 * time.Second
	keepsUpLogs = 1000
)

// care is what the leader does for the group, as raft-autopilot decides: it gives a vote
// to who has joined and keeps up, and takes out who is silent for long.
type care struct {
	n     *Node
	pilot *autopilot.Autopilot
	work  sync.WaitGroup

	mu    sync.Mutex
	heard map[raft.ServerID]time.Time
}

// startCare begins it, as the leader.
func (n *Node) startCare(ctx context.Context) *care {
	c := &care{n: n, heard: map[raft.ServerID]time.Time{}}
	c.pilot = autopilot.New(n.raft, c, autopilot.WithLogger(newLogger(n.conf.Log)),
		autopilot.WithUpdateInterval(careEvery), autopilot.WithReconcileInterval(careEvery))
	c.pilot.Start(ctx)
	return c
}

// stop ends it, and waits until it has ended. A nil care has.
func (c *care) stop() {
	if c == nil {
		return
	}
	<-c.pilot.Stop()
	c.work.Wait()
}

// AutopilotConfig implements autopilot.ApplicationIntegration.
func (c *care) AutopilotConfig() *autopilot.Config {
	return &autopilot.Config{
		CleanupDeadServers: true, MinQuorum: leastVoters, LastContactThreshold: keepsUp, MaxTrailingLogs: keepsUpLogs,
		ServerStabilizationTime: c.n.conf.StableAfter,
	}
}

// NotifyState implements autopilot.ApplicationIntegration.
func (c *care) NotifyState(*autopilot.State) {}

// KnownServers implements autopilot.ApplicationIntegration.
func (c *care) KnownServers() map[raft.ServerID]*autopilot.Server {
	all := map[raft.ServerID]*autopilot.Server{}
	for _, m := range c.n.members() {
		id := raft.ServerID(m.Name)
		s := &autopilot.Server{
			ID: id, Name: m.Name, Address: raft.ServerAddress(m.Addr), NodeStatus: autopilot.NodeAlive, NodeType: autopilot.NodeVoter,
			RaftVersion: int(raft.ProtocolVersionMax), IsLeader: m.Name == c.n.conf.Name,
		}
		if !s.IsLeader && time.Since(c.lastHeard(id)) > c.n.conf.DeadAfter {
			s.NodeStatus = autopilot.NodeFailed
		}
		all[id] = s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.heard, func(id raft.ServerID, _ time.Time) bool { return all[id] == nil }) // who comes back begins anew
	return all
}

// lastHeard is when a member has last answered us as the leader; at the earliest when
// we first met it as one.
func (c *care) lastHeard(id raft.ServerID) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard[id].IsZero() {
		c.heard[id] = time.Now()
	}
	return c.heard[id]
}

// FetchServerStats implements autopilot.ApplicationIntegration.
func (c *care) FetchServerStats(ctx context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	var mu sync.Mutex
	all := map[raft.ServerID]*autopilot.ServerStats{}
	var asking sync.WaitGroup
	for id, s := range servers {
		asking.Go(func() {
			stats := c.ask(ctx, s)
			if stats == nil {
				return
			}
			c.mu.Lock()
			c.heard[id] = time.Now()
			c.mu.Unlock()
			mu.Lock()
			defer mu.Unlock()
			all[id] = stats
		})
	}
	asking.Wait()
	return all
}

// ask asks a member how far its log is; nil: it does not answer.
func (c *care) ask(ctx context.Context, s *autopilot.Server) *autopilot.ServerStats {
	if s.IsLeader {
		return &autopilot.ServerStats{LastTerm: c.n.lastTerm(), LastIndex: c.n.raft.LastIndex()}
	}
	reply, err := c.n.conf.Wire.Call(ctx, string(s.Address), &pb.PeerCall{Body: &pb.PeerCall_LogState{LogState: &pb.LogState{}}})
	if err != nil || reply.GetKind() != "" {
		return nil
	}
	return &autopilot.ServerStats{
		LastContact: time.Duration(reply.GetContactMs()) * time.Millisecond, LastTerm: reply.GetTerm(), LastIndex: reply.GetIndex(),
	}
}

// RemoveFailedServer implements autopilot.ApplicationIntegration.
func (c *care) RemoveFailedServer(s *autopilot.Server) {
	c.work.Go(func() {
		c.n.conf.Log.Warn("a coordinator was silent for too long, it is taken out of the group", obs.Peer, s.Name, obs.Took, c.n.conf.DeadAfter)
		if err := c.n.raft.RemoveServer(s.ID, 0, meetTimeout).Error(); err != nil {
			c.n.conf.Log.Error("taking a coordinator out of the group", obs.Peer, s.Name, obs.Err, err)
		}
	})
}

// lastTerm is the term of the last entry of the log.
func (n *Node) lastTerm() uint64 {
	term, _ := strconv.ParseUint(n.raft.Stats()["last_log_term"], 10, 64) // a number
	return term
}

func (n *Node) answerLogState(from string) *pb.PeerReply {
	if !n.Member(from) {
		return replyOf(fault.New(fault.Denied, "tell how far the log is", from+" is no member of the group"))
	}
	return &pb.PeerReply{Index: n.raft.LastIndex(), Term: n.lastTerm(), ContactMs: time.Since(n.raft.LastContact()).Milliseconds()}
}
