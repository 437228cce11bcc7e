package level

import (
	"fmt"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// Deed is a kind of thing that is done to or with a BMC.
type Deed string

// The deeds.
const (
	Look      Deed = "look"      // read values, with a login
	Takeover  Deed = "take-over" // install our certificate and our account
	Power     Deed = "power"
	Boot      Deed = "boot"
	Media     Deed = "media"
	Users     Deed = "users"
	Configure Deed = "configure" // every other setting
	Logs      Deed = "logs"      // clear them
	Firmware  Deed = "firmware"
	Reset     Deed = "bmc-reset"
	Raw       Deed = "redfish" // what a script says in Redfish's own words
)

// floors are what each deed needs in this product. A policy may demand more and
// never less.
var floors = map[Deed]Level{
	Look: Admitted, Takeover: Admitted,
	Power: Identified, Boot: Identified, Media: Identified, Users: Identified, Configure: Identified,
	Logs: Identified, Firmware: Identified, Reset: Identified, Raw: Identified,
}

// Deeds are all deeds, sorted.
func Deeds() []Deed {
	all := make([]Deed, 0, len(floors))
	for d := range floors {
		all = append(all, d)
	}
	slices.Sort(all)
	return all
}

// Floor is the least level that a deed ever needs.
func Floor(d Deed) Level {
	if l, ok := floors[d]; ok {
		return l
	}
	return Attested + 1 // an unknown deed is never done
}

// DefaultFresh is how long an observation counts.
const DefaultFresh = 24 * time.Hour

// Policy is what a site demands beyond the product's floors. The zero Policy is
// the default: a BMC is let in by the asset list or by a person, never by itself.
type Policy struct {
	// Admit says who is let in without a person, beside the BMCs of the asset
	// list. nil: nobody.
	Admit func(Facts) bool
	// Ask demands a person's word for the BMCs of the asset list, too.
	Ask bool
	// Refuse says who is kept out. nil: nobody.
	Refuse func(Facts) bool
	// Assets are the BMCs that are let in, each under a name.
	Assets []scl.Asset
	// Approve is how many different people must let a BMC in; 0 means one.
	Approve int
	// Require raises what a deed needs.
	Require map[Deed]Level
	// Fresh is how long an observation counts; 0 means DefaultFresh.
	Fresh time.Duration
}

// Needs is the level that a deed needs.
func (p Policy) Needs(d Deed) Level { return max(Floor(d), p.Require[d]) }

func (p Policy) fresh() time.Duration {
	if p.Fresh > 0 {
		return p.Fresh
	}
	return DefaultFresh
}

// Unite is the policy that demands what each of them demands. A policy without an
// Admit leaves it to the others; of the rest all must let a BMC in. Who one of them
// refuses is refused, and their asset lists are one.
func Unite(all ...Policy) Policy {
	sum := Policy{Require: map[Deed]Level{}}
	var admits, refuses []func(Facts) bool
	for _, p := range all {
		sum.Ask = sum.Ask || p.Ask
		if p.Fresh > 0 && (sum.Fresh == 0 || p.Fresh < sum.Fresh) {
			sum.Fresh = p.Fresh
		}
		for d, l := range p.Require {
			sum.Require[d] = max(sum.Require[d], l)
		}
		sum.Assets, sum.Approve = append(sum.Assets, p.Assets...), max(sum.Approve, p.Approve)
		if p.Admit != nil {
			admits = append(admits, p.Admit)
		}
		if p.Refuse != nil {
			refuses = append(refuses, p.Refuse)
		}
	}
	if len(refuses) > 0 {
		sum.Refuse = func(f Facts) bool {
			return slices.ContainsFunc(refuses, func(refuse func(Facts) bool) bool { return refuse(f) })
		}
	}
	if len(admits) > 0 {
		sum.Admit = func(f Facts) bool {
			return !slices.ContainsFunc(admits, func(admit func(Facts) bool) bool { return !admit(f) })
		}
	}
	return sum
}

// May is nil if a BMC of this verdict may be treated so; the error says why not
// and what to do about it.
func (p Policy) May(d Deed, v Verdict) error {
	need := p.Needs(d)
	if v.Level >= need {
		return nil
	}
	reason := fmt.Sprintf("%s needs trust level %s and this BMC has %s", d, need, v.Level)
	if len(v.Bad) > 0 {
		reason += ": " + v.Bad[0]
	} else if len(v.Lacks) > 0 {
		reason += ": " + v.Lacks[0].What
	}
	err := fault.New(fault.Untrusted, "check trust", reason)
	if len(v.Lacks) > 0 {
		return err.WithHint(v.Lacks[0].Do)
	}
	return err.WithHint("chiba trust explain NODE tells all that is known of it")
}
