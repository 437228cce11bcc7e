package enroll

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/enroll"
)

// Authority signs for the agents of its site; a *ca.Site is one.
type Authority interface {
	IssueAgent(id trust.Identity, public crypto.PublicKey, serial []byte, at time.Time) ([]*x509.Certificate, error)
	Bundle() []*x509.Certificate
}

// Log commits commands; a *raftnode.Node is one.
type Log interface {
	Propose(ctx context.Context, c *pb.Command) (state.Outcome, error)
}

// Issuer decides in the log, and signs what was decided, in this order: a certificate
// leaves only when every coordinator will know of it. Signing is no part of the log,
// because it needs randomness; asked again, it signs the same certificate.
type Issuer struct {
	Log       Log
	Authority Authority
}

// Renewal is an agent's wish for a new certificate of its key.
type Renewal struct {
	Agent  trust.Identity
	Public crypto.PublicKey
	SPKI   []byte // SHA-256
	State  *pb.JoinState
	ByKey  bool // its certificate has ended
}

// Renew moves the join state on and signs a certificate.
func (i Issuer) Renew(ctx context.Context, r Renewal) (*pb.Enrolled, error) {
	return i.decide(ctx, r.Agent, r.Public, &pb.Command{Body: &pb.Command_RenewAgent{RenewAgent: &pb.RenewAgent{
		Name: r.Agent.Name, Rack: r.Agent.Rack, Spki: r.SPKI, Serial: ca.NewSerial(), LifeMs: ca.AgentLife.Milliseconds(),
		State: r.State, ByKey: r.ByKey, KeyKind: enroll.KeySoftware,
	}}})
}

func (i Issuer) enrol(ctx context.Context, id trust.Identity, public crypto.PublicKey, e *pb.EnrolAgent) (*pb.Enrolled, error) {
	e.Name, e.Rack, e.Serial, e.LifeMs, e.KeyKind = id.Name, id.Rack, ca.NewSerial(), ca.AgentLife.Milliseconds(), enroll.KeySoftware
	return i.decide(ctx, id, public, &pb.Command{Body: &pb.Command_EnrolAgent{EnrolAgent: e}})
}

func (i Issuer) decide(ctx context.Context, id trust.Identity, public crypto.PublicKey, c *pb.Command) (*pb.Enrolled, error) {
	o, err := i.Log.Propose(ctx, c)
	if err = errors.Join(err, o.Err); err != nil {
		return nil, err
	}
	e := o.Enrolment
	if e.GetLocked() != "" {
		return nil, state.LockedError("renew certificate", e)
	}
	chain, err := i.Authority.IssueAgent(id, public, e.GetSerial(), time.UnixMilli(e.GetAtUnixMs()))
	if err != nil {
		return nil, err
	}
	return &pb.Enrolled{Chain: raw(chain), Bundle: raw(i.Authority.Bundle()), JoinCounter: e.GetCounter(), TimeUnixMs: time.Now().UnixMilli()}, nil
}

// SPKI is the SHA-256 of a certificate's key.
func SPKI(c *x509.Certificate) []byte {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return sum[:]
}

func raw(chain []*x509.Certificate) [][]byte {
	var der [][]byte
	for _, c := range chain {
		der = append(der, c.Raw)
	}
	return der
}
