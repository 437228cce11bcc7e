package fleet

import (
	"encoding/hex"
	"slices"
	"strings"
)

// ShortKey is how the SHA-256 of a key is shown to a person who compares it with what
// another screen shows: its first 64 bits, in groups of four digits.
func ShortKey(hash []byte) string {
	digits := []byte(hex.EncodeToString(hash[:min(len(hash), 8)]))
	var groups []string
	for g := range slices.Chunk(digits, 4) {
		groups = append(groups, string(g))
	}
	return strings.Join(groups, ":")
}
