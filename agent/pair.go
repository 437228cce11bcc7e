package agent

import (
	"context"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// together does two units that follow each other as one, if they are a boot target
// and the restart that uses it: one look then proves both. What it has not
// recorded when it returns is still to be done, one after the other.
func (a *Agent) together(ctx, deadline context.Context, j job, boot, restart unit) error {
	if boot.cmd == nil || restart.cmd == nil || !bmc.Pairs(*boot.cmd, *restart.cmd) || j.run.stopped(deadline) != nil || ctx.Err() != nil {
		return nil
	}
	fresh, err := a.untouched(j, boot, restart)
	if err != nil || !fresh {
		return err
	}
	a.awaitTaken(deadline, j.node, append(deedsOf(*boot.cmd), deedsOf(*restart.cmd)...)...)
	l, err := a.way(j.node, append(deedsOf(*boot.cmd), deedsOf(*restart.cmd)...)...)
	if err != nil {
		return nil // each unit tells why as its own result
	}
	doing, cancel := context.WithTimeout(deadline, actionTimeout)
	defer cancel()
	defer j.node.poke()
	results, err := l.BootAndRestart(doing, *boot.cmd, *restart.cmd, func(so fleet.Result) error {
		return a.intendBoth(j, boot, so, restart)
	})
	if err != nil {
		return err
	}
	a.outlawed(ctx, j.node, kindsOf(results)...)
	if ctx.Err() != nil { // the next process records what it finds
		return ctx.Err()
	}
	return a.spool.UpdateSoon(func(tx *spool.Tx) error {
		for i, result := range results {
			u, all := []unit{boot, restart}[i], []fleet.Result{result}
			j.run.entry(j.node, u).Record(tx, a.now(), all, verdict(u, all))
		}
		return nil
	})
}

// job is a run's part on one node.
type job struct {
	run  *run
	node *node
}

// untouched reports whether none of the units has a result or was begun.
func (a *Agent) untouched(j job, units ...unit) (fresh bool, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		fresh = true
		for _, u := range units {
			fresh = fresh && j.run.entry(j.node, u).Untouched(tx)
		}
		return nil
	})
	return fresh, err
}

// intendBoth notes, durably, that a restart is about to be begun, and the result
// that the boot target before it has so far: set again after the restart, it would
// be there for one boot more.
func (a *Agent) intendBoth(j job, boot unit, so fleet.Result, restart unit) error {
	unknown := a.begun(j.node, restart)
	return a.toldStandby(a.spool.UpdateSoon(func(tx *spool.Tx) error {
		j.run.entry(j.node, boot).Intend(tx, so)
		j.run.entry(j.node, restart).Intend(tx, unknown)
		return nil
	}))
}
