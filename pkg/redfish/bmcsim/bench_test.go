package bmcsim_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

func newBenchBMC(b *testing.B) (*bmcsim.BMC, string) {
	b.Helper()
	bmc, err := bmcsim.New(bmcsim.Config{PowerOn: true})
	if err != nil {
		b.Fatal(err)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, sessions, strings.NewReader(`{"UserName":"root","Password":"0penBmc"}`))
	r.Header.Set("Content-Type", "application/json")
	bmc.ServeHTTP(w, r)
	return bmc, w.Result().Header.Get("X-Auth-Token")
}

// BenchmarkLogin is what one login costs: mostly the password's hash.
func BenchmarkLogin(b *testing.B) {
	bmc, _ := newBenchBMC(b)
	for b.Loop() {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, system, nil)
		r.SetBasicAuth("root", bmcsim.DefaultPassword)
		bmc.ServeHTTP(httptest.NewRecorder(), r)
	}
}

// BenchmarkSystem is what the largest common resource costs.
func BenchmarkSystem(b *testing.B) {
	bmc, token := newBenchBMC(b)
	for b.Loop() {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, system, nil)
		r.Header.Set("X-Auth-Token", token)
		bmc.ServeHTTP(httptest.NewRecorder(), r)
	}
}

// BenchmarkSensor is what one sample of a monitor costs.
func BenchmarkSensor(b *testing.B) {
	bmc, token := newBenchBMC(b)
	for b.Loop() {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, sensors+"temperature_cpu0", nil)
		r.Header.Set("X-Auth-Token", token)
		bmc.ServeHTTP(httptest.NewRecorder(), r)
	}
}
