package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	maxRuns      = 16 // at the same time; the others wait on disk
	learnTimeout = 15 * time.Second
	retryAfter   = 5 * time.Second // of a run that could not be kept on disk
)

// runs are the runs being done. Which runs there are, the spool says.
type runs struct {
	mu      sync.Mutex
	active  map[string]*run
	stopped map[string]bool // by orders that were verified, see orderKey
	here    map[string]bool // by orders that were given here
	wake    chan struct{}   // a token: look into the spool
}

func (r *runs) init() { r.active, r.wake = make(map[string]*run), make(chan struct{}, 1) }

// stop cancels the runs that an order has stopped, and has new ones begun.
func (r *runs) stop(stopped map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = stopped
	for _, active := range r.active {
		r.check(active)
	}
	r.kick()
}

// stopHere cancels the run of an order that was given here.
func (r *runs) stopHere(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.here[key] = true
	for _, active := range r.active {
		r.check(active)
	}
}

// stoppedBefore are the runs that were stopped here by the time the work begins.
func (r *runs) stoppedBefore(here map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.here = here
}

// check cancels a run that was stopped.
func (r *runs) check(x *run) {
	if key := orderKey(x.GetScript(), x.GetVersion()); r.stopped[key] || r.here[key] {
		x.cancel()
	}
}

// progress is how far a run is that is being done, nil if there is nothing to tell.
func (r *runs) progress(id string, rack fleet.RackName) *pb.RackProgress {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.active {
		if x.GetId() != id {
			continue
		}
		if p := x.progress(rack); p.GetDone() > 0 || p.GetDoing() != "" {
			return &pb.RackProgress{Rack: p.GetRack(), Nodes: p.GetNodes(), Done: p.GetDone(), Failed: p.GetFailed(), Doing: p.GetDoing()}
		}
	}
	return nil
}

func (r *runs) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *runs) enter(x *run) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active[x.key()] != nil || len(r.active) >= maxRuns {
		return false
	}
	r.active[x.key()] = x
	r.check(x)
	return true
}

func (r *runs) leave(x *run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.active, x.key())
	r.kick()
}

// run is this rack's part of one run.
type run struct {
	*pb.Run
	program *scl.Program
	units   []unit
	only    []string // nodes; none: all
	by      []string // who has signed its order

	canceled context.Context // ended: stop before the next unit
	cancel   context.CancelFunc

	mu     sync.Mutex
	nodes  int
	ok     int
	failed int
	doing  map[fleet.NodeName]string // what takes long, in words
}

// orderKey names a run by the order that began it.
func orderKey(script string, version uint64) string {
	return spool.Key(script, strconv.FormatUint(version, 10))
}

func (r *run) key() string { return journal.Key(r.Run) }

func newRun(msg *pb.Run) *run {
	r := &run{Run: msg}
	r.canceled, r.cancel = context.WithCancel(context.Background())
	return r
}

// unit is the smallest part of a run that has a result of its own: a rule, a
// config, a command, or a step that reads. Its id is the same after a restart.
type unit struct {
	id     string
	target scl.Target
	text   string
	rule   *scl.Monitor
	config *scl.Config
	step   *scl.Step // of show, dump, refresh
	cmd    *scl.Command
}

// byPerson reports whether it is a person's word about a BMC.
func (u unit) byPerson() bool { return u.cmd != nil && u.cmd.Verb.ByPerson() }

// unitsOf lays a program open, in the order in which it is done.
func unitsOf(p *scl.Program) []unit {
	var units []unit
	// The rules come first: they are in force since the desired state was kept,
	// whatever becomes of the rest.
	for i := range p.Monitors {
		m := &p.Monitors[i]
		units = append(units, unit{id: fmt.Sprintf("m%d", i), target: m.Target, text: "rule " + m.Name, rule: m})
	}
	for i := range p.Configs {
		c := &p.Configs[i]
		units = append(units, unit{id: fmt.Sprintf("c%d", i), target: c.Target, text: "config", config: c})
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		id := fmt.Sprintf("s%d", i)
		if len(s.Action) == 0 {
			units = append(units, unit{id: id, target: s.Target, text: s.Text, step: s})
			continue
		}
		for j, c := range flat(s.Action) {
			units = append(units, unit{id: fmt.Sprintf("%s.%d", id, j), target: s.Target, text: c.Text, cmd: &c})
		}
	}
	return units
}

// work does the runs that the spool holds, until ctx ends. It waits for the first
// look at the rack: a run must not fail because its agent has just started.
func (a *Agent) work(ctx context.Context) error {
	var working sync.WaitGroup
	defer working.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := a.looked(ctx); err != nil {
		return err
	}
	for {
		accepted, err := a.accepted()
		if err != nil {
			return err
		}
		for _, msg := range accepted {
			r := newRun(msg)
			if !a.runs.enter(r) {
				continue
			}
			working.Go(func() {
				defer r.cancel()
				defer a.runs.leave(r)
				if err := a.do(ctx, r); err != nil && ctx.Err() == nil {
					a.log.Error("a run stopped", obs.Run, r.GetId(), obs.Err, err)
					wait(ctx, retryAfter)
				}
			})
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.runs.wake:
		}
	}
}

func (a *Agent) accepted() (all []*pb.Run, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		all, err = journal.Accepted(tx)
		return err
	})
	return all, err
}

// do does this rack's part of a run, from where an earlier process left it. An
// error means that it could not be kept on disk; the run stays accepted.
func (a *Agent) do(ctx context.Context, r *run) error {
	if err := a.kept(r.GetEnvelope(), r.GetSource(), r.GetScript()); err != nil {
		return errors.Join(a.refuse(refusedRun, r.GetScript(), r.GetEnvelope(), err), a.finish(r, err))
	}
	_, r.by, _ = a.authority.current().Order(r.GetEnvelope()) // it was just verified
	program, diags := programOf(r.GetFile(), r.GetSource(), r.GetScript())
	if program == nil {
		return a.finish(r, fault.New(fault.BadInput, "read script", "this agent's version can't read it: "+diags.String()))
	}
	r.program, r.units, r.only = program, unitsOf(program), a.onlyOf(r.GetEnvelope())
	deadline, cancel := ctx, func() {}
	if ms := r.GetDeadlineUnixMs(); ms > 0 {
		deadline, cancel = context.WithDeadline(ctx, time.UnixMilli(ms))
	}
	defer cancel()
	chosen, err := a.chosen(ctx, deadline, r)
	if err != nil {
		return err
	}
	r.chose(len(chosen))
	var group errgroup.Group
	places := make(chan struct{}, a.atWork(program))
	for n, units := range chosen {
		group.Go(func() error {
			if err := a.begin(deadline, r, n); err != nil {
				return err
			}
			places <- struct{}{}
			defer func() { <-places }()
			return a.doNode(ctx, deadline, r, n, units)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if r.complete() { // what has passed or was canceled since has cut nothing short
		return a.finish(r, nil)
	}
	return a.finish(r, r.stopped(deadline))
}

func (r *run) chose(nodes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes = nodes
}

// complete reports whether every chosen node, and there are some, is well.
func (r *run) complete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes > 0 && r.ok == r.nodes
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// stopped is why a run ended early, nil if it did not. The end of the process is
// no reason: the next one goes on with the run.
func (r *run) stopped(deadline context.Context) error {
	if r.canceled.Err() != nil {
		return fault.New(fault.Canceled, "", "the run was canceled")
	}
	if errors.Is(deadline.Err(), context.DeadlineExceeded) {
		return fault.New(fault.Timeout, "", "the run's deadline has passed")
	}
	return nil
}

// chosen is which units concern which node. It is decided once and kept, so that
// a restart does not choose other nodes because the run has changed them.
func (a *Agent) chosen(ctx, deadline context.Context, r *run) (map[*node][]unit, error) {
	ids, known, err := a.keptChoice(r)
	if err != nil {
		return nil, err
	}
	if !known {
		ids = a.choose(deadline, r)
		if ctx.Err() != nil { // what was not read is not known
			return nil, ctx.Err()
		}
		if err := a.keepChoice(r, ids); err != nil {
			return nil, err
		}
	}
	chosen := make(map[*node][]unit)
	for _, n := range a.rack.everybody() {
		for _, u := range r.units {
			if ids[n.entry.Name][u.id] || ids[n.admitted().Was][u.id] && u.byPerson() {
				chosen[n] = append(chosen[n], u)
			}
		}
		if last := lastUnit(r.program); last != nil && len(chosen[n]) > 0 {
			chosen[n] = append(chosen[n], *last)
		}
	}
	return chosen, nil
}

func (a *Agent) choose(ctx context.Context, r *run) journal.Choice {
	c := a.chooser(r.program)
	targets := make([]scl.Target, len(r.units))
	for i, u := range r.units {
		targets[i] = u.target
	}
	a.learn(ctx, c, targets, learnTimeout)
	ids := make(journal.Choice)
	for _, n := range a.rack.everybody() {
		for _, u := range r.units {
			if !r.may(n) || c.match(u.target, n) != scl.True {
				continue
			}
			if ids[n.entry.Name] == nil {
				ids[n.entry.Name] = make(map[string]bool)
			}
			ids[n.entry.Name][u.id] = true
		}
	}
	return ids
}

// may reports whether the order lets the run touch a node.
func (r *run) may(n *node) bool {
	return len(r.only) == 0 || slices.Contains(r.only, string(n.entry.Name))
}

// doNode does the units of one node in order. The first that fails stops the
// node; the others are told as skipped.
func (a *Agent) doNode(ctx, deadline context.Context, r *run, n *node, units []unit) error {
	var walk journal.Walk
	for i, u := range units {
		if walk.Stop() == nil && !u.byPerson() {
			walk.Halt(n.foreign())
		}
		if i+1 < len(units) && walk.Stop() == nil {
			if err := a.together(ctx, deadline, job{r, n}, u, units[i+1]); err != nil {
				return err
			}
		}
		was, err := a.doUnit(ctx, deadline, job{r, n}, u, walk.Stop())
		if err != nil {
			return err
		}
		walk.Passed(was)
	}
	if err := a.endNode(r, n, walk.OK()); err != nil {
		return err
	}
	r.ended(walk.OK())
	a.link.Progress(r.progress(a.cfg.Rack))
	return nil
}

// foreign is why nothing is done on a stranger, nil for a member.
func (n *node) foreign() error {
	s := n.seen()
	if !s.Outside() {
		return nil
	}
	return fault.New(fault.Untrusted, "", "not tried: it is none of the fleet; it is "+s.Reason).
		WithHint("let it in: chiba bmc admit " + string(s.Name))
}

// doUnit does one unit and records it, if it has no result yet. It records nothing if
// the agent stops meanwhile: an action is then unknown at the next start, all else is
// done again.
func (a *Agent) doUnit(ctx, deadline context.Context, j job, u unit, stop error) (journal.Mark, error) {
	if stop == nil {
		stop = j.run.stopped(deadline)
	}
	e := j.run.entry(j.node, u)
	step, err := a.next(e, stop != nil)
	if err != nil || step.Doing == journal.Pass {
		return step.Was, err
	}
	if ctx.Err() != nil {
		return journal.Stop, ctx.Err()
	}
	var results []fleet.Result
	switch step.Doing {
	case journal.Settle:
		a.aftermath(ctx, j.node, u, &step.Left)
		results = []fleet.Result{step.Left}
	case journal.Skip:
		results = []fleet.Result{skipped(j.node.entry.Name, u.text, stop)}
	case journal.Intend:
		if err := a.intend(e, a.begun(j.node, u)); err != nil {
			return journal.Stop, err
		}
		fallthrough
	default:
		results = a.perform(deadline, j.run, j.node, u)
		a.outlawed(ctx, j.node, kindsOf(results)...)
		if ctx.Err() != nil {
			return journal.Stop, ctx.Err()
		}
	}
	return a.record(e, u, results)
}

func (a *Agent) perform(ctx context.Context, r *run, n *node, u unit) []fleet.Result {
	switch {
	case u.cmd != nil && u.cmd.Verb == scl.DoWait:
		return []fleet.Result{a.waitFor(ctx, r, n, *u.cmd)}
	case u.rule != nil:
		return []fleet.Result{a.inForce(r, n, u)}
	case u.config != nil:
		return a.apply(ctx, n, u.config)
	case u.byPerson(), u.cmd != nil && u.cmd.Verb == scl.DoAccept:
		return []fleet.Result{a.person(ctx, r.by, n, *u.cmd)}
	case u.cmd != nil:
		defer r.done(n.entry.Name)
		return []fleet.Result{a.command(ctx, n, *u.cmd, a.teller(r, n, u))}
	default:
		return []fleet.Result{a.look(ctx, n, *u.step)}
	}
}

// inForce tells whether a rule watches a node.
func (a *Agent) inForce(r *run, n *node, u unit) fleet.Result {
	result := fleet.Result{Status: fleet.Confirmed, After: "in force"}
	if a.chooser(r.program).match(u.target, n) != scl.True {
		result = failure(fault.New(fault.Unsupported, "watch", notWatched).
			WithHint("select it by its name, a group, a rack, a site, or by node.label"))
	}
	result.Node, result.Step, result.Started = n.entry.Name, u.text, a.now()
	return result
}

// waitFor is a wait that the cancel of its run ends: it changes nothing, so nothing
// is lost.
func (a *Agent) waitFor(ctx context.Context, r *run, n *node, c scl.Command) fleet.Result {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.canceled, cancel)()
	result := a.command(waiting, n, c, nil)
	if r.canceled.Err() != nil && !result.Status.OK() {
		return skipped(n.entry.Name, c.Text, r.stopped(ctx))
	}
	return result
}

func (r *run) ended(ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ok {
		r.ok++
	} else {
		r.failed++
	}
}

func (r *run) progress(rack fleet.RackName) *pb.Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &pb.Progress{
		Run: r.GetId(), Rack: string(rack), Nodes: int32(r.nodes),
		Done: int32(r.ok + r.failed), Failed: int32(r.failed), Doing: r.nowDoing(),
	}
}
