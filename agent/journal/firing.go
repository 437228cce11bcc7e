package journal

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// KeepRules keeps what follows from a step of the rules before anything of it is
// done: the states of rules, the events they have seen, the firings that are held,
// and the intents of the others, which notBegun makes.
func KeepRules(tx *spool.Tx, at time.Time, out core.Output, notBegun func(core.Fire) fleet.Firing) {
	for _, s := range out.Changed {
		tx.PutJSON(spool.Rules, stateKey(s.Key), s)
	}
	for _, k := range out.Gone {
		tx.Delete(spool.Rules, stateKey(k))
	}
	if out.Deaf {
		tx.DeleteAll(spool.Heard, "")
	}
	for _, m := range out.Marks {
		tx.PutJSON(spool.Heard, string(m.Node), m)
	}
	for _, f := range out.Fire {
		if f.Firing.Held != "" {
			tx.Append(at, &pb.Record{Body: &pb.Record_Firing{Firing: wire.ToFiring(f.Firing)}})
		} else {
			tx.PutMessage(spool.Intents, FiringKey(f.Firing), wire.ToFiring(notBegun(f)))
		}
	}
}

// RuleStates are the states of rules that are kept.
func RuleStates(tx *spool.Tx) (states []core.State, err error) {
	for _, raw := range tx.All(spool.Rules, "") {
		var s core.State
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, fault.Wrap(fault.Garbage, "read rule states", err)
		}
		states = append(states, s)
	}
	return states, nil
}

func stateKey(k core.Key) string {
	return spool.Key(string(k.Script), k.Rule, string(k.Node))
}

// FiringKey is what is kept of a firing under, until it is over.
func FiringKey(f fleet.Firing) string {
	return spool.Key(intentFiring, string(f.Script), f.Rule, string(f.Node), strconv.FormatInt(f.At.UnixMilli(), 10))
}

// IntendFiring notes a firing as it is before its next command: what is done so
// far, and that command as unknown.
func IntendFiring(tx *spool.Tx, key string, f fleet.Firing, next fleet.Result) {
	f.Results = append(slices.Clip(f.Results), next)
	tx.PutMessage(spool.Intents, key, wire.ToFiring(f))
}

// RecordFiring records a firing that is over.
func RecordFiring(tx *spool.Tx, at time.Time, key string, f fleet.Firing) {
	tx.Append(at, &pb.Record{Body: &pb.Record_Firing{Firing: wire.ToFiring(f)}})
	tx.Delete(spool.Intents, key)
}

// Unfinished records the firings that an earlier process began and did not end.
func Unfinished(tx *spool.Tx, at time.Time) error {
	var keys []string
	for key, raw := range tx.All(spool.Intents, spool.Key(intentFiring)) {
		f := &pb.Firing{}
		if err := proto.Unmarshal(raw, f); err != nil {
			return fault.Wrap(fault.Garbage, "read journal", err)
		}
		tx.Append(at, &pb.Record{Body: &pb.Record_Firing{Firing: f}})
		keys = append(keys, key)
	}
	for _, key := range keys {
		tx.Delete(spool.Intents, key)
	}
	return nil
}
