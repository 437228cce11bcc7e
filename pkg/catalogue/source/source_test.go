package source_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/catalogue/source"
)

var update = flag.Bool("update", false, "write the golden files anew")

const sample = "../../../docs/examples/site.yaml"

// Everything that is wrong with a file is told at once, with its line and what was
// meant.
func TestWhatIsWrong(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c, found := source.Read(filepath.Base(path), text)
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
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	c, found := source.Read("site.yaml", text)
	if len(found) > 0 {
		t.Fatal(found)
	}
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

// Whatever the file is, it is read or refused, soon and without a panic; and what is
// read has parts that can be read.
func FuzzRead(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(files, sample) {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(strings.Repeat("[", 20_000)))
	f.Add([]byte(strings.Repeat("- ", 20_000)))
	f.Add([]byte("a: &a [*a, *a]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, found := source.Read("f", text)
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
		for _, p := range parts {
			if _, err := catalogue.ReadPart(p); err != nil {
				t.Fatal(err)
			}
		}
		if all := catalogue.Diff(c, c); len(all) > 0 {
			t.Fatal(all)
		}
		catalogue.Targets(c.Groups)
	})
}
