// Package power is whether a server is on, and what follows when somebody switches
// it: a plan of phases. It is pure; the time is told.
package power

import (
	"slices"
	"time"
)

// Phase is one step of the server's power, from At until the next one.
type Phase struct {
	At       time.Time
	Power    string // PowerState
	Status   string // Status.State
	Progress string // BootProgress.LastState
}

// On reports whether the server runs.
func (p Phase) On() bool { return p.Power == "On" }

// Steady is a server that is on, or off, and stays so.
func Steady(on bool, at time.Time) Phase {
	if on {
		return Phase{At: at, Power: "On", Status: "Enabled", Progress: "OSRunning"}
	}
	return Phase{At: at, Power: "Off", Status: "Disabled", Progress: "None"}
}

// Plan are the phases of a server: the first is the present, later ones are to
// come.
type Plan []Phase

// Now is the phase at the time of the last Pass.
func (plan Plan) Now() Phase { return plan[0] }

// Pass goes on by one phase, if the next one has begun at now.
func (plan *Plan) Pass(now time.Time) (was, is Phase, passed bool) {
	was = (*plan)[0]
	if len(*plan) == 1 || now.Before((*plan)[1].At) {
		return was, was, false
	}
	*plan = (*plan)[1:]
	return was, (*plan)[0], true
}

// ResetTypes are what ResetActionInfo offers, in its order.
func ResetTypes() []string {
	return []string{"ForceOff", "PowerCycle", "Nmi", "On", "ForceOn", "GracefulShutdown", "GracefulRestart", "ForceRestart"}
}

// Reset is what follows a reset: the phase there is now and those to come.
// took is how long powering on or off takes. Asking for what is already on its
// way changes nothing, and powering on waits until powering off is done.
func (plan Plan) Reset(now time.Time, kind string, took time.Duration) Plan {
	present, last := plan[0], plan[len(plan)-1]
	switch kind {
	case "On", "ForceOn":
		if last.On() {
			return plan
		}
		if len(plan) == 1 {
			return append(plan, powerOn(now, took)...)
		}
		return append(plan, powerOn(last.At, took)...)
	case "GracefulShutdown":
		if !last.On() {
			return plan
		}
		return append(Plan{present}, powerOff(now, present.Progress, took)...)
	case "ForceOff":
		if last.Power == "Off" && len(plan) == 1 {
			return plan
		}
		// The answer comes first: for a moment the server still shows as on.
		return Plan{present, Steady(false, now.Add(took/8))}
	case "GracefulRestart", "ForceRestart", "PowerCycle":
		if last.Power == "Off" && len(plan) == 1 {
			return append(plan, powerOn(now, took)...)
		}
		off := powerOff(now, present.Progress, took)
		return slices.Concat(Plan{present}, off, powerOn(now.Add(took+took/4), took))
	}
	return plan // Nmi changes no power
}

func powerOn(at time.Time, took time.Duration) Plan {
	starting := func(after time.Duration, progress string) Phase {
		return Phase{At: at.Add(after), Power: "PoweringOn", Status: "Starting", Progress: progress}
	}
	return Plan{
		starting(0, "None"),
		starting(took/2, "PrimaryProcessorInitializationStarted"),
		starting(took*4/5, "MemoryInitializationStarted"),
		Steady(true, at.Add(took)),
	}
}

func powerOff(at time.Time, progress string, took time.Duration) Plan {
	return Plan{
		{At: at, Power: "PoweringOff", Status: "Disabled", Progress: progress},
		Steady(false, at.Add(took)),
	}
}
