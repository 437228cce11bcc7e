package takeover

import (
	"maps"
	"slices"
	"time"
)

// Goal is what shall become of a BMC.
type Goal string

// The goals.
const (
	Taken    Goal = "taken"
	Released Goal = "released"
)

// Record is what is kept durably of one BMC. Its zero value with First and Pin is
// a BMC that was only met. Passwords in it are sealed.
type Record struct {
	// First is the key of the first contact. Everything that is kept of the BMC
	// is kept under it, also when its key has become another.
	First  string `json:"first"`
	Pin    string `json:"pin"`              // the key it is known by now
	Serial string `json:"serial,omitempty"` // of the server, as first seen
	// Address is where it was last, to tell its place from others.
	Address string `json:"address,omitempty"`

	Goal      Goal   `json:"goal,omitempty"`
	Bootstrap string `json:"bootstrap,omitempty"` // the account that we came with
	Account   string `json:"account,omitempty"`   // our own
	// Sealed are the passwords of both, kept before the BMC hears of them.
	Sealed map[string]string `json:"sealed,omitempty"`
	// Known is the password to give the BMC back with, sealed.
	Known string `json:"known,omitempty"`

	Unique        bool `json:"unique,omitempty"`         // Bootstrap's password is ours, by a login
	AccountProven bool `json:"account_proven,omitempty"` // Account has logged in
	// ProvenBy is the fingerprint of the twin under which a certificate of ours
	// was last proven to be a login, "" before.
	ProvenBy string `json:"proven_by,omitempty"`
	Returned bool   `json:"returned,omitempty"` // Bootstrap has logged in with Known

	// SignedBy is the twin behind the certificate of Pin, Roots its PEM.
	SignedBy string `json:"signed_by,omitempty"`
	Roots    string `json:"roots,omitempty"`
	// Next is the key of a certificate that we have signed and that may be
	// installed already, Chain its PEM. They are kept before the BMC hears of it.
	Next      string `json:"next,omitempty"`
	Chain     string `json:"chain,omitempty"`
	NextBy    string `json:"next_by,omitempty"`
	NextRoots string `json:"next_roots,omitempty"`

	Anchors []string `json:"anchors,omitempty"` // fingerprints of the twins that we planted
	Before  *Weak    `json:"before,omitempty"`  // what was on before we switched it off

	// Partner is the other agent of the rack, as the BMC shall know it; nil: there
	// is none.
	Partner *Partner `json:"partner,omitempty"`

	Doing  Step           `json:"doing,omitempty"` // begun, and its end is not recorded
	Last   Step           `json:"last,omitempty"`  // ended well, as far as the BMC said
	Blocks map[Step]Block `json:"blocks,omitempty"`
	// Seen is what was last seen, to show it before the BMC answers.
	Seen Facts `json:"seen"`
}

// Block is a step that failed.
type Block struct {
	Reason string    `json:"reason"`
	Until  time.Time `json:"until"` // it is tried again then
	Tries  int       `json:"tries"`
	// Final: trying again soon is useless; steps that can do without go on.
	Final bool `json:"final,omitempty"`
}

// Weak are the ways in that a take-over closes.
type Weak struct {
	Basic, Cookie bool
	IPMI, SSH     bool
}

// Met is the record of a BMC of which only the key is known.
func Met(pin string) Record { return Record{First: pin, Pin: pin} }

// Has reports whether pin is or may be this BMC's key.
func (r Record) Has(pin string) bool {
	return pin != "" && (pin == r.First || pin == r.Pin || pin == r.Next)
}

// Proven reports whether a certificate of ours is a login.
func (r Record) Proven() bool { return r.ProvenBy != "" && !r.Returned }

// Ours reports whether the certificate of Pin is from our authority.
func (r Record) Ours() bool { return r.SignedBy != "" }

// Begin notes that a step is about to be done.
func (r Record) Begin(s Step) Record {
	r.Doing = s
	return r
}

// Done notes that the BMC has said yes to a step. Whether it has done it is for
// the next look.
func (r Record) Done(s Step) Record {
	r.Doing, r.Last = Nothing, s
	return r
}

const (
	firstWait = 2 * time.Second
	longWait  = 10 * time.Minute
	finalWait = time.Hour
	// maxVain is how often a BMC may say yes to a step and not do it.
	maxVain = 3
)

// Failure is how a step failed.
type Failure struct {
	Reason string
	Wait   time.Duration // that the BMC asked for, else 0
	Final  bool
}

// Failed notes that a step has failed, and when it is tried again: after a wait
// that doubles, or that the BMC asked for.
func (r Record) Failed(now time.Time, s Step, f Failure) Record {
	r.Doing, r.Last = Nothing, Nothing
	r.Blocks = maps.Clone(r.Blocks)
	if r.Blocks == nil {
		r.Blocks = map[Step]Block{}
	}
	b := r.Blocks[s]
	b.Tries++
	b.Reason, b.Final = f.Reason, f.Final
	wait := min(firstWait<<min(b.Tries-1, 10), longWait)
	if f.Final {
		wait = finalWait
	}
	b.Until = now.Add(max(wait, f.Wait))
	r.Blocks[s] = b
	return r
}

// Signed notes a certificate that is about to be installed.
func (r Record) Signed(pin, chain, by, roots string) Record {
	r.Next, r.Chain, r.NextBy, r.NextRoots = pin, chain, by, roots
	return r
}

// Unsigned forgets a certificate that the BMC does not take: it has made another
// key since.
func (r Record) Unsigned() Record { return r.Signed("", "", "", "") }

// Absorb is the record after seen. Only a key that our own step explains
// replaces the one we know.
func (r Record) Absorb(seen Facts) Record {
	if r.Next != "" && seen.Key == r.Next {
		r.Pin, r.SignedBy, r.Roots = r.Next, r.NextBy, r.NextRoots
		r = r.Unsigned()
	}
	if r.Serial == "" {
		r.Serial = seen.Serial
	}
	r.Seen = seen
	return r.judge(seen)
}

// judge looks whether the last step has had its effect.
func (r Record) judge(seen Facts) Record {
	last := r.Last
	r.Last = Nothing
	switch {
	case last == Nothing:
		return r
	case slices.Contains(Left(seen, r), last):
		return r.Failed(seen.At, last, Failure{Reason: "the BMC says yes to it and does not do it", Final: r.Blocks[last].Tries+1 >= maxVain})
	}
	r.Blocks = maps.Clone(r.Blocks)
	delete(r.Blocks, last)
	return r
}

// Planted notes an anchor of ours before it is sent.
func (r Record) Planted(twin string) Record {
	if !slices.Contains(r.Anchors, twin) {
		r.Anchors = append(slices.Clone(r.Anchors), twin)
	}
	return r
}

// Release turns a take-over round: the BMC is given back with a known password.
func (r Record) Release(sealed string) Record {
	r.Goal, r.Known, r.Returned, r.Blocks = Released, sealed, false, nil
	return r
}

// Take begins a take-over, anew after a release.
func (r Record) Take(bootstrap, account string) Record {
	if r.Goal == Released {
		fresh := Record{First: r.First, Pin: r.Pin, Serial: r.Serial, Address: r.Address, Anchors: r.Anchors, SignedBy: r.SignedBy, Roots: r.Roots}
		r = fresh
	}
	r.Goal, r.Bootstrap, r.Account, r.Blocks = Taken, bootstrap, account, nil
	return r
}
