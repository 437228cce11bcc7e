package hub

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"

	"github.com/chiba-mesh/chiba/coordinator/enroll"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

// Authority signs for the agents of its site; a *ca.Site is one.
type Authority interface {
	enroll.Authority
	SignRack(csr []byte, domain trust.Domain) ([]*x509.Certificate, error)
}

// cut has the session end if its agent is denied.
func (s *session) cut() {
	if err := s.hub.conf.Denied.Check(s.conn.Chain(), s.id); err != nil {
		select {
		case s.denied <- err:
		default:
		}
		s.nudges.wake()
	}
}

// renew signs what the agent asks for: its own certificate for the key that it has
// proven in the handshake, and its rack's CA. Signing happens here and never in the
// log: it needs the time, and randomness.
func (s *session) renew(parent context.Context, q *pb.Renew) *pb.Renewed {
	const op = "renew certificates"
	by := s.hub.conf.Authority
	if by == nil {
		return notRenewed(fault.New(fault.Unavailable, op, "this coordinator holds no CA of its site").
			WithHint("start it with --site-ca DIR"))
	}
	if err := s.hub.conf.Denied.Check(s.conn.Chain(), s.id); err != nil {
		return notRenewed(err)
	}
	r := &pb.Renewed{Bundle: raw(by.Bundle())}
	var errs []error
	if q.GetAgent() {
		ctx, cancel := context.WithTimeout(parent, greetTimeout)
		done, err := enroll.Issuer{Log: s.hub.conf.Commands, Authority: by}.Renew(ctx, enroll.Renewal{
			Agent: s.id, Public: s.conn.Peer().PublicKey, SPKI: enroll.SPKI(s.conn.Peer()), State: q.GetJoin(),
		})
		cancel()
		r.Agent, r.JoinCounter, errs = done.GetChain(), done.GetJoinCounter(), append(errs, err)
	}
	if csr := q.GetRackCsr(); len(csr) > 0 {
		chain, err := by.SignRack(csr, s.id.Domain)
		r.Rack, errs = raw(chain), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		r.Refusal = refusal(err).GetRefusal()
		s.hub.conf.Log.Warn("certificates not renewed", obs.Agent, s.agent, obs.Err, err)
		return r
	}
	s.hub.conf.Log.Info("certificates renewed", obs.Agent, s.agent, obs.Rack, s.rack)
	return r
}

func notRenewed(err error) *pb.Renewed { return &pb.Renewed{Refusal: refusal(err).GetRefusal()} }

func raw(chain []*x509.Certificate) [][]byte {
	var der [][]byte
	for _, c := range chain {
		der = append(der, c.Raw)
	}
	return der
}

// heardDenials commits what was denied at the agent while it was cut off, and tells
// what of it is decided now for the whole mesh. The rest stays the agent's own.
func (s *session) heardDenials(parent context.Context, told []*pb.Denial) (settled []string, err error) {
	var taken []*pb.Denial
	for _, d := range told {
		subject, no := trust.ParseSubject(d.GetSubject())
		if no == nil {
			no = s.mayDeny(subject)
		}
		if no != nil {
			s.hub.conf.Log.Warn("a denial is not taken", obs.Agent, s.agent, obs.Err, no)
			continue
		}
		taken = append(taken, &pb.Denial{Subject: subject, Reason: d.GetReason(), By: "agent " + s.agent, AtUnixMs: d.GetAtUnixMs()})
		settled = append(settled, d.GetSubject())
	}
	if len(taken) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(parent, greetTimeout)
	defer cancel()
	o, err := s.hub.conf.Commands.Propose(ctx, &pb.Command{Body: &pb.Command_Deny{Deny: &pb.Deny{Denials: taken}}})
	if err = errors.Join(err, o.Err); err != nil {
		return nil, err
	}
	return settled, nil
}

// mayDeny says whom an agent may deny for the whole site: its own rack and its
// agents, and keys and certificates that are not ours. Else one stolen agent could
// shut out everybody.
func (s *session) mayDeny(subject string) error {
	no := fault.New(fault.Denied, "take a denial", subject+" is not the agent's to deny")
	if slices.Contains(s.ours(), subject) {
		return no
	}
	switch kind, name := trust.SplitSubject(subject); kind {
	case "spki", "serial":
		return nil
	case "rack":
		if name == s.rack {
			return nil
		}
	case string(trust.Agent):
		if a, ok := s.hub.conf.Machine.Agent(name); !ok || a.GetRack() == s.rack {
			return nil
		}
	}
	return no
}

// ours are the subjects by which we ourselves would be denied.
func (s *session) ours() []string {
	if s.hub.conf.Endpoint == nil {
		return nil
	}
	creds := s.hub.conf.Endpoint.Credentials()
	id, err := creds.Identity()
	if err != nil {
		return nil
	}
	return trust.SubjectsOf(creds.Chain(), id)
}
