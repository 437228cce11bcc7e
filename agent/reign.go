package agent

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	keyOwner = "owner"
	// leaseEvery is how often an owner asks for its rack until a coordinator says how
	// often it shall.
	leaseEvery = 10 * time.Second
	// isolatedAfter is how long a look at the rack's BMCs may take.
	isolatedAfter = 2 * time.Second
)

// office is whether this agent works on its rack, as it was last decided. It is safe
// for concurrent use.
type office struct {
	mu    sync.Mutex
	out   owner.Output
	omens chan owner.Input // for the one who decides
}

func (o *office) set(out owner.Output) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.out = out
}

func (o *office) now() owner.Output {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.out
}

// reigns reports whether the rack is ours, also while nothing new may be begun.
func (o *office) reigns() bool {
	r := o.now().Role
	return r == owner.Active || r == owner.Holding
}

// may is why nothing may be begun on the rack now, nil if it may.
func (o *office) may(now time.Time) error {
	const op = "work on the rack"
	switch out := o.now(); {
	case out.Role == owner.Active && (out.Until.IsZero() || now.Before(out.Until)):
		return nil
	case out.Role == owner.Active, out.Role == owner.Holding:
		return fault.New(fault.Unavailable, op, "no coordinator has said for too long that the rack is still this agent's")
	default:
		return fault.New(fault.Conflict, op, "this agent is the standby: "+out.Why).WithHint("see who works on the rack: chiba get agents")
	}
}

func (o *office) claim() owner.Claim { return o.now().Claim }

func (o *office) owner(rack fleet.RackName) *pb.Owner {
	c := o.claim()
	return &pb.Owner{Rack: string(rack), Agent: c.Agent, Grant: c.Epoch.Grant, Local: c.Epoch.Local}
}

// tell hands an input to the one who decides. What there is no room for is dropped:
// all of it is repeated.
func (o *office) tell(in owner.Input) {
	select {
	case o.omens <- in:
	default:
	}
}

// standsBy reports whether the other agent owns the rack, as far as is known.
func (a *Agent) standsBy() bool {
	out := a.office.now()
	return out.Role == owner.Standby && out.Claim.Agent == string(a.cfg.Pair.Name)
}

// enter decides for the first time.
func (a *Agent) enter() error {
	var kept owner.Claim
	err := a.spool.View(func(tx *spool.Tx) error {
		if raw := tx.Get(spool.Notes, keyOwner); raw != nil {
			return fault.Wrap(fault.Garbage, "read who owns the rack", json.Unmarshal(raw, &kept))
		}
		return nil
	})
	if err != nil {
		return err
	}
	a.office.omens = make(chan owner.Input, 64)
	a.decider = owner.New(a.now(), owner.Config{
		Self: string(a.cfg.Name), Partner: string(a.cfg.Pair.Name), Patience: a.cfg.Pair.patience(),
	}, kept)
	a.office.set(a.decider.Step(a.now(), owner.Tick{}))
	return nil
}

// governor carries out what is decided about the rack.
type governor struct {
	*Agent
	end    context.CancelFunc // of the reign; nil: there is none
	ended  chan error
	every  time.Duration
	asked  time.Time
	number uint64
	sent   map[uint64]time.Time // questions that were not answered yet
	told   owner.Role
	looks  atomic.Bool
	work   sync.WaitGroup
}

// govern decides whether this agent works on its rack, and has it do so, until ctx
// ends.
func (a *Agent) govern(ctx context.Context) (err error) {
	g := &governor{Agent: a, every: leaseEvery, sent: make(map[uint64]time.Time), told: -1}
	defer g.work.Wait()
	defer func() { err = errors.Join(err, g.abdicate()) }()
	if a.pair != nil {
		g.work.Go(func() { a.pingPartner(ctx) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		ins := []owner.Input{owner.Tick{}}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err = <-g.ended:
			g.end, g.ended = nil, nil
			return err
		case answer := <-a.leased:
			ins = g.granted(answer)
		case in := <-a.office.omens:
			ins = []owner.Input{in}
		case <-timer.C:
		}
		var out owner.Output
		for _, in := range ins {
			out = a.decider.Step(a.now(), in)
			if err = g.follow(ctx, out); err != nil {
				return err
			}
		}
		timer.Stop()
		timer.Reset(g.next(out))
	}
}

// next is how long nothing need be done.
func (g *governor) next(out owner.Output) time.Duration {
	wait := g.every
	if !out.Next.IsZero() {
		wait = min(wait, out.Next.Sub(g.now()))
	}
	return max(0, wait)
}

// granted is a coordinator's answer as inputs.
func (g *governor) granted(l *pb.Leased) []owner.Input {
	if l.GetEveryMs() > 0 {
		g.every = time.Duration(l.GetEveryMs()) * time.Millisecond
	}
	sent := g.sent[l.GetNumber()]
	delete(g.sent, l.GetNumber())
	if l.GetCut() { // as good as none: it may be alone
		return []owner.Input{owner.Linked{}}
	}
	return []owner.Input{
		owner.Linked{Connected: true},
		owner.Granted{Claim: claimOf(l.GetOwner()), Sent: sent, TTL: time.Duration(l.GetTtlMs()) * time.Millisecond},
	}
}

// follow does what was decided. What must be durable is, before anything is done.
func (g *governor) follow(ctx context.Context, out owner.Output) error {
	if out.Keep {
		err := g.spool.Update(func(tx *spool.Tx) error {
			tx.PutJSON(spool.Notes, keyOwner, out.Claim)
			return nil
		})
		if err != nil {
			return err
		}
	}
	g.office.set(out)
	if out.Role != g.told && g.cfg.Pair.Name != "" {
		g.log.Warn("this agent is "+out.Role.String(), obs.Rack, string(g.cfg.Rack), obs.Epoch, out.Claim.Epoch.String(), obs.Reason, out.Why) //nolint:sloglint // one of four constants
	}
	g.told = out.Role
	if out.Ask || g.cfg.Pair.Name != "" && g.now().Sub(g.asked) >= g.every {
		g.ask(out)
	}
	if out.Look && !g.looks.Swap(true) {
		g.work.Go(func() {
			defer g.looks.Store(false)
			g.office.tell(g.look(ctx))
		})
	}
	switch works := out.Role == owner.Active || out.Role == owner.Holding; {
	case !works || out.Fence:
		if err := g.abdicate(); err != nil {
			return err
		}
		fallthrough
	default:
		if works && g.end == nil {
			return g.reign(ctx, out)
		}
	}
	return nil
}

// ask asks a coordinator whose the rack is.
func (g *governor) ask(out owner.Output) {
	g.number++
	g.asked = g.now()
	if len(g.sent) > 16 { // nobody answers
		clear(g.sent)
	}
	g.sent[g.number] = g.asked
	g.link.Lease(&pb.Lease{
		Number: g.number, Known: g.office.owner(g.cfg.Rack), Lost: out.Lost, Shut: out.Shut, Met: out.Met,
		Standby: out.Role == owner.Standby || out.Role == owner.Waiting,
	})
}

// look finds out whether others see the partner, and whether we reach the rack: a
// handshake with any of its BMCs is enough.
func (g *governor) look(ctx context.Context) owner.View {
	v := owner.View{Isolated: true}
	if g.neighbours != nil {
		v.Alive = g.neighbours.Alive(g.cfg.Pair.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, isolatedAfter)
	defer cancel()
	reached := make(chan bool, len(g.rack.members()))
	for _, n := range g.rack.members() {
		go func() {
			pin, err := g.fingerprint(ctx, n.lastAddress())
			reached <- err == nil && n.ledger.Record().Has(pin)
		}()
	}
	for range g.rack.members() {
		if <-reached {
			v.Isolated = false
			cancel()
		}
	}
	if len(g.rack.members()) == 0 {
		v.Isolated = false
	}
	return v
}

// lastAddress is where the BMC of a node was last; "" if that is not known.
func (n *node) lastAddress() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.found != "":
		return n.found
	case n.entry.Address != "":
		return withPort(n.entry.Address)
	}
	return n.ledger.Record().Address
}

// reign has the agent work on its rack.
func (g *governor) reign(ctx context.Context, out owner.Output) error {
	g.taken.own()
	if err := g.inherit(out.Fence); err != nil {
		return err
	}
	ctx, g.end = context.WithCancel(ctx)
	g.ended = make(chan error, 1)
	ended := g.ended
	g.first.await(g.rack.members())
	go func() { ended <- g.workOn(ctx) }()
	if g.cfg.Pair.Name != "" {
		g.askAll()
	}
	g.link.Pull()
	return nil
}

// askAll gives those that answer with their key lanes at once, and has all keys read
// again: they may be others since.
func (a *Agent) askAll() {
	a.askAt("")
	for _, n := range a.rack.members() {
		if at := n.lastAddress(); at != "" {
			a.askAt(at)
		}
	}
}

// inherit takes over what the owner before has left: its records of BMCs are ours,
// it is shut out if it may not know of that, and what it had begun and not ended is
// recorded.
func (g *governor) inherit(fence bool) error {
	partner := g.companion.partner()
	for _, n := range g.rack.members() {
		n.fence(fence)
		n.swept, n.inherited = false, fence
		if g.cfg.Pair.Name == "" {
			continue
		}
		err := n.ledger.Keep(func(r takeover.Record) takeover.Record {
			if r.Goal == "" || partner.Account == r.Account {
				return r
			}
			r = r.With(partner)
			return r.ShutOut(fence || r.Partner != nil && r.Partner.Shut)
		})
		if err == nil {
			err = g.ownLogin(n)
		}
		if err != nil {
			return err
		}
		if p := n.ledger.Record().Partner; p != nil && p.Shut {
			n.fence(true)
		}
	}
	if fence {
		if err := g.retell(); err != nil {
			return err
		}
	}
	return errors.Join(g.forgetNodes(), g.unfinished(), g.heedStops())
}

// heedStops takes over which runs people on the rack have stopped.
func (g *governor) heedStops() error {
	stopped, err := g.stoppedHere()
	if err == nil {
		g.runs.stoppedBefore(stopped)
	}
	return err
}

// ownLogin has the lane of a BMC that was taken over log in with our own account.
func (a *Agent) ownLogin(n *node) error {
	r := n.ledger.Record()
	sealed := r.Sealed[r.Account]
	if r.Goal != takeover.Taken || !r.AccountProven || sealed == "" {
		return nil
	}
	password, err := n.ledger.Open(sealed)
	if err != nil {
		return err
	}
	k, err := a.vault.seal(string(n.entry.Name), redfish.Credentials{User: r.Account, Password: password})
	if err != nil {
		return err
	}
	return a.vault.keep(string(n.entry.Name), []kept{k})
}

// workOn is a reign from its beginning to its end.
func (a *Agent) workOn(ctx context.Context) error {
	giveUp := time.AfterFunc(readyAfter, a.first.giveUp)
	defer giveUp.Stop()
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{a.watch, a.work, a.replicate} {
		group.Go(func() error { return part(ctx) })
	}
	a.rack.start(func(n *node) { a.attendTo(ctx, n, group.Go) })
	defer a.rack.stop()
	return group.Wait()
}

// abdicate ends the reign, if there is one: what it was doing is left as at the end
// of a process, and its lanes are closed.
func (g *governor) abdicate() error {
	if g.end == nil {
		return nil
	}
	g.end()
	err := <-g.ended
	g.end, g.ended = nil, nil
	for _, n := range g.rack.members() {
		if l := n.leave(); l != nil {
			g.closing.Go(func() { g.closeLane(context.Background(), n, l) })
		}
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// pingPartner asks the partner how it is, until ctx ends.
func (a *Agent) pingPartner(ctx context.Context) {
	tick := time.NewTicker(a.cfg.Pair.every())
	defer tick.Stop()
	for ctx.Err() == nil {
		a.ping(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (a *Agent) ping(parent context.Context) {
	ctx, cancel := context.WithTimeout(parent, a.cfg.Pair.every())
	defer cancel()
	reply, err := a.pair.Ask(ctx, &pb.PairCall{Body: &pb.PairCall_State{State: a.pairState()}})
	if parent.Err() != nil {
		return
	}
	s := reply.GetState()
	if err != nil || s == nil {
		a.companion.hears(nil, a.life)
		a.office.tell(owner.Silent{})
		return
	}
	if err = a.meetPartner(s); err != nil {
		a.complain("keep what the other agent tells", err)
	}
	a.companion.hears(s, a.life)
	a.office.tell(owner.Partner{Claim: claimOf(s.GetKnown())})
	if claimOf(s.GetKnown()) == a.office.claim() && !s.GetActive() && a.office.reigns() {
		a.letPartnerIn()
	}
}

// letPartnerIn lifts the fence: the partner knows who owns the rack.
func (a *Agent) letPartnerIn() {
	for _, n := range a.rack.members() {
		if p := n.ledger.Record().Partner; p == nil || !p.Shut || n.fenceDue() {
			continue
		}
		if err := n.ledger.Keep(func(r takeover.Record) takeover.Record { return r.ShutOut(false) }); err != nil {
			a.complain("let the other agent in", err)
		}
		n.lookAtTakeover()
	}
}

// Leased is told by the link whose the rack is.
func (a *Agent) Leased(l *pb.Leased) {
	select {
	case a.leased <- l:
	default: // it is asked again
	}
}
