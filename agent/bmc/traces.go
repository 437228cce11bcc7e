package bmc

import (
	"context"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Traces are what an action leaves on a server that can be seen later. Times are by
// our clock, to two seconds; zero where the BMC does not tell.
type Traces struct {
	Power      string    // "on", "off", …; "" where the BMC does not tell
	Reset      time.Time // when the server was last started or restarted
	BMCStarted time.Time // when the BMC itself was
}

// Traces looks what can be seen of what was done to the server.
func (l *Lane) Traces(ctx context.Context) (Traces, error) {
	v := l.view(Action)
	s, _, err := v.system(ctx)
	if err != nil {
		return Traces{}, err
	}
	t := Traces{Power: kebab(string(s.PowerState))}
	m, _, err := v.manager(ctx)
	if err != nil {
		return t, orAbsent(err, "clock")
	}
	now, err := time.Parse(time.RFC3339, string(m.DateTime))
	if err != nil {
		return t, nil //nolint:nilerr // without the BMC's clock its times say nothing
	}
	ahead := now.Sub(l.cfg.Now())
	ours := func(told redfish.Text) time.Time {
		at, err := time.Parse(time.RFC3339, string(told))
		if err != nil || at.Unix() <= 0 {
			return time.Time{}
		}
		return at.Add(-ahead)
	}
	t.Reset, t.BMCStarted = ours(s.LastReset), ours(m.LastReset)
	return t, nil
}
