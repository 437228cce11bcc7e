package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const keyCut = "cut"

// standing are the scripts in force. Programs are immutable.
type standing struct {
	mu       sync.Mutex
	revision uint64
	scripts  map[string]*script
	patience journal.Patience
}

type script struct {
	*pb.Script
	program *scl.Program // nil: this version can't read it
	hash    string       // of the order
}

// restore reads the scripts in force from the spool. Each is verified again: the
// disk may have been in other hands.
func (a *Agent) restore() error {
	a.standing.scripts = make(map[string]*script)
	var spoiled []*pb.Script
	err := a.spool.View(func(tx *spool.Tx) error {
		a.standing.revision = journal.Revision(tx)
		for _, raw := range tx.All(spool.Scripts, "") {
			s := &pb.Script{}
			if err := proto.Unmarshal(raw, s); err != nil {
				return fault.Wrap(fault.Garbage, "read scripts", err)
			}
			if err := a.kept(s.GetEnvelope(), s.GetSource(), s.GetName()); err != nil {
				spoiled = append(spoiled, s)
				continue
			}
			a.standing.scripts[s.GetName()] = a.compiled(s)
		}
		return nil
	})
	for _, s := range spoiled {
		err = errors.Join(err, a.refuse(refusedScript, s.GetName(), s.GetEnvelope(), a.kept(s.GetEnvelope(), s.GetSource(), s.GetName())))
	}
	return err
}

// programOf is the program of a script of that name, nil if it can't be read.
func programOf(file string, source []byte, name string) (*scl.Program, syntax.Diagnostics) {
	program, diags := compile.Source(file, source)
	if program != nil {
		program.Bind(name)
	}
	return program, diags
}

func (a *Agent) compiled(s *pb.Script) *script {
	program, diags := programOf(s.GetFile(), s.GetSource(), s.GetName())
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
		digests[name] = wire.Mark(s.Script)
	}
	return a.standing.revision, digests
}

// Desired takes the whole desired state of the rack. Everything that an agent
// does is in a signed order, and so is its end: a script or a run that is merely
// no longer listed goes on.
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
	if err := errors.Join(a.heedClashes(d.GetConflicts()), a.heardSite(d.GetSite())); err != nil {
		return err
	}
	if err := a.witness(d.GetAudit()); err != nil {
		return err
	}
	adopted, err := a.adopt(d.GetPolicy())
	if err != nil {
		return err
	}
	if adopted {
		err = a.recallCatalogue()
	}
	if err = errors.Join(err, a.heedCatalogue(d.GetCatalogue())); err != nil {
		return err
	}
	next, ended, err := a.wanted(d, adopted)
	if err != nil {
		return err
	}
	var fresh []*pb.Run
	if a.office.reigns() { // else the owner begins them; we ask again when it is we
		if fresh, err = a.unknownRuns(d.GetRuns()); err != nil {
			return err
		}
	}
	stopped, err := a.canceled(d.GetCanceled())
	if err != nil {
		return err
	}
	if err := a.keepDesired(d, change{next, ended, fresh}); err != nil {
		return err
	}
	a.rejudge()
	a.runs.stop(stopped)
	return nil
}

// change is what is to be kept of a desired state, all of it verified.
type change struct {
	scripts map[string]*script // that are to be in force
	ended   map[string]uint64  // the orders that ended others, by name
	runs    []*pb.Run          // to begin
}

// keepDesired puts a desired state into force, if it differs from the one that is.
func (a *Agent) keepDesired(d *pb.Desired, c change) error {
	next, fresh := c.scripts, c.runs
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
				tx.Delete(spool.Here, name) // what was decided here is over
				tx.PutMessage(spool.Scripts, name, s.Script)
				journal.Raise(tx, journal.FloorOfScript, name, s.GetVersion(), s.hash)
			}
		}
		for name, version := range c.ended {
			tx.Delete(spool.Here, name)
			journal.Raise(tx, journal.FloorOfScript, name, version, "")
		}
		journal.SetRevision(tx, d.GetRevision())
		for _, r := range fresh {
			journal.Accept(tx, r)
		}
		release(tx, d.GetRuns())
		journal.Tidy(tx, a.now(), d.GetRuns())
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.revision, s.scripts = d.GetRevision(), next
	s.mu.Unlock()
	a.waves.tell()
	a.retarget()
	return nil
}

// unknownRuns are those that are neither accepted nor finished here, as they were
// ordered: nothing of what surrounds the order counts.
func (a *Agent) unknownRuns(listed []*pb.Run) (fresh []*pb.Run, err error) {
	var unknown []*pb.Run
	err = a.spool.View(func(tx *spool.Tx) error {
		for _, r := range listed {
			if journal.Fresh(tx, r) {
				unknown = append(unknown, r)
			}
		}
		return nil
	})
	if full := a.spool.Full(); full != nil && len(unknown) > 0 {
		a.log.Error("new runs wait", obs.Err, full, obs.Count, len(unknown))
		return nil, err
	}
	begun := make(map[string]uint64) // by this very message
	for _, r := range unknown {
		o, why := a.runOrder(r)
		if why == nil && o.Version <= begun[o.Name] {
			why = older(o, begun[o.Name])
		}
		if why != nil {
			err = errors.Join(err, a.refuseRun(r, why))
			continue
		}
		begun[o.Name] = o.Version
		fresh = append(fresh, &pb.Run{
			Id: r.GetId(), StartedUnixMs: r.GetStartedUnixMs(), StartedBy: r.GetStartedBy(), Racks: r.GetRacks(), Envelope: r.GetEnvelope(), Source: r.GetSource(),
			Script: o.Name, File: o.File, Digest: o.Digest, DeadlineUnixMs: o.NotAfter.UnixMilli(), AllowEmpty: o.AllowEmpty, Version: o.Version,
		})
	}
	return fresh, err
}

// canceled are the runs that an order stops.
func (a *Agent) canceled(runs []*pb.Run) (stopped map[string]bool, err error) {
	stopped = make(map[string]bool, len(runs))
	for _, r := range runs {
		o, why := a.canceling(r)
		if why != nil {
			err = errors.Join(err, a.refuse(refusedCancel, r.GetScript(), r.GetCancel(), why))
			continue
		}
		stopped[orderKey(o.Name, o.Cancels)] = true
	}
	return stopped, err
}

// lags reports whether revision is older than ours, for the first times.
func (a *Agent) lags(revision uint64) bool {
	s := &a.standing
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.patience.Lags(s.revision, revision)
}

// wanted are the scripts that are to be in force: those that are, but for what an
// order has ended or replaced, or what a new policy no longer admits. A source is
// left out where we have it, and where a message would have become too large: then
// what we had stays in force until the next pull brings it.
func (a *Agent) wanted(d *pb.Desired, adopted bool) (next map[string]*script, ended map[string]uint64, err error) {
	ended = make(map[string]uint64)
	a.standing.mu.Lock()
	next = maps.Clone(a.standing.scripts)
	a.standing.mu.Unlock()
	for name, old := range next {
		if !adopted {
			break
		}
		if why := a.kept(old.GetEnvelope(), old.GetSource(), name); why != nil {
			err = errors.Join(err, a.refuse(refusedScript, name, old.GetEnvelope(), why))
			delete(next, name)
		}
	}
	for _, e := range d.GetEnded() {
		old := next[e.GetName()]
		unheard, hereErr := a.unheard(e.GetName(), e.GetVersion())
		if err = errors.Join(err, hereErr); old == nil || unheard {
			continue
		}
		o, why := a.ending(e, old)
		if why != nil {
			err = errors.Join(err, a.refuse(refusedEnd, e.GetName(), e.GetEnvelope(), why))
			continue
		}
		ended[o.Name] = o.Version
		delete(next, o.Name)
	}
	for _, s := range d.GetScripts() {
		if old := next[s.GetName()]; len(s.GetSource()) == 0 || old != nil && wire.Mark(old.Script) == wire.Mark(s) {
			continue
		}
		unheard, hereErr := a.unheard(s.GetName(), s.GetVersion())
		if err = errors.Join(err, hereErr); unheard {
			continue
		}
		o, why := a.scriptOrder(s)
		if why != nil {
			err = errors.Join(err, a.refuse(refusedScript, s.GetName(), s.GetEnvelope(), why))
			continue
		}
		next[o.Name] = a.compiled(&pb.Script{
			Name: o.Name, File: o.File, Digest: o.Digest, Version: o.Version, Source: s.GetSource(), Envelope: s.GetEnvelope(),
			Revision: s.GetRevision(), AppliedUnixMs: s.GetAppliedUnixMs(), AppliedBy: s.GetAppliedBy(),
			Rack: s.GetRack(),
		})
		next[o.Name].hash = hashOf(o)
	}
	return next, ended, err
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
			rule := core.Rule{Script: name, Monitor: m, Barred: make(map[fleet.NodeName]string)}
			for _, n := range a.rack.members() {
				if c.match(m.Target, n) == scl.True {
					rule.Nodes = append(rule.Nodes, n.entry.Name)
					rule.Barred[n.entry.Name] = a.barred(n, m.Commands)
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
