package join_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/proto"

	agentenroll "github.com/chiba-mesh/chiba/agent/enroll"
	"github.com/chiba-mesh/chiba/coordinator/peers"
	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	trustenroll "github.com/chiba-mesh/chiba/trust/enroll"
)

// handler is a node as the other coordinators see it.
type handler struct{ *raftnode.Node }

func (handler) Artifact(context.Context, *mesh.Channel) {}

func (handler) Query(context.Context, string, *pb.Query, func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error) {
	return nil, errors.New("no agents here")
}

// member is one coordinator of a real group.
type member struct {
	node    *raftnode.Node
	machine *state.Machine
	addr    string // of its doors
}

// group is three coordinators with a log of three, each with its own port.
func (s *site) group() []member {
	s.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	var all []member
	var known []string
	for i := range 3 {
		name := fmt.Sprintf("c%d", i+1)
		creds := s.credentials(trust.Identity{Role: trust.Coordinator, Name: name})
		p, err := peers.Listen(peers.Config{Name: name, Addr: "127.0.0.1:0", Server: creds.Server(trust.Coordinator), Client: creds.Client(), Log: quiet})
		if err != nil {
			s.t.Fatal(err)
		}
		m := member{machine: state.New()}
		m.node, err = raftnode.Open(raftnode.Config{Dir: s.t.TempDir(), Name: name, Machine: m.machine, Wire: p, Expect: 3, Join: known, Log: quiet})
		if err != nil {
			s.t.Fatal(err)
		}
		known = append(known, p.Addr())
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = p.Run(ctx, handler{m.node}) })
		running.Go(func() { _ = m.node.Run(ctx) })
		s.t.Cleanup(func() {
			cancel()
			_ = m.node.Close()
			_ = p.Close()
			running.Wait()
		})
		m.addr = s.coordinator(name, m.node, m.machine, nil, nil)
		all = append(all, m)
	}
	for _, m := range all {
		select {
		case <-m.node.Ready():
		case <-time.After(patience):
			s.t.Fatal("a coordinator is not ready")
		}
	}
	return all
}

// A token that was copied is used at two coordinators at once, by several machines:
// one of them becomes the agent.
func TestThreat17TokenUsedTwiceAtOnce(t *testing.T) {
	s := newSite(t)
	group := s.group()
	for round := range 3 {
		b := s.bundleFor(fmt.Sprintf("r%d", round), group[0].node, fmt.Sprintf("t%d", round), "c:1")
		for _, m := range group { // a follower may be a moment behind
			await(t, "the token is known", func() bool { _, ok := m.machine.Token(b.Token); return ok })
		}
		var mu sync.Mutex
		var won []agentenroll.Joined
		var lost []error
		var racing sync.WaitGroup
		for i := range 4 {
			mine := b
			mine.Coordinators = []string{group[i%2].addr}
			n, _ := s.newcomer(mine)
			racing.Go(func() {
				j, err := n.ByToken(t.Context(), mine, time.Now)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, j)
				} else {
					lost = append(lost, err)
				}
			})
		}
		racing.Wait()
		if len(won) != 1 {
			t.Fatalf("%d machines have joined by one token; the others: %v", len(won), lost)
		}
		for _, err := range lost {
			if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "by another key") {
				t.Errorf("a loser is told: %v", err)
			}
		}
		e, ok := group[2].machine.Enrolment(b.Name)
		if !ok {
			await(t, "the third knows it", func() bool { e, ok = group[2].machine.Enrolment(b.Name); return ok })
		}
		if leaf := won[0].Credentials.Certificate.Leaf; !bytes.Equal(leaf.SerialNumber.Bytes(), e.GetSerial()) {
			t.Errorf("the certificate has number %x, the log %x", leaf.SerialNumber.Bytes(), e.GetSerial())
		}
	}
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for over := time.After(patience); !is(); {
		select {
		case <-tick.C:
		case <-over:
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

// The coordinator dies after the command is committed and before the machine hears of
// it. The machine asks again, the same one or another coordinator, and also after a
// restart of its own: it gets the certificate that was decided. Nobody else does.
func TestThreat18CrashBetweenCommitAndReply(t *testing.T) {
	s := newSite(t)
	log := newSingle()
	one := s.coordinator("c1", log, log.machine, &log.denied, nil)
	two := s.coordinator("c2", log, log.machine, &log.denied, nil)
	b := s.bundle(log, "t1", one)
	n, dir := s.newcomer(b)
	log.lose = 1
	if _, err := n.ByToken(t.Context(), b, time.Now); err == nil {
		t.Fatal("the answer was lost and is there")
	}
	decided, ok := log.machine.Enrolment("agent-r17")
	if !ok {
		t.Fatal("nothing was committed: the test shows nothing")
	}
	thief, _ := s.newcomer(b)
	for _, addr := range []string{two, one} {
		b.Coordinators = []string{addr}
		again, err := agentenroll.Prepare(dir, b.Name, b.Rack, b.Token) // as after a restart
		if err != nil || !again.Key.Equal(n.Key) {
			t.Fatalf("another key: %v", err)
		}
		j, err := again.ByToken(t.Context(), b, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		leaf := j.Credentials.Certificate.Leaf
		if !bytes.Equal(leaf.SerialNumber.Bytes(), decided.GetSerial()) || leaf.NotAfter.UnixMilli()/1000 != decided.GetUntilUnixMs()/1000 || j.Counter != 1 {
			t.Errorf("number %x until %s, decided was %v", leaf.SerialNumber.Bytes(), leaf.NotAfter, decided)
		}
		if _, err := thief.ByToken(t.Context(), b, time.Now); !fault.Is(err, fault.Conflict) {
			t.Errorf("another key: %v", err)
		}
	}
	if n := strings.Count(audited(log.machine), `"enrol"`); n != 1 {
		t.Errorf("it was enrolled %d times", n)
	}
}

// A ticket is good at every coordinator of the site; the proof only in the channel that
// it was made for, and by the key that has begun.
func TestTicketAtAnotherCoordinator(t *testing.T) {
	s := newSite(t)
	log := newSingle()
	one := s.coordinator("c1", log, log.machine, &log.denied, nil)
	two := s.coordinator("c2", log, log.machine, &log.denied, nil)
	b := s.bundle(log, "t1", one)
	n, _ := s.newcomer(b)
	shown, err := agentenroll.SelfSigned(n.Key)
	if err != nil {
		t.Fatal(err)
	}
	begin := &pb.EnrolBegin{Versions: []uint32{1}, Token: b.Token, Name: b.Name, Rack: b.Rack, Mark: n.Mark}
	begun, err := proto.MarshalOptions{Deterministic: true}.Marshal(begin)
	if err != nil {
		t.Fatal(err)
	}
	c := s.knock(one, shown).say(&pb.ToEnroller{Body: &pb.ToEnroller_Begin{Begin: begin}}).GetChallenge()
	if c == nil {
		t.Fatal("no challenge")
	}
	finish := func(in, proofOf *door, secret []byte) *pb.FromEnroller {
		t.Helper()
		exporter, exportErr := proofOf.conn.Export(trustenroll.ExporterLabel, trustenroll.ExporterSize)
		if exportErr != nil {
			t.Fatal(exportErr)
		}
		proof, proveErr := trustenroll.Transcript{
			Begin: begun, Version: 1, Nonce: c.GetNonce(), Ticket: c.GetTicket(), Exporter: exporter,
			SPKI: spkiOf(shown),
		}.Prove(secret)
		if proveErr != nil {
			t.Fatal(proveErr)
		}
		return in.say(&pb.ToEnroller{Body: &pb.ToEnroller_Finish{Finish: &pb.EnrolFinish{Ticket: c.GetTicket(), Proof: proof}}})
	}
	other, _ := s.newcomer(b)
	foreign, err := agentenroll.SelfSigned(other.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]*pb.FromEnroller{
		"a proof of another channel": finish(s.knock(two, shown), s.knock(two, shown), b.Secret),
		"another secret":             func() *pb.FromEnroller { d := s.knock(two, shown); return finish(d, d, bytes.Repeat([]byte{1}, 32)) }(),
		"another key":                func() *pb.FromEnroller { d := s.knock(two, foreign); return finish(d, d, b.Secret) }(),
	} {
		if fault.Kind(answer.GetRefusal().GetKind()) != fault.Denied {
			t.Errorf("%s: %v", name, answer)
		}
	}
	d := s.knock(two, shown)
	if got := finish(d, d, b.Secret); got.GetEnrolled().GetJoinCounter() != 1 {
		t.Errorf("in its own channel, at another coordinator: %v", got)
	}
}

func spkiOf(c tls.Certificate) []byte { return spkiHash(c.Leaf) }

// keyIn is the key in a state directory.
func keyIn(t *testing.T, dir string) *ecdsa.PrivateKey {
	t.Helper()
	creds, err := trust.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := creds.Certificate.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("it has no EC key")
	}
	return key
}

// renew has the certificate in a state directory renewed by its key, as an agent does
// that was cut off.
func (s *site) renew(dir, addr string) error {
	s.t.Helper()
	path := filepath.Join(dir, agentenroll.StateFile)
	have, err := agentenroll.ReadState(path)
	if err != nil {
		s.t.Fatal(err)
	}
	asked, err := have.Ask(path)
	if err != nil {
		s.t.Fatal(err)
	}
	_, _, counter, err := agentenroll.Door{Coordinators: []string{addr}, Pins: s.pins(), Site: "osl1", Now: time.Now}.Renew(s.t.Context(), keyIn(s.t, dir), asked)
	if err != nil {
		return err
	}
	return have.Answered(path, counter)
}

// Two copies of an agent's disk are found at the first renewal of the second one; then
// neither is let in, and a new token leads on.
func TestThreat19StateDirectoryCopied(t *testing.T) {
	s := newSite(t)
	log := newSingle()
	addr := s.coordinator("c1", log, log.machine, &log.denied, log.clock)
	ours := s.joined(s.bundle(log, "t1", addr))
	if err := s.renew(ours, addr); err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir()
	if err := os.CopyFS(filepath.Join(copied, "x"), os.DirFS(ours)); err != nil {
		t.Fatal(err)
	}
	copied = filepath.Join(copied, "x")
	if err := os.Chmod(filepath.Join(copied, "key.pem"), 0o600); err != nil { // which CopyFS does not keep
		t.Fatal(err)
	}
	if err := s.renew(copied, addr); err != nil {
		t.Fatalf("the first of the two: %v", err)
	}
	for what, dir := range map[string]string{"the other, by which it is found": ours} {
		if err := s.renew(dir, addr); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "two copies") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, dir := range map[string]string{"the copy": copied, "ours": ours} {
		if err := s.renew(dir, addr); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "two copies") || !strings.Contains(fault.HintOf(err), "chiba trust token create") {
			t.Errorf("%s, locked: %v (%s)", what, err, fault.HintOf(err))
		}
	}
	if !strings.Contains(audited(log.machine), `"lock"`) {
		t.Error("the audit log does not have it")
	}
	creds, err := trust.Load(ours)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mesh.Dial(t.Context(), addr, creds.Client()); err == nil {
		await(t, "its certificate is refused", func() bool {
			conn, dialErr := mesh.Dial(t.Context(), addr, creds.Client())
			if dialErr != nil {
				return true
			}
			defer conn.Close("test")
			select {
			case <-conn.Done():
				return true
			case <-time.After(time.Second):
				return false
			}
		})
	}
	if next := s.joined(s.bundle(log, "t2", addr)); next == "" {
		t.Error("a new token does not lead on")
	}
}

// An agent that was cut off comes back by itself, for ninety days.
func TestThreat26EndedCertificate(t *testing.T) {
	for days, want := range map[int]fault.Kind{10: "", 100: fault.Denied} {
		t.Run(fmt.Sprintf("%d days", days), func(t *testing.T) {
			s := newSite(t)
			log := newSingle()
			addr := s.coordinator("c1", log, log.machine, &log.denied, log.clock)
			dir := s.joined(s.bundle(log, "t1", addr))
			log.later(time.Duration(days) * 24 * time.Hour)
			err := s.renew(dir, addr)
			if fault.KindOf(err) != want && (err != nil || want != "") {
				t.Fatalf("after %d days: %v, want %q", days, err, want)
			}
			if want != "" {
				return
			}
			e, _ := log.machine.Enrolment("agent-r17")
			if left := time.UnixMilli(e.GetUntilUnixMs()).Sub(log.clock()); left.Round(time.Second) != 24*time.Hour || e.GetCounter() != 2 {
				t.Errorf("renewed for %s, counter %d", left, e.GetCounter())
			}
			// Another key does not get it, nor a denied agent.
			stranger, _ := s.newcomer(trustenroll.Bundle{Name: "agent-r17", Rack: "r17", Token: "x"})
			door := agentenroll.Door{Coordinators: []string{addr}, Pins: s.pins(), Now: time.Now}
			if _, _, _, err := door.Renew(t.Context(), stranger.Key, &pb.JoinState{Counter: 2, Next: []byte("n")}); !fault.Is(err, fault.Denied) {
				t.Errorf("another key: %v", err)
			}
			if _, err := log.Propose(t.Context(), &pb.Command{Body: &pb.Command_Deny{Deny: &pb.Deny{Denials: []*pb.Denial{{Subject: "rack/r17", Reason: "stolen"}}}}}); err != nil {
				t.Fatal(err)
			}
			if err := s.renew(dir, addr); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "stolen") {
				t.Errorf("denied: %v", err)
			}
		})
	}
}

// Neither an older protocol nor an older TLS opens this door, and nobody comes through
// it to the agents'.
func TestThreat34OlderEnrolment(t *testing.T) {
	s := newSite(t)
	log := newSingle()
	addr := s.coordinator("c1", log, log.machine, &log.denied, nil)
	b := s.bundle(log, "t1", addr)
	n, _ := s.newcomer(b)
	shown, err := agentenroll.SelfSigned(n.Key)
	if err != nil {
		t.Fatal(err)
	}
	conf := func(certs []tls.Certificate, protocols ...string) *tls.Config {
		return &tls.Config{Certificates: certs, NextProtos: protocols, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13} // whom it meets does not matter here
	}
	refused := func(name string, conf *tls.Config) {
		t.Helper()
		conn, no := quic.DialAddr(t.Context(), addr, conf, nil)
		if no != nil {
			return
		}
		defer func() { _ = conn.CloseWithError(0, "") }()
		select {
		case <-conn.Context().Done():
		case <-time.After(patience):
			t.Errorf("%s was let in with %q", name, conn.ConnectionState().TLS.NegotiatedProtocol)
		}
	}
	certs := []tls.Certificate{shown}
	refused("an older ALPN", conf(certs, "chiba-enroll/0"))
	refused("no ALPN", conf(certs))
	refused("no certificate", conf(nil, mesh.EnrollALPN))
	refused("a newcomer at the agents' door", conf(certs, mesh.ALPN))
	for name, m := range map[string]*pb.ToEnroller{
		"begin":            {Body: &pb.ToEnroller_Begin{Begin: &pb.EnrolBegin{Versions: []uint32{0}, Token: b.Token, Name: b.Name, Rack: b.Rack}}},
		"no version":       {Body: &pb.ToEnroller_Begin{Begin: &pb.EnrolBegin{Token: b.Token, Name: b.Name, Rack: b.Rack}}},
		"ask":              {Body: &pb.ToEnroller_Ask{Ask: &pb.EnrolAsk{Versions: []uint32{0, 2}, Name: b.Name, Rack: b.Rack}}},
		"renew":            {Body: &pb.ToEnroller_Renew{Renew: &pb.EnrolRenew{}}},
		"what nobody says": {},
	} {
		other, _ := s.newcomer(b) // nobody may have many sessions
		if shown, err = agentenroll.SelfSigned(other.Key); err != nil {
			t.Fatal(err)
		}
		if got := s.knock(addr, shown).say(m); fault.Kind(got.GetRefusal().GetKind()) != fault.Unsupported {
			t.Errorf("%s: %v", name, got)
		}
	}
	both := conf(certs, mesh.ALPN, mesh.EnrollALPN) // who offers both gets this door, and no other
	conn, err := quic.DialAddr(t.Context(), addr, both, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseWithError(0, "") }()
	if got := conn.ConnectionState().TLS.NegotiatedProtocol; got != mesh.EnrollALPN {
		t.Errorf("who offers both speaks %q", got)
	}
	olderTLS(t, s, certs)
}

func olderTLS(t *testing.T, s *site, certs []tls.Certificate) {
	t.Helper()
	endpoint := trust.NewEndpoint(s.credentials(trust.Identity{Role: trust.Coordinator, Name: "c1"}), trust.Options{})
	client, server := net.Pipe()
	defer func() { _, _ = client.Close(), server.Close() }()
	ended := make(chan error, 1)
	go func() { ended <- tls.Server(server, endpoint.Newcomers()).HandshakeContext(t.Context()) }()
	older := &tls.Config{Certificates: certs, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12} // as above
	if err := tls.Client(client, older).HandshakeContext(t.Context()); err == nil {
		t.Error("TLS 1.2 is spoken")
	}
	if <-ended == nil {
		t.Error("TLS 1.2 is taken")
	}
}

// The machine believes only a coordinator below a root that it was told.
func TestThreat05EnrolmentBetweenUs(t *testing.T) {
	s, other := newSite(t), newSite(t)
	log := newSingle()
	b := s.bundle(log, "t1", other.coordinator("c1", log, log.machine, &log.denied, nil))
	n, _ := s.newcomer(b)
	if _, err := n.ByToken(t.Context(), b, time.Now); !fault.Is(err, fault.Untrusted) {
		t.Errorf("another mesh: %v", err)
	}
	b.Coordinators, b.Site = []string{s.coordinator("c2", log, log.machine, &log.denied, nil)}, "sto1"
	if _, err := n.ByToken(t.Context(), b, time.Now); !fault.Is(err, fault.Untrusted) {
		t.Errorf("another site: %v", err)
	}
	if used, _ := log.machine.Token("t1"); len(used.GetUsedBy()) > 0 {
		t.Error("the token is used up")
	}
}
