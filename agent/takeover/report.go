package takeover

import (
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Trust is what the mesh is told of a BMC.
func Trust(now time.Time, r Record) fleet.BMCTrust {
	seen := r.Seen
	t := fleet.BMCTrust{
		Pin: r.Pin, Takeover: State(r), Wanted: r.Goal == Taken, At: seen.At,
		Own: r.Ours(), UniquePassword: r.Unique && !r.Returned, ClockOff: seen.ClockOff,
	}
	if r.Ours() {
		t.CertEnds = seen.Ends
	}
	if r.Goal == "" || seen.At.IsZero() {
		return t
	}
	for name, on := range map[string]bool{"basic": seen.Basic, "cookie": seen.Cookie, "ipmi": seen.IPMI, "ssh": seen.SSH} {
		if on {
			t.Weak = append(t.Weak, name)
		}
	}
	slices.Sort(t.Weak)
	t.Limits = Limits(seen, r)
	step, when := Next(now, seen, r)
	t.Step = string(step)
	if step == Nothing && !when.IsZero() {
		t.Step = string(waiting(seen, r))
	}
	t.Released = Over(r)
	return t
}

// Over reports whether a BMC was given back whole.
func Over(r Record) bool {
	return r.Goal == Released && r.Returned && len(Left(r.Seen, r)) == 0
}

// waiting is the first step that is due and will be tried again soon.
func waiting(seen Facts, r Record) Step {
	for _, step := range Left(seen, r) {
		if b, blocked := r.Blocks[step]; blocked && !b.Final {
			return step
		}
	}
	return Nothing
}

// State is how far a BMC is ours.
func State(r Record) fleet.Takeover {
	switch {
	case r.Goal != Taken || !r.Ours() || !r.AccountProven:
		return fleet.TakeoverNone
	case r.Proven() && r.Seen.Strict:
		return fleet.TakeoverStrict
	case r.Proven():
		return fleet.TakeoverMutual
	default:
		return fleet.TakeoverToken
	}
}
