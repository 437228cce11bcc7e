// Package raftnode runs the replicated state: hashicorp/raft (Ongaro and
// Ousterhout, "In Search of an Understandable Consensus Algorithm") over a
// raft-wal log and file snapshots in one directory. It is the only package that
// knows Raft; the others see Propose and the state.Machine.
//
// A node alone has a transport in memory and short timeouts: no peer can be slow
// to answer. A group of three or five talks over the sessions of package peers.
// What commits has been fsynced by a majority; who is killed loses nothing that
// Propose has reported.
package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// maxProposals and maxWaiting (bytes) bound the proposals of this process that
	// wait; who makes one more waits until there is room.
	maxProposals = 4096
	maxWaiting   = 64 << 20
	// maxCommand is the largest command: a script and its run, 4 MiB each, and
	// room for their company.
	maxCommand = 10 << 20
	// proposeTimeout is the default patience.
	proposeTimeout = 10 * time.Second
	// alone and among are how long a node waits to hear of a leader before it
	// stands for election, at most twice this: a lone one has nobody to hear.
	alone = 50 * time.Millisecond
	among = 500 * time.Millisecond
	// leaderless is how long a lone voter may go without leading before the
	// process gives up. It loses the lead when the log can't be written;
	// raft-wal recovers from a full disk only when it is opened again.
	leaderless = 30 * time.Second

	// commitEvery is how soon a follower hears of a commit when nothing follows it;
	// who proposes there waits for that. Twice as often would cost the CPU of an idle
	// group twice as much.
	commitEvery = 10 * time.Millisecond

	snapshotEvery     = 30 * time.Second
	snapshotThreshold = 8192
	trailingLogs      = 8192
	snapshotsKept     = 2
	nobody            = "local" // the address of a node that no other ever calls
)

// Wire is how coordinators reach each other; a *peers.Peers is one. Its addresses
// are host:port, as the group keeps them.
type Wire interface {
	Addr() string // of this coordinator
	Dial(addr string, timeout time.Duration) (net.Conn, error)
	Accept() (net.Conn, error)
	Call(ctx context.Context, addr string, c *pb.PeerCall) (*pb.PeerReply, error)
}

// Config is what a Node needs.
type Config struct {
	Dir     string // owned by this process alone while the node is open
	Name    string // of the coordinator; the directory belongs to it for good
	Machine *state.Machine
	// Wire reaches the other coordinators; nil: there will never be any. The
	// caller closes it after the node.
	Wire Wire
	// Expect is how many coordinators begin the group, this one among them;
	// they find each other through Join. 0 with a Join: this one joins a group
	// that exists. It matters only while the directory is empty.
	Expect int
	Join   []string // addresses of other coordinators
	// Applied is told of every command that was applied, in order, also of those
	// that are replayed at the start. It runs between two commands, so it must
	// not wait for anything. Nil means nobody asks.
	Applied func(state.Outcome)
	// Room tells how much of the disk that Dir is on is free, in bytes; default: asks
	// the system.
	Room func() (free, total uint64, err error)
	// CheckEvery is how many entries of the log lie between two checks of it and of the
	// state, at most; default 4096.
	CheckEvery uint64
	// StableAfter is how long one that has joined must keep up before it has a vote;
	// default 10 s. DeadAfter is how long one may be silent before it is taken out,
	// default 1 h.
	StableAfter, DeadAfter time.Duration
	// Patience bounds a proposal whose context has no deadline; default 10 s.
	Patience time.Duration
	Log      *slog.Logger
}

// Node is one open voter. All methods are safe for concurrent use.
type Node struct {
	conf    Config
	raft    *raft.Raft
	store   *store
	lock    *os.File
	fsm     *fsm
	batches batches
	slots   chan struct{} // one is held by who sends batches
	room    *semaphore.Weighted
	session string // of our proposals
	lastSeq atomic.Uint64
	ready   chan struct{}
	beReady sync.Once     // closes ready
	shut    chan struct{} // closed by Close
	once    sync.Once     // for Close
	err     error         // of Close

	wire *pushing // nil: alone
	met  meetings
	lead lead
	// ledTerm is the last term in which this node led and has committed something.
	ledTerm atomic.Uint64
	full    atomic.Pointer[fault.Error] // why nothing is committed here; nil: it is

	damage   atomic.Pointer[fault.Error] // what is wrong with the log on the disk; nil: nothing is known
	before   known                       // when we were started
	recalled time.Time                   // when Raft was told of it
	noted    known                       // of Run
	caring   *care                       // of Run: while this node leads a group
	asked    uint64                      // of Run: where the last check was asked for
	askedAt  time.Time
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
	if c.StableAfter <= 0 {
		c.StableAfter = stableAfter
	}
	if c.DeadAfter <= 0 {
		c.DeadAfter = deadAfter
	}
	if c.CheckEvery == 0 {
		c.CheckEvery = checkEvery
	}
	if c.Room == nil {
		c.Room = func() (free, total uint64, err error) { return roomIn(c.Dir) }
	}
	walDir := filepath.Join(c.Dir, "wal")
	if err := os.MkdirAll(walDir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	session := newSession(c.Name)
	n := &Node{
		conf: c, lock: lock, session: session, fsm: newFSM(c.Machine, session, c.Applied),
		slots: make(chan struct{}, inFlight), room: semaphore.NewWeighted(maxWaiting),
		ready: make(chan struct{}), shut: make(chan struct{}),
	}
	if err = n.open(walDir); err != nil {
		return nil, errors.Join(fault.Wrap(fault.KindOf(err), op, err), lock.Close())
	}
	return n, nil
}

// open opens the files, and starts Raft on them.
func (n *Node) open(walDir string) (err error) {
	if free, _, roomErr := n.conf.Room(); roomErr == nil && free < 2*segment {
		return fault.New(fault.Unavailable, "", fmt.Sprintf("the disk is full: %d MiB are free, the log needs %d MiB", free>>20, 2*segment>>20)).
			WithHint("make room on it, then start the coordinator again; nothing is lost")
	}
	log := newLogger(n.conf.Log)
	if n.store, err = openStore(walDir, log, n.checked); err != nil {
		return fault.New(fault.Garbage, "", err.Error()).WithHint(n.damagedHint())
	}
	if err = n.start(log); err != nil {
		return errors.Join(err, n.store.Close())
	}
	n.recall()
	return nil
}

func (n *Node) start(log *logger) error {
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(n.conf.Dir, snapshotsKept, log)
	if err != nil {
		return err
	}
	if err = whole(snapshots, n.store, n.vouched()); err != nil {
		return fault.New(fault.Garbage, "", err.Error()).WithHint(n.damagedHint())
	}
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(n.conf.Name)
	conf.Logger = log
	patience := n.patience()
	conf.HeartbeatTimeout, conf.ElectionTimeout = patience, patience
	conf.LeaderLeaseTimeout = patience / 2
	conf.BatchApplyCh = true
	conf.MaxAppendEntries = 512
	conf.SnapshotInterval, conf.SnapshotThreshold = snapshotEvery, snapshotThreshold
	conf.CommitTimeout = commitEvery
	conf.TrailingLogs = trailingLogs
	conf.NoLegacyTelemetry = true

	transport := n.transport(log)
	if err = n.bootstrap(conf, snapshots, transport); err != nil {
		return err
	}
	n.raft, err = raft.NewRaft(conf, n.fsm, n.store, n.store.wal, snapshots, transport)
	if err != nil {
		return err
	}
	if err := n.checkOwner(); err != nil {
		return errors.Join(err, n.raft.Shutdown().Error())
	}
	return nil
}

// vouched is how far the log was committed as this node knew. Others count on it: a
// member of a group that has less would have them lose what was decided. One alone goes
// on with what there is.
func (n *Node) vouched() uint64 {
	if n.conf.Wire == nil {
		return 0
	}
	return readKnown(n.conf.Dir).index
}

func (n *Node) patience() time.Duration {
	if n.conf.Wire == nil {
		return alone
	}
	return among
}

// bootstrap makes this node the one voter of a new directory, if it is to be
// alone. A group begins when its members have met.
func (n *Node) bootstrap(conf *raft.Config, snapshots raft.SnapshotStore, t raft.Transport) error {
	exists, err := raft.HasExistingState(n.store, n.store.wal, snapshots)
	if err != nil || exists || !n.begins() {
		return err
	}
	voters := raft.Configuration{Servers: []raft.Server{{ID: conf.LocalID, Address: t.LocalAddr()}}}
	return raft.BootstrapCluster(conf, n.store, n.store.wal, snapshots, t, voters)
}

// begins reports whether a new directory is the beginning of a group of one.
func (n *Node) begins() bool {
	return n.conf.Wire == nil || n.conf.Expect == 1 || n.conf.Expect == 0 && len(n.conf.Join) == 0
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
	if len(servers) == 0 && n.raft.LastIndex() == 0 && !n.begins() {
		return nil // it has yet to meet the others
	}
	if len(servers) == 0 { // no voter is the first entry of no log
		return fault.New(fault.Garbage, "", "it is damaged: its beginning is lost").WithHint(n.damagedHint())
	}
	e := fault.New(fault.Conflict, "check whose it is", fmt.Sprintf("it belongs to coordinator %v, not to %q", servers, n.conf.Name))
	return e.WithHint("start the coordinator under its old name, or choose another state directory")
}

// Leader is the State of the node that leads.
const Leader = "Leader"

// Status is where the log stands, for people.
type Status struct {
	State           string // "Leader", "Follower", "Candidate", "Shutdown"
	Commit, Applied uint64 // log indexes
	Leader          string // name; "" if none is known
	Members         []Member
	// Behind is how long ago the leader was last heard of; 0 for the leader, and if it
	// is not known.
	Behind time.Duration
	// Damage is what is wrong with the log on the disk, with a hint what to do about
	// it; nil if nothing is known.
	Damage error
}

// Member is a coordinator of the group.
type Member struct {
	Name, Addr string
	Voter      bool
}

// Status tells where the log stands.
func (n *Node) Status() Status {
	_, leader := n.raft.LeaderWithID()
	s := Status{
		State: n.raft.State().String(), Commit: n.raft.CommitIndex(), Applied: n.raft.AppliedIndex(),
		Leader: string(leader), Members: n.members(),
	}
	if at := n.heard(); s.State != raft.Leader.String() && !at.IsZero() {
		s.Behind = time.Since(at)
	}
	if e := n.damage.Load(); e != nil {
		s.Damage = e
	}
	return s
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
		n.Yield()
		close(n.shut)
		n.settle()
		errs := []error{n.raft.Shutdown().Error()}
		if n.wire != nil {
			errs = append(errs, n.wire.Close())
		}
		n.err = errors.Join(append(errs, n.store.Close(), n.lock.Close())...)
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
