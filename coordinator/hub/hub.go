// Package hub holds the agents' sessions: it lets them in, records what they
// report, tells them when there is something to pull, and asks them questions.
// What it knows of who is connected is in memory alone; an agent that comes back
// tells it again.
//
// Each session has its own goroutines and its own deadlines. An agent that sends
// garbage, floods, or does not read loses its session and harms no other.
package hub

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/hub/talk"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

// Version is the version of the protocol that this package speaks.
const Version = talk.Version

const (
	// maxSessions is how many connections are served at once, greeted or not:
	// 100 KiB each.
	maxSessions = 12_000
	// maxOfOne is how many of them one certificate may have: an agent that comes back
	// may not have lost its last ones yet. No agent takes the others' places.
	maxOfOne = 4
	// maxQueries is how many questions are under way at once, over all agents.
	maxQueries = 512
)

// Listener accepts sessions; a *mesh.Listener is one.
type Listener interface {
	Accept(ctx context.Context) (mesh.Session, error)
}

// Log commits commands; a *raftnode.Node is one.
type Log interface {
	Propose(ctx context.Context, c *pb.Command) (state.Outcome, error)
}

// Watchers are told what happens; a *feed.Feed is one.
type Watchers interface {
	Publish(events ...*pb.Event)
	Touch(runs ...string)
}

// Newcomers serves a machine that wants to become an agent; an *enroll.Server does.
type Newcomers interface {
	Serve(ctx context.Context, conn mesh.Session)
}

// Stock gives artifacts to agents; a *stock.Stock does.
type Stock interface {
	Serve(ctx context.Context, conn mesh.Session)
}

// Config is what a Hub needs.
type Config struct {
	Name     string // of this coordinator, for agents' logs
	Machine  *state.Machine
	Commands Log
	Watchers Watchers
	// Endpoint is this coordinator on the wire; Denied is its deny list.
	Endpoint *trust.Endpoint
	Denied   *trust.Denials
	// Authority renews the agents' certificates; nil: this coordinator can't.
	Authority Authority
	// Newcomers serves those who come in by the door for enrolment; nil: the
	// listener has none.
	Newcomers Newcomers
	// Stock serves the sessions over which artifacts are pulled; nil: there are none.
	Stock Stock
	// Checkpoint is the signed head of the audit log, with the proof that it goes
	// on from its first size records; nil: agents are told none.
	Checkpoint func(size int64) (*pb.Checkpoint, error)
	Log        *slog.Logger
	// Led reports whether somebody is known to lead the log; nil: always.
	Led func() bool
	// Idle is how long a session may be silent; agents ping every 15 s. Default
	// 60 s.
	Idle time.Duration
	// Leaderless is how long nobody may lead before agents are sent to another
	// coordinator. Default 10 s.
	Leaderless time.Duration
	// Lease is how long a rack is its owner's without a word; default 30 s.
	Lease time.Duration
	// Lent asks the other coordinators how they lent an agent its rack, and whether
	// this one is in touch with a majority; nil: there are no others.
	Others Others
}

// Others are the other coordinators, as leases need them.
type Others interface {
	// InTouch reports whether what is known here is what a majority knows.
	InTouch() bool
	// Lent is when any of them last gave an agent its rack, and whether the agent
	// says that BMCs have shut it out. One that does not answer has done so just now.
	Lent(ctx context.Context, agent string) (at time.Time, shut bool)
}

// Hub holds the agents' sessions. All methods are safe for concurrent use.
type Hub struct {
	conf    Config
	queries chan struct{} // slots

	mu       sync.Mutex
	agents   map[string]*session                    // greeted, by agent
	racks    map[string][]*session                  // the same, by rack
	lent     map[string]talk.Loan                   // racks, by agent
	serving  map[string]int                         // sessions, by the peer's public key
	progress map[string]map[string]*pb.RackProgress // of runs that have not ended
	left     map[string]*pb.AgentStatus             // how an agent was last, by name

	born    time.Time
	version atomic.Uint64 // of what Present tells
	astray  atomic.Bool   // nobody has led for longer than Leaderless
}

// New is a hub without sessions.
func New(c Config) *Hub {
	if c.Idle <= 0 {
		c.Idle = time.Minute
	}
	if c.Lease <= 0 {
		c.Lease = defaultLease
	}
	if c.Leaderless <= 0 {
		c.Leaderless = leaderless
	}
	h := &Hub{
		conf: c, queries: make(chan struct{}, maxQueries), born: time.Now(), lent: map[string]talk.Loan{}, serving: map[string]int{},
		agents: map[string]*session{}, racks: map[string][]*session{}, progress: map[string]map[string]*pb.RackProgress{}, left: map[string]*pb.AgentStatus{},
	}
	h.version.Store(uint64(time.Now().UnixNano())) // no version of an earlier process
	return h
}

// Run serves the sessions that the listeners accept until ctx ends or one of them
// fails, and waits until they have ended.
func (h *Hub) Run(ctx context.Context, listeners ...Listener) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { h.watchLead(ctx); return nil })
	slots := make(chan struct{}, maxSessions)
	for _, l := range listeners {
		group.Go(func() error {
			for {
				conn, err := l.Accept(ctx)
				if err != nil {
					return unlessOver(ctx, err)
				}
				h.admit(ctx, conn, slots, &sessions)
			}
		})
	}
	return group.Wait()
}

// unlessOver is err, but nil once ctx has ended, which ends every Accept.
func unlessOver(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // that is what ended it
	}
	return err
}

// admit serves a session, if there is room for it.
func (h *Hub) admit(ctx context.Context, conn mesh.Session, slots chan struct{}, sessions *sync.WaitGroup) {
	if !h.count(conn, 1) {
		h.count(conn, -1)
		conn.Close("too many sessions of the same agent")
		return
	}
	select {
	case slots <- struct{}{}:
	default:
		h.count(conn, -1)
		conn.Close("too many sessions")
		return
	}
	sessions.Go(func() {
		defer func() { <-slots; h.count(conn, -1) }()
		if conn.Protocol() == mesh.EnrollALPN {
			h.conf.Newcomers.Serve(ctx, conn)
			return
		}
		if conn.Protocol() == mesh.BulkALPN {
			h.bulk(ctx, conn)
			return
		}
		h.serve(ctx, conn)
	})
}

func (h *Hub) bulk(ctx context.Context, conn mesh.Session) {
	if h.conf.Stock == nil {
		conn.Close("there are no artifacts here")
		return
	}
	h.conf.Stock.Serve(ctx, conn)
}

// count adds n to the sessions of whoever is at the other end, greeted or not, and
// reports whether there are no more than one certificate may have.
func (h *Hub) count(conn mesh.Session, n int) bool {
	if conn.Protocol() == mesh.BulkALPN {
		return true // whoever serves them has a limit of its own
	}
	who := string(conn.Peer().RawSubjectPublicKeyInfo)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.serving[who] += n; h.serving[who] <= 0 {
		delete(h.serving, who)
	}
	return h.serving[who] <= maxOfOne
}

// serve is one connection from its first stream to its end.
func (h *Hub) serve(ctx context.Context, conn mesh.Session) {
	s := &session{
		hub: h, conn: conn, since: time.Now(),
		denied: make(chan error, 1), drains: make(chan string, 1), asked: make(chan *pb.Lease, 1),
	}
	err := apart(func() error { return s.greet(ctx) })
	if err != nil {
		s.refuse(err)
		h.conf.Log.Warn("agent refused", obs.Addr, conn.Remote(), obs.Agent, s.agent, obs.Err, err, obs.Kind, fault.KindOf(err))
		return
	}
	h.conf.Log.Info("agent connected", obs.Addr, conn.Remote(), obs.Agent, s.agent, obs.Rack, s.rack)
	err = s.run(ctx)
	h.leave(s)
	h.conf.Log.Info("agent disconnected", obs.Addr, conn.Remote(), obs.Agent, s.agent, obs.Rack, s.rack, obs.Reason, err)
}

// enter makes s the session of its agent. An agent that connects again has given
// up its earlier session, whether or not we have noticed yet.
func (h *Hub) enter(s *session) {
	h.mu.Lock()
	old := h.agents[s.agent]
	if old != nil {
		h.forget(old)
	}
	h.agents[s.agent] = s
	h.racks[s.rack] = append(h.racks[s.rack], s)
	h.mu.Unlock()
	if old != nil {
		old.conn.Close("replaced by a newer connection of the same agent")
	}
	h.publish(s.status(true))
}

// leave forgets s, unless a newer session has taken its place.
func (h *Hub) leave(s *session) {
	last := s.status(false)
	h.mu.Lock()
	current := h.agents[s.agent] == s
	if current {
		h.forget(s)
		h.left[s.agent] = last
	}
	h.mu.Unlock()
	if current {
		h.publish(last)
	}
}

// forget needs the lock.
func (h *Hub) forget(s *session) {
	delete(h.agents, s.agent)
	rest := slices.DeleteFunc(h.racks[s.rack], func(x *session) bool { return x == s })
	if h.racks[s.rack] = rest; len(rest) == 0 {
		delete(h.racks, s.rack)
	}
}

func (h *Hub) publish(a *pb.AgentStatus) {
	h.version.Add(1)
	h.conf.Watchers.Publish(&pb.Event{AtUnixMs: time.Now().UnixMilli(), Body: &pb.Event_Agent{Agent: a}})
}

// session is the one of the rack's owner; nil: it is not connected here.
func (h *Hub) session(rack string) *session { return h.sessionOf(h.Owner(rack)) }

func (h *Hub) sessionOf(agent string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.agents[agent]
}

// Owner is the agent that works on a rack; "" if there is none.
func (h *Hub) Owner(rack string) string { return h.conf.Machine.Owner(rack).GetAgent() }

// Connected reports whether the agent that works on the rack is connected.
func (h *Hub) Connected(rack string) bool { return h.session(rack) != nil }

// Agents are all agents that were ever greeted or enrolled, by name, connected or not.
func (h *Hub) Agents() []*pb.AgentStatus {
	known := h.conf.Machine.Agents()
	list := make([]*pb.AgentStatus, 0, len(known))
	for _, a := range known {
		list = append(list, h.identified(h.status(a)))
	}
	for _, e := range h.conf.Machine.Enrolments() {
		if _, greeted := h.conf.Machine.Agent(e.GetName()); !greeted {
			list = append(list, h.identified(&pb.AgentStatus{Name: e.GetName(), Rack: e.GetRack()}))
		}
	}
	slices.SortFunc(list, func(a, b *pb.AgentStatus) int { return strings.Compare(a.GetName(), b.GetName()) })
	return list
}

// Present are the agents that are connected here, in no order, unless the caller
// knows them: version changes with them.
func (h *Hub) Present(known uint64) (agents []*pb.AgentStatus, version uint64) {
	version = h.version.Load() // first: a change that comes now is told the next time
	if known == version {
		return nil, version
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.agents {
		agents = append(agents, s.status(true))
	}
	return agents, version
}

// Role is what an agent has to do, as the coordinators have decided: active in an
// epoch, or standby.
func (h *Hub) Role(a *pb.AgentStatus) (role, epoch string) {
	switch o := h.conf.Machine.Owner(a.GetRack()); o.GetAgent() {
	case "":
		return "", ""
	case a.GetName():
		return "active", state.Epoch(o)
	default:
		return "standby", ""
	}
}

// identified adds what is known of the agent's identity and its part. The message
// may be shared.
func (h *Hub) identified(a *pb.AgentStatus) *pb.AgentStatus {
	e, ok := h.conf.Machine.Enrolment(a.GetName())
	told := proto.CloneOf(a)
	told.Role, told.Epoch = h.Role(a)
	if !ok {
		return told
	}
	told.KeyKind, told.CertEndsUnixMs, told.Locked = e.GetKeyKind(), e.GetUntilUnixMs(), e.GetLocked()
	return told
}

func (h *Hub) status(a *pb.AgentInfo) *pb.AgentStatus {
	if s := h.sessionOf(a.GetName()); s != nil {
		return s.status(true)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if last := h.left[a.GetName()]; last != nil {
		return last
	}
	return &pb.AgentStatus{Name: a.GetName(), Rack: a.GetRack(), Site: a.GetSite(), Build: a.GetBuild()}
}

// Applied is told of every command that was applied. It hints the racks whose
// desired state has changed, ends the sessions of those who are denied now, and
// forgets the progress of runs that have ended. It never waits.
func (h *Hub) Applied(o state.Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o.Denied {
		for _, s := range h.agents {
			s.cut()
		}
	}
	for _, rack := range o.Racks {
		for _, s := range h.racks[rack] {
			s.hint()
		}
	}
	if o.Owner != nil {
		for _, s := range h.racks[o.Owner.GetRack()] {
			s.tellOwner()
		}
		h.version.Add(1)
	}
	for _, e := range o.Events {
		if r := e.GetRun(); r.GetEndedUnixMs() != 0 {
			delete(h.progress, r.GetId())
		}
	}
}

// Progress is what the racks last said of a run under way, by rack.
func (h *Hub) Progress(run string) []*pb.RackProgress {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*pb.RackProgress, 0, len(h.progress[run]))
	for _, p := range h.progress[run] {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *pb.RackProgress) int { return strings.Compare(a.GetRack(), b.GetRack()) })
	return list
}

// progressed keeps what a rack says of a run that it has to do.
func (h *Hub) progressed(rack string, p *pb.Progress) {
	if h.keepProgress(rack, p) {
		h.conf.Watchers.Touch(p.GetRun())
	}
}

func (h *Hub) keepProgress(rack string, p *pb.Progress) bool {
	h.mu.Lock() // also while it asks the machine, or the run could end in between
	defer h.mu.Unlock()
	r, _, ok := h.conf.Machine.Run(p.GetRun(), state.NoResults)
	concerned := slices.ContainsFunc(r.GetRacks(), func(part *pb.RackRun) bool { return part.GetRack() == rack })
	if !ok || !concerned || r.GetEndedUnixMs() != 0 {
		return false
	}
	if h.progress[r.GetId()] == nil {
		h.progress[r.GetId()] = map[string]*pb.RackProgress{}
	}
	h.progress[r.GetId()][rack] = &pb.RackProgress{Rack: rack, Nodes: p.GetNodes(), Done: p.GetDone(), Failed: p.GetFailed(), Doing: p.GetDoing()}
	return true
}

func refusal(err error) *pb.FromCoordinator {
	kind, text, hint := wire.ToFault(err)
	return &pb.FromCoordinator{Body: &pb.FromCoordinator_Refusal{Refusal: &pb.Refusal{Kind: kind, Error: text, Hint: hint}}}
}
