package bmc_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

func TestStats(t *testing.T) {
	b, _, l := start(t, quick())
	if s := l.Stats(); s != (bmc.Stats{Budget: 1, Breaker: "closed", Profile: "generic"}) {
		t.Errorf("before the first request: %+v", s)
	}
	if _, err := l.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp", "bmc.version")); err != nil {
		t.Fatal(err)
	}
	s := l.Stats()
	if s.Requests != uint64(b.Stats().Total()) || s.Logins != 1 || s.Silent != 0 || !s.LoggedIn || s.Latency <= 0 || s.Profile != "OpenBMC" {
		t.Errorf("%+v; the BMC counted %d requests", s, b.Stats().Total())
	}
	if err := b.Fault(bmcsim.Fault{Kind: bmcsim.Drop}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := l.Summary(t.Context()); !fault.Is(err, fault.Unavailable) {
			t.Errorf("got %v; want unavailable", err)
		}
	}
	if s = l.Stats(); s.Breaker != "open" || s.Silent < 3 || s.Inside != 0 || s.Waiting != 0 {
		t.Errorf("on a BMC that drops its connections: %+v", s)
	}
}

// sixty is a BMC with sixty sensors, none of which tells its kind by its id.
func sixty() map[string]string {
	docs := map[string]string{
		"/redfish/v1/":                  `{"Systems":{"@odata.id":"/redfish/v1/Systems"},"Links":{"Sessions":{"@odata.id":"/redfish/v1/Sessions"}}}`,
		"/redfish/v1/Systems":           `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`,
		"/redfish/v1/Systems/1":         `{"Id":"1","PowerState":"On","Links":{"Chassis":[{"@odata.id":"/redfish/v1/Chassis/1"}]}}`,
		"/redfish/v1/Chassis/1":         `{"Sensors":{"@odata.id":"/redfish/v1/Chassis/1/Sensors"}}`,
		"/redfish/v1/Chassis/1/Sensors": "",
	}
	var members []string
	for i := range 60 {
		uri := fmt.Sprintf("/redfish/v1/Chassis/1/Sensors/%d", i)
		docs[uri] = fmt.Sprintf(`{"@odata.id":%q,"Id":"%d","Name":"cpu%d","Reading":%d,"ReadingType":"Temperature","PhysicalContext":"CPU","ReadingUnits":"Cel"}`, uri, i, i, 40+i%9)
		members = append(members, fmt.Sprintf(`{"@odata.id":%q}`, uri))
	}
	docs["/redfish/v1/Chassis/1/Sensors"] = `{"Members":[` + strings.Join(members, ",") + `]}`
	return docs
}

// A BMC that refuses what is more than three at once gets less, and still
// everything is read.
func TestBusyBMCIsAskedLess(t *testing.T) {
	var under, refused, peak atomic.Int32
	v := &vendor{docs: sixty()}
	v.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/Sensors/") {
			return false
		}
		n := under.Add(1)
		defer under.Add(-1)
		peak.Store(max(peak.Load(), n))
		if n > 3 {
			refused.Add(1)
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		<-time.After(5 * time.Millisecond)
		return false
	}
	_, l := v.start(t, func(c *bmc.Config) { c.Streams = 8 })
	r, err := l.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp"))
	if err != nil || len(r[0].Instances) != 60 {
		t.Fatalf("%d of 60 sensors, %v", len(r[0].Instances), err)
	}
	s := l.Stats()
	if s.Busy != uint64(refused.Load()) || refused.Load() > 8 {
		t.Errorf("the BMC refused %d, the lane counts %d; want the same and few", refused.Load(), s.Busy)
	}
	if peak.Load() > 8 || s.Budget > 8 {
		t.Errorf("%d at once, the budget is %d; the bound is 8", peak.Load(), s.Budget)
	}
	t.Logf("up to %d at once, %d refused, the budget is %d", peak.Load(), refused.Load(), s.Budget)
}

// Nobody reads more at once than is said from outside, also if that is said later.
func TestTheMostReadsAtOnceAreSaidFromOutside(t *testing.T) {
	var under, peak atomic.Int32
	var most atomic.Int32
	v := &vendor{docs: sixty()}
	v.hook = func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/Sensors/") {
			return false
		}
		n := under.Add(1)
		defer under.Add(-1)
		peak.Store(max(peak.Load(), n))
		<-time.After(2 * time.Millisecond)
		return false
	}
	_, l := v.start(t, func(c *bmc.Config) { c.Streams, c.Most = 8, func() int { return int(most.Load()) } })
	for _, want := range []int32{2, 1, 8} {
		most.Store(want)
		if _, err := l.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp")); err != nil { // what is under way ends
			t.Fatal(err)
		}
		peak.Store(0)
		if _, err := l.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp")); err != nil {
			t.Fatal(err)
		}
		if peak.Load() > want {
			t.Errorf("%d at once, %d are allowed", peak.Load(), want)
		}
	}
}

// Sixty sensors once, on a lane that knows them: sixty requests where the BMC
// can't expand, one where it can.
func TestRequestsOfSixtySensors(t *testing.T) {
	expanding := sixty()
	expanding["/redfish/v1/"] = strings.Replace(expanding["/redfish/v1/"], `{"Systems"`,
		`{"ProtocolFeaturesSupported":{"ExpandQuery":{"NoLinks":true}},"Systems"`, 1)
	var whole []string
	for i := range 60 {
		whole = append(whole, expanding[fmt.Sprintf("/redfish/v1/Chassis/1/Sensors/%d", i)])
	}
	expanding["/redfish/v1/Chassis/1/Sensors?$expand=.($levels=1)"] = `{"Members":[` + strings.Join(whole, ",") + `]}`
	for _, c := range []struct {
		name string
		docs map[string]string
		want int
	}{{"one by one", sixty(), 60}, {"expanded", expanding, 1}} {
		v := &vendor{docs: c.docs}
		_, l := v.start(t, func(c *bmc.Config) { c.Streams = 8 })
		for round := range 2 {
			v.reset()
			if r, err := l.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp")); err != nil || len(r[0].Instances) != 60 {
				t.Fatalf("%s: %+v, %v", c.name, r, err)
			}
			if n := len(strings.Split(v.requests(), "\n")); round == 1 && n != c.want {
				t.Errorf("%s: %d requests; want %d", c.name, n, c.want)
			}
		}
	}
}

// What was read is known afterwards, of a BMC that is asked one by one, of one that
// tells all at once and of one with the older resources; nothing is asked for it.
func TestSensorsAreRemembered(t *testing.T) {
	for name, docs := range map[string]map[string]string{"one by one": sixty(), "in one piece": expanding(""), "older": idrac()} {
		v, l := serve(t, docs)
		if got := l.Sensors(); got != nil {
			t.Errorf("%s: before the first read: %+v", name, got)
		}
		before := time.Now()
		if _, err := l.Read(t.Context(), bmc.Monitor, refs(t, "temp.max")); err != nil {
			t.Fatal(err)
		}
		v.reset()
		all := l.Sensors()
		if len(all) == 0 || v.requests() != "" {
			t.Errorf("%s: %d sensors for the requests %q", name, len(all), v.requests())
		}
		for _, s := range all {
			if !s.Value.Known() || s.Name == "" || s.At.Before(before) {
				t.Errorf("%s: %+v", name, s)
			}
		}
	}
}
