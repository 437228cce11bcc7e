package enroll

import (
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// letters of a code: none that makes a word or looks like another (RFC 8628 6.1).
const (
	letters  = "BCDFGHJKLMNPQRSTVWXZ"
	codeSize = 8
)

// CodeBytes is how much randomness a code takes.
const CodeBytes = 64

// Code makes a code of eight letters, 34 bits, as WDJB-MJHT, of random bytes.
func Code(random []byte) (string, error) {
	const even = 256 / len(letters) * len(letters) // above it some letters would come more often
	var b strings.Builder
	for _, r := range random {
		if int(r) >= even {
			continue
		}
		if b.Len() == codeSize/2 {
			b.WriteByte('-')
		}
		b.WriteByte(letters[int(r)%len(letters)])
		if b.Len() == codeSize+1 {
			return b.String(), nil
		}
	}
	return "", fault.New(fault.Internal, "make a code", "there was too little randomness")
}

// ParseCode is the one form of a code that a person has typed: in any case, with or
// without the dash.
func ParseCode(s string) (string, error) {
	plain := strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(s))
	if len(plain) != codeSize || strings.Trim(plain, letters) != "" {
		return "", fault.New(fault.BadInput, "read the code", "a code has eight letters, as WDJB-MJHT").
			WithHint("the agent that waits shows it")
	}
	return plain[:codeSize/2] + "-" + plain[codeSize/2:], nil
}
