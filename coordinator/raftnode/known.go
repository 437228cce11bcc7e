package raftnode

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/chiba-mesh/chiba/pkg/obs"
)

// knownEvery is how often it is noted, at least, that we hear of the leader.
const knownEvery = 10 * time.Second

// known is how far the log is committed, as far as this node knew, and when it last
// heard of the leader. Raft does not keep it: without a majority it would not know how
// much of its own log to believe. It is kept without fsync; an older one, or none, means
// that less is told until the others are back.
type known struct {
	index uint64
	at    time.Time
}

func knownFile(dir string) string { return filepath.Join(dir, "committed") }

func (k known) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, k.index)
	b = binary.BigEndian.AppendUint64(b, uint64(k.at.UnixMilli()))
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// readKnown is what was noted in dir, nothing if that can't be read.
func readKnown(dir string) known {
	b, err := os.ReadFile(knownFile(dir))
	if err != nil || len(b) != 20 || binary.BigEndian.Uint32(b[16:]) != crc32.ChecksumIEEE(b[:16]) {
		return known{}
	}
	return known{binary.BigEndian.Uint64(b), time.UnixMilli(int64(binary.BigEndian.Uint64(b[8:])))}
}

// note keeps how far the log is committed, if that is news.
func (n *Node) note() {
	now := known{n.raft.CommitIndex(), n.heard()}
	if now.index <= n.noted.index && now.at.Before(n.noted.at.Add(knownEvery)) {
		return
	}
	n.noted = now
	path := knownFile(n.conf.Dir)
	err := os.WriteFile(path+".new", now.encode(), 0o600)
	if err = errors.Join(err, os.Rename(path+".new", path)); err != nil {
		n.conf.Log.Debug("noting how far the log is committed", obs.Err, err)
	}
}

// heard is when this node last heard of a leader; zero: it is not known.
func (n *Node) heard() time.Time {
	if n.Leads() {
		return time.Now()
	}
	if at := n.raft.LastContact(); at.After(n.recalled) {
		return at
	}
	return n.before.at
}

// recall applies what was known to be committed before the restart, so that it can be
// told even if nobody else is there.
func (n *Node) recall() {
	n.before = readKnown(n.conf.Dir)
	index := min(n.before.index, n.raft.LastIndex())
	var l raft.Log
	if n.wire != nil && index > n.raft.CommitIndex() && n.store.GetLog(index, &l) == nil {
		n.wire.push(place{index: index, term: l.Term}, n.raft.CurrentTerm())
	}
	n.recalled = time.Now()
}
