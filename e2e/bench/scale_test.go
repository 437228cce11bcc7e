package bench

import (
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func TestCountOfResults(t *testing.T) {
	began := time.Unix(1000, 0)
	at := func(node fleet.NodeName, end float64, status fleet.Status) fleet.Result {
		return fleet.Result{Node: node, Status: status, Started: began, Took: time.Duration(end * float64(time.Second))}
	}
	r := ScaleRun{}
	r.count([]fleet.Result{
		at("a", 1, fleet.Confirmed), at("a", 2, fleet.Confirmed),
		at("b", 1, fleet.Confirmed), at("b", 4, fleet.Unknown), at("b", 3, fleet.Confirmed),
		at("c", 1, fleet.Confirmed),
		at("sick", 99, fleet.Confirmed),
	}, map[fleet.NodeName]bool{"a": true, "b": true, "c": true}, began)
	if r.Confirmed != 5 || r.Lost != 1 || r.Doubled != 1 || r.Why == "" {
		t.Errorf("got %+v", r)
	}
	if r.P50 != 2 || r.P99 != 4 {
		t.Errorf("p50 %v, p99 %v; want 2 and 4: the sick node counts for nothing", r.P50, r.P99)
	}
}
