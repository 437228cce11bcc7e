package state

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// putArtifact keeps what an artifact is called and who has it. The file itself is
// never in the log.
func (m *Machine) putArtifact(at int64, a *pb.Artifact) Outcome {
	const op = "keep an artifact"
	if err := nameOK("artifact", a.GetName()); err != nil {
		return refused(fault.BadInput, op, err.Error())
	}
	if !isDigest(a.GetDigest()) || a.GetSize() <= 0 || len(a.GetHolders()) == 0 {
		return refused(fault.BadInput, op, "it has no digest, no size or nobody who has it")
	}
	for _, other := range m.artifacts {
		if other.GetName() == a.GetName() && other.GetDigest() != a.GetDigest() {
			return Outcome{Err: fault.New(fault.Conflict, op, "another file is called "+a.GetName()).
				WithHint("give this one another name with --name, or remove that one: chiba artifact remove " + a.GetName())}
		}
	}
	known := m.artifacts[a.GetDigest()]
	if known == nil && len(m.artifacts) >= MaxArtifacts {
		return Outcome{Err: fault.New(fault.TooLarge, op, fmt.Sprintf("there are %d, the limit", MaxArtifacts)).
			WithHint("remove some: chiba artifact list")}
	}
	fresh := shallow(a)
	if fresh.AddedUnixMs = at; known != nil {
		fresh.AddedUnixMs = known.GetAddedUnixMs()
	}
	fresh.Holders = union(known.GetHolders(), a.GetHolders()...)
	m.artifacts[a.GetDigest()] = fresh
	return Outcome{Artifact: fresh}
}

// union is sorted.
func union(list []string, more ...string) []string {
	all := slices.Concat(list, more)
	slices.Sort(all)
	return slices.Compact(all)
}

func isDigest(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	raw, err := hex.DecodeString(digits)
	return ok && err == nil && len(raw) == 32 && strings.ToLower(digits) == digits
}

// removeArtifact forgets an artifact that no script needs; the holders delete the
// file in their own time.
func (m *Machine) removeArtifact(digest string) Outcome {
	const op = "remove an artifact"
	known := m.artifacts[digest]
	if known == nil {
		return refused(fault.NotFound, op, fmt.Sprintf("there is no artifact %q", digest))
	}
	if who := m.needs(digest); who != "" {
		return Outcome{Err: fault.New(fault.Conflict, op, fmt.Sprintf("%s is needed by %s", known.GetName(), who)).
			WithHint("end that first: chiba delete script, chiba cancel")}
	}
	delete(m.artifacts, digest)
	return Outcome{Artifact: known}
}

// needs is a script that stands or a run that has not ended in which a digest is
// written, "" if there is none.
func (m *Machine) needs(digest string) string {
	for _, s := range sorted(m.scripts) {
		if bytes.Contains(s.GetSource(), []byte(digest)) {
			return "script " + s.GetName()
		}
	}
	for _, r := range m.runs {
		if r.msg.GetEndedUnixMs() == 0 && bytes.Contains(r.msg.GetSource(), []byte(digest)) {
			return "run " + r.msg.GetId()
		}
	}
	return ""
}

// holdArtifact notes that a coordinator has an artifact, or has lost it.
func (m *Machine) holdArtifact(h *pb.HoldArtifact) Outcome {
	const op = "note who has an artifact"
	known := m.artifacts[h.GetDigest()]
	if known == nil {
		return refused(fault.NotFound, op, fmt.Sprintf("there is no artifact %q", h.GetDigest()))
	}
	if err := nameOK("coordinator", h.GetHolder()); err != nil {
		return refused(fault.BadInput, op, err.Error())
	}
	fresh := shallow(known)
	if h.GetLost() {
		fresh.Holders = slices.DeleteFunc(slices.Clone(known.GetHolders()), func(n string) bool { return n == h.GetHolder() })
	} else {
		fresh.Holders = union(known.GetHolders(), h.GetHolder())
	}
	m.artifacts[h.GetDigest()] = fresh
	return Outcome{Artifact: fresh}
}

// Artifacts are those that are kept, by digest. The messages are shared.
func (m *Machine) Artifacts() []*pb.Artifact {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return sorted(m.artifacts)
}
