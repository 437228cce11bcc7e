package sim

import (
	"time"

	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

const (
	fenceAgain   = 200 * time.Millisecond
	fenceTimeout = 10 * time.Second
	lookAgain    = 10 * time.Second // at the accounts of a BMC
)

var errNotOwner = fault.New(fault.Conflict, "take what the owner has written", "it is not the owner")

// inherit notes, before anything is done, at which BMCs the other agent is to be shut
// out, as governor.inherit does.
func (a *agent) inherit(fence bool) {
	a.toFence = map[fleet.NodeName]bool{}
	if a.partner == nil {
		return
	}
	for _, n := range a.nodes {
		r := a.recordOf(n)
		shut := fence || r.Shut
		if shut != r.Shut {
			if err := a.keepRecord(n, record{a.name, shut}); err != nil {
				a.die(err.Error())
				return
			}
		}
		a.toFence[n] = shut
	}
}

// shutOut makes the other agent's account a reader's at a BMC, if that is due, and
// tries until it is done or the reign ends.
func (a *agent) shutOut(n fleet.NodeName) {
	if !a.toFence[n] {
		return
	}
	b := a.bmcs[n]
	if a.w.mutant == NoFence {
		a.fenced(n)
		return
	}
	again := func() { a.during(fenceAgain, func() { a.shutOut(n) }) }
	a.request(n, demand{as: a.name, do: func() { b.reader[a.partner.name] = true; b.fenced(a) }}, fenceTimeout, func(s answer) {
		switch s {
		case done:
			a.fenced(n)
		case denied:
			if !a.out.Regain {
				a.outlawed(n, again)
				return
			}
			// By one that is dead: the rack was granted to us since.
			a.request(n, demand{as: a.partner.name, do: func() { b.reader[a.name] = false }}, fenceTimeout, func(answer) { again() })
		case refused, silent:
			again()
		}
	})
}

func (a *agent) fenced(n fleet.NodeName) {
	a.w.say("%s has shut %s out of %s", a.name, a.partner.name, n)
	a.toFence[n] = false
	a.bmcs[n].fenced(a)
}

// outlawed asks a BMC that has refused a write whether the other agent has shut us
// out. Then we yield: what was refused is no result.
func (a *agent) outlawed(n fleet.NodeName, otherwise func()) {
	if a.partner == nil {
		otherwise()
		return
	}
	out := false
	a.request(n, demand{as: a.name, looks: true, do: func() { out = a.bmcs[n].reader[a.name] }}, fenceTimeout, func(s answer) {
		if s != done || !out {
			otherwise()
			return
		}
		a.w.say("%s is shut out of %s", a.name, n)
		a.decide(owner.Refused{})
	})
}

// letPartnerIn lifts the fence: the partner knows who owns the rack.
func (a *agent) letPartnerIn() {
	for _, n := range a.nodes {
		if !a.recordOf(n).Shut || a.toFence[n] {
			continue
		}
		if err := a.keepRecord(n, record{By: a.name}); err == nil {
			a.lookAtAccounts(n)
		}
	}
}

// reconcile has the accounts of BMCs be what they shall be, as take-overs do.
func (a *agent) reconcile() {
	if a.partner == nil {
		return
	}
	for _, n := range a.nodes {
		a.lookAtAccounts(n)
	}
	a.during(lookAgain, a.reconcile)
}

func (a *agent) lookAtAccounts(n fleet.NodeName) {
	b, shut := a.bmcs[n], a.recordOf(n).Shut
	if a.toFence[n] || b.reader[a.partner.name] == shut || a.w.mutant == NoFence {
		return
	}
	a.request(n, demand{as: a.name, do: func() { b.reader[a.partner.name] = shut }}, fenceTimeout, func(answer) {})
}

// request sends something to a BMC, and hears of it within a time, while this reign
// lasts.
func (a *agent) request(n fleet.NodeName, o demand, within time.Duration, then func(answer)) {
	answered := false
	end := func(s answer) {
		if !answered {
			answered = true
			then(s)
		}
	}
	life, reign := a.life, a.reign
	a.step()
	o.from = a
	a.bmcs[n].ask(o, func(s answer) {
		if a.life == life {
			a.alive(func() {
				if a.reign == reign {
					end(s)
				}
			})
		}
	})
	a.during(within, func() { end(silent) })
}
