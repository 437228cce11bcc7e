package state

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// putToken keeps a join token, and forgets those whose time is over.
func (m *Machine) putToken(at int64, t *pb.JoinToken) Outcome {
	const op = "keep join token"
	if err := errors.Join(nameOK("token", t.GetId()), nameOK("rack", t.GetRack()), nameOK("agent", t.GetName())); err != nil {
		return refused(fault.BadInput, op, err.Error())
	}
	if len(t.GetKey()) != ed25519.PublicKeySize || len(t.GetBy()) > maxName || len(t.GetUsedBy()) > 0 || t.GetUntilUnixMs() <= at {
		return refused(fault.BadInput, op, "its key, its end or its maker is wrong")
	}
	for id, old := range m.tokens {
		if at > old.GetUntilUnixMs() {
			delete(m.tokens, id)
		}
	}
	switch {
	case m.tokens[t.GetId()] != nil:
		return refused(fault.Conflict, op, "there is one of that name")
	case len(m.tokens) >= MaxTokens:
		return Outcome{Err: fault.New(fault.TooLarge, op, fmt.Sprintf("there are %d", MaxTokens)).
			WithHint("revoke what is not needed: chiba trust token list, chiba trust token revoke ID")}
	}
	fresh := shallow(t)
	fresh.CreatedUnixMs = at
	m.tokens[t.GetId()] = fresh
	return Outcome{Token: fresh}
}

func (m *Machine) revokeToken(id string) Outcome {
	t := m.tokens[id]
	if t == nil {
		return Outcome{Err: fault.New(fault.NotFound, "revoke join token", fmt.Sprintf("there is none named %q", id)).
			WithHint("see them: chiba trust token list")}
	}
	delete(m.tokens, id)
	return Outcome{Token: t}
}

// Token is the join token with that id.
func (m *Machine) Token(id string) (*pb.JoinToken, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t, ok := m.tokens[id]
	return t, ok
}

// Tokens are all join tokens, by id, used and ended ones too.
func (m *Machine) Tokens() []*pb.JoinToken {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return sorted(m.tokens)
}

// askJoin keeps a request to join. There is one to a key; who asks again is told
// the same code.
func (m *Machine) askJoin(at int64, p *pb.PendingJoin) Outcome {
	const op = "ask to join"
	if err := errors.Join(nameOK("agent", p.GetName()), nameOK("rack", p.GetRack()), nameOK("code", p.GetCode()), nameOK("address", p.GetRemote())); err != nil {
		return refused(fault.BadInput, op, err.Error())
	}
	if err := keyOK(op, p.GetSpki(), p.GetSpki(), p.GetSpki()); err != nil {
		return Outcome{Err: err}
	}
	for key, old := range m.pending {
		if at > old.GetUntilUnixMs() {
			delete(m.pending, key)
		}
	}
	if known := m.pending[string(p.GetSpki())]; known != nil {
		return Outcome{Pending: known}
	}
	if len(m.pending) >= MaxPending {
		return Outcome{Err: fault.New(fault.Unavailable, op, fmt.Sprintf("%d others wait for approval", len(m.pending))).
			WithHint("try again in some minutes, or join with a bundle: chiba trust token create")}
	}
	fresh := shallow(p)
	fresh.AskedUnixMs = at
	m.pending[string(p.GetSpki())] = fresh
	return Outcome{Pending: fresh}
}

// judgeJoin decides on the request with that code.
func (m *Machine) judgeJoin(at int64, by string, j *pb.JudgeJoin) Outcome {
	const op = "judge the request"
	p := m.withCode(at, j.GetCode())
	switch {
	case by == "" || len(by) > maxName:
		return refused(fault.Denied, op, "nobody judges it")
	case p == nil:
		return Outcome{Err: NoCode(op)}
	case p.GetJudgedBy() != "":
		return refused(fault.Conflict, op, p.GetJudgedBy()+" has judged it already")
	}
	fresh := shallow(p)
	fresh.JudgedBy, fresh.Approved = by, j.GetApprove()
	m.pending[string(p.GetSpki())] = fresh
	return Outcome{Pending: fresh}
}

// NoCode is why a code is refused.
func NoCode(op string) error {
	return fault.New(fault.NotFound, op, "no machine that waits shows that code").
		WithHint("codes end after ten minutes; see who waits: chiba trust pending")
}

func (m *Machine) withCode(at int64, code string) *pb.PendingJoin {
	for _, p := range m.pending {
		if p.GetCode() == code && at <= p.GetUntilUnixMs() {
			return p
		}
	}
	return nil
}

// PendingWith is the request with that code, at a time in Unix ms.
func (m *Machine) PendingWith(code string, at int64) (*pb.PendingJoin, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	p := m.withCode(at, code)
	return p, p != nil
}

// PendingOf is the request of a key, by its SHA-256, ended or not.
func (m *Machine) PendingOf(spki []byte) (*pb.PendingJoin, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	p, ok := m.pending[string(spki)]
	return p, ok
}

// Pending are the requests that have not ended at a time in Unix ms, without their
// codes: those are for who stands before the machine.
func (m *Machine) Pending(at int64) []*pb.PendingJoin {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []*pb.PendingJoin
	for _, p := range sorted(m.pending) {
		if at <= p.GetUntilUnixMs() {
			p = shallow(p)
			p.Code = ""
			list = append(list, p)
		}
	}
	return list
}
