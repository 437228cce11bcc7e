package raftnode

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// pushTimeout is how long a follower waits for an entry of which it knows that it
	// is committed; the leader tells it soon after that anyway.
	pushTimeout = commitEvery
	pushEvery   = 500 * time.Microsecond
)

// pushing is a transport that can be told what the leader would say in its next
// message: how far the log is committed. Raft tells its followers so with what it
// sends next, or after a while. Who has the leader's answer to a proposal knows
// already.
type pushing struct {
	*raft.NetworkTransport
	heard chan raft.RPC
	stop  chan struct{}
	once  sync.Once // closes stop
	done  sync.WaitGroup
}

func newPushing(t *raft.NetworkTransport) *pushing {
	p := &pushing{NetworkTransport: t, heard: make(chan raft.RPC), stop: make(chan struct{})}
	p.done.Go(func() {
		for {
			select {
			case <-p.stop:
				return
			case rpc := <-t.Consumer():
				p.hand(rpc)
			}
		}
	})
	return p
}

// Consumer implements raft.Transport.
func (p *pushing) Consumer() <-chan raft.RPC { return p.heard }

// Close implements raft.WithClose. It may be called again.
func (p *pushing) Close() error {
	p.once.Do(func() { close(p.stop) })
	p.done.Wait()
	return p.NetworkTransport.Close()
}

func (p *pushing) hand(rpc raft.RPC) bool {
	select {
	case p.heard <- rpc:
		return true
	case <-p.stop:
		return false
	}
}

// place is an entry of the log that is committed, and who says so.
type place struct {
	index, term uint64
	by          raft.Server // the leader of that term; nobody: we know it ourselves
}

// push tells Raft, in a term, that the log is committed up to an entry. Raft checks that
// it has that very entry, as with every message of a leader.
func (p *pushing) push(at place, term uint64) bool {
	answer := make(chan raft.RPCResponse, 1)
	said := p.hand(raft.RPC{RespChan: answer, Command: &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(at.by.ID), Addr: p.EncodePeer(at.by.ID, at.by.Address)},
		Term:      term, PrevLogEntry: at.index, PrevLogTerm: at.term, LeaderCommitIndex: at.index,
	}})
	if !said {
		return false
	}
	select {
	case a := <-answer:
		reply, ok := a.Response.(*raft.AppendEntriesResponse)
		return ok && reply.Success
	case <-p.stop:
		return false
	}
}

// learn has this node apply the log up to an entry that the leader has committed, as
// soon as it has it.
func (n *Node) learn(at place) {
	if n.wire == nil || at.term == 0 {
		return
	}
	tick := time.NewTicker(pushEvery)
	defer tick.Stop()
	for over := time.Now().Add(pushTimeout); time.Now().Before(over); {
		if n.raft.CommitIndex() >= at.index || n.raft.LastIndex() >= at.index && n.wire.push(at, at.term) {
			return
		}
		select {
		case <-tick.C:
		case <-n.shut:
			return
		}
	}
}
