// Package coordinator composes the process that decides: the replicated state
// behind Raft, the hub that holds the agents' sessions, and the API. None of its
// children imports it.
package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/coordinator/api"
	"github.com/chiba-mesh/chiba/coordinator/cluster"
	"github.com/chiba-mesh/chiba/coordinator/feed"
	"github.com/chiba-mesh/chiba/coordinator/hub"
	"github.com/chiba-mesh/chiba/coordinator/peers"
	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/coordinator/stock"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/audit"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/sign"
)

const (
	// overdueEvery is how often runs are compared with their deadlines.
	overdueEvery = time.Second
	// grace is how long after a run's deadline a rack may still report: the
	// agents keep the same deadline, and their last results are on the way.
	grace = 15 * time.Second
)

// Config is what a Coordinator needs.
type Config struct {
	Name     string // default: that of the certificate, which it must be
	Dir      string // of the log; readable for its owner alone
	MeshAddr string // host:port (UDP) for agents; port 0 takes a free one
	// MeshTCPAddr is host:port (TCP) for agents at sites that block UDP; "": nowhere.
	MeshTCPAddr string
	APIAddr     string // host:port (TCP) for people and programs; likewise
	// PeerAddr is host:port (UDP) for other coordinators; "": there are none, and
	// never will be while it runs.
	PeerAddr string
	// Advertise is host:port at which the others reach PeerAddr; default: as bound.
	Advertise string
	// Join are the addresses of other coordinators; Expect is how many begin the
	// group, this one among them. Both matter only while Dir is empty.
	Join   []string
	Expect int

	Credentials trust.Credentials
	// Certs is where renewed credentials are written, in the files that
	// trust.Load reads; "": they are not renewed.
	Certs string
	// Authority is the CA of the site; nil: this coordinator renews nobody.
	Authority *ca.Site
	// Root is who signs the policy of authors; without one no script is taken.
	Root sign.Keys
	// Policy is a signed policy, which is put into force if it is newer than the
	// one that is.
	Policy []byte
	Build  string
	// Lease is how long a rack is its agent's without a word; default 30 s. A standby
	// takes no rack over before.
	Lease time.Duration
	Log   *slog.Logger
}

// Coordinator is one coordinator. All methods are safe for concurrent use.
type Coordinator struct {
	conf  Config
	node  *raftnode.Node
	hub   *hub.Hub
	api   *api.Server
	peers *peers.Peers // nil: alone
	stock *stock.Stock
	group *cluster.Cluster
	mesh  *mesh.Listener
	tcp   *mesh.TCPListener // nil: agents come by QUIC alone
	web   net.Listener
	mach  *state.Machine
	notes *audit.Notary // signs the head of the audit log
	feed  *feed.Feed
	trust *trust.Endpoint
	deny  trust.Denials
	ready chan struct{}
	close func() error
}

// New opens the log and the two sockets. Call Run, or Close.
func New(c Config) (*Coordinator, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	co := &Coordinator{conf: c, mach: state.New(), feed: feed.New(), ready: make(chan struct{})}
	co.close = sync.OnceValue(co.shut)
	var err error
	if co.notes, err = audit.OpenNotary(filepath.Join(c.Dir, "audit.key"), c.Credentials.Certificate); err != nil {
		return nil, err
	}
	co.trust = trust.NewEndpoint(c.Credentials, trust.Options{Denied: &co.deny})
	if err = co.keep(); err != nil {
		return nil, err
	}
	newcomers, err := co.newcomers()
	if err != nil {
		return nil, errors.Join(err, co.stock.Close())
	}
	co.hub = hub.New(hub.Config{
		Newcomers: newcomers, Stock: co.stock,
		Name: c.Name, Machine: co.mach, Commands: commands{co}, Watchers: co.feed, Log: c.Log,
		Endpoint: co.trust, Denied: &co.deny, Authority: co.authority(), Checkpoint: co.checkpoint,
		Lease: c.Lease, Others: others{co},
		Led: func() bool { return co.node.Status().Leader != "" },
	})
	if err = co.meet(); err != nil {
		return nil, errors.Join(err, co.stock.Close())
	}
	co.api = api.New(api.Config{
		Name: c.Name, Build: c.Build, Machine: co.mach, Commands: commands{co}, Agents: co.group, Group: co.group,
		Feed: co.feed, Stock: co.stock, Denied: &co.deny,
		Root: c.Root, Checkpoint: co.checkpoint, Site: co.site(), MeshAddr: co.MeshAddr,
		Raft: co.status, Log: c.Log,
	})
	if err := co.open(); err != nil {
		return nil, errors.Join(err, co.Close())
	}
	return co, nil
}

func (c *Config) check() error {
	const op = "start the coordinator"
	if c.Log == nil || c.Dir == "" || c.Credentials.Certificate.Leaf == nil {
		return fault.New(fault.Internal, op, "directory, credentials and log are needed")
	}
	id, err := trust.IdentityOf(c.Credentials.Certificate.Leaf)
	if err != nil {
		return err
	}
	if c.Name == "" {
		c.Name = id.Name
	}
	if id.Role != trust.Coordinator || id.Name != c.Name {
		return fault.New(fault.BadInput, op, "its certificate is of "+id.String()+", not of coordinator "+c.Name).
			WithHint("give it a certificate of that role and name")
	}
	if c.PeerAddr == "" && (c.Advertise != "" || len(c.Join) > 0 || c.Expect > 1) {
		return fault.New(fault.BadInput, op, "it shall be one of several coordinators, and has no address for the others").
			WithHint("add --peer-addr :7444")
	}
	return c.reachable()
}

// LoadAuthors reads Root and Policy from the files in dir, if they are there.
func (c *Config) LoadAuthors(dir string) (err error) {
	path := filepath.Join(dir, sign.RootFile)
	if _, err = os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if c.Root, err = sign.LoadRoot(path); err != nil {
		return err
	}
	c.Policy, err = os.ReadFile(filepath.Join(dir, sign.PolicyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fault.Wrap(fault.BadInput, "read the policy of authors", err)
}

func (c *Coordinator) open() error {
	key, err := resetKey(filepath.Join(c.conf.Dir, "reset.key"))
	if err != nil {
		return err
	}
	c.node, err = raftnode.Open(raftnode.Config{
		Dir: filepath.Join(c.conf.Dir, "raft"), Name: c.conf.Name, Machine: c.mach, Applied: c.applied, Log: c.conf.Log,
		Wire: c.wire(), Join: c.conf.Join, Expect: c.conf.Expect,
	})
	if err != nil {
		return err
	}
	c.mesh, err = c.listen(key)
	if err != nil {
		return taken(err, "--mesh-addr")
	}
	if c.conf.MeshTCPAddr != "" {
		if c.tcp, err = mesh.ListenTCP(c.conf.MeshTCPAddr, c.trust.Server(trust.Agent)); err != nil {
			return taken(err, "--mesh-tcp-addr")
		}
	}
	c.web, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", c.conf.APIAddr)
	return taken(fault.Wrap(fault.Unavailable, "listen for the API at "+c.conf.APIAddr, err), "--api-addr")
}

// taken adds to an error of listening what to do if another program does.
func taken(err error, flag string) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	return &fault.Error{Kind: fault.KindOf(err), Err: err, Hint: "does another coordinator run here? else choose another port with " + flag}
}

// resetKey is kept, so that a restarted process ends the connections of the one
// before at once.
func resetKey(path string) (*[32]byte, error) {
	const op = "keep the reset key"
	var key [32]byte
	data, err := os.ReadFile(path)
	if err == nil && len(data) == len(key) {
		copy(key[:], data)
		return &key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	_, _ = rand.Read(key[:]) // never fails, see its documentation
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	return &key, fault.Wrap(fault.Unavailable, op, os.WriteFile(path, key[:], 0o600))
}

// checkpoint is the head of the audit log, signed, with the proof that it goes on
// from its first size records.
func (c *Coordinator) checkpoint(size int64) (*pb.Checkpoint, error) {
	head, consistency, err := c.mach.AuditHead(size)
	if err != nil {
		return nil, err
	}
	note, proof, err := c.notes.Sign(head)
	return &pb.Checkpoint{Note: note, Proof: proof, Consistency: consistency, From: size}, err
}

// others are the other coordinators, once there is a group.
type others struct{ *Coordinator }

func (o others) InTouch() bool { return o.group.InTouch() }

func (o others) Lent(ctx context.Context, agent string) (time.Time, bool) {
	return o.group.Lent(ctx, agent)
}

// applied runs between two commands: none of the three waits.
func (c *Coordinator) applied(o state.Outcome) {
	if o.Denied {
		c.deny.Set(wire.FromDenials(c.mach.Denied()))
		c.api.Denied()
		if c.peers != nil {
			c.peers.Cut()
		}
	}
	c.hub.Applied(o)
	c.feed.Publish(o.Events...)
	c.feed.Touch(o.Runs...)
}

func (c *Coordinator) status() (name string, commit, applied uint64) {
	s := c.node.Status()
	return s.State, s.Commit, s.Applied
}

// doors are where agents come in.
func (c *Coordinator) doors() []hub.Listener {
	if c.tcp == nil {
		return []hub.Listener{c.mesh}
	}
	return []hub.Listener{c.mesh, c.tcp}
}

// MeshTCPAddr is where agents dial that can't by QUIC; "" if they can't here.
func (c *Coordinator) MeshTCPAddr() string {
	if c.tcp == nil {
		return ""
	}
	return c.tcp.Addr()
}

// MeshAddr is where agents dial.
func (c *Coordinator) MeshAddr() string { return c.mesh.Addr() }

// APIAddr is where people call.
func (c *Coordinator) APIAddr() string { return c.web.Addr().String() }

// Ready is closed when agents and people are served.
func (c *Coordinator) Ready() <-chan struct{} { return c.ready }

// Run serves until ctx ends, and closes everything. An error means that the
// process can't go on.
func (c *Coordinator) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.node.Run(ctx) })
	served := c.serveOthers(group, ctx)
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-c.node.Ready():
		}
		// What a snapshot has restored was never applied here.
		c.deny.Set(wire.FromDenials(c.mach.Denied()))
		group.Go(func() error { return c.renew(ctx) })
		group.Go(func() error { return c.hub.Run(ctx, c.doors()...) })
		group.Go(func() error { return c.api.Run(ctx, c.web, c.trust.Server(trust.Operator)) })
		group.Go(func() error { return c.expire(ctx) })
		group.Go(func() error { return c.turnKeys(ctx) })
		group.Go(func() error { return c.stock.Run(ctx) })
		group.Go(func() error { return c.group.Run(ctx) })
		c.introduce(ctx)
		close(c.ready)
		c.conf.Log.Info("coordinator ready", "mesh", c.MeshAddr(), "api", c.APIAddr())
		return nil
	})
	return errors.Join(group.Wait(), c.Close(), <-served)
}

// introduce proposes the policy that we were given, if it is newer than the one in
// force.
func (c *Coordinator) introduce(ctx context.Context) {
	if len(c.conf.Policy) == 0 {
		return
	}
	policy, err := c.conf.Root.Policy(c.conf.Policy)
	if err == nil {
		if _, have := c.mach.Policy(); policy.Version <= have {
			return
		}
		var o state.Outcome
		o, err = c.node.Propose(ctx, &pb.Command{Body: &pb.Command_PutPolicy{PutPolicy: &pb.PutPolicy{Version: policy.Version, Envelope: c.conf.Policy}}})
		err = errors.Join(err, o.Err)
	}
	if err != nil && ctx.Err() == nil && !fault.Is(err, fault.Conflict) { // another coordinator was quicker
		c.conf.Log.Error("the policy of authors could not be set", obs.Err, err)
	}
}

// expire ends the runs whose racks have not answered by the deadline.
func (c *Coordinator) expire(ctx context.Context) error {
	ticker := time.NewTicker(overdueEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			if !c.node.Leads() {
				continue
			}
			c.endOverdue(ctx, now.Add(-grace))
			c.tellCuts(ctx)
			c.rollOn(ctx, now)
		}
	}
}

// endOverdue ends the runs that should have ended by then.
func (c *Coordinator) endOverdue(ctx context.Context, then time.Time) {
	for _, id := range c.mach.Overdue(then.UnixMilli()) {
		o, err := c.node.Propose(ctx, &pb.Command{Body: &pb.Command_CancelRun{CancelRun: &pb.CancelRun{Id: id, By: "deadline"}}})
		if err = errors.Join(err, o.Err); err != nil && !fault.Is(err, fault.Conflict) { // it may just have ended
			c.conf.Log.Warn("ending an overdue run", obs.Run, id, obs.Err, err)
		}
	}
}

// tellCuts tells the runs in waves which of the racks that they wait for reach no
// coordinator, if those are others than before.
func (c *Coordinator) tellCuts(ctx context.Context) {
	for _, run := range c.mach.Awaited() {
		gone := slices.DeleteFunc(slices.Concat(run.Racks, run.Gone), c.group.Connected)
		slices.Sort(gone)
		if gone = slices.Compact(gone); slices.Equal(gone, run.Gone) {
			continue
		}
		o, err := c.node.Propose(ctx, &pb.Command{Body: &pb.Command_SteerRun{SteerRun: &pb.SteerRun{Id: run.Run, Act: state.CutOff, Racks: gone}}})
		if err = errors.Join(err, o.Err); err != nil && !fault.Is(err, fault.Conflict) { // it may just have ended
			c.conf.Log.Warn("telling a run which racks are cut off", obs.Run, run.Run, obs.Err, err)
		}
	}
}

// rollOn has the runs in waves go on whose time has come.
func (c *Coordinator) rollOn(ctx context.Context, now time.Time) {
	for _, id := range c.mach.Due(now.UnixMilli()) {
		o, err := c.node.Propose(ctx, &pb.Command{Body: &pb.Command_SteerRun{SteerRun: &pb.SteerRun{Id: id}}})
		if err = errors.Join(err, o.Err); err != nil && !fault.Is(err, fault.Conflict) { // it may just have ended
			c.conf.Log.Warn("going on with a run", obs.Run, id, obs.Err, err)
		}
	}
}

// Close closes what New has opened. Run does so itself; Close may be called
// again.
func (c *Coordinator) Close() error { return c.close() }

func (c *Coordinator) shut() error {
	var errs []error
	if c.web != nil {
		if err := c.web.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if c.mesh != nil {
		errs = append(errs, c.mesh.Close())
	}
	if c.tcp != nil {
		errs = append(errs, c.tcp.Close())
	}
	if c.node != nil {
		errs = append(errs, c.node.Close())
	}
	if c.peers != nil { // after the node, which says goodbye through them
		errs = append(errs, c.peers.Close())
	}
	return errors.Join(append(errs, c.stock.Close())...)
}
