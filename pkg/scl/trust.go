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
	Assets  []Asset       // BMCs that are let in, each under a name
	Refuse  *Condition    // which BMCs are kept out; nil: none
	Approve int           // how many different people must let a BMC in; 0: the default, one
	Span    syntax.Span
}

// Asset is a row of the asset list: a BMC that is one of the fleet. What is "" is
// not said. At least one of Key, UUID, MAC and Serial is.
type Asset struct {
	Node     string // the name that it gets
	Key      string // "sha256/…" of its public key
	UUID     string // of its service root, in lower case
	MAC      string // of the interface that it answers on, in lower case
	Serial   string // of the server
	Make     string // as trust.make has it
	Rack     string // or a glob over racks
	Position string // becomes the label "position"
	Span     syntax.Span
}

// Requirement is the trust level that a deed needs.
type Requirement struct{ Deed, Level string }

// TrustLevels are the levels of trust that a policy can demand, the lowest first.
func TrustLevels() []string { return []string{"T2", "T3", "T4"} }

// Deeds are what a policy can demand a level for, sorted.
func Deeds() []string {
	return []string{"bmc-reset", "boot", "configure", "firmware", "logs", "look", "media", "power", "redfish", "take-over", "users"}
}
