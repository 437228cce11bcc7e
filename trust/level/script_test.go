package level_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/trust/level"
)

func policy(t *testing.T, node fleet.Node, source string) level.Policy {
	t.Helper()
	p, diags := compile.Source("policy.scl", []byte(source))
	if p == nil {
		t.Fatal(diags)
	}
	return level.Of(p.Trust, node)
}

func TestPolicyOfAScript(t *testing.T) {
	heard := level.Facts{OnLink: fact(true, 0), Key: fact(level.KeyNew, 0)}
	node := fleet.Node{Name: "n1", Rack: "r07", Labels: map[string]string{"owner": "lab"}}
	for _, c := range []struct {
		source string
		facts  level.Facts
		want   level.Level
	}{
		{`(trust-policy (ask #f))`, heard, level.Exchanged},
		{`(trust-policy (admit trust.on-link))`, heard, level.Admitted},
		{`(trust-policy (admit trust.on-link)) (trust-policy (require T4 firmware))`, heard, level.Admitted},
		{`(trust-policy (admit trust.on-link)) (trust-policy (admit trust.listed))`, heard, level.Exchanged},
		{`(trust-policy (admit (= node.label.owner "lab") (= rack.name "r07")))`, heard, level.Admitted},
		{`(trust-policy (admit (= trust.key "same")))`, heard, level.Exchanged},
		// What is not known does not let in.
		{`(trust-policy (admit (not (= trust.access "none"))))`, heard, level.Exchanged},
		{`(trust-policy (admit (= node.serial "S1")))`, heard, level.Exchanged},
		{`(trust-policy (ask #t))`, good(), level.Exchanged},
		{`(trust-policy (fresh 1m))`, good(), level.Identified},
		{`(trust-policy (admit (= trust.vouched-by "rack") trust.serial-confirmed (= trust.access "mutual TLS only")))`, good(), level.Identified},
	} {
		if v := policy(t, node, c.source).Judge(now, c.facts); v.Level != c.want {
			t.Errorf("%s makes it\n%swant %s", c.source, tell(v), c.want)
		}
	}
	old := good()
	old.Key.At = now.Add(-2 * time.Minute)
	if v := policy(t, node, `(trust-policy (fresh 1m))`).Judge(now, old); v.Level != level.Seen {
		t.Errorf("what is older than the policy wants counts: %s", tell(v))
	}
	p := policy(t, node, `(trust-policy (require T4 firmware) (require T2 power)) (trust-policy (require T3 look firmware))`)
	if p.Needs(level.Firmware) != level.Attested || p.Needs(level.Look) != level.Identified || p.Needs(level.Power) != level.Identified {
		t.Errorf("firmware %s, look %s, power %s", p.Needs(level.Firmware), p.Needs(level.Look), p.Needs(level.Power))
	}
}

// The language and the levels know the same deeds.
func TestTheLanguageKnowsEveryDeed(t *testing.T) {
	var deeds []string
	for _, d := range level.Deeds() {
		deeds = append(deeds, string(d))
	}
	if diff := cmp.Diff(scl.Deeds(), deeds); diff != "" {
		t.Error(diff)
	}
	for _, text := range scl.TrustLevels() {
		if l, err := level.Parse(text); err != nil || l < level.Admitted {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Every element of the namespace reads as a value of the registry's type, and
// one of its values.
func TestEveryElementOfTrust(t *testing.T) {
	for _, e := range scl.Elements() {
		if e.Name == "trust.level" || len(e.Name) < 6 || e.Name[:6] != "trust." {
			continue
		}
		for _, f := range []level.Facts{{}, good()} {
			v := f.Value(scl.Ref{Text: e.Name, Element: &e}, fleet.Node{Admission: fleet.Admission{
				Make: "OpenBMC", UUID: "u", Evidence: []fleet.Evidence{{What: "link", Is: "eth1"}, {What: "mac", Is: "m"}},
			}})
			said, isText := v.Text()
			if isText && len(e.Values) > 0 && !slices.Contains(e.Values, said) {
				t.Errorf("%s reads as %q", e.Name, said)
			}
			if _, isBool := v.Bool(); v.Known() && (isText != (e.Type == scl.TextType) || isBool != (e.Type == scl.BoolType)) {
				t.Errorf("%s reads as %s", e.Name, v)
			}
			if f.Key.Known() && !v.Known() {
				t.Errorf("%s is unknown: %s", e.Name, v.Why())
			}
		}
	}
}
