package scl_test

import (
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

// target is the target that src says, and the groups that the script defs makes.
func target(t *testing.T, defs, src string) (scl.Target, map[string]scl.Target) {
	t.Helper()
	p, diags := compile.Source("x.scl", []byte("(refresh "+src+") "+defs))
	if p == nil {
		t.Fatal(diags)
	}
	groups := map[string]scl.Target{}
	for _, g := range p.Groups {
		groups[g.Name] = g.Members
	}
	return p.Steps[0].Target, groups
}

func TestMatch(t *testing.T) {
	node := fleet.Node{
		Name: "r07-u08", Rack: "r07", Site: "fra1", Power: "On", Vendor: "Dell Inc.", State: fleet.Ready,
		Labels: map[string]string{"role": "web"},
	}
	read := map[string]scl.Slot{
		"cpu.temp": {Value: fleet.Number(95, fleet.Celsius)},
		"bmc.uuid": {Value: fleet.NoValue("not reported")},
	}
	const groups = `(group "web" "r07-u[01-10]") (group "db" "r08-*") (group "both" (group "web") (group "db"))`
	for src, want := range map[string]scl.Truth{
		`"all"`: scl.True, `all`: scl.True,
		`"r07-u08"`: scl.True, `"r07-u09"`: scl.False, `"r07-u[01-08]"`: scl.True, `"r07-u[09-12]"`: scl.False, `"r07-u[1,8]"`: scl.False,
		`"r07-*"`: scl.True, `"*u08"`: scl.True, `"r0?-u0?"`: scl.True, `"r08-*"`: scl.False, `"r0[7-8]-*"`: scl.True,
		`("r01" "r07-u08")`: scl.True, `(rack "r07")`: scl.True, `(rack "r*")`: scl.True, `(rack "r[01-06]")`: scl.False, `(site "fra1")`: scl.True, `(site "ams")`: scl.False,
		`(group "web")`: scl.True, `(group "db")`: scl.False, `(group "both")`: scl.True, `(group "none")`: scl.Unknown,
		`(and (rack "r07") (group "web"))`: scl.True, `(and (rack "r07") (group "db"))`: scl.False,
		`(or (rack "r08") (group "db"))`: scl.False, `(or (group "none") "r07-u08")`: scl.True,
		`(except "all" (group "db"))`: scl.True, `(except "all" "r08-*" "r07-u08")`: scl.False, `(except "all" (group "none"))`: scl.Unknown,
		`(where (= node.label.role "web"))`: scl.True, `(where (= node.label.tier "1"))`: scl.Unknown,
		`(where (= rack.name "r07"))`: scl.True, `(where (matches node.vendor "^Dell"))`: scl.True, `(where (= node.state "ready"))`: scl.True,
		`(where (> cpu.temp 90) (= power.state "on"))`: scl.True, `(where (> cpu.rate 1))`: scl.Unknown, `(where (known? bmc.uuid))`: scl.False,
		`(except "all" (where (> cpu.rate 1)))`: scl.Unknown,
	} {
		at, defined := target(t, groups, src)
		got := at.Match(scl.Subject{
			Node:  node,
			Group: func(name string) (scl.Target, bool) { g, ok := defined[name]; return g, ok },
			Slot:  func(r scl.Ref) scl.Slot { return read[r.Text] },
		})
		if got != want {
			t.Errorf("%s is %v, want %v", src, got, want)
		}
	}
}

func TestMatchWithoutKnowledge(t *testing.T) {
	for src, want := range map[string]scl.Truth{
		`(group "web")`: scl.Unknown, `(where (> cpu.temp 90))`: scl.Unknown, `"a"`: scl.True,
		`(where (known? power.state))`: scl.False, `(where (= node.name "a"))`: scl.True,
	} {
		at, _ := target(t, "", src)
		if got := at.Match(scl.Subject{Node: fleet.Node{Name: "a"}}); got != want {
			t.Errorf("%s is %v, want %v", src, got, want)
		}
	}
	if got := (scl.Target{}).Match(scl.Subject{}); got != scl.Unknown {
		t.Errorf("no target at all is %v", got)
	}
}

// TestMatchEndsOnGroupsInACircle also has every group hold the next twice,
// which would take 2^64 steps if each was decided anew.
func TestMatchEndsOnGroupsInACircle(t *testing.T) {
	group := func(name string) (scl.Target, bool) {
		n, err := strconv.Atoi(name)
		next := scl.Target{Kind: scl.TargetGroup, Name: strconv.Itoa((n + 1) % 64)}
		return scl.Target{Kind: scl.TargetOr, Of: []scl.Target{next, next}}, err == nil
	}
	at := scl.Target{Kind: scl.TargetGroup, Name: "0"}
	if got := at.Match(scl.Subject{Group: group}); got != scl.Unknown {
		t.Errorf("groups in a circle are %v", got)
	}
}

func TestNames(t *testing.T) {
	at, _ := target(t, "", `(or "a" "b[1-2]" (except (group "g") (rack "r") "c*") (and (site "s") "all") (where (= node.name "x")))`)
	var got []string
	for _, n := range at.Names() {
		got = append(got, n.Name)
		if n.Span.Start.Line != 1 || n.Text == "" {
			t.Errorf("%s has no place: %+v", n.Name, n)
		}
	}
	if diff := cmp.Diff([]string{"a", "b1", "b2", "g", "r", "c*", "s"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestGlob(t *testing.T) {
	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
		{"?", "ü", true},
		{"?", "", false},
		{"a*b*c", "aXXbYYbc", true},
		{"a*b*c", "aXXbYY", false},
		{"*u08", "r07-u08", true},
		{"r*-u?8", "r07-u08", true},
		{"**", "x", true},
		{"a", "ab", false},
		{"*ü?", "xüy", true},
	} {
		if got := scl.Glob(test.pattern, test.name); got != test.want {
			t.Errorf("Glob(%q, %q) = %v", test.pattern, test.name, got)
		}
	}
}

func TestLookup(t *testing.T) {
	for name, want := range map[string][2]string{
		"cpu.temp":                 {"cpu.temp", ""},
		"storage.volume.v0.state":  {"storage.volume.*.state", "v0"},
		"firmware.bmc.0.version":   {"firmware.*.version", "bmc.0"},
		"bios.attr.BootMode":       {"bios.attr.*", "BootMode"},
		"node.label.rack-position": {"node.label.*", "rack-position"},
		"bios.attr.":               {},
		"storage.volume..state":    {},
		"cpu":                      {},
		"storage.volume.*.state":   {"storage.volume.*.state", "*"},
	} {
		e, param, ok := scl.Lookup(name)
		if ok != (want[0] != "") || ok && (e.Name != want[0] || param != want[1]) {
			t.Errorf("Lookup(%q) = %v, %q, %v; want %v", name, e, param, ok, want)
		}
	}
}

func TestElements(t *testing.T) {
	all := scl.Elements()
	seen := map[string]bool{}
	for _, e := range all {
		switch {
		case seen[e.Name]:
			t.Errorf("%s is there twice", e.Name)
		case e.Type == 0, e.Doc == "", len(e.Sources) == 0:
			t.Errorf("%s lacks its type, sources or documentation", e.Name)
		case e.Type != scl.NumberType && e.Unit != fleet.NoUnit, e.Type != scl.TextType && len(e.Values) > 0:
			t.Errorf("%s has what its type can't have", e.Name)
		case e.Reduce == scl.Worst && !slices.Contains(e.Values, "Critical"):
			t.Errorf("%s is reduced to the worst, and is no health", e.Name)
		}
		seen[e.Name] = true
	}
	all[0].Name = "changed"
	if _, _, ok := scl.Lookup("changed"); ok {
		t.Error("Elements gives the registry away")
	}
}

func TestOf(t *testing.T) {
	node := fleet.Node{Name: "a", Address: "192.0.2.1:443", Model: "M", Serial: "S", Site: "s", Health: "OK", Labels: map[string]string{"k": "v"}}
	for name, want := range map[string]string{
		"node.name": "a", "node.address": "192.0.2.1:443", "node.model": "M", "system.serial": "S", "site.name": "s", "system.health": "OK",
		"node.label.k": "v", "node.label.x": "—", "cpu.temp": "—", "power.state": "—",
	} {
		e, param, _ := scl.Lookup(name)
		if got := (scl.Ref{Element: e, Param: param}).Of(node).String(); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestMatchEvent(t *testing.T) {
	const id = "OpenBMC.0.5.PowerSupplyFanFailed"
	for glob, want := range map[string]bool{
		id: true, "*": true, "PowerSupplyFanFailed": true, "*FanFailed": true, "OpenBMC.*.PowerSupply*": true, "*.DCPowerOff": false,
		"PowerSupply": false, "OpenBMC": false, "Dell.*": false,
	} {
		if got := scl.MatchEvent(glob, id); got != want {
			t.Errorf("%s matches: %v", glob, got)
		}
	}
	if !scl.MatchEvent("PSU0001", "PSU0001") || scl.MatchEvent("a.b", "") {
		t.Error("an id without a registry")
	}
}
