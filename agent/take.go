package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/bmc/openbmc"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/level"
)

const (
	// takenAtOnce bounds how many BMCs are taken over at a time, so that the rules
	// go on meanwhile.
	takenAtOnce = 4
	stepTimeout = 2 * time.Minute
	// auditEvery is how often a BMC that is taken over is looked at again: whether
	// it still is, and whether its certificate nears its end.
	auditEvery = time.Hour
	// lookSoon is the wait before a BMC that could not be looked at is tried again.
	lookSoon = 15 * time.Second
	maxSteps = 64 // in one go; more is a circle
	// tellEvery is how often a take-over that is slow is reported.
	tellEvery = 5 * time.Second
)

// rackIssuer is the rack's CA as the steps need it.
type rackIssuer struct{ *ca.Rack }

// NodeURI is the one URI in the certificate of a node's BMC.
func (r rackIssuer) NodeURI(node string) string { return r.NodeIdentity(node).URI().String() }

// certifyBy has the rack's CA issue the certificates of BMCs and of our account.
func (a *Agent) certifyBy(rack *ca.Rack) {
	a.pass.issuer = &rackIssuer{rack}
	a.pass.account = ca.Account(trust.Identity{Role: trust.Agent, Domain: rack.Domain(), Name: string(a.cfg.Name)})
	for _, n := range a.rack.members() {
		n.ledger.uri = a.pass.issuer.NodeURI(string(n.entry.Name))
		n.ledger.refresh()
	}
}

// maker does steps on one make of BMC.
type maker interface {
	// Look is what the BMC shows now.
	Look(ctx context.Context) (takeover.Facts, error)
	// Do does one step. What it must remember it records before the BMC hears.
	Do(ctx context.Context, step takeover.Step) error
}

// handed is a lane that lets resources be asked for.
type handed interface {
	Hand(prio bmc.Priority) bmc.Hand
}

// maker is the one for a node's BMC, found by its make.
func (a *Agent) maker(ctx context.Context, n *node) (maker, error) {
	l, err := a.way(n, level.Takeover)
	if err != nil {
		return nil, err
	}
	h, ok := l.(handed)
	if !ok {
		return nil, fault.New(fault.Unsupported, "take over", "this way to the BMC can't")
	}
	hand := h.Hand(bmc.Inventory)
	if _, err = hand.Root(ctx); err != nil {
		return nil, err
	}
	if make := hand.Profile().Name; make != "OpenBMC" {
		return stranger{hand, make, a.now}, nil
	}
	return &openbmc.Driver{
		Node: n.entry.Name, Addresses: addressOf(n.seen().Address), BMC: hand, Issuer: a.pass.issuer,
		Ledger: n.ledger, Vault: a.vault, Now: a.now, Wait: waited,
	}, nil
}

func addressOf(hostPort string) []netip.Addr {
	if at, err := netip.ParseAddrPort(hostPort); err == nil {
		return []netip.Addr{at.Addr()}
	}
	return nil
}

// waited waits d; false if ctx ended before.
func waited(ctx context.Context, d time.Duration) bool {
	wait(ctx, d)
	return ctx.Err() == nil
}

// stranger is a make whose take-over is not known: it is told what could not be
// done, and nothing is tried.
type stranger struct {
	hand bmc.Hand
	make string
	now  func() time.Time
}

// Look implements maker.
func (s stranger) Look(context.Context) (takeover.Facts, error) {
	f := takeover.Facts{At: s.now(), Lacks: map[takeover.Step]string{}}
	if peer := s.hand.Peer(); peer.Certificate != nil {
		f.Key, f.Ends, f.Asked = redfish.PinOf(peer.Certificate), peer.Certificate.NotAfter, peer.Asked
	}
	for _, step := range takeover.Steps() {
		f.Lacks[step] = "how it is done on this make of BMC (" + s.make + ") is not known yet"
	}
	return f, nil
}

// Do implements maker.
func (s stranger) Do(context.Context, takeover.Step) error {
	return fault.New(fault.Unsupported, "take over", "not on this make of BMC: "+s.make)
}

// takeOver takes a node's BMC over, and keeps it so, until ctx ends. It leaves
// the first look at the rack to those who wait for it.
func (a *Agent) takeOver(ctx context.Context, n *node) error {
	if err := a.looked(ctx); err != nil {
		return err
	}
	for {
		next := auditEvery
		if n.ledger.Record().Goal != "" || n.entry.TakeOver {
			next = a.advance(ctx, n)
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-n.taking:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// advance does the steps that can be done now, and says when to look again.
func (a *Agent) advance(ctx context.Context, n *node) time.Duration {
	select {
	case a.taking <- struct{}{}:
		defer func() { <-a.taking }()
	case <-ctx.Done():
		return auditEvery
	}
	if err := a.wish(n); err != nil {
		a.complain("begin take-over", err)
		return lookSoon
	}
	if r := n.ledger.Record(); takeover.Over(r) {
		if r.Known != "" { // an earlier life did not come to it
			a.letGo(ctx, n)
		}
		return auditEvery
	}
	defer a.reportTrust(n)
	defer a.moveKey()
	m, err := a.maker(ctx, n)
	if err != nil {
		return lookSoon
	}
	told := a.now()
	for range maxSteps {
		step, when, err := a.step(ctx, n, m)
		if ctx.Err() == nil {
			n.stuckOn(a.now(), err)
		}
		switch {
		case err != nil:
			if ctx.Err() == nil {
				a.log.Warn("a take-over waits", obs.Node, string(n.entry.Name), obs.Err, err)
			}
			return lookSoon
		case takeover.Over(n.ledger.Record()):
			a.letGo(ctx, n)
			return auditEvery
		case step == takeover.Nothing && when.IsZero():
			return auditEvery
		case step == takeover.Nothing:
			return max(time.Second, min(when.Sub(a.now()), auditEvery))
		}
		if a.now().Sub(told) > tellEvery {
			told = a.now()
			a.reportTrust(n)
		}
	}
	return lookSoon
}

// wish notes that a BMC shall be taken over, if the catalogue says so and nobody
// has given it back.
func (a *Agent) wish(n *node) error {
	if _, err := a.pass.current(); err != nil && n.entry.TakeOver {
		return err // also renews it, while there is time
	}
	n.ledger.refresh()
	if n.ledger.Record().Goal != "" || !n.entry.TakeOver {
		return nil
	}
	return a.take(n)
}

func (a *Agent) take(n *node) error {
	login := a.cfg.loginOf(n.entry)
	user, _, err := login.read()
	if err != nil {
		return err
	}
	partner := a.companion.partner()
	return n.ledger.Keep(func(r takeover.Record) takeover.Record { return r.Take(user, a.pass.account).With(partner) })
}

// step looks, decides and does: what is about to be done is recorded before, what
// became of it after.
func (a *Agent) step(ctx context.Context, n *node, m maker) (step takeover.Step, when time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	seen, err := m.Look(ctx)
	if err != nil {
		return takeover.Nothing, when, err
	}
	n.told(seen.Serial, seen.At)
	if err = a.sameServer(n, seen); err != nil {
		return takeover.Nothing, when, err
	}
	err = n.ledger.Keep(func(r takeover.Record) takeover.Record {
		r = r.Absorb(seen)
		r.Address = n.seen().Address
		step, when = takeover.Next(a.now(), seen, r)
		return r.Begin(step)
	})
	if err != nil || step == takeover.Nothing {
		return step, when, err
	}
	begun := a.now()
	doErr := m.Do(ctx, step)
	if fault.Is(doErr, fault.Denied) {
		a.outlawed(ctx, n, string(fault.Denied))
	}
	if doErr != nil && ctx.Err() != nil {
		return step, when, doErr // the end of the process is no outcome
	}
	err = n.ledger.Keep(func(r takeover.Record) takeover.Record {
		if doErr != nil {
			return r.Failed(a.now(), step, openbmc.Failure(doErr))
		}
		return r.Done(step)
	})
	if step == takeover.Install {
		a.askAt(n.seen().Address) // another key answers there now
	}
	if doErr != nil {
		a.log.Warn("a step of a take-over failed", obs.Node, string(n.entry.Name), obs.Step, string(step), obs.Err, doErr)
	} else {
		a.log.Info("a step of a take-over is done", obs.Node, string(n.entry.Name), obs.Step, string(step), obs.Took, a.now().Sub(begun))
	}
	return step, when, err
}

// sameServer refuses a BMC that belongs to another server than the catalogue or
// the first meeting says.
func (a *Agent) sameServer(n *node, seen takeover.Facts) error {
	want := cmp.Or(n.listedSerial(), n.ledger.Record().Serial)
	if want == "" || seen.Serial == "" || strings.EqualFold(want, seen.Serial) {
		return nil
	}
	return fault.New(fault.Untrusted, "take over", fmt.Sprintf("this BMC is of the server with the serial number %s, not %s", seen.Serial, want)).
		WithHint("correct the catalogue, or find out what was swapped")
}

// trustOf is what the mesh is told of a node's BMC.
func (a *Agent) trustOf(n *node, s fleet.Node) fleet.BMCTrust {
	return a.trustBy(n, s, a.judge(n))
}

func (a *Agent) trustBy(n *node, s fleet.Node, j judgement) fleet.BMCTrust {
	t := takeover.Trust(a.now(), n.ledger.Record())
	t.ClockOff = t.ClockOff.Round(time.Minute) // its drift is no news
	t.Level, t.Why, t.Since, t.Elements = j.Level.String(), j.why(), s.Trust.Since, j.elements(s)
	if s.Trust.Level != t.Level || t.Since.IsZero() {
		t.Since = a.now()
	}
	if s.State == fleet.Untrusted {
		t.Quarantine = s.Reason
	} else if j.Level == level.Quarantined {
		t.Quarantine = t.Why
	}
	return t
}

// reportTrust tells how far a take-over is.
func (a *Agent) reportTrust(n *node) {
	now := a.settle(n)
	select {
	case a.escrowing <- struct{}{}:
	default:
	}
	if a.cfg.Taken != nil {
		a.cfg.Taken(now.Name, now.Trust)
	}
}
