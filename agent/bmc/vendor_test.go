package bmc_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// vendor is a BMC of another make: documents by path, and a log of what was
// asked. The shapes are those of an iDRAC 9, much shortened.
type vendor struct {
	mu   sync.Mutex
	docs map[string]string
	log  []string
	seen []string // bodies of writes
	// hook answers in place of the documents if it reports true. It may block.
	hook func(w http.ResponseWriter, r *http.Request) bool
}

func (v *vendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if v.hook != nil && v.hook(w, r) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.log = append(v.log, r.Method+" "+r.URL.RequestURI())
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	uri := r.URL.RequestURI()
	if r.Method == http.MethodPost && uri == "/redfish/v1/Sessions" {
		w.Header().Set("X-Auth-Token", "tok")
		w.Header().Set("Location", "https://idrac.example/redfish/v1/Sessions/9")
		w.WriteHeader(http.StatusCreated)
		return
	}
	v.log = append(v.log, r.Method+" "+uri)
	doc, found := v.docs[uri]
	switch {
	case r.Method != http.MethodGet:
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
		v.seen = append(v.seen, string(body))
	case !found:
		w.WriteHeader(http.StatusNotFound)
	case doc == "501":
		w.WriteHeader(http.StatusNotImplemented)
	default:
		_, _ = w.Write([]byte(doc))
	}
}

func (v *vendor) reset() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.log, v.seen = nil, nil
}

func (v *vendor) requests() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strings.Join(v.log, "\n")
}

func serve(tb testing.TB, docs map[string]string) (*vendor, *bmc.Lane) {
	tb.Helper()
	v := &vendor{docs: docs}
	_, l := v.start(tb, nil)
	return v, l
}

// start serves the vendor over HTTP/2 if the lane may use several streams.
func (v *vendor) start(tb testing.TB, change func(*bmc.Config)) (*store, *bmc.Lane) {
	tb.Helper()
	st := newStore("calvin")
	cfg := bmc.Config{
		Node: "n1", Vault: st, Digests: st, Poll: time.Millisecond, Settle: 20 * time.Millisecond,
		BMC: redfish.Config{BMC: "b1", Sessions: st},
	}
	if change != nil {
		change(&cfg)
	}
	s := httptest.NewUnstartedServer(v)
	s.EnableHTTP2 = cfg.Streams > 0
	s.StartTLS()
	tb.Cleanup(s.Close)
	cfg.BMC.Address, cfg.BMC.Pin = s.Listener.Addr().String(), redfish.PinOf(s.Certificate())
	l, err := bmc.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close(context.WithoutCancel(tb.Context())) })
	return st, l
}

func idrac() map[string]string {
	return map[string]string{
		"/redfish/v1/": `{"Systems":{"@odata.id":"/redfish/v1/Systems"},"Chassis":{"@odata.id":"/redfish/v1/Chassis"},"Managers":{"@odata.id":"/redfish/v1/Managers"},
			"AccountService":{"@odata.id":"/redfish/v1/Managers/iDRAC.Embedded.1/AccountService"},"Links":{"Sessions":{"@odata.id":"/redfish/v1/Sessions"}}}`,
		"/redfish/v1/Systems": `{"Members":[{"@odata.id":"/redfish/v1/Systems/System.Embedded.1"}]}`,
		"/redfish/v1/Systems/System.Embedded.1": `{"Id":"System.Embedded.1","PowerState":"On","IndicatorLED":"Blinking","AssetTag":null,"SKU":"FOOBAZ",
			"Status":{"Health":"OK","HealthRollup":"Warning"},"MemorySummary":{"TotalSystemMemoryGiB":0.0,"Status":{"Health":null}},
			"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"UefiHttp","BootSourceOverrideTarget@Redfish.AllowableValues":["None","Pxe","UefiHttp"]},
			"Actions":{"#ComputerSystem.Reset":{"ResetType@Redfish.AllowableValues":["On","ForceOff","ForceRestart","GracefulShutdown","PushPowerButton","Nmi"],
			"target":"/redfish/v1/Systems/System.Embedded.1/Actions/ComputerSystem.Reset"}},
			"EthernetInterfaces":{"@odata.id":"/redfish/v1/Systems/System.Embedded.1/EthernetInterfaces"},
			"Links":{"Chassis":[{"@odata.id":"/redfish/v1/Chassis/System.Embedded.1"}],"ManagedBy":[{"@odata.id":"/redfish/v1/Managers/iDRAC.Embedded.1"}]}}`,
		"/redfish/v1/Systems/System.Embedded.1/EthernetInterfaces": `{"Members":[]}`,
		"/redfish/v1/Chassis":                   `{"Members":[{"@odata.id":"/redfish/v1/Chassis/System.Embedded.1"},{"@odata.id":"/redfish/v1/Chassis/Broken"}]}`,
		"/redfish/v1/Chassis/System.Embedded.1": `{"Thermal":{"@odata.id":"/redfish/v1/Chassis/System.Embedded.1/Thermal"},"Power":{"@odata.id":"/redfish/v1/Chassis/System.Embedded.1/Power"}}`,
		"/redfish/v1/Managers/iDRAC.Embedded.1": `{"FirmwareVersion":"3.34.34.34","UUID":3,"Status":{"Health":"OK","State":"Enabled"}}`,
		"/redfish/v1/Chassis/System.Embedded.1/Thermal": `{"Temperatures":[
			{"Name":"System Board Inlet Temp","PhysicalContext":"SystemBoard","ReadingCelsius":15},
			{"Name":"CPU1 Temp","PhysicalContext":"CPU","ReadingCelsius":"51"},{"Name":"CPU2 Temp","PhysicalContext":"CPU","ReadingCelsius":null,"Status":{"State":null}},
			{"Name":"DIMM A1","ReadingCelsius":88,"Status":{"State":"Absent"}}],
			"Fans":[{"FanName":"Fan1A","Reading":4680,"ReadingUnits":"RPM","Status":{"Health":"OK"}},{"FanName":"Fan1B","Reading":4560,"ReadingUnits":"RPM","Status":{"Health":"Critical"}}]}`,
		"/redfish/v1/Chassis/System.Embedded.1/Power": `{"PowerControl":[{"Name":"System Power Control","PowerConsumedWatts":212,"PowerLimit":{"LimitInWatts":760}},{"Name":"CPU","PowerConsumedWatts":90}],
			"PowerSupplies":[{"Name":"PS1 Status","Status":{"Health":"OK"}},{"Name":"PS2 Status","Status":{"Health":null,"State":"Absent"}}],"Redundancy":[]}`,
		"/redfish/v1/Managers/iDRAC.Embedded.1/AccountService": `{"Accounts":{"@odata.id":"/redfish/v1/Managers/iDRAC.Embedded.1/Accounts"}}`,
		"/redfish/v1/Managers/iDRAC.Embedded.1/Accounts":       `{"Members":[{"@odata.id":"/redfish/v1/Managers/iDRAC.Embedded.1/Accounts/1"},{"@odata.id":"/redfish/v1/Managers/iDRAC.Embedded.1/Accounts/2"}]}`,
		"/redfish/v1/Managers/iDRAC.Embedded.1/Accounts/1":     `{"UserName":"","RoleId":"None"}`,
		"/redfish/v1/Managers/iDRAC.Embedded.1/Accounts/2":     `{"UserName":"root","RoleId":"Administrator"}`,
	}
}

func TestReadsAnOlderVendor(t *testing.T) {
	v, l := serve(t, idrac())
	names := []string{
		"cpu.temp", "temp.inlet", "temp.max", "fan.speed", "fan.health", "power.watts", "power.cap", "power.supply.health", "power.redundancy",
		"power.state", "system.health", "system.led", "system.boot-target", "system.asset-tag", "system.sku", "memory.size", "cpu.rate",
		"bmc.version", "bmc.uuid", "network.ip", "storage.health",
	}
	got, err := l.Read(t.Context(), bmc.Person, refs(t, names...))
	if err != nil {
		t.Fatal(err)
	}
	want := `cpu.temp 51C
temp.inlet 15C
temp.max 51C
fan.speed 4560rpm
fan.health Critical
power.watts 212W
power.cap 760W
power.supply.health OK
power.redundancy — (this BMC reports no redundancy of the power supplies)
power.state on
system.health Warning
system.led blink
system.boot-target http
system.asset-tag — (this BMC reports no asset tag)
system.sku FOOBAZ
memory.size — (this BMC reports no memory size)
cpu.rate — (this BMC reports no processor utilization)
bmc.version 3.34.34.34
bmc.uuid 3
network.ip — (this BMC reports no host network interface)
storage.health — (this BMC reports no health of the storage)
`
	if diff := cmp.Diff(want, shown(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	v.reset()
	if _, err := l.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp", "fan.speed", "temp.inlet")); err != nil {
		t.Fatal(err)
	}
	if want := "GET /redfish/v1/Chassis/System.Embedded.1/Thermal\nGET /redfish/v1/Chassis/System.Embedded.1/Power"; len(v.requests()) != len(want) {
		t.Errorf("a steady monitor asks\n%s", v.requests())
	}
}

func TestPowerOfAnOlderVendor(t *testing.T) {
	v, l := serve(t, idrac())
	// It has no PowerCycle, and shows no sign of a restart: neither a time nor a
	// progress. That is told as it is.
	r := l.Do(t.Context(), command(scl.DoPower, "cycle"))
	if r.Status != fleet.Attempted || r.Error == "" || v.seen[0] != `{"ResetType":"ForceRestart"}` {
		t.Errorf("%s by %s", line(r), v.seen)
	}
	r = l.Do(t.Context(), command(scl.DoPower, "graceful-restart"))
	if r.Status != fleet.NotProvided || !strings.Contains(r.Error, "only On, ForceOff") {
		t.Errorf("%s", line(r))
	}
	changes := plans(l.Plan(t.Context(), []scl.Setting{
		field(scl.Boot, "", "target", fleet.Text("http")), userRole("root", "Administrator"), userSecret("root", "calvin"),
		field(scl.Interface, "eth0", "dhcp", fleet.Bool(true)),
	}))
	want := []string{
		`boot.target: same, "http" -> "http"`, `bmc.user.root.role: same, "Administrator" -> "Administrator"`, `bmc.user.root.password: same, "(secret)" -> "(secret)"`,
		`network.eth0.dhcp: unsupported, "" -> "#t" (not supported by this BMC: it shows no host network interface)`,
	}
	if diff := cmp.Diff(want, changes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// expanding is a BMC whose sensors come in one piece.
func expanding(answer string) map[string]string {
	docs := idrac()
	docs["/redfish/v1/"] = strings.Replace(docs["/redfish/v1/"], `{"Systems"`, `{"ProtocolFeaturesSupported":{"ExpandQuery":{"NoLinks":true}},"Systems"`, 1)
	docs["/redfish/v1/Chassis/System.Embedded.1"] = `{"Sensors":{"@odata.id":"/S"}}`
	docs["/S"] = `{"Members":[{"@odata.id":"/S/a"},{"@odata.id":"/S/b"}]}`
	docs["/S/a"] = `{"Id":"a","Name":"x","PhysicalContext":"CPU","ReadingType":"Temperature","ReadingUnits":"Cel","Reading":60}`
	docs["/S/b"] = `{"Id":"b","Name":"CPU Usage","ReadingType":"Percent","ReadingUnits":"%","Reading":7}`
	docs["/S?$expand=.($levels=1)"] = answer
	if answer == "" {
		docs["/S?$expand=.($levels=1)"] = `{"Members":[` + docs["/S/a"] + "," + docs["/S/b"] + `]}`
	}
	return docs
}

func TestExpandIsUsedWhereAnnounced(t *testing.T) {
	tests := []struct {
		answer string
		want   int // requests of a steady read of both
	}{
		{"", 1},
		{"501", 2},                   // announced and not there
		{`{"Members":"nothing"}`, 2}, // or broken
	}
	for _, test := range tests {
		v, l := serve(t, expanding(test.answer))
		for range 2 {
			v.reset()
			got, err := l.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp", "cpu.rate"))
			if err != nil || shown(got) != "cpu.temp 60C\ncpu.rate 7%\n" {
				t.Fatalf("%q: %v, %s", test.answer, err, shown(got))
			}
		}
		if n := len(strings.Split(v.requests(), "\n")); n != test.want {
			t.Errorf("%q: %d requests, want %d:\n%s", test.answer, n, test.want, v.requests())
		}
	}
}

// A firmware update may move everything: what is gone is looked for anew.
func TestMovedResourcesAreFoundAgain(t *testing.T) {
	v, l := serve(t, idrac())
	if _, err := l.Summary(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.mu.Lock()
	v.docs["/redfish/v1/Systems"] = `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`
	v.docs["/redfish/v1/Systems/1"] = v.docs["/redfish/v1/Systems/System.Embedded.1"]
	delete(v.docs, "/redfish/v1/Systems/System.Embedded.1")
	v.mu.Unlock()
	if _, err := l.Summary(t.Context()); err == nil {
		t.Error("the old path answered")
	}
	if _, err := l.Summary(t.Context()); err != nil {
		t.Errorf("after the move: %v", err)
	}
}
