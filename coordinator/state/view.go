package state

import (
	"maps"
	"math"
	"slices"

	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Counts are the sizes of the state.
type Counts struct {
	Revision uint64 // of the desired state
	Agents   int
	Nodes    int
}

// Counts tells the sizes of the state.
func (m *Machine) Counts() Counts {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return Counts{Revision: m.revision, Agents: len(m.agents), Nodes: len(m.nodes)}
}

// Time is the latest time of a command that did something, in milliseconds: the clock of
// no leader goes behind it.
func (m *Machine) Time() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.at
}

// Scripts are the standing scripts by name, their sources left out, and after them
// what was decided on racks.
func (m *Machine) Scripts() []*pb.Script {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := sorted(m.scripts)
	for i, s := range list {
		list[i] = withoutSource(s)
	}
	return append(list, m.onRacks()...)
}

// Script is the standing script of that name; where the fleet has none, that of the
// first rack which has one of its own.
func (m *Machine) Script(name string) (*pb.Script, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if s, ok := m.scripts[name]; ok {
		return s, true
	}
	for _, l := range sorted(m.local) {
		if l.GetName() == name && !l.GetEnded() {
			return l, true
		}
	}
	return nil, false
}

// Sources are the standing scripts by name, with their sources.
func (m *Machine) Sources() []*pb.Script {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return sorted(m.scripts)
}

// Runs are the runs that are kept, newest first, their sources left out.
func (m *Machine) Runs() []*pb.Run {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := make([]*pb.Run, 0, len(m.runs))
	for _, r := range slices.Backward(m.runs) {
		list = append(list, runWithoutSource(r.msg))
	}
	return list
}

// NoResults asks Run for the run alone.
const NoResults = math.MaxInt

// Run is the run of that id, and its results from number from on: what was
// recorded first is number 0.
func (m *Machine) Run(id string, from int) (r *pb.Run, results []*pb.Result, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	found := m.findRun(id)
	if found == nil {
		return nil, nil, false
	}
	from = min(max(from, 0), len(found.results))
	return found.msg, slices.Clone(found.results[from:]), true
}

// Overdue are the ids of the runs that have not ended although their deadline
// is before now (milliseconds since 1970).
func (m *Machine) Overdue(now int64) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var ids []string
	for _, r := range m.runs {
		if d := r.msg.GetDeadlineUnixMs(); r.msg.GetEndedUnixMs() == 0 && d != 0 && d < now {
			ids = append(ids, r.msg.GetId())
		}
	}
	return ids
}

// Nodes are the known nodes by name, with what the site catalogue says of them.
func (m *Machine) Nodes() []*pb.Node {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.book.over(sorted(m.nodes))
}

// Candidates are the BMCs that were found and are none of the fleet, by rack and
// name. The messages are shared.
func (m *Machine) Candidates() []*pb.Node {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.book.over(sorted(m.found))
}

// Conflicts are the identities that several BMCs claim, of all racks.
func (m *Machine) Conflicts() []*pb.Conflict {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.claims.of("")
}

// Agents are the known agents by name.
func (m *Machine) Agents() []*pb.AgentInfo {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return sorted(m.agents)
}

// Agent is the agent of that name.
func (m *Machine) Agent(name string) (*pb.AgentInfo, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	a, ok := m.agents[name]
	return a, ok
}

// Firings are the last firings, at most most of them, oldest first.
func (m *Machine) Firings(most int) []*pb.Firing {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.firings[max(0, len(m.firings)-most):])
}

// HardwareNews are the last news of hardware, at most most of them, oldest first.
func (m *Machine) HardwareNews(most int) []*pb.HardwareNews {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.news[max(0, len(m.news)-most):])
}

// Policy is the signed policy of authors and its version; nil and 0 if none is set.
func (m *Machine) Policy() (envelope []byte, version uint64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.policy.GetEnvelope(), m.policy.GetVersion()
}

// LastVersion is the version of the last order for a script's name, also of one that
// was given on a rack; 0 if there was none.
func (m *Machine) LastVersion(name string) uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.lastVersion(name)
}

// Desired is what a rack shall have: the policy, every standing script that is
// meant for it, because which nodes a script concerns is the agent's to say, and
// the runs that the rack has not done, with this rack's part only. What is over
// is told by the orders that ended it. The lists are the caller's own.
func (m *Machine) Desired(rack string) *pb.Desired {
	m.mu.RLock()
	defer m.mu.RUnlock()
	d := &pb.Desired{
		Revision: m.revision, Policy: m.policy.GetEnvelope(), Ended: sorted(m.over),
		Denied: sorted(m.denied), Conflicts: m.claims.of(rack),
	}
	d.Catalogue = m.book.of(rack)
	for _, s := range sorted(m.scripts) {
		if meant(s, rack) {
			d.Scripts = append(d.Scripts, s)
		} else { // one of this name may have stood here
			d.Ended = append(d.Ended, orderOf(s, nil))
		}
	}
	m.merged(rack, d)
	for _, r := range m.runs {
		part, _ := r.part(rack)
		if part.GetState() == Canceled && len(r.msg.GetCancel()) > 0 { // and it has not answered
			d.Canceled = append(d.Canceled, runCanceled(r.msg))
		}
		if part.GetState() != Waiting && part.GetState() != Accepted || r.msg.GetEndedUnixMs() != 0 {
			continue
		}
		mine := shallow(r.msg)
		mine.Racks = []*pb.RackRun{part}
		if r.rolled != nil {
			mine.Released, mine.Rollout = r.rolled.released(rack, int(r.msg.GetRollout().GetReleased())), nil
		}
		d.Runs = append(d.Runs, mine)
	}
	return d
}

// meant reports whether a script is for a rack; one without an audience is for all.
func meant(s *pb.Script, rack string) bool {
	a := s.GetAudience()
	return len(a) == 0 || slices.Contains(a, order.Fleet) || slices.Contains(a, rack)
}

// runCanceled is what an agent needs to stop a run.
func runCanceled(r *pb.Run) *pb.Run {
	return &pb.Run{Id: r.GetId(), Script: r.GetScript(), StartedUnixMs: r.GetStartedUnixMs(), Version: r.GetVersion(), Cancel: r.GetCancel()}
}

// sorted are the values of a map in the order of its keys.
func sorted[V any](m map[string]V) []V {
	list := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, m[k])
	}
	return list
}
