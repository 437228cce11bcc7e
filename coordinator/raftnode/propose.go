package raftnode

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// againMin and againMax bound the wait before a proposal is made again.
const (
	againMin = 10 * time.Millisecond
	againMax = 200 * time.Millisecond
)

// errNoLeader is why nothing can be committed now.
var errNoLeader = errors.New("the coordinators have no leader")

// newSession names one life of a coordinator: no two have the same name.
func newSession(name string) string {
	var life [8]byte
	_, _ = rand.Read(life[:]) // never fails, see its documentation
	return name + "/" + hex.EncodeToString(life[:])
}

// Propose commits and applies c, whose version, number and time are set; another node
// that leads is asked to. It returns when this node has applied it. A nil error
// means that the command is in the log and on the disks of a majority;
// Outcome.Err says whether the state took it. An error of kind Timeout or
// Canceled leaves open whether it will be applied.
//
// Commands that are proposed meanwhile share an entry of the log. While the lead
// changes it asks again: the number sees to it that a command whose answer was lost is
// not applied twice.
func (n *Node) Propose(ctx context.Context, c *pb.Command) (state.Outcome, error) {
	const op = "commit"
	size := proto.Size(c)
	if size > maxCommand {
		return state.Outcome{}, fault.New(fault.TooLarge, op, fmt.Sprintf("%d bytes, the limit is %d", size, maxCommand))
	}
	if full := n.full.Load(); full != nil && n.store.refuses() { // what the others decide can't be applied here
		return state.Outcome{}, full
	}
	ctx, cancel := context.WithTimeout(ctx, n.conf.Patience)
	defer cancel()
	weight := max(int64(size), maxWaiting/maxProposals)
	if err := n.room.Acquire(ctx, weight); err != nil {
		return state.Outcome{}, proposeError(op, err)
	}
	defer n.room.Release(weight)
	c.Version, c.Session, c.Seq = state.Version, n.session, n.lastSeq.Add(1)
	data, err := proto.Marshal(c)
	if err != nil {
		return state.Outcome{}, fault.Wrap(fault.BadInput, op, err)
	}
	applied := n.fsm.await(c.GetSeq())
	defer n.fsm.forget(c.GetSeq())
	o, err := n.insist(ctx, data, applied)
	return o, proposeError(op, err)
}

// insist proposes a command until it was applied here.
func (n *Node) insist(ctx context.Context, data []byte, applied <-chan state.Outcome) (state.Outcome, error) {
	offered := false
	for {
		p := newProposal(ctx.Done(), false, data)
		n.propose(p)
		o, err := n.outcome(ctx, applied, p.answer, 0)
		switch {
		case errors.Is(err, errAnswered): // committed: it is on its way to us
			return n.outcome(ctx, applied, nil, 0)
		case err == nil || !n.again(err):
			return o, err
		}
		offered = offered || !errors.Is(err, errNoLeader)
		o, err = n.outcome(ctx, applied, nil, againMin+mathrand.N(againMax-againMin)) //nolint:gosec // jitter
		switch {
		case errors.Is(err, errAgain):
		case !offered && errors.Is(err, context.DeadlineExceeded):
			return o, errNoLeader
		default:
			return o, err
		}
	}
}

var (
	// errAgain says that the wait for an outcome is over and the proposal is to be
	// made again.
	errAgain = errors.New("propose again")
	// errAnswered says that a proposal was committed.
	errAnswered = errors.New("committed")
)

// outcome waits until a proposal was applied here or, if that comes first, its answer
// came; for at most wait, if that is not 0.
func (n *Node) outcome(ctx context.Context, applied <-chan state.Outcome, answered <-chan answer, wait time.Duration) (state.Outcome, error) {
	var enough <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case o := <-applied:
		return o, nil
	case a := <-answered:
		return state.Outcome{}, a.ended()
	case <-enough:
		return state.Outcome{}, errAgain
	case <-n.fsm.halted:
		return state.Outcome{}, n.fsm.stopped()
	case <-n.shut:
		return state.Outcome{}, raft.ErrRaftShutdown
	case <-ctx.Done():
	}
	select { // on a busy machine both have come before we look
	case o := <-applied:
		return o, nil
	case a := <-answered:
		return state.Outcome{}, a.ended()
	default:
		return state.Outcome{}, ctx.Err()
	}
}

// again reports whether a proposal that ended so is made again.
func (n *Node) again(err error) bool {
	if n.conf.Wire == nil {
		return false // nobody else will lead; what is wrong is our disk
	}
	for _, passing := range []error{
		errNoLeader, raft.ErrNotLeader, raft.ErrLeadershipLost, raft.ErrLeadershipTransferInProgress, raft.ErrAbortedByRestore,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	var remote *elsewhere
	return errors.As(err, &remote)
}

// elsewhere is a failure at the node that leads, or on the way to it.
type elsewhere struct{ error }

func (e *elsewhere) Unwrap() error { return e.error }

// forward has commands committed by the node that leads, and this one learn of it.
func (n *Node) forward(ctx context.Context, commands [][]byte) answer {
	asking, stop := n.whileItLeads(ctx)
	defer stop()
	addr, name := n.raft.LeaderWithID()
	if addr == "" {
		return answer{err: errNoLeader}
	}
	reply, err := n.conf.Wire.Call(asking, string(addr), &pb.PeerCall{Body: &pb.PeerCall_Commit{Commit: &pb.Commit{Commands: commands}}})
	if err == nil {
		err = failure(reply)
	}
	switch {
	case err == nil:
		at := place{reply.GetIndex(), reply.GetTerm(), raft.Server{ID: name, Address: addr}}
		n.learn(at)
		return answer{index: at.index, term: at.term}
	case reply.GetFinal() || reply.GetKind() != "" && !reply.GetUnsure() && !fault.Is(err, fault.Unavailable):
		return answer{err: err}
	default:
		return answer{err: &elsewhere{err}}
	}
}

// whileItLeads is ctx, until another node leads or this one is closed. The connection to
// a leader that was killed looks alive for seconds: the next one is known sooner.
func (n *Node) whileItLeads(ctx context.Context) (asking context.Context, stop context.CancelFunc) {
	changed := n.lead.until()
	asking, stop = context.WithCancel(ctx)
	go func() { // ends with asking
		select {
		case <-changed:
			stop()
		case <-n.shut:
			stop()
		case <-asking.Done():
		}
	}()
	return asking, stop
}

// commit commits commands as one entry, as the leader.
func (n *Node) commit(commands [][]byte) answer {
	if full := n.full.Load(); full != nil {
		return answer{err: full}
	}
	entry, err := state.Batch(n.clock(), commands)
	if err != nil {
		return answer{err: err}
	}
	future := n.raft.Apply(entry, n.conf.Patience)
	if err = future.Error(); err != nil {
		return answer{err: err}
	}
	r, ok := future.Response().(response)
	if !ok {
		return answer{err: fault.New(fault.Internal, "commit", fmt.Sprintf("the log answered %T", future.Response()))}
	}
	return answer{future.Index(), r.term, r.err}
}

// clock is our time, in milliseconds, and never before that of an earlier
// command: the leaders of a group may not have the same.
func (n *Node) clock() int64 { return max(time.Now().UnixMilli(), n.conf.Machine.Time()) }

// Barrier returns when everything that was committed before has been applied.
func (n *Node) Barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.conf.Patience)
	defer cancel()
	return n.barrier(ctx)
}

// barrier takes as long as it takes: a start may have thousands of commands to
// apply.
func (n *Node) barrier(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- n.raft.Barrier(0).Error() }() // ends with Shutdown at the latest
	select {
	case err := <-done:
		return proposeError("wait for the log", err)
	case <-ctx.Done():
		return proposeError("wait for the log", ctx.Err())
	}
}

func proposeError(op string, err error) error {
	known, isFault := errors.AsType[*fault.Error](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, raft.ErrEnqueueTimeout):
		return &fault.Error{Kind: fault.Timeout, Op: op, Err: errors.New("the log did not answer in time"), Hint: "see whether it was done before you try again"}
	case errors.Is(err, context.Canceled):
		return fault.Wrap(fault.Canceled, op, err)
	case errors.Is(err, errNoLeader):
		return &fault.Error{Kind: fault.Unavailable, Op: op, Err: err, Hint: "nothing was done; a majority of them must reach each other: chiba get coordinators"}
	case isFault:
		return known
	default: // not leading, shutting down, disk
		return &fault.Error{Kind: fault.Unavailable, Op: op, Err: err, Hint: "try again in a moment; the coordinator's log says more"}
	}
}
