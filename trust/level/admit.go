package level

import (
	"fmt"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// Candidate is a BMC that was found and is none of the fleet, as it is seen from
// outside: nothing was read from it that it does not tell anybody.
type Candidate struct {
	Facts
	Rack   fleet.RackName
	Pin    string // the hash of its public key, which it has proven to hold
	UUID   string // its own word
	Serial string // what it announces, its own word
	MAC    string // at which it answered: the word of whoever is on the link
	Make   string // its own word

	Refused Fact[string] // why a person keeps it out; From: who
}

// Ruling is what becomes of a candidate.
type Ruling struct {
	State fleet.AdmissionState
	Why   string   // for a person
	By    []string // who has decided it; nobody has if it waits
	// Asset is the row of the asset list that it is; nil: none.
	Asset *scl.Asset
}

// byPolicy is who has decided what no person has.
const byPolicy = "trust-policy"

// Rule decides on a candidate. Nobody is let in by themselves but who is in the
// asset list with evidence for it, or whom an (admit …) lets in; what is bad keeps
// out or waiting whatever else is known.
func (p Policy) Rule(c Candidate) Ruling {
	switch {
	case c.Denied.Known():
		return Ruling{State: fleet.Barring, Why: "it is on the deny list: " + c.Denied.Is, By: said(c.Denied.From)}
	case c.Refused.Known():
		return Ruling{State: fleet.Barring, Why: c.Refused.Is, By: said(c.Refused.From)}
	case p.Refuse != nil && p.Refuse(c.Facts):
		return Ruling{State: fleet.Barring, Why: "the trust policy refuses it", By: []string{byPolicy}}
	case c.Clash.Known():
		return waits(c.Clash.Is)
	case c.Twin.Known():
		return waits(c.Twin.Is + " tells the same serial")
	}
	asset, doubt := p.asset(c)
	people := People(c.Approved)
	switch {
	case len(people) >= p.people():
		return Ruling{State: fleet.Admitted, Why: "let in by " + strings.Join(people, " and "), By: people, Asset: asset}
	case doubt != "":
		return waits(doubt)
	case len(people) > 0:
		return waits(fmt.Sprintf("%d different people must let it in, so far: %s", p.people(), strings.Join(people, ", ")))
	case asset != nil && p.Ask:
		return waits("it is " + asset.Node + " of the asset list; the trust policy asks for a person's word, too")
	case asset != nil:
		return Ruling{State: fleet.Admitted, Why: "it is " + asset.Node + " of the asset list", By: []string{byPolicy}, Asset: asset}
	case c.onLink() && p.Admit != nil && p.Admit(c.Facts):
		return Ruling{State: fleet.Admitted, Why: "the trust policy lets it in", By: []string{byPolicy}}
	}
	return waits("nobody has let it in")
}

func waits(why string) Ruling { return Ruling{State: fleet.Waiting, Why: why} }

func said(who string) []string {
	if who == "" {
		return nil
	}
	return []string{who}
}

// people is how many different ones must let a BMC in.
func (p Policy) people() int { return max(1, p.Approve) }

// People are those who approved, each once, in the order of their words.
func People(approved []Fact[string]) []string {
	var names []string
	for _, a := range approved {
		if a.Known() && !slices.Contains(names, a.Is) {
			names = append(names, a.Is)
		}
	}
	return names
}

func (c Candidate) onLink() bool { return c.OnLink.Known() && c.OnLink.Is }

// asset is the row of the asset list that the candidate has shown to be; if it
// shows only a part of that, why it is in doubt.
func (p Policy) asset(c Candidate) (found *scl.Asset, doubt string) {
	for i := range p.Assets {
		a := &p.Assets[i]
		ok, why := c.is(a)
		switch {
		case ok && found != nil:
			return nil, fmt.Sprintf("it is both %s and %s of the asset list", found.Node, a.Node)
		case ok:
			found = a
		case why != "" && doubt == "":
			doubt = why
		}
	}
	if found != nil && found.Key != "" {
		return found, "" // its key says more than what others of the list have in common with it
	}
	return found, doubt
}

// is reports whether the candidate is a row of the asset list. A key it has proven.
// A UUID or a hardware address anybody could claim, and count only for who is on
// the link itself. A serial is no more than a claim before a login: it waits.
func (c Candidate) is(a *scl.Asset) (ok bool, why string) {
	if a.Rack != "" && !scl.Glob(a.Rack, string(c.Rack)) {
		return false, ""
	}
	same, claims := 0, ""
	for _, e := range []struct{ what, listed, shown string }{
		{"key", a.Key, c.Pin}, {"UUID", a.UUID, c.UUID}, {"hardware address", a.MAC, c.MAC}, {"serial", a.Serial, c.Serial},
	} {
		switch {
		case e.listed == "":
		case strings.EqualFold(e.listed, e.shown):
			same++
			claims = e.what
		case e.shown != "" && e.what != "serial" || e.what == "key":
			why = fmt.Sprintf("its %s is not that of %s in the asset list", e.what, a.Node)
		}
	}
	switch {
	case same == 0:
		return false, "" // another one
	case why != "":
		return false, why
	case a.Make != "" && !strings.EqualFold(a.Make, c.Make):
		return false, fmt.Sprintf("its make is %q, that of %s in the asset list is %q", c.Make, a.Node, a.Make)
	case a.Key != "":
		return true, ""
	case same == 1 && claims == "serial":
		return false, "it claims the serial of " + a.Node + " in the asset list, which only a login can show"
	case !c.onLink():
		return false, "it is " + a.Node + " of the asset list by its " + claims + ", but was not heard on the BMC network itself"
	}
	return true, ""
}
