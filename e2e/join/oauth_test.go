package join_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"testing"
	"time"

	agentenroll "github.com/chiba-mesh/chiba/agent/enroll"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	trustenroll "github.com/chiba-mesh/chiba/trust/enroll"
)

// asker is a machine that has asked to join and waits.
type asker struct {
	*site
	n    agentenroll.Newcomer
	addr string
}

func (s *site) asker(addr, name, rack string) *asker {
	s.t.Helper()
	n, _ := s.newcomer(trustenroll.Bundle{Name: name, Rack: rack})
	return &asker{s, n, addr}
}

// say sends one message on a channel of its own.
func (a *asker) say(m *pb.ToEnroller) *pb.FromEnroller {
	a.t.Helper()
	shown, err := agentenroll.SelfSigned(a.n.Key)
	if err != nil {
		a.t.Fatal(err)
	}
	d := a.knock(a.addr, shown)
	defer d.conn.Close("said")
	return d.say(m)
}

func (a *asker) ask() *pb.FromEnroller {
	a.t.Helper()
	return a.askAs(a.n.Name, a.n.Rack)
}

func (a *asker) askAs(name, rack string) *pb.FromEnroller {
	a.t.Helper()
	return a.say(&pb.ToEnroller{Body: &pb.ToEnroller_Ask{Ask: &pb.EnrolAsk{
		Versions: []uint32{trustenroll.Version}, Name: name, Rack: rack, Mark: a.n.Mark,
	}}})
}

func judge(t *testing.T, log *single, code string, approve bool) error {
	t.Helper()
	o, err := log.Propose(t.Context(), &pb.Command{By: "ada", Body: &pb.Command_JudgeJoin{JudgeJoin: &pb.JudgeJoin{Code: code, Approve: approve}}})
	if err != nil {
		t.Fatal(err)
	}
	return o.Err
}

// Who has a code has nothing until a person approves it: however it asks, it gets no
// certificate, and the code is no token.
func TestThreat31NothingBeforeApproval(t *testing.T) {
	s, log := newSite(t), newSingle()
	a := s.asker(s.coordinator("c1", log, log.machine, &log.denied, log.clock), "agent-r17", "r17")
	code := a.ask().GetWait().GetCode()
	if code == "" {
		t.Fatal("it is shown no code")
	}
	for name, m := range map[string]*pb.ToEnroller{
		"it asks again":               {Body: &pb.ToEnroller_Ask{Ask: &pb.EnrolAsk{Versions: []uint32{1}, Name: "agent-r17", Rack: "r17", Mark: a.n.Mark}}},
		"its code as a token":         {Body: &pb.ToEnroller_Begin{Begin: &pb.EnrolBegin{Versions: []uint32{1}, Token: code, Name: "agent-r17", Rack: "r17", Mark: a.n.Mark}}},
		"no token":                    {Body: &pb.ToEnroller_Begin{Begin: &pb.EnrolBegin{Versions: []uint32{1}, Name: "agent-r17", Rack: "r17", Mark: a.n.Mark}}},
		"it finishes what it has not": {Body: &pb.ToEnroller_Finish{Finish: &pb.EnrolFinish{Ticket: []byte(code), Proof: bytes.Repeat([]byte{1}, 64)}}},
		"it renews":                   {Body: &pb.ToEnroller_Renew{Renew: &pb.EnrolRenew{Versions: []uint32{1}, State: &pb.JoinState{Counter: 1, Mark: a.n.Mark, Next: a.n.Mark}}}},
	} {
		if got := a.say(m); got.GetEnrolled() != nil || got.GetWait() == nil && got.GetRefusal() == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	if _, enrolled := log.machine.Enrolment("agent-r17"); enrolled {
		t.Error("it is in the log as an agent")
	}
	if err := judge(t, log, code, false); err != nil {
		t.Fatal(err)
	}
	if got := a.ask(); fault.Kind(got.GetRefusal().GetKind()) != fault.Denied {
		t.Errorf("denied it is told %v", got)
	}
}

// What a person has approved is one key, as one agent of one rack: neither another name
// nor another rack, and nobody else.
func TestThreat31ApprovedForMore(t *testing.T) {
	s, log := newSite(t), newSingle()
	a := s.asker(s.coordinator("c1", log, log.machine, &log.denied, log.clock), "agent-r17", "r17")
	code := a.ask().GetWait().GetCode()
	wider := map[string][2]string{"another rack": {"agent-r17", "r18"}, "another name": {"agent-r18", "r17"}, "a coordinator's": {"c1", "r17"}, "no rack": {"agent-r17", ""}}
	try := func(when string) {
		t.Helper()
		for name, as := range wider {
			if got := a.askAs(as[0], as[1]); got.GetRefusal() == nil {
				t.Errorf("%s, %s: %v", when, name, got)
			}
		}
	}
	try("before")
	if err := judge(t, log, code, true); err != nil {
		t.Fatal(err)
	}
	try("approved")
	// A thief has seen code and mark on the wire of a screen, and has another key.
	thief := &asker{s, a.n, a.addr}
	thief.n.Key = s.asker(a.addr, "x", "y").n.Key
	if got := thief.ask(); got.GetEnrolled() != nil {
		t.Errorf("another key is told %v", got)
	}
	done := a.ask().GetEnrolled()
	if done == nil {
		t.Fatal("who was approved gets nothing")
	}
	chain := parseAll(t, done.GetChain())
	if id, err := trust.IdentityOf(chain[0]); err != nil || id.URI().String() != "spiffe://r17.osl1.chiba.internal/agent/agent-r17" || chain[0].IsCA || len(chain[0].DNSNames) > 0 {
		t.Errorf("it is certified as %v, %v", id, err)
	}
	// Asked again it gets the same certificate, not a second one; so does a replay.
	if again := parseAll(t, a.ask().GetEnrolled().GetChain()); again[0].SerialNumber.Cmp(chain[0].SerialNumber) != 0 {
		t.Error("asked again it gets another certificate")
	}
	if got := thief.ask(); got.GetEnrolled() != nil {
		t.Errorf("a replay with another key is told %v", got)
	}
	try("enrolled")
}

// A code is judged once, while it is good. Guessing wrong ones leads to no machine, and
// polling faster makes neither another code nor another entry in the log.
func TestThreat31CodesAndPolling(t *testing.T) {
	s, log := newSite(t), newSingle()
	a := s.asker(s.coordinator("c1", log, log.machine, &log.denied, log.clock), "agent-r17", "r17")
	first := a.ask().GetWait()
	before := log.written()
	for range 30 {
		got := a.ask().GetWait()
		if got.GetCode() != first.GetCode() || !got.GetSlowDown() || got.GetEveryMs() < first.GetEveryMs()+5000 {
			t.Fatalf("polled at once: %v, first %v", got, first)
		}
	}
	if n := log.written() - before; n > 0 {
		t.Errorf("polling has written %d commands", n)
	}
	seen := map[string]bool{first.GetCode(): true}
	for i := range 200 {
		random := bytes.Repeat([]byte{byte(i), byte(i * 7), byte(i / 3)}, trustenroll.CodeBytes)
		code, err := trustenroll.Code(random)
		if err != nil || seen[code] {
			continue
		}
		seen[code] = true
		if err := judge(t, log, code, true); !fault.Is(err, fault.NotFound) {
			t.Fatalf("a guess, %s: %v", code, err)
		}
	}
	if len(seen) < 50 {
		t.Fatalf("only %d codes were guessed", len(seen))
	}
	log.later(trustenroll.CodeLife + time.Second)
	if err := judge(t, log, first.GetCode(), true); !fault.Is(err, fault.NotFound) {
		t.Errorf("after its time: %v", err)
	}
	second := a.ask().GetWait().GetCode()
	if second == first.GetCode() {
		t.Error("a code that has ended is shown again")
	}
	if err := judge(t, log, second, false); err != nil {
		t.Fatal(err)
	}
	if err := judge(t, log, second, true); !fault.Is(err, fault.Conflict) {
		t.Errorf("judged again: %v", err)
	}
}

// What is signed says neither how it was signed nor by which key it is to be verified:
// no signature, one of another kind, one by the public key as a secret and one for
// another's statement are refused, and so is what was signed for another purpose.
func TestThreat31StatementsSignedOtherwise(t *testing.T) {
	s := newSite(t)
	ada := s.credentials(trust.Identity{Role: trust.Operator, Name: "ada"})
	eve := s.credentials(trust.Identity{Role: trust.Operator, Name: "eve"})
	log := newSingle()
	b := s.bundle(log, "t1", "127.0.0.1:1")
	good, err := b.Encode(ada)
	if err != nil {
		t.Fatal(err)
	}
	if _, by, no := trustenroll.DecodeBundle(good, time.Now()); no != nil || by.Name != "ada" {
		t.Fatalf("%v, %v", by, no)
	}
	type statement struct {
		Claim     []byte   `json:"claim"`
		Signature []byte   `json:"signature"`
		Chain     [][]byte `json:"chain"`
	}
	edit := func(change func(*statement)) []byte {
		var st statement
		if no := json.Unmarshal(good, &st); no != nil {
			t.Fatal(no)
		}
		change(&st)
		text, no := json.Marshal(st)
		if no != nil {
			t.Fatal(no)
		}
		return text
	}
	byEve, err := b.Encode(eve)
	if err != nil {
		t.Fatal(err)
	}
	var hers statement
	if err := json.Unmarshal(byEve, &hers); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"no signature":               edit(func(s *statement) { s.Signature = nil }),
		"a signature of nothing":     edit(func(s *statement) { s.Signature = []byte{0x30, 6, 2, 1, 0, 2, 1, 0} }),
		"a key's hash as a MAC":      edit(func(s *statement) { s.Signature = mac(ada.Certificate.Leaf.RawSubjectPublicKeyInfo, s.Claim) }),
		"a certificate as a secret":  edit(func(s *statement) { s.Signature = mac(s.Chain[0], s.Claim) }),
		"another's certificate":      edit(func(s *statement) { s.Chain = hers.Chain }),
		"another's signature":        edit(func(s *statement) { s.Signature = hers.Signature }),
		"no certificate":             edit(func(s *statement) { s.Chain = nil }),
		"the root as who signs":      edit(func(s *statement) { s.Chain = s.Chain[len(s.Chain)-1:] }),
		"what says alg none":         says("none", edit(func(s *statement) { s.Signature = nil })),
		"what says HS256":            says("HS256", edit(func(s *statement) { s.Signature = mac(ada.Certificate.Leaf.RawSubjectPublicKeyInfo, signed(s.Claim)) })),
		"a token of another format":  []byte("eyJhbGciOiJub25lIn0.eyJzaXRlIjoib3NsMSJ9."),
		"its claim, signed as a key": edit(func(s *statement) { s.Claim = append([]byte("chiba-seal-key-v1\x00"), s.Claim...) }),
	} {
		if _, by, err := trustenroll.DecodeBundle(text, time.Now()); err == nil {
			t.Errorf("%s: believed, by %s", name, by.Name)
		}
	}
}

// says puts an algorithm into a statement, for a reader that would believe it.
func says(alg string, statement []byte) []byte {
	return append([]byte(`{"alg":"`+alg+`",`), statement[1:]...)
}

// signed is what a bundle's signature is over.
func signed(claim []byte) []byte { return append([]byte("chiba-join-bundle-v1\x00"), claim...) }

func mac(key, text []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(text)
	return h.Sum(nil)
}
