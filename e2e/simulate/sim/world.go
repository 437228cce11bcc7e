// Package sim is a world of agents, coordinators and BMCs that runs in one thread:
// no goroutine, no select, one queue of events, and random numbers of one seed. What
// is decided in it, the product's own packages decide; see DESIGN.md for what is the
// product's and what is a model.
package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/agent/spool"
	hubtalk "github.com/chiba-mesh/chiba/coordinator/hub/talk"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// start is when every world begins; its clocks go from there.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	sites    = 4
	perRack  = 10
	busy     = 5 * time.Minute // of orders and faults
	quiet    = 6 * time.Minute // in which all must come right
	deadline = 4 * time.Minute // of a run
)

// Options of a world.
type Options struct {
	Seed   uint64
	Agents int // default 20, of 10 nodes each
	Mutant Mutant
	// Faults are what goes wrong; nil: what the seed says.
	Faults []Fault
	// Story is told what happens, line by line; nil: nobody is.
	Story io.Writer

	large bool
}

// World is one run of the simulation.
type World struct {
	queue
	now    time.Duration
	rnd    *rand.Rand
	story  io.Writer
	mutant Mutant

	net          *network
	group        *group
	judge        *judge
	agents       []*agent
	coordinators []string
	machines     int
	program      *scl.Program
	perRack      int
	racks        map[string][]*agent
	rackNames    []string
	lives        uint64 // processes of agents so far
	faults       []Fault
	events       int

	violations []string
}

// Verdict is what came of a world.
type Verdict struct {
	Seed       uint64
	Faults     []Fault
	Violations []string
	Events     int // that happened
	Recorded   int // records
	Doubled    int // of them under another epoch of the spool too, after a disk was lost
	Acts       int // of BMCs that must be done once
	Commands   int // committed
}

// Run runs the world of a seed to its end, or to its first violation.
func Run(o Options) Verdict {
	w := newWorld(o)
	for _, f := range w.faults {
		w.at(f.At, func() {
			w.say("FAULT %s", f)
			kinds()[f.Kind](w, f)
		})
	}
	w.at(0, w.group.watch)
	w.orders()
	for _, a := range w.agents {
		w.at(time.Duration(w.rnd.IntN(5000))*time.Millisecond, a.boot)
	}
	w.at(busy, w.heal)
	w.until(busy + quiet)
	if len(w.violations) == 0 {
		w.judge.converged()
	}
	return Verdict{
		Seed: o.Seed, Faults: w.faults, Violations: w.violations, Events: w.events,
		Recorded: w.judge.recorded, Doubled: w.judge.doubled, Acts: w.judge.acts, Commands: len(w.group.log),
	}
}

// until lets the world go on until a time, or the first violation.
func (w *World) until(end time.Duration) {
	for len(w.heap) > 0 && w.heap[0].at <= end && len(w.violations) == 0 {
		e := w.pop()
		w.now = e.at
		w.events++
		e.do()
	}
}

func newWorld(o Options) *World {
	w := &World{rnd: dice(1, o.Seed), story: o.Story, mutant: o.Mutant, program: monitor("30s")}
	if w.faults = o.Faults; w.faults == nil {
		w.faults = Draw(o.Seed)
	}
	w.net = &network{w: w, rnd: dice(3, o.Seed), cuts: map[[2]string]int{}}
	if w.perRack = perRack; o.large {
		w.perRack, w.program = largeRack, monitor("60s")
	} else {
		w.judge = newJudge(w)
	}
	w.group = &group{w: w, rnd: dice(4, o.Seed), hashes: map[uint64]string{}}
	w.group.snapshots = !o.large
	for i := range 3 + 2*w.rnd.IntN(2) {
		r := &replica{
			group: w.group, name: fmt.Sprintf("c%d", i+1), up: true, waiting: map[string]*proposal{}, sessions: map[string]*session{},
			lent: map[string]hubtalk.Loan{}, heard: map[string]time.Duration{},
		}
		r.machine = w.newMachine()
		w.group.replicas = append(w.group.replicas, r)
		w.coordinators = append(w.coordinators, r.name)
	}
	if o.Agents == 0 {
		o.Agents = 20
	}
	w.racks = map[string][]*agent{}
	standbys := o.Agents / 4
	if o.large {
		standbys = 0
	}
	for i := range o.Agents - standbys {
		w.newRack(i, o.Seed)
	}
	for i := range standbys {
		w.newStandby(w.agents[i], o.Seed)
	}
	return w
}

// dice is a generator of its own for a part of the world, so that a change in one
// part does not change all the others.
func dice(part, seed uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, part)) //nolint:gosec // a simulation is to be repeated
}

// newRack is a rack with its agent.
func (w *World) newRack(i int, seed uint64) {
	a := w.newAgent(fmt.Sprintf("a%02d", i), 100+uint64(i), seed)
	a.rack, a.site, a.bmcs = fmt.Sprintf("r%02d", i), fmt.Sprintf("s%d", i%sites), map[fleet.NodeName]*bmc{}
	rnd := dice(10_000_000+uint64(i), seed)
	for n := range w.perRack {
		name := fleet.NodeName(fmt.Sprintf("%s-n%d", a.rack, n))
		a.nodes = append(a.nodes, name)
		a.bmcs[name] = &bmc{w: w, rack: a.rack, rnd: rnd, reader: map[string]bool{}}
	}
	w.rackNames = append(w.rackNames, a.rack)
	w.racks[a.rack] = append(w.racks[a.rack], a)
}

// newStandby gives the rack of an agent another one.
func (w *World) newStandby(a *agent, seed uint64) {
	b := w.newAgent("b"+a.name[1:], 20_000_000+uint64(len(w.agents)), seed)
	b.rack, b.site, b.nodes, b.bmcs = a.rack, a.site, a.nodes, a.bmcs
	a.partner, b.partner = b, a
	w.racks[a.rack] = append(w.racks[a.rack], b)
}

func (w *World) newAgent(name string, part, seed uint64) *agent {
	a := &agent{w: w, name: name, rnd: dice(part, seed), disk: newDisk()}
	a.drift = (a.rnd.Float64() - 0.5) / 100 // half a percent each way
	a.disk.boundary = func() { a.step() }
	if w.judge == nil {
		a.disk.keeps = 0
	} else {
		a.disk.commit = a.committed
	}
	if w.mutant == LostJournal {
		a.disk.drop = func(t spool.Table) bool { return t == intentsTable }
	}
	w.agents = append(w.agents, a)
	return a
}

// monitor is the rule of every rack.
func monitor(every string) *scl.Program {
	p, diags := compile.Source("sim.scl", []byte(`(monitor all (every `+every+`) (cooldown 2m) (condition (> cpu.temp 90C)) (action (reboot)))`))
	if p == nil || len(p.Monitors) != 1 {
		panic(diags.String())
	}
	p.Bind("hot")
	return p
}

func (w *World) rules(a *agent) core.Rules {
	return core.Rules{{Script: "hot", Monitor: &w.program.Monitors[0], Nodes: a.nodes}}
}

func (w *World) at(at time.Duration, do func()) { w.push(max(at, w.now), do) }

func (w *World) after(d time.Duration, do func()) { w.push(w.now+max(0, d), do) }

func (w *World) agent(i int) *agent         { return w.agents[i%len(w.agents)] }
func (w *World) coordinator(i int) *replica { return w.group.replicas[i%len(w.group.replicas)] }

func (w *World) replica(name string) *replica {
	for _, r := range w.group.replicas {
		if r.name == name {
			return r
		}
	}
	return nil
}

// heal ends everything that goes wrong.
func (w *World) heal() {
	w.say("all is healed")
	clear(w.net.cuts)
	for _, r := range w.group.replicas {
		r.boot()
	}
	for _, a := range w.agents {
		a.disk.full, a.fuse = false, 0
		for _, n := range a.nodes {
			a.bmcs[n].hangs, a.bmcs[n].slow, a.bmcs[n].lies = 0, 0, 0
		}
	}
}

// orders are what people want while the world is busy: runs on some racks, each of
// which may be canceled.
func (w *World) orders() {
	rnd := w.rnd
	var version uint64
	for n := range 6 + rnd.IntN(8) {
		at := time.Duration(rnd.Int64N(int64(busy)))
		source := []byte(strings.Join([]string{setBoot, reboot, setBoot}[rnd.IntN(3):], " "))
		racks := rnd.Perm(len(w.rackNames))[:1+rnd.IntN(min(6, len(w.rackNames)))]
		cancel := rnd.IntN(4) == 0
		asked, wait := rnd.IntN(10), time.Duration(rnd.IntN(40))*time.Second
		w.at(at, func() {
			c := w.coordinator(asked)
			if !c.up {
				return
			}
			version = order.Next(start.Add(w.now), version)
			run := &pb.Run{
				Script: fmt.Sprintf("script%d", n%4), Source: source, Digest: order.Digest(source), Version: version, Envelope: []byte(fmt.Sprint("order ", n)),
				DeadlineUnixMs: start.Add(w.now + deadline).UnixMilli(),
			}
			for _, i := range racks {
				run.Racks = append(run.Racks, &pb.RackRun{Rack: w.rackNames[i], Nodes: int32(w.perRack)})
			}
			w.say("somebody asks %s for %q on %d racks", c.name, source, len(racks))
			c.propose(&pb.Command{Body: &pb.Command_StartRun{StartRun: &pb.StartRun{Run: run}}}, func(o state.Outcome, err error) {
				w.say("%s answers: run %s, %v %v", c.name, o.Run.GetId(), err, o.Err)
				if err == nil && o.Run != nil && cancel {
					w.after(wait, func() { w.cancel(c, o.Run) })
				}
			})
		})
	}
}

func (w *World) cancel(c *replica, r *pb.Run) {
	if !c.up {
		return
	}
	w.say("somebody cancels %s", r.GetId())
	c.propose(&pb.Command{Body: &pb.Command_CancelRun{CancelRun: &pb.CancelRun{Id: r.GetId(), Envelope: []byte("cancel " + r.GetId())}}}, func(state.Outcome, error) {})
}

// say tells the story.
func (w *World) say(format string, args ...any) {
	if w.story != nil {
		fmt.Fprintf(w.story, "%s %s\n", clock(w.now), fmt.Sprintf(format, args...))
	}
}

func clock(d time.Duration) string {
	return fmt.Sprintf("%02d:%06.3f", int(d.Minutes()), (d % time.Minute).Seconds())
}

func (w *World) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.say("VIOLATION %s", text)
	w.violations = append(w.violations, text)
}
