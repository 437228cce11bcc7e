package enroll_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/enroll"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	trustenroll "github.com/chiba-mesh/chiba/trust/enroll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a CA, and coordinators that answer as a test wants.
type site struct {
	tb   testing.TB
	ca   *ca.Site
	dir  string
	pins []string
}

func newSite(tb testing.TB) *site {
	tb.Helper()
	s := &site{tb: tb, dir: tb.TempDir()}
	var err error
	if s.ca, err = ca.Open(filepath.Join(s.dir, "ca"), "osl1"); err != nil {
		tb.Fatal(err)
	}
	s.pins = s.credentials().Pins()
	return s
}

func (s *site) credentials() trust.Credentials {
	s.tb.Helper()
	at := filepath.Join(s.dir, "c1")
	if err := s.ca.Ensure(at, trust.Identity{Role: trust.Coordinator, Name: "c1"}, "127.0.0.1"); err != nil {
		s.tb.Fatal(err)
	}
	creds, err := trust.Load(at)
	if err != nil {
		s.tb.Fatal(err)
	}
	return creds
}

// talk is what a coordinator does with a stream.
type talk func(conn mesh.Session, stream mesh.Stream, ch *mesh.Channel)

// coordinator is one that does nothing but talk, and its address.
func (s *site) coordinator(does talk) string {
	s.tb.Helper()
	endpoint := trust.NewEndpoint(s.credentials(), trust.Options{})
	listener, err := mesh.ListenWithEnrolment("127.0.0.1:0", endpoint.Server(trust.Agent), endpoint.Newcomers(), nil)
	if err != nil {
		s.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, acceptErr := listener.Accept(ctx)
			if acceptErr != nil {
				return
			}
			serving.Go(func() {
				if stream, streamErr := conn.Accept(ctx); streamErr == nil {
					does(conn, stream, mesh.NewChannel(stream, 0))
				}
				select {
				case <-conn.Done():
				case <-ctx.Done():
				}
				conn.Close("over")
			})
		}
	})
	s.tb.Cleanup(func() {
		cancel()
		_ = listener.Close()
		serving.Wait()
	})
	return listener.Addr()
}

// answers sends these, one for each message.
func answers(all ...*pb.FromEnroller) talk {
	return func(_ mesh.Session, _ mesh.Stream, ch *mesh.Channel) {
		for _, m := range all {
			if ch.Receive(&pb.ToEnroller{}) != nil || ch.Send(m) != nil {
				return
			}
		}
	}
}

// writes sends bytes as they are.
func writes(frame ...byte) talk {
	return func(_ mesh.Session, stream mesh.Stream, ch *mesh.Channel) {
		_ = ch.Receive(&pb.ToEnroller{})
		_, _ = stream.Write(frame)
	}
}

func silence(mesh.Session, mesh.Stream, *mesh.Channel) {}

func hangsUp(conn mesh.Session, _ mesh.Stream, _ *mesh.Channel) { conn.Close("bye") }

func (s *site) bundle(coordinators ...string) trustenroll.Bundle {
	return trustenroll.Bundle{
		Site: "osl1", Rack: "r17", Name: "agent-r17", Coordinators: coordinators, Pins: s.pins, Token: "t1",
		Secret: bytes.Repeat([]byte{7}, trustenroll.SecretSize), NotAfter: time.Now().Add(time.Hour), MinVersion: 1,
	}
}

func newcomer(tb testing.TB) enroll.Newcomer {
	tb.Helper()
	n, err := enroll.Prepare(tb.TempDir(), "agent-r17", "r17", "t1")
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func challenge(version uint32) *pb.FromEnroller {
	return &pb.FromEnroller{Body: &pb.FromEnroller_Challenge{Challenge: &pb.EnrolChallenge{
		Version: version, Nonce: make([]byte, trustenroll.NonceSize), Ticket: []byte("ticket"),
	}}}
}

// enrolled is what a coordinator gives an identity with a key.
func (s *site) enrolled(by *ca.Site, id trust.Identity, key *ecdsa.PrivateKey) *pb.FromEnroller {
	s.tb.Helper()
	chain, err := by.Issue(id, key.Public())
	if err != nil {
		s.tb.Fatal(err)
	}
	return &pb.FromEnroller{Body: &pb.FromEnroller_Enrolled{Enrolled: &pb.Enrolled{Chain: raw(chain), Bundle: raw(by.Bundle()), JoinCounter: 1}}}
}

func raw(chain []*x509.Certificate) [][]byte {
	var der [][]byte
	for _, c := range chain {
		der = append(der, c.Raw)
	}
	return der
}

// Whatever a coordinator answers, a machine takes nothing that is not its own, for its
// key and the names that it was told, below the root that it was told.
func TestAnswersThatAreNotTaken(t *testing.T) {
	s, other := newSite(t), newSite(t)
	mine := trust.Identity{Role: trust.Agent, Domain: trust.Domain{Site: "osl1", Rack: "r17"}, Name: "agent-r17"}
	as := func(change func(*trust.Identity)) trust.Identity {
		id := mine
		change(&id)
		return id
	}
	stranger := newcomer(t)
	n := newcomer(t)
	for name, c := range map[string]struct {
		does talk
		kind fault.Kind
	}{
		"a refusal":        {answers(&pb.FromEnroller{Body: &pb.FromEnroller_Refusal{Refusal: &pb.Refusal{Kind: string(fault.Conflict), Error: "used", Hint: "h"}}}), fault.Conflict},
		"no challenge":     {answers(&pb.FromEnroller{Body: &pb.FromEnroller_Wait{Wait: &pb.EnrolWait{}}}), fault.Garbage},
		"nothing said":     {answers(&pb.FromEnroller{}), fault.Garbage},
		"an older version": {answers(challenge(0)), fault.Untrusted},
		"a later version":  {answers(challenge(2)), fault.Untrusted},
		"two challenges":   {answers(challenge(1), challenge(1)), fault.Garbage},
		"no certificate":   {answers(challenge(1), &pb.FromEnroller{Body: &pb.FromEnroller_Enrolled{Enrolled: &pb.Enrolled{}}}), fault.Garbage},
		"no DER":           {answers(challenge(1), &pb.FromEnroller{Body: &pb.FromEnroller_Enrolled{Enrolled: &pb.Enrolled{Chain: [][]byte{{1, 2, 3}}}}}), fault.Garbage},
		"a thousand":       {answers(challenge(1), &pb.FromEnroller{Body: &pb.FromEnroller_Enrolled{Enrolled: &pb.Enrolled{Chain: make([][]byte, 1000)}}}), fault.Garbage},
		"another key":      {answers(challenge(1), s.enrolled(s.ca, mine, stranger.Key)), fault.Untrusted},
		"another rack":     {answers(challenge(1), s.enrolled(s.ca, as(func(id *trust.Identity) { id.Rack = "r18" }), n.Key)), fault.Untrusted},
		"another name":     {answers(challenge(1), s.enrolled(s.ca, as(func(id *trust.Identity) { id.Name = "x" }), n.Key)), fault.Untrusted},
		"an operator":      {answers(challenge(1), s.enrolled(s.ca, trust.Identity{Role: trust.Operator, Domain: trust.Domain{Site: "osl1"}, Name: "agent-r17"}, n.Key)), fault.Untrusted},
		"another mesh":     {answers(challenge(1), s.enrolled(other.ca, mine, n.Key)), fault.Untrusted},
		"4 GiB":            {writes(0xff, 0xff, 0xff, 0xff), fault.TooLarge},
		"no protobuf":      {writes(0, 0, 0, 3, 0xff, 0xff, 0xff), fault.Garbage},
	} {
		t.Run(name, func(t *testing.T) {
			j, err := n.ByToken(t.Context(), s.bundle(s.coordinator(c.does)), time.Now)
			if err == nil || len(j.Credentials.Certificate.Certificate) > 0 {
				t.Fatalf("it is taken: %v", err)
			}
			if !fault.Is(err, c.kind) {
				t.Errorf("it is told %v, of kind %s; want %s", err, fault.KindOf(err), c.kind)
			}
		})
	}
}

// A coordinator that is silent or hangs up is no answer: the next one is asked. A
// refusal is one.
func TestTheNextCoordinatorIsAsked(t *testing.T) {
	s := newSite(t)
	n := newcomer(t)
	done := s.enrolled(s.ca, trust.Identity{Role: trust.Agent, Domain: trust.Domain{Site: "osl1", Rack: "r17"}, Name: "agent-r17"}, n.Key)
	renewed := answers(done)
	state := &pb.JoinState{Counter: 1, Mark: n.Mark, Next: n.Mark}
	for name, first := range map[string]string{"silent": s.coordinator(silence), "hangs up": s.coordinator(hangsUp)} {
		door := enroll.Door{Coordinators: []string{first, s.coordinator(renewed)}, Pins: s.pins, Site: "osl1", Now: time.Now, Patience: 200 * time.Millisecond}
		if chain, _, counter, err := door.Renew(t.Context(), n.Key, state); err != nil || len(chain) == 0 || counter != 1 {
			t.Errorf("after one that is %s: %v", name, err)
		}
	}
	no := s.coordinator(answers(&pb.FromEnroller{Body: &pb.FromEnroller_Refusal{Refusal: &pb.Refusal{Kind: string(fault.Denied), Error: "no"}}}))
	door := enroll.Door{Coordinators: []string{no, s.coordinator(renewed)}, Pins: s.pins, Now: time.Now}
	if _, _, _, err := door.Renew(t.Context(), n.Key, state); !fault.Is(err, fault.Denied) {
		t.Errorf("after a refusal: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stops := s.coordinator(func(mesh.Session, mesh.Stream, *mesh.Channel) { cancel() })
	door.Coordinators = []string{stops}
	if _, _, _, err := door.Renew(ctx, n.Key, state); err == nil || ctx.Err() == nil {
		t.Errorf("stopped amid: %v", err)
	}
}

// While a person makes up his mind a coordinator may go and come back; a code that has
// changed, or ended, ends the wait.
func TestWaitingForAPerson(t *testing.T) {
	s := newSite(t)
	wait := func(code string, until time.Time) *pb.FromEnroller {
		return &pb.FromEnroller{Body: &pb.FromEnroller_Wait{Wait: &pb.EnrolWait{Code: code, UntilUnixMs: until.UnixMilli()}}}
	}
	n := newcomer(t)
	door := enroll.Door{Coordinators: []string{s.coordinator(answers(wait("BCDF-GHJK", time.Now().Add(-time.Second))))}, Pins: s.pins, Now: time.Now}
	shown := 0
	if _, err := n.ByApproval(t.Context(), door, func(string, time.Time) { shown++ }); !fault.Is(err, fault.Timeout) || fault.HintOf(err) == "" || shown != 1 {
		t.Errorf("a code that has ended, shown %d times: %v", shown, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	door.Coordinators = []string{s.coordinator(answers(wait("BCDF-GHJK", time.Now().Add(time.Hour))))}
	if _, err := n.ByApproval(ctx, door, func(string, time.Time) { cancel() }); !fault.Is(err, fault.Canceled) {
		t.Errorf("stopped while it waits: %v", err)
	}
	door.Coordinators = []string{s.coordinator(answers(challenge(1)))}
	if _, err := n.ByApproval(t.Context(), door, func(string, time.Time) {}); !fault.Is(err, fault.Garbage) {
		t.Errorf("an answer that does not fit: %v", err)
	}
}

// Broken off, an attempt goes on with its key and its mark; another attempt, or files
// that are damaged, begin anew.
func TestAttemptsOnDisk(t *testing.T) {
	dir := t.TempDir()
	prepare := func(name, rack, token string) enroll.Newcomer {
		t.Helper()
		n, err := enroll.Prepare(dir, name, rack, token)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	same := func(a, b enroll.Newcomer) bool { return a.Key.Equal(b.Key) && bytes.Equal(a.Mark, b.Mark) }
	first := prepare("a", "r17", "t1")
	if !same(first, prepare("a", "r17", "t1")) {
		t.Error("after a crash it is another machine")
	}
	for _, other := range []enroll.Newcomer{prepare("b", "r17", "t1"), prepare("b", "r18", "t1"), prepare("b", "r18", "t2")} {
		if same(first, other) || bytes.Equal(first.Mark, other.Mark) {
			t.Errorf("another attempt has its key or its mark: %s in %s", other.Name, other.Rack)
		}
		first = other
	}
	for _, file := range []string{"key.pem", "mark.json"} {
		path := filepath.Join(dir, "joining", file)
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if same(first, prepare("b", "r18", "t2")) {
			t.Errorf("with a damaged %s it goes on as before", file)
		}
		first = prepare("b", "r18", "t2")
	}
}

// The state moves on by what was asked and answered, on disk before it is used.
func TestJoinState(t *testing.T) {
	path := filepath.Join(t.TempDir(), enroll.StateFile)
	s, err := enroll.ReadState(path)
	if err != nil || s.Counter != 0 {
		t.Fatal(err)
	}
	asked, err := s.Ask(path)
	if err != nil || len(asked.GetNext()) != trustenroll.MarkSize {
		t.Fatal(err)
	}
	read := func() enroll.State {
		t.Helper()
		onDisk, readErr := enroll.ReadState(path)
		if readErr != nil {
			t.Fatal(readErr)
		}
		return onDisk
	}
	after := read()
	if again, err := after.Ask(path); err != nil || !proto.Equal(again, asked) {
		t.Errorf("after a crash it asks for another: %v", err)
	}
	if err := after.Answered(path, 1); err != nil || read().Counter != 1 || !bytes.Equal(read().Mark, asked.GetNext()) {
		t.Errorf("answered it is %+v: %v", read(), err)
	}
	if err := after.Answered(path, 1); err != nil {
		t.Errorf("the same answer again: %v", err)
	}
	if err := after.Answered(path, 3); !fault.Is(err, fault.Conflict) {
		t.Errorf("what nobody asked for: %v", err)
	}
	if _, err := after.Ask(path); err != nil {
		t.Fatal(err)
	}
	if err := after.Answered(path, 0); !fault.Is(err, fault.Conflict) || read().Counter != 1 {
		t.Errorf("an older answer: %v", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := enroll.ReadState(path); !fault.Is(err, fault.Garbage) || !strings.Contains(fault.HintOf(err), "--replace") {
		t.Errorf("damaged: %v", err)
	}
	full := filepath.Join(t.TempDir(), "missing", enroll.StateFile)
	if _, err := (&enroll.State{}).Ask(full); !fault.Is(err, fault.Unavailable) {
		t.Errorf("no room on disk: %v", err)
	}
}

func FuzzReadState(f *testing.F) {
	f.Add([]byte(`{"counter":1,"mark":"AAAA"}`))
	f.Add([]byte(`{`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, "state")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := enroll.ReadState(path)
		if err != nil {
			return
		}
		if _, err := s.Ask(path); err != nil {
			t.Errorf("read, and not kept: %v", err)
		}
	})
}

// Whatever a coordinator sends as a certificate, a machine becomes nobody by it.
func FuzzEnrolled(f *testing.F) {
	s := newSite(f)
	n := newcomer(f)
	elsewhere, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	id := trust.Identity{Role: trust.Agent, Domain: trust.Domain{Site: "osl1", Rack: "r17"}, Name: "agent-r17"}
	seed, err := proto.Marshal(s.enrolled(s.ca, id, elsewhere).GetEnrolled())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{})
	own, err := enroll.SelfSigned(n.Key)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var m pb.Enrolled
		if proto.Unmarshal(text, &m) != nil {
			return
		}
		chain, bundle, err := enroll.Parse(&m)
		if err != nil {
			return
		}
		creds, err := trust.FirstCredentials(trust.Credentials{Certificate: own}, chain, bundle, s.pins, id)
		if err == nil {
			t.Errorf("it is %v", creds.Certificate.Leaf.Subject)
		}
	})
}
