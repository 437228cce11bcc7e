package state

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Snapshot is the whole state in a stable order. It is cheap, because it shares
// the messages; encoding it may take its time while commands are applied.
func (m *Machine) Snapshot() *pb.Snapshot {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := &pb.Snapshot{
		Version:   Version,
		AtUnixMs:  m.at,
		Revision:  m.revision,
		NextRun:   m.nextRun,
		NextEvent: m.events,
		Agents:    sorted(m.agents),
		Owners:    sorted(m.owners),
		Scripts:   sorted(m.scripts),
		Ended:     sorted(m.over),
		Local:     sorted(m.local),
		Policy:    m.policy,
		Audit:     m.audit.log.Leaves(0, m.audit.log.Size()),
		Nodes:     sorted(m.nodes),

		Candidates: sorted(m.found),

		Denied:  sorted(m.denied),
		Allowed: sorted(m.allowed),

		Tokens: sorted(m.tokens), Enrolments: sorted(m.enrolled), Pending: sorted(m.pending),

		Catalogue: m.book.Message(),
		SiteKeys:  m.allSiteKeys(), Artifacts: sorted(m.artifacts),
		Firings:  append([]*pb.Firing(nil), m.firings...),
		Hardware: append([]*pb.HardwareNews(nil), m.news...),
		Recent:   append([]string(nil), m.recent...),
		Sessions: sessionsOf(m.sessions),
	}
	for _, r := range m.runs {
		s.Runs = append(s.Runs, r.msg)
		if len(r.results) > 0 {
			s.Results = append(s.Results, &pb.RunResults{Run: r.msg.GetId(), Results: slices.Clip(r.results)})
		}
		if r.rolled != nil {
			s.Rolled = append(s.Rolled, r.rolledNodes())
		}
	}
	return s
}

// Restore replaces the whole state by that of s. After an error the state is as
// before.
func (m *Machine) Restore(s *pb.Snapshot) error {
	if why := unknownIn(s); why != "" {
		return fault.New(fault.Unsupported, "restore snapshot", why).WithHint("start the chiba version that wrote it")
	}
	n := New()
	n.revision, n.nextRun, n.events = s.GetRevision(), s.GetNextRun(), s.GetNextEvent()
	for _, a := range s.GetAgents() {
		n.agents[a.GetName()] = a
		n.serving[a.GetRack()] = a.GetName()
	}
	n.restoreOwners(s)
	n.restoreScripts(s)
	for _, leaf := range s.GetAudit() {
		if err := n.audit.add(leaf); err != nil {
			return err
		}
	}
	n.restoreNodes(s)
	n.restoreTrust(s)
	if err := n.restoreSites(s); err != nil {
		return err
	}
	for _, id := range s.GetRecent() {
		n.remember(id)
	}
	n.sessions = restored(s.GetSessions())
	n.restoreNews(s)
	if err := n.restoreRuns(s); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken, m.index, m.at = nil, 0, s.GetAtUnixMs()
	m.revision, m.nextRun, m.events = n.revision, n.nextRun, n.events
	m.agents, m.scripts, m.nodes, m.perRack = n.agents, n.scripts, n.nodes, n.perRack
	m.owners = n.owners
	m.sourceBytes, m.serving = n.sourceBytes, n.serving
	m.found, m.claims = n.found, n.claims
	m.over, m.local, m.policy, m.audit = n.over, n.local, s.GetPolicy(), n.audit
	m.runs, m.runBytes = n.runs, n.runBytes
	m.denied, m.allowed = n.denied, n.allowed
	m.tokens, m.enrolled, m.pending = n.tokens, n.enrolled, n.pending
	m.rosters.forget()
	m.siteKeys, m.artifacts = n.siteKeys, n.artifacts
	m.book = n.book
	m.firings, m.firingBytes = n.firings, n.firingBytes
	m.news, m.newsBytes = n.news, n.newsBytes
	m.recent, m.applied, m.sessions = n.recent, n.applied, n.sessions
	return nil
}

// unknownIn says why this version can't know all that a snapshot holds, "" if it can:
// what it does not know would be forgotten here, and nowhere else.
func unknownIn(s *pb.Snapshot) string {
	switch {
	case s.GetVersion() != Version:
		return fmt.Sprintf("its version is %d, this coordinator reads %d", s.GetVersion(), Version)
	case len(s.ProtoReflect().GetUnknown()) > 0:
		return "it holds something that this version does not know"
	}
	return ""
}

func (m *Machine) restoreOwners(s *pb.Snapshot) {
	for _, o := range s.GetOwners() {
		m.owners[o.GetRack()] = o
	}
	for _, a := range s.GetAgents() { // a state of before there were owners
		if m.owners[a.GetRack()] == nil {
			m.owners[a.GetRack()] = &pb.Owner{Rack: a.GetRack(), Agent: a.GetName(), Grant: 1}
		}
	}
}

// restoreScripts takes those that stand, that have ended, and that racks have decided about.
func (m *Machine) restoreScripts(s *pb.Snapshot) {
	for _, sc := range s.GetScripts() {
		m.scripts[sc.GetName()] = sc
		m.sourceBytes += len(sc.GetSource())
	}
	for _, l := range s.GetLocal() {
		m.local[localKey(l.GetName(), l.GetRack())] = l
	}
	for _, e := range s.GetEnded() {
		m.over[e.GetName()] = e
	}
}

// restoreNews takes what rules have done, and what nodes are made of since.
func (m *Machine) restoreNews(s *pb.Snapshot) {
	m.firings, m.news = s.GetFirings(), s.GetHardware()
	for _, f := range m.firings {
		m.firingBytes += proto.Size(f)
	}
	for _, h := range m.news {
		m.newsBytes += proto.Size(h)
	}
}

// restoreTrust takes who is denied and who may join.
func (m *Machine) restoreTrust(s *pb.Snapshot) {
	for _, d := range s.GetDenied() {
		m.denied[d.GetSubject()] = d
	}
	for _, d := range s.GetAllowed() {
		m.allowed[d.GetSubject()] = d
	}
	for _, t := range s.GetTokens() {
		m.tokens[t.GetId()] = t
	}
	for _, e := range s.GetEnrolments() {
		m.enrolled[e.GetName()] = e
	}
	for _, p := range s.GetPending() {
		m.pending[string(p.GetSpki())] = p
	}
}

func (m *Machine) restoreNodes(s *pb.Snapshot) {
	for _, node := range s.GetNodes() {
		m.nodes[node.GetName()] = node
		m.perRack[node.GetRack()]++
		m.claims.put(node)
	}
	for _, c := range s.GetCandidates() {
		m.found[place(c)] = c
		m.claims.put(c)
	}
}

func (m *Machine) restoreRuns(s *pb.Snapshot) error {
	for _, r := range s.GetRuns() {
		kept := newRun(r)
		m.runs = append(m.runs, kept)
		m.runBytes += kept.bytes
	}
	for _, rr := range s.GetResults() {
		r := m.findRun(rr.GetRun())
		if r == nil {
			return fault.New(fault.Garbage, "restore snapshot", fmt.Sprintf("it has results of run %q, but not the run", rr.GetRun()))
		}
		r.results = rr.GetResults()
		for _, res := range r.results {
			size := proto.Size(res)
			r.bytes += size
			m.runBytes += size
		}
	}
	return m.restoreRolled(s.GetRolled())
}
