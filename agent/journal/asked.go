package journal

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Asked is what another rack has had done here, under its key; nil if it is not known.
func Asked(tx *spool.Tx, key string) (*pb.Asked, error) {
	raw := tx.Get(spool.Asked, key)
	if raw == nil {
		return nil, nil //nolint:nilnil // nothing is no error
	}
	return askedOf(raw)
}

func askedOf(raw []byte) (*pb.Asked, error) {
	a := &pb.Asked{}
	return a, fault.Wrap(fault.Garbage, "read what another rack has asked", proto.Unmarshal(raw, a))
}

// AskedBy is all that is remembered of a rack; of "" it is what every rack has asked.
func AskedBy(tx *spool.Tx, rack fleet.RackName) (all map[string]*pb.Asked, err error) {
	prefix := ""
	if rack != "" {
		prefix = spool.Key(string(rack))
	}
	all = make(map[string]*pb.Asked)
	for key, raw := range tx.All(spool.Asked, prefix) {
		if all[key], err = askedOf(raw); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// KeepAsked keeps what another rack has asked, as far as it is.
func KeepAsked(tx *spool.Tx, key string, a *pb.Asked) { tx.PutMessage(spool.Asked, key, a) }

// EndAsked records what has come of what another rack has asked. It is remembered, so
// that it is not done again, and whoever asks again is told.
func EndAsked(tx *spool.Tx, at time.Time, key string, a *pb.Asked, r fleet.Result) {
	i := a.GetIntent()
	r.Script, r.Rule = fleet.ScriptName(i.GetScript()), i.GetRule()
	firing := fleet.Firing{
		Script: r.Script, Rule: i.GetRule(), Node: fleet.NodeName(i.GetOn()), Condition: a.GetCondition(), CutOff: a.GetCutOff(),
		At: time.UnixMilli(a.GetTakenUnixMs()), Results: []fleet.Result{r},
		Asked: fleet.Asked{
			Rack: fleet.RackName(a.GetRack()), Agent: fleet.AgentName(a.GetAgent()), Node: fleet.NodeName(i.GetNode()), At: time.UnixMilli(i.GetAtUnixMs()),
		},
	}
	tx.Append(at, &pb.Record{Body: &pb.Record_Firing{Firing: wire.ToFiring(firing)}})
	a.Over, a.Result, a.Envelope, a.Source = true, wire.ToResult(r), nil, nil
	KeepAsked(tx, key, a)
}

// ForgetAsked forgets what nobody asks for any longer.
func ForgetAsked(tx *spool.Tx, now time.Time) error {
	all, err := AskedBy(tx, "")
	if err != nil {
		return err
	}
	for key, a := range all {
		if a.GetOver() && now.UnixMilli() > a.GetKeepUnixMs() {
			tx.Delete(spool.Asked, key)
		}
	}
	return nil
}
