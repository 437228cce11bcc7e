package raftnode

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"time"

	"github.com/hashicorp/raft"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// CatchUp returns when this node has applied everything that was committed, by whichever
// node, before the call. It costs a question to the leader and, if verified, the leader's
// to a majority whether it still leads: else one that was deposed a moment ago may
// answer. While the lead changes it asks again, if verified; else it returns at once what
// is wrong.
func (n *Node) CatchUp(ctx context.Context, verified bool) error {
	const op = "catch up with the other coordinators"
	ctx, cancel := context.WithTimeout(ctx, n.conf.Patience)
	defer cancel()
	for {
		at, err := n.readIndex(ctx, verified)
		if err == nil {
			n.learn(at)
			return proposeError(op, n.reach(ctx, at.index))
		}
		if !verified || !n.again(err) {
			return proposeError(op, err)
		}
		_, ended := n.outcome(ctx, nil, nil, againMin+mathrand.N(againMax-againMin)) //nolint:gosec // jitter
		if errors.Is(ended, context.DeadlineExceeded) {
			return proposeError(op, err)
		}
		if !errors.Is(ended, errAgain) {
			return proposeError(op, ended)
		}
	}
}

// readIndex is how far the log is committed, as the leader says.
func (n *Node) readIndex(ctx context.Context, verified bool) (place, error) {
	if n.conf.Wire == nil || n.Leads() {
		return n.leaderIndex(ctx, verified)
	}
	asking, stop := n.whileItLeads(ctx)
	defer stop()
	addr, name := n.raft.LeaderWithID()
	if addr == "" {
		return place{}, errNoLeader
	}
	reply, err := n.conf.Wire.Call(asking, string(addr), &pb.PeerCall{Body: &pb.PeerCall_ReadIndex{ReadIndex: &pb.ReadIndex{Verified: verified}}})
	if err = errors.Join(err, failure(reply)); err != nil {
		return place{}, &elsewhere{err}
	}
	return place{reply.GetIndex(), reply.GetTerm(), raft.Server{ID: name, Address: addr}}, nil
}

// leaderIndex is readIndex for the leader (Ongaro, "Consensus: Bridging Theory and
// Practice", 6.4): a leader knows what is committed when it has committed something in
// its own term, and its index counts if it still led after it was read.
func (n *Node) leaderIndex(ctx context.Context, verified bool) (place, error) {
	term := n.raft.CurrentTerm()
	if n.ledTerm.Load() != term {
		if err := n.settleTerm(ctx); err != nil {
			return place{}, err
		}
	}
	at := place{index: n.raft.CommitIndex(), term: term}
	if verified {
		if err := n.raft.VerifyLeader().Error(); err != nil {
			return place{}, err
		}
	}
	if !n.Leads() || n.raft.CurrentTerm() != term {
		return place{}, raft.ErrNotLeader
	}
	return at, nil
}

// settleTerm commits something in the term of this leader, and applies all before it.
func (n *Node) settleTerm(ctx context.Context) error {
	term := n.raft.CurrentTerm()
	if err := n.barrier(ctx); err != nil {
		return err
	}
	if n.raft.CurrentTerm() != term {
		return raft.ErrNotLeader
	}
	n.ledTerm.Store(term)
	return nil
}

func (n *Node) answerIndex(ctx context.Context, from string, r *pb.ReadIndex) *pb.PeerReply {
	const op = "tell how far the log is committed"
	if !n.Member(from) {
		return replyOf(fault.New(fault.Denied, op, from+" is no member of the group"))
	}
	if !n.Leads() {
		return replyOf(proposeError(op, raft.ErrNotLeader))
	}
	at, err := n.leaderIndex(ctx, r.GetVerified())
	reply := replyOf(proposeError(op, err))
	reply.Index, reply.Term = at.index, at.term
	return reply
}

// reach waits until everything up to an index was applied here.
func (n *Node) reach(ctx context.Context, index uint64) error {
	if n.reached(index) {
		return nil
	}
	tick := time.NewTicker(pushEvery)
	defer tick.Stop()
	for !n.reached(index) {
		select {
		case <-tick.C:
		case <-n.fsm.halted:
			return n.fsm.stopped()
		case <-n.shut:
			return raft.ErrRaftShutdown
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// reached reports whether every command up to an index was applied. Raft counts what it
// has only handed on, and the machine only commands: so the entries between the two are
// looked at.
func (n *Node) reached(index uint64) bool {
	if n.raft.CommitIndex() < index {
		return false
	}
	applied := n.fsm.hashes.applied()
	for ; index > applied; index-- {
		var l raft.Log
		if err := n.store.GetLog(index, &l); errors.Is(err, raft.ErrLogNotFound) {
			return true // a snapshot has it
		} else if err != nil || l.Type == raft.LogCommand {
			return false
		}
	}
	return true
}

// Leads reports whether this node leads, as far as it knows.
func (n *Node) Leads() bool { return n.raft.State() == raft.Leader }
