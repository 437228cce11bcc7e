package bmc_test

import (
	"flag"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

var update = flag.Bool("update", false, "write the golden readings anew")

// allElements is what is read of each make: all that the reading half knows.
func allElements() []string {
	return strings.Fields(`cpu.temp cpu.rate cpu.power memory.temp temp.inlet temp.max fan.speed fan.percent fan.health power.watts power.cap
	power.supply.health power.redundancy power.state system.health system.model system.serial system.sku system.asset-tag system.boot-target
	system.boot-progress system.led bios.version bios.attr.BootMode cpu.count cpu.model cpu.health memory.size memory.health memory.ecc-errors storage.health
	storage.drive.count storage.drive.health storage.drive.life storage.volume.boot.state network.ip network.mac network.speed network.link bmc.version bmc.health bmc.state
	bmc.sessions firmware.bios.version firmware.bios.updateable firmware.nic.version log.critical log.last`)
}

// makeOf reads a make's documents by path, and what is wanted of them.
func makeOf(tb testing.TB, name string) (docs map[string]string, archive *txtar.Archive) {
	tb.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata", "makes", name+".txtar"))
	if err != nil {
		tb.Fatal(err)
	}
	docs = map[string]string{}
	for _, f := range archive.Files[:len(archive.Files)-1] {
		docs[f.Name] = string(f.Data)
	}
	return docs, archive
}

func makes() []string { return []string{"openbmc-stock", "idrac", "ilo", "supermicro"} }

// TestMakes reads every element of BMCs of several makes, twice: what is remembered
// of the first time changes nothing.
func TestMakes(t *testing.T) {
	for _, name := range makes() {
		t.Run(name, func(t *testing.T) {
			docs, archive := makeOf(t, name)
			_, l := serve(t, docs)
			want := &archive.Files[len(archive.Files)-1]
			for range 2 {
				got, err := l.Read(t.Context(), bmc.Person, refs(t, allElements()...))
				if err != nil {
					t.Fatal(err)
				}
				if *update {
					want.Data = []byte(shown(got))
					if err := os.WriteFile(filepath.Join("testdata", "makes", name+".txtar"), txtar.Format(archive), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if diff := cmp.Diff(string(want.Data), shown(got)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

// damage is what may become of one resource in the midst of a read.
var damage = []struct {
	name     string
	status   int
	body     string
	answered bool // with a statement about the resource, so that "reports no" is true
}{
	{"404", 404, ``, true},
	{"500", 500, `{"error":{"code":"Base.1.0.InternalError"}}`, false},
	{"mistyped", 200, `{"Members":"x","Id":[],"Name":{},"Reading":"hot","Status":7,"Links":[],"Sensors":"#","Systems":5,"Fans":1,"PowerControl":"p","Attributes":[],"Drives":{}}`, true},
	{"cut off", 200, `{"Members":[{"@odata.id":"/redf`, false},
}

// TestMakesWithOneBrokenResource breaks every resource of every make in every way.
// Each element still reads as a value or as unknown with a reason, and the reason is
// not that the BMC reports no such thing where it did not say so.
func TestMakesWithOneBrokenResource(t *testing.T) {
	for _, name := range makes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			docs, _ := makeOf(t, name)
			_, sound := serve(t, docs)
			before, err := sound.Read(t.Context(), bmc.Person, refs(t, allElements()...))
			if err != nil {
				t.Fatal(err)
			}
			for _, uri := range slices.Sorted(maps.Keys(docs)) {
				for _, d := range damage {
					v := &vendor{docs: docs, hook: func(w http.ResponseWriter, r *http.Request) bool {
						if r.URL.RequestURI() != uri || r.Method != http.MethodGet {
							return false
						}
						w.WriteHeader(d.status)
						_, _ = w.Write([]byte(d.body))
						return true
					}}
					_, l := v.start(t, nil)
					got, err := l.Read(t.Context(), bmc.Person, refs(t, allElements()...))
					for i, r := range got {
						why := r.Value.Why()
						if !r.Value.Known() && why == "" {
							t.Errorf("%s as %s: %s is unknown without a reason", uri, d.name, r.Ref)
						}
						if !d.answered && before[i].Value.Known() && strings.Contains(why, "this BMC reports no") {
							t.Errorf("%s as %s: %s is said to be absent: %s", uri, d.name, r.Ref, why)
						}
						if r.Value.Known() && before[i].Value.Known() && r.Value.Kind() != before[i].Value.Kind() {
							t.Errorf("%s as %s: %s reads as %s, was %s", uri, d.name, r.Ref, r.Value, before[i].Value)
						}
					}
					if state, _ := l.State(); state == fleet.Unreachable {
						t.Errorf("%s as %s: one bad resource makes the node unreachable: %v", uri, d.name, err)
					}
				}
			}
		})
	}
}

// One slow resource costs the element that it is of, and no other.
func TestSlowMemberHarmsNoOther(t *testing.T) {
	docs, _ := makeOf(t, "openbmc-stock")
	v := &vendor{docs: docs, hook: func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "temperature_cpu1") {
			return false
		}
		<-r.Context().Done()
		return true
	}}
	_, l := v.start(t, func(c *bmc.Config) { c.BMC.Limits = redfish.Limits{Read: 300 * time.Millisecond} })
	got, err := l.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp", "temp.inlet", "fan.speed", "power.state"))
	want := "cpu.temp 57.5C\ntemp.inlet 22.25C\nfan.speed 4000rpm\npower.state on\n"
	if diff := cmp.Diff(want, shown(got)); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if all := got[0].Instances; len(all) != 2 || all[1].Value.Known() || !strings.Contains(all[1].Value.Why(), "deadline") {
		t.Errorf("cpu.temp is made of %+v", all)
	}
}

// A collection that says that it is endless, that pages in a circle, or that names
// what is on another host, is read to its bounds.
func TestThreat35LyingCollections(t *testing.T) {
	for _, c := range []struct {
		name, members string
		requests      int // of sensors and their collection, at most
	}{
		{"a count that is none", `"Members@odata.count":-5,"Members":[{"@odata.id":"/S/a"}]`, 2},
		{"a count beyond all", `"Members@odata.count":1e300,"Members":[{"@odata.id":"/S/a"}]`, 2},
		{"a circle", `"Members":[{"@odata.id":"/S/a"}],"Members@odata.nextLink":"/S"`, 2},
		{"a next page elsewhere", `"Members":[{"@odata.id":"/S/a"}],"Members@odata.nextLink":"https://elsewhere.example/S"`, 2},
		{"one member a thousand times", `"Members":[` + strings.Repeat(`{"@odata.id":"/S/a"},`, 1000) + `{"@odata.id":"/S/a"}]`, 2},
		{"members elsewhere", `"Members":[{"@odata.id":"https://elsewhere.example/a"},{"@odata.id":"//elsewhere.example"},{"@odata.id":"/S/a"}]`, 2},
		{"too many", `"Members":[` + manyMembers(5000) + `{"@odata.id":"/S/a"}]`, 1026},
	} {
		docs := expanding("501")
		docs["/redfish/v1/"] = idrac()["/redfish/v1/"]
		docs["/S"] = `{` + c.members + `}`
		v, l := serve(t, docs)
		got, err := l.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp"))
		if c.name != "too many" && (err != nil || shown(got) != "cpu.temp 60C\n") {
			t.Errorf("%s: %v, %s", c.name, err, shown(got))
		}
		if n := strings.Count(v.requests(), "GET /S"); n > c.requests {
			t.Errorf("%s: %d requests; want %d at most", c.name, n, c.requests)
		}
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`{"@odata.id":"/S/x` + strings.Repeat("0", i%3) + string(rune('a'+i%26)) + strings.Repeat("z", i/78) + `"},`)
	}
	return b.String()
}
