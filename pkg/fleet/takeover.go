package fleet

import "time"

// Takeover is how far a BMC is ours.
type Takeover string

// The states of a take-over, weakest first.
const (
	TakeoverNone   Takeover = "none"        // only its key is known
	TakeoverToken  Takeover = "token"       // our certificate is served; we log in by password
	TakeoverMutual Takeover = "mtls"        // we log in by certificate
	TakeoverStrict Takeover = "mtls-strict" // nobody without a certificate of ours gets an answer
)

// BMCTrust is what is known of a BMC's side of the trust, seen at At. It holds no
// secret.
type BMCTrust struct {
	Pin      string   // the key it is known by now
	Takeover Takeover // how far it is ours
	// Wanted: the take-over is meant to go on; Released: it was given back.
	Wanted, Released bool
	Step             string // the step under way or the next one, "" when there is none
	Own              bool   // the certificate it serves is from our authority, for this node
	CertEnds         time.Time
	UniquePassword   bool // the password we came with is gone
	Weak             []string
	ClockOff         time.Duration // its clock minus ours
	// Limits are what could not be done, each with its reason; they cap the level.
	Limits     []string
	Quarantine string // why nothing is sent to it, "" if it is not quarantined
	At         time.Time
}

// Done reports whether nothing is left to do.
func (t BMCTrust) Done() bool {
	return t.Wanted && t.Step == "" && t.Takeover != TakeoverNone && t.Takeover != "" && t.Quarantine == ""
}
