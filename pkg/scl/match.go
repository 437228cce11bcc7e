package scl

import (
	"strings"
	"unicode/utf8"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Match reports whether t selects the node s is about. Only True selects:
// Unknown means that a value is missing or a group does not exist. It
// terminates also if groups refer to each other in a circle.
func (t Target) Match(s Subject) Truth { return (&matcher{Subject: s}).match(t) }

// matcher remembers the groups it has decided, so that nested groups cost
// their size and no more.
type matcher struct {
	Subject
	groups map[string]Truth
}

func (m *matcher) match(t Target) Truth {
	if m.Node.Outside() && !t.joins() && t.Kind != TargetName {
		return False // what is none of the fleet is meant by its own name alone
	}
	switch t.Kind {
	case TargetAll:
		return True
	case TargetName:
		return truth(string(m.Node.Name) == t.Name)
	case TargetGlob:
		return truth(Glob(t.Name, string(m.Node.Name)))
	case TargetRack:
		return truth(Glob(t.Name, string(m.Node.Rack)))
	case TargetSite:
		return truth(Glob(t.Name, string(m.Node.Site)))
	case TargetGroup:
		return m.group(t.Name)
	case TargetWhere:
		return m.where(t.Where)
	case TargetAnd:
		result := True
		for _, of := range t.Of {
			result = And(result, m.match(of))
		}
		return result
	case TargetOr:
		return m.any(t.Of)
	case TargetExcept:
		if len(t.Of) == 0 {
			return Unknown
		}
		return And(m.match(t.Of[0]), Not(m.any(t.Of[1:])))
	}
	return Unknown
}

// joins reports whether t is made of other targets alone.
func (t Target) joins() bool {
	return t.Kind == TargetAnd || t.Kind == TargetOr || t.Kind == TargetExcept
}

func (m *matcher) any(of []Target) Truth {
	result := False
	for _, t := range of {
		if result = Or(result, m.match(t)); result == True {
			return True
		}
	}
	return result
}

func (m *matcher) group(name string) Truth {
	if decided, ok := m.groups[name]; ok {
		return decided
	}
	if m.Group == nil {
		return Unknown
	}
	members, ok := m.Group(name)
	if !ok {
		return Unknown
	}
	if m.groups == nil {
		m.groups = make(map[string]Truth)
	}
	m.groups[name] = Unknown // what a circle of groups finds
	result := m.match(members)
	m.groups[name] = result
	return result
}

func (m *matcher) where(c *Condition) Truth {
	slots := make([]Slot, len(c.Refs))
	for i, ref := range c.Refs {
		slots[i] = m.slot(ref)
	}
	return c.Test(slots)
}

// slot prefers what was read over what the mesh remembers.
func (m *matcher) slot(ref Ref) Slot {
	if m.Slot != nil && !ref.Element.OfMesh() {
		if s := m.Slot(ref); s.Value.Known() || len(s.All) > 0 {
			return s
		}
	}
	v := ref.Of(m.Node)
	return Slot{Value: v, All: []fleet.Value{v}}
}

// Names are the leaves of t that name something: nodes, globs, groups, racks
// and sites. What a where selects is not among them.
func (t Target) Names() []Target {
	switch t.Kind {
	case TargetName, TargetGlob, TargetGroup, TargetRack, TargetSite:
		return []Target{t}
	case TargetAll, TargetWhere, TargetAnd, TargetOr, TargetExcept:
	}
	var names []Target
	for _, of := range t.Of {
		names = append(names, of.Names()...)
	}
	return names
}

// Glob reports whether name matches pattern, in which "*" stands for any text
// and "?" for one character. Its time is bounded by the product of the lengths.
func Glob(pattern, name string) bool {
	star, mark := -1, 0
	p, n := 0, 0
	for n < len(name) {
		_, size := utf8.DecodeRuneInString(name[n:])
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && pattern[p] == '?':
			p++
			n += size
		case p < len(pattern) && strings.HasPrefix(pattern[p:], name[n:n+size]):
			p += size
			n += size
		case star >= 0:
			_, size = utf8.DecodeRuneInString(name[mark:])
			mark += size
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// And is true if both are, false if one is false, else unknown.
func And(a, b Truth) Truth {
	switch {
	case a == False || b == False:
		return False
	case a == True && b == True:
		return True
	}
	return Unknown
}

// Or is true if one is, false if both are false, else unknown.
func Or(a, b Truth) Truth {
	switch {
	case a == True || b == True:
		return True
	case a == False && b == False:
		return False
	}
	return Unknown
}

// Not is the opposite; unknown stays unknown.
func Not(a Truth) Truth {
	switch a {
	case True:
		return False
	case False:
		return True
	case Unknown:
	}
	return Unknown
}

func truth(b bool) Truth {
	if b {
		return True
	}
	return False
}

// String is "true", "false" or "unknown".
func (t Truth) String() string {
	switch t {
	case True:
		return "true"
	case False:
		return "false"
	case Unknown:
	}
	return "unknown"
}
