package bmcsim

import (
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/logs"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// phase is one step of the server's power, from At until the next one.
type phase struct {
	At       time.Time
	Power    string // PowerState
	Status   string // Status.State
	Progress string // BootProgress.LastState
}

func (p phase) on() bool { return p.Power == "On" }

// steady is a server that is on, or off, and stays so.
func steady(on bool, at time.Time) phase {
	if on {
		return phase{At: at, Power: "On", Status: "Enabled", Progress: "OSRunning"}
	}
	return phase{At: at, Power: "Off", Status: "Disabled", Progress: "None"}
}

// resetTypes are what ResetActionInfo offers, in its order.
func resetTypes() []string {
	return []string{"ForceOff", "PowerCycle", "Nmi", "On", "ForceOn", "GracefulShutdown", "GracefulRestart", "ForceRestart"}
}

// reset is what follows a reset: the phase there is now and those to come.
// took is how long powering on or off takes. Asking for what is already on its
// way changes nothing, and powering on waits until powering off is done.
func reset(now time.Time, plan []phase, kind string, took time.Duration) []phase {
	present, last := plan[0], plan[len(plan)-1]
	switch kind {
	case "On", "ForceOn":
		if last.on() {
			return plan
		}
		if len(plan) == 1 {
			return append(plan, powerOn(now, took)...)
		}
		return append(plan, powerOn(last.At, took)...)
	case "GracefulShutdown":
		if !last.on() {
			return plan
		}
		return append([]phase{present}, powerOff(now, present.Progress, took)...)
	case "ForceOff":
		if last.Power == "Off" && len(plan) == 1 {
			return plan
		}
		// The answer comes first: for a moment the server still shows as on.
		return []phase{present, steady(false, now.Add(took/8))}
	case "GracefulRestart", "ForceRestart", "PowerCycle":
		if last.Power == "Off" && len(plan) == 1 {
			return append(plan, powerOn(now, took)...)
		}
		off := powerOff(now, present.Progress, took)
		return slices.Concat([]phase{present}, off, powerOn(now.Add(took+took/4), took))
	}
	return plan // Nmi changes no power
}

func powerOn(at time.Time, took time.Duration) []phase {
	starting := func(after time.Duration, progress string) phase {
		return phase{At: at.Add(after), Power: "PoweringOn", Status: "Starting", Progress: progress}
	}
	return []phase{
		starting(0, "None"),
		starting(took/2, "PrimaryProcessorInitializationStarted"),
		starting(took*4/5, "MemoryInitializationStarted"),
		steady(true, at.Add(took)),
	}
}

func powerOff(at time.Time, progress string, took time.Duration) []phase {
	return []phase{
		{At: at, Power: "PoweringOff", Status: "Disabled", Progress: progress},
		steady(false, at.Add(took)),
	}
}

// settle lets everything happen that is due at now, and reports whether
// anything did.
func (b *BMC) settle(now time.Time) bool {
	changed := b.state.Users.Expire(now)
	changed = b.settleTasks(now) || changed
	b.hub.Wake()
	s := b.state
	for len(s.Power) > 1 && !now.Before(s.Power[1].At) {
		was := s.Power[0]
		s.Power = s.Power[1:]
		b.arrive(was, s.Power[0])
		changed = true
	}
	return changed
}

// arrive is what a change of power brings with it: a log entry, and the end of
// a boot override that was meant for one boot.
func (b *BMC) arrive(was, is phase) {
	s := b.state
	if was.Power == is.Power {
		return
	}
	switch is.Power {
	case "On":
		b.state.Flash.Activate(true)
		s.LastReset = is.At
		b.addLog(logs.Entry{At: is.At, MessageID: "DCPowerOn", Message: "Host system DC power is on", Severity: message.OK})
		if s.Boot.Enabled == "Once" {
			s.Boot.Enabled, s.Boot.Target = "Disabled", "None"
		}
	case "Off":
		s.LastReset = is.At
		b.addLog(logs.Entry{At: is.At, MessageID: "DCPowerOff", Message: "Host system DC power is off", Severity: message.OK})
	}
}

// power is the phase at the time of the last settle.
func (b *BMC) power() phase { return b.state.Power[0] }
