package sim

import "slices"

// maxTries bounds the worlds that are run to shrink one.
const maxTries = 200

// Shrink is the world of a verdict again with as few of its faults as still break
// it, and which ones these are of the list that the seed draws. The violation may be
// another one: what counts is that there is one.
func Shrink(o Options, v Verdict) (Verdict, []int) {
	keep := make([]int, len(v.Faults))
	for i := range keep {
		keep[i] = i
	}
	all, best, tries := v.Faults, v, 0
	for size := (len(keep) + 1) / 2; size > 0; size /= 2 {
		for at := 0; at < len(keep) && tries < maxTries; {
			fewer := slices.Delete(slices.Clone(keep), at, min(at+size, len(keep)))
			o.Faults = Some(all, fewer)
			tries++
			if got := Run(o); len(got.Violations) > 0 {
				keep, best = fewer, got
			} else {
				at += size
			}
		}
	}
	return best, keep
}

// Some are those of the faults. It is never nil: no fault is a list too.
func Some(all []Fault, which []int) []Fault {
	some := []Fault{}
	for _, i := range which {
		if i >= 0 && i < len(all) {
			some = append(some, all[i])
		}
	}
	return some
}
