package raftnode

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
)

const (
	// lookEvery is how often a node that is not ready looks whether it is.
	lookEvery = 20 * time.Millisecond
	// lonelyAfter is how long a member that was started waits for a leader before it
	// tells what it knows without one.
	lonelyAfter = 3 * time.Second
	// yieldTimeout is how long a leader that stops looks for a successor.
	yieldTimeout = 2 * time.Second
)

// Run sees to it that the node becomes ready and stays able to work, until ctx
// ends. An error means that the process must end: a command can't be applied, or
// the log can't be written.
func (n *Node) Run(ctx context.Context) error {
	var hashing sync.WaitGroup
	defer hashing.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hashing.Go(func() { n.fsm.hashes.run(ctx, n) })
	if err := n.form(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	give := time.NewTimer(leaderless)
	defer give.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	measure := time.NewTicker(measureEvery)
	defer measure.Stop()
	n.measure()
	n.askedAt = time.Now()
	defer func() {
		n.caring.stop()
		n.note()
	}()
	for began := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case err := <-n.fsm.failed:
			return err
		case err := <-n.store.broken:
			return fault.New(fault.Unavailable, "write the log in "+n.conf.Dir, err.Error()).
				WithHint("see whether the disk is full or broken; when it is well again, start the coordinator again")
		case leads := <-n.raft.LeaderCh():
			if err := n.led(ctx, leads); err != nil {
				return err
			}
		case <-look.C:
			n.lead.now(n.leader())
			n.check()
			if n.follows() || n.lonely(began) {
				n.beReady.Do(func() { close(n.ready) })
			}
			if n.alive() {
				give.Reset(leaderless)
			}
		case <-measure.C:
			n.measure()
			n.note()
		case <-give.C:
			if n.conf.Wire != nil { // the others may be away; stale reads go on
				n.conf.Log.Warn("no leader, nothing can be decided", obs.Took, leaderless)
				give.Reset(leaderless)
				continue
			}
			return fault.New(fault.Unavailable, "write the log in "+n.conf.Dir, fmt.Sprintf("the coordinator has not led for %s", leaderless)).
				WithHint("see whether the disk is full or broken, then start the coordinator again")
		}
	}
}

// led follows the gain and the loss of the lead.
func (n *Node) led(ctx context.Context, leads bool) error {
	n.caring.stop()
	n.caring = nil
	if !leads {
		n.conf.Log.Warn("lost the lead of the log")
		return nil
	}
	if err := n.settleTerm(ctx); err != nil { // the lead is lost again, or we stop
		n.conf.Log.Warn("catching up with the log", obs.Err, err)
		return nil
	}
	if err := n.fsm.stopped(); err != nil {
		return err
	}
	if n.conf.Wire != nil {
		n.conf.Log.Info("leads the group")
		n.reachable()
	}
	n.beReady.Do(func() { close(n.ready) })
	if n.conf.Wire != nil {
		n.caring = n.startCare(ctx)
	}
	return nil
}

// reachable tells the group where we are, if it has another address of us: we were
// alone until now, or have moved.
func (n *Node) reachable() {
	for _, m := range n.members() {
		if m.Name != n.conf.Name || m.Addr == n.conf.Wire.Addr() {
			continue
		}
		n.conf.Log.Info("we have another address than before", obs.Addr, n.conf.Wire.Addr())
		if err := n.raft.AddVoter(raft.ServerID(m.Name), raft.ServerAddress(n.conf.Wire.Addr()), 0, meetTimeout).Error(); err != nil {
			n.conf.Log.Error("telling the group our address", obs.Err, err)
		}
	}
}

// alive reports whether there is a leader, us or another.
func (n *Node) alive() bool {
	return n.leader() != ""
}

// leader is the address of the node that leads, "" if none is known.
func (n *Node) leader() string {
	leader, _ := n.raft.LeaderWithID()
	return string(leader)
}

// lead wakes who waits for a leader that may be dead.
type lead struct {
	mu      sync.Mutex
	addr    string
	changed chan struct{}
}

// now is told who leads now.
func (l *lead) now(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.addr == addr {
		return
	}
	l.addr = addr
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// until is closed when another node than now leads, or none.
func (l *lead) until() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// follows reports whether another node leads and we have applied what it had
// committed when we last heard of it.
func (n *Node) follows() bool {
	return n.raft.State() == raft.Follower && n.alive() && n.raft.CommitIndex() > 0 && n.raft.AppliedIndex() >= n.raft.CommitIndex()
}

// lonely reports whether this node, a member of a group, has met no leader since it
// began, and has applied what it knows.
func (n *Node) lonely(began time.Time) bool {
	return n.conf.Wire != nil && !n.alive() && time.Since(began) > lonelyAfter && n.raft.AppliedIndex() >= n.raft.CommitIndex()
}

// Ready is closed when the node has applied everything that was committed before,
// and it leads or follows a leader; or when it has met none for a while: then what it
// knows may be old, and nothing can be decided, as Status tells.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Yield gives the lead, if this node has it, to another voter, so that nobody waits
// for an election. Close does so, too.
func (n *Node) Yield() {
	voters := slices.DeleteFunc(n.members(), func(m Member) bool { return !m.Voter })
	if n.raft.State() != raft.Leader || len(voters) < 2 {
		return
	}
	gone := make(chan error, 1)
	go func() { gone <- n.raft.LeadershipTransfer().Error() }() // ends with Shutdown at the latest
	timer := time.NewTimer(yieldTimeout)
	defer timer.Stop()
	select {
	case err := <-gone:
		if err != nil {
			n.conf.Log.Warn("giving up the lead", obs.Err, err)
		}
	case <-timer.C:
	}
}
