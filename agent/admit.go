package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/level"
)

// person does what people say about a BMC: by are their names, as the policy of
// authors has them, of all who have signed the order.
func (a *Agent) person(ctx context.Context, by []string, n *node, c scl.Command) fleet.Result {
	begun := a.now()
	a.admitting.Lock()
	defer a.admitting.Unlock()
	r, err := a.heed(ctx, by, n, c)
	if err != nil {
		r = failure(err)
	}
	if r.Node == "" {
		r.Node = n.entry.Name
	}
	r.Step, r.Started, r.Took = c.Text, begun, a.now().Sub(begun)
	return r
}

func (a *Agent) heed(ctx context.Context, by []string, n *node, c scl.Command) (fleet.Result, error) {
	switch c.Verb {
	case scl.DoAdmit:
		return a.admit(by, n, c)
	case scl.DoRefuse:
		return a.keepOut(ctx, by, n, strings.Join(c.Args, " "))
	case scl.DoForget:
		return a.disown(ctx, n)
	case scl.DoAccept:
		return a.accept(ctx, by, n, c), nil
	default:
		return fleet.Result{}, fault.New(fault.Internal, "hear a person", "no such command: "+string(c.Verb))
	}
}

// admit takes the word of people for a BMC, by its key. A stranger is let in if
// that is enough; of a member it is one voice more.
func (a *Agent) admit(by []string, n *node, c scl.Command) (fleet.Result, error) {
	const op = "admit the BMC"
	if pin := c.Args[0]; !n.ledger.Record().Has(pin) {
		return fleet.Result{}, fault.New(fault.Conflict, op, fmt.Sprintf("its key is %s, not %s", n.ledger.Record().Pin, pin)).
			WithHint("compare it with what the BMC shows itself, then say so with the right one")
	}
	if as := c.Admit.As; as != "" && !trust.ValidName(as) {
		return fleet.Result{}, fault.New(fault.BadInput, op, fmt.Sprintf("%q can't be the name of a node", as)).
			WithHint("write 1 to 63 letters, digits, '-', '_' or '.'")
	}
	m, err := a.worded(by, n, c)
	if err != nil {
		return fleet.Result{}, err
	}
	if !n.seen().Outside() {
		return a.confirm(n, m, c)
	}
	if m.Asks != "" && a.rack.taken(m.Asks, n.entry.Pin) {
		return fleet.Result{}, fault.New(fault.Conflict, op, fmt.Sprintf("there is another node of the name %s", m.Asks)).WithHint("give it another one with --as")
	}
	if err := a.keepAdmission(m); err != nil {
		return fleet.Result{}, err
	}
	n.words(m)
	a.decide(n)
	if member := a.memberBy(n.entry.Pin); member != nil {
		return fleet.Result{Node: member.entry.Name, Status: fleet.Confirmed, Before: string(fleet.Waiting), After: "admitted as " + string(member.entry.Name)}, nil
	}
	s := n.seen().Admission
	return fleet.Result{Status: fleet.Attempted, Before: string(fleet.Waiting), After: string(s.State), Error: s.Why}, nil
}

// worded is what is kept of a BMC with what people say of it now.
func (a *Agent) worded(by []string, n *node, c scl.Command) (admission, error) {
	m := n.admitted().said(by, a.now())
	m.Refused, m.Reason = nil, ""
	m.Asks, m.Serial = cmp.Or(fleet.NodeName(c.Admit.As), m.Asks), cmp.Or(c.Admit.Serial, m.Serial)
	if c.Secret.None() {
		return m, nil
	}
	password, err := a.reveal(c.Secret)
	if err != nil {
		return m, err
	}
	m.User, m.Bound = c.Admit.User, m.Pin
	m.Sealed, err = a.sealGiven(m.Pin, password)
	return m, err
}

// confirm takes one voice more for a member.
func (a *Agent) confirm(n *node, m admission, c scl.Command) (fleet.Result, error) {
	const op = "admit the BMC"
	switch as, serial := fleet.NodeName(c.Admit.As), c.Admit.Serial; {
	case as != "" && as != n.entry.Name:
		return fleet.Result{}, fault.New(fault.Conflict, op, "it is "+string(n.entry.Name)+" already").
			WithHint("for another name: chiba bmc forget " + string(n.entry.Name) + ", then admit it again")
	case serial != "" && n.entry.Serial != "" && !strings.EqualFold(serial, n.entry.Serial):
		return fleet.Result{}, fault.New(fault.Conflict, op, "its serial is "+n.entry.Serial+" in the catalogue of its agent").
			WithHint("correct it there, if that is wrong")
	case !c.Secret.None():
		password, err := a.reveal(c.Secret)
		if err == nil {
			err = a.vault.Propose(string(n.entry.Name), redfish.Credentials{User: c.Admit.User, Password: password})
		}
		if err != nil {
			return fleet.Result{}, err
		}
	}
	if err := a.keepAdmission(m); err != nil {
		return fleet.Result{}, err
	}
	n.words(m)
	a.settle(n)
	n.poke()
	return fleet.Result{Status: fleet.Confirmed, After: "let in by " + strings.Join(m.names(), " and ")}, nil
}

func (m admission) names() []string {
	var all []string
	for _, w := range m.Words {
		all = append(all, w.By)
	}
	return all
}

// words takes over what people say of the BMC.
func (n *node) words(m admission) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.admission = m
	n.noticed.approved = m.approvals()
	n.noticed.serial = level.Fact[string]{} // what it tells is asked anew
}

// admitted is what is kept of how the BMC came in.
func (n *node) admitted() admission {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.admission
}

func (a *Agent) memberBy(pin string) *node {
	all := a.rack.members()
	if i := slices.IndexFunc(all, func(n *node) bool { return n.ledger.Record().Has(pin) }); i >= 0 {
		return all[i]
	}
	return nil
}

// keepOut takes a person's word that a BMC stays out. One that was let in leaves.
func (a *Agent) keepOut(ctx context.Context, by []string, n *node, reason string) (fleet.Result, error) {
	before := n.seen().Admission.State
	if err := a.leaves(n, "refuse the BMC"); err != nil {
		return fleet.Result{}, err
	}
	m := admission{Pin: n.ledger.Record().First, Refused: &word{strings.Join(by, " and "), a.now()}, Reason: cmp.Or(reason, "a person refuses it")}
	if err := a.turnOut(ctx, n, m); err != nil {
		return fleet.Result{}, err
	}
	return fleet.Result{Status: fleet.Confirmed, Before: string(before), After: string(fleet.Barring)}, nil
}

// disown forgets what people have said of a BMC, which is then a stranger again.
func (a *Agent) disown(ctx context.Context, n *node) (fleet.Result, error) {
	before := n.seen().Admission.State
	if err := a.leaves(n, "forget the BMC"); err != nil {
		return fleet.Result{}, err
	}
	if err := a.turnOut(ctx, n, admission{Pin: n.ledger.Record().First}); err != nil {
		return fleet.Result{}, err
	}
	return fleet.Result{Status: fleet.Confirmed, Before: string(before), After: "forgotten"}, nil
}

// leaves is why a BMC can't leave the rack now, nil if it can.
func (a *Agent) leaves(n *node, op string) error {
	switch {
	case n.seen().Outside():
		return nil
	case n.admitted().State != fleet.Admitted:
		return fault.New(fault.Unsupported, op, "it stands in the catalogue of its agent").
			WithHint("take it out of there, or deny its key: chiba trust deny " + n.ledger.Record().Pin + " --reason TEXT")
	case n.ledger.Record().Goal == takeover.Taken:
		return fault.New(fault.Conflict, op, "it was taken over: who forgot it now could not get into it any more").
			WithHint("give it back first: chiba bmc release " + string(n.entry.Name))
	}
	return nil
}

// turnOut ends what was said of a BMC, with what is to be kept instead: it is a
// stranger from now on, and nothing that let us in is left here.
func (a *Agent) turnOut(ctx context.Context, n *node, m admission) error {
	member := !n.seen().Outside()
	if member {
		if l := n.leave(); l != nil {
			a.closeLane(ctx, n, l)
		}
		if err := a.vault.keep(string(n.entry.Name), nil); err != nil {
			return err
		}
		a.rack.remove(n)
	}
	err := a.spool.Update(func(tx *spool.Tx) error {
		tx.PutJSON(spool.Notes, admissionKey(m.Pin), m)
		tx.Delete(spool.Notes, approvedKey(m.Pin))
		if member {
			tx.Delete(spool.Takeovers, m.Pin)
		}
		return nil
	})
	if err != nil {
		return err
	}
	a.log.Info("a BMC is kept out", obs.Node, string(n.entry.Name), obs.BMC, m.Pin, obs.Reason, cmp.Or(m.Reason, "forgotten"))
	if member {
		a.gone(n.entry.Name, "it is no node of the rack any more")
		a.retarget()
		a.askAt("")
		return nil
	}
	n.words(m)
	a.decide(n)
	return nil
}
