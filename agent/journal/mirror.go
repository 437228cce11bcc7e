package journal

import (
	"encoding/binary"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Passport begins the keys of the secrets by which an agent is known to its rack's
// BMCs. They never leave its machine.
const Passport = "bmc-client/"

// EpochOf begins the keys of the notes in which epoch another rack was last heard.
const EpochOf = "epoch-of"

// sharedNotes begin the keys of the notes that are of the rack, not of the agent: the
// keys that a person has accepted, who has said so, who was let in, and in which epochs
// other racks were heard.
var sharedNotes = [...]string{"accepted", "accepted-at", "approved", "admission", EpochOf}

// Policy is the note of the policy of authors. The standby takes a newer one, if the
// roots have signed it.
const Policy = "policy"

// Mirrored says what the standby holds of what the owner has written: all that it
// needs to go on, and nothing that is the owner's own.
func Mirrored(table spool.Table, key string) bool {
	switch table {
	case spool.Runs, spool.Choices, spool.Done, spool.Intents, spool.Finished, spool.Floors,
		spool.Rules, spool.Heard, spool.Nodes, spool.Takeovers, spool.Stopped, spool.Asked,
		spool.Scripts, spool.Here, spool.Subscribed:
		return true
	case spool.Secrets:
		return !strings.HasPrefix(key, Passport)
	case spool.Notes:
		if key == Policy {
			return true
		}
		for _, of := range sharedNotes {
			if strings.HasPrefix(key, spool.Key(of)) {
				return true
			}
		}
	case spool.Sessions, spool.Digests, spool.Inventories:
	}
	return false
}

// Outdated says what of the owner's the standby does not take. Orders are heard of by
// both: of two about one name the newer counts, whoever has seen it, and what the owner
// does not have it may not have heard of. A script ends by an order alone, see [Ended].
func Outdated(tx *spool.Tx, c spool.Change) bool {
	switch c.Table { //nolint:exhaustive // the others are the owner's alone
	case spool.Floors:
		return version(tx.Get(c.Table, c.Key)) > version(c.Value)
	case spool.Scripts:
		s, have := &pb.Script{}, &pb.Script{}
		bad := proto.Unmarshal(c.Value, s) != nil || proto.Unmarshal(tx.Get(c.Table, c.Key), have) != nil
		return bad || c.Value == nil || s.GetVersion() <= have.GetVersion() || Ended(tx, s)
	case spool.Here:
		r := &pb.Record{}
		floor, _ := Floor(tx, FloorOfScript, c.Key)
		return c.Value == nil || proto.Unmarshal(c.Value, r) != nil || r.GetLocal().GetVersion() < floor
	}
	return false
}

// Ended reports whether a newer order about the name of a script was obeyed here, or by
// the owner: it does not stand any longer.
func Ended(tx *spool.Tx, s *pb.Script) bool {
	floor, _ := Floor(tx, FloorOfScript, s.GetName())
	return s.GetVersion() < floor
}

// version is that of a floor, 0 if there is none.
func version(floor []byte) uint64 {
	if len(floor) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(floor)
}

// Follower is how far a standby is with what the owner has written. The zero value
// has nothing. It is not safe for concurrent use.
type Follower struct {
	life uint64 // of the owner's process
	last uint64 // of its changes
}

// Held is how far it is, and in which life of the owner.
func (f Follower) Held() (last, life uint64) { return f.last, f.life }

// Follows reports whether changes after from, or all rows, are what comes next.
func (f Follower) Follows(life, from uint64, all bool) bool {
	return all || life == f.life && from == f.last
}

// Took notes that the changes up to one are taken.
func (f *Follower) Took(life, to uint64) { f.life, f.last = life, to }

// Own is to be called when the standby becomes the owner: from now on it writes
// itself. The next owner has to bring everything, also one that knows how far we were.
func (f *Follower) Own() { *f = Follower{} }
