package raftnode

import (
	"fmt"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
)

// The log must never meet a full disk, see store. So nothing is proposed any more once
// less than a tenth of the disk is free; but a tenth of a large disk is more than the
// log ever needs at once. What the others decide is taken until there is no room for two
// segments.
const (
	leastRoom    = 64 << 20
	enoughRoom   = 256 << 20
	measureEvery = time.Second
)

// reserve is how much of a disk of that size is kept free.
func reserve(total uint64) uint64 { return min(max(total/10, leastRoom), enoughRoom) }

// measure looks how much room there is.
func (n *Node) measure() {
	free, total, err := n.conf.Room()
	if err != nil {
		n.conf.Log.Warn("asking how full the disk is", obs.Err, err)
		return
	}
	n.store.measured(free)
	was := n.full.Load()
	switch least := reserve(total); {
	case free >= least:
		n.full.Store(nil)
		if was != nil {
			n.conf.Log.Info("there is room on the disk again", "free", free)
		}
	case was == nil:
		n.full.Store(fault.New(fault.Unavailable, "commit", fmt.Sprintf("the disk of coordinator %s is full: %d MiB are free, %d MiB are kept for the log",
			n.conf.Name, free>>20, least>>20)).WithHint("make room on it; nothing was done, and nothing is lost"))
		n.conf.Log.Error("the disk is full, nothing can be decided here", "free", free, "least", least)
		// The others may have room. Once: if none has, the lead must not go round.
		n.Yield()
	}
}
