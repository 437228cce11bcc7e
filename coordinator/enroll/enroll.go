// Package enroll is the coordinators' end of chiba-enroll/1: the door for machines
// that are no agents yet, and for agents whose certificate has ended. It checks what
// they show, has the log decide, and signs.
//
// Whoever knows the port may knock. So nothing is kept of one who only begins; the
// sessions, those of one address, their messages and their time are bounded, and so is
// what a stranger can have written into the log.
package enroll

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/enroll"
)

const (
	maxSessions = 64 // at once
	maxPerHost  = 8  // of them, of one address
	maxMessages = 4  // of one session
	maxAsking   = 4  // requests of one address that wait for a person

	patience = 20 * time.Second
	farewell = time.Second // for the last message to arrive
)

// Config is what a Server needs.
type Config struct {
	Name    string // of this coordinator
	Site    trust.Domain
	Machine *state.Machine
	Issuer  Issuer
	Denied  *trust.Denials
	// TicketKey is the same at all coordinators of the site: ca.Site.Secret.
	TicketKey []byte
	Log       *slog.Logger
	Now       func() time.Time // nil: time.Now
	Patience  time.Duration    // how long a session may take; 0: 20 s
}

// Server serves newcomers. It is safe for concurrent use.
type Server struct {
	conf    Config
	tickets *enroll.Tickets

	mu     sync.Mutex
	total  int
	hosts  map[string]int       // sessions
	polled map[string]time.Time // by key: when it last asked
}

// New is a server that serves nobody yet.
func New(c Config) (*Server, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Patience == 0 {
		c.Patience = patience
	}
	tickets, err := enroll.NewTickets(c.TicketKey)
	return &Server{conf: c, tickets: tickets, hosts: map[string]int{}, polled: map[string]time.Time{}}, err
}

// Serve answers one newcomer, and ends the session.
func (s *Server) Serve(parent context.Context, conn mesh.Session) {
	host, _, _ := net.SplitHostPort(conn.Remote())
	if !s.enter(host) {
		conn.Close("too many newcomers: try again in a moment")
		return
	}
	defer s.leave(host)
	ctx, cancel := context.WithTimeout(parent, s.conf.Patience)
	defer cancel()
	// Closing the session is what ends a Receive.
	defer context.AfterFunc(ctx, func() { conn.Close("too slow") })()
	n := &newcomer{Server: s, conn: conn, spki: SPKI(conn.Peer())}
	if err := n.talk(ctx); err != nil {
		s.conf.Log.Warn("newcomer refused", obs.Addr, conn.Remote(), obs.Agent, n.name, obs.Err, err, obs.Kind, fault.KindOf(err))
	}
	conn.Close("enrolment over")
}

func (s *Server) enter(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= maxSessions || s.hosts[host] >= maxPerHost {
		return false
	}
	s.total++
	s.hosts[host]++
	return true
}

func (s *Server) leave(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.hosts[host]--; s.hosts[host] == 0 {
		delete(s.hosts, host)
	}
}

// newcomer is one session.
type newcomer struct {
	*Server
	conn mesh.Session
	spki []byte // SHA-256 of the key that it has proven
	name string // that it wants, for the log
}

// talk answers one message after the other, until the machine leaves or is refused.
func (n *newcomer) talk(ctx context.Context) error {
	stream, err := n.conn.Accept(ctx)
	if err != nil {
		return err
	}
	ch := mesh.NewChannel(stream, enroll.MaxMessage)
	for range maxMessages {
		var m pb.ToEnroller
		if err := ch.Receive(&m); err != nil {
			return left(err)
		}
		answer, err := n.answer(ctx, &m)
		if err != nil {
			kind, text, hint := wire.ToFault(err)
			refusal := &pb.FromEnroller{Body: &pb.FromEnroller_Refusal{Refusal: &pb.Refusal{Kind: kind, Error: text, Hint: hint}}}
			return errors.Join(err, ch.Send(refusal), n.wait(ctx))
		}
		if err := ch.Send(answer); err != nil {
			return err
		}
	}
	return n.wait(ctx)
}

// left is nil for a machine that has what it wanted.
func left(err error) error {
	if fault.Is(err, fault.Garbage) || fault.Is(err, fault.TooLarge) {
		return err
	}
	return nil
}

// wait lets the last message arrive: closing at once would overtake it.
func (n *newcomer) wait(ctx context.Context) error {
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-n.conn.Done():
	case <-timer.C:
	}
	return nil
}

func (n *newcomer) answer(ctx context.Context, m *pb.ToEnroller) (*pb.FromEnroller, error) {
	if err := n.conf.Denied.Check(n.conn.Chain(), trust.Identity{}); err != nil {
		if e, known := n.conf.Machine.EnrolmentOf(n.spki); known && e.GetLocked() != "" {
			return nil, state.LockedError("enrol agent", e)
		}
		return nil, fault.New(fault.Denied, "enrol agent", "its key is denied: "+err.Error())
	}
	var done *pb.Enrolled
	var err error
	switch b := m.GetBody().(type) {
	case *pb.ToEnroller_Begin:
		return n.begin(b.Begin)
	case *pb.ToEnroller_Finish:
		done, err = n.finish(ctx, b.Finish)
	case *pb.ToEnroller_Ask:
		var wait *pb.EnrolWait
		if wait, done, err = n.ask(ctx, b.Ask); wait != nil {
			return &pb.FromEnroller{Body: &pb.FromEnroller_Wait{Wait: wait}}, err
		}
	case *pb.ToEnroller_Renew:
		done, err = n.renew(ctx, b.Renew)
	default:
		err = fault.New(fault.Unsupported, "enrol agent", "it says something that this coordinator does not know").
			WithHint("run the same build of chiba on agents and coordinators")
	}
	return &pb.FromEnroller{Body: &pb.FromEnroller_Enrolled{Enrolled: done}}, err
}

// identity is whom the machine wants to be, in our site.
func (n *newcomer) identity(name, rack string) (trust.Identity, error) {
	n.name = name
	id := trust.Identity{Role: trust.Agent, Domain: trust.Domain{Site: n.conf.Site.Site, Rack: rack}, Name: name}
	return id, id.Check()
}

// begin checks what can be checked before the proof, and makes a ticket.
func (n *newcomer) begin(b *pb.EnrolBegin) (*pb.FromEnroller, error) {
	version, err := enroll.Choose(b.GetVersions())
	if err != nil {
		return nil, err
	}
	if _, err = n.identity(b.GetName(), b.GetRack()); err != nil {
		return nil, err
	}
	if _, ok := n.conf.Machine.Token(b.GetToken()); !ok {
		return nil, noToken()
	}
	begun, err := proto.MarshalOptions{Deterministic: true}.Marshal(b)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "begin to enrol", err)
	}
	nonce := make([]byte, enroll.NonceSize)
	_, _ = rand.Read(nonce) // never fails, see its documentation
	ticket, err := n.tickets.Seal(&pb.EnrolTicket{
		Begin: begun, Nonce: nonce, Spki: n.spki, UntilUnixMs: n.conf.Now().Add(enroll.TicketLife).UnixMilli(),
	})
	return &pb.FromEnroller{Body: &pb.FromEnroller_Challenge{Challenge: &pb.EnrolChallenge{Version: version, Nonce: nonce, Ticket: ticket}}}, err
}

func noToken() error {
	return fault.New(fault.Denied, "check the join token", "there is none like it").
		WithHint("it may have ended or been revoked: chiba trust token list")
}

// finish checks the proof and has the log consume the token.
func (n *newcomer) finish(ctx context.Context, f *pb.EnrolFinish) (*pb.Enrolled, error) {
	ticket, err := n.tickets.Open(f.GetTicket(), n.spki, n.conf.Now())
	if err != nil {
		return nil, err
	}
	var b pb.EnrolBegin
	if err = proto.Unmarshal(ticket.GetBegin(), &b); err != nil {
		return nil, fault.Wrap(fault.Garbage, "finish enrolment", err)
	}
	token, ok := n.conf.Machine.Token(b.GetToken())
	if !ok {
		return nil, noToken()
	}
	exporter, err := n.conn.Export(enroll.ExporterLabel, enroll.ExporterSize)
	if err != nil {
		return nil, err
	}
	said := enroll.Transcript{
		Begin: ticket.GetBegin(), Version: enroll.Version, Nonce: ticket.GetNonce(), Ticket: f.GetTicket(), Exporter: exporter, SPKI: n.spki,
	}
	if err = said.Check(token.GetKey(), f.GetProof()); err != nil {
		return nil, err
	}
	return n.enrol(ctx, b.GetName(), b.GetRack(), &pb.EnrolAgent{Token: b.GetToken(), Spki: n.spki, Mark: b.GetMark()})
}

func (n *newcomer) enrol(ctx context.Context, name, rack string, e *pb.EnrolAgent) (*pb.Enrolled, error) {
	id, err := n.identity(name, rack)
	if err != nil {
		return nil, err
	}
	done, err := n.conf.Issuer.enrol(ctx, id, n.conn.Peer().PublicKey, e)
	if err == nil {
		n.conf.Log.Info("agent enrolled", obs.Agent, name, obs.Rack, rack, obs.Addr, n.conn.Remote())
	}
	return done, err
}

// renew renews a certificate that has ended, for the key alone.
func (n *newcomer) renew(ctx context.Context, r *pb.EnrolRenew) (*pb.Enrolled, error) {
	const op = "renew certificate"
	if _, err := enroll.Choose(r.GetVersions()); err != nil {
		return nil, err
	}
	known, ok := n.conf.Machine.EnrolmentOf(n.spki)
	if !ok {
		return nil, fault.New(fault.Denied, op, "its key is not that of an agent").
			WithHint("join anew: chiba trust token create --rack RACK, then chiba agent join")
	}
	id, err := n.identity(known.GetName(), known.GetRack())
	if err != nil {
		return nil, err
	}
	for _, subject := range []string{"agent/" + id.Name, "rack/" + id.Rack} {
		if d, denied := n.conf.Denied.Of(subject); denied {
			return nil, fault.New(fault.Denied, op, fmt.Sprintf("%s is denied: %s", subject, d.Reason)).WithHint("if that is over: chiba trust allow " + subject)
		}
	}
	asked := &pb.RenewAgent{Name: id.Name, Rack: id.Rack, Spki: n.spki, ByKey: true}
	if err = n.conf.Machine.MayRenew(n.conf.Now().UnixMilli(), asked); err != nil {
		return nil, err // it may ask as often as it likes: nothing of it comes into the log
	}
	done, err := n.conf.Issuer.Renew(ctx, Renewal{Agent: id, Public: n.conn.Peer().PublicKey, SPKI: n.spki, State: r.GetState(), ByKey: true})
	if err == nil {
		n.conf.Log.Info("ended certificate renewed", obs.Agent, id.Name, obs.Rack, id.Rack, obs.Addr, n.conn.Remote())
	}
	return done, err
}
