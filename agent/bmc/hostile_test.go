package bmc_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// attacks are what a hostile BMC may answer to a read.
func attacks(tb testing.TB, elsewhere string) map[string]http.HandlerFunc {
	tb.Helper()
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(bytes.Repeat([]byte(" "), 4<<20))
	_ = z.Close()
	say := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
	}
	member := `{"Id":"a","Name":"cpu","ReadingType":"Temperature","ReadingUnits":"Cel","Reading":60},`
	return map[string]http.HandlerFunc{
		"endless members": func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(`{"Members":[`))
			for r.Context().Err() == nil {
				if _, err := w.Write([]byte(strings.Repeat(member, 500))); err != nil {
					return
				}
			}
		},
		"many members":      say(`{"Members":[` + strings.Repeat(member, 60_000) + `{}]}`),
		"deep":              say(`{"Members":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`),
		"deep in a member":  say(`{"Members":[{"Id":"a","Status":` + strings.Repeat(`{"Status":`, 100_000) + `1` + strings.Repeat("}", 100_000) + `}]}`),
		"a long name":       say(`{"Members":[{"Id":"` + strings.Repeat("a", 4<<20) + `","Name":"` + strings.Repeat("é", 1<<20) + `","ReadingType":"Temperature","Reading":1}]}`),
		"a page in circles": say(`{"Members":[` + member + `{}],"Members@odata.nextLink":"/S?$expand=.($levels=1)"}`),
		"gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		},
		"redirect elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
		},
		"one byte at a time": func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				<-tick.C
			}
		},
	}
}

// A hostile BMC on the path of a sweep can't stop its own lane for longer than a
// deadline, can't fill the memory, learns no token for another host, and costs the
// BMC beside it nothing.
func TestThreat35HostileSweep(t *testing.T) {
	var leaked atomic.Bool
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { leaked.Store(true) }))
	defer other.Close()
	_, beside := serve(t, expanding(""))
	for name, attack := range attacks(t, other.URL+"/S") {
		for _, streams := range []int{0, 8} {
			t.Run(fmt.Sprintf("%s/streams=%d", name, streams), func(t *testing.T) {
				v := &vendor{docs: expanding("")}
				v.hook = func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.Contains(r.URL.RawQuery, "expand") {
						return false
					}
					attack(w, r)
					return true
				}
				_, l := v.start(t, func(c *bmc.Config) { c.Streams, c.BMC.Limits = streams, redfish.Limits{Read: time.Second} })
				before := live()
				begun := time.Now()
				for range 2 {
					got, _ := l.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp", "cpu.rate", "power.state"))
					for _, r := range got {
						if !r.Value.Known() && r.Value.Why() == "" {
							t.Errorf("%s is unknown without a reason", r.Ref)
						}
					}
					if n := len(got[0].Instances); n > 1024 {
						t.Errorf("%d sensors were taken", n)
					}
				}
				if took := time.Since(begun); took > 20*time.Second { // of a machine that is busy
					t.Errorf("it took %s with deadlines of 1s", took)
				}
				if grown := live() - before; grown > 24<<20 {
					t.Errorf("%d bytes more are held", grown)
				}
				if state, _ := l.State(); state == fleet.Untrusted {
					t.Errorf("the node is %s", state)
				}
				runtime.KeepAlive(l)
				if got, err := beside.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp")); err != nil || shown(got) != "cpu.temp 60C\n" {
					t.Errorf("the BMC beside: %v, %s", err, shown(got))
				}
			})
		}
	}
	if leaked.Load() {
		t.Error("a redirect led to another host")
	}
}

// The older resources are bounded in the same way.
func TestThreat35EndlessThermal(t *testing.T) {
	docs := idrac()
	docs["/redfish/v1/Chassis/System.Embedded.1/Thermal"] = `{"Temperatures":[` +
		strings.Repeat(`{"Name":"CPU `+strings.Repeat("x", 200)+`","ReadingCelsius":50},`, 25_000) + `{"Name":"CPU"}]}`
	_, l := serve(t, docs)
	got, err := l.Read(t.Context(), bmc.Monitor, refs(t, "cpu.temp", "temp.max", "power.watts"))
	if err != nil || len(got[0].Instances) != 1024 || len(got[0].Instances[0].Name) > 128 {
		t.Errorf("%d sensors, %v", len(got[0].Instances), err)
	}
}

// live is what is in use after a collection.
func live() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
