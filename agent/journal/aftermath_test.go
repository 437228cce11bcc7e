package journal_test

import (
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

func TestAftermath(t *testing.T) {
	begun := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	before, after := begun.Add(-time.Minute), begun.Add(time.Minute)
	power := func(word string) scl.Command { return scl.Command{Verb: scl.DoPower, Args: []string{word}} }
	reboot, bmc := scl.Command{Verb: scl.DoReboot}, scl.Command{Verb: scl.DoBMCReset}
	for name, c := range map[string]struct {
		cmd  scl.Command
		seen journal.Seen
		want fleet.Status
		says string
	}{
		"it is off, as was asked":          {power("off"), journal.Seen{Power: "off"}, fleet.Confirmed, "power is off now, as was asked"},
		"it is on still":                   {power("off"), journal.Seen{Power: "on"}, fleet.Unknown, "power is on now"},
		"it goes off":                      {power("graceful-off"), journal.Seen{Power: "powering-off"}, fleet.Unknown, "power is powering-off now"},
		"it is on, as was asked":           {power("on"), journal.Seen{Power: "on"}, fleet.Confirmed, "power is on now, as was asked"},
		"it has restarted":                 {power("reset"), journal.Seen{Power: "on", Reset: after}, fleet.Confirmed, "has restarted since"},
		"within the exactness of clocks":   {reboot, journal.Seen{Power: "on", Reset: begun.Add(-time.Second)}, fleet.Confirmed, "has restarted since"},
		"it has not restarted":             {reboot, journal.Seen{Power: "on", Reset: before}, fleet.Unknown, "has not restarted since"},
		"it is amid its restart":           {power("cycle"), journal.Seen{Power: "off", Reset: after}, fleet.Unknown, "begun to restart"},
		"the BMC tells no time":            {reboot, journal.Seen{Power: "on"}, fleet.Unknown, "does not tell when"},
		"the BMC has restarted":            {bmc, journal.Seen{BMCStarted: after}, fleet.Confirmed, "the BMC has restarted since"},
		"the BMC has not":                  {bmc, journal.Seen{BMCStarted: before}, fleet.Unknown, "the BMC has not restarted since"},
		"an interrupt leaves nothing":      {power("nmi"), journal.Seen{Power: "on", Reset: after}, fleet.Unknown, ""},
		"nothing is known of another verb": {scl.Command{Verb: scl.DoClearLog}, journal.Seen{Power: "on"}, fleet.Unknown, ""},
	} {
		left := journal.Unknown("n1", "(it)")
		left.Started = begun
		got := journal.Aftermath(left, c.cmd, c.seen)
		if got.Status != c.want || !strings.Contains(got.Error, c.says) || !strings.HasPrefix(got.Error, left.Error) {
			t.Errorf("%s: %s, %q", name, got.Status, got.Error)
		}
		if ok := got.Status == fleet.Confirmed; ok != (got.Kind == "") || ok != (got.Hint == "") {
			t.Errorf("%s: kind %q, hint %q", name, got.Kind, got.Hint)
		}
		if c.says == "" && journal.Leaves(c.cmd) {
			t.Errorf("%s: it is looked at in vain", name)
		}
	}
}
