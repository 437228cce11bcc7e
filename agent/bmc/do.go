package bmc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stmcginnis/gofish/schemas"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// outcome is how one command ended.
type outcome struct {
	before, after string
	status        fleet.Status
	err           error
	note          string // a remark where there is no err
}

func failed(err error) outcome { return outcome{}.with(err) }

// with is o, ended by err.
func (o outcome) with(err error) outcome {
	o.status, o.err = statusOf(err), err
	return o
}

// orUnknown is o after a request of which nobody knows whether it arrived: only
// what was read back counts.
func (o outcome) orUnknown(err error) outcome {
	if err != nil && o.status != fleet.Confirmed {
		o.status, o.err = fleet.Unknown, err
	}
	return o
}

// Do carries out one command and waits, within bounds, until its effect is read
// back. It knows the commands that touch a BMC; log, wait and sequence are the
// agent's own, and
// UpdateFirmware does update-firmware.
func (l *Lane) Do(ctx context.Context, cmd scl.Command) fleet.Result {
	begun := l.cfg.Now()
	return l.result(cmd, begun, l.view(Action).do(ctx, cmd))
}

// result is how a command ended that began at begun.
func (l *Lane) result(cmd scl.Command, begun time.Time, o outcome) fleet.Result {
	r := fleet.Result{
		Node: l.cfg.Node, Step: cmd.Text, Before: o.before, After: o.after,
		Status: o.status, Error: o.note, Started: begun, Took: l.cfg.Now().Sub(begun), Attempts: 1,
	}
	if o.err != nil {
		r.Kind, r.Error, r.Hint = string(fault.KindOf(o.err)), o.err.Error(), fault.HintOf(o.err)
	}
	return r
}

func (v *view) do(ctx context.Context, cmd scl.Command) outcome {
	arg := func(i int) string {
		if i < len(cmd.Args) {
			return cmd.Args[i]
		}
		return ""
	}
	switch cmd.Verb {
	case scl.DoPower:
		return v.power(ctx, arg(0))
	case scl.DoReboot:
		if id := arg(0); id != "" {
			if err := v.isSystem(ctx, id); err != nil {
				return failed(err)
			}
		}
		return v.power(ctx, "reboot")
	case scl.DoBoot:
		return v.boot(ctx, arg(0), cmd.Once)
	case scl.DoIndicator:
		return v.indicator(ctx, arg(0))
	case scl.DoClearLog:
		return v.clearLog(ctx)
	case scl.DoBMCReset:
		return v.resetBMC(ctx)
	case scl.DoStartImage:
		return v.startImage(ctx, arg(1))
	case scl.DoLog, scl.DoWait, scl.DoSequence, scl.DoFirmware, scl.DoTakeOver, scl.DoRelease, scl.DoAccept, scl.DoRekey, scl.DoRekeyAbort,
		scl.DoAdmit, scl.DoRefuse, scl.DoForget:
	}
	return failed(fault.New(fault.Unsupported, string(cmd.Verb), "this is no command for a BMC"))
}

// isSystem reports whether id names the system of this lane.
func (v *view) isSystem(ctx context.Context, id string) error {
	p, err := v.places(ctx)
	if err != nil {
		return err
	}
	if !same(lastSegment(p.system), id) {
		return fault.New(fault.NotFound, "reboot", fmt.Sprintf("this node is system %q of its BMC, not %q", lastSegment(p.system), id))
	}
	return nil
}

// boot sets the source of the next boots and reads it back.
func (v *view) boot(ctx context.Context, word string, once bool) outcome {
	s, err := v.recentSystem(ctx)
	if err != nil {
		return failed(err)
	}
	o := outcome{before: bootTarget(s.Boot).String()}
	target, err := s.Boot.redfishTarget(word)
	if err != nil {
		return o.with(err)
	}
	err = patchBoot(ctx, v, s, overrideOf(target, once))
	if err != nil && !redfish.Uncertain(err) {
		return o.with(err)
	}
	return v.readBackBoot(ctx, o, target, err)
}

// overrideOf is the boot override as it is written.
func overrideOf(target string, once bool) map[string]any {
	return map[string]any{"BootSourceOverrideTarget": target, "BootSourceOverrideEnabled": enabledFor(target, once)}
}

// readBackBoot judges o, the setting of a boot target whose request ended in err.
func (v *view) readBackBoot(ctx context.Context, o outcome, target string, err error) outcome {
	now, _, readErr := v.lane.view(Action).system(ctx)
	if readErr != nil {
		o.status, o.note = fleet.Attempted, "it could not be read back: "+readErr.Error()
		return o.orUnknown(err)
	}
	o.after = bootTarget(now.Boot).String()
	if same(o.after, bootWord(target)) {
		o.status = fleet.Confirmed
		return o
	}
	return o.with(errors.Join(err, fault.New(fault.Conflict, "read back the boot target", "the BMC accepted it and still shows "+o.after)))
}

func (v *view) indicator(ctx context.Context, word string) outcome {
	s, _, err := v.system(ctx)
	if err != nil {
		return failed(err)
	}
	o := outcome{before: led(s).String()}
	if same(o.before, word) {
		o.status, o.after = fleet.Unchanged, o.before
		return o
	}
	if err = v.setIndicator(ctx, word); err != nil && !redfish.Uncertain(err) {
		return o.with(err)
	}
	now, _, err := v.lane.view(Action).system(ctx)
	if err != nil {
		o.status, o.err = fleet.Unknown, err
		return o
	}
	if o.after = led(now).String(); same(o.after, word) {
		o.status = fleet.Confirmed
		return o
	}
	return o.with(fault.New(fault.Conflict, "read back the indicator", "the BMC accepted it and still shows "+o.after))
}

// clearLog empties the event log. What is read back may hold new entries, so
// that only their number tells.
func (v *view) clearLog(ctx context.Context) outcome {
	service, err := v.logService(ctx)
	if err != nil {
		return failed(err)
	}
	if service.Actions.Clear.Target == "" {
		return failed(fault.New(fault.Unsupported, "clear the log", "this BMC can't clear the log "+lastSegment(service.uri)))
	}
	before, _, err := v.eventLog(ctx)
	if err != nil {
		return failed(err)
	}
	o := outcome{before: fmt.Sprintf("%d entries", len(before))}
	err = v.lane.post(ctx, v.prio, service.Actions.Clear.Target, nil)
	if err != nil && !redfish.Uncertain(err) {
		return o.with(err)
	}
	after, _, readErr := v.lane.view(Action).eventLog(ctx)
	if readErr != nil {
		o.status = fleet.Attempted
		return o.orUnknown(err)
	}
	o.after = fmt.Sprintf("%d entries", len(after))
	o.status = fleet.Attempted
	if len(after) == 0 || len(after) < len(before) {
		o.status = fleet.Confirmed
	}
	return o.orUnknown(err)
}

// resetBMC restarts the BMC itself, not the server. It takes minutes until it
// answers again; nothing is read back.
func (v *view) resetBMC(ctx context.Context) outcome {
	m, _, err := v.manager(ctx)
	if err != nil {
		return failed(err)
	}
	_, err = v.resetBy(ctx, m.Actions.Reset, []schemas.ResetType{schemas.GracefulRestartResetType, schemas.ForceRestartResetType})
	if err != nil {
		return failed(err) // a lost connection is the usual answer of some: then it is unknown
	}
	return outcome{status: fleet.Attempted, note: "the BMC accepted it and will not answer for some minutes"}
}

// startImage brings up a server that is off from an image: boot once from the
// network, and on. A server that runs is never touched.
func (v *view) startImage(ctx context.Context, image string) outcome {
	s, _, err := v.system(ctx)
	if err != nil {
		return failed(err)
	}
	o := outcome{before: kebab(string(s.PowerState))}
	if s.PowerState != redfish.Text(schemas.OffPowerState) {
		o.status, o.after = fleet.Skipped, o.before
		o.err = fault.New(fault.Conflict, "start the server", "already running: a running server is never reset by this command")
		return o
	}
	if boot := v.boot(ctx, "pxe", true); boot.status != fleet.Confirmed {
		boot.before = o.before
		return boot
	}
	on := v.power(ctx, "on")
	on.before = o.before
	if on.status == fleet.Confirmed {
		on.after = fmt.Sprintf("on, booting once from the network; the site's boot server must serve image %q", image)
	}
	return on
}
