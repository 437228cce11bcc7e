// Package owner decides which of the two agents of a rack works on its BMCs: the
// one that owns the rack. It is pure: what happens comes in through [Decider.Step]
// together with the time at which it happened; what is to be done comes back.
//
// # The rules
//
// The highest epoch wins, whoever tells of it. An agent that reaches the
// coordinators owns the rack by their grant, and begins nothing once its lease is
// over; the lease is counted from the moment at which it was asked for. One that
// reaches none goes on with the epoch it has, without limit: nobody else may be
// there. The standby takes the rack over when its partner is silent: by asking a
// coordinator, or, cut off, in the next epoch of its own if the neighbours do not
// see the partner either and it is not itself the one that is cut from the rack.
//
// None of this keeps two agents apart that reach neither each other nor a
// coordinator: a new owner therefore shuts the old one out at the BMCs
// ([Output.Fence]), and an owner that a BMC has shut out yields.
package owner

import (
	"time"
)

// Role is what an agent does with its rack.
type Role int

// The roles.
const (
	Waiting Role = iota // it has just started and does not know yet
	Standby             // it begins nothing
	Holding             // it owns the rack by a lease that is over: it begins nothing new
	Active              // it works on the rack
)

// String is the role as people read it.
func (r Role) String() string {
	return [...]string{"starting", "standby", "holding", "active"}[r]
}

// Config is what never changes. Self and Partner are names of agents; without a
// partner an agent owns its rack unless it is told that another does.
type Config struct {
	Self, Partner string
	// Patience is how long a partner, or at the start everybody, must be silent to
	// count as dead.
	Patience time.Duration
}

// Input is one thing that happened: [Linked], [Granted], [Partner], [Silent],
// [View], [Refused] or [Tick].
type Input interface {
	happen(d *Decider, now time.Time)
}

// Linked says whether a coordinator is reached that is in touch with a majority.
type Linked struct{ Connected bool }

// Granted is a coordinator's answer to what was asked at Sent. If the claim is ours,
// the rack is ours for TTL from then on.
type Granted struct {
	Claim
	Sent time.Time
	TTL  time.Duration
}

// Partner is an answer of the partner to a ping: whom it takes for the owner.
type Partner struct{ Claim }

// Silent says that the partner did not answer a ping.
type Silent struct{}

// View is what was found out for [Output.Look].
type View struct {
	// Alive: others of the site say that the partner lives.
	Alive bool
	// Isolated: we reach none of the rack's BMCs.
	Isolated bool
}

// Refused says that a BMC has shut us out: our account may only read there.
type Refused struct{}

// Tick is nothing but the passing of time.
type Tick struct{}

// Output is what follows from an input.
type Output struct {
	Role  Role
	Claim Claim // the highest one known
	// Keep: Claim has changed and must be durable before anything else is done.
	Keep bool
	// Fence: this is a new reign, and the partner may not know of it: it must be shut
	// out of each BMC before anything is written there.
	Fence bool
	// Regain: coordinators have given us the rack though, or because, we were shut out
	// of BMCs: there we may make ourselves administrators again. Nothing else tells
	// that who has shut us out has done so in an earlier epoch.
	Regain bool
	// Until is when a lease ends: nothing is to be begun later. Zero: not by itself.
	Until time.Time
	// Ask a coordinator now. Lost says with it that the partner is lost, Shut that we
	// own the rack and can't work on it, Met that the partner answers since and does not
	// claim the rack: then it is better given to it.
	Ask, Lost, Shut, Met bool
	// Look whether others see the partner and whether we reach the rack, and tell a
	// View.
	Look bool
	Why  string    // the last change of the role came about, in words
	Next time.Time // when to step again at the latest; zero: not by itself
}

// Decider is one agent's part in who owns a rack. It is not safe for concurrent use.
type Decider struct {
	cfg   Config
	claim Claim
	role  Role
	why   string

	begun     time.Time
	connected bool
	cut       time.Time // since when it is not
	lease     time.Time // its end; zero: none was granted
	heard     time.Time // when the partner last answered
	silent    bool      // it did not answer the last ping
	shut      bool      // a BMC has shut us out in this epoch
	met       bool      // and the partner has answered since
	regain    bool      // the rack was granted to us since we were shut out

	out Output // of the step that goes on
}

// New is a decider that starts at now with the claim that was kept; the zero Claim
// if none was.
func New(now time.Time, cfg Config, kept Claim) *Decider {
	d := &Decider{cfg: cfg, claim: kept, begun: now, cut: now, heard: now}
	switch {
	case cfg.Partner == "" && (kept.Agent == "" || kept.Agent == cfg.Self):
		d.become(Active, "it is alone")
	case kept.Agent != cfg.Self:
		d.become(Standby, "it does not own the rack")
	default:
		d.become(Waiting, "it has started")
	}
	return d
}

// Step takes one input at the time now and says what is to be done. The time must
// not go back.
func (d *Decider) Step(now time.Time, in Input) Output {
	d.out = Output{}
	in.happen(d, now)
	d.settle(now)
	d.out.Role, d.out.Claim, d.out.Why, d.out.Shut = d.role, d.claim, d.why, d.shut
	d.out.Met, d.out.Regain = d.met && !d.silent, d.regain && d.own()
	if d.role == Active && d.leased() {
		d.out.Until = d.lease
	}
	d.out.Next = d.next(now)
	return d.out
}

func (d *Decider) become(r Role, why string) {
	if d.role != r || d.why == "" {
		d.role, d.why = r, why
	}
}

func (d *Decider) own() bool { return d.claim.Agent == d.cfg.Self }

// leased reports whether the rack is ours only as long as a lease runs. Alone it is
// ours without one; cut off, without limit.
func (d *Decider) leased() bool { return d.cfg.Partner != "" && d.connected }

// learn takes a claim that somebody makes, if it is news.
func (d *Decider) learn(c Claim) {
	if c.Agent == "" || !c.After(d.claim) {
		return
	}
	before := d.claim
	d.regain = d.shut
	d.claim, d.shut, d.met, d.out.Keep = c, false, false, true
	switch {
	case d.own():
		d.out.Fence = before.Agent != "" && d.cfg.Partner != ""
		d.become(Active, "it was granted the rack")
	default:
		d.lease = time.Time{}
		d.become(Standby, c.String()+" owns the rack")
	}
}

func (l Linked) happen(d *Decider, now time.Time) {
	if l.Connected && !d.connected {
		d.out.Ask = true
	}
	if !l.Connected && d.connected {
		d.cut = now
	}
	d.connected = l.Connected
}

func (g Granted) happen(d *Decider, _ time.Time) {
	d.learn(g.Claim)
	switch {
	case d.claim.After(g.Claim):
		d.out.Ask = d.own() // it has not heard of our take-over yet
	case d.own() && g.Agent == d.cfg.Self:
		if end := g.Sent.Add(g.TTL - g.TTL/10); end.After(d.lease) { // its clock may be a little slower than ours
			d.lease = end
		}
	}
}

func (p Partner) happen(d *Decider, now time.Time) {
	d.heard, d.silent = now, false
	if d.learn(p.Claim); d.shut && !d.met {
		d.met, d.out.Ask = true, d.connected
	}
	if d.role == Waiting && !d.connected && d.own() {
		d.become(Active, "its partner knows of no other owner")
	}
}

func (Silent) happen(d *Decider, _ time.Time) { d.silent = true }

func (Refused) happen(d *Decider, _ time.Time) {
	if !d.own() {
		return
	}
	d.shut, d.met, d.regain, d.out.Ask = true, false, false, true
	d.become(Standby, "a BMC has shut it out")
}

func (v View) happen(d *Decider, now time.Time) {
	if !d.mayTake(now) || v.Alive || v.Isolated {
		return
	}
	d.claim = Claim{d.cfg.Self, d.claim.Epoch.Next(d.cfg.Self > d.cfg.Partner)}
	d.shut, d.met, d.regain, d.out.Keep, d.out.Fence = false, false, false, true, true
	d.become(Active, d.cfg.Partner+" is dead, and no coordinator is reached")
}

func (Tick) happen(*Decider, time.Time) {}

// lost reports whether the partner counts as dead.
func (d *Decider) lost(now time.Time) bool {
	return d.cfg.Partner != "" && d.silent && now.Sub(d.heard) >= d.cfg.Patience
}

// mayTake reports whether it is ours to take the rack over without being granted
// it: nobody is left who could say no. Who was shut out knows that somebody is there.
func (d *Decider) mayTake(now time.Time) bool {
	return d.role == Standby && !d.shut && !d.connected && now.Sub(d.cut) >= d.cfg.Patience && d.lost(now)
}

// settle is what follows from the time and from all that is known.
func (d *Decider) settle(now time.Time) {
	over := !now.Before(d.lease)
	switch {
	case d.role == Waiting && d.connected && !over:
		d.become(Active, "it still has the rack")
	case d.role == Waiting && !d.connected && now.Sub(d.begun) >= d.cfg.Patience:
		d.become(Active, "nobody says otherwise")
	case d.role == Active && d.leased() && over:
		d.become(Holding, "its lease is over")
	case d.role == Holding && (!d.leased() || !over):
		d.become(Active, "it goes on")
	}
	if d.role == Standby && d.lost(now) {
		d.out.Lost = true
		d.out.Ask = d.out.Ask || d.connected
		d.out.Look = d.mayTake(now)
	}
}

// next is when time alone changes something.
func (d *Decider) next(now time.Time) (at time.Time) {
	soonest := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	switch d.role {
	case Waiting:
		soonest(d.begun.Add(d.cfg.Patience))
	case Active:
		if d.leased() {
			soonest(d.lease)
		}
	case Standby, Holding:
		if d.silent {
			soonest(d.heard.Add(d.cfg.Patience))
			soonest(d.cut.Add(d.cfg.Patience))
		}
	}
	return at
}
