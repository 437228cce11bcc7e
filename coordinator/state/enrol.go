package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// RenewGrace is how long after its end a certificate is still renewed, for the key
// and the join state that are known: an agent that was cut off comes back by itself.
const RenewGrace = 90 * 24 * time.Hour

const maxMark = 64 // bytes of a mark of the join state

// join applies the commands by which machines become agents and stay so.
func (m *Machine) join(c *pb.Command) Outcome {
	at := c.GetAtUnixMs()
	switch b := c.GetBody().(type) {
	case *pb.Command_PutToken:
		return m.putToken(at, b.PutToken.GetToken())
	case *pb.Command_RevokeToken:
		return m.revokeToken(b.RevokeToken.GetId())
	case *pb.Command_EnrolAgent:
		return m.enrol(at, b.EnrolAgent)
	case *pb.Command_RenewAgent:
		return m.renew(at, b.RenewAgent)
	case *pb.Command_AskJoin:
		return m.askJoin(at, b.AskJoin.GetPending())
	case *pb.Command_JudgeJoin:
		return m.judgeJoin(at, c.GetBy(), b.JudgeJoin)
	default: // readable has seen to it
		return refused(fault.Internal, "apply command", "it has no body")
	}
}

// enrol gives a name and a rack to a key, for a token or an approval that is good
// once. Asked again for the same key it says the same again: who has not heard the
// answer asks again.
func (m *Machine) enrol(at int64, e *pb.EnrolAgent) Outcome {
	const op = "enrol agent"
	if err := enrolOK(e); err != nil {
		return Outcome{Err: err}
	}
	if known := m.enrolled[e.GetName()]; again(known, e) {
		switch {
		case known.GetLocked() != "":
			return locked(op, known)
		case at < known.GetUntilUnixMs():
			return Outcome{Enrolment: known}
		}
	}
	token, by, err := m.grant(at, e)
	if err == nil {
		err = m.mayHold(at, e, token.GetReplace())
	}
	if err != nil {
		return Outcome{Err: err}
	}
	if token != nil {
		token = shallow(token)
		token.UsedBy, token.UsedUnixMs = e.GetSpki(), at
		m.tokens[token.GetId()] = token
	}
	delete(m.pending, string(e.GetSpki()))
	o := m.replace(at, e)
	o.Enrolment, o.fresh = &pb.Enrolment{
		Name: e.GetName(), Rack: e.GetRack(), Spki: e.GetSpki(), Serial: e.GetSerial(), AtUnixMs: at, UntilUnixMs: at + e.GetLifeMs(),
		Counter: 1, Mark: e.GetMark(), Token: e.GetToken(), By: by, KeyKind: e.GetKeyKind(),
	}, true
	m.enrolled[e.GetName()] = o.Enrolment
	return m.listChanged(o)
}

func enrolOK(e *pb.EnrolAgent) error {
	const op = "enrol agent"
	if err := errors.Join(nameOK("agent", e.GetName()), nameOK("rack", e.GetRack())); err != nil {
		return fault.New(fault.BadInput, op, err.Error())
	}
	return keyOK(op, e.GetSpki(), e.GetMark(), e.GetSerial())
}

func keyOK(op string, spki, mark, serial []byte) error {
	if len(spki) != sha256.Size || len(mark) == 0 || len(mark) > maxMark || len(serial) == 0 || len(serial) > maxMark {
		return fault.New(fault.BadInput, op, "its key, its mark or its serial number has a wrong size")
	}
	return nil
}

// again reports whether e asks for what was decided: by the same key, with the same
// mark, and not renewed since.
func again(known *pb.Enrolment, e *pb.EnrolAgent) bool {
	return known != nil && bytes.Equal(known.GetSpki(), e.GetSpki()) && known.GetToken() == e.GetToken() &&
		known.GetRack() == e.GetRack() && known.GetCounter() == 1 && bytes.Equal(known.GetMark(), e.GetMark())
}

// grant is what lets the key in: a token, or else the approval by somebody.
func (m *Machine) grant(at int64, e *pb.EnrolAgent) (token *pb.JoinToken, by string, err error) {
	const op = "enrol agent"
	if e.GetToken() == "" {
		p := m.pending[string(e.GetSpki())]
		if p == nil || !p.GetApproved() || at > p.GetUntilUnixMs() || p.GetName() != e.GetName() || p.GetRack() != e.GetRack() {
			return nil, "", fault.New(fault.Denied, op, "nobody has approved it").WithHint("with the code that the agent shows: chiba trust approve CODE")
		}
		return nil, p.GetJudgedBy(), nil
	}
	token = m.tokens[e.GetToken()]
	switch {
	case token == nil:
		return nil, "", noToken(op, e.GetToken())
	case len(token.GetUsedBy()) > 0:
		return nil, "", fault.New(fault.Conflict, op, fmt.Sprintf("the join token %s was used at %s, by another key", token.GetId(), clock(token.GetUsedUnixMs()))).
			WithHint("if that was not you, somebody else has the bundle: chiba trust deny spki/" + hex.EncodeToString(token.GetUsedBy()))
	case at > token.GetUntilUnixMs():
		return nil, "", fault.New(fault.Denied, op, fmt.Sprintf("the join token %s was good until %s", token.GetId(), clock(token.GetUntilUnixMs()))).
			WithHint("make another: chiba trust token create --rack " + token.GetRack())
	case token.GetRack() != e.GetRack() || token.GetName() != e.GetName():
		return nil, "", fault.New(fault.Denied, op, fmt.Sprintf("the join token is for agent %s of rack %s, not for %s of %s",
			token.GetName(), token.GetRack(), e.GetName(), e.GetRack()))
	}
	return token, token.GetBy(), nil
}

// mayHold says whether the key may have the name and the rack: nobody else who lives
// has either, unless a person has said that they are to be replaced.
func (m *Machine) mayHold(at int64, e *pb.EnrolAgent, replace bool) error {
	const op = "enrol agent"
	for _, s := range []string{"agent/" + e.GetName(), "rack/" + e.GetRack(), keySubject(e.GetSpki())} {
		if d := m.denied[s]; d != nil {
			return fault.New(fault.Denied, op, fmt.Sprintf("%s is denied: %s", s, d.GetReason())).WithHint("if that is over: chiba trust allow " + s)
		}
	}
	for _, a := range sorted(m.agents) { // the same answer on every replica
		if (a.GetName() == e.GetName()) != (a.GetRack() == e.GetRack()) {
			return fault.New(fault.Conflict, op, fmt.Sprintf("agent %s serves rack %s", a.GetName(), a.GetRack())).
				WithHint("a rack's new machine takes the name of its agent: chiba trust token create --rack " + a.GetRack() + " --name " + a.GetName())
		}
	}
	other := m.holder(at, e)
	if other == nil && m.agents[e.GetName()] != nil && m.enrolled[e.GetName()] == nil {
		other = &pb.Enrolment{Name: e.GetName(), Rack: e.GetRack()} // its certificate was issued by hand
	}
	if other != nil && !replace {
		return fault.New(fault.Conflict, op, fmt.Sprintf("agent %s holds rack %s", other.GetName(), other.GetRack())).
			WithHint("if its machine is gone: chiba trust token create --replace --rack " + other.GetRack() + " --name " + other.GetName())
	}
	if len(m.enrolled) >= MaxEnrolled && m.enrolled[e.GetName()] == nil {
		return fault.New(fault.TooLarge, op, fmt.Sprintf("there are %d agents", MaxEnrolled))
	}
	return nil
}

// holder is who lives and has the name, the rack or the key of e.
func (m *Machine) holder(at int64, e *pb.EnrolAgent) *pb.Enrolment {
	for _, other := range sorted(m.enrolled) {
		same := other.GetName() == e.GetName() || other.GetRack() == e.GetRack() || bytes.Equal(other.GetSpki(), e.GetSpki())
		if same && other.GetLocked() == "" && at < other.GetUntilUnixMs()+RenewGrace.Milliseconds() {
			return other
		}
	}
	return nil
}

// replace forgets who had the name or the rack before, and denies their key.
func (m *Machine) replace(at int64, e *pb.EnrolAgent) (o Outcome) {
	for _, old := range sorted(m.enrolled) {
		if old.GetName() != e.GetName() && old.GetRack() != e.GetRack() {
			continue
		}
		delete(m.enrolled, old.GetName())
		if !bytes.Equal(old.GetSpki(), e.GetSpki()) && m.denyKey(at, old.GetSpki(), "replaced: rack "+old.GetRack()+" was enrolled anew") {
			o.Denied = true
		}
	}
	return o
}

// denyKey denies a key, and reports whether it was not denied before.
func (m *Machine) denyKey(at int64, spki []byte, reason string) bool {
	subject := keySubject(spki)
	if m.denied[subject] != nil || len(m.denied) >= MaxDenied {
		return false
	}
	m.denied[subject] = &pb.Denial{Subject: subject, Reason: reason, By: coordinatorItself, AtUnixMs: at}
	return true
}

func keySubject(spki []byte) string { return "spki/" + hex.EncodeToString(spki) }

// renew moves an agent's join state on. Two copies of one disk can't both follow:
// the first that does not fit locks both, because nobody can tell which is ours.
func (m *Machine) renew(at int64, r *pb.RenewAgent) Outcome {
	const op = "renew certificate"
	if err := keyOK(op, r.GetSpki(), r.GetState().GetNext(), r.GetSerial()); err != nil {
		return Outcome{Err: err}
	}
	known := m.enrolled[r.GetName()]
	if err := m.mayRenew(at, known, r); err != nil {
		return Outcome{Err: err}
	}
	if known == nil || !bytes.Equal(known.GetSpki(), r.GetSpki()) {
		if known == nil && len(m.enrolled) >= MaxEnrolled {
			return refused(fault.TooLarge, op, fmt.Sprintf("there are %d agents", MaxEnrolled))
		}
		known = &pb.Enrolment{Counter: r.GetState().GetCounter(), Mark: r.GetState().GetMark()} // issued by hand
	}
	next := shallow(known)
	next.Name, next.Rack, next.Spki, next.KeyKind = r.GetName(), r.GetRack(), r.GetSpki(), r.GetKeyKind()
	switch said := r.GetState(); {
	case said.GetCounter()+1 == known.GetCounter() && bytes.Equal(said.GetNext(), known.GetMark()):
		if at < (known.GetAtUnixMs()+known.GetUntilUnixMs())/2 {
			return Outcome{Enrolment: known} // it did not hear the answer
		}
	case said.GetCounter() == known.GetCounter() && bytes.Equal(said.GetMark(), known.GetMark()),
		said.GetCounter() > known.GetCounter(): // what we knew was lost: restored from a copy
		next.Counter, next.Mark = said.GetCounter()+1, said.GetNext()
	default:
		return m.lock(at, next, said.GetCounter())
	}
	next.Serial, next.AtUnixMs, next.UntilUnixMs = r.GetSerial(), at, at+r.GetLifeMs()
	m.enrolled[next.GetName()] = next
	return Outcome{Enrolment: next}
}

func (m *Machine) mayRenew(at int64, known *pb.Enrolment, r *pb.RenewAgent) error {
	const op = "renew certificate"
	if d := m.denied[keySubject(r.GetSpki())]; d != nil && known.GetLocked() == "" {
		return fault.New(fault.Denied, op, "its key is denied: "+d.GetReason()).WithHint("if that is over: chiba trust allow " + d.GetSubject())
	}
	same := bytes.Equal(known.GetSpki(), r.GetSpki())
	switch {
	case known == nil && r.GetByKey():
		return fault.New(fault.Denied, op, "its certificate has ended, and it was not enrolled").WithHint(wayOn(r.GetRack()))
	case known == nil:
		return nil
	case same && known.GetLocked() != "":
		return locked(op, known).Err
	case !same && (r.GetByKey() || known.GetLocked() == "" && at < known.GetUntilUnixMs()):
		return fault.New(fault.Denied, op, fmt.Sprintf("agent %s was enrolled with another key", known.GetName())).WithHint(wayOn(known.GetRack()))
	case same && at > known.GetUntilUnixMs()+RenewGrace.Milliseconds():
		return fault.New(fault.Denied, op, fmt.Sprintf("its certificate has ended at %s, more than %d days ago", clock(known.GetUntilUnixMs()), RenewGrace/(24*time.Hour))).
			WithHint(wayOn(known.GetRack()))
	}
	return nil
}

func wayOn(rack string) string {
	return "join anew: chiba trust token create --replace --rack " + rack + ", then chiba agent join"
}

// lock denies a key of which there are two copies.
func (m *Machine) lock(at int64, e *pb.Enrolment, said uint64) Outcome {
	e.Locked = fmt.Sprintf("two copies of its disk are in use: at %s one asked for renewal %d, and %d were made", clock(at), said+1, e.GetCounter())
	m.enrolled[e.GetName()] = e
	return m.listChanged(Outcome{Enrolment: e, Denied: m.denyKey(at, e.GetSpki(), e.GetLocked()), fresh: true})
}

func locked(op string, e *pb.Enrolment) Outcome {
	return Outcome{Err: LockedError(op, e)}
}

// LockedError is why an agent that is locked gets no certificate.
func LockedError(op string, e *pb.Enrolment) error {
	return fault.New(fault.Denied, op, fmt.Sprintf("agent %s is locked: %s", e.GetName(), e.GetLocked())).WithHint(wayOn(e.GetRack()))
}

func clock(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// Enrolment is what is known of an agent's identity.
func (m *Machine) Enrolment(name string) (*pb.Enrolment, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.enrolled[name]
	return e, ok
}

// EnrolmentOf is the identity that a key has, by its SHA-256.
func (m *Machine) EnrolmentOf(spki []byte) (*pb.Enrolment, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, e := range m.enrolled {
		if bytes.Equal(e.GetSpki(), spki) {
			return e, true
		}
	}
	return nil, false
}

// Enrolments are all identities, by name.
func (m *Machine) Enrolments() []*pb.Enrolment {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clip(sorted(m.enrolled))
}

func noToken(op, id string) error {
	return fault.New(fault.Denied, op, fmt.Sprintf("there is no join token %q", strings.TrimSpace(id))).
		WithHint("it may have ended or been revoked: chiba trust token list")
}

// MayEnrol says whether a key may have a name and a rack that nobody is to be replaced
// in, at a time in Unix ms. The log decides again.
func (m *Machine) MayEnrol(at int64, e *pb.EnrolAgent) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mayHold(at, e, false)
}

// MayRenew says whether a renewal by the key alone can be granted, at a time in Unix
// ms. The log decides again.
func (m *Machine) MayRenew(at int64, r *pb.RenewAgent) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mayRenew(at, m.enrolled[r.GetName()], r)
}
