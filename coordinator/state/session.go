package state

import (
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// What is remembered of who has proposed. Like all limits they are part of the
// command version.
const (
	// maxSessions is how many lives of coordinators are remembered; that which was
	// silent the longest is forgotten first.
	maxSessions = 64
	// maxSpans bounds the spans of one session. It is more than one coordinator
	// has under way at a time: what lies in the lowest gap was given up long ago.
	maxSpans = 8_192
)

// session is which commands of one proposer were applied: those whose numbers are in
// its spans. A proposer counts from 1, and most commands arrive in order, so there
// are few spans whatever it has proposed.
type session struct {
	used uint64 // index of its last command in the log
	done []span // ascending, with a gap between any two
}

type span struct{ first, last uint64 }

// take notes that number seq is applied, and reports whether it was not before.
func (s *session) take(seq uint64) bool {
	i := sort.Search(len(s.done), func(i int) bool { return s.done[i].last+1 >= seq })
	switch {
	case i < len(s.done) && s.done[i].first <= seq && seq <= s.done[i].last:
		return false
	case i < len(s.done) && s.done[i].last+1 == seq:
		s.done[i].last = seq
		if i+1 < len(s.done) && s.done[i+1].first == seq+1 {
			s.done[i].last = s.done[i+1].last
			s.done = slices.Delete(s.done, i+1, i+2)
		}
	case i < len(s.done) && s.done[i].first == seq+1:
		s.done[i].first = seq
	default:
		s.done = slices.Insert(s.done, i, span{seq, seq})
	}
	if len(s.done) > maxSpans {
		s.done[1].first = s.done[0].first
		s.done = slices.Delete(s.done, 0, 1)
	}
	return true
}

// fresh notes that a command is applied, and reports whether it was not before. Who
// does not hear whether a command was committed proposes it again, with the same
// session and number.
func (m *Machine) fresh(index uint64, c *pb.Command) bool {
	name := c.GetSession()
	if name == "" { // of a log from before there were sessions
		if m.applied[c.GetId()] {
			return false
		}
		m.remember(c.GetId())
		return true
	}
	s := m.sessions[name]
	if s == nil {
		s = &session{}
		m.sessions[name] = s
		m.forgetSession(name)
	}
	s.used = index
	return s.take(c.GetSeq())
}

// forgetSession makes room for the session of that name.
func (m *Machine) forgetSession(fresh string) {
	if len(m.sessions) <= maxSessions {
		return
	}
	oldest := ""
	for name, s := range m.sessions {
		if name == fresh {
			continue
		}
		if o := m.sessions[oldest]; o == nil || s.used < o.used || s.used == o.used && strings.Compare(name, oldest) < 0 {
			oldest = name
		}
	}
	delete(m.sessions, oldest)
}

// sessionsOf are the sessions as a snapshot has them, by name.
func sessionsOf(all map[string]*session) []*pb.Session {
	list := make([]*pb.Session, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := &pb.Session{Name: name, Used: all[name].used}
		for _, p := range all[name].done {
			s.Spans = append(s.Spans, p.first, p.last)
		}
		list = append(list, s)
	}
	return list
}

// restored is the inverse of sessionsOf.
func restored(list []*pb.Session) map[string]*session {
	all := make(map[string]*session, len(list))
	for _, p := range list {
		s := &session{used: p.GetUsed()}
		for pair := range slices.Chunk(p.GetSpans(), 2) {
			if len(pair) == 2 {
				s.done = append(s.done, span{pair[0], pair[1]})
			}
		}
		all[p.GetName()] = s
	}
	return all
}
