// Package journal is what an agent keeps of its work, so that a crash at any moment
// loses no result and does nothing twice that must be done once. It decides what to
// do next from what is on disk, and says what is to be put there; it does no work
// itself and has no clock.
//
// A unit of work is a step of a run on one node. It goes through at most three
// states on disk: nothing; an intent, which is the result it would have if nothing
// more were heard of it; its result, in the outbox and as a mark, in the transaction
// that takes the intent away. What must not be done twice is intended first. Whoever
// finds an intent records it as it is and does not do the unit again.
package journal

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Keys of intents begin with what they are of.
const (
	intentRun    = "run"
	intentFiring = "firing"
	intentAsking = "asking"
)

// Mark says that a unit has its result on a node.
type Mark byte

// The marks.
const (
	OK   Mark = '+' // it succeeded
	Miss Mark = '-' // it did not, and the node goes on
	Stop Mark = '!' // it did not, and the node stops
)

// Key is what is kept of a run under. Its number alone is not enough: coordinators
// that were restored from a backup give it again.
func Key(r *pb.Run) string {
	return spool.Key(r.GetId(), strconv.FormatInt(r.GetStartedUnixMs(), 10))
}

// Unit is a step of a run on one node.
type Unit struct {
	Run  *pb.Run
	Node fleet.NodeName
	ID   string // the same after a restart
	Text string // for people
	Once bool   // it must not be done twice
}

func (u Unit) key() string    { return spool.Key(Key(u.Run), string(u.Node), u.ID) }
func (u Unit) intent() string { return spool.Key(intentRun, Key(u.Run), string(u.Node), u.ID) }

// Doing is what is to be done about a unit.
type Doing int

// What is to be done, in the order in which it is asked.
const (
	Pass   Doing = iota // nothing: it has its result
	Settle              // record what an earlier process began and did not end
	Skip                // record that it is not tried
	Intend              // keep the intent, then do it and record what came of it
	Do                  // do it, then record what came of it
)

// Step is what is to be done about a unit.
type Step struct {
	Doing Doing
	Was   Mark         // of Pass
	Left  fleet.Result // of Settle: what is to be recorded, if nobody knows better
}

// Next is what is to be done about a unit; stopped says that nothing new is begun on
// its node.
func (u Unit) Next(tx *spool.Tx, stopped bool) (Step, error) {
	if raw := tx.Get(spool.Done, u.key()); len(raw) == 1 {
		return Step{Doing: Pass, Was: Mark(raw[0])}, nil
	}
	if raw := tx.Get(spool.Intents, u.intent()); raw != nil {
		msg := &pb.Result{}
		if err := proto.Unmarshal(raw, msg); err != nil {
			return Step{}, fault.Wrap(fault.Garbage, "read journal", err)
		}
		return Step{Doing: Settle, Left: wire.FromResult(msg)}, nil
	}
	switch {
	case stopped:
		return Step{Doing: Skip}, nil
	case u.Once:
		return Step{Doing: Intend}, nil
	default:
		return Step{Doing: Do}, nil
	}
}

// Untouched reports whether the unit has no result and was not begun.
func (u Unit) Untouched(tx *spool.Tx) bool {
	return !tx.Has(spool.Done, u.key()) && !tx.Has(spool.Intents, u.intent())
}

// Intend keeps the result that the unit has if nothing more is heard of it.
func (u Unit) Intend(tx *spool.Tx, so fleet.Result) {
	tx.PutMessage(spool.Intents, u.intent(), wire.ToResult(so))
}

// Record appends the results of the unit, marks it and ends its intent.
func (u Unit) Record(tx *spool.Tx, at time.Time, results []fleet.Result, was Mark) {
	for _, result := range results {
		result.Run, result.Script = fleet.RunID(u.Run.GetId()), fleet.ScriptName(u.Run.GetScript())
		tx.Append(at, &pb.Record{Body: &pb.Record_Result{Result: wire.ToResult(result)}})
	}
	tx.Put(spool.Done, u.key(), []byte{byte(was)})
	tx.Delete(spool.Intents, u.intent())
}

// Unknown stands for a one-shot action of which nobody can tell how it ended.
func Unknown(node fleet.NodeName, text string) fleet.Result {
	return fleet.Result{
		Node: node, Step: text, Status: fleet.Unknown, Kind: string(fault.Unavailable),
		Error: fmt.Sprintf("the agent stopped while it did %s; it is not repeated", text),
		Hint:  "look at the server, then apply the script again if it is still needed",
	}
}

// Walk is the way of one node through the units of a run. The zero value is at its
// beginning.
type Walk struct {
	missed bool
	stop   error
}

// Passed takes the mark of the next unit.
func (w *Walk) Passed(was Mark) {
	w.missed = w.missed || was != OK
	if was == Stop && w.stop == nil {
		w.stop = fault.New(fault.Conflict, "", "not tried: an earlier step failed on this node")
	}
}

// Halt has nothing more begun on the node, because of why; nil changes nothing.
func (w *Walk) Halt(why error) {
	if w.stop == nil {
		w.stop = why
	}
}

// Stop is why nothing more is begun on the node, nil if it goes on.
func (w *Walk) Stop() error { return w.stop }

// OK reports whether every unit so far has succeeded.
func (w *Walk) OK() bool { return !w.missed }

// Fresh reports whether a run is neither accepted nor finished here.
func Fresh(tx *spool.Tx, r *pb.Run) bool {
	return !tx.Has(spool.Finished, Key(r)) && !tx.Has(spool.Runs, Key(r))
}

// Accept keeps a run that is to be done.
func Accept(tx *spool.Tx, r *pb.Run) {
	tx.PutMessage(spool.Runs, Key(r), r)
	Raise(tx, FloorOfRun, r.GetScript(), r.GetVersion(), "")
}

// Refuse records that a run is not begun here, and why.
func Refuse(tx *spool.Tx, at time.Time, r *pb.Run, why error) {
	tx.Append(at, &pb.Record{Body: &pb.Record_Done{Done: &pb.RackRunDone{Run: r.GetId(), Error: "refused: " + why.Error()}}})
	tx.PutTime(spool.Finished, Key(r), at)
}

// Accepted are the runs that are to be done.
func Accepted(tx *spool.Tx) (all []*pb.Run, err error) {
	for _, raw := range tx.All(spool.Runs, "") {
		r := &pb.Run{}
		if err := proto.Unmarshal(raw, r); err != nil {
			return nil, fault.Wrap(fault.Garbage, "read runs", err)
		}
		all = append(all, r)
	}
	return all, nil
}

// Choice is the ids of the units of each node.
type Choice map[fleet.NodeName]map[string]bool

// Choose keeps which units of a run concern which nodes, so that a restart does not
// choose others because the run has changed them, and tells that the rack has
// accepted the run.
func Choose(tx *spool.Tx, at time.Time, r *pb.Run, ids Choice) {
	tx.PutJSON(spool.Choices, Key(r), ids)
	tx.Append(at, &pb.Record{Body: &pb.Record_Accepted{Accepted: &pb.RackRunAccepted{
		Run: r.GetId(), Nodes: int32(len(ids)), Script: r.GetScript(), By: r.GetStartedBy(),
	}}})
}

// Chosen is what Choose has kept, if it was decided already.
func Chosen(tx *spool.Tx, r *pb.Run) (ids Choice, known bool, err error) {
	raw := tx.Get(spool.Choices, Key(r))
	if raw == nil {
		return nil, false, nil
	}
	return ids, true, fault.Wrap(fault.Garbage, "read run", json.Unmarshal(raw, &ids))
}

// Finish records the end of the rack's part of a run, after all its results, and
// forgets the run but for its key.
func Finish(tx *spool.Tx, at time.Time, r *pb.Run, end *pb.RackRunDone) {
	tx.Append(at, &pb.Record{Body: &pb.Record_Done{Done: end}})
	tx.Delete(spool.Runs, Key(r))
	tx.Delete(spool.Choices, Key(r))
	tx.DeleteAll(spool.Done, spool.Key(Key(r)))
	tx.DeleteAll(spool.Intents, spool.Key(intentRun, Key(r)))
	tx.PutTime(spool.Finished, Key(r), at)
}
