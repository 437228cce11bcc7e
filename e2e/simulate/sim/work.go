package sim

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	maxRuns       = 16
	retryAfter    = 5 * time.Second
	actionTimeout = time.Minute
)

// work is a run that is being done on its rack.
type work struct {
	run    *pb.Run
	units  []string // commands
	left   int      // nodes on which it goes on
	ok     int
	failed int
	over   bool // it could not be kept: it is done again from where it is on disk
}

// walk is the way of one node through a run.
type walk struct {
	journal.Walk
	*work
	node fleet.NodeName
	i    int
}

// resume begins what is accepted and not begun in this process.
func (a *agent) resume() {
	if !a.reigns {
		return
	}
	var runs []*pb.Run
	err := a.view(func(tx *spool.Tx) (err error) {
		runs, err = journal.Accepted(tx)
		return err
	})
	if err != nil {
		a.w.violate("%s can't read its runs: %v", a.name, err)
	}
	for _, r := range runs {
		if a.active[journal.Key(r)] != nil || len(a.active) >= maxRuns {
			continue
		}
		x := &work{run: r, units: strings.Fields(string(r.GetSource()))}
		a.active[journal.Key(r)] = x
		a.during(time.Duration(a.rnd.IntN(300))*time.Millisecond, func() { a.choose(x) })
	}
}

// choose decides which nodes a run concerns, if that was not decided before.
func (a *agent) choose(x *work) {
	var ids journal.Choice
	var chosen bool
	err := a.view(func(tx *spool.Tx) (err error) {
		ids, chosen, err = journal.Chosen(tx, x.run)
		return err
	})
	if err == nil && !chosen {
		ids = journal.Choice{}
		for _, n := range a.nodes {
			ids[n] = map[string]bool{"all": true}
		}
		err = a.update(func(tx *spool.Tx) { journal.Choose(tx, a.now(), x.run, ids) })
	}
	if err != nil {
		a.retry(x, err)
		return
	}
	x.left = len(ids)
	for _, n := range a.nodes {
		if ids[n] != nil {
			a.walk(&walk{work: x, node: n})
		}
	}
}

// retry does a run again from the disk, after a while.
func (a *agent) retry(x *work, err error) {
	if x.over {
		return
	}
	x.over = true
	a.w.say("%s can't keep %s: %v", a.name, x.run.GetId(), err)
	a.during(retryAfter, func() {
		delete(a.active, journal.Key(x.run))
		a.resume()
	})
}

func (a *agent) ended(x *work) error {
	switch {
	case a.stopped[spool.Key(x.run.GetScript(), strconv.FormatUint(x.run.GetVersion(), 10))]:
		return fault.New(fault.Canceled, "", "the run was canceled")
	case a.now().UnixMilli() >= x.run.GetDeadlineUnixMs():
		return fault.New(fault.Timeout, "", "the run's deadline has passed")
	}
	return nil
}

// walk goes on with the next unit of a node, as agent.doUnit does.
func (a *agent) walk(w *walk) {
	if w.over {
		return
	}
	if w.i == len(w.units) {
		a.arrive(w)
		return
	}
	u := a.unit(w)
	stop := w.Stop()
	if stop == nil {
		stop = a.ended(w.work)
	}
	var step journal.Step
	err := a.view(func(tx *spool.Tx) (err error) {
		step, err = u.Next(tx, stop != nil)
		return err
	})
	if err != nil {
		a.retry(w.work, err)
		return
	}
	switch step.Doing {
	case journal.Pass:
		a.next(w, step.Was)
	case journal.Settle:
		a.record(w, u, step.Left)
	case journal.Skip:
		r := failed(u.Text, w.node, fault.KindOf(stop), stop.Error())
		r.Status = fleet.Skipped
		a.record(w, u, r)
	case journal.Intend:
		if err := a.update(func(tx *spool.Tx) { u.Intend(tx, journal.Unknown(w.node, u.Text)) }); err != nil {
			a.retry(w.work, err)
			return
		}
		a.shared(func(has bool) { a.do(w, u, has) })
	case journal.Do:
		a.do(w, u, false)
	}
}

func (a *agent) unit(w *walk) journal.Unit {
	command := w.units[w.i]
	return journal.Unit{Run: w.run, Node: w.node, ID: fmt.Sprintf("s%d", w.i), Text: command, Once: command == reboot}
}

// do asks the BMC, and gives up after a while.
func (a *agent) do(w *walk, u journal.Unit, shared bool) {
	o := demand{command: u.Text, unit: deed(journal.Key(w.run), w.node, u.ID), shared: shared}
	a.command(w.node, o, func(s answer) {
		if w.over {
			return
		}
		switch s {
		case done:
			a.record(w, u, fleet.Result{Node: w.node, Step: u.Text, Status: fleet.Confirmed})
		case refused, denied:
			a.record(w, u, failed(u.Text, w.node, fault.Conflict, "the BMC refuses"))
		case silent:
			a.record(w, u, failed(u.Text, w.node, fault.Timeout, "no answer"))
		}
	})
}

// command has a BMC do something, when it may be used. It tells nothing if we are shut
// out: that ends the reign.
func (a *agent) command(n fleet.NodeName, o demand, then func(answer)) {
	begun := a.mono()
	var try func()
	try = func() {
		switch {
		case a.may() && !a.toFence[n]:
			a.w.judge.begins(a)
			o.as, o.epoch = a.name, a.out.Claim
			a.during(time.Duration(a.rnd.IntN(20))*time.Millisecond, func() { // between the check and the wire
				a.request(n, o, actionTimeout, func(s answer) {
					if s == denied {
						a.outlawed(n, func() { then(denied) })
						return
					}
					then(s)
				})
			})
		case a.mono().Sub(begun) >= tookPatience:
			then(refused)
		default:
			a.during(time.Second, try)
		}
	}
	try()
}

// deed is the name of something that is done at most once by one journal.
func deed(parts ...any) string { return fmt.Sprintf("%q", parts) }

func (a *agent) record(w *walk, u journal.Unit, r fleet.Result) {
	was := journal.OK
	if !r.Status.OK() {
		was = journal.Stop
	}
	r.Path = a.text()
	if err := a.update(func(tx *spool.Tx) { u.Record(tx, a.now(), []fleet.Result{r}, was) }); err != nil {
		a.retry(w.work, err)
		return
	}
	a.next(w, was)
}

func (a *agent) next(w *walk, was journal.Mark) {
	w.Passed(was)
	w.i++
	a.walk(w)
}

// arrive is the end of a run on a node, and on the rack if it is the last.
func (a *agent) arrive(w *walk) {
	x := w.work
	if w.OK() {
		x.ok++
	} else {
		x.failed++
	}
	if x.left--; x.left > 0 {
		return
	}
	end := &pb.RackRunDone{Run: x.run.GetId(), Nodes: int32(x.ok + x.failed), Ok: int32(x.ok), Failed: int32(x.failed)}
	if why := a.ended(x); why != nil && x.failed > 0 {
		end.Error = why.Error()
	}
	if err := a.update(func(tx *spool.Tx) { journal.Finish(tx, a.now(), x.run, end) }); err != nil {
		a.retry(x, err)
		return
	}
	delete(a.active, journal.Key(x.run))
	a.w.say("%s is done with %s: %d nodes are well, %d are not", a.name, x.run.GetId(), x.ok, x.failed)
	a.resume()
}

// rule steps the rules with what happened, and does what they say when it is kept.
func (a *agent) rule(in core.Input) {
	if a.engine == nil {
		return // the other agent watches
	}
	out := a.engine.Step(a.now(), in)
	if len(out.Changed)+len(out.Gone)+len(out.Fire) > 0 {
		for i := range out.Fire {
			if held := &out.Fire[i].Firing.Held; *held != "" {
				*held = a.text()
			}
		}
		err := a.update(func(tx *spool.Tx) {
			journal.KeepRules(tx, a.now(), out, func(f core.Fire) fleet.Firing {
				firing := f.Firing
				firing.Held = a.text()
				return firing
			})
		})
		if err != nil { // the product waits until the disk takes it; that no process outlives it is harder
			a.die(err.Error())
			return
		}
	}
	for _, r := range out.Read {
		a.during(time.Duration(50+a.rnd.IntN(300))*time.Millisecond, func() { a.sample(r) })
	}
	for _, f := range out.Fire {
		if f.Firing.Held == "" {
			a.fire(f)
		}
	}
	a.wake(out.Next)
}

// wake looks at the rules again at a time.
func (a *agent) wake(next time.Time) {
	if next.IsZero() || next.Equal(a.waking) {
		return
	}
	a.waking = next
	a.during(max(0, next.Sub(a.now())), func() {
		if a.waking.Equal(next) {
			a.waking = time.Time{}
			a.rule(core.Tick{})
		}
	})
}

// sample tells the rules how warm a node is.
func (a *agent) sample(r core.Read) {
	s := core.Sample{Node: r.Node, Refs: r.Refs}
	for range r.Refs {
		degrees := 40 + a.rnd.IntN(50)
		if a.rnd.IntN(60) == 0 && a.w.now < busy {
			degrees = 99
		}
		s.Readings = append(s.Readings, fleet.Reading{Node: r.Node, Value: fleet.Number(float64(degrees), fleet.Celsius), At: a.now()})
	}
	a.rule(s)
}

// fire does what a rule asks for, noted before it begins, as watch does. The rule of
// this world has one command.
func (a *agent) fire(f core.Fire) {
	firing, key := f.Firing, journal.FiringKey(f.Firing)
	firing.Held = a.text()
	text := f.Commands[0].Text
	answered := false
	end := func(r fleet.Result) {
		if !answered {
			answered = true
			firing.Results = append(firing.Results, r)
			a.told(key, firing)
		}
	}
	err := a.update(func(tx *spool.Tx) { journal.IntendFiring(tx, key, firing, journal.Unknown(firing.Node, text)) })
	if err != nil {
		a.w.say("%s can't keep that it acts: %v", a.name, err)
		a.during(retryAfter, func() { a.fire(f) })
		return
	}
	a.shared(func(has bool) {
		a.command(firing.Node, demand{command: reboot, unit: deed(key), shared: has}, func(s answer) {
			if s == done {
				end(fleet.Result{Node: firing.Node, Step: text, Status: fleet.Confirmed})
				return
			}
			end(failed(text, firing.Node, fault.Timeout, "no answer"))
		})
	})
}

// told records a firing that is over, when the disk takes it.
func (a *agent) told(key string, f fleet.Firing) {
	if err := a.update(func(tx *spool.Tx) { journal.RecordFiring(tx, a.now(), key, f) }); err != nil {
		a.w.say("%s can't keep a firing: %v", a.name, err)
		a.during(retryAfter, func() { a.told(key, f) })
	}
}

// chatter appends records of no consequence now and then, so that there is always
// something on its way.
func (a *agent) chatter() {
	if a.w.judge == nil || a.w.now > busy {
		return
	}
	err := a.update(func(tx *spool.Tx) {
		for range 1 + a.rnd.IntN(3) {
			tx.Append(a.now(), &pb.Record{Body: &pb.Record_Firing{Firing: &pb.Firing{Rule: "chatter", Held: a.text()}}})
		}
	})
	if err != nil {
		a.w.say("%s can't keep a record: %v", a.name, err)
	}
	a.after(time.Duration(2+a.rnd.IntN(8))*time.Second, a.chatter)
}
