package level_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust/level"
)

var now = time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)

func fact[T any](is T, before time.Duration) level.Fact[T] {
	return level.Fact[T]{Is: is, At: now.Add(-before), From: "test"}
}

// good is a BMC that was taken over.
func good() level.Facts {
	return level.Facts{
		OnLink: fact(true, time.Minute), Key: fact(level.KeySame, time.Minute), By: fact(level.RackCA, time.Minute),
		Asset: fact(level.Confirmed, time.Hour), Access: fact(level.Strict, time.Minute),
		Default: fact(false, time.Hour), Weak: fact(false, time.Hour), Clock: fact(true, time.Hour),
	}
}

// tell is a verdict as a person reads it.
func tell(v level.Verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", v.Level, v.Level.Word())
	for _, r := range v.Held {
		fmt.Fprintf(&b, "  has    %s\n", r.What)
	}
	for _, bad := range v.Bad {
		fmt.Fprintf(&b, "  bad    %s\n", bad)
	}
	for _, l := range v.Lacks {
		fmt.Fprintf(&b, "  lacks  %s -> %s\n", l.What, l.Do)
	}
	return b.String()
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy level.Policy
		change func(*level.Facts)
		want   string
	}{
		{"nothing is known", level.Policy{}, func(f *level.Facts) { *f = level.Facts{} }, `T0 seen
  lacks  its key was never seen -> see that the BMC is on and reachable: chiba get bmcs
`},
		{"a stranger that was heard on the link", level.Policy{}, func(f *level.Facts) {
			*f = level.Facts{OnLink: fact(true, 0), Key: fact(level.KeyNew, 0)}
		}, `T1 exchanged
  has    its key is known
  lacks  nobody has let it in -> chiba bmc admit NODE
`},
		{"taken over", level.Policy{}, func(*level.Facts) {}, `T3 identified
  has    its key is known
  has    it is in the asset list
  has    it serves a certificate of the rack
  has    its serial is the listed one
`},
		{"the catalogue has its key and no serial", level.Policy{}, func(f *level.Facts) {
			f.By, f.Asset = fact(level.Person, 9000*time.Hour), fact(level.Listed, 9000*time.Hour)
		}, `T3 identified
  has    its key is known
  has    it is in the asset list
  has    a person vouches for its key
  has    its key is the listed one
`},
		{"before the take-over", level.Policy{}, func(f *level.Facts) {
			f.By, f.Default = level.Fact[level.Voucher]{}, fact(true, 0)
		}, `T2 admitted
  has    its key is known
  has    it is in the asset list
  lacks  nobody vouches for its key -> chiba bmc takeover NODE puts a certificate of the rack on it
  lacks  the password that it left the factory with is in force -> chiba bmc takeover NODE, or set one: (config "NODE" (bmc (user "root" (password …))))
`},
		{"a site that wants to be asked", level.Policy{Ask: true}, func(*level.Facts) {}, `T1 exchanged
  has    its key is known
  lacks  nobody has let it in -> chiba bmc admit NODE
`},
		{"and was", level.Policy{Ask: true}, func(f *level.Facts) {
			f.Approved = []level.Fact[string]{fact("ops", time.Hour)}
		}, `T3 identified
  has    its key is known
  has    let in by ops
  has    it serves a certificate of the rack
  has    its serial is the listed one
`},
		{"one person, twice, is one", level.Policy{}, func(f *level.Facts) {
			f.Asset = level.Fact[level.Asset]{}
			f.Approved = []level.Fact[string]{fact("ops", time.Hour), fact("ops", 0)}
		}, `T2 admitted
  has    its key is known
  has    let in by ops
  lacks  its serial is not confirmed -> give it with chiba bmc admit NODE --serial SERIAL or in the catalogue, or have a second person admit it
`},
		{"two people", level.Policy{}, func(f *level.Facts) {
			f.Asset = level.Fact[level.Asset]{}
			f.Approved = []level.Fact[string]{fact("ops", time.Hour), fact("chief", 0)}
		}, `T3 identified
  has    its key is known
  has    let in by ops and chief
  has    it serves a certificate of the rack
  has    two people let it in
`},
		{"not heard of for two days", level.Policy{}, func(f *level.Facts) {
			f.Key, f.By = fact(level.KeySame, 51*time.Hour), fact(level.RackCA, 51*time.Hour)
		}, `T0 seen
  lacks  its key was last seen 2d3h ago -> see that the BMC is on and reachable: chiba get bmcs
`},
		{"the policy lets it in, from the link", level.Policy{Admit: func(level.Facts) bool { return true }}, func(f *level.Facts) {
			*f = level.Facts{OnLink: fact(true, 0), Key: fact(level.KeyNew, 0)}
		}, `T2 admitted
  has    its key is known
  has    the trust policy lets it in
  lacks  nobody vouches for its key -> chiba bmc takeover NODE puts a certificate of the rack on it
  lacks  its serial is not confirmed -> give it with chiba bmc admit NODE --serial SERIAL or in the catalogue, or have a second person admit it
`},
		{"and from elsewhere does not", level.Policy{Admit: func(level.Facts) bool { return true }}, func(f *level.Facts) {
			*f = level.Facts{OnLink: fact(false, 0), Key: fact(level.KeyNew, 0)}
		}, `T1 exchanged
  has    its key is known
  lacks  nobody has let it in -> chiba bmc admit NODE
`},
		{"another key", level.Policy{}, func(f *level.Facts) { f.Key = fact(level.KeyChanged, 0) }, `TX quarantined
  bad    it answers with another key than before
  lacks  it answers with another key than before -> if the BMC was replaced or reset: chiba bmc accept NODE --pin KEY
`},
		{"all that is bad", level.Policy{}, func(f *level.Facts) {
			f.Key, f.Asset, f.Twin, f.Denied = fact(level.KeyChanged, 0), fact(level.Mismatch, 0), fact("r01-u07", 0), fact("stolen", 0)
		}, `TX quarantined
  bad    it is on the deny list: stolen
  bad    it answers with another key than before
  bad    it tells another serial than the asset list
  bad    r01-u07 tells the same serial
  lacks  it is on the deny list: stolen -> chiba trust allow KEY takes it off the list
  lacks  it answers with another key than before -> if the BMC was replaced or reset: chiba bmc accept NODE --pin KEY
  lacks  it tells another serial than the asset list -> see which server it is, correct the catalogue or the cabling, then have it looked at again: chiba bmc accept NODE --pin KEY
  lacks  r01-u07 tells the same serial -> write the serial of each into the catalogue: who is not that server stays out
`},
	} {
		f := good()
		c.change(&f)
		if diff := cmp.Diff(c.want, tell(c.policy.Judge(now, f))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// Whatever else is known, a bad fact quarantines, and a missing one never raises.
func TestABadFactAlwaysQuarantines(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		f := anything(random)
		p := level.Policy{Ask: random.IntN(2) == 0, Admit: func(level.Facts) bool { return true }}
		v := p.Judge(now, f)
		bad := f.Denied.Known() || f.Twin.Known() || f.Key.Is == level.KeyChanged || f.Asset.Is == level.Mismatch
		if bad != (v.Level == level.Quarantined) || bad != (len(v.Bad) > 0) {
			t.Fatalf("%+v\nis judged %s", f, tell(v))
		}
		if v.Level < level.Attested && len(v.Lacks) == 0 && v.Level != level.Identified {
			t.Fatalf("%+v\nhas no way on: %s", f, tell(v))
		}
		less := f
		less.By, less.Approved = level.Fact[level.Voucher]{}, nil
		if w := p.Judge(now, less); w.Level > v.Level {
			t.Fatalf("%+v\nrises from %s to %s by losing a voucher", f, v.Level, w.Level)
		}
	}
}

func anything(r *rand.Rand) level.Facts {
	f := level.Facts{
		OnLink: fact(r.IntN(2) == 0, hours(r)), Key: fact(level.Key(r.IntN(3)), hours(r)), By: fact(level.Voucher(r.IntN(4)), hours(r)),
		Asset: fact(level.Asset(r.IntN(4)), hours(r)), Access: fact(level.Access(r.IntN(5)), hours(r)), Default: fact(r.IntN(2) == 0, hours(r)),
	}
	for _, who := range []string{"ops", "chief"}[:r.IntN(3)] {
		f.Approved = append(f.Approved, fact(who, hours(r)))
	}
	if r.IntN(8) == 0 {
		f.Denied = fact("stolen", hours(r))
	}
	if r.IntN(8) == 0 {
		f.Twin = fact("n2", hours(r))
	}
	return f
}

func hours(r *rand.Rand) time.Duration { return time.Duration(r.IntN(40)) * time.Hour }

func TestMay(t *testing.T) {
	strict := level.Policy{Require: map[level.Deed]level.Level{level.Firmware: level.Attested, level.Power: level.Seen}}
	for _, c := range []struct {
		policy level.Policy
		deed   level.Deed
		change func(*level.Facts)
		want   string
	}{
		{level.Policy{}, level.Power, func(*level.Facts) {}, ""},
		{level.Policy{}, level.Firmware, func(*level.Facts) {}, ""},
		{strict, level.Power, func(*level.Facts) {}, ""},
		{strict, level.Firmware, func(*level.Facts) {}, "check trust: firmware needs trust level T4 and this BMC has T3"},
		// A policy can't go below the product's floor.
		{strict, level.Power, func(f *level.Facts) { f.By = level.Fact[level.Voucher]{} }, "check trust: power needs trust level T3 and this BMC has T2: nobody vouches for its key"},
		{level.Policy{}, level.Look, func(f *level.Facts) { f.Key = fact(level.KeyChanged, 0) }, "check trust: look needs trust level T2 and this BMC has TX: it answers with another key than before"},
		{level.Policy{}, "dance", func(*level.Facts) {}, "check trust: dance needs trust level T4 and this BMC has T3"},
	} {
		f := good()
		c.change(&f)
		err := c.policy.May(c.deed, c.policy.Judge(now, f))
		if got := fmt.Sprint(err); got != c.want && (err != nil || c.want != "") {
			t.Errorf("%s: %s; want %q", c.deed, got, c.want)
		}
		if err != nil && (fault.HintOf(err) == "" || fault.KindOf(err) != fault.Untrusted) {
			t.Errorf("%s: %v has the hint %q", c.deed, err, fault.HintOf(err))
		}
	}
}

func TestUnite(t *testing.T) {
	yes, no := func(level.Facts) bool { return true }, func(level.Facts) bool { return false }
	a := level.Policy{Admit: yes, Fresh: time.Hour, Require: map[level.Deed]level.Level{level.Power: level.Attested}}
	b := level.Policy{Admit: yes, Ask: true, Fresh: time.Minute, Require: map[level.Deed]level.Level{level.Power: level.Identified, level.Look: level.Identified}}
	sum := level.Unite(a, b)
	if !sum.Admit(level.Facts{}) || !sum.Ask || sum.Fresh != time.Minute || sum.Needs(level.Power) != level.Attested || sum.Needs(level.Look) != level.Identified {
		t.Errorf("%+v", sum)
	}
	if !level.Unite(a, level.Policy{}).Admit(level.Facts{}) {
		t.Error("a policy that says nothing of it keeps others from letting in")
	}
	for _, all := range [][]level.Policy{{a, {Admit: no}}, {{Admit: no}, {}, a}} {
		if level.Unite(all...).Admit(level.Facts{}) {
			t.Error("it is let in although one refuses")
		}
	}
	if level.Unite().Admit != nil || level.Unite(level.Policy{}).Admit != nil {
		t.Error("it is let in although nobody says so")
	}
}

func TestParse(t *testing.T) {
	for l := level.Quarantined; l <= level.Attested; l++ {
		if got, err := level.Parse(strings.ToLower(l.String())); got != l || err != nil {
			t.Errorf("%s reads as %s, %v", l, got, err)
		}
	}
	if _, err := level.Parse("T5"); err == nil {
		t.Error("T5 is a level")
	}
}

func TestEveryDeedHasAFloor(t *testing.T) {
	for _, d := range level.Deeds() {
		if f := level.Floor(d); f < level.Admitted || f > level.Attested {
			t.Errorf("%s needs %s", d, f)
		}
	}
}
