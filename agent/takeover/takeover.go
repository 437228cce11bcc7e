// Package takeover decides how a BMC becomes ours and how it is given back: from
// what was recorded and what the BMC shows follows the next step. It is pure.
//
// There is no position in a list that could be lost: every step is due as long
// as the BMC does not show its effect, and allowed as soon as what it builds on is
// proven. A crash, a lost answer and a BMC that has forgotten half of it are then
// one case: look again. The order and the facts behind it are those of bmcweb
// (openbmc/bmcweb, redfish-core/lib/{account_service,certificate_service}.hpp).
package takeover

import (
	"fmt"
	"slices"
	"time"
)

// Step is one change on the BMC.
type Step string

// The steps of a take-over in their order.
const (
	Nothing  Step = ""
	Password Step = "password"    // the account we came with gets a password of this BMC's own
	Clock    Step = "clock"       // certificates mean nothing to a clock of 1970
	Account  Step = "account"     // of this agent, proven by a login
	Anchor   Step = "anchor"      // the twin of our CA goes into the truststore
	Request  Step = "request"     // a signing request is made, and signed
	Install  Step = "install"     // the certificate is served
	Methods  Step = "tls-login"   // a certificate may be a login
	Mapping  Step = "mapping"     // its common name is the user
	Prove    Step = "prove"       // a certificate is a login
	Pair     Step = "pair"        // the other agent of the rack can log in, or can only read
	Strict   Step = "strict"      // who has no certificate gets no answer
	Logins   Step = "weak-logins" // basic authentication and cookies are off
	Services Step = "services"    // IPMI over the network and SSH are off
	Root     Step = "root"        // the account we came with is disabled
	Second   Step = "next-anchor" // of a key that is to come: both are trusted while it changes
	Prune    Step = "prune"       // anchors that we do not use any longer go
)

// The steps of a release in their order.
const (
	Open    Step = "open"    // without a certificate there are answers again
	Restore Step = "restore" // what was on before is on again
	Return  Step = "return"  // the account we came with logs in with the known password
	Uproot  Step = "uproot"  // our anchors go
	Dismiss Step = "dismiss" // our account goes
)

// ClockSlack is how wrong a BMC's clock may be.
const ClockSlack = 2 * time.Minute

// RenewBefore is how long before its end a certificate is replaced.
const RenewBefore = 10 * 24 * time.Hour

// Facts are what a BMC shows. They are what the driver saw; nothing in them is
// believed but for what it is: an answer.
type Facts struct {
	At     time.Time `json:"at"`
	Key    string    `json:"key,omitempty"`  // the pin of the key in its last handshake
	Ends   time.Time `json:"ends"`           // of the certificate
	Twin   string    `json:"twin,omitempty"` // the fingerprint of our CA's twin at present
	Next   string    `json:"next,omitempty"` // of the twin of the key that is to come; "": none is
	Serial string    `json:"serial,omitempty"`

	MustChange    bool   `json:"must_change,omitempty"` // it lets us do nothing but change the password
	As            string `json:"as,omitempty"`          // the account that it takes us for
	ByCertificate bool   `json:"by_certificate,omitempty"`
	Asked         bool   `json:"asked,omitempty"` // it asks for a certificate

	ClockOff time.Duration `json:"clock_off,omitempty"`

	AccountThere bool `json:"account_there,omitempty"`
	AccountGood  bool `json:"account_good,omitempty"` // enabled, and an administrator
	RootEnabled  bool `json:"root_enabled,omitempty"` // of the account we came with
	PartnerThere bool `json:"partner_there,omitempty"`
	PartnerGood  bool `json:"partner_good,omitempty"` // enabled, and an administrator
	PartnerRoot  bool `json:"partner_root,omitempty"` // its twin is in the truststore
	Anchored     bool `json:"anchored,omitempty"`     // the present twin is in the truststore
	NextAnchored bool `json:"next_anchored,omitempty"`
	StaleAnchors int  `json:"stale_anchors,omitempty"`
	Basic        bool `json:"basic,omitempty"`
	Cookie       bool `json:"cookie,omitempty"`
	TLS          bool `json:"tls,omitempty"`
	Strict       bool `json:"strict,omitempty"`
	ByCommonName bool `json:"by_common_name,omitempty"`
	IPMI         bool `json:"ipmi,omitempty"`
	SSH          bool `json:"ssh,omitempty"`
	// Lacks are the steps that this BMC does not offer, and why.
	Lacks map[Step]string `json:"lacks,omitempty"`
}

// rule says when a step is due and when it is allowed.
type rule struct {
	step Step
	due  func(Facts, Record) bool
	may  func(situation) bool
}

// situation is what rules look at.
type situation struct {
	now time.Time
	Facts
	rec Record
}

func always(situation) bool { return true }

// taking is a take-over in its order: the new way in is proven before the old
// one is closed.
func taking() []rule {
	return []rule{
		{Password, func(_ Facts, r Record) bool { return !r.Unique }, always},
		{Clock, func(f Facts, _ Record) bool { return f.ClockOff.Abs() > ClockSlack }, unlimited},
		{Account, func(f Facts, r Record) bool { return !f.AccountGood || !r.AccountProven }, unlimited},
		{Anchor, func(f Facts, _ Record) bool { return !f.Anchored }, unlimited},
		{Request, requestDue, unlimited},
		{Install, func(f Facts, r Record) bool { return r.Next != "" && f.Key != r.Next }, unlimited},
		{Methods, func(f Facts, _ Record) bool { return !f.TLS }, unlimited},
		{Mapping, func(f Facts, _ Record) bool { return !f.ByCommonName }, unlimited},
		{Prove, func(f Facts, r Record) bool { return r.ProvenBy != f.Twin }, provable},
		{Pair, pairDue, func(s situation) bool { return unlimited(s) && s.AccountGood && s.rec.AccountProven }},
		{Strict, func(f Facts, _ Record) bool { return !f.Strict }, func(s situation) bool { return s.rec.Proven() && s.ByCertificate }},
		{Logins, func(f Facts, _ Record) bool { return f.Basic || f.Cookie }, wayInProven},
		{Services, func(f Facts, _ Record) bool { return f.IPMI || f.SSH }, wayInProven},
		{Root, func(f Facts, r Record) bool { return f.RootEnabled && r.Bootstrap != r.Account }, wayInProven},
		{Second, func(f Facts, _ Record) bool { return f.Next != "" && !f.NextAnchored }, wayInProven},
		{Prune, func(f Facts, _ Record) bool { return f.StaleAnchors > 0 }, func(s situation) bool { return s.rec.ProvenBy == s.Twin && s.rec.signedIn(s.Twin) }},
	}
}

// releasing is a release in its order, again the new way first.
func releasing() []rule {
	return []rule{
		{Open, func(f Facts, _ Record) bool { return f.Strict }, always},
		{Restore, func(f Facts, r Record) bool { return r.Before != nil && *r.Before != f.weak() }, func(s situation) bool { return !s.Strict }},
		{Return, func(_ Facts, r Record) bool { return !r.Returned }, func(s situation) bool { return !s.Strict }},
		{Uproot, func(f Facts, _ Record) bool { return f.Anchored || f.PartnerRoot || f.StaleAnchors > 0 }, func(s situation) bool { return s.rec.Returned }},
		{Dismiss, func(f Facts, _ Record) bool { return f.AccountThere || f.PartnerThere }, func(s situation) bool { return s.rec.Returned }},
	}
}

func (f Facts) weak() Weak { return Weak{Basic: f.Basic, Cookie: f.Cookie, IPMI: f.IPMI, SSH: f.SSH} }

// Weak are the ways in that are open, as they are now.
func (f Facts) Weak() Weak { return f.weak() }

// unlimited: the BMC lets us do more than change the password.
func unlimited(s situation) bool { return !s.MustChange }

func requestDue(f Facts, r Record) bool {
	return r.Next == "" && (!r.signedIn(f.Twin) || !f.Ends.IsZero() && f.At.After(f.Ends.Add(-RenewBefore)))
}

// provable: a certificate can be a login.
func provable(s situation) bool {
	return unlimited(s) && s.AccountGood && s.rec.AccountProven && s.Anchored && s.TLS && s.ByCommonName && s.rec.Ours()
}

// wayInProven: there is a way in that does not need what is about to be closed.
// It is our certificate; where that can't be, our own account's password over a
// connection whose other end is certified by us.
func wayInProven(s situation) bool {
	if s.rec.Proven() {
		return true
	}
	return s.AccountGood && s.rec.AccountProven && s.rec.Ours() && s.rec.Next == "" && s.As == s.rec.Account && s.mutualClosed()
}

// mutualClosed reports whether login by certificate is out of reach here.
func (s situation) mutualClosed() bool {
	return slices.ContainsFunc([]Step{Anchor, Methods, Mapping, Prove}, func(step Step) bool {
		return s.Lacks[step] != "" || s.rec.Blocks[step].Final
	})
}

// Next is the step to do now, Nothing if there is none at present. When is the
// time at which a step that failed is tried again, zero if there is none.
func Next(now time.Time, seen Facts, r Record) (step Step, when time.Time) {
	s := situation{now, seen, r}
	for _, rule := range r.rules() {
		if !rule.due(seen, r) || seen.Lacks[rule.step] != "" || !rule.may(s) {
			continue
		}
		b, blocked := r.Blocks[rule.step]
		if !blocked || !now.Before(b.Until) {
			return rule.step, time.Time{}
		}
		if when.IsZero() || b.Until.Before(when) {
			when = b.Until
		}
	}
	return Nothing, when
}

// Steps are the steps of a take-over in their order.
func Steps() []Step {
	var all []Step
	for _, rule := range taking() {
		all = append(all, rule.step)
	}
	return all
}

func (r Record) rules() []rule {
	if r.Goal == Released {
		return releasing()
	}
	return taking()
}

// Left are the steps that are due, whether they are possible now or not.
func Left(seen Facts, r Record) []Step {
	var left []Step
	for _, rule := range r.rules() {
		if rule.due(seen, r) {
			left = append(left, rule.step)
		}
	}
	return left
}

// Limits are what could not be done, each with its reason, in order.
func Limits(seen Facts, r Record) []string {
	var all []string
	for _, step := range Left(seen, r) {
		b, blocked := r.Blocks[step]
		switch why := seen.Lacks[step]; {
		case why != "":
			all = append(all, fmt.Sprintf("%s: %s", step, why))
		case blocked:
			all = append(all, fmt.Sprintf("%s: %s", step, b.Reason))
		}
	}
	return all
}
