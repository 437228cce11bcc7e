// Package discovery is the vocabulary of finding BMCs, and the table of what was
// found. Its children are the finders mdns, ssdp, neighbour and static, the link
// they listen on, the probe that reads a key, and the command discover. A finder only ever hints at an address; whose BMC answers
// there is known from its key alone, which a prober reads and tells the [Table].
package discovery

import (
	"slices"
	"strings"
	"time"
)

const (
	// Expiry is how long an address is kept after it was last seen. Finders
	// repeat themselves every minute.
	Expiry = 5 * time.Minute
	// MaxAddresses bounds the table: whoever floods the BMC network with
	// announcements must not fill our memory. What is in it stays.
	MaxAddresses = 10_000
	// maxPerSource bounds how many addresses one host may speak of.
	maxPerSource = 1024
	// maxTexts bounds the names of one address, maxNotes the different remarks.
	maxTexts = 8
	maxNotes = 256
	// retryAfter is the wait before an address is probed again that did not
	// answer; it doubles with each failure up to reprobeAfter, which is the wait
	// for one that did: keys change and addresses move.
	retryAfter   = 5 * time.Second
	reprobeAfter = 5 * time.Minute
)

// Sighting is a hint that a BMC may answer at an address, or a remark of a finder.
// All of it but Found is what a stranger said.
type Sighting struct {
	Address string // host:port; a link-local IPv6 host has its zone
	Name    string // what announced itself there; identifies nobody
	Found   string // the finder: "mdns", "ssdp", "neighbours", "static"
	Service string // under which it announced itself: "_redfish._tcp"
	Link    string // the interface that it was heard on; "" if it was not heard
	Source  string // the host that said so; "" if nobody did: a list, our own look
	UUID    string // of the service root, as announced: a weak hint
	Hint    string // what it says of its role and type, one line
	Note    string // instead of an address: what was dropped, what is not possible
}

// Own reports whether the sender speaks of itself, or is us. What somebody says of
// other hosts is looked at last: a flood of that must not delay the honest.
func (s Sighting) Own() bool {
	host := s.Address[:max(strings.LastIndexByte(s.Address, ':'), 0)]
	return s.Source == "" || s.Source == strings.Trim(host, "[]")
}

// Answer is what a prober read at an address, without a login and without
// believing any of it but that the peer holds the key.
type Answer struct {
	Pin string // the hash of the public key, "sha256/…"
	Root
}

// Root is what a service root tells anybody.
type Root struct {
	UUID    string // OpenBMC draws it at random
	Vendor  string
	Product string
	Version string // of Redfish
	Make    string // as package redfish names it; "" if it does not tell
	Problem string // why there is no service root; "" if there is one
}

// Candidate is a BMC that answered: all addresses with the same key. If several
// BMCs show one key, as some leave the factory, their UUIDs tell them apart.
type Candidate struct {
	Pin string
	Root
	Addresses []string // the one seen last comes first
	Found     []string // finders, sorted
	Names     []string // sorted
	Services  []string // sorted
	Links     []string // interfaces that it was heard on, sorted
	Hints     []string // what it says of itself, sorted
	Odd       []string // what a person should look at
	Seen      time.Time
}

// Silent is an address where nobody answered, or not yet.
type Silent struct {
	Address string
	Found   []string
	Names   []string
	Problem string // "" if it was not asked to the end
	Seen    time.Time
}

// Table merges sightings into candidates. It is told the time, and it is not safe
// for concurrent use. The zero value is an empty table.
type Table struct {
	rows    map[string]*row // by address
	sources map[string]int  // how many rows each source made
	notes   map[string]int  // remarks, and how often each was made
	swept   time.Time       // when room was last made
	full    int             // sightings without a row
}

// row is one address.
type row struct {
	address  string
	source   string // who spoke of it first
	found    set
	names    set
	services set
	hints    set
	links    set
	uuids    set // as announced
	seen     time.Time
	asking   bool      // a probe is under way
	probed   time.Time // when it was last answered; zero: never
	failed   int       // probes in a row that failed
	answer   Answer    // without a pin: it did not answer
	was      string    // the pin before this one, if it changed
	problem  string
}

// set of a few texts: a flood fills it and is ignored.
type set map[string]bool

func (s set) add(text string) {
	if text != "" && len(s) < maxTexts {
		s[text] = true
	}
}

// See takes a sighting. It reports whether the address is to be probed now: it is
// new, or the last probe was long enough ago. The caller must answer with Probed.
func (t *Table) See(now time.Time, s Sighting) (probe bool) {
	if s.Note != "" {
		t.note(s)
		return false
	}
	r := t.rows[s.Address]
	if r == nil {
		if r = t.add(now, s); r == nil {
			t.full++
			return false
		}
	}
	r.seen = now
	r.found.add(s.Found)
	r.names.add(s.Name)
	r.services.add(s.Service)
	r.hints.add(s.Hint)
	r.links.add(s.Link)
	r.uuids.add(s.UUID)
	return r.ask(now)
}

// add makes a row, or none if there is no room or its source has had its share.
func (t *Table) add(now time.Time, s Sighting) *row {
	if t.rows == nil {
		t.rows, t.sources = make(map[string]*row), make(map[string]int)
	}
	if s.Source != "" && t.sources[s.Source] >= maxPerSource || !t.room(now) {
		return nil
	}
	r := &row{address: s.Address, source: s.Source, found: set{}, names: set{}, services: set{}, hints: set{}, links: set{}, uuids: set{}}
	t.rows[s.Address] = r
	t.sources[r.source]++
	return r
}

func (t *Table) remove(r *row) {
	delete(t.rows, r.address)
	if t.sources[r.source]--; t.sources[r.source] <= 0 {
		delete(t.sources, r.source)
	}
}

// note counts a remark. They are few, for a stranger can cause them.
func (t *Table) note(s Sighting) {
	if t.notes == nil {
		t.notes = make(map[string]int)
	}
	text := s.Found + ": " + s.Note
	if _, known := t.notes[text]; !known && len(t.notes) >= maxNotes {
		text = "more remarks than are kept"
	}
	t.notes[text]++
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

// room reports whether one more address fits, and makes room. It looks for
// expired ones at most once a minute, and for one that does not answer among a
// few: a flood must not cost a walk of the table for each address.
func (t *Table) room(now time.Time) bool {
	if len(t.rows) >= MaxAddresses && now.Sub(t.swept) >= time.Minute {
		t.swept = now
		t.Expire(now)
	}
	if len(t.rows) < MaxAddresses {
		return true
	}
	looked := 0
	for _, r := range t.rows { // begins anywhere
		if r.failed > 0 && !r.asking {
			t.remove(r)
			return true
		}
		if looked++; looked == 64 {
			break
		}
	}
	return false
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

// Probed tells which key answered at an address: or nothing, and why.
func (t *Table) Probed(now time.Time, address, pin string, err error) {
	t.Answered(now, address, Answer{Pin: pin}, err)
}

// Answered tells what answered at an address: or nothing, and why.
func (t *Table) Answered(now time.Time, address string, a Answer, err error) {
	r := t.rows[address]
	if r == nil {
		return // it expired meanwhile
	}
	r.asking, r.probed = false, now
	if err != nil {
		r.failed, r.answer, r.problem = r.failed+1, Answer{}, err.Error()
		return
	}
	if r.answer.Pin != "" && r.answer.Pin != a.Pin {
		r.was = r.answer.Pin
	}
	r.failed, r.answer, r.problem = 0, a, ""
}

// Expire forgets addresses that were not seen for long.
func (t *Table) Expire(now time.Time) {
	for _, r := range t.rows {
		if now.Sub(r.seen) > Expiry {
			t.remove(r)
		}
	}
}
