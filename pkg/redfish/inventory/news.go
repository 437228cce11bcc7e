package inventory

import (
	"slices"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// News is what of a difference somebody wants to be told: what came, what went,
// and what is another than before. That a BMC can't tell something for a while,
// and tells it again, is none. A slot that is filled or emptied is a part that
// came or went, whatever else changed with it.
func News(changes []Change) []Change {
	filled := map[string]What{}
	for _, c := range changes {
		if is, told := c.After.Bool(); c.What == Changed && told && c.fact() == "present" {
			filled[c.uri()] = Removed
			if is {
				filled[c.uri()] = Added
			}
		}
	}
	var news []Change
	for _, c := range changes {
		what, slot := filled[c.uri()]
		switch {
		case slot && c.fact() == "present":
			before, after := titles(changes, c.uri())
			news = append(news, Change{What: what, Kind: c.Kind, Path: c.uri(), Before: before, After: after})
		case slot, c.What == Lost, c.What == Found:
		default:
			news = append(news, c)
		}
	}
	return news
}

// titles are what named the part at uri best, before and after.
func titles(changes []Change, uri string) (before, after fleet.Value) {
	before, after = fleet.NoValue(missing), fleet.NoValue(missing)
	for _, name := range slices.Backward(titleFacts()) {
		for _, c := range changes {
			if c.uri() != uri || c.fact() != name {
				continue
			}
			if c.Before.Known() {
				before = c.Before
			}
			if c.After.Known() {
				after = c.After
			}
		}
	}
	return before, after
}

// Keep is after with what before knew and nobody could read now: the base that
// the next inventory is compared with. So a part that a BMC does not tell of for
// a day is neither gone then, nor new on the day after, nor unnoticed if it is
// another one.
func Keep(before, after *Inventory) *Inventory {
	kept, old := *after, map[string]any{}
	all := kinds()
	for _, k := range all {
		for _, p := range k.parts(before) {
			old[k.name+" "+partOf(p).URI] = p
		}
	}
	for _, k := range all {
		k.clone(&kept)
		for _, p := range k.parts(&kept) {
			key := k.name + " " + partOf(p).URI
			fillIn(p, old[key])
			delete(old, key)
		}
		for _, p := range k.parts(before) {
			_, left := old[k.name+" "+partOf(p).URI]
			if left && (after.Cut != "" || after.blind(partOf(p).URI)) {
				k.copy(&kept, p)
			}
		}
		k.sort(&kept)
	}
	return &kept
}

// fillIn gives p the facts that it lacks and was has.
func fillIn(p, was any) {
	if was == nil {
		return
	}
	known := map[string]Fact{}
	for field, f := range fields(was) {
		known[field.Name] = *f
	}
	for field, f := range fields(p) {
		if !f.Known() && known[field.Name].Known() {
			*f = known[field.Name]
		}
	}
}
