package scl

import (
	"time"

	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// TrustPolicy is what a site demands before a BMC is believed, beyond what the
// product demands itself. Of several policies in force each must be content.
type TrustPolicy struct {
	Admit   *Condition    // which BMCs are let in without a person; nil: none
	Ask     bool          // a person's word is needed for those of the asset list, too
	Require []Requirement // what deeds need more
	Fresh   time.Duration // how long an observation counts; 0: the default
	Span    syntax.Span
}

// Requirement is the trust level that a deed needs.
type Requirement struct{ Deed, Level string }

// TrustLevels are the levels of trust that a policy can demand, the lowest first.
func TrustLevels() []string { return []string{"T2", "T3", "T4"} }

// Deeds are what a policy can demand a level for, sorted.
func Deeds() []string {
	return []string{"bmc-reset", "boot", "configure", "firmware", "logs", "look", "media", "power", "redfish", "take-over", "users"}
}
