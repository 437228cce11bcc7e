package agent

import (
	"context"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/bmc/openbmc"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

const (
	fenceAgain   = 200 * time.Millisecond
	fenceTimeout = 10 * time.Second
)

// fence says whether the partner is to be shut out of a BMC before anything is
// written there.
func (n *node) fence(due bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.toFence = due
}

func (n *node) fenceDue() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.toFence
}

// reignMark is what the sessions of this reign are known by.
func (a *Agent) reignMark() string {
	if c := a.office.claim(); a.cfg.Pair.Name != "" && c.Agent != "" {
		return a.cfg.mark(c.Epoch.String())
	}
	return a.cfg.mark(string(a.cfg.Name))
}

// shutOut shuts the other agent out of a node's BMC, if that is due, and tries until
// it is done or ctx ends.
func (a *Agent) shutOut(ctx context.Context, n *node) error {
	for said := ""; n.fenceDue(); {
		if _, err := n.way(); err != nil { // it is looked for
			wait(ctx, fenceAgain)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		err := a.shutOutOnce(ctx, n)
		if fault.Is(err, fault.Denied) {
			err = a.yieldOrRegain(ctx, n, err)
		}
		if err == nil {
			n.fence(false)
			a.log.Info("the other agent is shut out of a BMC", obs.Node, string(n.entry.Name), obs.Epoch, a.office.claim().Epoch.String())
			n.lookAtTakeover()
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if text := err.Error(); text != said && !fault.Is(err, fault.Unavailable) {
			a.log.Warn("the other agent could not be shut out of a BMC yet", obs.Node, string(n.entry.Name), obs.Err, err)
			said = text
		}
		wait(ctx, fenceAgain)
	}
	return nil
}

// yieldOrRegain is for one that was itself shut out. By an agent that is dead, if the rack was
// granted to us since: then we let ourselves in. Else perhaps by an owner that came
// after us: we yield, and ask for the rack.
func (a *Agent) yieldOrRegain(ctx context.Context, n *node, denied error) error {
	if !a.office.now().Regain {
		a.outlawed(ctx, n, string(fault.Denied))
		return denied
	}
	if err := a.regain(ctx, n); err != nil {
		return err
	}
	return a.shutOutOnce(ctx, n)
}

func (a *Agent) shutOutOnce(ctx context.Context, n *node) error {
	l, err := n.way()
	if err != nil {
		return err
	}
	h, ok := l.(handed)
	if !ok {
		return fault.New(fault.Unsupported, "shut the other agent out", "this way to the BMC can't")
	}
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	own, rack := a.reignMark(), a.cfg.mark("")
	f := openbmc.Fence{Others: func(mark string) bool { return mark != own && strings.HasPrefix(mark, rack) }}
	if p := n.ledger.Record().Partner; p != nil {
		f.Account = p.Account
	}
	return openbmc.Shut(ctx, h.Hand(bmc.Action), f)
}

// regain makes our account an administrator again, in the name of the other agent,
// which has shut us out and is dead: the rack has been granted to us since. Its
// account is the rack's, and so is the authority that lets it in.
func (a *Agent) regain(ctx context.Context, n *node) error {
	const op = "be let in again"
	r := n.ledger.Record()
	if r.Partner == nil || a.pass.issuer == nil {
		return fault.New(fault.Denied, op, "no account of another agent is known there")
	}
	other := login{User: r.Partner.Account}
	terms := n.ledger.Terms()
	terms.User, terms.Certificate = "", nil
	if r.Proven() {
		cert, _, err := a.pass.issue(r.Partner.Account)
		if err != nil {
			return err
		}
		terms.User, terms.Certificate = r.Partner.Account, cert
	}
	if sealed := r.Sealed[r.Partner.Account]; sealed != "" {
		var err error
		if other.Password, err = n.ledger.Open(sealed); err != nil {
			return err
		}
	}
	l, err := bmc.New(bmc.Config{Node: n.entry.Name, Vault: other, BMC: redfish.Config{
		BMC: string(n.entry.Name), Address: n.lastAddress(), Context: a.reignMark(),
		Terms: func() redfish.Terms { return terms },
	}})
	if err != nil {
		return err
	}
	defer a.closeLane(ctx, n, l)
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	return openbmc.LetIn(ctx, l.Hand(bmc.Action), r.Account)
}

// login is the one login of a lane.
type login redfish.Credentials

// Candidates implements bmc.Vault, as the others do.
func (l login) Candidates(string) ([]redfish.Credentials, error) {
	return []redfish.Credentials{redfish.Credentials(l)}, nil
}

// Prove keeps nothing.
func (login) Prove(string, redfish.Credentials) error { return nil }

// Propose keeps nothing.
func (login) Propose(string, redfish.Credentials) error { return nil }

// outlawed asks a BMC that has refused a write whether another agent has shut us out.
// Then we yield, and it does not return before the reign has ended: what was refused
// is no result.
func (a *Agent) outlawed(ctx context.Context, n *node, kinds ...string) {
	denied := false
	for _, k := range kinds {
		denied = denied || k == string(fault.Denied)
	}
	r := n.ledger.Record()
	if !denied || a.pair == nil || r.Goal != takeover.Taken || ctx.Err() != nil {
		return
	}
	l, err := n.way()
	h, ok := l.(handed)
	if err != nil || !ok {
		return
	}
	asking, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	out, err := openbmc.ShutOut(asking, h.Hand(bmc.Action), r.Account)
	if err != nil || !out {
		return
	}
	a.log.Warn("a BMC has shut this agent out: another one owns the rack", obs.Node, string(n.entry.Name), obs.Epoch, a.office.claim().Epoch.String())
	a.office.tell(owner.Refused{})
	timer := time.NewTimer(fenceTimeout)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func kindsOf(results []fleet.Result) []string {
	kinds := make([]string, 0, len(results))
	for _, r := range results {
		kinds = append(kinds, r.Kind)
	}
	return kinds
}
