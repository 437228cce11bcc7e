package level

import (
	"fmt"
	"strings"
	"time"
)

// Verdict is the level of a BMC with its reasons, in the order in which a person
// should read them.
type Verdict struct {
	Level Level
	Held  []Reason // what it has that level for
	Lacks []Lack   // what is missing for the next level
	Bad   []string // what holds it down
}

// Reason is a fact that counted.
type Reason struct {
	What string // "the key is the expected one"
	From string // who observed it
	At   time.Time
}

// Lack is what is missing for the next level, and what to do about it.
type Lack struct{ What, Do string }

// Judge works out the verdict on a BMC at the time now.
func (p Policy) Judge(now time.Time, f Facts) Verdict {
	j := &judge{now: now, most: p.fresh(), facts: f, policy: p, level: Seen}
	for _, row := range []struct {
		level Level
		holds func() bool
	}{{Exchanged, j.exchanged}, {Admitted, j.admitted}, {Identified, j.identified}, {Attested, j.attested}} {
		held := len(j.held)
		if !row.holds() {
			j.held = j.held[:held] // half a row counts for nothing
			break
		}
		j.level = row.level
	}
	j.clamp()
	return Verdict{Level: j.level, Held: j.held, Lacks: j.lacks, Bad: j.bad}
}

// judge goes through the rows of one BMC.
type judge struct {
	now    time.Time
	most   time.Duration
	facts  Facts
	policy Policy

	level Level
	held  []Reason
	lacks []Lack
	bad   []string
}

func (j *judge) hold(what, from string, at time.Time) bool {
	j.held = append(j.held, Reason{what, from, at})
	return true
}

func (j *judge) lack(what, do string) bool {
	j.lacks = append(j.lacks, Lack{what, do})
	return false
}

// exchanged: its key is known.
func (j *judge) exchanged() bool {
	k := j.facts.Key
	switch {
	case !k.Known():
		return j.lack("its key was never seen", "see that the BMC is on and reachable: chiba get bmcs")
	case !k.fresh(j.now, j.most):
		return j.lack("its key was last seen "+ago(j.now, k.At), "see that the BMC is on and reachable: chiba get bmcs")
	}
	return j.hold("its key is known", k.From, k.At)
}

// admitted: somebody who may has let it in.
func (j *judge) admitted() bool {
	f := j.facts
	people := People(f.Approved)
	switch {
	case len(people) >= j.policy.people():
		return j.hold("let in by "+strings.Join(people, " and "), f.Approved[0].From, f.Approved[0].At)
	case f.Asset.Is >= Listed && f.Asset.Is != Mismatch && !j.policy.Ask:
		return j.hold("it is in the asset list", f.Asset.From, f.Asset.At)
	case f.OnLink.fresh(j.now, j.most) && f.OnLink.Is && j.policy.Admit != nil && j.policy.Admit(f):
		return j.hold("the trust policy lets it in", "trust-policy", f.OnLink.At)
	}
	if len(people) > 0 {
		return j.lack(fmt.Sprintf("%d different people must let it in, so far: %s", j.policy.people(), strings.Join(people, ", ")), "another one: chiba bmc admit NODE")
	}
	return j.lack("nobody has let it in", "chiba bmc admit NODE")
}

// identified: its key is vouched for, and nothing weak is left.
func (j *judge) identified() bool {
	f, ok := j.facts, true
	switch {
	case f.By.Is < vouched:
		ok = j.lack("nobody vouches for its key", "chiba bmc takeover NODE puts a certificate of the rack on it")
	case f.By.Is == RackCA && !f.By.fresh(j.now, j.most):
		ok = j.lack("its certificate was last seen "+ago(j.now, f.By.At), "see that the BMC is on and reachable: chiba get bmcs")
	default:
		j.hold(vouchedBy(f.By.Is), f.By.From, f.By.At)
	}
	switch {
	case f.Asset.Is == Confirmed:
		j.hold("its serial is the listed one", f.Asset.From, f.Asset.At)
	case f.Asset.Is == Listed && f.By.Is >= vouched:
		j.hold("its key is the listed one", f.Asset.From, f.Asset.At)
	case len(People(f.Approved)) >= 2:
		j.hold("two people let it in", strings.Join(People(f.Approved), " and "), f.Approved[len(f.Approved)-1].At)
	default:
		ok = j.lack("its serial is not confirmed", "give it with chiba bmc admit NODE --serial SERIAL or in the catalogue, or have a second person admit it")
	}
	if f.Default.Is {
		ok = j.lack("the password that it left the factory with is in force", "chiba bmc takeover NODE, or set one: (config \"NODE\" (bmc (user \"root\" (password …))))")
	}
	return ok
}

// attested: no evidence of what runs on a BMC is read yet.
func (*judge) attested() bool { return false }

// clamp puts a BMC of which something bad is known into quarantine.
func (j *judge) clamp() {
	f := j.facts
	if f.Denied.Known() {
		j.quarantine("it is on the deny list: "+f.Denied.Is, "chiba trust allow KEY takes it off the list")
	}
	if f.Key.Is == KeyChanged {
		j.quarantine("it answers with another key than before", "if the BMC was replaced or reset: chiba bmc accept NODE --pin KEY")
	}
	if f.Asset.Is == Mismatch {
		j.quarantine("it tells another serial than the asset list", "see which server it is, correct the catalogue or the cabling, then have it looked at again: chiba bmc accept NODE --pin KEY")
	}
	if f.Clash.Known() {
		j.quarantine(f.Clash.Is, "find out which of them it is, and deny the other: chiba trust deny")
	}
	if f.Twin.Known() {
		j.quarantine(f.Twin.Is+" tells the same serial", "write the serial of each into the catalogue: who is not that server stays out")
	}
}

func (j *judge) quarantine(why, do string) {
	if j.level != Quarantined {
		j.level, j.held, j.lacks = Quarantined, nil, nil
	}
	j.bad = append(j.bad, why)
	j.lacks = append(j.lacks, Lack{why, do})
}

func vouchedBy(v Voucher) string {
	switch v {
	case Person:
		return "a person vouches for its key"
	case RackCA:
		return "it serves a certificate of the rack"
	case Maker:
		return "its maker vouches for its key"
	case Nobody:
	}
	return "nobody vouches for its key"
}

// ago is "2d3h ago", or "5m0s ago".
func ago(now, at time.Time) string {
	d := max(now.Sub(at), 0)
	if d >= 48*time.Hour {
		return fmt.Sprintf("%dd%dh ago", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
	return d.Round(time.Minute).String() + " ago"
}
