package bmc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stmcginnis/gofish/schemas"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// reset asks for the first of the reset types that the system allows, and
// returns which that was.
func (v *view) reset(ctx context.Context, s *system, types []schemas.ResetType) (schemas.ResetType, error) {
	return v.resetBy(ctx, s.Actions.Reset, types)
}

func (v *view) resetBy(ctx context.Context, action redfish.Action, types []schemas.ResetType) (schemas.ResetType, error) {
	if action.Target == "" {
		return "", fault.New(fault.Unsupported, "reset", "this BMC offers no reset action")
	}
	allowed, err := v.resetTypes(ctx, action)
	if err != nil {
		return "", err
	}
	for _, t := range types {
		// A BMC that tells no list gets the first choice and judges itself.
		if len(allowed) == 0 || slices.Contains(allowed, string(t)) {
			return t, v.postReset(ctx, action.Target, t)
		}
	}
	return "", fault.New(fault.Unsupported, "reset", fmt.Sprintf("this BMC offers no %s, only %s", types[0], strings.Join(allowed, ", ")))
}

// postReset asks again a little later where the BMC says that it can't do it
// now, for as long as its make is known to need. A refusal is certain, so that
// nothing is done twice.
func (v *view) postReset(ctx context.Context, target string, t schemas.ResetType) error {
	l := v.lane
	until := l.cfg.Now().Add(l.client.Profile().PowerRetry)
	for {
		err := l.post(ctx, v.prio, target, map[string]any{"ResetType": t})
		if !fault.Is(err, fault.Conflict) || !l.cfg.Now().Before(until) || !l.pause(ctx) {
			return err
		}
	}
}

// resetTypes are the values that the action allows, asked for once.
func (v *view) resetTypes(ctx context.Context, action redfish.Action) ([]string, error) {
	l := v.lane
	l.mu.Lock()
	allowed, known := l.allowed[action.Target]
	l.mu.Unlock()
	if known {
		return allowed, nil
	}
	allowed, err := action.ResetTypes(ctx, v)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allowed[action.Target] = allowed
	return allowed, nil
}

// powerPlan is what a power command means.
type powerPlan struct {
	types   []schemas.ResetType
	goal    schemas.PowerState // "" : none to read back
	needsOn bool               // a restart of what is off is a conflict
	restart bool
}

// powerPlanOf is the plan of a command of (power …), or of (reboot). Reboot asks the
// operating system where the BMC can; (power reset) does not ask.
func powerPlanOf(word string) (plan powerPlan, known bool) {
	plan, known = powerPlan{goal: schemas.OnPowerState, needsOn: true, restart: true}, true
	switch word {
	case "on":
		plan = powerPlan{goal: schemas.OnPowerState, types: []schemas.ResetType{schemas.OnResetType, schemas.ForceOnResetType}}
	case "off":
		plan = powerPlan{goal: schemas.OffPowerState, types: []schemas.ResetType{schemas.ForceOffResetType}}
	case "graceful-off":
		plan = powerPlan{goal: schemas.OffPowerState, types: []schemas.ResetType{schemas.GracefulShutdownResetType}}
	case "nmi":
		plan = powerPlan{needsOn: true, types: []schemas.ResetType{schemas.NmiResetType}}
	case "cycle":
		plan.types = []schemas.ResetType{schemas.PowerCycleResetType, schemas.ForceRestartResetType}
	case "reset":
		plan.types = []schemas.ResetType{schemas.ForceRestartResetType, schemas.PowerCycleResetType}
	case "graceful-restart":
		plan.types = []schemas.ResetType{schemas.GracefulRestartResetType}
	case "reboot":
		plan.types = []schemas.ResetType{schemas.GracefulRestartResetType, schemas.ForceRestartResetType, schemas.PowerCycleResetType}
	default:
		return powerPlan{}, false
	}
	return plan, known
}

// power carries out one power command and waits until it is read back.
func (v *view) power(ctx context.Context, word string) outcome {
	p, known := powerPlanOf(word)
	if !known {
		return failed(fault.New(fault.BadInput, "power", fmt.Sprintf("there is no power command %q", word)))
	}
	s, err := v.recentSystem(ctx)
	if err != nil {
		return failed(err)
	}
	o := outcome{before: kebab(string(s.PowerState))}
	switch {
	case p.needsOn && s.PowerState == "Off":
		return o.with(fault.New(fault.Conflict, "power "+word, "the server is off").WithHint("switch it on: (power on)"))
	case !p.restart && p.goal != "" && string(s.PowerState) == string(p.goal):
		o.status, o.after = fleet.Unchanged, o.before
		return o
	}
	used, err := v.reset(ctx, s, p.types)
	v.lane.stale()
	if err != nil && !redfish.Uncertain(err) {
		return o.with(err)
	}
	if p.goal == "" {
		o.status = fleet.Attempted
		return o.orUnknown(err)
	}
	signs := func(now *system) bool {
		return now.PowerState != s.PowerState || now.LastReset != s.LastReset || now.BootProgress.LastState != s.BootProgress.LastState
	}
	return v.lane.await(ctx, p, signs, o).orUnknown(err).by(used, p)
}

// by is o with a remark if another reset type had to do.
func (o outcome) by(used schemas.ResetType, p powerPlan) outcome {
	if used != p.types[0] && o.status.OK() {
		o.after += " (by " + string(used) + ": this BMC offers no " + string(p.types[0]) + ")"
	}
	return o
}

// stale drops what was read of the system before it was changed.
func (l *Lane) stale() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent = recentSystem{}
}

// await looks at the server until it has reached the goal of the plan or the
// lane's time to settle is over. A restart counts as seen once a look has shown a
// sign of it: the server was not on in between, its last reset time has changed.
func (l *Lane) await(ctx context.Context, p powerPlan, sign func(now *system) bool, o outcome) outcome {
	deadline := l.cfg.Now().Add(l.cfg.Settle)
	moved := false
	var last error
	for {
		now, _, err := l.view(Action).system(ctx)
		if err == nil {
			o.after = kebab(string(now.PowerState))
			moved = sign(now) || moved
			if string(now.PowerState) == string(p.goal) && (moved || !p.restart) {
				o.status = fleet.Confirmed
				return o
			}
		}
		last = err
		if !l.cfg.Now().Before(deadline) || !l.pause(ctx) {
			break
		}
	}
	return o.unreached(p, last, l.cfg.Settle)
}

// unreached judges a command that the BMC accepted and that is not seen done.
func (o outcome) unreached(p powerPlan, last error, within time.Duration) outcome {
	switch {
	case last != nil:
		o.status, o.err = fleet.Unknown, last
	case p.restart && o.after == kebab(string(p.goal)):
		o.status, o.note = fleet.Attempted, "the BMC accepted it and shows no sign of the restart"
	default:
		o.status = fleet.Unknown
		o.err = fault.New(fault.Timeout, "wait for the server", fmt.Sprintf("it is %s after %s, not %s", o.after, within, kebab(string(p.goal)))).
			WithHint("an operating system that does not answer needs (power off) or (power reset)")
	}
	return o
}
