package discovery

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Candidates are the BMCs that have answered, in the order of their pins.
func (t *Table) Candidates() []Candidate {
	byPin := make(map[string][]*row)
	for _, r := range t.rows {
		if pin := r.answer.Pin; pin != "" {
			byPin[pin] = append(byPin[pin], r)
		}
	}
	all := make([]Candidate, 0, len(byPin))
	for _, rows := range byPin {
		for _, group := range split(rows) {
			all = append(all, merge(group, len(rows)-len(group)))
		}
	}
	slices.SortFunc(all, func(a, b Candidate) int { return cmp.Or(cmp.Compare(a.Pin, b.Pin), cmp.Compare(a.UUID, b.UUID)) })
	conflicts(all, "name", func(c Candidate) []string { return c.Names })
	conflicts(all, "UUID", func(c Candidate) []string { return []string{c.UUID} })
	return all
}

// split parts the addresses of one key by UUID, if there is more than one.
func split(rows []*row) map[string][]*row {
	byUUID := make(map[string][]*row)
	for _, r := range rows {
		byUUID[r.answer.UUID] = append(byUUID[r.answer.UUID], r)
	}
	if unknown := byUUID[""]; unknown != nil && len(byUUID) == 2 {
		return map[string][]*row{"": rows}
	}
	return byUUID
}

// merge is one candidate of its addresses; others have the same key and are not it.
func merge(rows []*row, others int) Candidate {
	slices.SortFunc(rows, func(a, b *row) int { return cmp.Or(b.seen.Compare(a.seen), cmp.Compare(a.address, b.address)) })
	c := Candidate{Pin: rows[0].answer.Pin, Root: rows[0].answer.Root, Seen: rows[0].seen}
	found, names, services, hints, links, odd := set{}, set{}, set{}, set{}, set{}, set{}
	for _, r := range rows {
		c.Addresses = append(c.Addresses, r.address)
		maps.Copy(found, r.found)
		maps.Copy(names, r.names)
		maps.Copy(services, r.services)
		maps.Copy(hints, r.hints)
		maps.Copy(links, r.links)
		if r.answer.Problem == "" && c.Problem != "" {
			c.Root = r.answer.Root // this address tells more
		}
		if r.was != "" {
			odd[fmt.Sprintf("the key at %s was %s", r.address, short(r.was))] = true
		}
		if u := r.answer.UUID; u != "" && len(r.uuids) > 0 && !r.uuids[u] {
			odd["announces the UUID "+strings.Join(sorted(r.uuids), ", ")] = true
		}
	}
	if c.Problem != "" {
		odd[c.Problem] = true
	}
	if others > 0 {
		odd["other BMCs show the same key: it identifies none of them"] = true
	}
	c.Found, c.Names, c.Services, c.Hints = sorted(found), sorted(names), sorted(services), sorted(hints)
	c.Links, c.Odd = sorted(links), sorted(odd)
	return c
}

// conflicts marks candidates that claim what others claim too: one of them lies,
// or it is one machine that has changed its key.
func conflicts(all []Candidate, what string, claims func(Candidate) []string) {
	claimed := make(map[string][]int)
	for i, c := range all {
		for _, text := range claims(c) {
			if text != "" {
				claimed[text] = append(claimed[text], i)
			}
		}
	}
	for _, text := range slices.Sorted(maps.Keys(claimed)) {
		owners := claimed[text]
		if len(owners) < 2 {
			continue
		}
		for _, i := range owners {
			all[i].Odd = append(all[i].Odd, fmt.Sprintf("%d BMCs claim the %s %s", len(owners), what, text))
		}
	}
}

// Silent are the addresses that did not answer, or not yet, in their order.
func (t *Table) Silent() []Silent {
	var all []Silent
	for _, r := range t.ordered() {
		if r.answer.Pin == "" {
			all = append(all, Silent{Address: r.address, Found: sorted(r.found), Names: sorted(r.names), Problem: r.problem, Seen: r.seen})
		}
	}
	return all
}

// Notes are the remarks of the finders, in order, with how often each was made.
func (t *Table) Notes() []string {
	var all []string
	for _, text := range slices.Sorted(maps.Keys(t.notes)) {
		if n := t.notes[text]; n > 1 {
			text = fmt.Sprintf("%s (%d times)", text, n)
		}
		all = append(all, text)
	}
	if t.full > 0 {
		all = append(all, fmt.Sprintf("the table is full, or one host spoke of too many others: %d sightings were dropped", t.full))
	}
	return all
}

// Explain says, for a person, what is known of every address and why: one line
// each, in the order of the addresses.
func (t *Table) Explain(now time.Time) string {
	var b strings.Builder
	for _, r := range t.ordered() {
		fmt.Fprintf(&b, "%s: found by %s %s ago%s, %s\n", r.address, strings.Join(sorted(r.found), " and "),
			now.Sub(r.seen).Truncate(time.Second), r.said(), r.heard(now))
	}
	return b.String()
}

func (t *Table) ordered() []*row {
	return slices.SortedFunc(maps.Values(t.rows), func(a, b *row) int { return cmp.Compare(a.address, b.address) })
}

// said is what was announced of the address.
func (r *row) said() string {
	var b strings.Builder
	for _, part := range []struct {
		what  string
		texts set
	}{{"under", r.services}, {"as", r.names}, {"which says", r.hints}, {"with UUID", r.uuids}} {
		if len(part.texts) > 0 {
			fmt.Fprintf(&b, " %s %s", part.what, strings.Join(sorted(part.texts), ", "))
		}
	}
	if r.source != "" && !(Sighting{Address: r.address, Source: r.source}).Own() {
		fmt.Fprintf(&b, " (says %s)", r.source)
	}
	return b.String()
}

// heard is what the probe of the address came to.
func (r *row) heard(now time.Time) string {
	switch {
	case r.answer.Pin != "" && r.answer.Problem != "":
		return "answers with key " + r.answer.Pin + ", but " + r.answer.Problem
	case r.answer.Pin != "":
		return "answers with key " + r.answer.Pin
	case r.problem != "":
		return fmt.Sprintf("did not answer %s ago: %s", now.Sub(r.probed).Truncate(time.Second), r.problem)
	case r.asking:
		return "is being asked for its key"
	default:
		return "not asked yet"
	}
}

// short is a pin as it is shown where there is little room.
func short(pin string) string {
	if len(pin) > len("sha256/")+12 {
		return pin[:len("sha256/")+12]
	}
	return pin
}

func sorted(s set) []string { return slices.Sorted(maps.Keys(s)) }
