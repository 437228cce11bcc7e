// Package link keeps an agent in touch with the coordinators: it dials them in
// turn, tells what the agent has, pulls what the rack shall be, replays the spool
// in order and lets the coordinators ask questions. It decides nothing about the
// rack; whatever it hands over, the agent must make durable before it returns.
//
// The agent counts as connected when a coordinator has answered its Hello with a
// Welcome, and no longer when the session has ended or a ping stayed unanswered.
package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/agent/link/talk"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Version is the version of the protocol that this package speaks.
const Version = talk.Version

const (
	dialTimeout = 10 * time.Second
	// welcomeTimeout bounds the wait for the Welcome: a coordinator answers it
	// from what it has applied, without asking anybody.
	welcomeTimeout = 10 * time.Second
	pingEvery      = 15 * time.Second
	maxProgress    = 64
	// settled is how long a session must last before the next failure counts as
	// the first: a coordinator that welcomes and fails must not be met in a rush.
	settled = 10 * time.Second
	// busy is how far the waits grow while a coordinator says that it has too many to let
	// in: at most 8 s, so that it is not idle when it has let in the others.
	busy = 4
)

// Agent is what the link serves. Its methods are called from several goroutines.
type Agent interface {
	talk.Agent
	// Query answers q by calling send, until ctx ends. The link adds the last
	// event, Done, from the returned one.
	Query(ctx context.Context, q *pb.Query, send func(*pb.QueryEvent) error) *pb.QueryEvent_Done
	// Linked is told whenever a coordinator is reached or lost.
	Linked(connected bool, since time.Time)
	// Leased is told whose the rack is.
	Leased(l *pb.Leased)
}

// Outbox is where the records for the coordinators wait; a *spool.Spool is one.
type Outbox interface {
	talk.Outbox
	// Wait returns when there may be records that were not there before.
	Wait(ctx context.Context) error
}

// Trust is whom the agent believes, and by what it is believed itself. Its methods
// are called from several goroutines.
type Trust interface {
	// Time is told the coordinator's time when it has welcomed us.
	Time(told time.Time)
	// Still is an error if the coordinator with that chain is believed no longer.
	Still(chain []*x509.Certificate) error
	// Renewal is what to ask for now, nil if nothing is due.
	Renewal() *pb.Renew
	// Renewed takes the answer.
	Renewed(m *pb.Renewed)
	// Denied is what was denied here, for the coordinators.
	Denied() []*pb.Denial
}

// Config says who the agent is and whom it dials.
type Config struct {
	Agent fleet.AgentName
	Rack  fleet.RackName
	Site  fleet.SiteName
	Build string
	// SealKey is the public key that secrets for the agent are sealed to, and the
	// proof that it is; it is asked before each Hello.
	SealKey func() (public, proof []byte, err error)

	// SiteAddrs are where the agents of our site reach us, ip:port; nil: nowhere.
	SiteAddrs func() (gossip, calls string)

	Coordinators []string // host:port, also with mesh.TCP; each agent tries them in an order of its own
	// TLS is asked before each dial to addr, so that a renewed certificate is used
	// without a restart; one that has ended may be renewed there.
	TLS func(ctx context.Context, addr string) (*tls.Config, error)
	// Trust renews what is due and keeps the deny list; nil: nobody does.
	Trust Trust
	Log   *slog.Logger

	PingEvery time.Duration // default 15 s
	Pair      string        // the other agent of the rack, "" if there is none
	// Trouble is why the agent takes no new work, "" if it does; nil: it always does.
	Trouble func() string
}

// Link is an agent's connection to the coordinators. It is safe for concurrent
// use.
type Link struct {
	cfg    Config
	agent  Agent
	outbox Outbox

	mu        sync.Mutex
	connected bool
	since     time.Time

	progress chan *pb.Progress
	side     *talk.Side     // of Run's goroutine
	leases   chan *pb.Lease // the last one that was asked for
	pulls    chan struct{}  // a token: pull the desired state
	any      bool           // a coordinator without a leader will do: no other was found
}

// New is a link that is not connected yet.
func New(cfg Config, agent Agent, outbox Outbox) (*Link, error) {
	if len(cfg.Coordinators) == 0 {
		return nil, fault.New(fault.BadInput, "reach coordinators", "no address is configured")
	}
	if cfg.PingEvery <= 0 {
		cfg.PingEvery = pingEvery
	}
	return &Link{
		cfg: cfg, agent: agent, outbox: outbox, since: time.Now(),
		side: talk.New(talk.Self{
			Agent: cfg.Agent, Rack: cfg.Rack, Site: cfg.Site, Build: cfg.Build, Pair: cfg.Pair, Boot: boot(),
		}, agent, outbox),
		progress: make(chan *pb.Progress, maxProgress), leases: make(chan *pb.Lease, 1), pulls: make(chan struct{}, 1),
	}, nil
}

// boot tells this process from an earlier one with the same disk.
func boot() uint64 { return 1 + rand.Uint64N(math.MaxUint64) } //nolint:gosec // it is no secret

// Connected reports whether a coordinator is reached, and since when it is so.
func (l *Link) Connected() (connected bool, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.connected, l.since
}

// Progress tells the coordinator how far a run is. It never waits: what can't be
// sent now is dropped.
func (l *Link) Progress(p *pb.Progress) {
	select {
	case l.progress <- p:
	default:
	}
}

// Lease asks whose the rack is. It never waits: only the last question counts, and
// Agent.Leased gets the answer, if a coordinator is reached.
func (l *Link) Lease(q *pb.Lease) {
	select {
	case <-l.leases:
	default:
	}
	select {
	case l.leases <- q:
	default:
	}
}

// Pull asks for the desired state, soon; questions that come together are one.
func (l *Link) Pull() {
	select {
	case l.pulls <- struct{}{}:
	default:
	}
}

// Run connects, and connects again, until ctx ends.
func (l *Link) Run(ctx context.Context) error {
	failures, said := 0, ""
	order := talk.Preferred(l.cfg.Agent, l.cfg.Coordinators)
	for turn := 0; ctx.Err() == nil; turn++ {
		addr, began := order[turn%len(order)], time.Now()
		l.any = failures >= len(order)
		welcomed, err := l.session(ctx, addr)
		if ctx.Err() != nil {
			break
		}
		if failures++; welcomed {
			said = ""
			if time.Since(began) >= settled {
				failures = 0
			}
		}
		if text := err.Error(); text != said { // the same failure every 30 s tells nothing new
			l.cfg.Log.Warn("no link to the coordinators", obs.Addr, addr, obs.Err, err, obs.Kind, fault.KindOf(err))
			said = text
		}
		rounds := max(0, failures-1) / len(l.cfg.Coordinators)
		if mesh.Refused(err) {
			rounds = min(rounds, busy)
		}
		wait(ctx, talk.Backoff(rounds, rand.Float64())) //nolint:gosec // jitter
	}
	return ctx.Err()
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// session is one connection from dial to end. It tells whether the coordinator
// has welcomed us.
func (l *Link) session(ctx context.Context, addr string) (welcomed bool, err error) {
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	conf, err := l.cfg.TLS(dialing, addr)
	if err != nil {
		cancel()
		return false, err
	}
	conn, err := mesh.Dial(dialing, addr, conf)
	cancel()
	if err != nil {
		return false, err
	}
	defer conn.Close("agent leaves")
	s := &session{Link: l, conn: conn}
	if err := s.greet(ctx); err != nil {
		return false, because(conn, err)
	}
	l.linked(true)
	defer l.linked(false)
	l.cfg.Log.Info("linked to a coordinator", obs.Addr, addr, obs.Peer, s.talk.Coordinator)
	return true, s.run(ctx)
}

func (l *Link) linked(connected bool) {
	l.mu.Lock()
	l.connected, l.since = connected, time.Now()
	since := l.since
	l.mu.Unlock()
	l.agent.Linked(connected, since)
}

// because is err, or why the session has ended if it has: the streams only see
// that it did.
func because(conn mesh.Session, err error) error {
	if cause := conn.Err(); cause != nil {
		return fault.Wrap(fault.KindOf(err), "session ended", cause)
	}
	return err
}
