package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/agent/intent"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// shot is a firing that is being carried out. What of it is kept on disk is always
// all of it: what is done, what is under way, and what is asked of other racks.
type shot struct {
	*watcher
	key     string
	version uint64       // of the script
	of      fleet.Firing // as it was when it began, which never changes

	mu      sync.Mutex
	results []fleet.Result
	open    []*deed
}

func newShot(w *watcher, key string, version uint64, f fleet.Firing) *shot {
	return &shot{watcher: w, key: key, version: version, of: f, results: slices.Clone(f.Results)}
}

// firing is the firing as far as it is. It is called with the lock.
func (s *shot) firing() fleet.Firing {
	f := s.of
	f.Results = s.results
	return f
}

// deed is a command on a node that is under way.
type deed struct {
	so    fleet.Result // the result that it has if nothing more is heard of it
	asked *pb.Intended // nil: it is done here
}

// part is the sequence of commands that is done on one node.
type part struct {
	on       fleet.NodeName
	commands []scl.Command
	first    int          // of commands that is to be done
	asked    *pb.Intended // by an earlier process, instead of the first
}

// partsOf are the sequences of an action, which know nothing of each other.
func partsOf(at fleet.NodeName, on []fleet.NodeName, commands []scl.Command) []part {
	if len(on) == 0 {
		on = []fleet.NodeName{at}
	}
	parts := make([]part, len(on))
	for i, name := range on {
		parts[i] = part{on: name, commands: scl.Flat(commands)}
	}
	return parts
}

// notBegun is the firing as it is if the process ends before its first command.
func notBegun(f core.Fire) fleet.Firing {
	firing := f.Firing
	for _, p := range partsOf(firing.Node, f.On, f.Commands) {
		for _, c := range p.commands {
			why := fault.New(fault.Canceled, "", "not tried: the agent stopped before")
			firing.Results = append(firing.Results, skipped(p.on, c.Text, why))
		}
	}
	return firing
}

// fire does what a rule asks for and records the firing with what came of it. On each
// node one command follows the other until one fails. Each is noted before it begins,
// and only begun while the rule stands: whoever removes a rule wants it to stop.
func (w *watcher) fire(ctx context.Context, f core.Fire) {
	if len(f.On) == 0 && w.rack.named(f.Firing.Node) == nil {
		return // it is no node of the rack any more
	}
	s := newShot(w, journal.FiringKey(f.Firing), w.versionOf(f.Firing.Script), f.Firing)
	s.all(ctx, partsOf(f.Firing.Node, f.On, f.Commands))
}

// all does all parts and records the firing. If ctx ends nothing is recorded: the next
// process does that.
func (s *shot) all(ctx context.Context, parts []part) {
	var doing sync.WaitGroup
	for _, p := range parts {
		doing.Go(func() { s.part(ctx, p) })
	}
	doing.Wait()
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Something may have been done: what came of it must be told, however long the
	// disk takes nothing.
	err := s.persist(ctx, "firing", func() error { return s.recordFiring(s.key, s.firing()) })
	if err != nil && ctx.Err() == nil { // else the next process records it, as unknown
		s.complain("firing", err)
	}
}

// part does the commands of one node, one after the other.
func (s *shot) part(ctx context.Context, p part) {
	var last *deed
	var was fleet.Result
	for i := p.first; i < len(p.commands) || p.asked != nil; i++ {
		d, asked := &deed{asked: p.asked}, p.asked != nil
		var c scl.Command
		if p.asked = nil; asked {
			d.so = journal.Unknown(fleet.NodeName(d.asked.GetIntent().GetOn()), d.asked.GetText())
		} else {
			c = p.commands[i]
			s.begin(d, i, c, p.on)
		}
		if s.note(ctx, last, was, d) != nil {
			return // recorded at the next start
		}
		last = d
		was = s.do(ctx, d, c, asked)
		if ctx.Err() != nil {
			return // likewise
		}
		if !was.Status.OK() {
			break
		}
	}
	if last != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end(last, was)
	}
}

// begin fills in what a command is about to do.
func (s *shot) begin(d *deed, at int, c scl.Command, on fleet.NodeName) {
	if to := c.Elsewhere(); to != "" {
		on = to
	}
	d.so = journal.Unknown(on, c.Text)
	if s.rack.named(on) == nil {
		d.asked = &pb.Intended{Intent: intent.New(s.of, s.version, at, on), Text: c.Text, TakesMs: takes(c).Milliseconds()}
	}
}

// takes is how long a command may take.
func takes(c scl.Command) time.Duration {
	switch {
	case c.Timeout > 0:
		return c.Timeout + takenPatience
	case c.Verb == scl.DoWait:
		return waitTimeout + takenPatience
	}
	return actionTimeout + takenPatience
}

// note keeps, durably, that one deed is over and another one about to be begun.
func (s *shot) note(ctx context.Context, over *deed, was fleet.Result, next *deed) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if over != nil {
		s.end(over, was)
	}
	s.open = append(s.open, next)
	return s.persist(ctx, "firing", s.keepOpen)
}

// end moves a deed that is over to the results. It is called with the lock.
func (s *shot) end(d *deed, was fleet.Result) {
	was.Script, was.Rule = s.of.Script, s.of.Rule
	s.results = append(s.results, was)
	for i, o := range s.open {
		if o == d {
			s.open = append(s.open[:i:i], s.open[i+1:]...)
			return
		}
	}
}

// keepOpen keeps the firing as it is. It is called with the lock.
func (s *shot) keepOpen() error {
	var open []fleet.Result
	var asked []*pb.Intended
	for _, d := range s.open {
		open = append(open, d.so)
		if d.asked != nil {
			asked = append(asked, d.asked)
		}
	}
	return s.toldStandby(s.spool.Update(func(tx *spool.Tx) error {
		journal.IntendFiring(tx, s.key, s.firing(), open, asked...)
		return nil
	}))
}

// do does one command that was noted. What was asked before is asked for to its end,
// whether or not the rule still stands: it may have been done.
func (s *shot) do(ctx context.Context, d *deed, c scl.Command, before bool) fleet.Result {
	if !before && !s.stands(s.of) { // to note it may have taken long
		return skipped(d.so.Node, c.Text, fault.New(fault.Canceled, "", "not tried: the rule is no longer in force"))
	}
	if d.asked != nil {
		return s.pursue(ctx, d.asked, before)
	}
	n := s.rack.named(d.so.Node)
	if n == nil {
		return skipped(d.so.Node, c.Text, fault.New(fault.NotFound, "", "not tried: it is no node of the rack any more"))
	}
	r := s.command(ctx, n, c, s.teller(d, c))
	s.outlawed(ctx, n, r.Kind)
	return r
}

// teller keeps each phase of a firing's update in the journal.
func (s *shot) teller(d *deed, c scl.Command) teller {
	if c.Verb != scl.DoFirmware {
		return nil
	}
	return func(news bmc.FirmwareNews) {
		if !news.Phase {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		d.so = atPhase(journal.Unknown(d.so.Node, c.Text), news)
		if err := s.keepOpen(); err != nil {
			s.complain("journal", err)
		}
	}
}

// askOn goes on with the firings of an earlier process of which something was asked of
// other racks.
func (w *watcher) askOn(ctx context.Context) error {
	var all []journal.Asking
	err := w.spool.View(func(tx *spool.Tx) (err error) {
		all, err = journal.AskedFor(tx)
		return err
	})
	if err != nil {
		return err
	}
	for _, a := range all {
		s := newShot(w, a.Key, a.Asked[0].GetIntent().GetVersion(), a.Firing)
		var parts []part
		for _, i := range a.Asked {
			p := part{asked: i, first: int(i.GetIntent().GetCommand())}
			p.on, p.commands = w.rest(i.GetIntent())
			parts = append(parts, p)
		}
		w.log.Warn("going on with what was asked of other racks", obs.Script, string(a.Firing.Script), obs.Rule, a.Firing.Rule, obs.Count, len(parts))
		w.doing.Go(func() { s.all(ctx, parts) })
	}
	return nil
}

// rest are the commands of the rule that an intent is of, for the node that its part
// is done on; none if the rule is another one by now.
func (w *watcher) rest(i *pb.Intent) (on fleet.NodeName, commands []scl.Command) {
	at := fleet.ScriptName(i.GetScript())
	program := w.programs()[at]
	if program == nil || w.versionOf(at) != i.GetVersion() {
		return "", nil
	}
	for _, m := range program.Monitors {
		if m.Name != i.GetRule() {
			continue
		}
		if on = fleet.NodeName(i.GetNode()); len(m.ActsOn()) > 0 {
			on = fleet.NodeName(i.GetOn())
		}
		return on, scl.Flat(m.Commands)
	}
	return "", nil
}

// versionOf is the version of a script that stands here, 0 if it does not.
func (a *Agent) versionOf(name fleet.ScriptName) uint64 {
	a.standing.mu.Lock()
	defer a.standing.mu.Unlock()
	if s := a.standing.scripts[string(name)]; s != nil {
		return s.GetVersion()
	}
	return 0
}

// recordFiring records a firing that is over.
func (a *Agent) recordFiring(key string, f fleet.Firing) error {
	return a.spool.Update(func(tx *spool.Tx) error {
		journal.RecordFiring(tx, a.now(), key, f)
		return nil
	})
}
