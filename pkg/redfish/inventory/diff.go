package inventory

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// What happened between two inventories.
type What string

// The events. A fact that can't be read any more is lost, not changed: the BMC
// may tell it again tomorrow, then it is found.
const (
	Added   What = "added"
	Removed What = "removed"
	Changed What = "changed"
	Lost    What = "lost"
	Found   What = "found"
)

// Change is one difference between two inventories.
type Change struct {
	What What
	Kind string // "drive"
	// Path is the URI of the part and, of a fact, after a '#' its name here.
	Path          string
	Before, After fleet.Value // of a fact; of a part, what names it best
}

// String is the change in one line.
func (c Change) String() string {
	switch c.What {
	case Added:
		return fmt.Sprintf("added %s %s %s", c.Kind, c.Path, c.After)
	case Removed:
		return fmt.Sprintf("removed %s %s %s", c.Kind, c.Path, c.Before)
	default:
		return fmt.Sprintf("%s %s %s %s -> %s", c.What, c.Kind, c.Path, c.Before, c.After)
	}
}

// uri and fact are the two halves of the path.
func (c Change) uri() string {
	uri, _ := c.halves()
	return uri
}

func (c Change) fact() string {
	_, fact := c.halves()
	return fact
}

// halves divides at the last '#': a part's URI may hold one of its own.
func (c Change) halves() (uri, fact string) {
	if at := strings.LastIndexByte(c.Path, '#'); at >= 0 && !strings.Contains(c.Path[at:], "/") {
		return c.Path[:at], c.Path[at+1:]
	}
	return c.Path, ""
}

// entry is a part with its lasting facts by name.
type entry struct {
	kind  string
	part  *Part
	facts []namedFact
}

type namedFact struct {
	name string
	Fact
}

// entries are the parts that count, by URI in the order of the kinds.
func (inv *Inventory) entries() []entry {
	var all []entry
	for _, k := range kinds() {
		if k.name == "sensor" {
			continue
		}
		for _, p := range k.parts(inv) {
			e := entry{kind: k.name, part: partOf(p)}
			for field, fact := range fields(p) {
				if field.Tag.Get("live") == "" {
					e.facts = append(e.facts, namedFact{snake(field.Name), *fact})
				}
			}
			all = append(all, e)
		}
	}
	return all
}

// Digest is the same for two inventories of the same things, whatever their
// readings, and with near certainty another for others. Unknown facts and the
// order in which a BMC lists do not count.
func (inv *Inventory) Digest() string {
	var lines []string
	for _, e := range inv.entries() {
		lines = append(lines, fmt.Sprintf("%s %q", e.kind, e.part.URI))
		for _, f := range e.facts {
			if f.Known() {
				lines = append(lines, fmt.Sprintf("%s %q %s %d %q", e.kind, e.part.URI, f.name, f.Kind(), exact(f.Value)))
			}
		}
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return "sha256/" + hex.EncodeToString(sum[:])
}

// exact is a value without the rounding that is for people.
func exact(v fleet.Value) string {
	if n, isNumber := v.Number(); isNumber {
		return fmt.Sprint(n, v.Unit())
	}
	return v.String()
}

// titleFacts are what names a part, the best first.
func titleFacts() []string { return []string{"serial", "mac", "user", "version", "model", "name"} }

// title is what names a part best.
func (e entry) title() fleet.Value {
	for _, name := range titleFacts() {
		for _, f := range e.facts {
			if f.name == name && f.Known() {
				return f.Value
			}
		}
	}
	return fleet.NoValue(missing)
}

// Diff is what changed from before to after, sorted by path. A part that is
// gone is removed only if after is whole and it is not among what could not be
// read: else nobody knows.
func Diff(before, after *Inventory) []Change {
	var all []Change
	old := map[string]entry{}
	for _, e := range before.entries() {
		old[e.kind+" "+e.part.URI] = e
	}
	for _, e := range after.entries() {
		was, known := old[e.kind+" "+e.part.URI]
		delete(old, e.kind+" "+e.part.URI)
		switch {
		case known:
			all = append(all, changes(was, e)...)
		case before.Cut == "" && !before.blind(e.part.URI):
			all = append(all, Change{What: Added, Kind: e.kind, Path: e.part.URI, After: e.title()})
		default:
			all = append(all, Change{What: Found, Kind: e.kind, Path: e.part.URI, After: e.title()})
		}
	}
	for _, e := range old {
		what := Removed
		if after.Cut != "" || after.blind(e.part.URI) {
			what = Lost
		}
		all = append(all, Change{What: what, Kind: e.kind, Path: e.part.URI, Before: e.title()})
	}
	slices.SortFunc(all, func(x, y Change) int {
		return cmp.Or(cmp.Compare(x.Path, y.Path), cmp.Compare(x.Kind, y.Kind))
	})
	return all
}

// blind reports whether the part's URI, or one above it, could not be read.
func (inv *Inventory) blind(uri string) bool {
	for _, u := range inv.Unread {
		if above := plain(u.URI); !u.Inline && (uri == above || strings.HasPrefix(uri, above+"/") || strings.HasPrefix(uri, above+"#")) {
			return true
		}
	}
	return false
}

func changes(was, is entry) []Change {
	var all []Change
	for i, now := range is.facts {
		then := was.facts[i]
		what := Changed
		switch {
		case now.Equal(then.Value):
			continue
		case !now.Known():
			what = Lost
		case !then.Known():
			what = Found
		}
		all = append(all, Change{What: what, Kind: is.kind, Path: is.part.URI + "#" + now.name, Before: then.Value, After: now.Value})
	}
	return all
}
