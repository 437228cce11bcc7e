package form

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
)

// Real is a number that is written as bmcweb writes a double: 40.0, not 40.
type Real float64

// MarshalJSON writes the shortest text with a decimal point.
func (r Real) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(r)) {
		return []byte("null"), nil
	}
	text := strconv.AppendFloat(nil, float64(r), 'f', -1, 64)
	if !bytes.ContainsRune(text, '.') {
		text = append(text, ".0"...)
	}
	return text, nil
}

// Print is v as bmcweb prints it: two spaces, no final newline.
func Print(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil // only values that can be encoded are ever put into a reply
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}
