package fleet

import (
	"fmt"
	"log/slog"
)

// Redacted stands wherever a secret would have been shown.
const Redacted = "(secret)"

// Secret is a text that shows itself nowhere: not through fmt, slog or JSON.
// Only Reveal gives it away, and each call of Reveal is a place to review.
type Secret struct{ text string }

// NewSecret hides text.
func NewSecret(text string) Secret { return Secret{text: text} }

// Reveal is the text itself.
func (s Secret) Reveal() string { return s.text }

// Empty reports whether there is no text.
func (s Secret) Empty() bool { return s.text == "" }

// String is Redacted.
func (Secret) String() string { return Redacted }

// Format writes Redacted for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) }

// LogValue is Redacted.
func (Secret) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText is Redacted.
func (Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }
