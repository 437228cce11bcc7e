package agent

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	keyRevision = "revision"
	keyCut      = "cut"
	// stalePulls is how many older states in a row are taken for a coordinator
	// that lags. One that was restored from a backup goes on telling its own.
	stalePulls = 3
	// finishedFor is how long the end of a run is remembered, so that a
	// coordinator that lags can't have it done twice.
	finishedFor = 30 * 24 * time.Hour
)

// standing are the scripts in force. Programs are immutable.
type standing struct {
	mu       sync.Mutex
	revision uint64
	scripts  map[string]*script
	stale    int
}

type script struct {
	*pb.Script
	program *scl.Program // nil: this version can't read it
}

// restore reads the scripts in force from the spool.
func (a *Agent) restore() error {
	a.standing.scripts = make(map[string]*script)
	return a.spool.View(func(tx *spool.Tx) error {
		if raw := tx.Get(spool.Notes, keyRevision); len(raw) == 8 {
			a.standing.revision = binary.BigEndian.Uint64(raw)
		}
		for _, raw := range tx.All(spool.Scripts, "") {
			s := &pb.Script{}
			if err := proto.Unmarshal(raw, s); err != nil {
				return fault.Wrap(fault.Garbage, "read scripts", err)
			}
			a.standing.scripts[s.GetName()] = a.compiled(s)
		}
		return nil
	})
}

func (a *Agent) compiled(s *pb.Script) *script {
	program, diags := compile.Source(s.GetFile(), s.GetSource())
	if program == nil {
		a.log.Error("a standing script can't be read by this version", obs.Script, s.GetName(), obs.Err, diags.String())
	}
	return &script{Script: s, program: program}
}

// Have is the desired state that the agent holds.
func (a *Agent) Have() (revision uint64, digests map[string]string) {
	a.standing.mu.Lock()
	defer a.standing.mu.Unlock()
	digests = make(map[string]string, len(a.standing.scripts))
	for name, s := range a.standing.scripts {
		digests[name] = s.GetDigest()
	}
	return a.standing.revision, digests
}

// Desired takes the whole desired state of the rack: scripts that are not in it
// are no longer in force, and runs that are not in it have been canceled.
func (a *Agent) Desired(_ context.Context, d *pb.Desired) error {
	a.desiring.Lock()
	defer a.desiring.Unlock()
	if a.lags(d.GetRevision()) {
		a.log.Warn("a coordinator tells an older state than another has", obs.Count, d.GetRevision())
		return nil
	}
	if a.trust != nil {
		if err := a.trust.heard(d); err != nil {
			return err
		}
	}
	next := a.wanted(d.GetScripts())
	fresh, err := a.unknownRuns(d.GetRuns())
	if err != nil {
		return err
	}
	if full := a.spool.Full(); full != nil && len(fresh) > 0 {
		a.log.Error("new runs wait", obs.Err, full, obs.Count, len(fresh))
		fresh = nil
	}
	if err := a.keepDesired(d, next, fresh); err != nil {
		return err
	}
	a.runs.only(d.GetRuns())
	return nil
}

// keepDesired puts a desired state into force, if it differs from the one that is.
func (a *Agent) keepDesired(d *pb.Desired, next map[string]*script, fresh []*pb.Run) error {
	s := &a.standing
	s.mu.Lock()
	revision, have := s.revision, s.scripts
	s.mu.Unlock()
	if revision == d.GetRevision() && len(fresh) == 0 && maps.Equal(have, next) {
		return nil
	}
	err := a.spool.Update(func(tx *spool.Tx) error {
		for name := range have {
			if next[name] == nil {
				tx.Delete(spool.Scripts, name)
			}
		}
		for name, s := range next {
			if have[name] != s {
				tx.PutMessage(spool.Scripts, name, s.Script)
			}
		}
		tx.Put(spool.Notes, keyRevision, binary.BigEndian.AppendUint64(nil, d.GetRevision()))
		for _, r := range fresh {
			tx.PutMessage(spool.Runs, runKey(r), r)
		}
		a.tidy(tx, d.GetRuns())
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.revision, s.scripts = d.GetRevision(), next
	s.mu.Unlock()
	a.retarget()
	return nil
}

// unknownRuns are those that are neither accepted nor finished here.
func (a *Agent) unknownRuns(listed []*pb.Run) (fresh []*pb.Run, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		for _, r := range listed {
			if !tx.Has(spool.Finished, runKey(r)) && !tx.Has(spool.Runs, runKey(r)) {
				fresh = append(fresh, r)
			}
		}
		return nil
	})
	return fresh, err
}

// lags reports whether revision is older than ours, for the first times.
func (a *Agent) lags(revision uint64) bool {
	s := &a.standing
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision >= s.revision {
		s.stale = 0
		return false
	}
	s.stale++
	return s.stale <= stalePulls
}

// wanted are the scripts of a desired state. A source is left out where we have
// it, and where a message would have become too large: then what we had stays in
// force until the next pull brings it.
func (a *Agent) wanted(scripts []*pb.Script) map[string]*script {
	a.standing.mu.Lock()
	have := a.standing.scripts
	a.standing.mu.Unlock()
	next := make(map[string]*script, len(scripts))
	for _, s := range scripts {
		old := have[s.GetName()]
		switch {
		case old != nil && (old.GetDigest() == s.GetDigest() || len(s.GetSource()) == 0):
			next[s.GetName()] = old
		case len(s.GetSource()) > 0:
			next[s.GetName()] = a.compiled(s)
		}
	}
	return next
}

// tidy forgets the ends of runs that nobody lists any longer.
func (a *Agent) tidy(tx *spool.Tx, listed []*pb.Run) {
	var old []string
	for key := range tx.All(spool.Finished, "") {
		isListed := slices.ContainsFunc(listed, func(r *pb.Run) bool { return runKey(r) == key })
		if !isListed && a.now().Sub(tx.Time(spool.Finished, key)) > finishedFor {
			old = append(old, key)
		}
	}
	for _, key := range old {
		tx.Delete(spool.Finished, key)
	}
}

// programs are the standing programs by the names of their scripts.
func (a *Agent) programs() map[fleet.ScriptName]*scl.Program {
	a.standing.mu.Lock()
	defer a.standing.mu.Unlock()
	all := make(map[fleet.ScriptName]*scl.Program, len(a.standing.scripts))
	for name, s := range a.standing.scripts {
		if s.program != nil {
			all[fleet.ScriptName(name)] = s.program
		}
	}
	return all
}

// retarget asks for the rules' targets to be resolved again, soon.
func (a *Agent) retarget() {
	select {
	case a.targets <- struct{}{}:
	default:
	}
}

// rules are the monitors of all standing scripts with the nodes they select now,
// in a stable order.
func (a *Agent) rules() core.Rules {
	var rules core.Rules
	programs := a.programs()
	c := a.chooser(nil)
	for name, p := range programs {
		for i := range p.Monitors {
			m := &p.Monitors[i]
			rule := core.Rule{Script: name, Monitor: m}
			for _, n := range a.nodes {
				if c.match(m.Target, n) == scl.True {
					rule.Nodes = append(rule.Nodes, n.entry.Name)
				}
			}
			rules = append(rules, rule)
		}
	}
	slices.SortFunc(rules, func(x, y core.Rule) int {
		if byScript := strings.Compare(string(x.Script), string(y.Script)); byScript != 0 {
			return byScript
		}
		return strings.Compare(x.Monitor.Name, y.Monitor.Name)
	})
	return rules
}
