package inventory_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/inventory"
	"github.com/chiba-mesh/chiba/pkg/redfish/recorded"
)

func TestDocRoundTrip(t *testing.T) {
	for _, name := range []string{"rack-server", "broken", "deep-oem"} {
		want := inventory.Of(crawl(t, record(t, name)))
		text, err := want.JSON()
		if err != nil {
			t.Fatal(err)
		}
		doc, err := inventory.ReadDoc(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := doc.Inventory()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Table()+want.String(), got.Table()+got.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got.Digest() != want.Digest() || doc.Digest != want.Digest() {
			t.Errorf("%s: the digest has changed", name)
		}
	}
}

func TestDocSaysWhereAFactStands(t *testing.T) {
	text, err := inventory.Of(crawl(t, record(t, "rack-server"))).JSON()
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Parts []struct {
			Kind, URI string
			Facts     map[string]map[string]any
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	for _, p := range doc.Parts {
		if p.Kind == "memory" && strings.HasSuffix(p.URI, "/A1") {
			want := map[string]any{"value": 34359738368.0, "unit": "B", "source": "/redfish/v1/Systems/1/Memory/A1#/CapacityMiB"}
			if diff := cmp.Diff(want, p.Facts["capacity"]); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if p.Facts["part_number"] == nil || p.Facts["ecc"] == nil {
				t.Errorf("the facts are %v", p.Facts)
			}
			return
		}
	}
	t.Error("no module A1")
}

func TestReadDocRefusesGarbage(t *testing.T) {
	if _, err := inventory.ReadDoc([]byte(`{"parts":7`)); err == nil {
		t.Error("no error")
	}
	doc, err := inventory.ReadDoc([]byte(`{"parts":[{"kind":"later","uri":"/x"},{"kind":"drive","uri":"/d","facts":{"capacity":{"value":1,"unit":"parsec"}}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := doc.Inventory(); err == nil || !strings.Contains(err.Error(), "parsec") {
		t.Errorf("got %v", err)
	}
}

func news(changes []inventory.Change) (all []string) {
	for _, c := range inventory.News(changes) {
		all = append(all, c.String())
	}
	return all
}

func TestNews(t *testing.T) {
	const dimms = "/redfish/v1/Systems/1/Memory"
	empty := `{"@odata.type":"#Memory.v1_7_0.Memory","Name":"B1","Status":{"State":"Absent"}}`
	full := `{"@odata.type":"#Memory.v1_7_0.Memory","Name":"B1","SerialNumber":"NEW","CapacityMiB":65536,"Status":{"State":"Enabled"}}`
	before := record(t, "rack-server")
	for _, test := range []struct {
		name      string
		was, will map[string]string
		want      []string
	}{
		{"nothing", nil, nil, nil},
		{"a slot is filled", map[string]string{dimms + "/B1": empty}, map[string]string{dimms + "/B1": full}, []string{"added memory " + dimms + "/B1 NEW"}},
		{"a slot is emptied", map[string]string{dimms + "/B1": full}, map[string]string{dimms + "/B1": empty}, []string{"removed memory " + dimms + "/B1 NEW"}},
		{
			"a module is another one",
			map[string]string{dimms + "/B1": full},
			map[string]string{dimms + "/B1": strings.Replace(full, "NEW", "NEWER", 1)},
			[]string{"changed memory " + dimms + "/B1#serial NEW -> NEWER"},
		},
		{"it can't be read", map[string]string{dimms + "/B1": full}, map[string]string{dimms: ""}, nil},
		{"it can be read again", map[string]string{dimms: ""}, map[string]string{dimms + "/B1": full}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := news(inventory.Diff(inventory.Of(crawl(t, altered{before, test.was})), inventory.Of(crawl(t, altered{before, test.will}))))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestKeepSpansABlindDay: a module that could not be read between two inventories
// is neither gone nor new, and is noticed if it is another one.
func TestKeepSpansABlindDay(t *testing.T) {
	const dimms = "/redfish/v1/Systems/1/Memory"
	before := record(t, "rack-server")
	first := inventory.Of(crawl(t, before))
	for _, gap := range []string{dimms, dimms + "/A1"} {
		blind := inventory.Of(crawl(t, altered{before, map[string]string{gap: ""}}))
		if got := news(inventory.Diff(first, blind)); len(got) > 0 {
			t.Errorf("%s can't be read: %v", gap, got)
		}
		base := inventory.Keep(first, blind)
		if got := news(inventory.Diff(base, inventory.Of(crawl(t, before)))); len(got) > 0 {
			t.Errorf("%s can be read again: %v", gap, got)
		}
		other := inventory.Of(crawl(t, altered{before, map[string]string{dimms + "/A1": `{"@odata.type":"#Memory.v1_7_0.Memory","Name":"A1","SerialNumber":"OTHER"}`}}))
		got := news(inventory.Diff(base, other))
		if want := "changed memory " + dimms + "/A1#serial MEM-A1 -> OTHER"; len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("%s came back as another: %v", gap, got)
		}
	}
	if len(first.Memory) != 2 || first.Digest() != inventory.Of(crawl(t, before)).Digest() {
		t.Error("Keep has changed what it was given")
	}
}

// TestHide: a BMC that says a password where a name is due gives it to nobody.
func TestHide(t *testing.T) {
	const secret = "0penBmc"
	odd := altered{record(t, "rack-server"), map[string]string{
		"/redfish/v1/Systems/1":           `{"@odata.type":"#ComputerSystem.0penBmc.ComputerSystem","Model":"x0penBmcx","SerialNumber":["a",{"0penBmc":1}],"SKU":"n/a","` + secret + `":1,"` + secret + `":2,"Memory":{"@odata.id":"/redfish/v1/0penBmc"}}`,
		"/redfish/v1/Systems/1/Memory/A1": `0penBmc`,
	}}
	inv := inventory.Of(crawl(t, odd))
	inv.Hide(strings.NewReplacer(secret, "(secret)").Replace)
	text, err := inv.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if all := string(text) + inv.Table() + inv.String(); strings.Contains(all, secret) || !strings.Contains(all, "x(secret)x") {
		t.Errorf("it says:\n%s", all)
	}
}

// FuzzDoc holds that what a disk or a peer gives us does no harm.
func FuzzDoc(f *testing.F) {
	f.Add([]byte(`{"parts":[{"kind":"drive","uri":"/d","facts":{"serial":{"value":"x"}}}]}`))
	for _, body := range recorded.Bodies(f) {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := inventory.ReadDoc(text)
		if err != nil {
			return
		}
		inv, err := doc.Inventory()
		if err != nil {
			return
		}
		again, err := inv.JSON()
		if err != nil || bytes.Contains(again, []byte("\n")) {
			t.Errorf("%q, %v", again, err)
		}
	})
}
