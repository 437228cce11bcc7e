package bmc

import (
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// What was last seen may be a minute old: a restart that somebody else made in
// between is no proof of ours.
func TestWhatProvesARestart(t *testing.T) {
	at := func(clock string) redfish.Text { return redfish.Text("2026-03-01T" + clock + "+00:00") }
	since, err := time.Parse(time.RFC3339, string(at("12:00:00")))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		now   system
		since time.Time
		want  bool
	}{
		"nothing has changed":              {system{PowerState: "On", LastReset: at("09:00:00")}, since, false},
		"it goes down":                     {system{PowerState: "PoweringOff", LastReset: at("09:00:00")}, since, true},
		"it was restarted in that second":  {system{PowerState: "On", LastReset: at("12:00:00")}, since, true},
		"it was restarted later":           {system{PowerState: "On", LastReset: at("12:00:07")}, since, true},
		"it was restarted before":          {system{PowerState: "On", LastReset: at("11:59:59")}, since, false},
		"the BMC tells no time":            {system{PowerState: "On", LastReset: at("12:00:07")}, time.Time{}, false},
		"a reset time that is none":        {system{PowerState: "On", LastReset: "yesterday"}, since, false},
		"the reset time has got lost":      {system{PowerState: "On"}, since, false},
		"only the progress of the boot is": {system{PowerState: "On", LastReset: at("09:00:00"), BootProgress: struct{ LastState redfish.Text }{"OSRunning"}}, since, false},
	} {
		p := &pair{was: &system{PowerState: "On", LastReset: at("09:00:00")}, since: c.since}
		if got := p.restarted(&c.now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
