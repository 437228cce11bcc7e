package bmcsim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/events"
)

// trail writes a plan as seconds from start and what can be seen then.
func trail(start time.Time, plan []phase) string {
	var out []string
	for _, p := range plan {
		out = append(out, fmt.Sprintf("%g %s/%s/%s", p.At.Sub(start).Seconds(), p.Power, p.Status, p.Progress))
	}
	return strings.Join(out, "\n")
}

// The times are those of a recorded server: two seconds for either way.
func TestResetPlansWhatFollows(t *testing.T) {
	const (
		on    = "On/Enabled/OSRunning"
		off   = "Off/Disabled/None"
		going = "PoweringOff/Disabled/OSRunning"
		boot  = `%g PoweringOn/Starting/None
%g PoweringOn/Starting/PrimaryProcessorInitializationStarted
%g PoweringOn/Starting/MemoryInitializationStarted
%g On/Enabled/OSRunning`
	)
	booting := func(at float64) string { return fmt.Sprintf(boot, at, at+1, at+1.6, at+2) }
	restart := "0 " + on + "\n0 " + going + "\n2 " + off + "\n" + booting(2.5)
	for _, tt := range []struct {
		kind string
		on   bool
		want string
	}{
		{"On", true, "0 " + on},
		{"ForceOn", true, "0 " + on},
		{"Nmi", true, "0 " + on},
		{"GracefulShutdown", true, "0 " + on + "\n0 " + going + "\n2 " + off},
		{"ForceOff", true, "0 " + on + "\n0.25 " + off},
		{"GracefulRestart", true, restart},
		{"ForceRestart", true, restart},
		{"PowerCycle", true, restart},
		{"On", false, "0 " + off + "\n" + booting(0)},
		{"ForceOn", false, "0 " + off + "\n" + booting(0)},
		{"GracefulShutdown", false, "0 " + off},
		{"ForceOff", false, "0 " + off},
		{"PowerCycle", false, "0 " + off + "\n" + booting(0)},
	} {
		start := time.Unix(1000, 0)
		got := trail(start, reset(start, []phase{steady(tt.on, start)}, tt.kind, 2*time.Second))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s, on=%v (-want +got):\n%s", tt.kind, tt.on, diff)
		}
	}
}

// silent is a hub that nobody runs.
func silent() *events.Hub { return events.NewHub(time.Now, func(string, string) {}) }

func TestResetDuringATransition(t *testing.T) {
	start := time.Unix(1000, 0)
	took := 2 * time.Second
	for _, tt := range []struct {
		name, first, then string
		on                bool // the state at first
		want              string
		at                time.Duration // when it is reached
	}{
		{"on again while booting", "On", "On", false, "On", 2 * time.Second},
		{"on while shutting down waits", "GracefulShutdown", "On", true, "On", 4 * time.Second},
		{"force off while shutting down", "GracefulShutdown", "ForceOff", true, "Off", 1250 * time.Millisecond},
		{"force off while booting", "On", "ForceOff", false, "Off", 1250 * time.Millisecond},
		{"shut down while booting", "On", "GracefulShutdown", false, "Off", 3 * time.Second},
	} {
		b := &BMC{hub: silent(), state: &State{Power: []phase{steady(tt.on, start)}}}
		b.cfg.Transition = took
		b.resetPower(start, tt.first)
		b.settle(start.Add(time.Second))
		b.resetPower(start.Add(time.Second), tt.then)
		b.settle(start.Add(tt.at - time.Millisecond))
		if len(b.state.Power) == 1 {
			t.Errorf("%s: already %s before %v", tt.name, b.power().Power, tt.at)
		}
		b.settle(start.Add(tt.at))
		if got := b.power().Power; got != tt.want || len(b.state.Power) != 1 {
			t.Errorf("%s: %s with %d phases to come at %v, want %s", tt.name, got, len(b.state.Power)-1, tt.at, tt.want)
		}
	}
}

func TestBootOnceIsUsedUpByABoot(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, tt := range []struct{ enabled, target, wantEnabled, wantTarget string }{
		{"Once", "Pxe", "Disabled", "None"},
		{"Continuous", "Pxe", "Continuous", "Pxe"},
	} {
		b := &BMC{hub: silent(), state: &State{Power: []phase{steady(false, start)}, Boot: bootOverride{Target: tt.target, Enabled: tt.enabled}}}
		b.cfg.Transition = 2 * time.Second
		b.resetPower(start, "On")
		b.settle(start.Add(time.Second))
		if b.state.Boot.Enabled != tt.enabled {
			t.Errorf("%s is used up before the boot is done", tt.enabled)
		}
		b.settle(start.Add(time.Minute))
		if got := b.state.Boot; got.Enabled != tt.wantEnabled || got.Target != tt.wantTarget {
			t.Errorf("%s: after a boot it is %s %s, want %s %s", tt.enabled, got.Enabled, got.Target, tt.wantEnabled, tt.wantTarget)
		}
	}
}

func TestPowerIsLoggedWithAnIDForEachEntry(t *testing.T) {
	start := time.Unix(1000, 0)
	b := &BMC{hub: silent(), state: &State{Power: []phase{steady(true, start)}}}
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
