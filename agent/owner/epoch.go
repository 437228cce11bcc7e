package owner

import (
	"cmp"
	"fmt"
	"strconv"
)

// Epoch numbers the reigns over a rack, in order. Grant is the index in the
// coordinators' log of the grant that it goes back to; Local counts the take-overs
// since then that no coordinator was asked for: those of the one agent of a pair are
// odd, those of the other even, so that two agents never make the same epoch.
type Epoch struct {
	Grant uint64 `json:"grant"`
	Local uint64 `json:"local,omitempty"`
}

// Compare is negative if e comes before o.
func (e Epoch) Compare(o Epoch) int {
	return cmp.Or(cmp.Compare(e.Grant, o.Grant), cmp.Compare(e.Local, o.Local))
}

// Next is the epoch of a take-over without a coordinator, by the agent whose epochs
// are the odd ones or by the other.
func (e Epoch) Next(odd bool) Epoch {
	next := Epoch{e.Grant, e.Local + 1}
	if odd != (next.Local%2 == 1) {
		next.Local++
	}
	return next
}

// String is "12", or "12.1" after one take-over without a coordinator.
func (e Epoch) String() string {
	if e.Local == 0 {
		return strconv.FormatUint(e.Grant, 10)
	}
	return fmt.Sprintf("%d.%d", e.Grant, e.Local)
}

// ParseEpoch reads what String writes.
func ParseEpoch(s string) (e Epoch, ok bool) {
	if _, err := fmt.Sscanf(s, "%d.%d", &e.Grant, &e.Local); err == nil {
		return e, s == e.String()
	}
	e = Epoch{}
	_, err := fmt.Sscanf(s, "%d", &e.Grant)
	return e, err == nil && s == e.String()
}

// Claim says who owns a rack. Its zero value says that nobody does.
type Claim struct {
	Agent string `json:"agent,omitempty"`
	Epoch Epoch  `json:"epoch"`
}

// After reports whether c replaces o.
func (c Claim) After(o Claim) bool { return c.Epoch.Compare(o.Epoch) > 0 }

// String is "agent-r01 in epoch 12".
func (c Claim) String() string {
	if c.Agent == "" {
		return "nobody"
	}
	return c.Agent + " in epoch " + c.Epoch.String()
}
