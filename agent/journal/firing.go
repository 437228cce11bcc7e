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
// far, what is under way as unknown, and what is asked of other racks.
func IntendFiring(tx *spool.Tx, key string, f fleet.Firing, open []fleet.Result, asked ...*pb.Intended) {
	f.Results = append(slices.Clip(f.Results), open...)
	tx.PutMessage(spool.Intents, key, wire.ToFiring(f))
	tx.DeleteAll(spool.Intents, spool.Key(intentAsking, key))
	for _, i := range asked {
		tx.PutMessage(spool.Intents, spool.Key(intentAsking, key, strconv.Itoa(int(i.GetIntent().GetCommand())), i.GetIntent().GetOn()), i)
	}
}

// RecordFiring records a firing that is over.
func RecordFiring(tx *spool.Tx, at time.Time, key string, f fleet.Firing) {
	tx.Append(at, &pb.Record{Body: &pb.Record_Firing{Firing: wire.ToFiring(f)}})
	tx.Delete(spool.Intents, key)
	tx.DeleteAll(spool.Intents, spool.Key(intentAsking, key))
}

// Asking is a firing that an earlier process began, of which something was asked of
// other racks: what has become of that can still be asked.
type Asking struct {
	Key    string
	Firing fleet.Firing // without the results of what was asked
	Asked  []*pb.Intended
}

// AskedFor are the firings of which something is asked of other racks.
func AskedFor(tx *spool.Tx) (all []Asking, err error) {
	for key, raw := range tx.All(spool.Intents, spool.Key(intentFiring)) {
		a := Asking{Key: key}
		for _, raw := range tx.All(spool.Intents, spool.Key(intentAsking, key)) {
			i := &pb.Intended{}
			if err := proto.Unmarshal(raw, i); err != nil {
				return nil, fault.Wrap(fault.Garbage, "read journal", err)
			}
			a.Asked = append(a.Asked, i)
		}
		f := &pb.Firing{}
		if err := proto.Unmarshal(raw, f); err != nil {
			return nil, fault.Wrap(fault.Garbage, "read journal", err)
		}
		if len(a.Asked) > 0 {
			a.Firing = withoutOpen(wire.FromFiring(f), a.Asked)
			all = append(all, a)
		}
	}
	return all, nil
}

// withoutOpen is a firing without the unknown results that stand for what is asked.
func withoutOpen(f fleet.Firing, asked []*pb.Intended) fleet.Firing {
	for _, i := range asked {
		for n, r := range slices.Backward(f.Results) {
			if string(r.Node) == i.GetIntent().GetOn() && r.Step == i.GetText() && r.Status == fleet.Unknown {
				f.Results = slices.Delete(f.Results, n, n+1)
				break
			}
		}
	}
	return f
}

// Unfinished records the firings that an earlier process began and did not end, but
// for those of which something is asked of other racks.
func Unfinished(tx *spool.Tx, at time.Time) error {
	var keys []string
	asking, err := AskedFor(tx)
	if err != nil {
		return err
	}
	for key, raw := range tx.All(spool.Intents, spool.Key(intentFiring)) {
		if slices.ContainsFunc(asking, func(a Asking) bool { return a.Key == key }) {
			continue
		}
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
