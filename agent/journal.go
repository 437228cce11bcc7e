package agent

import (
	"encoding/json"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// An intent is kept as what is to be recorded if nothing more is heard of it: the
// result, or the firing, with the status unknown. Keys begin with what they are of.
const (
	intentRun    = "run"
	intentFiring = "firing"
)

// mark says that a unit has its result on a node.
type mark byte

const (
	markOK   mark = '+' // it succeeded
	markMiss mark = '-' // it did not, and the node goes on
	markStop mark = '!' // it did not, and the node stops
)

// unknownResult stands for an action of which nobody can tell how it ended.
func unknownResult(node fleet.NodeName, text string) fleet.Result {
	return fleet.Result{
		Node: node, Step: text, Status: fleet.Unknown, Kind: string(fault.Unavailable),
		Error: fmt.Sprintf("the agent stopped while it did %s; it is not repeated", text),
		Hint:  "look at the server, then apply the script again if it is still needed",
	}
}

func unitKey(r *run, n *node, u unit) string {
	return spool.Key(r.key(), string(n.entry.Name), u.id)
}

func intentKey(r *run, n *node, u unit) string {
	return spool.Key(intentRun, r.key(), string(n.entry.Name), u.id)
}

// mark is whether a unit has its result, and how it went.
func (a *Agent) mark(r *run, n *node, u unit) (done bool, was mark, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		if raw := tx.Get(spool.Done, unitKey(r, n, u)); len(raw) == 1 {
			done, was = true, mark(raw[0])
		}
		return nil
	})
	return done, was, err
}

// intend notes, durably, that an action is about to be begun.
func (a *Agent) intend(r *run, n *node, u unit) error {
	unknown := unknownResult(n.entry.Name, u.text)
	unknown.Started = a.now()
	return a.toldStandby(a.spool.UpdateSoon(func(tx *spool.Tx) error {
		tx.PutMessage(spool.Intents, intentKey(r, n, u), wire.ToResult(unknown))
		return nil
	}))
}

// toldStandby is err, and without one waits until the standby knows of what is about to
// be begun.
func (a *Agent) toldStandby(err error) error {
	if err == nil {
		a.shared()
	}
	return err
}

// leftover is the outcome of a unit that an earlier process began and did not end;
// nil if there is none.
func (a *Agent) leftover(r *run, n *node, u unit) (left *fleet.Result, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		raw := tx.Get(spool.Intents, intentKey(r, n, u))
		if raw == nil {
			return nil
		}
		msg := &pb.Result{}
		if err = proto.Unmarshal(raw, msg); err != nil {
			return fault.Wrap(fault.Garbage, "read journal", err)
		}
		result := wire.FromResult(msg)
		left = &result
		return nil
	})
	return left, err
}

// record appends the results of a unit, marks it done and ends its intent, in one
// transaction.
func (a *Agent) record(r *run, n *node, u unit, results []fleet.Result) (mark, error) {
	was := verdict(u, results)
	return was, a.spool.UpdateSoon(func(tx *spool.Tx) error {
		a.put(tx, r, n, u, results)
		return nil
	})
}

// put is record in a transaction.
func (a *Agent) put(tx *spool.Tx, r *run, n *node, u unit, results []fleet.Result) {
	for _, result := range results {
		result.Run, result.Script = fleet.RunID(r.GetId()), fleet.ScriptName(r.GetScript())
		tx.Append(a.now(), &pb.Record{Body: &pb.Record_Result{Result: wire.ToResult(result)}})
	}
	tx.Put(spool.Done, unitKey(r, n, u), []byte{byte(verdict(u, results))})
	tx.Delete(spool.Intents, intentKey(r, n, u))
}

// verdict is whether a node goes on after a unit. A field of a config that the BMC
// does not have is missed, and told, and so is a rule that does not watch the node;
// the rest of the script may do without it.
func verdict(u unit, results []fleet.Result) mark {
	was := markOK
	for _, r := range results {
		switch {
		case r.Status.OK():
		case r.Status == fleet.NotProvided && u.config != nil, u.rule != nil:
			was = markMiss
		default:
			return markStop
		}
	}
	return was
}

// keptChoice is which units concern which nodes, if that was decided already.
func (a *Agent) keptChoice(key string) (ids choice, known bool, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		raw := tx.Get(spool.Choices, key)
		if known = raw != nil; !known {
			return nil
		}
		return fault.Wrap(fault.Garbage, "read run", json.Unmarshal(raw, &ids))
	})
	return ids, known, err
}

// keepChoice keeps it, and tells that the rack has accepted the run.
func (a *Agent) keepChoice(r *run, ids choice) error {
	return a.spool.Update(func(tx *spool.Tx) error {
		tx.PutJSON(spool.Choices, r.key(), ids)
		a.tellNodes(tx, r, ids)
		tx.Append(a.now(), &pb.Record{Body: &pb.Record_Accepted{Accepted: &pb.RackRunAccepted{
			Run: r.GetId(), Nodes: int32(len(ids)), Script: r.GetScript(), By: r.GetStartedBy(),
		}}})
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
		tx.Append(a.now(), &pb.Record{Body: &pb.Record_Done{Done: end}})
		tx.Delete(spool.Runs, r.key())
		tx.Delete(spool.Choices, r.key())
		tx.DeleteAll(spool.Done, spool.Key(r.key()))
		tx.DeleteAll(spool.Intents, spool.Key(intentRun, r.key()))
		tx.PutTime(spool.Finished, r.key(), a.now())
		tx.Delete(spool.Stopped, orderKey(r.GetScript(), r.GetVersion()))
		return nil
	})
}

// intendFiring notes a firing as it is before its next command: what is done so
// far, and that command as unknown.
func (a *Agent) intendFiring(key string, f fleet.Firing, next fleet.Result) error {
	f.Results = append(slices.Clip(f.Results), next)
	return a.toldStandby(a.spool.Update(func(tx *spool.Tx) error {
		tx.PutMessage(spool.Intents, key, wire.ToFiring(f))
		return nil
	}))
}

// recordFiring records a firing that is over.
func (a *Agent) recordFiring(key string, f fleet.Firing) error {
	return a.spool.Update(func(tx *spool.Tx) error {
		tx.Append(a.now(), &pb.Record{Body: &pb.Record_Firing{Firing: wire.ToFiring(f)}})
		tx.Delete(spool.Intents, key)
		return nil
	})
}

// unfinished records the firings that an earlier process began and did not end.
func (a *Agent) unfinished() error {
	return a.spool.Update(func(tx *spool.Tx) error {
		var keys []string
		for key, raw := range tx.All(spool.Intents, spool.Key(intentFiring)) {
			f := &pb.Firing{}
			if err := proto.Unmarshal(raw, f); err != nil {
				return fault.Wrap(fault.Garbage, "read journal", err)
			}
			tx.Append(a.now(), &pb.Record{Body: &pb.Record_Firing{Firing: f}})
			keys = append(keys, key)
		}
		for _, key := range keys {
			tx.Delete(spool.Intents, key)
		}
		return nil
	})
}
