package bmcsim

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/events"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/power"
)

// silent is a hub that nobody runs.
func silent() *events.Hub { return events.NewHub(time.Now, func(string, string) {}) }

func TestPowerIsLoggedWithAnIDForEachEntry(t *testing.T) {
	start := time.Unix(1000, 0)
	b := &BMC{hub: silent(), state: &State{Power: power.Plan{power.Steady(true, start)}}}
	b.cfg.Transition = 10 * time.Millisecond
	b.resetPower(start, "PowerCycle")
	b.settle(start.Add(time.Minute))
	var got []string
	for _, e := range b.state.Log {
		got = append(got, e.ID+" "+e.MessageID)
	}
	want := []string{"1000 OpenBMC.0.5.DCPowerOff", "1000_1 OpenBMC.0.5.DCPowerOn"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}
