package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/enroll"
)

// Newcomer is a machine that wants to be the agent of a rack. Its key and mark are on
// disk: asked again with both, the coordinators answer the same.
type Newcomer struct {
	Name string
	Rack string
	Key  *ecdsa.PrivateKey
	Mark []byte
}

// Joined is what a machine has become.
type Joined struct {
	Credentials trust.Credentials
	Bundle      []*x509.Certificate
	Counter     uint64 // for the State
}

// ByToken joins with the token of a bundle.
func (n Newcomer) ByToken(ctx context.Context, b enroll.Bundle, now func() time.Time) (Joined, error) {
	d := Door{Coordinators: b.Coordinators, Pins: b.Pins, Site: b.Site, Now: now}
	var done *pb.Enrolled
	site := ""
	err := d.visit(ctx, n.Key, func(v *visit) (err error) {
		site = v.site
		done, err = n.prove(v, b)
		return err
	})
	if err != nil {
		return Joined{}, err
	}
	return n.take(d, site, done)
}

// prove says by which token, and that its secret is known here and now.
func (n Newcomer) prove(v *visit, b enroll.Bundle) (*pb.Enrolled, error) {
	begin := &pb.EnrolBegin{Versions: []uint32{enroll.Version}, Token: b.Token, Name: n.Name, Rack: n.Rack, Mark: n.Mark}
	begun, err := proto.MarshalOptions{Deterministic: true}.Marshal(begin)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "begin to enrol", err)
	}
	answer, err := v.say(&pb.ToEnroller{Body: &pb.ToEnroller_Begin{Begin: begin}})
	if err != nil {
		return nil, err
	}
	c := answer.GetChallenge()
	if c == nil {
		return nil, odd(answer)
	}
	if c.GetVersion() != enroll.Version || c.GetVersion() < b.MinVersion {
		return nil, fault.New(fault.Untrusted, "agree on a version", fmt.Sprintf("the coordinator chooses version %d, and the bundle wants %d at least", c.GetVersion(), b.MinVersion))
	}
	exporter, err := v.conn.Export(enroll.ExporterLabel, enroll.ExporterSize)
	if err != nil {
		return nil, err
	}
	proof, err := enroll.Transcript{
		Begin: begun, Version: c.GetVersion(), Nonce: c.GetNonce(), Ticket: c.GetTicket(), Exporter: exporter, SPKI: n.spki(),
	}.Prove(b.Secret)
	if err != nil {
		return nil, err
	}
	if answer, err = v.say(&pb.ToEnroller{Body: &pb.ToEnroller_Finish{Finish: &pb.EnrolFinish{Ticket: c.GetTicket(), Proof: proof}}}); err != nil {
		return nil, err
	}
	if answer.GetEnrolled() == nil {
		return nil, odd(answer)
	}
	return answer.GetEnrolled(), nil
}

// ByApproval asks to join and waits until a person has judged it; wait is told the
// code once, and how long it is good.
func (n Newcomer) ByApproval(ctx context.Context, d Door, wait func(code string, until time.Time)) (Joined, error) {
	const op = "wait for approval"
	code, every, until := "", enroll.PollEvery, time.Time{}
	for {
		var answer *pb.FromEnroller
		site := ""
		err := d.visit(ctx, n.Key, func(v *visit) (err error) {
			site = v.site
			answer, err = v.say(&pb.ToEnroller{Body: &pb.ToEnroller_Ask{Ask: &pb.EnrolAsk{
				Versions: []uint32{enroll.Version}, Name: n.Name, Rack: n.Rack, Mark: n.Mark,
			}}})
			return err
		})
		switch {
		case err != nil && (code == "" || !passing(err)):
			return Joined{}, err
		case err != nil: // they may come back while the code is good
		case answer.GetEnrolled() != nil:
			return n.take(d, site, answer.GetEnrolled())
		case answer.GetWait() == nil:
			return Joined{}, odd(answer)
		case code == "":
			w := answer.GetWait()
			code, until = w.GetCode(), time.UnixMilli(w.GetUntilUnixMs())
			wait(code, until)
			fallthrough
		default:
			every = max(enroll.PollEvery, time.Duration(answer.GetWait().GetEveryMs())*time.Millisecond)
		}
		if !until.After(d.Now()) || code != "" && answer.GetWait() != nil && answer.GetWait().GetCode() != code {
			return Joined{}, fault.New(fault.Timeout, op, "nobody has approved it in time").WithHint("start again: there will be another code")
		}
		timer := time.NewTimer(min(every, time.Minute))
		select {
		case <-ctx.Done():
			timer.Stop()
			return Joined{}, fault.Wrap(fault.Canceled, op, ctx.Err())
		case <-timer.C:
		}
	}
}

func (n Newcomer) spki() []byte {
	der, err := x509.MarshalPKIXPublicKey(n.Key.Public())
	if err != nil {
		return nil // of a key that x509 has made
	}
	sum := sha256.Sum256(der)
	return sum[:]
}

// ShortKey is the machine's key as a person compares it.
func (n Newcomer) ShortKey() string { return fleet.ShortKey(n.spki()) }

// take checks that what came is ours, for our key, by a root that was pinned.
func (n Newcomer) take(d Door, site string, m *pb.Enrolled) (Joined, error) {
	own, err := SelfSigned(n.Key)
	if err != nil {
		return Joined{}, err
	}
	chain, bundle, err := parse(m)
	if err != nil {
		return Joined{}, err
	}
	id := trust.Identity{Role: trust.Agent, Domain: trust.Domain{Site: site, Rack: n.Rack}, Name: n.Name}
	creds, err := trust.FirstCredentials(trust.Credentials{Certificate: own}, chain, bundle, d.Pins, id)
	if err != nil {
		return Joined{}, err
	}
	return Joined{Credentials: creds, Bundle: bundle, Counter: m.GetJoinCounter()}, nil
}

// Renew has the certificate of a key renewed that has ended. The answer is checked by
// Credentials.Renewed.
func (d Door) Renew(ctx context.Context, key *ecdsa.PrivateKey, state *pb.JoinState) (chain, bundle []*x509.Certificate, counter uint64, err error) {
	var answer *pb.FromEnroller
	err = d.visit(ctx, key, func(v *visit) (err error) {
		answer, err = v.say(&pb.ToEnroller{Body: &pb.ToEnroller_Renew{Renew: &pb.EnrolRenew{Versions: []uint32{enroll.Version}, State: state}}})
		return err
	})
	if err != nil {
		return nil, nil, 0, err
	}
	if answer.GetEnrolled() == nil {
		return nil, nil, 0, odd(answer)
	}
	chain, bundle, err = parse(answer.GetEnrolled())
	return chain, bundle, answer.GetEnrolled().GetJoinCounter(), err
}

func parse(m *pb.Enrolled) (chain, bundle []*x509.Certificate, err error) {
	const most = 16
	if len(m.GetChain()) == 0 || len(m.GetChain()) > most || len(m.GetBundle()) > most {
		return nil, nil, fault.New(fault.Garbage, "read the certificate", "there is none, or too many")
	}
	for _, list := range []struct {
		from [][]byte
		to   *[]*x509.Certificate
	}{{m.GetChain(), &chain}, {m.GetBundle(), &bundle}} {
		for _, der := range list.from {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, nil, fault.Wrap(fault.Garbage, "read the certificate", err)
			}
			*list.to = append(*list.to, c)
		}
	}
	return chain, bundle, nil
}
