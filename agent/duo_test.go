package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/sign/signtest"
)

// duo is a rack with two agents as their processes make them: real lanes to a
// simulated BMC, a real channel between the two. Only the coordinators are the test's.
type duo struct {
	t       *testing.T
	authors *signtest.Authors
	desk    *desk
	bmc     *bmcsim.BMC
	a, b    *mate
	mu      sync.Mutex
	started []*pb.Run
	policy  []byte
	gate    *gate
}

// gate holds back what a test wants held back on its way to the BMC.
type gate struct {
	mu   sync.Mutex
	hold func(*http.Request) bool
	open chan struct{}
	held chan struct{} // closed when something is
}

func (g *gate) around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		open := g.open
		if g.hold == nil || !g.hold(r) {
			open = nil
		} else {
			g.hold = nil
			close(g.held)
		}
		g.mu.Unlock()
		if open != nil {
			<-open
		}
		next.ServeHTTP(w, r)
	})
}

// shut holds back the first request that is such, until open is called; held is closed
// when it is there.
func (g *gate) shut(such func(*http.Request) bool) (held <-chan struct{}, open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold, g.open, g.held = such, make(chan struct{}), make(chan struct{})
	return g.held, sync.OnceFunc(func() { close(g.open) })
}

func isWrite(r *http.Request) bool {
	return r.Method == http.MethodPatch && strings.HasPrefix(r.URL.Path, "/redfish/v1/Systems")
}

// mate is one agent of the rack. Its state outlives its processes.
type mate struct {
	*duo
	cfg   Config
	logs  lockedBuffer
	cut   atomic.Bool // from the other one
	agent *Agent
	dead  bool
	stop  func()
}

// desk is the coordinators as far as a rack's owner goes.
type desk struct {
	mu     sync.Mutex
	owner  owner.Claim
	grants uint64
	lent   time.Time      // when the owner last got its lease
	away   map[*mate]bool // who does not reach it
}

const deskLease = 2 * time.Second

func newDuo(t *testing.T, sim bmcsim.Config) *duo {
	t.Helper()
	d := &duo{t: t, desk: &desk{away: map[*mate]bool{}}, gate: &gate{}}
	sim.Around = d.gate.around
	b, base := bmctest.Start(t, sim)
	d.bmc = b
	dir := t.TempDir()
	site, err := ca.Open(filepath.Join(dir, "ca"), "s1")
	if err != nil {
		t.Fatal(err)
	}
	if d.authors, err = signtest.New(dir); err != nil {
		t.Fatal(err)
	}
	d.policy = d.authors.Signed(1, 1)
	atA, atB := freeAddr(t), freeAddr(t)
	d.a = d.mate(site, "a1", Pair{Name: "b1", Listen: atA, Peer: atB})
	d.b = d.mate(site, "b1", Pair{Name: "a1", Listen: atB, Peer: atA})
	for _, m := range []*mate{d.a, d.b} {
		m.cfg.Nodes = []Entry{{Name: "n1", Pin: b.Pin(), Address: strings.TrimPrefix(base, "https://"), TakeOver: true}}
	}
	return d
}

func (d *duo) mate(site *ca.Site, name fleet.AgentName, pair Pair) *mate {
	d.t.Helper()
	pair.Every, pair.Patience = 500*time.Millisecond, 2*time.Second
	m := &mate{duo: d, stop: func() {}}
	m.cfg = Config{
		Name: name, Rack: "r1", Site: "s1", State: d.t.TempDir(), Coordinators: []string{"127.0.0.1:1"}, NoMDNS: true, Socket: noSocket,
		Login: Login{Factory: FactoryOpenBMC}, Log: slog.New(slog.NewTextHandler(&m.logs, nil)), Pair: pair,
	}
	if err := site.Ensure(m.cfg.State, trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: "r1"}, Name: string(name)}); err != nil {
		d.t.Fatal(err)
	}
	if err := d.authors.Install(m.cfg.State); err != nil {
		d.t.Fatal(err)
	}
	return m
}

// start begins a process.
func (m *mate) start() {
	m.t.Helper()
	a, err := New(m.cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.agent, m.dead = a, false
	a.link = &deskLink{desk: m.desk, mate: m, agent: a, pulls: make(chan struct{}, 1)}
	a.pair = severed{a.pair, &m.cut}
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	var once sync.Once
	m.stop = func() {
		once.Do(func() {
			m.dead = true
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				m.t.Errorf("%s ended with %v", m.cfg.Name, err)
			}
		})
	}
	m.t.Cleanup(m.stop)
	m.told()
}

// told has the agent hear what the coordinators want.
func (m *mate) told() {
	m.t.Helper()
	m.mu.Lock()
	runs := slices.Clone(m.started)
	m.mu.Unlock()
	err := m.agent.Desired(m.t.Context(), &pb.Desired{Revision: 1, Policy: m.policy, Runs: runs})
	if err != nil {
		m.t.Fatal(err)
	}
}

// run has the coordinators start a run, and tell whoever they reach.
func (d *duo) run(id, source string) {
	d.t.Helper()
	o := d.authors.Order(order.Run, "s", source)
	d.mu.Lock()
	d.started = append(d.started, &pb.Run{
		Id: id, Script: "s", File: o.File, Source: []byte(source), Envelope: d.authors.Sign(o), Version: o.Version, Digest: o.Digest, StartedUnixMs: 1,
	})
	d.mu.Unlock()
	for _, m := range []*mate{d.a, d.b} {
		if m.agent != nil && !m.dead && !d.desk.isAway(m) {
			m.told()
		}
	}
}

// until waits until what it asks is true.
func (d *duo) until(what string, true func() bool) {
	d.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	patience := time.After(d.patience())
	for !true() {
		select {
		case <-tick.C:
		case <-patience:
			d.t.Fatalf("it never comes about that %s\n--- a\n%s\n--- b\n%s", what, d.a.logs.String(), d.b.logs.String())
		}
	}
}

func (m *mate) role() owner.Role { return m.agent.office.now().Role }

// welcome starts both, the first of them as the owner, and returns when the BMC has a
// place for either.
func (d *duo) welcome() {
	d.t.Helper()
	d.a.start()
	d.until("a owns the rack", func() bool { return d.a.role() == owner.Active })
	d.b.start()
	d.until("both have a place on the BMC", func() bool {
		r, mirrored := d.a.node().ledger.Record(), d.b.node().ledger.Record()
		return takeover.Trust(time.Now(), r).Done() && r.Partner != nil && r.Partner.Made && mirrored.AccountProven && mirrored.Seen.At.Equal(r.Seen.At)
	})
}

func (m *mate) node() *node { return m.agent.rack.named("n1") }

// account is the name that the BMC knows an agent by.
func (m *mate) account() string { return "chiba-" + string(m.cfg.Name) }

// alone cuts an agent off from everybody but the BMC, or lets it hear again.
func (m *mate) alone(cut bool) {
	other := m.a
	if m == other {
		other = m.b
	}
	m.cut.Store(cut)
	other.cut.Store(cut)
	m.desk.mu.Lock()
	m.desk.away[m] = cut
	m.desk.mu.Unlock()
	m.agent.Linked(!cut, time.Now())
}

// wrote are the answers to writes of an agent to the server, as many as the BMC
// remembers.
func (m *mate) wrote(status func(int) bool) (n int) {
	for _, r := range m.bmc.Requests() {
		if r.User == m.account() && r.Method == http.MethodPatch && strings.HasPrefix(r.Path, "/redfish/v1/Systems") && status(r.Status) {
			n++
		}
	}
	return n
}

func forbidden(status int) bool { return status == http.StatusForbidden }

// results are those of a run that an agent has recorded.
func (m *mate) results(run string) (all []*pb.Result) {
	m.t.Helper()
	batch, err := m.agent.spool.Batch(1, 1<<30)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, r := range batch.GetRecords() {
		if r.GetResult().GetRun() == run {
			all = append(all, r.GetResult())
		}
	}
	return all
}

// ended reports whether an agent has recorded the end of a run.
func (m *mate) ended(run string) bool {
	m.t.Helper()
	batch, err := m.agent.spool.Batch(1, 1<<30)
	if m.dead {
		return false
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return slices.ContainsFunc(batch.GetRecords(), func(r *pb.Record) bool { return r.GetDone().GetRun() == run })
}

// severed is a channel to the other agent that may be cut.
type severed struct {
	partner
	cut *atomic.Bool
}

func (s severed) Ask(ctx context.Context, call *pb.PairCall) (*pb.PairReply, error) {
	if s.cut.Load() {
		return nil, fault.New(fault.Unavailable, "ask the other agent", "the test has cut the line")
	}
	return s.partner.Ask(ctx, call)
}

// deskLink is an agent's link to the desk.
type deskLink struct {
	*desk
	mate  *mate
	agent *Agent
	pulls chan struct{}
}

func (d *desk) isAway(m *mate) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.away[m]
}

func (l *deskLink) Run(ctx context.Context) error {
	l.agent.Linked(!l.isAway(l.mate), time.Now())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.pulls:
			if !l.isAway(l.mate) {
				l.mate.told()
			}
		}
	}
}

func (*deskLink) Progress(*pb.Progress) {}

// Pull asks for the desired state.
func (l *deskLink) Pull() {
	select {
	case l.pulls <- struct{}{}:
	default:
	}
}

func (l *deskLink) Connected() (bool, time.Time) { return !l.isAway(l.mate), time.Now() }

// Lease answers as coordinators do: the rack is of who asks first, then of a standby
// that says that the owner is silent, once that one's lease is over.
func (l *deskLink) Lease(q *pb.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away[l.mate] {
		return
	}
	self, known := string(l.mate.cfg.Name), claimOf(q.GetKnown())
	mine := l.owner.Agent == self
	free := q.GetStandby() && q.GetLost() && known == l.owner && time.Since(l.lent) > deskLease && (!mine || q.GetShut())
	switch {
	case known.After(l.owner):
		l.owner = known
	case l.owner.Agent == "", free:
		l.grants = max(l.grants, l.owner.Epoch.Grant) + 1
		l.owner = owner.Claim{Agent: self, Epoch: owner.Epoch{Grant: l.grants}}
	}
	ttl := time.Duration(0)
	if l.owner.Agent == self && !q.GetShut() {
		ttl, l.lent = deskLease, time.Now()
	}
	l.agent.Leased(&pb.Leased{
		Number: q.GetNumber(), TtlMs: ttl.Milliseconds(), EveryMs: 200,
		Owner: &pb.Owner{Rack: "r1", Agent: l.owner.Agent, Grant: l.owner.Epoch.Grant, Local: l.owner.Epoch.Local},
	})
}

// patience is how long anything may take: less than the test itself.
func (d *duo) patience() time.Duration {
	if at, ok := d.t.Deadline(); ok {
		return time.Until(at) * 3 / 4
	}
	return time.Minute
}
