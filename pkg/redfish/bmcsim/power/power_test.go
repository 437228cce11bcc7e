package power

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// trail writes a plan as seconds from start and what can be seen then.
func trail(start time.Time, plan Plan) string {
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
		got := trail(start, Plan{Steady(tt.on, start)}.Reset(start, tt.kind, 2*time.Second))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s, on=%v (-want +got):\n%s", tt.kind, tt.on, diff)
		}
	}
}

// pass lets everything happen that is due, and counts it.
func pass(plan *Plan, now time.Time) (n int) {
	for _, _, passed := plan.Pass(now); passed; _, _, passed = plan.Pass(now) {
		n++
	}
	return n
}

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
		plan := Plan{Steady(tt.on, start)}.Reset(start, tt.first, took)
		pass(&plan, start.Add(time.Second))
		plan = plan.Reset(start.Add(time.Second), tt.then, took)
		pass(&plan, start.Add(tt.at-time.Millisecond))
		if len(plan) == 1 {
			t.Errorf("%s: already %s before %v", tt.name, plan.Now().Power, tt.at)
		}
		pass(&plan, start.Add(tt.at))
		if got := plan.Now().Power; got != tt.want || len(plan) != 1 {
			t.Errorf("%s: %s with %d phases to come at %v, want %s", tt.name, got, len(plan)-1, tt.at, tt.want)
		}
	}
}

func TestPassGoesThroughEveryPhase(t *testing.T) {
	start := time.Unix(1000, 0)
	plan := Plan{Steady(true, start)}.Reset(start, "PowerCycle", 2*time.Second)
	var got []string
	late := start.Add(time.Hour)
	for was, is, passed := plan.Pass(late); passed; was, is, passed = plan.Pass(late) {
		got = append(got, was.Power+" "+is.Power)
	}
	want := []string{
		"On PoweringOff", "PoweringOff Off", "Off PoweringOn", "PoweringOn PoweringOn", "PoweringOn PoweringOn", "PoweringOn On",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := pass(&plan, late); n != 0 || !plan.Now().On() {
		t.Errorf("%d more phases, now %+v", n, plan.Now())
	}
}

func TestResetTypesAreUnderstood(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, kind := range ResetTypes() {
		changes := 0
		for _, on := range []bool{true, false} {
			if len(Plan{Steady(on, start)}.Reset(start, kind, time.Second)) > 1 {
				changes++
			}
		}
		if (changes == 0) != (kind == "Nmi") {
			t.Errorf("%s changes %d of two states", kind, changes)
		}
	}
}

func TestAnOverrideForOneBoot(t *testing.T) {
	for _, tt := range []struct{ before, after Override }{
		{Override{"Pxe", "Once", "UEFI"}, Override{"None", "Disabled", "UEFI"}},
		{Override{"Pxe", "Continuous", "Legacy"}, Override{"Pxe", "Continuous", "Legacy"}},
		{NoOverride(), NoOverride()},
	} {
		got := tt.before
		got.Boot()
		if got != tt.after {
			t.Errorf("%+v is %+v after a boot, want %+v", tt.before, got, tt.after)
		}
	}
	body := Override{"Pxe", "Once", "UEFI"}.Body()
	if body["BootSourceOverrideTarget"] != "Pxe" || body["BootSourceOverrideEnabled"] != "Once" || body["BootSourceOverrideMode"] != "UEFI" {
		t.Errorf("it shows %v", body)
	}
}
