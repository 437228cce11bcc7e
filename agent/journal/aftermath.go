package journal

import (
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// Seen is what a server shows some time after an action was begun on it of which
// nobody knows how it ended. Times are by the clock of the intent, zero where the BMC
// does not tell.
type Seen struct {
	Power      string // "on", "off", …
	Reset      time.Time
	BMCStarted time.Time
}

// timeSlack is how exactly the times of a BMC are known: it tells whole seconds, and
// its clock is read to one.
const timeSlack = 2 * time.Second

// Aftermath is the result of an action that was begun and whose end nobody has seen,
// by what its server shows now. What is as it was asked for is confirmed: who asked
// for it wanted just that, and nobody else works on the rack. All else stays unknown,
// with what can be seen. Nothing follows from it that has to be done.
func Aftermath(left fleet.Result, c scl.Command, seen Seen) fleet.Result {
	since := left.Started.Add(-timeSlack)
	switch goal, restart := aimOf(c); {
	case restart && seen.Reset.IsZero():
		left.Error += "; the BMC does not tell when the server was last restarted"
	case restart && seen.Reset.Before(since):
		left.Error += "; the server has not restarted since, and its power is " + seen.Power
	case restart && seen.Power != "on":
		left.Error += "; the server has begun to restart since, and its power is " + seen.Power
	case restart:
		return confirmed(left, "the server has restarted since, as was asked", "restarted")
	case c.Verb == scl.DoBMCReset && seen.BMCStarted.IsZero():
		left.Error += "; the BMC does not tell when it was started"
	case c.Verb == scl.DoBMCReset && seen.BMCStarted.Before(since):
		left.Error += "; the BMC has not restarted since"
	case c.Verb == scl.DoBMCReset:
		return confirmed(left, "the BMC has restarted since, as was asked", "restarted")
	case goal == "" || seen.Power == "":
	case goal == seen.Power:
		return confirmed(left, "the server's power is "+seen.Power+" now, as was asked", seen.Power)
	default:
		left.Error += "; the server's power is " + seen.Power + " now"
	}
	return left
}

// Leaves reports whether a command leaves traces that can be looked at later.
func Leaves(c scl.Command) bool {
	goal, restart := aimOf(c)
	return goal != "" || restart || c.Verb == scl.DoBMCReset
}

// aimOf is what a command makes of the power: a state, or a restart.
func aimOf(c scl.Command) (goal string, restart bool) {
	word := ""
	if len(c.Args) > 0 {
		word = c.Args[0]
	}
	switch {
	case c.Verb == scl.DoReboot:
		return "", true
	case c.Verb != scl.DoPower:
		return "", false
	}
	switch word {
	case "on":
		return "on", false
	case "off", "graceful-off":
		return "off", false
	case "cycle", "reset", "graceful-restart":
		return "", true
	}
	return "", false // an interrupt leaves nothing
}

func confirmed(left fleet.Result, how, after string) fleet.Result {
	left.Status, left.Kind, left.Hint, left.After = fleet.Confirmed, "", "", after
	left.Error += "; " + how
	return left
}
