package agent

import (
	"sync"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/audit"
)

const (
	keyTree           = "audit"
	refusedCheckpoint = "checkpoint"
)

// witnessed is the audit log of the coordinators as the agent has last seen it. Every
// agent is a witness: history that is rewritten, cut short or told differently to two
// of them is no continuation of what one of them has seen.
type witnessed struct {
	mu      sync.Mutex
	tree    audit.Tree
	shorter int // logs in a row that were shorter than ours
}

// recall reads what was witnessed before.
func (a *Agent) recall() error {
	return a.spool.View(func(tx *spool.Tx) (err error) {
		a.witnessed.tree, err = audit.ParseKept(tx.Get(spool.Notes, keyTree))
		return err
	})
}

// AuditSize is that of the audit log whose checkpoint the agent holds.
func (a *Agent) AuditSize() int64 {
	a.witnessed.mu.Lock()
	defer a.witnessed.mu.Unlock()
	return a.witnessed.tree.Size
}

// witness takes a newer checkpoint, if it follows ours. If not, ours is kept and the
// alarm is raised: the orders that the agent obeys are signed by their authors, and
// go on. The error is that of the disk.
func (a *Agent) witness(c *pb.Checkpoint) error {
	if c == nil {
		return nil
	}
	w := &a.witnessed
	w.mu.Lock()
	defer w.mu.Unlock()
	next, err := a.checked(c)
	if err == nil && w.late(c, next) {
		return nil
	}
	if err == nil {
		err = w.tree.Follows(next, c.GetConsistency())
	}
	if err != nil {
		a.log.Error("the audit log of the coordinators can't be trusted", obs.Err, err)
		// One alarm for one tree of ours, however often another is told.
		return a.refuseCheckpoint(order.Digest(w.tree.Kept()), err)
	}
	if next == w.tree {
		return nil
	}
	err = a.spool.Update(func(tx *spool.Tx) error {
		tx.Put(spool.Notes, keyTree, next.Kept())
		return nil
	})
	if err == nil {
		w.tree = next
	}
	return err
}

// late reports whether a checkpoint says nothing about ours: it answers what was asked
// before the last answer came, or its coordinator lags behind another one, for the
// first times.
func (w *witnessed) late(c *pb.Checkpoint, next audit.Tree) bool {
	if c.GetFrom() != w.tree.Size {
		return true
	}
	if next.Size >= w.tree.Size {
		w.shorter = 0
		return false
	}
	w.shorter++
	return w.shorter <= journal.StalePulls
}

// askForLog asks again, if the last coordinator had less of the log than another one:
// has it caught up?
func (a *Agent) askForLog() {
	a.witnessed.mu.Lock()
	defer a.witnessed.mu.Unlock()
	if a.witnessed.shorter > 0 && a.witnessed.shorter <= journal.StalePulls {
		a.link.Pull()
	}
}

// checked is the tree of a checkpoint that a coordinator has signed.
func (a *Agent) checked(c *pb.Checkpoint) (audit.Tree, error) {
	creds, err := a.cfg.credentials()
	if err != nil {
		return audit.Tree{}, err
	}
	next, _, err := audit.Verify(c.GetNote(), c.GetProof(), creds, a.now())
	return next, err
}

func (a *Agent) refuseCheckpoint(digest string, why error) error {
	a.authority.mu.Lock()
	defer a.authority.mu.Unlock()
	return a.tellRefused(&pb.Refused{What: refusedCheckpoint, Digest: digest, Reason: why.Error()})
}
