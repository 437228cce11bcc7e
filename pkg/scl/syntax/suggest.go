package syntax

import "strings"

// Nearest is the one of names that a person who typed word most likely meant;
// false if none is near.
func Nearest(word string, names []string) (string, bool) {
	const longest = 64
	if word == "" || len(word) > longest {
		return "", false
	}
	low := strings.ToLower(word)
	best, least := "", 1+(len(word)+2)/4 // of one or two letters only the case may differ
	for _, name := range names {
		if d := len(name) - len(word); d >= least || -d >= least {
			continue
		}
		if d := distance(low, strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	return best, best != ""
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
