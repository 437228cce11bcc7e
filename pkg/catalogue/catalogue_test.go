package catalogue_test

import (
	"bytes"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/catalogue/source"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

const sample = "../../docs/examples/site.yaml"

func read(t *testing.T, text string) *catalogue.Catalogue {
	t.Helper()
	c, found := source.Read("site.yaml", []byte(text))
	if len(found) > 0 {
		t.Fatal(found.String())
	}
	return c
}

func readSample(t *testing.T) *catalogue.Catalogue {
	t.Helper()
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, string(text))
}

// part is a rack's part of a catalogue as its agent reads it.
func part(t *testing.T, parts [][]byte, rack fleet.RackName) *catalogue.Part {
	t.Helper()
	for _, text := range parts {
		p, err := catalogue.ReadPart(text)
		if err != nil {
			t.Fatal(err)
		}
		if p.Name == rack {
			return p
		}
	}
	return nil
}

func partsOf(t *testing.T, c *catalogue.Catalogue, gone ...string) [][]byte {
	t.Helper()
	parts, err := c.Parts(gone)
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

// The closest to the node counts: itself, its agent, its rack, its site.
func TestLabelsComeFromFarAndNear(t *testing.T) {
	c := read(t, `
sites: [{name: osl1, labels: {a: site, b: site, c: site, d: site}}]
racks:
  - name: r01
    site: osl1
    labels: {b: rack, c: rack, d: rack}
    nodes: [{name: n1, labels: {d: node}}]
`)
	p := part(t, partsOf(t, c), "r01")
	told := map[string]string{"c": "agent", "d": "agent", "e": "agent"}
	got := p.Over(fleet.Node{Name: "n1", Rack: "r01", Site: "dev", Labels: told})
	want := fleet.Node{Name: "n1", Rack: "r01", Site: "osl1", Labels: map[string]string{"a": "site", "b": "rack", "c": "agent", "d": "node", "e": "agent"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"c": "agent", "d": "agent", "e": "agent"}, told); diff != "" {
		t.Error("the labels that were told have changed", diff)
	}
	var none *catalogue.Part
	if diff := cmp.Diff(fleet.Node{Name: "x"}, none.Over(fleet.Node{Name: "x"})); diff != "" {
		t.Error(diff)
	}
}

func TestGroupsSelect(t *testing.T) {
	c := readSample(t)
	parts := partsOf(t, c)
	groups := catalogue.Targets(part(t, parts, "").Groups)
	for name, want := range map[string][]string{
		"web": {"r01-u03", "r02-u02"}, "north": {"r01-u03", "r01-u04", "r02-u02"}, "spares": {"r01-u03", "r01-u04"}, "none": nil,
	} {
		var got []string
		for _, n := range []fleet.Node{{Name: "r01-u03", Rack: "r01"}, {Name: "r01-u04", Rack: "r01"}, {Name: "r02-u02", Rack: "r02"}, {Name: "r03-u01", Rack: "r03"}} {
			s := scl.Subject{Node: part(t, parts, n.Rack).Over(n), Group: func(name string) (scl.Target, bool) { g, ok := groups[name]; return g, ok }}
			if (scl.Target{Kind: scl.TargetGroup, Name: name}).Match(s) == scl.True {
				got = append(got, string(n.Name))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestWhereABMCMayBe(t *testing.T) {
	c := readSample(t)
	parts := partsOf(t, c)
	for _, test := range []struct {
		rack fleet.RackName
		at   string
		want bool
	}{
		{"r01", "10.20.1.7:443", true},
		{"r01", "[::ffff:10.20.1.7]:443", true},
		{"r01", "10.20.2.7:443", false},
		{"r01", "[fe80::7%eth1]:443", true}, // on the link of the agent itself
		{"r02", "10.20.2.18:8443", true},
		{"r02", "10.20.3.1:443", false},
		{"r03", "192.0.2.1:443", true}, // nobody has said where they are
	} {
		if got := part(t, parts, test.rack).May(netip.MustParseAddrPort(test.at)); got != test.want {
			t.Errorf("%s in %s: %v", test.at, test.rack, got)
		}
	}
}

// Threat 8: a coordinator that carries a part can't make one, change one, or give one
// rack that of another.
func TestAPartIsProven(t *testing.T) {
	c := readSample(t)
	parts := partsOf(t, c, "r09", "r01")
	if p := part(t, parts, "r09"); !p.Removed {
		t.Errorf("a rack that is no longer there: %+v", p)
	}
	if p := part(t, parts, "r01"); p.Removed {
		t.Errorf("a rack that is there again: %+v", p)
	}
	tree, err := catalogue.NewTree(parts)
	if err != nil {
		t.Fatal(err)
	}
	root, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range parts {
		proof, err := tree.Prove(i)
		if err != nil {
			t.Fatal(err)
		}
		if err := catalogue.Check(root, p, int64(i), proof); err != nil {
			t.Errorf("%d: %v", i, err)
		}
		changed := bytes.Replace(p, []byte(`"`), []byte(`'`), 1)
		other := parts[(i+1)%len(parts)]
		for what, err := range map[string]error{
			"another text":      catalogue.Check(root, changed, int64(i), proof),
			"another's":         catalogue.Check(root, other, int64(i), proof),
			"another place":     catalogue.Check(root, p, int64((i+1)%len(parts)), proof),
			"no place":          catalogue.Check(root, p, -1, proof),
			"too far":           catalogue.Check(root, p, int64(len(parts)), proof),
			"no proof":          catalogue.Check(root, p, int64(i), nil),
			"half a hash":       catalogue.Check(root, p, int64(i), [][]byte{proof[0][:16]}),
			"another catalogue": catalogue.Check("5 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", p, int64(i), proof),
			"no catalogue":      catalogue.Check("", p, int64(i), proof),
		} {
			if !fault.Is(err, fault.Untrusted) {
				t.Errorf("%d: %s: %v", i, what, err)
			}
		}
	}
	if _, err := tree.Prove(len(parts)); err == nil {
		t.Error("a part that is none is proven")
	}
	if _, err := catalogue.ReadPart([]byte(`{"name": "r01", "owner": "ada"}`)); err == nil {
		t.Error("what this version does not know is read")
	}
}

func TestDiff(t *testing.T) {
	before := read(t, `
sites: [{name: osl1}, {name: fra1}]
racks:
  - {name: r01, site: osl1, position: hall 2, labels: {row: c}, limits: {nodes: 8}}
  - {name: r02, site: osl1}
groups: [{name: web, members: ["r01-*"]}]
`)
	after := read(t, `
sites: [{name: osl1, address: Oslo}, {name: fra1}]
racks:
  - name: r01
    site: fra1
    position: hall 3
    labels: {purpose: ai}
    networks: [{cidr: 10.0.0.0/24, scan: true, interface: bmc0}]
    nodes: [{name: web-1, labels: {role: web}}]
  - {name: r03, site: osl1, labels: {row: d}}
groups: [{name: web, members: ["r01-*", "r03-*"]}]
`)
	var got []string
	for _, c := range catalogue.Diff(before, after) {
		got = append(got, c.String())
	}
	want := []string{
		"~ group web: members: r01-* -> r01-* r03-*",
		"+ node web-1: label role web; rack r01",
		"~ rack r01: label purpose: ai (new)",
		"~ rack r01: label row: c -> none",
		"~ rack r01: limit of nodes: 8 -> none",
		"~ rack r01: network 10.0.0.0/24: looked through on bmc0 (new)",
		"~ rack r01: position: hall 2 -> hall 3",
		"~ rack r01: site: osl1 -> fra1",
		"- rack r02",
		"+ rack r03: label row d; site osl1",
		"~ site osl1: address: Oslo (new)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if all := catalogue.Diff(after, after); len(all) > 0 {
		t.Errorf("nothing changes, and yet: %v", all)
	}
	if all := catalogue.Diff(nil, after); len(all) != 6 {
		t.Errorf("the first one: %v", all)
	}
}
