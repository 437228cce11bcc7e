package wire

import (
	"errors"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// ToFault is err as the three texts that messages carry: its fault.Kind, what
// it says, and the hint. All are empty for nil.
func ToFault(err error) (kind, text, hint string) {
	if err == nil {
		return "", "", ""
	}
	return string(fault.KindOf(err)), utf8(err.Error()), utf8(fault.HintOf(err))
}

// FromFault is the error that a message tells of, nil if it tells of none. Its
// text is the text as it was sent.
func FromFault(kind, text, hint string) error {
	if kind == "" && text == "" {
		return nil
	}
	k := fault.Kind(kind)
	if k == "" {
		k = fault.Internal
	}
	if text == "" {
		text = string(k)
	}
	return &fault.Error{Kind: k, Err: errors.New(text), Hint: hint}
}
