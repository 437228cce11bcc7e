package sim

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// LargeOptions of a large world.
type LargeOptions struct {
	Agents int
	For    time.Duration // of its own time; at least what the phases take
	Log    io.Writer     // is told how far it is
}

// Report is what a large world costs.
type Report struct {
	Agents, Nodes int
	Lines         []string // what was measured, for people
	Violations    []string
}

// String is the report as lines.
func (r Report) String() string {
	return strings.Join(r.Lines, "\n") + fmt.Sprintf("\n%d agents, %d nodes, violations: %d\n", r.Agents, r.Nodes, len(r.Violations))
}

const (
	largeRack = 100
	look      = 100 * time.Millisecond // between two looks at whether something is done
)

// large is a large world under way.
type large struct {
	*World
	log    io.Writer
	begun  time.Time
	report Report
}

// RunLarge runs one world of many agents. Every BMC is sampled
// once a minute by the rules of its rack; a script is given to all, every summary is
// gathered anew, and the coordinator that leads is lost and comes back.
func RunLarge(o LargeOptions) (Report, error) {
	before := heap()
	l := &large{World: newWorld(Options{Seed: 1, Agents: o.Agents, Faults: []Fault{}, large: true}), log: o.Log, begun: time.Now()}
	l.report = Report{Agents: len(l.agents), Nodes: len(l.agents) * largeRack}
	l.at(0, l.group.watch)
	for _, a := range l.agents {
		l.at(time.Duration(l.rnd.IntN(5000))*time.Millisecond, a.boot)
	}
	nodes := func(want int) func() bool {
		return func() bool { return l.least(func(m machine) int { return m.Counts().Nodes }) >= want }
	}
	err := errors.Join(
		l.measure("every agent connected and every summary gathered, from nothing", nodes(l.report.Nodes)),
		l.dispatch(),
		l.gather(),
		l.failover(),
	)
	if err != nil {
		return l.report, err
	}
	rest, events := l.now, l.events
	spent := cpu()
	if err := l.pass("the rest of the time", func() bool { return l.now >= o.For }); err != nil {
		return l.report, err
	}
	if rest = l.now - rest; rest > 0 {
		l.tell("a quiet minute: %.0f events, %.2f s of CPU", float64(l.events-events)/rest.Minutes(), (cpu()-spent).Seconds()/rest.Minutes())
	}
	l.check()
	l.costs(before)
	return l.report, nil
}

// pass lets the world go on until done, looked at ten times a second.
func (l *large) pass(what string, done func() bool) error {
	told := time.Now()
	for !done() {
		if l.now >= 2*time.Hour || len(l.violations) > 0 {
			return fmt.Errorf("%s: it is not done after %s %v", what, clock(l.now), l.violations)
		}
		l.until(l.now + look)
		l.now += look
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			fmt.Fprintf(l.log, "%s: virtual time %s, %d events, %.0f s\n", what, clock(l.now), l.events, time.Since(l.begun).Seconds())
		}
	}
	return nil
}

// measure tells how long something took in the world, and here.
func (l *large) measure(what string, done func() bool) error {
	now, begun := l.now, cpu()
	if err := l.pass(what, done); err != nil {
		return err
	}
	l.tell("%-64s %8.1f s virtual %7.1f s of CPU", what, (l.now - now).Seconds(), (cpu() - begun).Seconds())
	return nil
}

func (l *large) tell(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	fmt.Fprintln(l.log, line)
	l.report.Lines = append(l.report.Lines, line)
}

// least is the smallest of what the coordinators that are up have.
func (l *large) least(of func(machine) int) int {
	least := -1
	for _, r := range l.group.replicas {
		if n := of(r.machine); r.up && (least < 0 || n < least) {
			least = n
		}
	}
	return least
}

func (l *large) propose(c *pb.Command) {
	l.group.leader.propose(c, func(o state.Outcome, err error) {
		if err = errors.Join(err, o.Err); err != nil {
			l.violate("%v", err)
		}
	})
}

// dispatch gives a run of one command to every rack, and waits until all have kept
// it, and until all are done with it.
func (l *large) dispatch() error {
	source := []byte(setBoot)
	run := &pb.Run{
		Script: "all", Source: source, Digest: order.Digest(source), Version: 1, Envelope: []byte("order"),
		DeadlineUnixMs: start.Add(time.Hour).UnixMilli(),
	}
	for _, a := range l.agents {
		run.Racks = append(run.Racks, &pb.RackRun{Rack: a.rack, Nodes: largeRack})
	}
	l.propose(&pb.Command{Body: &pb.Command_StartRun{StartRun: &pb.StartRun{Run: run}}})
	begun := l.now
	kept := func() bool {
		for _, a := range l.agents {
			if a.revision == 0 {
				return false
			}
		}
		return true
	}
	if err := l.measure("a script dispatched: every agent has it on disk", kept); err != nil {
		return err
	}
	ended := func() bool {
		return l.least(func(m machine) int {
			if r, _, _ := m.Run("R1", state.NoResults); r.GetEndedUnixMs() == 0 {
				return 0
			}
			return 1
		}) == 1
	}
	err := l.measure("… and done on every node, every result in the log", ended)
	if err == nil {
		l.tell("%-64s %8.1f s virtual", "  both", (l.now - begun).Seconds())
	}
	return err
}

// gather has every agent tell the summaries of all its nodes anew.
func (l *large) gather() error {
	left := len(l.agents)
	for _, a := range l.agents {
		a.after(time.Duration(a.rnd.IntN(1000))*time.Millisecond, func() {
			a.power = "off"
			left--
			if err := a.Introduce(); err != nil {
				l.violate("%s: %v", a.name, err)
			}
		})
	}
	told := func() bool {
		if left > 0 {
			return false
		}
		for _, a := range l.agents {
			if c, err := a.spool.Cursor(); err != nil || c.First != c.Next {
				return false
			}
		}
		return true
	}
	return l.measure("every summary gathered anew and acknowledged", told)
}

// failover kills the coordinator that leads, waits until another one commits, until
// every agent has found another coordinator, and starts the lost one again.
func (l *large) failover() error {
	lost := l.group.leader
	orphans := 0
	for _, a := range l.agents {
		if a.session != nil && a.session.c == lost {
			orphans++
		}
	}
	lost.crash()
	committed := len(l.group.log)
	asked := false
	commits := func() bool {
		if l.group.leader != nil && !asked {
			asked = true
			l.propose(&pb.Command{Body: &pb.Command_Mark{Mark: &pb.Mark{}}})
		}
		return len(l.group.log) > committed
	}
	if err := l.measure("the leader is lost: another one has committed", commits); err != nil {
		return err
	}
	back := func() bool {
		for _, a := range l.agents {
			if a.session == nil || a.session.c == lost {
				return false
			}
		}
		return true
	}
	if err := l.measure(fmt.Sprintf("… and its %d agents are back at the others", orphans), back); err != nil {
		return err
	}
	begun := cpu()
	lost.boot()
	l.tell("%-64s %18s %7.1f s of CPU", fmt.Sprintf("… and it has read its log again, %d commands", lost.applied), "", (cpu() - begun).Seconds())
	return nil
}

// check is that all coordinators have the same state, and that it is complete.
func (l *large) check() {
	want := ""
	for _, r := range l.group.replicas {
		hash, err := r.machine.Hash()
		if want == "" {
			want = hash
		}
		if err != nil || hash != want {
			l.violate("coordinator %s has another state than the first: %v", r.name, err)
		}
		if n := r.machine.Counts().Nodes; n != l.report.Nodes {
			l.violate("coordinator %s has %d nodes of %d", r.name, n, l.report.Nodes)
		}
	}
	for _, a := range l.agents {
		if c, err := a.spool.Cursor(); err != nil || c.First != c.Next {
			l.violate("%s has records that nobody takes: %v", a.name, err)
		}
	}
	l.report.Violations = l.violations
}

// costs tells what it took.
func (l *large) costs(before uint64) {
	all := heap()
	l.tell("%d events, %d commands in the log, %s of virtual time: %.0f s, %.0f s of CPU", l.events, len(l.group.log), clock(l.now), time.Since(l.begun).Seconds(), cpu().Seconds())
	l.tell("memory of the whole world: %d MiB, %d coordinators, agents and BMCs", (all-before)>>20, len(l.group.replicas))
	data := encode(l.group.replicas[0].machine.Snapshot())
	var s pb.Snapshot
	if err := proto.Unmarshal(data, &s); err != nil {
		l.violate("read a snapshot: %v", err)
	}
	size := len(data)
	data = nil
	m := state.New()
	if err := m.Restore(&s); err != nil {
		l.violate("restore a snapshot: %v", err)
	}
	s.Reset()
	grown := heap() - all
	l.tell("memory of one coordinator's state: %d MiB, %d bytes per node; its snapshot: %d MiB", grown>>20, grown/uint64(l.report.Nodes), size>>20)
	runtime.KeepAlive(m)
	runtime.KeepAlive(data)
}

// cpu is the processor's time that this process has used: on a machine that others
// use too it tells more than a clock.
func cpu() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// summary is what an agent tells of a node, as large as that of a real one.
func (a *agent) summary(n fleet.NodeName) *pb.Record {
	return &pb.Record{Body: &pb.Record_Node{Node: &pb.Node{
		Name: string(n), Bmc: "sha256/" + strings.Repeat("k", 30) + string(n), Address: string(n) + ":443", State: "ready",
		Power: a.power, Health: "OK", Vendor: "Simulated", Model: "S1", Serial: "SN-" + string(n), Bios: "1.2.3", Firmware: "2.14.0",
	}}}
}
