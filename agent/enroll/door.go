// Package enroll is a machine's end of chiba-enroll/1: it becomes the agent of a rack
// by a join bundle or by a person's approval, and has a certificate that has ended
// renewed.
package enroll

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/enroll"
)

const (
	dialTimeout   = 5 * time.Second
	answerTimeout = 15 * time.Second
)

// Door is where a machine knocks, and how it knows that it is the right one.
type Door struct {
	Coordinators []string // host:port, tried in turn
	Pins         []string // of the roots
	Site         string   // that it must be; "": any
	Now          func() time.Time
	Patience     time.Duration // for an answer; 0: 15 s
}

// visit is one session with a coordinator that has proven a pinned root.
type visit struct {
	conn mesh.Session
	ch   *mesh.Channel
	wait time.Duration // for an answer
	site string
}

// visit runs f with one coordinator after the other, until one of them has answered:
// with what was asked for or with a refusal.
func (d Door) visit(ctx context.Context, key *ecdsa.PrivateKey, f func(*visit) error) error {
	var last error
	for _, addr := range d.Coordinators {
		last = d.visitOne(ctx, addr, key, f)
		if last == nil || ctx.Err() != nil || !passing(last) {
			return last
		}
	}
	return last
}

// passing reports whether another coordinator, or this one later, may do better.
func passing(err error) bool {
	kind := fault.KindOf(err)
	return kind == fault.Unavailable || kind == fault.Timeout
}

func (d Door) visitOne(parent context.Context, addr string, key *ecdsa.PrivateKey, f func(*visit) error) error {
	op := "enrol at " + addr
	shown, err := SelfSigned(key)
	if err != nil {
		return err
	}
	v := &visit{wait: cmp.Or(d.Patience, answerTimeout)}
	ctx, cancel := context.WithTimeout(parent, dialTimeout)
	defer cancel()
	if v.conn, err = mesh.DialEnroll(ctx, addr, d.config(v, shown)); err != nil {
		return err
	}
	defer v.conn.Close("done")
	defer context.AfterFunc(parent, func() { v.conn.Close("the agent stops") })()
	stream, err := v.conn.Open(ctx)
	if err != nil {
		return err
	}
	v.ch = mesh.NewChannel(stream, enroll.MaxMessage)
	if err = f(v); err != nil && v.conn.Err() != nil && fault.Is(err, fault.Unavailable) {
		err = errors.Join(err, v.conn.Err())
	}
	return fault.Wrap(fault.KindOf(err), op, err)
}

// config verifies the coordinator by the pins of the roots, which is all that a
// machine knows. No name is checked: a coordinator is known by its identity.
func (d Door) config(v *visit, shown tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{shown},
		InsecureSkipVerify:     true, //nolint:gosec // VerifyConnection does the whole check: chain, time, usage, role, pin
		SessionTicketsDisabled: true,
		Time:                   d.Now,
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := trust.VerifyPinned(state.PeerCertificates, d.Pins, d.Now())
			if err == nil && d.Site != "" && id.Site != d.Site {
				err = fault.New(fault.Untrusted, "verify the coordinator", fmt.Sprintf("it is of site %s, not of %s", id.Site, d.Site))
			}
			v.site = id.Site
			return err
		},
	}
}

// say sends one message and waits for the answer. A refusal is an error.
func (v *visit) say(m *pb.ToEnroller) (*pb.FromEnroller, error) {
	if err := v.ch.Send(m); err != nil {
		return nil, err
	}
	if err := v.ch.SetReceiveDeadline(time.Now().Add(v.wait)); err != nil {
		return nil, fault.Wrap(fault.Unavailable, "enrol", err)
	}
	answer := &pb.FromEnroller{}
	if err := v.ch.Receive(answer); err != nil {
		kind := fault.Unavailable
		if fault.Is(err, fault.Garbage) || fault.Is(err, fault.TooLarge) {
			kind = fault.KindOf(err) // it has answered, and wrongly
		}
		return nil, fault.Wrap(kind, "wait for the coordinator", err)
	}
	if r := answer.GetRefusal(); r != nil {
		return nil, wire.FromFault(r.GetKind(), r.GetError(), r.GetHint())
	}
	return answer, nil
}

// odd is an answer that does not fit.
func odd(m *pb.FromEnroller) error {
	return fault.New(fault.Garbage, "enrol", fmt.Sprintf("the coordinator answers with %T", m.GetBody()))
}

// SelfSigned is a certificate of a key for the handshake, where only the key matters.
// It is good at any time: a machine's clock may be wrong.
func SelfSigned(key *ecdsa.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "newcomer"},
		NotBefore: time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fault.Wrap(fault.Internal, "show our key", err)
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, fault.Wrap(fault.Internal, "show our key", err)
}
