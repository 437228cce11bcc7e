package enroll_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/enroll"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	trustenroll "github.com/chiba-mesh/chiba/trust/enroll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const longest = 20 * time.Second

// journal is a log of one machine.
type journal struct {
	mu      sync.Mutex
	machine *state.Machine
	denied  trust.Denials
	now     time.Time
	index   uint64
}

func (l *journal) Propose(_ context.Context, c *pb.Command) (state.Outcome, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index++
	c.Version, c.AtUnixMs = state.Version, l.now.UnixMilli()
	o, err := l.machine.Apply(l.index, c)
	l.denied.Set(wire.FromDenials(l.machine.Denied()))
	return o, err
}

func (l *journal) clock() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *journal) later(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = l.now.Add(d)
}

// door is a server behind a real port, before a journal.
type door struct {
	tb     testing.TB
	ca     *ca.Site
	log    *journal
	server *enroll.Server
	addr   string
	pins   []string
}

// newDoor makes one whose sessions may take that long; it is open until the test ends.
func newDoor(tb testing.TB, patience time.Duration) *door {
	tb.Helper()
	d := &door{tb: tb, log: &journal{machine: state.New(), now: time.Now()}}
	dir := tb.TempDir()
	var err error
	if d.ca, err = ca.Open(filepath.Join(dir, "ca"), "osl1"); err != nil {
		tb.Fatal(err)
	}
	key, err := d.ca.Secret(trustenroll.TicketLabel)
	if err != nil {
		tb.Fatal(err)
	}
	d.server, err = enroll.New(enroll.Config{
		Name: "c1", Site: d.ca.Domain(), Machine: d.log.machine, Denied: &d.log.denied, TicketKey: key, Now: d.log.clock, Patience: patience,
		Log: slog.New(slog.DiscardHandler), Issuer: enroll.Issuer{Log: d.log, Authority: d.ca},
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err = d.ca.Ensure(filepath.Join(dir, "c1"), trust.Identity{Role: trust.Coordinator, Name: "c1"}, "127.0.0.1"); err != nil {
		tb.Fatal(err)
	}
	creds, err := trust.Load(filepath.Join(dir, "c1"))
	if err != nil {
		tb.Fatal(err)
	}
	d.pins = creds.Pins()
	endpoint := trust.NewEndpoint(creds, trust.Options{})
	listener, err := mesh.ListenWithEnrolment("127.0.0.1:0", endpoint.Server(trust.Agent), endpoint.Newcomers(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	d.addr = listener.Addr()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, acceptErr := listener.Accept(ctx)
			if acceptErr != nil {
				return
			}
			serving.Go(func() { d.server.Serve(ctx, conn) })
		}
	})
	tb.Cleanup(func() {
		cancel()
		_ = listener.Close()
		serving.Wait()
	})
	return d
}

// token makes one, good for an hour, and returns its secret.
func (d *door) token(id string) (secret []byte) {
	d.tb.Helper()
	sum := sha256.Sum256([]byte(id))
	public, err := trustenroll.Public(sum[:])
	if err != nil {
		d.tb.Fatal(err)
	}
	o, err := d.log.Propose(d.tb.Context(), &pb.Command{By: "ada", Body: &pb.Command_PutToken{PutToken: &pb.PutToken{Token: &pb.JoinToken{
		Id: id, Key: public, Rack: "r17", Name: "agent-r17", By: "ada", UntilUnixMs: d.log.clock().Add(time.Hour).UnixMilli(),
	}}}})
	if err = errors.Join(err, o.Err); err != nil {
		d.tb.Fatal(err)
	}
	return sum[:]
}

// newcomer is a machine with a key.
type newcomer struct {
	*door
	key  *ecdsa.PrivateKey
	cert tls.Certificate
	mark []byte
}

func (d *door) newcomer() *newcomer {
	d.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Unix(86400, 0), NotAfter: time.Now().AddDate(100, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		d.tb.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		d.tb.Fatal(err)
	}
	return &newcomer{d, key, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, bytes.Repeat([]byte{1}, trustenroll.MarkSize)}
}

// session is one of a newcomer.
type session struct {
	*newcomer
	conn   mesh.Session
	stream mesh.Stream
	ch     *mesh.Channel
}

func (n *newcomer) knock() *session {
	n.tb.Helper()
	conn, err := mesh.DialEnroll(n.tb.Context(), n.addr, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{n.cert}, InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, verifyErr := trust.VerifyPinned(cs.PeerCertificates, n.pins, time.Now())
			return verifyErr
		},
	})
	if err != nil {
		n.tb.Fatal(err)
	}
	n.tb.Cleanup(func() { conn.Close("test over") })
	stream, err := conn.Open(n.tb.Context())
	if err != nil {
		n.tb.Fatal(err)
	}
	return &session{n, conn, stream, mesh.NewChannel(stream, 0)}
}

// say sends one message and returns the answer, nil if the session has ended.
func (s *session) say(m *pb.ToEnroller) *pb.FromEnroller {
	s.tb.Helper()
	if s.ch.Send(m) != nil || s.ch.SetReceiveDeadline(time.Now().Add(longest)) != nil {
		return nil
	}
	answer := &pb.FromEnroller{}
	if s.ch.Receive(answer) != nil {
		return nil
	}
	return answer
}

// claim is what a newcomer says of itself when it joins by a token.
type claim struct {
	token, name, rack string
	secret            []byte
}

// join goes through the whole exchange, with between before its last message.
func (n *newcomer) join(c claim, between func()) *pb.FromEnroller {
	n.tb.Helper()
	s := n.knock()
	defer s.conn.Close("said")
	begin := &pb.EnrolBegin{Versions: []uint32{trustenroll.Version}, Token: c.token, Name: c.name, Rack: c.rack, Mark: n.mark}
	begun, err := proto.MarshalOptions{Deterministic: true}.Marshal(begin)
	if err != nil {
		n.tb.Fatal(err)
	}
	answer := s.say(&pb.ToEnroller{Body: &pb.ToEnroller_Begin{Begin: begin}})
	challenge := answer.GetChallenge()
	if challenge == nil {
		return answer
	}
	if between != nil {
		between()
	}
	exporter, err := s.conn.Export(trustenroll.ExporterLabel, trustenroll.ExporterSize)
	if err != nil {
		n.tb.Fatal(err)
	}
	proof, err := trustenroll.Transcript{
		Begin: begun, Version: challenge.GetVersion(), Nonce: challenge.GetNonce(), Ticket: challenge.GetTicket(), Exporter: exporter, SPKI: enroll.SPKI(n.cert.Leaf),
	}.Prove(c.secret)
	if err != nil {
		n.tb.Fatal(err)
	}
	return s.say(&pb.ToEnroller{Body: &pb.ToEnroller_Finish{Finish: &pb.EnrolFinish{Ticket: challenge.GetTicket(), Proof: proof}}})
}

// refused checks that an answer is a refusal of that kind, which says so.
func refused(t *testing.T, what string, m *pb.FromEnroller, kind fault.Kind, says string) {
	t.Helper()
	if r := m.GetRefusal(); fault.Kind(r.GetKind()) != kind || !strings.Contains(r.GetError(), says) {
		t.Errorf("%s: a %T of kind %q: %s; want %s with %q", what, m.GetBody(), r.GetKind(), r.GetError(), kind, says)
	}
}

// Every way in which a token is not good, told by what it is.
func TestTokensThatAreNotGood(t *testing.T) {
	good := func(secret []byte) claim { return claim{"t1", "agent-r17", "r17", secret} }
	for name, c := range map[string]struct {
		claim   func(secret []byte) claim
		before  func(d *door)
		between func(d *door)
		kind    fault.Kind
		says    string
	}{
		"unknown":      {claim: func(s []byte) claim { return claim{"t9", "agent-r17", "r17", s} }, kind: fault.Denied, says: "there is none like it"},
		"ended":        {before: func(d *door) { d.log.later(2 * time.Hour) }, kind: fault.Denied, says: "was good until"},
		"ended amid":   {between: func(d *door) { d.log.later(2 * time.Hour) }, kind: fault.Denied},
		"slow ticket":  {between: func(d *door) { d.log.later(trustenroll.TicketLife + time.Second) }, kind: fault.Denied, says: "its time is over"},
		"revoked":      {before: func(d *door) { d.revoke("t1") }, kind: fault.Denied, says: "there is none like it"},
		"revoked amid": {between: func(d *door) { d.revoke("t1") }, kind: fault.Denied, says: "there is none like it"},
		"another rack": {claim: func(s []byte) claim { return claim{"t1", "agent-r17", "r18", s} }, kind: fault.Denied},
		"another name": {claim: func(s []byte) claim { return claim{"t1", "agent-r18", "r17", s} }, kind: fault.Denied},
		"no name":      {claim: func(s []byte) claim { return claim{"t1", "", "r17", s} }, kind: fault.BadInput},
		"a path":       {claim: func(s []byte) claim { return claim{"t1", "../c1", "r17", s} }, kind: fault.BadInput},
		"wrong secret": {claim: func([]byte) claim { return good(bytes.Repeat([]byte{9}, trustenroll.SecretSize)) }, kind: fault.Denied},
		"used":         {before: func(d *door) { d.used() }, kind: fault.Conflict, says: "another key"},
		"denied rack":  {before: func(d *door) { d.deny("rack/r17") }, kind: fault.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, 0)
			secret := d.token("t1")
			if c.before != nil {
				c.before(d)
			}
			say := good(secret)
			if c.claim != nil {
				say = c.claim(secret)
			}
			between := func() {}
			if c.between != nil {
				between = func() { c.between(d) }
			}
			before := len(d.log.machine.Enrolments())
			refused(t, name, d.newcomer().join(say, between), c.kind, c.says)
			if after := len(d.log.machine.Enrolments()); after != before {
				t.Errorf("%d agents became %d", before, after)
			}
		})
	}
}

func (d *door) revoke(id string) {
	d.tb.Helper()
	if o, err := d.log.Propose(d.tb.Context(), &pb.Command{By: "ada", Body: &pb.Command_RevokeToken{RevokeToken: &pb.RevokeToken{Id: id}}}); err != nil || o.Err != nil {
		d.tb.Fatal(err, o.Err)
	}
}

func (d *door) deny(subject string) {
	d.tb.Helper()
	o, err := d.log.Propose(d.tb.Context(), &pb.Command{By: "ada", Body: &pb.Command_Deny{Deny: &pb.Deny{Denials: []*pb.Denial{{Subject: subject, Reason: "stolen"}}}}})
	if err != nil || o.Err != nil {
		d.tb.Fatal(err, o.Err)
	}
}

// used has somebody join by t1, who is returned.
func (d *door) used() *newcomer {
	d.tb.Helper()
	n := d.newcomer()
	sum := sha256.Sum256([]byte("t1"))
	if got := n.join(claim{"t1", "agent-r17", "r17", sum[:]}, nil); got.GetEnrolled() == nil {
		d.tb.Fatalf("it is not let in: %v", got)
	}
	return n
}

// The good way: what is given is for this key, this name and a day.
func TestJoinByToken(t *testing.T) {
	d := newDoor(t, 0)
	n, secret := d.newcomer(), d.token("t1")
	done := n.join(claim{"t1", "agent-r17", "r17", secret}, nil).GetEnrolled()
	if done == nil || done.GetJoinCounter() != 1 || len(done.GetBundle()) < 2 {
		t.Fatalf("it is given %v", done)
	}
	leaf, err := x509.ParseCertificate(done.GetChain()[0])
	if err != nil {
		t.Fatal(err)
	}
	if id, err := trust.IdentityOf(leaf); err != nil || id.Name != "agent-r17" || id.Rack != "r17" || !n.key.PublicKey.Equal(leaf.PublicKey) {
		t.Errorf("it is for %v, %v", id, err)
	}
	if life := leaf.NotAfter.Sub(d.log.clock()); life > ca.AgentLife || life < ca.AgentLife-time.Hour {
		t.Errorf("it is good for %s", life)
	}
}

// Renewal by a key alone: who is no agent, what is locked, denied or too old, and a
// state that somebody else has moved on.
func TestRenewalsThatAreRefused(t *testing.T) {
	first := bytes.Repeat([]byte{1}, trustenroll.MarkSize)
	next := bytes.Repeat([]byte{2}, trustenroll.MarkSize)
	at := func(counter uint64, mark []byte) *pb.JoinState {
		return &pb.JoinState{Counter: counter, Mark: mark, Next: next}
	}
	for name, c := range map[string]struct {
		who    func(d *door, n *newcomer) *newcomer
		before func(d *door)
		state  *pb.JoinState
		kind   fault.Kind
		says   string
	}{
		"a stranger":     {who: func(d *door, _ *newcomer) *newcomer { return d.newcomer() }, state: at(1, first), kind: fault.Denied, says: "not that of an agent"},
		"a clone":        {before: func(d *door) { d.log.later(48 * time.Hour) }, state: at(1, next), kind: fault.Denied, says: "two copies"},
		"an older count": {before: func(d *door) { d.log.later(48 * time.Hour) }, state: at(0, first), kind: fault.Denied, says: "two copies"},
		"no state":       {before: func(d *door) { d.log.later(48 * time.Hour) }, state: nil, kind: fault.BadInput},
		"a year later":   {before: func(d *door) { d.log.later(365 * 24 * time.Hour) }, state: at(1, first), kind: fault.Denied},
		"a denied rack":  {before: func(d *door) { d.deny("rack/r17"); d.log.later(48 * time.Hour) }, state: at(1, first), kind: fault.Denied, says: "stolen"},
		"a denied name":  {before: func(d *door) { d.deny("agent/agent-r17"); d.log.later(48 * time.Hour) }, state: at(1, first), kind: fault.Denied, says: "stolen"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, 0)
			d.token("t1")
			n := d.used()
			if c.before != nil {
				c.before(d)
			}
			if c.who != nil {
				n = c.who(d, n)
			}
			s := n.knock()
			refused(t, name, s.say(&pb.ToEnroller{Body: &pb.ToEnroller_Renew{Renew: &pb.EnrolRenew{Versions: []uint32{1}, State: c.state}}}), c.kind, c.says)
		})
	}
}

// What is no message ends the session, and nobody else's.
func TestGarbageEndsItsSession(t *testing.T) {
	d := newDoor(t, 0)
	secret := d.token("t1")
	for name, frame := range map[string][]byte{
		"4 GiB":               {0xff, 0xff, 0xff, 0xff},
		"one more than a may": append([]byte{0, 1, 0, 1}, make([]byte, 100)...),
		"no protobuf":         {0, 0, 0, 3, 0xff, 0xff, 0xff},
		"text":                []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
	} {
		s := d.newcomer().knock()
		if _, err := s.stream.Write(frame); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case <-s.conn.Done():
		case <-time.After(longest):
			t.Errorf("%s: the session lives on", name)
		}
	}
	if got := d.newcomer().join(claim{"t1", "agent-r17", "r17", secret}, nil); got.GetEnrolled() == nil {
		t.Errorf("the one after them: %v", got)
	}
}

// A session ends by itself: if nothing comes, if half a message comes, if it goes on
// and on; and one address has so many at once.
func TestSessionsAreBounded(t *testing.T) {
	d := newDoor(t, 300*time.Millisecond)
	ended := func(what string, s *session) {
		t.Helper()
		select {
		case <-s.conn.Done():
		case <-time.After(longest):
			t.Errorf("%s: the session lives on", what)
		}
	}
	ended("silence", d.newcomer().knock())
	half := d.newcomer().knock()
	if _, err := half.stream.Write([]byte{0, 0}); err != nil {
		t.Fatal(err)
	}
	ended("half a message", half)

	d = newDoor(t, longest)
	n := d.newcomer()
	talker := n.knock()
	ask := &pb.ToEnroller{Body: &pb.ToEnroller_Ask{Ask: &pb.EnrolAsk{Versions: []uint32{1}, Name: "agent-r17", Rack: "r17", Mark: n.mark}}}
	answers := 0
	for talker.say(ask) != nil {
		if answers++; answers > 10 {
			t.Fatal("it is answered for ever")
		}
	}
	ended("many messages", talker)

	for i := range 9 { // of one address, each of which waits
		s := d.newcomer().knock()
		if s.say(ask) == nil != (i == 8) {
			t.Errorf("session %d is answered: %v", i+1, i == 8)
		}
	}
}

// stream is a connection's one stream, which says what it was given.
type stream struct {
	io.Reader
	io.Writer
}

func (stream) Close() error                     { return nil }
func (stream) SetReadDeadline(time.Time) error  { return nil }
func (stream) SetWriteDeadline(time.Time) error { return nil }

// canned is a session whose peer says bytes and has left.
type canned struct {
	cert *x509.Certificate
	said stream
	done chan struct{} // closed
}

func (c *canned) Open(context.Context) (mesh.Stream, error)   { return nil, errors.New("it opens none") }
func (c *canned) Accept(context.Context) (mesh.Stream, error) { return c.said, nil }
func (c *canned) Close(string)                                {}
func (c *canned) Done() <-chan struct{}                       { return c.done }
func (c *canned) Err() error                                  { return nil }
func (c *canned) Peer() *x509.Certificate                     { return c.cert }
func (c *canned) Chain() []*x509.Certificate                  { return []*x509.Certificate{c.cert} }
func (c *canned) Protocol() string                            { return mesh.EnrollALPN }
func (c *canned) Export(string, int) ([]byte, error) {
	return make([]byte, trustenroll.ExporterSize), nil
}
func (c *canned) Remote() string { return "127.0.0.1:1" }

// Whatever comes, nobody becomes an agent by it, and Serve returns.
func FuzzServe(f *testing.F) {
	d := newDoor(f, 50*time.Millisecond)
	d.token("t1")
	n := d.newcomer()
	for _, m := range []*pb.ToEnroller{
		{Body: &pb.ToEnroller_Begin{Begin: &pb.EnrolBegin{Versions: []uint32{1}, Token: "t1", Name: "agent-r17", Rack: "r17", Mark: n.mark}}},
		{Body: &pb.ToEnroller_Finish{Finish: &pb.EnrolFinish{Ticket: bytes.Repeat([]byte{1}, 64), Proof: bytes.Repeat([]byte{1}, 64)}}},
		{Body: &pb.ToEnroller_Ask{Ask: &pb.EnrolAsk{Versions: []uint32{1}, Name: "agent-r17", Rack: "r17", Mark: n.mark}}},
		{Body: &pb.ToEnroller_Renew{Renew: &pb.EnrolRenew{Versions: []uint32{1}, State: &pb.JoinState{Counter: 1, Mark: n.mark, Next: n.mark}}}},
	} {
		var frame bytes.Buffer
		if err := mesh.NewChannel(stream{nil, &frame}, 0).Send(m); err != nil {
			f.Fatal(err)
		}
		f.Add(frame.Bytes())
	}
	left := make(chan struct{})
	close(left)
	f.Fuzz(func(t *testing.T, said []byte) {
		d.server.Serve(t.Context(), &canned{cert: n.cert.Leaf, said: stream{bytes.NewReader(said), io.Discard}, done: left})
		if all := d.log.machine.Enrolments(); len(all) != 0 {
			t.Fatalf("it became an agent: %v", all)
		}
	})
}
