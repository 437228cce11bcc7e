package journal

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	keyRevision = "revision"
	// StalePulls is how many older states in a row are taken for a coordinator
	// that lags. One that was restored from a backup goes on telling its own.
	StalePulls = 3
	// finishedFor is how long the end of a run is remembered, so that a
	// coordinator that lags can't have it done twice.
	finishedFor = 30 * 24 * time.Hour
)

// Of what the newest order is kept: an order puts a script into force and begins
// a run, in any order.
const (
	FloorOfScript = "script"
	FloorOfRun    = "run"
	// FloorOfCatalogue is that of the site catalogue.
	FloorOfCatalogue = "catalogue"
)

// Revision is that of the desired state that is kept.
func Revision(tx *spool.Tx) uint64 {
	if raw := tx.Get(spool.Notes, keyRevision); len(raw) == 8 {
		return binary.BigEndian.Uint64(raw)
	}
	return 0
}

// SetRevision keeps the revision of the desired state.
func SetRevision(tx *spool.Tx, revision uint64) {
	tx.Put(spool.Notes, keyRevision, binary.BigEndian.AppendUint64(nil, revision))
}

// Patience is how long older states are not believed.
type Patience struct{ stale int }

// Lags reports whether a coordinator that tells of a revision lags behind ours. Told
// so often enough, it does not: it was restored from a backup, and is the truth
// about what is to be added.
func (p *Patience) Lags(ours, told uint64) bool {
	if told >= ours {
		p.stale = 0
		return false
	}
	p.stale++
	return p.stale <= StalePulls
}

// Floor is the version, and the hash, of the newest order for a name that was
// obeyed here.
func Floor(tx *spool.Tx, of, name string) (version uint64, hash string) {
	if raw := tx.Get(spool.Floors, spool.Key(of, name)); len(raw) >= 8 {
		return binary.BigEndian.Uint64(raw), string(raw[8:])
	}
	return 0, ""
}

// Admits reports whether an order for a name is to be obeyed: one that puts a script
// or a catalogue into force if it is not older than the last, and the same if it is not
// newer; one that begins a run only if it is newer, because it begins one run, once.
func Admits(tx *spool.Tx, of, name string, version uint64, hash string) (ok bool, floor uint64) {
	floor, last := Floor(tx, of, name)
	if of != FloorOfRun && version == floor {
		return hash == last, floor
	}
	return version > floor, floor
}

// Raise keeps an order as the newest for its name, if it is.
func Raise(tx *spool.Tx, of, name string, version uint64, hash string) {
	key := spool.Key(of, name)
	if raw := tx.Get(spool.Floors, key); len(raw) >= 8 && binary.BigEndian.Uint64(raw) >= version {
		return
	}
	tx.Put(spool.Floors, key, append(binary.BigEndian.AppendUint64(nil, version), hash...))
}

// Tidy forgets the ends of runs that nobody lists any longer.
func Tidy(tx *spool.Tx, now time.Time, listed []*pb.Run) {
	var old []string
	for key := range tx.All(spool.Finished, "") {
		isListed := slices.ContainsFunc(listed, func(r *pb.Run) bool { return Key(r) == key })
		if !isListed && now.Sub(tx.Time(spool.Finished, key)) > finishedFor {
			old = append(old, key)
		}
	}
	for _, key := range old {
		tx.Delete(spool.Finished, key)
	}
}
