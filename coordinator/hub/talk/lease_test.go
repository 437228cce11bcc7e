package talk_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/hub/talk"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const lease = 30 * time.Second

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func owner(agent string, grant, local uint64) *pb.Owner {
	return &pb.Owner{Rack: "r1", Agent: agent, Grant: grant, Local: local, SinceUnixMs: noon.UnixMilli()}
}

// What agent a of rack r1 asks, and whose the rack becomes by it.
func TestWhoseTheRackBecomes(t *testing.T) {
	a7, b7 := owner("a", 7, 0), owner("b", 7, 0)
	for _, c := range []struct {
		what string
		q    talk.Question
		want string
	}{
		{"the owner asks for its lease", talk.Question{Lease: &pb.Lease{Known: a7}, Owner: a7, Other: "b"}, "it stays"},
		{"it took over while it reached nobody", talk.Question{Lease: &pb.Lease{Known: owner("a", 7, 2)}, Owner: b7, Other: "b"}, "a's by its claim 7.2"},
		{"its claim is no news", talk.Question{Lease: &pb.Lease{Known: owner("a", 7, 2)}, Owner: owner("b", 8, 0), Other: "b"}, "it stays"},
		{"it tells the claim of another", talk.Question{Lease: &pb.Lease{Known: owner("b", 7, 1), Standby: true}, Owner: a7, Other: "b"}, "it stays"},
		{"the standby is content", talk.Question{Lease: &pb.Lease{Known: b7, Standby: true}, Owner: b7, Other: "b"}, "it stays"},
		{"the owner is silent", talk.Question{Lease: &pb.Lease{Known: b7, Standby: true, Lost: true}, Owner: b7, Other: "b"}, "a's if b is free: agent b is silent"},
		{"the owner is silent, and it has not heard who it is", talk.Question{Lease: &pb.Lease{Standby: true, Lost: true}, Owner: b7, Other: "b"}, "it stays"},
		{"the owner has never come", talk.Question{Lease: &pb.Lease{Known: b7, Standby: true, Lost: true}, Owner: b7}, "a's: agent  is silent"},
		{"the owner says here that it is shut out", talk.Question{Lease: &pb.Lease{Known: b7, Standby: true}, Owner: b7, Other: "b", Outside: true}, "a's if b is free: its BMCs have shut agent b out"},
		{"it owns the rack and waits", talk.Question{Lease: &pb.Lease{Known: a7, Standby: true}, Owner: a7, Other: "b"}, "it stays"},
		{"it is shut out, and the other one may live", talk.Question{Lease: &pb.Lease{Known: a7, Standby: true, Shut: true}, Owner: a7, Other: "b"}, "it stays"},
		{"it is shut out, and the other one is silent", talk.Question{Lease: &pb.Lease{Known: a7, Standby: true, Shut: true, Lost: true}, Owner: a7, Other: "b"}, "a's if b is free: its BMCs have shut it out, and agent b is silent"},
		{"it is shut out, and the other one answers", talk.Question{Lease: &pb.Lease{Known: a7, Standby: true, Shut: true, Met: true}, Owner: a7, Other: "b"}, "b's: its BMCs have shut agent a out"},
		{"it is shut out, and there is no other one", talk.Question{Lease: &pb.Lease{Known: a7, Standby: true, Shut: true, Met: true}, Owner: a7}, "it stays"},
	} {
		c.q.Agent, c.q.Rack = "a", "r1"
		next, ifFree := c.q.Change()
		got := "it stays"
		switch {
		case next.GetClaim() != nil:
			got = fmt.Sprintf("%s's by its claim %d.%d", next.GetAgent(), next.GetClaim().GetGrant(), next.GetClaim().GetLocal())
		case ifFree:
			got = fmt.Sprintf("%s's if %s is free: %s", next.GetAgent(), c.q.Other, next.GetWhy())
		case next != nil:
			got = fmt.Sprintf("%s's: %s", next.GetAgent(), next.GetWhy())
		}
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.what, got, c.want)
		}
		if next != nil && (next.GetRack() != "r1" || next.GetClaim() == nil && next.GetFrom() != c.q.Owner) {
			t.Errorf("%s: the command is %v", c.what, next)
		}
	}
}

func TestWhoGetsALease(t *testing.T) {
	a7, a72 := owner("a", 7, 0), owner("a", 7, 2)
	for _, c := range []struct {
		what  string
		q     *pb.Lease
		owner *pb.Owner
		other string
		after time.Duration // since the rack has its owner
		want  string
	}{
		{"the owner", &pb.Lease{Known: a7}, a7, "b", time.Hour, "yes"},
		{"another one", &pb.Lease{Known: a7}, owner("b", 7, 0), "b", time.Hour, "no"},
		{"who can't work on it", &pb.Lease{Known: a7, Shut: true}, a7, "b", time.Hour, "no"},
		{"who could not work in the epoch before", &pb.Lease{Known: owner("a", 6, 0), Shut: true}, a7, "b", time.Hour, "yes"},
		{"who took it over a moment ago", &pb.Lease{Known: a72}, a72, "b", time.Second, "if the other one is free"},
		{"who took it over a lease ago", &pb.Lease{Known: a72}, a72, "b", lease, "yes"},
		{"who took it over a moment ago, alone", &pb.Lease{Known: a72}, a72, "", time.Second, "yes"},
	} {
		q := talk.Question{Lease: c.q, Agent: "a", Rack: "r1", Other: c.other, Owner: c.owner}
		ok, ifFree := q.Lend(noon.Add(c.after), lease)
		got := map[bool]string{true: "yes", false: "no"}[ok]
		if ifFree {
			got = "if the other one is free"
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

// What several coordinators remember of an agent together is the latest lease, and
// that it can't work if it told one of them.
func TestLoans(t *testing.T) {
	ago := func(d time.Duration) talk.Loan { return talk.Loan{At: noon.Add(-d)} }
	for _, c := range []struct {
		what string
		all  []talk.Loan
		left time.Duration
	}{
		{"lent just now", []talk.Loan{ago(0)}, lease},
		{"lent a while ago", []talk.Loan{ago(20 * time.Second)}, 10 * time.Second},
		{"over", []talk.Loan{ago(lease)}, 0},
		{"given back", []talk.Loan{{}}, -1},
		{"another one has lent it since", []talk.Loan{ago(time.Minute), ago(5 * time.Second)}, 25 * time.Second},
		{"another one has it back, and this one lent it", []talk.Loan{ago(5 * time.Second), {}}, 25 * time.Second},
		{"it is shut out", []talk.Loan{{At: noon, Shut: true}}, 0},
		{"it told another one that it is shut out", []talk.Loan{ago(0), {Shut: true}}, 0},
	} {
		l := c.all[0]
		for _, o := range c.all[1:] {
			l = l.And(o)
		}
		if got := l.Left(noon, lease); got != c.left && (c.left >= 0 || got > 0) {
			t.Errorf("%s: %s left, want %s", c.what, got, c.left)
		}
	}
}

func TestTheAnswer(t *testing.T) {
	l := talk.Leased(owner("a", 7, 0), lease, lease)
	if l.GetOwner().GetAgent() != "a" || l.GetTtlMs() != 30_000 || l.GetEveryMs() != 10_000 || l.GetCut() {
		t.Errorf("it is %v", l)
	}
	if l = talk.Cut(lease); l.GetOwner() != nil || l.GetTtlMs() != 0 || l.GetEveryMs() != 10_000 || !l.GetCut() {
		t.Errorf("without a majority it is %v", l)
	}
}
