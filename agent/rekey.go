package agent

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc/openbmc"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// keyRekey begins the names of the changes of the rack's key. Behind each stands the
// generation that it leads to, or aborted: a run that is done again after a crash
// does not begin a second change.
const keyRekey = "rekey"

const aborted = 0

// rekey does a command about the key of the rack's CA, as far as one BMC goes. The
// change is the rack's: it is begun by the first of its BMCs that is told, and each
// waits for its own move.
func (a *Agent) rekey(ctx context.Context, n *node, c scl.Command) fleet.Result {
	if a.pass.issuer == nil {
		return failure(fault.New(fault.Unsupported, "change the rack's key", "this rack has no authority"))
	}
	err := a.may(n, deedsOf(c)...)
	goal := aborted
	if err == nil && c.Verb == scl.DoRekey {
		goal, err = a.beginRekey(c.Args[0])
	} else if err == nil {
		err = a.abortRekey()
	}
	if err != nil {
		return failure(err)
	}
	a.moveKey() // a rack without a BMC of ours has nobody to wait for
	for _, other := range a.rack.members() {
		other.lookAtTakeover()
	}
	if n.ledger.Record().Goal != takeover.Taken {
		return fleet.Result{Status: fleet.Unchanged, After: "not taken over: it has nothing of the rack's key"}
	}
	return a.rekeyed(ctx, n, goal)
}

// beginRekey begins the change of that name, unless it was, and says to which
// generation it leads.
func (a *Agent) beginRekey(name string) (generation int, err error) {
	const op = "change the rack's key"
	a.rekeying.Lock()
	defer a.rekeying.Unlock()
	rack := a.pass.issuer.Rack
	generation = rack.Generation() + 1
	err = a.spool.Update(func(tx *spool.Tx) error {
		key := spool.Key(keyRekey, name)
		if raw := tx.Get(spool.Notes, key); raw != nil {
			generation, err = strconv.Atoi(string(raw))
			return fault.Wrap(fault.Garbage, op, err)
		}
		tx.Put(spool.Notes, key, []byte(strconv.Itoa(generation)))
		return nil
	})
	switch {
	case err != nil:
		return generation, err
	case generation == aborted:
		return generation, fault.New(fault.Canceled, op, "this change was aborted").WithHint("begin another one: chiba bmc rekey")
	case rack.Generation() >= generation:
		return generation, nil
	case rack.Next() == nil:
		a.log.Info("the change of the rack's key begins: each BMC gets the next anchor", obs.Reason, name, obs.Count, generation)
	}
	return generation, rack.Rekey()
}

// abortRekey ends a change that has not come to its switch.
func (a *Agent) abortRekey() error {
	a.rekeying.Lock()
	defer a.rekeying.Unlock()
	rack := a.pass.issuer.Rack
	if err := rack.Abort(); err != nil {
		return err
	}
	next := strconv.Itoa(rack.Generation() + 1)
	return a.spool.Update(func(tx *spool.Tx) error {
		for key, raw := range tx.All(spool.Notes, spool.Key(keyRekey)) {
			if string(raw) == next {
				tx.Put(spool.Notes, key, []byte(strconv.Itoa(aborted)))
			}
		}
		return nil
	})
}

// moveKey goes on with a change of key as soon as no BMC needs it to wait. Where it
// stands is on the CA's shelf alone, so that a crash loses nothing: there is a next
// key, or one before.
func (a *Agent) moveKey() {
	if a.pass.issuer == nil {
		return
	}
	a.rekeying.Lock()
	defer a.rekeying.Unlock()
	rack := a.pass.issuer.Rack
	var err error
	switch {
	case len(a.holdBack(rack)) > 0:
		return
	case rack.Next() != nil:
		a.log.Info("every BMC has the next anchor: the rack's new key issues", obs.Count, rack.Generation()+1)
		err = rack.Switch()
	case rack.Before() != nil:
		a.log.Info("every BMC has moved: the rack's old key is deleted", obs.Count, rack.Generation()-1)
		err = rack.Retire()
	default:
		return
	}
	if err != nil {
		a.complain("change the rack's key", err)
	}
	for _, n := range a.rack.members() {
		n.ledger.refresh()
		n.lookAtTakeover()
	}
}

// holdBack are the BMCs for which the change of key waits.
func (a *Agent) holdBack(rack *ca.Rack) []string {
	next, twin := openbmc.Fingerprint(rack.Next()), openbmc.Fingerprint(rack.Twin())
	var names []string
	for _, n := range a.rack.members() {
		r := n.ledger.Record()
		if next != "" && !takeover.Ready(r, next) || next == "" && rack.Before() != nil && !takeover.Moved(r, twin) {
			names = append(names, string(n.entry.Name))
		}
	}
	slices.Sort(names)
	return names
}

// rekeyed waits until a BMC has its certificate and our way in of that generation, or
// after an abort until it has nothing of the next one.
func (a *Agent) rekeyed(ctx context.Context, n *node, generation int) fleet.Result {
	ctx, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	tick := time.NewTicker(ownLook)
	defer tick.Stop()
	rack := a.pass.issuer.Rack
	for {
		r := n.ledger.Record()
		twin := openbmc.Fingerprint(rack.Twin())
		if rack.Generation() >= generation && takeover.Moved(r, twin) && r.Seen.Next == openbmc.Fingerprint(rack.Next()) {
			return fleet.Result{Status: fleet.Confirmed, After: fmt.Sprintf("key %d of the rack", rack.Generation())}
		}
		select {
		case <-ctx.Done():
			return failure(a.stillRekeying(n, rack))
		case <-tick.C:
		}
	}
}

// stillRekeying says for whom the change waits. It goes on by itself.
func (a *Agent) stillRekeying(n *node, rack *ca.Rack) error {
	why := "it takes longer; it goes on"
	if waits := a.holdBack(rack); len(waits) > 0 {
		why = "it waits for " + strings.Join(waits[:min(len(waits), 8)], ", ") + fmt.Sprintf(" (%d of %d BMCs); it goes on", len(waits), len(a.rack.members()))
	}
	return fault.New(fault.Timeout, "change the rack's key", why).
		WithHint("see what they lack: chiba get bmcs; give one back that is gone for good, or, before the switch: chiba bmc rekey " + string(n.entry.Name) + " --abort")
}
