package catalogue_test

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

var update = flag.Bool("update", false, "write the golden files anew")

const sample = "../../docs/examples/site.yaml"

func read(t *testing.T, source string) *catalogue.Catalogue {
	t.Helper()
	c, found := catalogue.Read("site.yaml", []byte(source))
	if len(found) > 0 {
		t.Fatal(found.String())
	}
	return c
}

func readSample(t *testing.T) *catalogue.Catalogue {
	t.Helper()
	source, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, string(source))
}

// Everything that is wrong with a file is told at once, with its line and what was
// meant.
func TestWhatIsWrong(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			source, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c, found := catalogue.Read(filepath.Base(path), source)
			if c != nil || found.Errors() == 0 {
				t.Fatal("nothing is wrong with it")
			}
			golden := strings.TrimSuffix(path, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(found.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), found.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheSample(t *testing.T) {
	c := readSample(t)
	want := &catalogue.Catalogue{
		Sites: []catalogue.Site{
			{Name: "osl1", Address: "Ulvenveien 82, Oslo", Labels: map[string]string{"region": "north"}, WAN: catalogue.WAN{Connections: 2}},
			{Name: "fra1", Labels: map[string]string{"region": "south"}},
		},
		Racks: []catalogue.Rack{
			{
				Name: "r01", Site: "osl1", Position: "hall 2, row C, place 7", Labels: map[string]string{"row": "c", "purpose": "ai"}, Standby: "agent-r01b",
				Networks: []catalogue.Network{{CIDR: netip.MustParsePrefix("10.20.1.0/24"), Interface: "bmc0"}},
				Nodes:    []catalogue.Node{{Name: "r01-u03", Labels: map[string]string{"role": "web"}}},
			},
			{
				Name: "r02", Site: "osl1", Labels: map[string]string{"row": "d"},
				Networks: []catalogue.Network{{CIDR: netip.MustParsePrefix("10.20.2.0/26"), Scan: true}},
				BMCs:     []netip.AddrPort{netip.MustParseAddrPort("10.20.2.17:443"), netip.MustParseAddrPort("10.20.2.18:8443")},
				Limits:   catalogue.Limits{Nodes: 16, Requests: 4, Spool: 512 << 20},
			},
			{Name: "r03", Site: "fra1"},
		},
		Groups: []catalogue.Group{
			{Name: "web", Members: []string{`(where (= node.label.role "web"))`, "r02-u[01-04]"}},
			{Name: "north", Members: []string{`(where (= node.label.region "north"))`}},
			{Name: "spares", Members: []string{`(except (group "north") "r02-*")`}},
		},
	}
	if diff := cmp.Diff(want, c, cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
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
			"another text":     catalogue.Check(root, changed, int64(i), proof),
			"another's":        catalogue.Check(root, other, int64(i), proof),
			"another place":    catalogue.Check(root, p, int64((i+1)%len(parts)), proof),
			"no place":         catalogue.Check(root, p, -1, proof),
			"too far":          catalogue.Check(root, p, int64(len(parts)), proof),
			"no proof":         catalogue.Check(root, p, int64(i), nil),
			"half a hash":      catalogue.Check(root, p, int64(i), [][]byte{proof[0][:16]}),
			"another catalogue": catalogue.Check("5 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", p, int64(i), proof),
			"no catalogue":     catalogue.Check("", p, int64(i), proof),
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
		"+ node web-1: label role web, rack r01",
		"~ rack r01: label purpose: ai (new)",
		"~ rack r01: label row: c -> none",
		"~ rack r01: limit of nodes: 8 -> none",
		"~ rack r01: network 10.0.0.0/24: looked through on bmc0 (new)",
		"~ rack r01: position: hall 2 -> hall 3",
		"~ rack r01: site: osl1 -> fra1",
		"- rack r02",
		"+ rack r03: label row d, site osl1",
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

// Whatever the file is, it is read or refused, soon and without a panic; and what is
// read has parts that can be read.
func FuzzRead(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(files, sample) {
		source, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(source)
	}
	f.Add([]byte(strings.Repeat("[", 20_000)))
	f.Add([]byte(strings.Repeat("- ", 20_000)))
	f.Add([]byte("a: &a [*a, *a]\n"))
	f.Fuzz(func(t *testing.T, source []byte) {
		c, found := catalogue.Read("f", source)
		if (c == nil) != (found.Errors() > 0) {
			t.Fatalf("%v, %s", c, found)
		}
		_ = found.String()
		if c == nil {
			return
		}
		parts, err := c.Parts(nil)
		if err != nil {
			return // too large
		}
		for _, text := range parts {
			if _, err := catalogue.ReadPart(text); err != nil {
				t.Fatal(err)
			}
		}
		if all := catalogue.Diff(c, c); len(all) > 0 {
			t.Fatal(all)
		}
		catalogue.Targets(c.Groups)
	})
}
