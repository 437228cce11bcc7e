package raftnode

import (
	"context"
	"sync"

	"github.com/hashicorp/raft"
)

const (
	// maxBatch and maxBatchBytes bound one entry of the log; a command that is
	// larger has one of its own.
	maxBatch      = 256
	maxBatchBytes = 64 << 10
	// inFlight is how many entries are under way to the disks at a time. With one,
	// the CPUs rest while the disks work; with more, a batch is smaller.
	inFlight = 2
)

// proposal is one command that waits to be committed, or the commands that another
// coordinator has sent at once.
type proposal struct {
	commands [][]byte
	size     int             // of all of them
	here     bool            // another has sent it to us as the leader: it goes no further
	over     <-chan struct{} // nobody waits for it any more
	answer   chan answer     // of one
}

// answer is what came of a proposal: where it is in the log.
type answer struct {
	index, term uint64
	err         error
}

// ended is how the proposal has ended, as an error also if it was committed.
func (a answer) ended() error {
	if a.err == nil {
		return errAnswered
	}
	return a.err
}

func newProposal(over <-chan struct{}, here bool, commands ...[]byte) *proposal {
	p := &proposal{commands: commands, here: here, over: over, answer: make(chan answer, 1)}
	for _, c := range commands {
		p.size += len(c)
	}
	return p
}

// given reports whether nobody waits for p any more.
func (p *proposal) given() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

// batches collects proposals while earlier ones are under way, so that many make one
// entry of the log, and one alone goes at once. What waits is bounded by who proposes.
type batches struct {
	mu      sync.Mutex
	waiting []*proposal
}

func (b *batches) put(p *proposal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, p)
}

// take is what goes next, none if nothing waits.
func (b *batches) take() []*proposal {
	b.mu.Lock()
	defer b.mu.Unlock()
	var next []*proposal
	count, size, i := 0, 0, 0
	for ; i < len(b.waiting); i++ {
		p := b.waiting[i]
		if p.given() {
			continue
		}
		if len(next) > 0 && (count+len(p.commands) > maxBatch || size+p.size > maxBatchBytes) {
			break
		}
		next, count, size = append(next, p), count+len(p.commands), size+p.size
	}
	clear(b.waiting[:i])
	b.waiting = b.waiting[i:]
	return next
}

func (b *batches) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting) == 0
}

// propose has p committed by whoever leads. The answer comes to p.
func (n *Node) propose(p *proposal) {
	n.batches.put(p)
	n.wake()
}

// wake sees to it that somebody sends what waits: who sends already, or one more.
func (n *Node) wake() {
	select {
	case <-n.shut:
	case n.slots <- struct{}{}:
		go n.send() // Close waits for it by its slot
	default:
	}
}

// send sends batches until nothing waits.
func (n *Node) send() {
	for {
		batch := n.batches.take()
		if len(batch) == 0 {
			break
		}
		n.sendOne(batch)
	}
	<-n.slots
	if !n.batches.empty() { // it came after we looked, and found all slots taken
		n.wake()
	}
}

// sendOne commits a batch here or sends it to the leader.
func (n *Node) sendOne(batch []*proposal) {
	var a answer
	leads := n.conf.Wire == nil || n.Leads()
	if leads {
		a = n.commit(commandsOf(batch))
	} else {
		batch = turnAway(batch)
		if len(batch) > 0 {
			ctx, cancel := context.WithTimeout(context.Background(), n.conf.Patience)
			a = n.forward(ctx, commandsOf(batch))
			cancel()
		}
	}
	for _, p := range batch {
		p.answer <- a
	}
}

// turnAway answers those that only a leader can commit, and returns the others.
func turnAway(batch []*proposal) (rest []*proposal) {
	for _, p := range batch {
		if p.here {
			p.answer <- answer{err: raft.ErrNotLeader}
		} else {
			rest = append(rest, p)
		}
	}
	return rest
}

func commandsOf(batch []*proposal) [][]byte {
	all := make([][]byte, 0, len(batch))
	for _, p := range batch {
		all = append(all, p.commands...)
	}
	return all
}
