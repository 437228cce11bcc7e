package state_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const dayMs = int64(24 * time.Hour / time.Millisecond)

// register is a machine with a clock in days.
type register struct {
	t     *testing.T
	m     *state.Machine
	index uint64
	day   int64
}

func newRegister(t *testing.T) *register {
	t.Helper()
	return &register{t: t, m: state.New(), day: 1}
}

func (r *register) apply(c *pb.Command) state.Outcome {
	r.t.Helper()
	r.index++
	c.Version, c.AtUnixMs = state.Version, r.day*dayMs
	o, err := r.m.Apply(r.index, c)
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

func key(name string) []byte { return bytes.Repeat([]byte(name)[:1], 32) }

func (r *register) token(id, rack, name string, replace bool) state.Outcome {
	r.t.Helper()
	return r.apply(&pb.Command{By: "ada", Body: &pb.Command_PutToken{PutToken: &pb.PutToken{Token: &pb.JoinToken{
		Id: id, Key: key("k"), Rack: rack, Name: name, Replace: replace, By: "ada", UntilUnixMs: (r.day + 1) * dayMs,
	}}}})
}

func (r *register) enrol(token, rack, name, by string) state.Outcome {
	r.t.Helper()
	return r.apply(&pb.Command{Body: &pb.Command_EnrolAgent{EnrolAgent: &pb.EnrolAgent{
		Token: token, Rack: rack, Name: name, Spki: key(by), Serial: []byte{byte(r.index + 1)}, LifeMs: dayMs, Mark: []byte("first " + by), KeyKind: "software",
	}}})
}

func (r *register) renew(name, by string, byKey bool, s *pb.JoinState) state.Outcome {
	r.t.Helper()
	return r.apply(&pb.Command{Body: &pb.Command_RenewAgent{RenewAgent: &pb.RenewAgent{
		Name: name, Rack: "r17", Spki: key(by), Serial: []byte{byte(r.index + 1)}, LifeMs: dayMs, State: s, ByKey: byKey,
	}}})
}

func (r *register) want(what string, o state.Outcome, kind fault.Kind) {
	r.t.Helper()
	if kind == "" && o.Err != nil || kind != "" && !fault.Is(o.Err, kind) {
		r.t.Errorf("%s: %v, want %q", what, o.Err, kind)
	}
}

func (r *register) audit() string {
	var b strings.Builder
	for _, leaf := range r.m.Audit(0, 100) {
		b.Write(leaf)
		b.WriteByte('\n')
	}
	return b.String()
}

// A token lets one key in, once, to what it is for.
func TestToken(t *testing.T) {
	r := newRegister(t)
	r.want("a token", r.token("t1", "r17", "a17", false), "")
	r.want("the same again", r.token("t1", "r17", "a17", false), fault.Conflict)
	r.want("for another rack", r.enrol("t1", "r18", "a17", "x"), fault.Denied)
	r.want("for another name", r.enrol("t1", "r17", "a18", "x"), fault.Denied)
	r.want("no such token", r.enrol("t9", "r17", "a17", "x"), fault.Denied)
	first := r.enrol("t1", "r17", "a17", "x")
	r.want("for what it is for", first, "")
	again := r.enrol("t1", "r17", "a17", "x")
	if diff := cmp.Diff(first.Enrolment, again.Enrolment, protocmp.Transform()); diff != "" || again.Err != nil {
		t.Errorf("asked again by the same key: %v\n%s", again.Err, diff)
	}
	r.want("used by another key", r.enrol("t1", "r17", "a17", "y"), fault.Conflict)
	r.want("a token for a rack that is held", r.token("t2", "r17", "a17", false), "")
	r.want("that rack", r.enrol("t2", "r17", "a17", "y"), fault.Conflict)
	r.want("revoked", r.apply(&pb.Command{By: "ada", Body: &pb.Command_RevokeToken{RevokeToken: &pb.RevokeToken{Id: "t2"}}}), "")
	r.want("revoked twice", r.apply(&pb.Command{By: "ada", Body: &pb.Command_RevokeToken{RevokeToken: &pb.RevokeToken{Id: "t2"}}}), fault.NotFound)
	r.want("by a revoked one", r.enrol("t2", "r17", "a17", "y"), fault.Denied)
	r.token("t3", "r18", "a18", false)
	r.day += 2
	r.want("by one that has ended", r.enrol("t3", "r18", "a18", "z"), fault.Denied)
	r.token("t4", "r19", "a19", false)
	if got := len(r.m.Tokens()); got != 1 {
		t.Errorf("%d tokens are kept, those that ended too", got)
	}
	for _, said := range []string{`"join token"`, `"enrol"`, "token t1 of ada", `"revoke join token"`} {
		if strings.Count(r.audit(), said) == 0 {
			t.Errorf("the audit log does not have %s:\n%s", said, r.audit())
		}
	}
	if n := strings.Count(r.audit(), `"enrol"`); n != 1 {
		t.Errorf("one enrolment is noted %d times", n)
	}
}

// A machine that is gone is replaced, by a person's word; its key is denied then.
func TestReplace(t *testing.T) {
	r := newRegister(t)
	r.token("t1", "r17", "a17", false)
	r.enrol("t1", "r17", "a17", "x")
	r.token("t2", "r17", "a17", true)
	o := r.enrol("t2", "r17", "a17", "y")
	r.want("replaced", o, "")
	if denied := r.m.Denied(); !o.Denied || len(denied) != 1 || denied[0].GetSubject() != "spki/"+hex.EncodeToString(key("x")) {
		t.Errorf("denied: %v", denied)
	}
	r.token("t3", "r18", "a17", true)
	r.want("one name for two racks", r.enrol("t3", "r17", "a17", "z"), fault.Denied)
	r.apply(putAgent("b20", "r20"))
	r.token("t4", "r20", "a20", true)
	r.want("a rack whose agent has another name", r.enrol("t4", "r20", "a20", "z"), fault.Conflict)
	r.token("t5", "r20", "b20", false)
	r.want("one whose certificate was issued by hand", r.enrol("t5", "r20", "b20", "z"), fault.Conflict)
	r.token("t6", "r20", "b20", true)
	r.want("the same, replaced", r.enrol("t6", "r20", "b20", "z"), "")
}

func joinState(counter uint64, mark, next string) *pb.JoinState {
	return &pb.JoinState{Counter: counter, Mark: []byte(mark), Next: []byte(next)}
}

// Each renewal moves the join state on; the answer that was not heard is told again.
func TestJoinState(t *testing.T) {
	r := newRegister(t)
	r.token("t1", "r17", "a17", false)
	r.enrol("t1", "r17", "a17", "x")
	one := r.renew("a17", "x", false, joinState(1, "first x", "two"))
	if one.Enrolment.GetCounter() != 2 {
		t.Fatalf("%v, %v", one.Enrolment, one.Err)
	}
	again := r.renew("a17", "x", false, joinState(1, "first x", "two"))
	if diff := cmp.Diff(one.Enrolment, again.Enrolment, protocmp.Transform()); diff != "" {
		t.Errorf("asked again: %v\n%s", again.Err, diff)
	}
	r.day += 10
	late := r.renew("a17", "x", true, joinState(1, "first x", "two"))
	if late.Enrolment.GetCounter() != 2 || late.Enrolment.GetUntilUnixMs() != 12*dayMs {
		t.Errorf("asked again after its end: %v, %v", late.Enrolment, late.Err)
	}
	ahead := r.renew("a17", "x", false, joinState(7, "seven", "eight"))
	if ahead.Enrolment.GetCounter() != 8 || ahead.Enrolment.GetLocked() != "" {
		t.Errorf("of coordinators that were restored from a copy: %v, %v", ahead.Enrolment, ahead.Err)
	}
	r.want("another key", r.renew("a17", "y", false, joinState(8, "eight", "nine")), fault.Denied)
	r.want("no next mark", r.renew("a17", "x", false, joinState(8, "eight", "")), fault.BadInput)
	r.want("one that was never enrolled, whose certificate has ended", r.renew("a18", "z", true, joinState(0, "", "one")), fault.Denied)
	r.want("one whose certificate was issued by hand", r.renew("a18", "z", false, joinState(0, "", "one")), "")
}

func TestThreat19ConflictLocksInTheLog(t *testing.T) {
	for name, copied := range map[string]*pb.JoinState{
		"an older state":                        joinState(1, "first x", "other"),
		"the same counter, guessed":             joinState(2, "guessed", "other"),
		"the state of the other, at its moment": joinState(1, "first x", "two!"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegister(t)
			r.token("t1", "r17", "a17", false)
			r.enrol("t1", "r17", "a17", "x")
			r.renew("a17", "x", false, joinState(1, "first x", "two"))
			o := r.renew("a17", "x", false, copied)
			if o.Err != nil || o.Enrolment.GetLocked() == "" || !o.Denied {
				t.Fatalf("%v, %v", o.Enrolment, o.Err)
			}
			r.want("ours", r.renew("a17", "x", false, joinState(2, "two", "three")), fault.Denied)
			if !strings.Contains(r.audit(), `"lock"`) {
				t.Errorf("the audit log does not have it:\n%s", r.audit())
			}
			r.token("t2", "r17", "a17", false)
			r.want("the way on, for the same key", r.enrol("t2", "r17", "a17", "x"), fault.Denied)
			r.want("the way on", r.enrol("t2", "r17", "a17", "y"), "")
			snapshot := r.m.Snapshot()
			other := state.New()
			if err := other.Restore(snapshot); err != nil {
				t.Fatal(err)
			}
			if e, ok := other.Enrolment("a17"); !ok || !bytes.Equal(e.GetSpki(), key("y")) || len(other.Tokens()) != 2 {
				t.Errorf("after a restore: %v", e)
			}
		})
	}
}

func TestThreat26EndedCertificateInTheLog(t *testing.T) {
	for days, kind := range map[int64]fault.Kind{10: "", 90: "", 92: fault.Denied, 100: fault.Denied} {
		r := newRegister(t)
		r.token("t1", "r17", "a17", false)
		r.enrol("t1", "r17", "a17", "x")
		r.day += days
		r.want("after days", r.renew("a17", "x", true, joinState(1, "first x", "two")), kind)
	}
}

// A request to join waits for a person, under one code, for a time.
func TestPendingJoin(t *testing.T) {
	r := newRegister(t)
	ask := func(by, code string) state.Outcome {
		return r.apply(&pb.Command{Body: &pb.Command_AskJoin{AskJoin: &pb.AskJoin{Pending: &pb.PendingJoin{
			Spki: key(by), Code: code, Name: "a-" + by, Rack: "r" + by, Remote: "10.0.0.9:1", UntilUnixMs: r.day*dayMs + 1000,
		}}}})
	}
	judge := func(who, code string, approve bool) state.Outcome {
		return r.apply(&pb.Command{By: who, Body: &pb.Command_JudgeJoin{JudgeJoin: &pb.JudgeJoin{Code: code, Approve: approve}}})
	}
	r.want("asked", ask("x", "WDJB-MJHT"), "")
	if o := ask("x", "BBBB-BBBB"); o.Pending.GetCode() != "WDJB-MJHT" {
		t.Errorf("asked again: %v", o.Pending)
	}
	if list := r.m.Pending(r.day * dayMs); len(list) != 1 || list[0].GetCode() != "" {
		t.Errorf("who waits is listed as %v", list)
	}
	r.want("before approval", r.enrol("", "rx", "a-x", "x"), fault.Denied)
	r.want("another code", judge("ada", "BBBB-BBBB", true), fault.NotFound)
	r.want("by nobody", judge("", "WDJB-MJHT", true), fault.Denied)
	r.want("approved", judge("ada", "WDJB-MJHT", true), "")
	r.want("judged twice", judge("bob", "WDJB-MJHT", false), fault.Conflict)
	r.want("another key", r.enrol("", "rx", "a-x", "y"), fault.Denied)
	r.want("another rack", r.enrol("", "r17", "a-x", "x"), fault.Denied)
	if o := r.enrol("", "rx", "a-x", "x"); o.Err != nil || o.Enrolment.GetBy() != "ada" {
		t.Errorf("approved: %v, %v", o.Enrolment, o.Err)
	}
	r.want("denied", ask("z", "ZZZZ-ZZZZ"), "")
	judge("ada", "ZZZZ-ZZZZ", false)
	r.want("denied", r.enrol("", "rz", "a-z", "z"), fault.Denied)
	for _, said := range []string{`"approve to join"`, `"deny to join"`, "operator ada", "approved by ada"} {
		if !strings.Contains(r.audit(), said) {
			t.Errorf("the audit log does not have %s:\n%s", said, r.audit())
		}
	}
	r.day++
	r.want("after its time", judge("ada", "WDJB-MJHT", true), fault.NotFound)
	for i := range state.MaxPending {
		r.want("as many as there may be", ask(string(rune('A'+i)), "C"+string(rune('A'+i))), "")
	}
	r.want("one more", ask("~", "CCCC-CCCC"), fault.Unavailable)
}
