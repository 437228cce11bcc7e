package bmc_test

import (
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// What was done to a server can be seen later, by our clock, whatever the BMC's says.
func TestTraces(t *testing.T) {
	wrong := func() time.Time { return time.Now().Add(-30 * time.Hour) }
	_, _, l := start(t, quick(func(c *bmcsim.Config) { c.Now = wrong }))
	before := time.Now()
	if r := l.Do(t.Context(), command(scl.DoPower, "reset")); r.Status != fleet.Confirmed {
		t.Fatal(line(r))
	}
	seen, err := l.Traces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if off := seen.Reset.Sub(before); seen.Power != "on" || off < -2*time.Second || off > time.Since(before)+2*time.Second {
		t.Errorf("after a restart at %s it shows %+v", before, seen)
	}
	if r := l.Do(t.Context(), command(scl.DoPower, "off")); r.Status != fleet.Confirmed {
		t.Fatal(line(r))
	}
	if seen, err = l.Traces(t.Context()); err != nil || seen.Power != "off" || seen.BMCStarted.IsZero() {
		t.Errorf("switched off it shows %+v, %v", seen, err)
	}
}
