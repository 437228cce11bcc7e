package state

import (
	"fmt"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// deny adds to the deny list: it is the union of what anybody has ever told, but for
// what was allowed since.
func (m *Machine) deny(at int64, list []*pb.Denial) Outcome {
	const op = "deny"
	fresh := 0
	for _, d := range list {
		if err := nameOK("subject", d.GetSubject()); err != nil {
			return refused(fault.BadInput, op, err.Error())
		}
		if len(d.GetReason()) > maxReason || len(d.GetBy()) > maxName {
			return refused(fault.TooLarge, op, fmt.Sprintf("its reason is longer than %d bytes", maxReason))
		}
		if m.denied[d.GetSubject()] == nil {
			fresh++
		}
	}
	if len(m.denied)+fresh > MaxDenied {
		return Outcome{Err: fault.New(fault.TooLarge, op, fmt.Sprintf("the deny list holds at most %d", MaxDenied)).
			WithHint("see it with: chiba trust list")}
	}
	var o Outcome
	for _, d := range list {
		if d.GetAtUnixMs() == 0 {
			d = shallow(d)
			d.AtUnixMs = at
		}
		if known := m.denied[d.GetSubject()]; known != nil {
			o.Denial = known
			continue
		}
		if was := m.allowed[d.GetSubject()]; was.GetAtUnixMs() >= d.GetAtUnixMs() && was != nil {
			continue
		}
		m.denied[d.GetSubject()], o.Denial, o.Denied = d, d, true
	}
	m.rosters.forget()
	return m.listChanged(o)
}

// allow ends a denial, and remembers when: an agent that was cut off may still tell
// of it.
func (m *Machine) allow(at int64, a *pb.Allow) Outcome {
	known := m.denied[a.GetSubject()]
	if known == nil {
		return Outcome{Err: fault.New(fault.NotFound, "allow", fmt.Sprintf("%q is not denied", a.GetSubject())).
			WithHint("see who is: chiba trust list")}
	}
	delete(m.denied, a.GetSubject())
	m.rosters.forget()
	m.allowed[a.GetSubject()] = &pb.Denial{Subject: a.GetSubject(), By: a.GetBy(), AtUnixMs: max(at, known.GetAtUnixMs())}
	if len(m.allowed) > MaxDenied {
		delete(m.allowed, m.longestAllowed())
	}
	return m.listChanged(Outcome{Denial: known, Denied: true})
}

func (m *Machine) longestAllowed() string {
	oldest := ""
	for s, d := range m.allowed {
		o := m.allowed[oldest]
		if o == nil || d.GetAtUnixMs() < o.GetAtUnixMs() ||
			d.GetAtUnixMs() == o.GetAtUnixMs() && strings.Compare(s, oldest) < 0 { // the same on every replica
			oldest = s
		}
	}
	return oldest
}

// listChanged makes every agent pull if the list has changed.
func (m *Machine) listChanged(o Outcome) Outcome {
	if o.Denied {
		m.revision++
		o.Racks = m.racks()
	}
	return o
}

// Denied is the deny list, by subject. The messages are shared.
func (m *Machine) Denied() []*pb.Denial {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return sorted(m.denied)
}
