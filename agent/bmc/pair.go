package bmc

import (
	"context"
	"strings"
	"time"

	"github.com/stmcginnis/gofish/schemas"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// seenWithin is how old the last look at a server may be on which a restart
// builds without another one: an agent looks at each once a minute. After that, or
// where something has changed the server since, it is looked at first.
const seenWithin = 90 * time.Second

// Pairs reports whether the two commands are a boot target and a restart that
// uses it, so that BootAndRestart may do them.
func Pairs(boot, restart scl.Command) bool {
	_, restarts := restartWord(restart)
	return boot.Verb == scl.DoBoot && len(boot.Args) == 1 && restarts
}

// restartWord is the power command that restarts, if c is one.
func restartWord(c scl.Command) (string, bool) {
	switch {
	case c.Verb == scl.DoReboot && len(c.Args) == 0:
		return "reboot", true
	case c.Verb == scl.DoPower && len(c.Args) == 1:
		plan, _ := powerPlanOf(c.Args[0])
		return c.Args[0], plan.restart
	}
	return "", false
}

// pair is a boot target and the restart that uses it.
type pair struct {
	*view
	boot, restart scl.Command
	plan          powerPlan
	target        string    // of the boot, in the BMC's spelling
	was           *system   // as last seen
	since         time.Time // by the BMC's clock, no later than the restart was asked for
}

// BootAndRestart does what Pairs: it writes the boot target, asks for the restart,
// and proves both by what is read afterwards; it does not look before if that was
// done lately.
//
// After the BMC has taken the target, begin gets its result as it stands if
// nothing more is heard; what the caller makes of it is the last thing that happens
// before the restart. Its error is returned, and nothing is restarted.
//
// There are two results, or one, of the boot target: then the restart was not
// asked for and is the caller's to do. There is none, and nothing was changed, where
// the pair has to be done by Do, one after the other: the server is not on or could
// not be looked at, or the make is not known to hold what it has accepted.
func (l *Lane) BootAndRestart(ctx context.Context, boot, restart scl.Command, begin func(boot fleet.Result) error) ([]fleet.Result, error) {
	p, ok := l.pair(ctx, boot, restart)
	if !ok {
		return nil, nil
	}
	begun := l.cfg.Now()
	b, accepted := p.setBoot(ctx)
	if !accepted {
		return []fleet.Result{l.result(boot, begun, b)}, nil
	}
	if err := begin(l.result(boot, begun, b)); err != nil {
		return nil, err
	}
	asked := l.cfg.Now()
	b, r := p.carryOut(ctx, b)
	return []fleet.Result{l.result(boot, begun, b), l.result(restart, asked, r)}, nil
}

// pair is the two as one, if they can be that on this BMC now.
func (l *Lane) pair(ctx context.Context, boot, restart scl.Command) (*pair, bool) {
	if !Pairs(boot, restart) {
		return nil, false
	}
	v := l.view(Action)
	was := l.lastSeen(seenWithin)
	if was == nil {
		var err error
		if was, _, err = v.system(ctx); err != nil {
			return nil, false
		}
	}
	if known := l.client.Profile(); !known.Holds || known.IfMatch != redfish.IfMatchNever || known.BootMode {
		return nil, false
	}
	word, _ := restartWord(restart)
	target, err := was.Boot.redfishTarget(boot.Args[0])
	if err != nil || was.PowerState != redfish.Text(schemas.OnPowerState) || was.Actions.Reset.Target == "" {
		return nil, false // Do says why
	}
	plan, _ := powerPlanOf(word)
	return &pair{view: v, boot: boot, restart: restart, plan: plan, target: target, was: was}, true
}

// setBoot writes the boot target. If it is not accepted for certain, the outcome
// is what was read back.
func (p *pair) setBoot(ctx context.Context) (o outcome, accepted bool) {
	o.before = bootTarget(p.was.Boot).String()
	err := patchBoot(ctx, p.view, p.was, overrideOf(p.target, p.boot.Once))
	switch {
	case redfish.Uncertain(err):
		return p.readBackBoot(ctx, o, p.target, err), false
	case err != nil:
		return o.with(err), false
	}
	o.status, o.note = fleet.Attempted, "the BMC accepted it; it was not read back"
	return o, true
}

// carryOut restarts the server and judges both by the looks that follow: the boot
// target by the first of them.
func (p *pair) carryOut(ctx context.Context, boot outcome) (_, restart outcome) {
	l := p.lane
	restart = outcome{before: kebab(string(p.was.PowerState))}
	l.mu.Lock()
	p.since = l.date
	l.mu.Unlock()
	used, err := p.ask(ctx)
	l.stale()
	if err != nil && !redfish.Uncertain(err) {
		return p.readBackBoot(ctx, boot, p.target, nil), restart.with(err)
	}
	looked := false
	sign := func(now *system) bool {
		moved := p.restarted(now)
		if !looked {
			boot, looked = p.judgeBoot(boot, now, moved), true
		}
		return moved
	}
	restart = l.await(ctx, p.plan, sign, restart).orUnknown(err).by(used, p.plan)
	return boot, restart
}

// ask asks for the restart by the type it would choose first. What may be chosen
// is only asked for if the BMC refuses that one.
func (p *pair) ask(ctx context.Context) (schemas.ResetType, error) {
	first, target := p.plan.types[0], p.was.Actions.Reset.Target
	p.lane.mu.Lock()
	_, known := p.lane.allowed[target]
	p.lane.mu.Unlock()
	if known || len(p.was.Actions.Reset.Allowed) > 0 {
		return p.reset(ctx, p.was, p.plan.types)
	}
	err := p.postReset(ctx, target, first)
	if fault.Is(err, fault.BadInput) || fault.Is(err, fault.Unsupported) {
		return p.reset(ctx, p.was, p.plan.types)
	}
	return first, err
}

// restarted reports whether a look shows a sign of this restart. What is compared
// with may be a minute old, so that a reset time that has merely changed is none:
// it must not lie before ours was asked for, by the BMC's clock.
func (p *pair) restarted(now *system) bool {
	if now.PowerState != p.was.PowerState {
		return true
	}
	at, err := time.Parse(time.RFC3339, string(now.LastReset))
	return err == nil && now.LastReset != p.was.LastReset && !p.since.IsZero() && !at.Before(p.since)
}

// judgeBoot tells by a look whether the boot target was set. A target for one boot
// that the restart has used up leaves nothing to be read: that is no proof. A server
// that is still going down has used up nothing.
func (p *pair) judgeBoot(o outcome, now *system, restarted bool) outcome {
	o.after = bootTarget(now.Boot).String()
	switch {
	case same(o.after, bootWord(p.target)):
		o.status, o.note = fleet.Confirmed, ""
	case p.boot.Once && restarted && o.after == "none" && !strings.HasSuffix(string(now.PowerState), "Off"):
		o.status, o.note = fleet.Attempted, "the BMC accepted it; the restart was over before it could be read back, and has used it up"
	default:
		o.note = ""
		return o.with(fault.New(fault.Conflict, "read back the boot target", "the BMC accepted it and still shows "+o.after))
	}
	return o
}
