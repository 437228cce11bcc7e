// Package raftnode runs the replicated state: hashicorp/raft (Ongaro and
// Ousterhout, "In Search of an Understandable Consensus Algorithm") over a
// raft-wal log and file snapshots in one directory. It is the only package that
// knows Raft; the others see Propose and the state.Machine.
//
// There is one voter now, so the transport is in memory and the timeouts are
// short: no peer can be slow to answer. What commits has been fsynced; a process
// that is killed loses nothing that Propose has reported.
package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/boltfile"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// inFlight bounds the proposals that wait for the disk: more of them make
	// each one slower and none of them sooner.
	inFlight = 256
	// maxCommand is the largest command: a script and its run, 4 MiB each, and
	// room for their company.
	maxCommand = 10 << 20
	// proposeTimeout is the default patience.
	proposeTimeout = 10 * time.Second
	// election is how long a start waits before it votes for itself, at most
	// twice this.
	election = 50 * time.Millisecond
	// leaderless is how long a lone voter may go without leading before the
	// process gives up. It loses the lead when the log can't be written;
	// raft-wal recovers from a full disk only when it is opened again.
	leaderless = 30 * time.Second

	snapshotEvery     = 30 * time.Second
	snapshotThreshold = 8192
	trailingLogs      = 8192
	snapshotsKept     = 2
	clusterAddr       = raft.ServerAddress("local")
)

// Config is what a Node needs.
type Config struct {
	Dir     string // owned by this process alone while the node is open
	Name    string // of the coordinator; the directory belongs to it for good
	Machine *state.Machine
	// Applied is told of every command that was applied, in order, also of those
	// that are replayed at the start. It runs between two commands, so it must
	// not wait for anything. Nil means nobody asks.
	Applied func(state.Outcome)
	// Patience bounds a proposal whose context has no deadline; default 10 s.
	Patience time.Duration
	Log      *slog.Logger
}

// Node is one open voter. All methods are safe for concurrent use.
type Node struct {
	conf  Config
	raft  *raft.Raft
	wal   *wal.WAL
	lock  *os.File
	fsm   *fsm
	slots chan struct{} // one is held by each proposal until Raft has answered
	ready chan struct{}
	led   sync.Once     // closes ready
	shut  chan struct{} // closed by Close
	once  sync.Once     // for Close
	err   error         // of Close
}

// Open opens the directory, creating it on first use, and starts the voter. It
// does not wait until the node leads: see Ready.
func Open(c Config) (*Node, error) {
	op := "open the log in " + c.Dir
	if c.Name == "" || c.Machine == nil || c.Log == nil {
		return nil, fault.New(fault.Internal, op, "name, machine and log are needed")
	}
	if c.Applied == nil {
		c.Applied = func(state.Outcome) {}
	}
	if c.Patience <= 0 {
		c.Patience = proposeTimeout
	}
	walDir := filepath.Join(c.Dir, "wal")
	if err := os.MkdirAll(walDir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	log := newLogger(c.Log)
	store, err := openWAL(walDir, log)
	if err != nil {
		return nil, errors.Join(lock.Close(), fault.New(fault.Garbage, op, err.Error()).
			WithHint(damagedHint))
	}
	n := &Node{
		conf: c, wal: store, lock: lock, fsm: newFSM(c.Machine, c.Applied),
		slots: make(chan struct{}, inFlight), ready: make(chan struct{}), shut: make(chan struct{}),
	}
	if err := n.start(log); err != nil {
		return nil, errors.Join(fault.Wrap(fault.KindOf(err), op, err), store.Close(), lock.Close())
	}
	return n, nil
}

const damagedHint = "restore the directory from a copy; or move it away to begin with an empty log, and apply the scripts again"

func openWAL(dir string, log *logger) (*wal.WAL, error) {
	if err := boltfile.Whole(filepath.Join(dir, "wal-meta.db")); err != nil {
		return nil, err
	}
	return wal.Open(dir, wal.WithLogger(log))
}

func (n *Node) start(log *logger) error {
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(n.conf.Dir, snapshotsKept, log)
	if err != nil {
		return err
	}
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(n.conf.Name)
	conf.Logger = log
	conf.HeartbeatTimeout, conf.ElectionTimeout = election, election
	conf.LeaderLeaseTimeout = election / 2
	conf.BatchApplyCh = true
	conf.MaxAppendEntries = 512
	conf.SnapshotInterval, conf.SnapshotThreshold = snapshotEvery, snapshotThreshold
	conf.TrailingLogs = trailingLogs
	conf.NoLegacyTelemetry = true

	_, transport := raft.NewInmemTransport(clusterAddr)
	if err = n.bootstrap(conf, snapshots, transport); err != nil {
		return err
	}
	n.raft, err = raft.NewRaft(conf, n.fsm, n.wal, n.wal, snapshots, transport)
	if err != nil {
		return err
	}
	if err := n.checkOwner(); err != nil {
		return errors.Join(err, n.raft.Shutdown().Error())
	}
	return nil
}

// bootstrap makes this node the one voter of a new directory.
func (n *Node) bootstrap(conf *raft.Config, snapshots raft.SnapshotStore, t raft.Transport) error {
	exists, err := raft.HasExistingState(n.wal, n.wal, snapshots)
	if err != nil || exists {
		return err
	}
	voters := raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: clusterAddr}}}
	return raft.BootstrapCluster(conf, n.wal, n.wal, snapshots, t, voters)
}

// checkOwner refuses another coordinator's directory: the node would be no voter
// in it and wait for a leader for ever.
func (n *Node) checkOwner() error {
	configuration := n.raft.GetConfiguration()
	if err := configuration.Error(); err != nil {
		return err
	}
	servers := configuration.Configuration().Servers
	for _, s := range servers {
		if s.ID == raft.ServerID(n.conf.Name) {
			return nil
		}
	}
	if len(servers) == 0 { // no voter is the first entry of no log
		return fault.New(fault.Garbage, "", "it is damaged: its beginning is lost").WithHint(damagedHint)
	}
	e := fault.New(fault.Conflict, "check whose it is", fmt.Sprintf("it belongs to coordinator %v, not to %q", servers, n.conf.Name))
	return e.WithHint("start the coordinator under its old name, or choose another state directory")
}

// Run sees to it that the node leads, until ctx ends. An error means that the
// process must end: a command can't be applied, or the log can't be written.
func (n *Node) Run(ctx context.Context) error {
	give := time.NewTimer(leaderless)
	defer give.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-n.fsm.failed:
			return err
		case leads := <-n.raft.LeaderCh():
			if !leads {
				n.conf.Log.Warn("lost the lead of the log")
				give.Reset(leaderless)
				continue
			}
			give.Stop()
			if err := n.barrier(ctx); err != nil { // the lead is lost again, or we stop
				n.conf.Log.Warn("catching up with the log", obs.Err, err)
				continue
			}
			if err := n.fsm.stopped(); err != nil {
				return err
			}
			n.led.Do(func() { close(n.ready) })
		case <-give.C:
			return fault.New(fault.Unavailable, "write the log in "+n.conf.Dir, fmt.Sprintf("the coordinator has not led for %s", leaderless)).
				WithHint("see whether the disk is full or broken, then start the coordinator again")
		}
	}
}

// Ready is closed when the node leads for the first time and has applied
// everything that was committed before.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Propose commits and applies c, whose version and time it sets. A nil error
// means that the command is in the log and on disk; Outcome.Err says whether the
// state took it. An error of kind Timeout or Canceled leaves open whether it
// will be applied.
func (n *Node) Propose(ctx context.Context, c *pb.Command) (state.Outcome, error) {
	const op = "commit"
	c.Version, c.AtUnixMs = state.Version, time.Now().UnixMilli()
	data, err := proto.Marshal(c)
	if err != nil {
		return state.Outcome{}, fault.Wrap(fault.BadInput, op, err)
	}
	if len(data) > maxCommand {
		return state.Outcome{}, fault.New(fault.TooLarge, op, fmt.Sprintf("%d bytes, the limit is %d", len(data), maxCommand))
	}
	ctx, cancel := context.WithTimeout(ctx, n.conf.Patience)
	defer cancel()
	future, err := submit(ctx, n, func() raft.ApplyFuture { return n.raft.Apply(data, n.conf.Patience) })
	if err != nil {
		return state.Outcome{}, proposeError(op, err)
	}
	r, ok := future.Response().(response)
	if !ok {
		return state.Outcome{}, fault.New(fault.Internal, op, fmt.Sprintf("the log answered %T", future.Response()))
	}
	return r.outcome, r.err
}

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
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, raft.ErrEnqueueTimeout):
		return &fault.Error{Kind: fault.Timeout, Op: op, Err: errors.New("the log did not answer in time"), Hint: "see whether it was done before you try again"}
	case errors.Is(err, context.Canceled):
		return fault.Wrap(fault.Canceled, op, err)
	default: // not leading, shutting down, disk
		return &fault.Error{Kind: fault.Unavailable, Op: op, Err: err, Hint: "try again in a moment; the coordinator's log says more"}
	}
}

// Status is where the log stands, for people.
type Status struct {
	State           string // "Leader", "Follower", "Candidate", "Shutdown"
	Commit, Applied uint64 // log indexes
}

// Status tells where the log stands.
func (n *Node) Status() Status {
	return Status{State: n.raft.State().String(), Commit: n.raft.CommitIndex(), Applied: n.raft.AppliedIndex()}
}

// Snapshot writes a snapshot now.
func (n *Node) Snapshot() error {
	err := n.raft.Snapshot().Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return fault.Wrap(fault.Unavailable, "write snapshot", err)
}

// Close lets proposals end, stops the voter and closes its files. Later
// proposals fail. It may be called again.
func (n *Node) Close() error {
	n.once.Do(func() {
		close(n.shut)
		n.settle()
		n.err = errors.Join(n.raft.Shutdown().Error(), n.wal.Close(), n.lock.Close())
	})
	return n.err
}

// settle waits until Raft has answered every proposal: it forgets what it has
// queued when it is shut down. A disk that hangs does not hold the process.
func (n *Node) settle() {
	enough := time.NewTimer(proposeTimeout)
	defer enough.Stop()
	for range inFlight {
		select {
		case n.slots <- struct{}{}:
		case <-enough.C:
			return
		}
	}
}
