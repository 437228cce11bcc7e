package bmcsim_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

func TestExpandWhereItIsBuiltIn(t *testing.T) {
	for _, built := range []bool{false, true} {
		b := newBMC(t, bmcsim.Config{Expand: built})
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/redfish/v1/Chassis/chassis/Sensors?$expand=.($levels=1)", http.NoBody)
		r.SetBasicAuth("root", bmcsim.DefaultPassword)
		w := httptest.NewRecorder()
		b.ServeHTTP(w, r)
		var got struct {
			Members []struct{ ReadingType string }
		}
		_ = json.Unmarshal(w.Body.Bytes(), &got)
		if built != (w.Code == http.StatusOK) {
			t.Errorf("built in: %v, status %d", built, w.Code)
		}
		if built && (len(got.Members) < 10 || got.Members[0].ReadingType == "") {
			t.Errorf("the members are not whole: %s", w.Body)
		}
	}
}

func TestRequestsQueueForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBMC(t, bmcsim.Config{Concurrency: 2, Latency: 100 * time.Millisecond})
		begun := time.Now()
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/redfish/v1", http.NoBody)
				b.ServeHTTP(httptest.NewRecorder(), r)
			})
		}
		all.Wait()
		if took := time.Since(begun); took != 300*time.Millisecond {
			t.Errorf("6 requests, 2 at once, took %s", took)
		}
	})
}
