package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/agent/depot"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/link"
	"github.com/chiba-mesh/chiba/agent/local"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/site"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/neighbour"
	"github.com/chiba-mesh/chiba/discovery/probe"
	"github.com/chiba-mesh/chiba/discovery/static"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/events"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/seal"
)

const (
	spoolFile = "spool.db"
	sealFile  = "seal.key"
	// readyAfter is the longest wait for BMCs and coordinators that do not answer.
	readyAfter = 2 * time.Second
	lookAtAcks = 10 * time.Millisecond
	// gather is how long what is kept of one node waits for the others: forty BMCs
	// answer at about the same time, and a commit costs two syncs of the disk.
	gather = 5 * time.Millisecond
)

// Agent is the process of a rack. Its methods are safe for concurrent use.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	spool *spool.Spool
	key   *seal.Key
	vault *vault
	link  uplink
	pass  *passport
	// taking holds a token for each BMC that is being taken over.
	taking chan struct{}
	// rekeying serialises what changes the key of the rack's CA.
	rekeying sync.Mutex
	// escrowing holds a token if the escrow may be out of date.
	escrowing chan struct{}
	// askAgain has the key at an address read anew, see askAt.
	askAgain chan string
	// receiver takes what BMCs deliver; nil: they are not asked to.
	receiver  *events.Receiver
	artifacts *artifacts
	site      *site.Site     // nil: alone
	door      *local.Door    // for people on this machine; nil: there is none
	depot     *depot.Depot   // nil where there is no link
	trust     *standingTrust // nil where there is no link
	denials   *trust.Denials // by a BMC's key

	proven proven // the sealing key

	office     office
	decider    *owner.Decider  // of govern
	leased     chan *pb.Leased // a coordinator's last word
	companion  companion
	pair       partner    // nil: there is none
	neighbours neighbours // nil: there are none
	pairLink   *pairLink  // pair, which also listens
	taken      taken
	life       uint64 // of this process

	rack      roster
	admitting sync.Mutex // serialises who comes and who goes
	clashes   clashes    // that the coordinators have seen
	crowded   crowded

	listing   listing
	desiring  sync.Mutex // serialises changes of the desired state
	authority authority
	witnessed witnessed
	standing  standing
	runs      runs
	waves     waves

	inputs  chan core.Input // to the rules
	links   chan core.Link  // the latest news of the link
	targets chan struct{}   // a token: resolve the rules' targets again
	closing sync.WaitGroup  // lanes that are being closed

	surveying chan struct{} // a place for each survey that goes on

	strangers seenOnce // of find's goroutine
	first     firstPass
	ready     chan struct{}

	// What reaches the world outside; tests put fakes in its place.
	now         func() time.Time
	jitter      func() float64 // in [0,1)
	finders     []finder
	fingerprint func(ctx context.Context, address string) (pin string, err error)
	root        func(ctx context.Context, address string) (discovery.Answer, error) // of a stranger
	hardware    func(address string) string                                         // its hardware address, "" if unknown
	open        func(e Entry, address string) (lane, error)
}

// uplink is what the agent needs of its link to the coordinators.
type uplink interface {
	Run(ctx context.Context) error
	Progress(p *pb.Progress)
	// Lease asks whose the rack is; Pull asks for the desired state.
	Lease(q *pb.Lease)
	Pull()
	Connected() (connected bool, since time.Time)
}

// proven is the proof of the sealing key, by which certificate.
type proven struct {
	mu          sync.Mutex
	leaf, proof []byte
}

// New checks the configuration, opens the spool and the keys in its state
// directory, and touches no network. An Agent that is not Run must be Closed.
func New(cfg Config) (*Agent, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := cfg.check(); err != nil {
		return nil, fault.Wrap(fault.BadInput, "configure agent", err)
	}
	if _, err := cfg.credentials(); err != nil {
		return nil, err
	}
	if err := seal.RenewKey(filepath.Join(cfg.State, sealFile), cfg.Now(), false); err != nil {
		return nil, err
	}
	key, err := seal.OpenKey(filepath.Join(cfg.State, sealFile))
	if err != nil {
		return nil, err
	}
	disk, err := spool.Open(filepath.Join(cfg.State, spoolFile), spool.Options{Gather: gather, Mirrored: journal.Mirrored, Ballast: spool.DefaultBallast})
	if err != nil {
		return nil, err
	}
	a, err := assemble(cfg, disk, key)
	if err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	a.now, a.pass.now = cfg.Now, cfg.Now
	if a.trust, err = openTrust(cfg, disk); err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	a.certifyBy(a.trust.rack)
	a.denials = &a.trust.denials
	if err = a.joinSite(); err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	if cfg.Pair.Name != "" {
		a.pairLink = newPairLink(cfg, a.trust.endpoint)
		a.pair = a.pairLink
	}
	a.link, err = link.New(link.Config{
		Agent: cfg.Name, Rack: cfg.Rack, Site: cfg.Site, Build: build(), SealKey: a.sealKey,
		Coordinators: cfg.Coordinators, TLS: a.trust.client, Trust: a.trust, Log: a.log,
		PingEvery: cfg.Heartbeat, SiteAddrs: a.siteAddrs, Pair: string(cfg.Pair.Name), Trouble: a.trouble,
	}, a, disk)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	a.openDepot()
	a.openDoor()
	return a, nil
}

// assemble makes an agent without a link and reads what it knew.
func assemble(cfg Config, disk *spool.Spool, key *seal.Key) (*Agent, error) {
	a := &Agent{
		cfg: cfg, log: cfg.Log.With(obs.Agent, string(cfg.Name)), spool: disk, key: key,
		inputs:    make(chan core.Input, 64),
		links:     make(chan core.Link, 1),
		targets:   make(chan struct{}, 1),
		strangers: make(seenOnce),
		ready:     make(chan struct{}),
		surveying: make(chan struct{}, surveysAtOnce), jitter: rand.Float64,
		receiver: cfg.receiver(),
		now:      time.Now, finders: cfg.finders(), fingerprint: redfish.Fingerprint,
		root: probe.Ask, hardware: neighbour.Hardware,
	}
	if a.cfg.Written.IsZero() {
		a.cfg.Written = a.now()
	}
	var err error
	if a.artifacts, err = openArtifacts(cfg.artifacts(), cfg.artifactsQuota()); err != nil {
		return nil, err
	}
	a.finders = append(a.finders, listed{a})
	a.runs.init()
	a.askAgain = make(chan string, 64)
	a.escrowing = make(chan struct{}, 1)
	a.taking = make(chan struct{}, takenAtOnce)
	a.denials = &trust.Denials{}
	a.leased, a.life = make(chan *pb.Leased, 4), uint64(a.now().UnixNano())
	if err = errors.Join(a.enter(), a.recallPartner()); err != nil {
		return nil, err
	}
	a.pass = &passport{spool: disk, key: key, rack: string(cfg.Rack), now: time.Now, certs: make(map[string]*tls.Certificate)}
	entries, came, err := a.entries()
	if err != nil {
		return nil, err
	}
	records, err := openLedgers(disk, entries)
	if err != nil {
		return nil, err
	}
	a.open = a.openLane
	a.vault = &vault{others: &a.companion, shared: a.shared, spool: disk, key: key, rack: string(cfg.Rack), entry: func(name fleet.NodeName) (Entry, bool) {
		n := a.rack.named(name)
		if n == nil {
			return Entry{}, false
		}
		e := n.entry
		e.Login, e.Pin = cfg.loginOf(e), n.ledger.Record().First
		return e, true
	}}
	for _, e := range entries {
		n := newNode(e, cfg.Rack, cfg.Site)
		n.ledger = a.newLedger(records[e.Name])
		if m, ok := came[e.Name]; ok {
			a.enlist(n, m)
		}
		a.rack.add(n)
	}
	a.first.await(a.rack.members())
	if err = a.authority.open(&cfg, disk); err != nil {
		return nil, err
	}
	a.runs.here, err = a.stoppedHere()
	return a, errors.Join(err, a.remember(), a.resume(), a.restore(), a.recallCatalogue(), a.recall(), a.recallClashes())
}

// newLedger is a ledger that begins with a record. Nothing is kept yet.
func (a *Agent) newLedger(r takeover.Record) *ledger {
	l := &ledger{spool: a.spool, key: a.key, rack: string(a.cfg.Rack), pass: a.pass, others: &a.companion, shared: a.shared}
	l.adopt(r)
	return l
}

// entries are those of the catalogue and of the BMCs that were let in since, with
// how these came. What the catalogue says of a name or a key counts more. A BMC is
// looked for where it was, before it is heard of again.
func (a *Agent) entries() ([]Entry, map[fleet.NodeName]admission, error) {
	all, err := admitted(a.spool)
	if err != nil {
		return nil, nil, err
	}
	entries, came := slices.Clone(a.cfg.Nodes), make(map[fleet.NodeName]admission)
	var places []string
	for _, pin := range slices.Sorted(maps.Keys(all)) {
		m := all[pin]
		if slices.ContainsFunc(a.cfg.Nodes, func(e Entry) bool { return e.Name == m.Name || e.Pin == pin }) {
			continue
		}
		entries, came[m.Name] = append(entries, m.entry(a.openGiven)), m
		if m.Address != "" {
			places = append(places, m.Address)
		}
	}
	if len(places) > 0 {
		a.finders = append(a.finders, static.Finder{Addresses: places})
	}
	return entries, came, nil
}

func (a *Agent) openLane(e Entry, address string) (lane, error) {
	return bmc.New(bmc.Config{
		Node: e.Name,
		BMC: redfish.Config{
			BMC: string(e.Name), Address: address, Terms: a.rack.named(e.Name).ledger.Terms, Sessions: a.vault,
			Context: a.reignMark(),
		},
		Most:  func() int { return a.listing.limits().Requests },
		Vault: a.vault, Digests: a.vault, Rack: a.cfg.mark(""),
	})
}

// sealKey is the key that secrets for the agent are sealed to, with the proof that
// it is ours, by the certificate of today.
func (a *Agent) sealKey() (public, proof []byte, err error) {
	creds, err := a.cfg.credentials()
	if err != nil {
		return nil, nil, err
	}
	a.proven.mu.Lock()
	defer a.proven.mu.Unlock()
	leaf := creds.Certificate.Certificate[0]
	if !bytes.Equal(a.proven.leaf, leaf) { // each proof differs, and a new one is a change for the coordinators
		if proof, err = a.key.Prove(string(a.cfg.Rack), creds.Certificate); err != nil {
			return nil, nil, err
		}
		a.proven.leaf, a.proven.proof = leaf, proof
	}
	return a.key.Public(), a.proven.proof, nil
}

// openSecret opens what was sealed to this rack for one use.
func (a *Agent) openSecret(sealed, use string) (fleet.Secret, error) {
	return a.key.Open(sealed, string(a.cfg.Rack), use)
}

// build is the version that this binary was made from.
func build() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// Ready is closed when every node of the catalogue has been looked at once and a
// coordinator knows what was found, or two seconds after Run has begun.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// getReady closes Ready when it is time.
func (a *Agent) getReady(ctx context.Context) error {
	defer close(a.ready)
	waiting, cancel := context.WithTimeout(ctx, readyAfter)
	defer cancel()
	tick := time.NewTicker(lookAtAcks)
	defer tick.Stop()
	for told := false; !told; {
		select {
		case <-waiting.Done():
			a.first.giveUp()
			return nil
		case <-tick.C:
		}
		c, err := a.spool.Cursor()
		if err != nil {
			return err
		}
		told = a.first.isOver() && c.First == c.Next || a.standsBy()
	}
	return nil
}

// looked waits until every node has been looked at, or that took too long.
func (a *Agent) looked(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.first.ended():
		return nil
	}
}

// Run works until ctx ends or a part of the agent fails, then deletes the sessions
// on the BMCs, within five seconds, and closes the spool.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.Close()) }()
	defer a.leave(ctx)
	a.log.Info("agent starts", obs.Rack, string(a.cfg.Rack), obs.Count, len(a.rack.members()))
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{
		a.find, a.getReady, a.receive, a.serveMetrics, a.dwell, a.keepEscrow, a.servePartner, a.govern, a.link.Run, a.relied, a.answerPeople,
	} {
		group.Go(func() error { return part(ctx) })
	}
	return group.Wait()
}

// relied ends the process when the spool can't be relied on any longer: the next one
// reads what is on the disk.
func (a *Agent) relied(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.spool.Broken():
		return a.spool.Err()
	}
}

// Close closes the spool and the sockets. It is for an agent that was never Run.
func (a *Agent) Close() error {
	var err error
	if a.site != nil {
		err = a.site.Close()
	}
	return errors.Join(err, a.artifacts.store.Close(), a.spool.Close())
}

// leave closes every lane.
func (a *Agent) leave(ctx context.Context) {
	for _, n := range a.rack.members() {
		if l, err := n.way(); err == nil {
			a.closing.Go(func() { a.closeLane(ctx, n, l) })
		}
	}
	a.closing.Wait()
}

// complain logs what only the spool's disk can be guilty of, and what nobody waits
// for.
func (a *Agent) complain(what string, err error) {
	a.log.Error("could not keep what happened", obs.Reason, what, obs.Err, err)
}

// contacted notes that the first attempt to reach a node has ended.
func (a *Agent) contacted(n *node) { a.first.reached(n) }

// firstPass waits for the first contact with every node.
type firstPass struct {
	mu   sync.Mutex
	left map[*node]bool
	done chan struct{}
	over bool
}

// await begins to wait, anew with each reign. Who waits already waits for this one.
func (f *firstPass) await(nodes []*node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done == nil || f.over {
		f.done = make(chan struct{})
	}
	f.left, f.over = make(map[*node]bool), false
	for _, n := range nodes {
		f.left[n] = true
	}
	if len(nodes) == 0 {
		f.end()
	}
}

func (f *firstPass) end() {
	if !f.over {
		f.over = true
		close(f.done)
	}
}

func (f *firstPass) ended() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done
}

func (f *firstPass) reached(n *node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.left, n)
	if len(f.left) == 0 {
		f.end()
	}
}

func (f *firstPass) isOver() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over
}

func (f *firstPass) giveUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end()
}

// ruleStates are the states of the rules as they were kept.
func (a *Agent) ruleStates() (states []core.State, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		states, err = journal.RuleStates(tx)
		return err
	})
	return states, err
}
