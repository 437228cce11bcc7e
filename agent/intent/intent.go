// Package intent decides about work that a rule of one rack wants done in another rack
// of the same site: whether the agent that is asked does it, and how long the one that
// asks goes on asking. It does nothing itself and has no clock.
//
// An intent is one command of one firing on one node. What it says is its identity:
// two that say the same are the same one, whoever sends them and however often.
package intent

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// ValidFor is how long after its rule has fired an intent may be begun.
	ValidFor = 10 * time.Minute
	// Skew is how far the clocks of two agents may be apart.
	Skew = 2 * time.Minute
	// KeptFor is how long the one that did it remembers what came of it, at least.
	KeptFor = 24 * time.Hour
	// MostKept is how many intents of one rack are remembered at most.
	MostKept = 4096
)

// New is the intent of the command at a place of a firing's action, on a node.
func New(f fleet.Firing, version uint64, command int, on fleet.NodeName) *pb.Intent {
	return &pb.Intent{
		Script: string(f.Script), Version: version, Rule: f.Rule, Node: string(f.Node), AtUnixMs: f.At.UnixMilli(),
		Command: int32(command), On: string(on), UntilUnixMs: f.At.Add(ValidFor).UnixMilli(),
	}
}

// Key is what an intent of a rack is kept under, wherever it is.
func Key(rack fleet.RackName, i *pb.Intent) string {
	return spool.Key(string(rack), i.GetScript(), i.GetRule(), i.GetNode(), strconv.FormatInt(i.GetAtUnixMs(), 10),
		strconv.FormatUint(i.GetVersion(), 10), strconv.FormatInt(int64(i.GetCommand()), 10), i.GetOn())
}

// Asker is the agent that asks, as its certificate names it.
type Asker struct {
	Agent fleet.AgentName
	Rack  fleet.RackName
	Site  fleet.SiteName
	Epoch owner.Epoch // in which it says that it owns its rack
}

// Facts is what the agent that is asked knows.
type Facts struct {
	Rack    fleet.RackName
	Site    fleet.SiteName
	Program *scl.Program // of the script, as its authors have signed it
	Group   func(name string) (members scl.Target, ok bool)
	Here    func(fleet.NodeName) bool // whether a node is of this rack
	// Past are the intents of the asker's rack that are remembered.
	Past []*pb.Asked
	// Cut is since when no coordinator was reached; zero: one is.
	Cut time.Time
}

// Job is what is to be done.
type Job struct {
	Command   scl.Command
	Condition string    // of the rule
	Keep      time.Time // until when it must be remembered, at least
}

// Job is what an intent asks for, or why it is not done. An error of kind Unavailable
// or NotFound may be another one later, any other is for good. None of them changes
// from one look to the next, so that each is told once.
//
// Nothing is done because an agent says so. What is done stands in the script, for this
// rule, and the node on which it fired is one that the rule may watch in the asker's
// rack. That its condition was true is the asker's word; it can be had no more often
// than the rule's cooldown and limit say.
func (f Facts) Job(now time.Time, from Asker, i *pb.Intent) (Job, error) {
	if err := f.place(from, i); err != nil {
		return Job{}, err
	}
	if err := inTime(now, i); err != nil {
		return Job{}, err
	}
	rule, command, err := f.said(i)
	if err != nil {
		return Job{}, err
	}
	watched := rule.Target.Match(scl.Subject{Node: fleet.Node{Name: fleet.NodeName(i.GetNode()), Rack: from.Rack, Site: from.Site}, Group: f.Group})
	if watched == scl.False || f.Here(fleet.NodeName(i.GetNode())) {
		return Job{}, deny(fmt.Sprintf("rule %s/%s watches no node %s of rack %s", i.GetScript(), i.GetRule(), i.GetNode(), from.Rack))
	}
	if err = f.restrained(now, rule, i); err != nil {
		return Job{}, err
	}
	at := time.UnixMilli(i.GetAtUnixMs())
	keep := latest(time.UnixMilli(i.GetUntilUnixMs()).Add(KeptFor), at.Add(rule.Options.Cooldown+Skew), at.Add(rule.Options.Limit.Window+Skew))
	return Job{Command: command, Condition: rule.Condition.Text, Keep: keep}, nil
}

func latest(times ...time.Time) (last time.Time) {
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}

const op = "do what another rack asks"

func deny(why string) *fault.Error { return fault.New(fault.Denied, op, why) }

// place checks who asks for what where.
func (f Facts) place(from Asker, i *pb.Intent) error {
	switch {
	case from.Site != f.Site:
		return deny(fmt.Sprintf("agent %s is of another site, %s", from.Agent, from.Site))
	case from.Rack == f.Rack:
		return deny("what an agent wants of its own rack it does itself")
	case !f.Here(fleet.NodeName(i.GetOn())):
		return fault.New(fault.NotFound, op, fmt.Sprintf("rack %s has no node %s", f.Rack, i.GetOn()))
	}
	return nil
}

func inTime(now time.Time, i *pb.Intent) error {
	at, until := time.UnixMilli(i.GetAtUnixMs()), time.UnixMilli(i.GetUntilUnixMs())
	switch {
	case at.After(now.Add(Skew)):
		return deny("the rule has not fired yet by this agent's clock").WithHint("set the clocks of both agents")
	case until.Sub(at) > ValidFor || until.Before(at):
		return deny("it would be valid for longer than " + ValidFor.String())
	case now.After(until.Add(Skew)):
		return fault.New(fault.Timeout, op, "it came too late: the rule fired more than "+ValidFor.String()+" ago").
			WithHint("look at the node, and do it yourself if it is still wanted")
	}
	return nil
}

// said is the rule and the command that an intent is of. A command goes where the
// script says, and nowhere else.
func (f Facts) said(i *pb.Intent) (*scl.Monitor, scl.Command, error) {
	for n := range f.Program.Monitors {
		m := &f.Program.Monitors[n]
		if m.Name != i.GetRule() {
			continue
		}
		commands := scl.Flat(m.Commands)
		if at := int(i.GetCommand()); at >= 0 && at < len(commands) && goes(m, commands[at], fleet.NodeName(i.GetOn())) {
			return m, commands[at], nil
		}
		return nil, scl.Command{}, deny(fmt.Sprintf("rule %s/%s does not say that this is to be done on %s", i.GetScript(), i.GetRule(), i.GetOn()))
	}
	return nil, scl.Command{}, deny(fmt.Sprintf("the script %s has no rule %s", i.GetScript(), i.GetRule()))
}

func goes(m *scl.Monitor, c scl.Command, on fleet.NodeName) bool {
	if to := c.Elsewhere(); to != "" {
		return to == on
	}
	return slices.Contains(m.ActsOn(), on)
}

// restrained holds a rule to what it says of itself, also against an agent that does
// not.
func (f Facts) restrained(now time.Time, m *scl.Monitor, i *pb.Intent) error {
	if len(f.Past) >= MostKept {
		return fault.New(fault.Unavailable, op, "it has asked for too much already")
	}
	if o := m.Options.CutOff; !f.Cut.IsZero() && (o.Hold || o.RunFor > 0 && now.Sub(f.Cut) >= o.RunFor) {
		return fault.New(fault.Unavailable, op, "the rule is held while no coordinator is reached, and this agent reaches none")
	}
	firings := make(map[string]bool)
	at := time.UnixMilli(i.GetAtUnixMs())
	for _, past := range f.Past {
		p := past.GetIntent()
		if p.GetScript() != i.GetScript() || p.GetRule() != i.GetRule() || p.GetVersion() != i.GetVersion() || sameFiring(p, i) {
			continue
		}
		apart := at.Sub(time.UnixMilli(p.GetAtUnixMs())).Abs()
		if p.GetNode() == i.GetNode() && apart < m.Options.Cooldown {
			return deny(fmt.Sprintf("rule %s/%s rests on %s: (cooldown %s)", i.GetScript(), i.GetRule(), i.GetNode(), m.Options.Cooldown))
		}
		if apart < m.Options.Limit.Window {
			firings[p.GetNode()+" "+strconv.FormatInt(p.GetAtUnixMs(), 10)] = true
		}
	}
	if l := m.Options.Limit; l.Count > 0 && len(firings) >= l.Count {
		return deny(fmt.Sprintf("rule %s/%s has fired that often: (limit %d (in %s))", i.GetScript(), i.GetRule(), l.Count, l.Window))
	}
	return nil
}

func sameFiring(a, b *pb.Intent) bool {
	return a.GetNode() == b.GetNode() && a.GetAtUnixMs() == b.GetAtUnixMs()
}
