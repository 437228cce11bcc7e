package raftnode

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/verifier"
	"github.com/segmentio/fasthash/fnv1a"
)

// whole reads what the disk holds, all of it, before anything relies on it: Raft would
// end the process where it meets an entry that can't be read, and would go on from an
// older snapshot, without the entries between, where it can't read the newest. The log
// takes a damaged end for one that was never written: known is how far it went, at least.
func whole(snapshots raft.SnapshotStore, logs raft.LogStore, known uint64) error {
	first, err := logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	kept, err := snapshots.List()
	if err != nil {
		return fmt.Errorf("list the snapshots: %w", err)
	}
	after := uint64(0)
	if len(kept) > 0 {
		_, state, err := snapshots.Open(kept[0].ID) // compares its checksum
		if err != nil {
			return fmt.Errorf("snapshot %s is damaged: %w", kept[0].ID, err)
		}
		if err = state.Close(); err != nil {
			return err
		}
		after = kept[0].Index
	}
	if last > after && first > after+1 {
		return fmt.Errorf("entries %d to %d of the log are lost", after+1, first-1)
	}
	if end := max(last, after); known > end {
		return fmt.Errorf("entries %d to %d of the log are lost", end+1, known)
	}
	return readBack(logs, first, last)
}

// readBack reads the entries from first to last, and compares them with the sums that
// leaders have written between them.
func readBack(logs raft.LogStore, first, last uint64) error {
	sum, since := uint64(0), max(first, 1)
	for i := since; i <= last; i++ {
		var l raft.Log
		if err := logs.GetLog(i, &l); err != nil {
			return fmt.Errorf("entry %d of the log is damaged: %w", i, err)
		}
		if at, want, is := checkpoint(&l); is && at >= first {
			if at != since { // its leader had begun to count there
				var err error
				if sum, err = sumOf(logs, at, i); err != nil {
					return err
				}
			}
			if sum != want {
				return fmt.Errorf("entries %d to %d of the log are damaged: their sum is %x, and %x was written", at, i-1, sum, want)
			}
			sum, since = 0, i
		}
		sum = addTo(sum, &l)
	}
	return nil
}

// sumOf is the sum of the entries from first up to end, which is not counted.
func sumOf(logs raft.LogStore, first, end uint64) (sum uint64, err error) {
	for i := first; i < end; i++ {
		var l raft.Log
		if err := logs.GetLog(i, &l); err != nil {
			return 0, fmt.Errorf("entry %d of the log is damaged: %w", i, err)
		}
		sum = addTo(sum, &l)
	}
	return sum, nil
}

// checkpoint is what the verifier has written into an entry that asks for a check: the
// sum of the entries from at up to this one.
func checkpoint(l *raft.Log) (at, sum uint64, is bool) {
	if is, err := isCheck(l); err != nil || !is || len(l.Extensions) < 24 {
		return 0, 0, false
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(l.Extensions[8*i:]) }
	return word(1), word(2), word(0) == verifier.ExtensionMagicPrefix
}

// addTo adds an entry to a sum, as the verifier does. The first entry of a group was
// written by each member for itself.
func addTo(sum uint64, l *raft.Log) uint64 {
	if l.Index == 1 && l.Type == raft.LogConfiguration {
		return 0
	}
	for _, word := range []uint64{l.Index, l.Term, uint64(l.Type)} {
		sum = fnv1a.AddUint64(sum, word)
	}
	return fnv1a.AddBytes64(fnv1a.AddBytes64(sum, l.Data), l.Extensions)
}

// damagedHint is what to do about a directory that is damaged.
func (n *Node) damagedHint() string {
	if n.conf.Wire == nil {
		return "restore the directory from a copy; or move it away to begin with an empty log, and apply the scripts again"
	}
	return fmt.Sprintf("the others have all of it: chiba coordinator remove %s, move %s away, and start it again with --join", n.conf.Name, n.conf.Dir)
}
