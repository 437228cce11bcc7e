package inventory_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/mock"
	"github.com/chiba-mesh/chiba/pkg/redfish/inventory"
	"github.com/chiba-mesh/chiba/pkg/redfish/recorded"
)

var update = flag.Bool("update", false, "write the golden files anew")

// record is a small tree of testdata.
func record(tb testing.TB, name string) *mock.Tree {
	tb.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata", name+".txtar"))
	if err != nil {
		tb.Fatal(err)
	}
	bodies := map[string][]byte{}
	for _, f := range archive.Files {
		bodies["/redfish/v1"+f.Name] = f.Data
	}
	tree, err := mock.New(name, bodies)
	if err != nil {
		tb.Fatal(err)
	}
	return tree
}

func crawl(tb testing.TB, g redfish.Getter) *redfish.Tree {
	tb.Helper()
	tree, err := redfish.Crawl(tb.Context(), g, redfish.CrawlLimits{})
	if err != nil {
		tb.Fatal(err)
	}
	return tree
}

// nothingLost checks that each resource that was found has its place.
func nothingLost(t *testing.T, tree *redfish.Tree, inv *inventory.Inventory) {
	t.Helper()
	if inv.Resources+len(inv.Unread) != len(tree.Resources) {
		t.Errorf("%d read and %d unread of %d resources", inv.Resources, len(inv.Unread), len(tree.Resources))
	}
	places := map[string]bool{}
	for _, uri := range inv.URIs() {
		places[uri] = true
	}
	for _, r := range tree.Resources {
		if r.Body != nil && !places[strings.TrimRight(r.URI, "/")] && !places[r.URI] {
			t.Errorf("%s has no place in the inventory", r.URI)
		}
	}
}

func TestGoldenTrees(t *testing.T) {
	trees, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(trees) < 3 {
		t.Fatalf("%d trees, %v", len(trees), err)
	}
	for _, path := range trees {
		name := strings.TrimSuffix(filepath.Base(path), ".txtar")
		t.Run(name, func(t *testing.T) {
			tree := crawl(t, record(t, name))
			inv := inventory.Of(tree)
			nothingLost(t, tree, inv)
			golden(t, filepath.Join("testdata", name+".golden"), inv.Table()+"\n"+inv.String())
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update writes it:\n%s", path, diff)
	}
}

// altered is a record with some bodies changed; "" takes one away.
type altered struct {
	*mock.Tree
	with map[string]string
}

func (a altered) Fetch(ctx context.Context, uri string) ([]byte, error) {
	body, found := a.with[strings.TrimRight(uri, "/")]
	if !found {
		return a.Tree.Fetch(ctx, uri)
	}
	if body == "" {
		return a.Tree.Fetch(ctx, "/redfish/v1/gone")
	}
	return []byte(body), nil
}

func TestDiff(t *testing.T) {
	const dimm, dimms = "/redfish/v1/Systems/1/Memory/B1", "/redfish/v1/Systems/1/Memory"
	before := record(t, "rack-server")
	for _, test := range []struct {
		name string
		with map[string]string
		want []string
	}{
		{"the same", nil, nil},
		{
			"readings and power move", map[string]string{
				"/redfish/v1/Chassis/1/Thermal": `{"@odata.type":"#Thermal.v1_4_0.Thermal","Temperatures":[{"MemberId":"0","Name":"Inlet","ReadingCelsius":31}],
					"Fans":[{"MemberId":"0","FanName":"Fan 1","Reading":5000,"Status":{"State":"StandbyOffline","Health":"Warning"}}]}`,
			}, nil,
		},
		{
			"another module",
			map[string]string{dimm: `{"@odata.type":"#Memory.v1_7_0.Memory","Name":"B1","SerialNumber":"NEW","CapacityMiB":65536,
				"MemoryDeviceType":"DDR4","Manufacturer":"Micron","Status":{"State":"Enabled"}}`},
			[]string{
				"found memory /redfish/v1/Systems/1/Memory/B1#capacity — -> 68.719GB",
				"found memory /redfish/v1/Systems/1/Memory/B1#kind — -> DDR4",
				"found memory /redfish/v1/Systems/1/Memory/B1#manufacturer — -> Micron",
				"changed memory /redfish/v1/Systems/1/Memory/B1#present #f -> #t",
				"found memory /redfish/v1/Systems/1/Memory/B1#serial — -> NEW",
			},
		},
		{
			"a module that can't be read is not removed",
			map[string]string{dimm: ""},
			[]string{
				"lost memory /redfish/v1/Systems/1/Memory/B1#name B1 -> —",
				"lost memory /redfish/v1/Systems/1/Memory/B1#present #f -> —",
			},
		},
		{
			"nor are all, if their list can't be read",
			map[string]string{dimms: ""},
			[]string{"lost memory /redfish/v1/Systems/1/Memory/A1 MEM-A1 -> —", "lost memory /redfish/v1/Systems/1/Memory/B1 B1 -> —"},
		},
		{
			"one that isn't listed any more is",
			map[string]string{dimms: `{"Members":[{"@odata.id":"/redfish/v1/Systems/1/Memory/A1"}]}`},
			[]string{"removed memory /redfish/v1/Systems/1/Memory/B1 B1"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			is, will := inventory.Of(crawl(t, before)), inventory.Of(crawl(t, altered{before, test.with}))
			var got []string
			for _, c := range inventory.Diff(is, will) {
				got = append(got, c.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if same := is.Digest() == will.Digest(); same != (len(test.want) == 0) {
				t.Errorf("the digest is the same: %v; want %v", same, len(test.want) == 0)
			}
		})
	}
}

func TestDiffBackwards(t *testing.T) {
	before := record(t, "rack-server")
	less := altered{before, map[string]string{"/redfish/v1/Systems/1/Memory": `{"Members":[]}`}}
	got := inventory.Diff(inventory.Of(crawl(t, less)), inventory.Of(crawl(t, before)))
	if len(got) != 2 || got[0].What != inventory.Added || !got[0].After.Equal(fleet.Text("MEM-A1")) {
		t.Errorf("got %v", got)
	}
	cut := crawl(t, before)
	cut.Cut = "the time was over"
	cut.Resources = cut.Resources[:3]
	for _, c := range inventory.Diff(inventory.Of(crawl(t, before)), inventory.Of(cut)) {
		if c.What == inventory.Removed {
			t.Errorf("a tree that is not whole removes nothing: %s", c)
		}
	}
}

func TestDigestIgnoresOrder(t *testing.T) {
	tree := crawl(t, record(t, "rack-server"))
	want := inventory.Of(tree).Digest()
	for i, j := 0, len(tree.Resources)-1; i < j; i, j = i+1, j-1 {
		tree.Resources[i], tree.Resources[j] = tree.Resources[j], tree.Resources[i]
	}
	if got := inventory.Of(tree).Digest(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzOf holds that no answer of a BMC makes us fall, or loses a resource.
func FuzzOf(f *testing.F) {
	f.Add([]byte(`{"@odata.type":"#Processor.v1.Processor","Status":[{"State":["x"]}],"TotalCores":{"a":1}}`))
	f.Add([]byte(`{"@odata.type":["#Power"],"Members":[{"@odata.id":7,"x":1}],"PowerSupplies":{"@odata.id":"/redfish/v1"}}`))
	f.Add([]byte(`{"@odata.type":"#Thermal.v1.Thermal","Fans":[null,1,[{}],{"Name":{}}]}`))
	for _, body := range recorded.Bodies(f) {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		tree, err := mock.New("fuzz", map[string][]byte{"/redfish/v1": body})
		if err != nil {
			t.Fatal(err)
		}
		got := crawl(t, tree)
		inv := inventory.Of(got)
		nothingLost(t, got, inv)
		if len(inventory.Diff(inv, inventory.Of(got))) > 0 || inv.Digest() == "" {
			t.Errorf("not the same as itself: %v", inventory.Diff(inv, inventory.Of(got)))
		}
	})
}

func BenchmarkOf(b *testing.B) {
	tree := crawl(b, record(b, "rack-server"))
	b.ReportAllocs()
	for b.Loop() {
		inventory.Of(tree).Digest()
	}
}
