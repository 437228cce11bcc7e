package journal

import (
	"encoding/binary"
	"strings"

	"github.com/chiba-mesh/chiba/agent/spool"
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

// Mirrored says what the standby holds of what the owner has written: all that it
// needs to go on, and nothing that is the owner's own.
func Mirrored(table spool.Table, key string) bool {
	switch table {
	case spool.Runs, spool.Choices, spool.Done, spool.Intents, spool.Finished, spool.Floors,
		spool.Rules, spool.Heard, spool.Nodes, spool.Takeovers, spool.Stopped, spool.Asked:
		return true
	case spool.Secrets:
		return !strings.HasPrefix(key, Passport)
	case spool.Notes:
		for _, of := range sharedNotes {
			if strings.HasPrefix(key, spool.Key(of)) {
				return true
			}
		}
	case spool.Scripts, spool.Here, spool.Sessions, spool.Digests, spool.Inventories, spool.Subscribed:
	}
	return false
}

// Outdated says what of the owner's the standby does not take: an order that it has
// seen stays the newest one, whatever the owner has seen of it.
func Outdated(tx *spool.Tx, c spool.Change) bool {
	if c.Table != spool.Floors {
		return false
	}
	have := tx.Get(c.Table, c.Key)
	return len(have) >= 8 && (len(c.Value) < 8 || binary.BigEndian.Uint64(have) > binary.BigEndian.Uint64(c.Value))
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
