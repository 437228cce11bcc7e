package agent

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

const (
	// ownTimeout bounds how long a command waits for a take-over or a release, which
	// goes on after it.
	ownTimeout = 5 * time.Minute
	ownLook    = 100 * time.Millisecond
)

// own does a command about who owns a BMC.
func (a *Agent) own(ctx context.Context, n *node, c scl.Command) fleet.Result {
	begun := a.now()
	err := a.may(n, deedsOf(c)...)
	switch c.Verb {
	case scl.DoAccept:
		return a.accept(ctx, nil, n, c)
	case scl.DoTakeOver:
		if err == nil {
			err = a.startTakeover(n, c.Secret)
		}
	case scl.DoRelease:
		if r := n.ledger.Record(); takeover.Over(r) && r.Known == "" { // by an earlier life, whose word was lost, or by another run
			return fleet.Result{Status: fleet.Unchanged, After: "given back before, with the password of then"}
		}
		if err == nil {
			err = a.startRelease(n, c.Secret)
		}
	default:
		err = fault.New(fault.Internal, "own the BMC", "no such command: "+string(c.Verb))
	}
	if err != nil {
		return failure(err)
	}
	a.askAt(n.ledger.Record().Address)
	n.lookAtTakeover()
	return a.owned(ctx, n, begun)
}

// startTakeover wants the BMC ours. A password is what it has now, if it is not
// the configured one.
func (a *Agent) startTakeover(n *node, s scl.Secret) error {
	if a.pass.issuer == nil {
		return fault.New(fault.Unsupported, "take over", "this rack has no authority: its name and the site's must be labels of lower-case letters, digits and '-'")
	}
	if n.ledger.Record().Goal != takeover.Taken {
		if err := a.take(n); err != nil {
			return err
		}
	}
	if s.None() {
		return nil
	}
	password, err := a.reveal(s)
	if err != nil {
		return err
	}
	return a.vault.Propose(string(n.entry.Name), redfish.Credentials{User: n.ledger.Record().Bootstrap, Password: password})
}

func (a *Agent) reveal(s scl.Secret) (fleet.Secret, error) {
	if s.Sealed == "" {
		return s.Literal, nil
	}
	return a.openSecret(s.Sealed, s.Use)
}

// startRelease wants the BMC given back. A release that an earlier life began goes on.
func (a *Agent) startRelease(n *node, s scl.Secret) error {
	const op = "give the BMC back"
	password, err := a.reveal(s)
	if err != nil {
		return err
	}
	switch r := n.ledger.Record(); {
	case r.Goal == takeover.Released && r.Known != "":
		begun, openErr := n.ledger.Open(r.Known)
		if openErr == nil && begun != password {
			return fault.New(fault.Conflict, op, "it is being given back with another password").WithHint("see how far it is: chiba get bmcs " + string(n.entry.Name))
		}
		return openErr
	case r.Goal != takeover.Taken:
		return fault.New(fault.Conflict, op, "it was not taken over").WithHint("see: chiba get bmcs " + string(n.entry.Name))
	}
	sealed, err := n.ledger.Seal(password)
	if err != nil {
		return err
	}
	return n.ledger.Keep(func(r takeover.Record) takeover.Record { return r.Release(sealed) })
}

// owned waits until a take-over or a release that began has ended, or waits for
// something.
func (a *Agent) owned(ctx context.Context, n *node, begun time.Time) fleet.Result {
	ctx, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	tick := time.NewTicker(ownLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return failure(fault.New(fault.Timeout, "own the BMC", "it takes longer; it goes on").WithHint("see how far it is: chiba get bmcs " + string(n.entry.Name)))
		case <-tick.C:
		}
		t := a.trustOf(n, n.seen())
		switch stuck := n.stuckSince(begun); {
		case stuck != nil:
			return failure(n.wayOn(stuck))
		case t.Quarantine != "":
			return failure(fault.New(fault.Untrusted, "own the BMC", t.Quarantine))
		case t.Released && n.ledger.Record().Known != "", t.At.Before(begun) && !t.Released, t.Step != "":
			continue
		case t.Released:
			return fleet.Result{Status: fleet.Confirmed, After: "given back"}
		case t.Done() && len(t.Limits) == 0:
			return fleet.Result{Status: fleet.Confirmed, After: string(t.Takeover)}
		case t.Done():
			return fleet.Result{Status: fleet.Attempted, After: string(t.Takeover), Error: strings.Join(t.Limits, "; ")}
		default:
			return failure(fault.New(fault.Conflict, "own the BMC", "it stops here: "+strings.Join(t.Limits, "; ")))
		}
	}
}

// wayOn is why a take-over or a release stopped, with what a person can do. It is
// wanted still, and tried again.
func (n *node) wayOn(stuck error) error {
	hint := "it is tried again by itself; see how far it is: chiba get bmcs " + string(n.entry.Name)
	if fault.Is(stuck, fault.Denied) {
		hint = "give the password that it has now: " + takeItWith(n.entry.Name)
	}
	return &fault.Error{Kind: fault.KindOf(stuck), Err: stuck, Hint: hint}
}

// takeItWith is what a person types to take a BMC over whose password they know.
func takeItWith(name fleet.NodeName) string {
	return "chiba bmc takeover " + string(name) + " --password-file FILE"
}

// letGo leaves a BMC that was given back, and forgets what it let us in with. It
// has ended when the record holds no known password any longer.
func (a *Agent) letGo(ctx context.Context, n *node) {
	if l := n.leave(); l != nil {
		a.closeLane(ctx, n, l)
	}
	a.leftAlone(n)
	a.reportTrust(n)
	err := a.vault.keep(string(n.entry.Name), nil)
	if err == nil {
		err = n.ledger.Keep(func(r takeover.Record) takeover.Record {
			r.Known, r.Sealed = "", nil
			return r
		})
	}
	if err != nil {
		a.complain("forget a BMC's passwords", err)
	}
	a.log.Info("a BMC was given back", obs.Node, string(n.entry.Name))
}

// approve takes a person's word for the BMC with the key that it has: a policy may
// ask for it. What the BMC has told of itself is asked anew.
func (a *Agent) approve(by []string, n *node, pin string) fleet.Result {
	m := n.admitted().said(by, a.now())
	if err := a.keepAdmission(m); err != nil {
		return failure(err)
	}
	n.words(m)
	a.settle(n)
	n.poke()
	return fleet.Result{Status: fleet.Unchanged, After: pin}
}

// accept takes, by a person's word, another key for a node's BMC: it was replaced,
// or its firmware made a new one. It is met anew, with nothing of the old one.
func (a *Agent) accept(ctx context.Context, by []string, n *node, c scl.Command) fleet.Result {
	const op = "accept the key"
	if len(by) == 0 {
		by = []string{somebody}
	}
	old := n.ledger.Record()
	pin := c.Args[0]
	switch {
	case !redfish.ValidPin(pin):
		return failure(fault.New(fault.BadInput, op, fmt.Sprintf("%q is not sha256/ and 32 bytes in base64", pin)).
			WithHint("copy it from what chiba get nodes says, and compare it with the BMC's own"))
	case old.Pin == pin:
		return a.approve(by, n, pin)
	}
	for _, other := range a.rack.members() {
		if other != n && other.ledger.Record().Has(pin) {
			return failure(fault.New(fault.Conflict, op, "it is the key of "+string(other.entry.Name)))
		}
	}
	m := n.admitted()
	m.Pin, m.Words = pin, nil
	m = m.said(by, a.now())
	next := takeover.Met(pin)
	next.Address = cmp.Or(n.seen().Address, old.Address)
	err := a.spool.Update(func(tx *spool.Tx) error {
		tx.Put(spool.Notes, acceptedKey(n.entry), []byte(pin))
		tx.PutTime(spool.Notes, acceptedAtKey(n.entry), a.now())
		tx.PutJSON(spool.Notes, admissionKey(pin), m)
		if m.State == fleet.Admitted {
			tx.Delete(spool.Notes, admissionKey(old.First))
		}
		return nil
	})
	if err == nil {
		err = n.ledger.replace(next)
	}
	if err == nil && old.Goal == takeover.Taken {
		err = a.take(n)
	}
	if err != nil {
		return failure(err)
	}
	if l := n.leave(); l != nil {
		a.closeLane(ctx, n, l)
	}
	n.anew(a.cfg.Rack, a.cfg.Site)
	n.acceptedAt(a.now())
	n.words(m)
	a.log.Warn("a person accepted another key of a BMC", obs.Node, string(n.entry.Name), obs.BMC, pin)
	a.askAt(n.ledger.Record().Address)
	return fleet.Result{Status: fleet.Confirmed, Before: old.Pin, After: pin}
}
