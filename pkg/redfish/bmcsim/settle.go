package bmcsim

import (
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/logs"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/power"
)

// settle lets everything happen that is due at now, and reports whether
// anything did.
func (b *BMC) settle(now time.Time) bool {
	changed := b.state.ExpireSessions(now)
	changed = b.settleTasks(now) || changed
	b.hub.Wake()
	s := b.state
	for was, is, passed := s.Power.Pass(now); passed; was, is, passed = s.Power.Pass(now) {
		b.arrive(was, is)
		changed = true
	}
	return changed
}

// arrive is what a change of power brings with it: a log entry, and the end of
// a boot override that was meant for one boot.
func (b *BMC) arrive(was, is power.Phase) {
	s := b.state
	if was.Power == is.Power {
		return
	}
	switch is.Power {
	case "On":
		b.state.Activate(true)
		s.LastReset = is.At
		b.addLog(logs.Entry{At: is.At, MessageID: "DCPowerOn", Message: "Host system DC power is on", Severity: message.OK})
		s.Boot.Boot()
	case "Off":
		s.LastReset = is.At
		b.addLog(logs.Entry{At: is.At, MessageID: "DCPowerOff", Message: "Host system DC power is off", Severity: message.OK})
	}
}

// power is the phase at the time of the last settle.
func (b *BMC) power() power.Phase { return b.state.Power.Now() }
