// Package discovery is the vocabulary of finding BMCs, and the table of what was
// found. Its children are the finders: mdns browses the BMC network, static knows
// a list of addresses. A finder only ever hints at an address; whose BMC answers
// there is known from its key alone, which a prober reads and tells the [Table].
package discovery

import (
	"cmp"
	"slices"
	"time"
)

const (
	// Expiry is how long an address is kept after it was last seen. Finders
	// repeat themselves every minute.
	Expiry = 5 * time.Minute
	// MaxAddresses bounds the table: whoever floods the BMC network with
	// announcements must not fill our memory. What is in it stays.
	MaxAddresses = 10_000
	// retryAfter is the wait before an address is probed again that did not
	// answer; it doubles with each failure up to reprobeAfter, which is the wait
	// for one that did: keys change and addresses move.
	retryAfter   = 5 * time.Second
	reprobeAfter = 5 * time.Minute
)

// Sighting is a hint that a BMC may answer at an address.
type Sighting struct {
	Address string // host:port; a link-local IPv6 host has its zone
	Name    string // what announced itself there; identifies nobody
	Found   string // the finder: "mdns", "static"
}

// Candidate is a BMC that answered: all addresses with the same key.
type Candidate struct {
	Pin       string   // the hash of its public key, "sha256/…"
	Addresses []string // the one seen last comes first
	Found     []string // finders, sorted
	Names     []string // sorted
	Seen      time.Time
}

// Table merges sightings into candidates. It is told the time, and it is not safe
// for concurrent use. The zero value is an empty table.
type Table struct {
	rows  map[string]*row // by address
	swept time.Time       // when room was last made
}

// row is one address.
type row struct {
	address string
	found   map[string]bool
	names   map[string]bool
	seen    time.Time
	asking  bool      // a probe is under way
	probed  time.Time // when it was last answered; zero: never
	failed  int       // probes in a row that failed
	pin     string    // "": it did not answer
	problem string
}

// See takes a sighting. It reports whether the address is to be probed now: it is
// new, or the last probe was long enough ago. The caller must answer with Probed.
func (t *Table) See(now time.Time, s Sighting) (probe bool) {
	if t.rows == nil {
		t.rows = make(map[string]*row)
	}
	r := t.rows[s.Address]
	if r == nil {
		if !t.room(now) {
			return false
		}
		r = &row{address: s.Address, found: map[string]bool{}, names: map[string]bool{}}
		t.rows[s.Address] = r
	}
	r.seen = now
	r.found[s.Found] = true
	if s.Name != "" && len(r.names) < 8 {
		r.names[s.Name] = true
	}
	return r.ask(now)
}

// Due are the addresses to be probed again now, although nothing was seen anew.
// The caller must answer each with Probed.
func (t *Table) Due(now time.Time) []string {
	var due []string
	for address, r := range t.rows {
		if r.ask(now) {
			due = append(due, address)
		}
	}
	slices.Sort(due)
	return due
}

// Problem is why an address did not answer; "" if it did, or was not asked.
func (t *Table) Problem(address string) string {
	if r := t.rows[address]; r != nil {
		return r.problem
	}
	return ""
}

// room reports whether one more address fits. It looks for expired ones at most
// once a minute: a flood must not cost a walk of the table for each address.
func (t *Table) room(now time.Time) bool {
	if len(t.rows) >= MaxAddresses && now.Sub(t.swept) >= time.Minute {
		t.swept = now
		t.Expire(now)
	}
	return len(t.rows) < MaxAddresses
}

// ask reports whether the address is to be probed now, and takes note of it.
func (r *row) ask(now time.Time) bool {
	if !r.asking && (r.probed.IsZero() || now.Sub(r.probed) >= r.wait()) {
		r.asking = true
		return true
	}
	return false
}

func (r *row) wait() time.Duration {
	if r.failed == 0 || r.failed > 6 {
		return reprobeAfter
	}
	return min(retryAfter<<(r.failed-1), reprobeAfter)
}

// Probed tells what answered at an address: a key, or nothing and why.
func (t *Table) Probed(now time.Time, address, pin string, err error) {
	r := t.rows[address]
	if r == nil {
		return // it expired meanwhile
	}
	r.asking, r.probed = false, now
	if err != nil {
		r.failed, r.pin, r.problem = r.failed+1, "", err.Error()
		return
	}
	r.failed, r.pin, r.problem = 0, pin, ""
}

// Expire forgets addresses that were not seen for long.
func (t *Table) Expire(now time.Time) {
	for address, r := range t.rows {
		if now.Sub(r.seen) > Expiry {
			delete(t.rows, address)
		}
	}
}

// Candidates are the BMCs that have answered, in the order of their pins.
func (t *Table) Candidates() []Candidate {
	byPin := make(map[string][]*row)
	for _, r := range t.rows {
		if r.pin != "" {
			byPin[r.pin] = append(byPin[r.pin], r)
		}
	}
	all := make([]Candidate, 0, len(byPin))
	for pin, rows := range byPin {
		all = append(all, merge(pin, rows))
	}
	slices.SortFunc(all, func(a, b Candidate) int { return cmp.Compare(a.Pin, b.Pin) })
	return all
}

func merge(pin string, rows []*row) Candidate {
	slices.SortFunc(rows, func(a, b *row) int { return cmp.Or(b.seen.Compare(a.seen), cmp.Compare(a.address, b.address)) })
	c := Candidate{Pin: pin, Seen: rows[0].seen}
	found, names := map[string]bool{}, map[string]bool{}
	for _, r := range rows {
		c.Addresses = append(c.Addresses, r.address)
		for f := range r.found {
			found[f] = true
		}
		for n := range r.names {
			names[n] = true
		}
	}
	c.Found, c.Names = sorted(found), sorted(names)
	return c
}

func sorted(set map[string]bool) []string {
	var all []string
	for s := range set {
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}
