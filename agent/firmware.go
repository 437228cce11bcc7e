package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/trust/level"
)

// teller hears how far a command is that takes long. It may be nil.
type teller func(bmc.FirmwareNews)

func (t teller) tell(news bmc.FirmwareNews) {
	if t != nil {
		t(news)
	}
}

// firmware updates one firmware of a node.
func (a *Agent) firmware(ctx context.Context, n *node, c scl.Command, tell teller) fleet.Result {
	a.awaitTaken(ctx, n, level.Firmware)
	l, err := a.way(n, level.Firmware)
	if err != nil {
		return failure(err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	tell.tell(bmc.FirmwareNews{Doing: "gets the image", Percent: -1, Phase: true})
	image, file, err := a.artifacts.image(ctx, *c.Firmware, func(have, size int64) {
		tell.tell(bmc.FirmwareNews{Doing: "gets the image", Percent: int(100 * have / max(1, size))})
	})
	if err != nil {
		return failure(err)
	}
	defer file.Close()
	defer n.poke()
	defer n.askSurvey() // also after a failure: something may have been installed
	return l.UpdateFirmware(ctx, bmc.FirmwareUpdate{Firmware: *c.Firmware, Image: image, Tell: tell.tell})
}

// teller tells of a unit to whoever watches its run, and keeps each phase in the
// journal: it is what can be said if the agent ends before the unit does.
func (a *Agent) teller(r *run, n *node, u unit) teller {
	if u.cmd == nil || u.cmd.Verb != scl.DoFirmware {
		return nil
	}
	return func(news bmc.FirmwareNews) {
		if news.Phase { // kept before it is told
			a.intendAt(r, n, u, news)
		}
		r.say(n.entry.Name, news)
		a.link.Progress(r.progress(a.cfg.Rack))
	}
}

// intendAt keeps the phase that an update has come to.
func (a *Agent) intendAt(r *run, n *node, u unit, news bmc.FirmwareNews) {
	unknown := atPhase(a.begun(n, u), news)
	err := a.spool.Update(func(tx *spool.Tx) error {
		r.entry(n, u).Intend(tx, unknown)
		return nil
	})
	if err != nil {
		a.complain("journal", err)
	}
}

// atPhase is an unknown result with what was known of it last.
func atPhase(unknown fleet.Result, news bmc.FirmwareNews) fleet.Result {
	unknown.Before = news.Before
	unknown.Error += fmt.Sprintf("; when it was last heard of it was at %q", news.Doing)
	if news.Before != "" {
		unknown.Error += ", and " + news.Before + " ran"
	}
	return unknown
}

// aftermath looks what has become of what an earlier process, of ours or of the other
// agent of the rack, began and did not see the end of. Nothing is begun again.
func (a *Agent) aftermath(ctx context.Context, n *node, u unit, left *fleet.Result) {
	switch {
	case u.cmd != nil && u.cmd.Verb == scl.DoFirmware:
		a.readVersion(ctx, n, u, left)
	case u.cmd != nil && left.Status == fleet.Unknown && journal.Leaves(*u.cmd):
		a.readTraces(ctx, n, u, left)
	}
}

// readTraces looks at the server.
func (a *Agent) readTraces(ctx context.Context, n *node, u unit, left *fleet.Result) {
	l, err := a.way(n, level.Look)
	var seen bmc.Traces
	if err == nil {
		reading, cancel := context.WithTimeout(ctx, summaryTimeout)
		defer cancel()
		seen, err = l.Traces(reading)
	}
	if err != nil {
		left.Error += "; the server can't be looked at now: " + err.Error()
		return
	}
	*left = journal.Aftermath(*left, *u.cmd, journal.Seen{Power: seen.Power, Reset: seen.Reset, BMCStarted: seen.BMCStarted})
}

// readVersion reads back which version runs.
func (a *Agent) readVersion(ctx context.Context, n *node, u unit, left *fleet.Result) {
	l, err := a.way(n, level.Look)
	if err == nil {
		reading, cancel := context.WithTimeout(ctx, summaryTimeout)
		defer cancel()
		left.After, err = l.FirmwareVersion(reading, u.cmd.Firmware.ID)
	}
	switch {
	case err != nil:
		left.Error += "; the version can't be read now: " + err.Error()
	case left.After == u.cmd.Firmware.Version:
		left.Status, left.Kind, left.Hint = fleet.Confirmed, "", ""
		left.Error += "; " + left.After + " runs now, as was asked"
	default:
		left.Error += "; " + left.After + " runs now"
	}
}

// say notes what takes long on a node, for whoever watches the run.
func (r *run) say(n fleet.NodeName, news bmc.FirmwareNews) {
	text := fmt.Sprintf("%s %s", n, news.Doing)
	if news.Percent >= 0 {
		text += fmt.Sprintf(" %d %%", news.Percent)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.doing == nil {
		r.doing = make(map[fleet.NodeName]string)
	}
	r.doing[n] = text
}

// done notes that nothing takes long on a node any more.
func (r *run) done(n fleet.NodeName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.doing, n)
}

// nowDoing is what takes long, on the first node by name and on how many more. The
// caller holds mu.
func (r *run) nowDoing() string {
	names := slices.Sorted(maps.Keys(r.doing))
	switch len(names) {
	case 0:
		return ""
	case 1:
		return r.doing[names[0]]
	}
	return fmt.Sprintf("%s, and %d more", r.doing[names[0]], len(names)-1)
}
