package raftnode

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"sync/atomic"
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

// ids makes the ids of one process's proposals: no two processes make the same.
type ids struct {
	prefix string
	last   *atomic.Uint64
}

func newIDs(name string) ids {
	var boot [8]byte
	_, _ = rand.Read(boot[:]) // never fails, see its documentation
	return ids{prefix: name + "/" + hex.EncodeToString(boot[:]) + "/", last: &atomic.Uint64{}}
}

func (i ids) next() string { return i.prefix + strconv.FormatUint(i.last.Add(1), 36) }

// Propose commits and applies c, whose version, id and time it sets; another node
// that leads is asked to. It returns when this node has applied it. A nil error
// means that the command is in the log and on the disks of a majority;
// Outcome.Err says whether the state took it. An error of kind Timeout or
// Canceled leaves open whether it will be applied.
//
// While the lead changes it asks again: the id sees to it that a command whose
// answer was lost is not applied twice.
func (n *Node) Propose(ctx context.Context, c *pb.Command) (state.Outcome, error) {
	const op = "commit"
	c.Version, c.Id = state.Version, n.ids.next()
	if size := proto.Size(c); size > maxCommand {
		return state.Outcome{}, fault.New(fault.TooLarge, op, fmt.Sprintf("%d bytes, the limit is %d", size, maxCommand))
	}
	ctx, cancel := context.WithTimeout(ctx, n.conf.Patience)
	defer cancel()
	applied := n.fsm.await(c.GetId())
	defer n.fsm.forget(c.GetId())
	offered := false
	for {
		err := n.offer(ctx, c)
		offered = offered || !errors.Is(err, errNoLeader)
		if err != nil && !n.again(err) {
			return state.Outcome{}, proposeError(op, err)
		}
		wait := time.Duration(0) // committed: it is on its way to us
		if err != nil {
			wait = againMin + mathrand.N(againMax-againMin) //nolint:gosec // jitter
		}
		o, ended := n.outcome(ctx, applied, wait)
		switch {
		case errors.Is(ended, errAgain):
		case !offered && errors.Is(ended, context.DeadlineExceeded):
			return o, proposeError(op, errNoLeader)
		default:
			return o, proposeError(op, ended)
		}
	}
}

// errAgain says that the wait for an outcome is over and the proposal is to be
// made again.
var errAgain = errors.New("propose again")

// outcome waits until a proposal was applied here; for at most wait, if that is
// not 0.
func (n *Node) outcome(ctx context.Context, applied <-chan state.Outcome, wait time.Duration) (state.Outcome, error) {
	var enough <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case o := <-applied:
		return o, nil
	case <-enough:
		return state.Outcome{}, errAgain
	case <-n.fsm.halted:
		return state.Outcome{}, n.fsm.stopped()
	case <-n.shut:
		return state.Outcome{}, raft.ErrRaftShutdown
	case <-ctx.Done():
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

// offer has c committed by whoever leads.
func (n *Node) offer(ctx context.Context, c *pb.Command) error {
	if n.conf.Wire == nil || n.raft.State() == raft.Leader {
		_, err := n.commit(ctx, c)
		return err
	}
	changed := n.lead.until()
	leader := n.leader()
	if leader == "" {
		return errNoLeader
	}
	// The connection to a leader that was killed looks alive for seconds: the
	// next leader is known sooner.
	asking, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // ends with asking
		select {
		case <-changed:
			stop()
		case <-asking.Done():
		}
	}()
	data, err := proto.Marshal(c)
	if err != nil {
		return fault.Wrap(fault.BadInput, "commit", err)
	}
	reply, err := n.conf.Wire.Call(asking, leader, &pb.PeerCall{Body: &pb.PeerCall_Commit{Commit: &pb.Commit{Command: data}}})
	if err == nil {
		err = failure(reply)
		if err == nil || reply.GetFinal() || !reply.GetUnsure() && !fault.Is(err, fault.Unavailable) {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &elsewhere{err}
}

// commit commits c, as the leader, and returns its place in the log.
func (n *Node) commit(ctx context.Context, c *pb.Command) (index uint64, err error) {
	if full := n.full.Load(); full != nil {
		return 0, full
	}
	c.AtUnixMs = n.clock()
	data, err := proto.Marshal(c)
	if err != nil {
		return 0, fault.Wrap(fault.BadInput, "commit", err)
	}
	future, err := submit(ctx, n, func() raft.ApplyFuture { return n.raft.Apply(data, n.conf.Patience) })
	if err != nil {
		return 0, err
	}
	r, ok := future.Response().(response)
	if !ok {
		return 0, fault.New(fault.Internal, "commit", fmt.Sprintf("the log answered %T", future.Response()))
	}
	return future.Index(), r.err
}

// clock is our time, in milliseconds, and never before that of an earlier
// command: the leaders of a group may not have the same.
func (n *Node) clock() int64 { return max(time.Now().UnixMilli(), n.fsm.latest.Load()) }

// Barrier returns when everything that was committed before has been applied.
func (n *Node) Barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.conf.Patience)
	defer cancel()
	return n.barrier(ctx)
}

// barrier takes as long as it takes: a start may have thousands of commands to
// apply.
func (n *Node) barrier(ctx context.Context) error {
	_, err := submit(ctx, n, func() raft.Future { return n.raft.Barrier(0) })
	return proposeError("wait for the log", err)
}

// submit starts something in Raft and waits for its end, or that of ctx. The
// slot is free again when Raft has answered, not before.
func submit[F raft.Future](ctx context.Context, n *Node, start func() F) (F, error) {
	var none F
	select {
	case n.slots <- struct{}{}:
	case <-n.shut:
		return none, raft.ErrRaftShutdown
	case <-ctx.Done():
		return none, ctx.Err()
	}
	done := make(chan F, 1)
	go func() { // Close waits for it by its slot
		defer func() { <-n.slots }()
		f := start()
		_ = f.Error() // waits; the reader asks again
		done <- f
	}()
	select {
	case f := <-done:
		return f, f.Error()
	case <-ctx.Done():
		return none, ctx.Err()
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
