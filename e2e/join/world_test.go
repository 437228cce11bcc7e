package join_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	agentenroll "github.com/chiba-mesh/chiba/agent/enroll"
	"github.com/chiba-mesh/chiba/coordinator/enroll"
	"github.com/chiba-mesh/chiba/coordinator/feed"
	"github.com/chiba-mesh/chiba/coordinator/hub"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	trustenroll "github.com/chiba-mesh/chiba/trust/enroll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// site is a CA and the coordinators that use it.
type site struct {
	t   *testing.T
	ca  *ca.Site
	dir string
	now func() time.Time // of coordinators and their certificates; nil: time.Now
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	var err error
	if s.ca, err = ca.Open(filepath.Join(s.dir, "ca"), "osl1"); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) credentials(id trust.Identity) trust.Credentials {
	s.t.Helper()
	dir := filepath.Join(s.dir, id.Name)
	if err := s.ca.At(s.clock).Ensure(dir, id, "127.0.0.1"); err != nil {
		s.t.Fatal(err)
	}
	c, err := trust.Load(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *site) pins() []string {
	return s.credentials(trust.Identity{Role: trust.Operator, Name: "ada"}).Pins()
}

func (s *site) clock() time.Time {
	if s.now == nil {
		return time.Now()
	}
	return s.now()
}

// coordinator opens a port with both doors before a log, and returns its address.
func (s *site) coordinator(name string, log enroll.Log, machine *state.Machine, denied *trust.Denials, now func() time.Time) string {
	s.t.Helper()
	addr, stop := s.open("127.0.0.1:0", name, log, machine, denied, now)
	s.t.Cleanup(stop)
	return addr
}

// open opens such a port at an address, until stop is called.
func (s *site) open(at, name string, log enroll.Log, machine *state.Machine, denied *trust.Denials, now func() time.Time) (addr string, stop func()) {
	s.t.Helper()
	key, err := s.ca.Secret(trustenroll.TicketLabel)
	if err != nil {
		s.t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	newcomers, err := enroll.New(enroll.Config{
		Name: name, Site: s.ca.Domain(), Machine: machine, Denied: denied, TicketKey: key, Log: quiet, Now: now,
		Issuer: enroll.Issuer{Log: log, Authority: s.ca},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	endpoint := trust.NewEndpoint(s.credentials(trust.Identity{Role: trust.Coordinator, Name: name}), trust.Options{Denied: denied, Now: s.clock})
	h := hub.New(hub.Config{
		Name: name, Machine: machine, Commands: log, Watchers: feed.New(), Log: quiet, Endpoint: endpoint, Denied: denied,
		Authority: s.ca, Newcomers: newcomers,
	})
	if l, ok := log.(*single); ok {
		l.hub.Store(h)
	}
	listener, err := mesh.ListenWithEnrolment(at, endpoint.Server(trust.Agent), endpoint.Newcomers(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := h.Run(ctx, listener); err != nil {
			s.t.Error(err)
		}
	})
	return listener.Addr(), func() {
		cancel()
		running.Wait()
		_ = listener.Close()
	}
}

// single is a log of one machine with a clock that is told.
type single struct {
	machine *state.Machine
	denied  trust.Denials

	mu    sync.Mutex
	index uint64
	now   time.Time
	hub   atomic.Pointer[hub.Hub] // of the coordinator that was opened last
	lose  int                     // so many answers get lost after their command was applied
}

func newSingle() *single { return &single{machine: state.New(), now: time.Now()} }

func (l *single) Propose(ctx context.Context, c *pb.Command) (state.Outcome, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index++
	c.Version, c.AtUnixMs = state.Version, l.now.UnixMilli()
	o, err := l.machine.Apply(l.index, c)
	l.denied.Set(wire.FromDenials(l.machine.Denied()))
	if h := l.hub.Load(); h != nil && err == nil {
		h.Applied(o)
	}
	if l.lose > 0 {
		l.lose--
		return state.Outcome{}, context.DeadlineExceeded
	}
	return o, err
}

// written is how many commands there were.
func (l *single) written() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index
}

func (l *single) clock() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *single) later(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = l.now.Add(d)
}

// bundle makes a token for rack r17 in a log, and its bundle.
func (s *site) bundle(log enroll.Log, id string, coordinators ...string) trustenroll.Bundle {
	s.t.Helper()
	return s.bundleFor("r17", log, id, coordinators...)
}

func (s *site) bundleFor(rack string, log enroll.Log, id string, coordinators ...string) trustenroll.Bundle {
	s.t.Helper()
	b := trustenroll.Bundle{
		Site: "osl1", Rack: rack, Name: "agent-" + rack, Coordinators: coordinators, Pins: s.pins(), Token: id,
		Secret: []byte(fmt.Sprintf("%032s", id)), NotAfter: time.Now().Add(time.Hour), MinVersion: 1,
	}
	public, err := trustenroll.Public(b.Secret)
	if err != nil {
		s.t.Fatal(err)
	}
	o, err := log.Propose(s.t.Context(), &pb.Command{By: "ada", Body: &pb.Command_PutToken{PutToken: &pb.PutToken{Token: &pb.JoinToken{
		Id: id, Key: public, Rack: b.Rack, Name: b.Name, By: "ada", UntilUnixMs: time.Now().AddDate(1, 0, 0).UnixMilli(),
	}}}})
	if err != nil || o.Err != nil {
		s.t.Fatal(err, o.Err)
	}
	return b
}

// newcomer is a directory that wants to become an agent.
func (s *site) newcomer(b trustenroll.Bundle) (agentenroll.Newcomer, string) {
	s.t.Helper()
	dir := s.t.TempDir()
	n, err := agentenroll.Prepare(dir, b.Name, b.Rack, b.Token)
	if err != nil {
		s.t.Fatal(err)
	}
	return n, dir
}

// joined enrols a directory.
func (s *site) joined(b trustenroll.Bundle) (dir string) {
	s.t.Helper()
	n, dir := s.newcomer(b)
	j, err := n.ByToken(s.t.Context(), b, time.Now)
	if err != nil {
		s.t.Fatal(err)
	}
	if err = n.Keep(dir, b.Token, j); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// door is the enrolment port with a certificate of the test's, and raw messages.
type door struct {
	t    *testing.T
	conn mesh.Session
	ch   *mesh.Channel
}

func (s *site) knock(addr string, shown tls.Certificate) *door {
	s.t.Helper()
	conf := &tls.Config{
		Certificates: []tls.Certificate{shown}, InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := trust.VerifyPinned(state.PeerCertificates, s.pins(), time.Now())
			return err
		},
	}
	conn, err := mesh.DialEnroll(s.t.Context(), addr, conf)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close("test over") })
	stream, err := conn.Open(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return &door{t: s.t, conn: conn, ch: mesh.NewChannel(stream, 0)}
}

// say sends one message and returns the answer, nil when the session has ended.
func (d *door) say(m *pb.ToEnroller) *pb.FromEnroller {
	d.t.Helper()
	if d.ch.Send(m) != nil || d.ch.SetReceiveDeadline(time.Now().Add(patience)) != nil {
		return nil
	}
	answer := &pb.FromEnroller{}
	if d.ch.Receive(answer) != nil {
		return nil
	}
	return answer
}

func audited(m *state.Machine) string {
	var b strings.Builder
	for _, leaf := range m.Audit(0, 1000) {
		b.Write(leaf)
		b.WriteByte('\n')
	}
	return b.String()
}

func parseAll(t *testing.T, der [][]byte) []*x509.Certificate {
	t.Helper()
	if len(der) == 0 {
		t.Fatal("there is no certificate")
	}
	all := make([]*x509.Certificate, len(der))
	for i, raw := range der {
		var err error
		if all[i], err = x509.ParseCertificate(raw); err != nil {
			t.Fatal(err)
		}
	}
	return all
}
