package agent

import (
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// entry is a unit on a node as the journal knows it.
func (r *run) entry(n *node, u unit) journal.Unit {
	return journal.Unit{Run: r.Run, Node: n.entry.Name, ID: u.id, Text: u.text, Once: u.cmd != nil && once(*u.cmd)}
}

// begun is the result of a unit that is about to be begun, if nothing more is heard
// of it.
func (a *Agent) begun(n *node, u unit) fleet.Result {
	unknown := journal.Unknown(n.entry.Name, u.text)
	unknown.Started = a.now()
	return unknown
}

// toldStandby is err, and without one waits until the standby knows of what is about to
// be begun.
func (a *Agent) toldStandby(err error) error {
	if err == nil {
		a.shared()
	}
	return err
}

// next is what is to be done about a unit.
func (a *Agent) next(e journal.Unit, stopped bool) (step journal.Step, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		step, err = e.Next(tx, stopped)
		return err
	})
	return step, err
}

// intend notes, durably, that a unit is about to be begun.
func (a *Agent) intend(e journal.Unit, so fleet.Result) error {
	return a.toldStandby(a.spool.UpdateSoon(func(tx *spool.Tx) error {
		e.Intend(tx, so)
		return nil
	}))
}

// record appends the results of a unit, marks it done and ends its intent, in one
// transaction.
func (a *Agent) record(e journal.Unit, u unit, results []fleet.Result) (journal.Mark, error) {
	was := verdict(u, results)
	return was, a.spool.UpdateSoon(func(tx *spool.Tx) error {
		e.Record(tx, a.now(), results, was)
		return nil
	})
}

// verdict is whether a node goes on after a unit. A field of a config that the BMC
// does not have is missed, and told, and so is a rule that does not watch the node;
// the rest of the script may do without it.
func verdict(u unit, results []fleet.Result) journal.Mark {
	was := journal.OK
	for _, r := range results {
		switch {
		case r.Status.OK():
		case r.Status == fleet.NotProvided && u.config != nil, u.rule != nil:
			was = journal.Miss
		default:
			return journal.Stop
		}
	}
	return was
}

// keptChoice is which units concern which nodes, if that was decided already.
func (a *Agent) keptChoice(r *run) (ids journal.Choice, known bool, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		ids, known, err = journal.Chosen(tx, r.Run)
		return err
	})
	return ids, known, err
}

// keepChoice keeps it, and tells that the rack has accepted the run.
func (a *Agent) keepChoice(r *run, ids journal.Choice) error {
	return a.spool.Update(func(tx *spool.Tx) error {
		a.tellNodes(tx, r, ids)
		journal.Choose(tx, a.now(), r.Run, ids)
		return nil
	})
}

// finish records the end of the rack's part, after all its results, and forgets
// the run but for its id.
func (a *Agent) finish(r *run, why error) error {
	r.mu.Lock()
	end := &pb.RackRunDone{Run: r.GetId(), Nodes: int32(r.nodes), Ok: int32(r.ok), Failed: int32(r.failed)}
	r.mu.Unlock()
	if why != nil {
		end.Error = why.Error()
	}
	return a.spool.Update(func(tx *spool.Tx) error {
		journal.Finish(tx, a.now(), r.Run, end)
		tx.Delete(spool.Stopped, orderKey(r.GetScript(), r.GetVersion()))
		return nil
	})
}

// unfinished records the firings that an earlier process began and did not end.
func (a *Agent) unfinished() error {
	return a.spool.Update(func(tx *spool.Tx) error { return journal.Unfinished(tx, a.now()) })
}
