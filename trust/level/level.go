// Package level says how far a BMC is to be believed, and why: from what was
// observed of it ([Facts]) and what the site demands ([Policy]) it works out one
// [Verdict]. It is pure; who observes tells it the time.
//
// A level is the highest row of the table whose demands all hold, and nothing
// that is known for bad leaves it there:
//
//	TX  quarantined  denied, another key, another serial, a serial that is there twice
//	T0  seen         it answers; its service root may be read without a login
//	T1  exchanged    its key is known; no credential is ever sent
//	T2  admitted     a person, the asset list or the policy lets it in: take-over, inventory, readings
//	T3  identified   its key is vouched for, nothing weak is left: power, boot, media, users, firmware
//	T4  attested     what runs on it was measured; no evidence of that is read yet
//
// (A BMC cannot prove what it runs over stock OpenBMC; docs/decisions tells why
// firmware is allowed at T3 until one can.)
package level

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Level is how far a BMC is believed. A higher one includes the lower.
type Level uint8

// The levels.
const (
	Quarantined Level = iota // TX
	Seen                     // T0
	Exchanged                // T1
	Admitted                 // T2
	Identified               // T3
	Attested                 // T4
)

var levels = [...]struct{ short, word string }{
	{"TX", "quarantined"}, {"T0", "seen"}, {"T1", "exchanged"}, {"T2", "admitted"}, {"T3", "identified"}, {"T4", "attested"},
}

// String is "T2".
func (l Level) String() string { return levels[min(int(l), len(levels)-1)].short }

// Word is "admitted".
func (l Level) Word() string { return levels[min(int(l), len(levels)-1)].word }

// Parse reads "T2", in any case.
func Parse(text string) (Level, error) {
	for i, l := range levels {
		if strings.EqualFold(text, l.short) {
			return Level(i), nil
		}
	}
	return Seen, fault.New(fault.BadInput, "read level", fmt.Sprintf("%q is no trust level: they are TX and T0 to T4", text))
}

// Fact is one thing that was observed: what, when and by whom or how. The zero
// Fact is not known.
type Fact[T any] struct {
	Is   T
	At   time.Time
	From string // one or two words: "TLS handshake", "the catalogue", an operator
}

// Known reports whether it was ever observed.
func (f Fact[T]) Known() bool { return !f.At.IsZero() }

// fresh reports whether it was observed not longer ago than most. What is said to
// be seen in the future counts: a clock that was set back proves nothing bad.
func (f Fact[T]) fresh(now time.Time, most time.Duration) bool {
	return f.Known() && now.Sub(f.At) <= most
}

// Key is what is known of a BMC's key.
type Key uint8

// The states of a key.
const (
	KeyNew     Key = iota // seen for the first time, nobody has said that it is the right one
	KeySame               // the one that is expected
	KeyChanged            // another one than expected, and no rotation of ours explains it
)

// Voucher says who stands for a key being that BMC's.
type Voucher uint8

// The vouchers.
const (
	Nobody  Voucher = iota
	Person          // somebody wrote it into the catalogue, or accepted it
	RackCA          // it is in a certificate of the rack's authority that we put there
	Maker           // it is in a certificate of the maker's that names the serial
	vouched = Person
)

// Asset is how a BMC stands to the asset list, which is the rack's catalogue.
type Asset uint8

// The states of an asset.
const (
	Unlisted  Asset = iota
	Listed          // its key is in the list, or has followed from one that is by our own take-over
	Confirmed       // and the serial that it tells is the listed one
	Mismatch        // it tells another serial than the list
)

// Access is the way in which the agent gets in.
type Access uint8

// The accesses, from the weakest.
const (
	NoAccess Access = iota
	Password        // a login with a password that it was given
	Token           // a login of its own over a verified certificate of ours
	Mutual          // a client certificate, beside weaker methods
	Strict          // a client certificate, and nobody gets in without one
)

var accesses = [...]string{"none", "password", "token", "mutual TLS", "mutual TLS only"}

// String is "mutual TLS".
func (a Access) String() string { return accesses[min(int(a), len(accesses)-1)] }

// Facts is all that was observed of one BMC.
type Facts struct {
	OnLink Fact[bool]    // it was heard on an interface of the rack's BMC network, from the link itself
	Key    Fact[Key]     // at the last handshake
	By     Fact[Voucher] // who vouches for the key
	Asset  Fact[Asset]

	Approved []Fact[string] // by whom it was let in, a person each

	Access  Fact[Access] // at the last exchange
	Default Fact[bool]   // the password that it left the factory with is in force
	Weak    Fact[bool]   // methods are on that need no certificate, such as basic authentication
	Clock   Fact[bool]   // its clock is right within minutes

	Denied Fact[string] // why it is on the deny list
	Twin   Fact[string] // the name of another node that tells the same serial
	Clash  Fact[string] // who else claims what it does: "r02/u05 has the same key"
}

// Digest is the SHA-256 of the facts in hex: what a record of a verdict keeps of
// them.
func (f Facts) Digest() string {
	text, err := json.Marshal(f)
	if err != nil { // it has no value that could not be encoded
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
