package sim

import (
	"encoding/json"
	"time"

	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// The times of the product's pairs.
const (
	pairEvery    = time.Second
	pairPatience = 10 * time.Second
	shareTimeout = 5 * time.Second
	keptShare    = 2 * time.Second
	leaseEvery   = 10 * time.Second
	lookTimeout  = 2 * time.Second
	tookPatience = 30 * time.Second
)

const keyOwner = "owner"

// office is whether an agent works on its rack; owner decides it. It goes with the
// process.
type office struct {
	decider   *owner.Decider
	out       owner.Output
	every     time.Duration
	asked     time.Time
	number    uint64
	questions map[uint64]time.Time // questions that were not answered yet
	timer     uint64               // the one that counts
	looks     bool

	reigns bool   // work goes on
	reign  uint64 // of the process
	mate   mate
	taken  journal.Follower
}

// mate is what is known of the other agent, as agent.companion.
type mate struct {
	up      bool
	held    uint64 // of our changes, in our life
	pushing bool
	pushes  int
	waiting []func() // for the standby to have what was written
}

// mono is the clock that nobody sets, but that stands while the machine is suspended.
func (a *agent) mono() time.Time {
	return start.Add(time.Duration(float64(a.w.now-a.stood) * (1 + a.drift)))
}

// enter decides for the first time.
func (a *agent) enter() error {
	var kept owner.Claim
	err := a.view(func(tx *spool.Tx) error {
		if raw := tx.Get(spool.Notes, keyOwner); raw != nil {
			return json.Unmarshal(raw, &kept)
		}
		return nil
	})
	if err != nil {
		return err
	}
	a.w.lives++
	a.process = a.w.lives
	a.office = office{every: leaseEvery, questions: map[uint64]time.Time{}}
	c := owner.Config{Self: a.name, Patience: pairPatience}
	if a.partner != nil {
		c.Partner = a.partner.name
	}
	a.decider = owner.New(a.mono(), c, kept)
	a.decide(owner.Tick{})
	if a.partner != nil {
		a.ping()
	}
	return nil
}

// decide steps the decider, and does what it says as governor.follow does.
func (a *agent) decide(in owner.Input) {
	before := a.out.Role
	out := a.decider.Step(a.mono(), in)
	if out.Keep {
		err := a.update(func(tx *spool.Tx) { tx.PutJSON(spool.Notes, keyOwner, out.Claim) })
		if err != nil {
			a.die(err.Error())
			return
		}
	}
	a.out = out
	if out.Role != before && a.partner != nil {
		a.w.say("%s is %s in epoch %s: %s", a.name, out.Role, out.Claim.Epoch, out.Why)
	}
	works := out.Role == owner.Active || out.Role == owner.Holding
	if works {
		a.w.judge.owns(a)
	}
	if out.Ask || a.partner != nil && a.mono().Sub(a.asked) >= a.every {
		a.askLease()
	}
	if out.Look && !a.looks {
		a.looks = true
		a.after(lookTimeout, func() {
			a.looks = false
			a.decide(owner.View{Isolated: a.w.net.cut(a.name, a.rack)})
		})
	}
	if !works || out.Fence {
		a.abdicate()
	}
	if works && !a.reigns {
		a.begins(out.Fence)
	}
	a.wakeOffice()
}

// wakeOffice looks at the office again when time alone may have changed something.
func (a *agent) wakeOffice() {
	if a.partner == nil || !a.up {
		return
	}
	next := a.every
	if !a.out.Next.IsZero() {
		next = min(next, a.out.Next.Sub(a.mono()))
	}
	a.timer++
	this := a.timer
	a.after(next, func() {
		if a.timer == this {
			a.decide(owner.Tick{})
		}
	})
}

// may reports whether something may be begun on the rack now.
func (a *agent) may() bool {
	return a.out.Role == owner.Active && (a.out.Until.IsZero() || a.mono().Before(a.out.Until))
}

func (a *agent) claim() *pb.Owner {
	c := a.out.Claim
	return &pb.Owner{Rack: a.rack, Agent: c.Agent, Grant: c.Epoch.Grant, Local: c.Epoch.Local}
}

func claimOf(o *pb.Owner) owner.Claim {
	return owner.Claim{Agent: o.GetAgent(), Epoch: owner.Epoch{Grant: o.GetGrant(), Local: o.GetLocal()}}
}

// askLease asks a coordinator whose the rack is.
func (a *agent) askLease() {
	a.office.number++
	a.asked = a.mono()
	a.questions[a.office.number] = a.asked
	if len(a.questions) > 16 {
		clear(a.questions)
		a.questions[a.office.number] = a.asked
	}
	if s := a.session; s != nil {
		s.toCoordinator(&pb.FromAgent{Body: &pb.FromAgent_Lease{Lease: &pb.Lease{
			Number: a.office.number, Known: a.claim(), Lost: a.out.Lost, Shut: a.out.Shut, Met: a.out.Met,
			Standby: a.out.Role == owner.Standby || a.out.Role == owner.Waiting,
		}}})
	}
}

// leased is a coordinator's answer.
func (a *agent) leased(l *pb.Leased) {
	if l.GetEveryMs() > 0 {
		a.every = time.Duration(l.GetEveryMs()) * time.Millisecond
	}
	sent := a.questions[l.GetNumber()]
	delete(a.questions, l.GetNumber())
	if l.GetCut() {
		a.decide(owner.Linked{})
		return
	}
	life := a.life
	if a.decide(owner.Linked{Connected: true}); a.life == life {
		a.decide(owner.Granted{Claim: claimOf(l.GetOwner()), Sent: sent, TTL: time.Duration(l.GetTtlMs()) * time.Millisecond})
	}
}

// during is after, while this reign lasts.
func (a *agent) during(d time.Duration, do func()) {
	this := a.reign
	a.after(d, func() {
		if a.reign == this {
			do()
		}
	})
}

// begins is the begin of a reign: what the owner before has left is ours.
func (a *agent) begins(fence bool) {
	life := a.life
	a.reigns = true
	a.reign++
	a.active = map[string]*work{}
	a.taken.Own()
	if a.inherit(fence); a.life != life {
		return
	}
	var states []core.State
	err := a.update(func(tx *spool.Tx) {
		_ = journal.Unfinished(tx, a.now())
		states, _ = journal.RuleStates(tx)
	})
	if err != nil {
		a.die(err.Error())
		return
	}
	for _, n := range a.nodes {
		a.shutOut(n)
	}
	a.reconcile()
	a.engine, a.waking = core.New(states, nil), time.Time{}
	a.rule(core.Link{Connected: a.session != nil, Since: a.now()})
	a.rule(a.w.rules(a))
	a.resume()
	if a.session != nil {
		a.session.pull()
	}
}

// abdicate is its end: what it was doing is left as at the end of a process.
func (a *agent) abdicate() {
	if a.reigns {
		a.reigns, a.engine = false, nil
		a.reign++
		a.active, a.mate.waiting, a.mate.pushing = map[string]*work{}, nil, false
	}
}

// pairState is how an agent is, for its partner.
type pairState struct {
	claim        owner.Claim
	active       bool
	life         uint64
	held, heldOf uint64
}

func (a *agent) pairState() pairState {
	last, life := a.taken.Held()
	return pairState{a.out.Claim, a.reigns, a.process, last, life}
}

// tell asks the partner something; answer is called if it answers in this process.
func (a *agent) tell(question func(p *agent), answer func(pairState)) {
	p, life := a.partner, a.life
	a.w.net.drop(a.name, p.name, func() {
		p.alive(func() {
			if question(p); !p.up {
				return
			}
			s := p.pairState()
			a.w.net.drop(p.name, a.name, func() {
				if a.life == life {
					a.alive(func() { answer(s) })
				}
			})
		})
	})
}

// ping asks the partner how it is, every second.
func (a *agent) ping() {
	answered, mine := false, a.pairState()
	a.tell(func(p *agent) { p.decide(owner.Partner{Claim: mine.claim}) }, func(s pairState) {
		answered = true
		a.hears(s)
	})
	a.after(pairEvery, func() {
		if a.ping(); !answered {
			a.mate.up = false
			a.heard()
			a.decide(owner.Silent{})
		}
	})
}

// hears takes an answer of the partner.
func (a *agent) hears(s pairState) {
	a.mate.up, a.mate.held = true, 0
	if s.heldOf == a.process {
		a.mate.held = s.held
	}
	life := a.life
	if a.decide(owner.Partner{Claim: s.claim}); a.life != life {
		return
	}
	if s.claim == a.out.Claim && !s.active && a.reigns {
		a.letPartnerIn()
	}
	a.heard()
	a.replicate()
}

// heard goes on with what has waited for the standby, if it has all or does not answer.
func (a *agent) heard() {
	last, _ := a.spool.Version()
	if a.mate.up && a.mate.held < last {
		return
	}
	waiting := a.mate.waiting
	a.mate.waiting = nil
	for _, do := range waiting {
		do()
	}
}

// shared does something when the standby has all that was written here, or after a
// bounded time. It tells whether the standby has.
func (a *agent) shared(do func(has bool)) {
	if a.partner == nil {
		do(true)
		return
	}
	last, _ := a.spool.Version()
	done := false
	once := func() {
		if !done {
			done = true
			do(a.mate.up && a.mate.held >= last)
		}
	}
	if !a.mate.up || a.mate.held >= last {
		once()
		return
	}
	a.mate.waiting = append(a.mate.waiting, once)
	a.during(keptShare, func() {
		if !done {
			a.mate.up = false
			once()
		}
	})
}

// replicate brings the standby what is written here.
func (a *agent) replicate() {
	last, _ := a.spool.Version()
	if a.partner == nil || !a.reigns || a.mate.pushing || !a.mate.up || a.mate.held == last {
		return
	}
	held, all := a.mate.held, false
	changes, to, ok := a.spool.Changes(held)
	if !ok || held == 0 {
		var err error
		if changes, to, err = a.spool.Everything(); err != nil {
			a.w.violate("%s can't read its spool: %v", a.name, err)
		}
		all = true
	}
	share := share{a.out.Claim, a.process, held, to, all, changes}
	a.mate.pushing = true
	a.mate.pushes++
	this := a.mate.pushes
	var refused error
	a.tell(func(p *agent) {
		p.decide(owner.Partner{Claim: share.claim})
		if p.up {
			refused = p.take(share)
		}
	}, func(s pairState) {
		if a.mate.pushes != this {
			return
		}
		a.mate.pushing = false
		if a.hears(s); refused != nil {
			a.mate.up = false
		}
	})
	a.during(shareTimeout, func() {
		if a.mate.pushing && a.mate.pushes == this {
			a.mate.pushes++
			a.mate.pushing, a.mate.up = false, false
		}
	})
}

// share is what the owner has written.
type share struct {
	claim    owner.Claim
	life     uint64
	from, to uint64
	all      bool
	changes  []spool.Change
}

// take takes what the owner has written, as agent.takeShare does.
func (a *agent) take(s share) error {
	if s.claim.Agent != a.partner.name || a.out.Claim.After(s.claim) || a.reigns {
		return errNotOwner
	}
	if !a.taken.Follows(s.life, s.from, s.all) {
		return nil
	}
	if err := a.spool.Take(s.changes, s.all, journal.Outdated); err != nil {
		return err
	}
	a.taken.Took(s.life, s.to)
	return nil
}

// record is what is kept of a BMC: who has written it, and whether the other one is
// shut out.
type record struct {
	By   string
	Shut bool
}

func (a *agent) recordOf(n fleet.NodeName) (r record) {
	_ = a.view(func(tx *spool.Tx) error {
		if raw := tx.Get(spool.Takeovers, string(n)); raw != nil {
			return json.Unmarshal(raw, &r)
		}
		return nil
	})
	if r.By != a.name { // handed to us: the other one is the one that had shut us out
		r = record{By: a.name}
	}
	return r
}

func (a *agent) keepRecord(n fleet.NodeName, r record) error {
	return a.update(func(tx *spool.Tx) { tx.PutJSON(spool.Takeovers, string(n), r) })
}
