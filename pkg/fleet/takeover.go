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

	Level string    // how far it is believed: "TX", "T0" to "T4"; "" before it was judged
	Why   string    // what keeps it from the next level, "" if nothing does
	Since time.Time // when it came to the level
	// Elements are SCL's trust.… but for the level, of what is known:
	// "trust.key" is "same", "trust.listed" is "true". Nobody changes the map.
	Elements map[string]string
}

// Done reports whether nothing is left to do.
func (t BMCTrust) Done() bool {
	return t.Wanted && t.Step == "" && t.Takeover != TakeoverNone && t.Takeover != "" && t.Quarantine == ""
}

// TrustExplanation is all that is known of how far a BMC is believed, as its agent
// tells it. It is encoded as JSON.
type TrustExplanation struct {
	Node  NodeName  `json:"node"`
	Level string    `json:"level"` // "T2"
	Word  string    `json:"word"`  // "admitted"
	Since time.Time `json:"since,omitzero"`
	Key   string    `json:"key,omitempty"` // that it is known by
	// Has is what it has the level for, Bad what holds it down, Lacks what is
	// missing for the next level.
	Has   []TrustReason `json:"has,omitempty"`
	Bad   []string      `json:"bad,omitempty"`
	Lacks []TrustLack   `json:"lacks,omitempty"`
	Deeds []TrustDeed   `json:"deeds"`
	Facts []TrustFact   `json:"facts"`
	// Digest is the SHA-256 of the facts in hex, which the audit log has of a
	// change.
	Digest string `json:"facts_digest"`
}

// TrustReason is a fact that counted, who observed it and when.
type TrustReason struct {
	What string    `json:"what"`
	From string    `json:"from"`
	At   time.Time `json:"at"`
}

// TrustLack is what is missing, and what to do about it.
type TrustLack struct {
	What string `json:"what"`
	Do   string `json:"do"`
}

// TrustDeed is what a BMC may or may not be used for.
type TrustDeed struct {
	Deed  string `json:"deed"`
	Needs string `json:"needs"` // a level
	May   bool   `json:"may"`
}

// TrustFact is one fact, whether or not it counted.
type TrustFact struct {
	Name string    `json:"name"`
	Is   string    `json:"is"`
	From string    `json:"from,omitempty"`
	At   time.Time `json:"at,omitzero"`
}
