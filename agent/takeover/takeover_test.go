package takeover_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// toy is a BMC that does every step at once, and what is recorded of it.
type toy struct {
	seen takeover.Facts
	rec  takeover.Record
}

func fresh() *toy {
	return &toy{
		seen: takeover.Facts{
			At: now, Key: "first", Ends: now.AddDate(10, 0, 0), Twin: "twin", As: "root", RootEnabled: true,
			Basic: true, Cookie: true, TLS: true, ByCommonName: true, SSH: true, IPMI: true, Asked: true,
		},
		rec: takeover.Met("first").Take("root", "chiba-a1"),
	}
}

// do is the effect of a step.
func (b *toy) do(step takeover.Step) {
	s, r := &b.seen, &b.rec
	switch step {
	case takeover.Password:
		r.Unique, s.MustChange = true, false
	case takeover.Clock:
		s.ClockOff = 0
	case takeover.Account:
		s.AccountThere, s.AccountGood, r.AccountProven, s.As = true, true, true, r.Account
	case takeover.Anchor:
		*r = r.Planted(s.Twin)
		s.Anchored = true
	case takeover.Request:
		*r = r.Signed(r.Pin+"+", "chain", s.Twin, "roots")
	case takeover.Install:
		s.Key, s.Ends = r.Next, s.At.AddDate(0, 1, 0)
	case takeover.Methods:
		s.TLS = true
	case takeover.Mapping:
		s.ByCommonName = true
	case takeover.Prove:
		r.ProvenBy, s.ByCertificate = s.Twin, true
	case takeover.Pair:
		s.PartnerThere, s.PartnerGood, s.PartnerRoot = true, !r.Partner.Shut, true
		made := *r.Partner
		made.Made = true
		r.Partner = &made
	case takeover.Strict:
		s.Strict = true
	case takeover.Logins:
		weak := s.Weak()
		r.Before = &weak
		s.Basic, s.Cookie = false, false
	case takeover.Services:
		s.IPMI, s.SSH = false, false
	case takeover.Root:
		s.RootEnabled = false
	case takeover.Second:
		s.NextAnchored = true
	case takeover.Prune:
		s.StaleAnchors = 0
	case takeover.Open:
		s.Strict = false
	case takeover.Restore:
		s.Basic, s.Cookie, s.IPMI, s.SSH = r.Before.Basic, r.Before.Cookie, r.Before.IPMI, r.Before.SSH
	case takeover.Return:
		r.Returned, s.RootEnabled, s.ByCertificate, s.As = true, true, false, "root"
	case takeover.Uproot:
		s.Anchored, s.PartnerRoot, s.StaleAnchors = false, false, 0
	case takeover.Dismiss:
		s.AccountThere, s.AccountGood, s.PartnerThere, s.PartnerGood = false, false, false, false
	case takeover.Nothing:
	}
}

// run goes on until there is nothing to do, and tells the steps.
func (b *toy) run() string {
	var did []string
	for range 40 {
		b.rec = b.rec.Absorb(b.seen)
		step, _ := takeover.Next(b.seen.At, b.seen, b.rec)
		if step == takeover.Nothing {
			break
		}
		did = append(did, string(step))
		b.rec = b.rec.Begin(step)
		b.do(step)
		b.rec = b.rec.Done(step)
	}
	return strings.Join(did, " ")
}

const all = "password account anchor request install prove strict weak-logins services root"

func TestTheOrder(t *testing.T) {
	lacks := func(step takeover.Step) func(*toy) {
		return func(b *toy) { b.seen.Lacks = map[takeover.Step]string{step: "it has none"} }
	}
	final := func(step takeover.Step) func(*toy) {
		return func(b *toy) { b.rec = b.rec.Failed(now, step, takeover.Failure{Reason: "never", Final: true}) }
	}
	const byToken = "password account anchor request install weak-logins services root"
	for name, tc := range map[string]struct {
		change func(*toy)
		want   string
		state  fleet.Takeover
	}{
		"as usual":                      {func(*toy) {}, all, fleet.TakeoverStrict},
		"a password change is demanded": {func(b *toy) { b.seen.MustChange = true }, all, fleet.TakeoverStrict},
		"a clock of 1970": {
			func(b *toy) { b.seen.ClockOff = -56 * 365 * 24 * time.Hour },
			strings.Replace(all, "account", "clock account", 1), fleet.TakeoverStrict,
		},
		"a clock that is two minutes off": {func(b *toy) { b.seen.ClockOff = 2 * time.Minute }, all, fleet.TakeoverStrict},
		"login by certificate is off": {
			func(b *toy) { b.seen.TLS = false },
			strings.Replace(all, "prove", "tls-login prove", 1), fleet.TakeoverStrict,
		},
		"another mapping": {
			func(b *toy) { b.seen.ByCommonName = false },
			strings.Replace(all, "prove", "mapping prove", 1), fleet.TakeoverStrict,
		},
		"the web interface is built in": {final(takeover.Prove), byToken, fleet.TakeoverToken},
		"the truststore is full":        {final(takeover.Anchor), strings.Replace(byToken, "anchor ", "", 1), fleet.TakeoverToken},
		"no truststore":                 {lacks(takeover.Anchor), strings.Replace(byToken, "anchor ", "", 1), fleet.TakeoverToken},
		"TLS compiled out": {
			func(b *toy) { b.seen.TLS = false; lacks(takeover.Methods)(b) },
			byToken, fleet.TakeoverToken,
		},
		"no strict mode":      {lacks(takeover.Strict), strings.Replace(all, "strict ", "", 1), fleet.TakeoverMutual},
		"no signing requests": {lacks(takeover.Request), "password account anchor", fleet.TakeoverNone},
		"nothing weak": {
			func(b *toy) { b.seen.Basic, b.seen.Cookie, b.seen.SSH, b.seen.IPMI = false, false, false, false },
			strings.Replace(all, "weak-logins services ", "", 1), fleet.TakeoverStrict,
		},
		"another make": {func(b *toy) {
			b.seen.Lacks = map[takeover.Step]string{}
			for _, s := range takeover.Steps() {
				b.seen.Lacks[s] = "not known"
			}
		}, "", fleet.TakeoverNone},
	} {
		t.Run(name, func(t *testing.T) {
			b := fresh()
			tc.change(b)
			if diff := cmp.Diff(tc.want, b.run()); diff != "" {
				t.Error(diff)
			}
			if got := takeover.Trust(now, b.rec); got.Takeover != tc.state || got.Step != "" {
				t.Errorf("it is %+v, want %s", got, tc.state)
			}
		})
	}
}

// What was done is looked up, not remembered: wherever a BMC forgets something,
// or the half of a step is lost, the way is found again, and the way in that is
// used is never closed before another one is proven.
func TestAnyStateLeadsToTheEnd(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	coin := func(b *bool) {
		if r.IntN(2) == 0 {
			*b = !*b
		}
	}
	for range 5000 {
		b := fresh()
		for range r.IntN(14) { // so far it went
			b.rec = b.rec.Absorb(b.seen)
			step, _ := takeover.Next(now, b.seen, b.rec)
			b.do(step)
		}
		// Then the BMC forgot this and that.
		for _, forget := range []*bool{&b.seen.Anchored, &b.seen.Basic, &b.seen.Cookie, &b.seen.TLS, &b.seen.ByCommonName, &b.seen.SSH, &b.seen.AccountGood} {
			if r.IntN(4) == 0 {
				coin(forget)
			}
		}
		if r.IntN(4) == 0 {
			b.rec.Doing = takeover.Steps()[r.IntN(len(takeover.Steps()))]
		}
		b.check(t)
		if left := takeover.Left(b.seen, b.rec); len(left) != 0 {
			t.Fatalf("left: %v of %+v, %+v", left, b.seen, b.rec)
		}
	}
}

// check goes on step by step and sees that nobody is locked out.
func (b *toy) check(t *testing.T) {
	t.Helper()
	for range 40 {
		b.rec = b.rec.Absorb(b.seen)
		step, _ := takeover.Next(now, b.seen, b.rec)
		closes := []takeover.Step{takeover.Strict, takeover.Logins, takeover.Services, takeover.Root}
		if slices.Contains(closes, step) && !b.rec.Proven() {
			t.Fatalf("%s before another way in is proven: %+v", step, b.rec)
		}
		if step == takeover.Strict && !b.seen.ByCertificate {
			t.Fatalf("strict mode from a session")
		}
		if step == takeover.Nothing {
			return
		}
		b.do(step)
	}
	t.Fatalf("round in circles: %+v", b.rec)
}

func TestReleaseAndRenewal(t *testing.T) {
	b := fresh()
	b.run()
	b.seen.At = now.AddDate(0, 0, 19)
	if did := b.run(); did != "" {
		t.Errorf("eleven days before the end: %s", did)
	}
	b.seen.At = now.AddDate(0, 0, 22)
	if did := b.run(); did != "request install" {
		t.Errorf("renewal: %s", did)
	}
	b.seen.Twin, b.seen.Anchored, b.seen.StaleAnchors = "next twin", false, 1
	if did := b.run(); did != "anchor request install prove prune" {
		t.Errorf("another twin: %s", did)
	}
	b.seen.Next = "the one after"
	if did := b.run(); did != "next-anchor" {
		t.Errorf("a twin that is to come: %s", did)
	}
	b.rec = b.rec.Release("sealed")
	if did := b.run(); did != "open restore return uproot dismiss" {
		t.Errorf("release: %s", did)
	}
	if got := takeover.Trust(now, b.rec); !got.Released || got.Takeover != fleet.TakeoverNone {
		t.Errorf("released it is %+v", got)
	}
}

// TestOnlyOurOwnStepExplainsAKey: whatever key a BMC shows, none takes the place
// of the known one but that of a certificate that we have signed for it.
func TestOnlyOurOwnStepExplainsAKey(t *testing.T) {
	b := fresh()
	b.seen.Key = "another"
	if b.rec = b.rec.Absorb(b.seen); b.rec.Pin != "first" {
		t.Error("a key was taken as it came")
	}
	b.rec = b.rec.Signed("next", "chain", "twin", "roots")
	if b.rec = b.rec.Absorb(b.seen); b.rec.Pin != "first" || b.rec.Next != "next" {
		t.Error("another key than the signed one was taken")
	}
	b.seen.Key = "next"
	if b.rec = b.rec.Absorb(b.seen); b.rec.Pin != "next" || b.rec.Next != "" || b.rec.SignedBy != "twin" {
		t.Errorf("the signed key was not taken: %+v", b.rec)
	}
	if !b.rec.Has("first") || b.rec.Has("another") || b.rec.Has("") {
		t.Error("it does not know its keys")
	}
}

// TestFailuresWait: ever longer, at least as long as the BMC asks; what does not
// depend on the failed step goes on.
func TestFailuresWait(t *testing.T) {
	b := fresh()
	b.run()
	b.seen.SSH, b.seen.Basic = true, true
	for i, want := range []float64{2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600} {
		b.rec = b.rec.Failed(now, takeover.Logins, takeover.Failure{Reason: "busy"})
		step, _ := takeover.Next(now, b.seen, b.rec)
		if step != takeover.Services {
			t.Fatalf("next is %q", step)
		}
		if wait := b.rec.Blocks[takeover.Logins].Until.Sub(now); wait.Seconds() != want {
			t.Errorf("after failure %d it waits %s", i+1, wait)
		}
	}
	b.rec = b.rec.Failed(now, takeover.Request, takeover.Failure{Reason: "503", Wait: 10 * time.Second})
	if wait := b.rec.Blocks[takeover.Request].Until.Sub(now); wait != 10*time.Second {
		t.Errorf("asked to wait 10s it waits %s", wait)
	}
	b.seen.SSH = false
	step, when := takeover.Next(now, b.seen, b.rec)
	if step != takeover.Nothing || when != now.Add(10*time.Minute) {
		t.Errorf("next is %q at %s", step, when)
	}
	if step, _ = takeover.Next(when, b.seen, b.rec); step != takeover.Logins {
		t.Errorf("then next is %q", step)
	}
	b.rec = b.rec.Absorb(b.seen)
	if got := takeover.Trust(now, b.rec); got.Done() || got.Step != string(takeover.Logins) || len(got.Limits) != 1 {
		t.Errorf("it is shown as %+v", got)
	}
}

// TestAYesThatIsNone: the BMC says yes and does nothing.
func TestAYesThatIsNone(t *testing.T) {
	b := fresh()
	b.seen.ClockOff = time.Hour
	at, tries := now, 0
	for range 200 {
		b.seen.At = at
		b.rec = b.rec.Absorb(b.seen)
		step, _ := takeover.Next(at, b.seen, b.rec)
		if step == takeover.Clock {
			tries++
		} else {
			b.do(step)
		}
		b.rec = b.rec.Done(step)
		at = at.Add(time.Second)
	}
	if tries != 3 {
		t.Errorf("the clock was set %d times", tries)
	}
	if got := takeover.Trust(at, b.rec); got.Takeover != fleet.TakeoverStrict || len(got.Limits) != 1 || !got.Done() {
		t.Errorf("it is %+v", got)
	}
}
