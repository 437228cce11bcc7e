package join_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	agentenroll "github.com/chiba-mesh/chiba/agent/enroll"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	trustenroll "github.com/chiba-mesh/chiba/trust/enroll"
)

func spkiHash(c *x509.Certificate) []byte {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return sum[:]
}

// A machine without a bundle shows a code, and becomes an agent when a person has
// approved it; a denied one is told by whom.
func TestDeviceFlow(t *testing.T) {
	for name, approve := range map[string]bool{"approved": true, "denied": false} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			log := newSingle()
			addr := s.coordinator("c1", log, log.machine, &log.denied, nil)
			n, dir := s.newcomer(trustenroll.Bundle{Name: "agent-r17", Rack: "r17"})
			door := agentenroll.Door{Coordinators: []string{addr}, Pins: s.pins()[:1], Now: time.Now}
			j, err := n.ByApproval(t.Context(), door, func(code string, until time.Time) {
				if _, no := trustenroll.ParseCode(code); no != nil || time.Until(until) < 9*time.Minute {
					t.Errorf("code %q until %s", code, until)
				}
				_, no := log.Propose(context.Background(), &pb.Command{By: "ada", Body: &pb.Command_JudgeJoin{JudgeJoin: &pb.JudgeJoin{Code: code, Approve: approve}}})
				if no != nil {
					t.Error(no)
				}
			})
			if !approve {
				if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "ada has denied it") {
					t.Errorf("it is told: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err = n.Keep(dir, "", j); err != nil {
				t.Fatal(err)
			}
			id, err := j.Credentials.Identity()
			if err != nil || id.URI().String() != "spiffe://r17.osl1.chiba.internal/agent/agent-r17" {
				t.Errorf("%v, %v", id, err)
			}
			if err := s.renew(dir, addr); err != nil {
				t.Errorf("its first renewal: %v", err)
			}
		})
	}
}

// Who asks too often is told so, and asking again does not make another code.
func TestSlowDown(t *testing.T) {
	s := newSite(t)
	log := newSingle()
	addr := s.coordinator("c1", log, log.machine, &log.denied, log.clock)
	n, _ := s.newcomer(trustenroll.Bundle{Name: "agent-r17", Rack: "r17"})
	shown, err := agentenroll.SelfSigned(n.Key)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() *pb.EnrolWait {
		t.Helper()
		m := s.knock(addr, shown).say(&pb.ToEnroller{Body: &pb.ToEnroller_Ask{Ask: &pb.EnrolAsk{Versions: []uint32{1}, Name: "agent-r17", Rack: "r17", Mark: n.Mark}}})
		if m.GetWait() == nil {
			t.Fatalf("it is answered: %v", m)
		}
		return m.GetWait()
	}
	first := ask()
	if again := ask(); !again.GetSlowDown() || again.GetEveryMs() <= first.GetEveryMs() || again.GetCode() != first.GetCode() {
		t.Errorf("at once: %v, first %v", again, first)
	}
	log.later(trustenroll.PollEvery)
	if again := ask(); again.GetSlowDown() {
		t.Errorf("in time: %v", again)
	}
	log.later(trustenroll.CodeLife)
	if again := ask(); again.GetCode() == first.GetCode() {
		t.Error("the code outlives its time")
	}
}

// What strangers can have kept is bounded, and what they send harms nobody.
func TestStrangers(t *testing.T) {
	s := newSite(t)
	log := newSingle()
	addr := s.coordinator("c1", log, log.machine, &log.denied, nil)
	b := s.bundle(log, "t1", addr)
	before := log.written()
	for i := range 6 {
		n, _ := s.newcomer(trustenroll.Bundle{Name: "a", Rack: "r" + string(rune('a'+i))})
		shown, err := agentenroll.SelfSigned(n.Key)
		if err != nil {
			t.Fatal(err)
		}
		d := s.knock(addr, shown)
		d.say(&pb.ToEnroller{Body: &pb.ToEnroller_Ask{Ask: &pb.EnrolAsk{Versions: []uint32{1}, Name: "a" + string(rune('a'+i)), Rack: n.Rack, Mark: n.Mark}}})
		d.conn.Close("bye")
	}
	if waiting := len(log.machine.Pending(time.Now().UnixMilli())); waiting != 4 || log.written() != before+4 {
		t.Errorf("%d wait, %d commands were written", waiting, log.written()-before)
	}
	n, _ := s.newcomer(b)
	shown, err := agentenroll.SelfSigned(n.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, frame := range map[string][]byte{
		"a frame of 4 GiB": {0xff, 0xff, 0xff, 0xff},
		"no protobuf":      {0, 0, 0, 3, 0xff, 0xff, 0xff},
		"half a frame":     {0, 0},
	} {
		d := s.knock(addr, shown)
		stream, no := d.conn.Open(t.Context())
		if no != nil {
			t.Fatal(no)
		}
		if _, no = stream.Write(frame); no != nil {
			t.Errorf("%s: %v", name, no)
		}
		d.conn.Close("bye")
	}
	for _, m := range []*pb.ToEnroller{
		{Body: &pb.ToEnroller_Begin{Begin: &pb.EnrolBegin{Versions: []uint32{1}, Token: "t9", Name: b.Name, Rack: b.Rack}}},
		{Body: &pb.ToEnroller_Begin{Begin: &pb.EnrolBegin{Versions: []uint32{1}, Token: "t1", Name: "a\nb", Rack: b.Rack}}},
		{Body: &pb.ToEnroller_Finish{Finish: &pb.EnrolFinish{Ticket: bytes.Repeat([]byte{1}, 100)}}},
		{Body: &pb.ToEnroller_Finish{}},
	} {
		d := s.knock(addr, shown)
		if got := d.say(m); got.GetRefusal() == nil {
			t.Errorf("%v is answered by %v", m, got)
		}
		d.conn.Close("bye")
	}
	if _, err := n.ByToken(t.Context(), b, time.Now); err != nil {
		t.Errorf("the one who may: %v", err)
	}
}

// A rack's holder is not pushed out by who asks nicely.
func TestHeldRackIsRefusedBeforeAnybodyIsAsked(t *testing.T) {
	s := newSite(t)
	log := newSingle()
	addr := s.coordinator("c1", log, log.machine, &log.denied, nil)
	s.joined(s.bundle(log, "t1", addr))
	n, _ := s.newcomer(trustenroll.Bundle{Name: "agent-r17", Rack: "r17"})
	door := agentenroll.Door{Coordinators: []string{addr}, Pins: s.pins(), Now: time.Now}
	_, err := n.ByApproval(t.Context(), door, func(string, time.Time) { t.Error("it waits") })
	if !fault.Is(err, fault.Conflict) || !strings.Contains(fault.HintOf(err), "--replace") {
		t.Errorf("%v (%s)", err, fault.HintOf(err))
	}
}
