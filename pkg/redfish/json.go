package redfish

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish/scan"
)

var (
	errNotJSON = errors.New("the answer is not JSON")
	errTooDeep = errors.New("the answer is nested too deep")
)

func kindOfJSON(err error) fault.Kind {
	if errors.Is(err, errTooDeep) {
		return fault.TooLarge
	}
	return fault.Garbage
}

// checkJSON reports whether body is one JSON value nested at most depth deep.
func checkJSON(body []byte, depth int) error { return notJSON(scan.Valid(body, depth), depth) }

// notJSON is what a scanner found wrong, for a person.
func notJSON(err error, depth int) error {
	switch {
	case errors.Is(err, scan.ErrDeep):
		return fmt.Errorf("%w: more than %d levels", errTooDeep, depth)
	case err != nil:
		return errNotJSON
	}
	return nil
}

// Decode reads JSON into out and tolerates members of the wrong type: they
// stay as they are. One mistyped member must not lose a whole resource.
func Decode(body []byte, out any) error {
	err := json.Unmarshal(body, out)
	var mistyped *json.UnmarshalTypeError
	if err == nil || errors.As(err, &mistyped) {
		return nil
	}
	return fault.Wrap(fault.Garbage, "decode", errNotJSON)
}

// Text is a string as BMCs send them: also a number or null ("").
type Text string

// UnmarshalJSON never fails: what is neither a string nor a number is "".
func (t *Text) UnmarshalJSON(b []byte) error {
	if n := len(b); n > 1 && b[0] == '"' && bytes.IndexByte(b, '\\') < 0 && utf8.Valid(b) {
		*t = Text(b[1 : n-1]) // the usual case, without a second decoder
		return nil
	}
	var s string
	if json.Unmarshal(b, &s) == nil {
		*t = Text(s)
		return nil
	}
	var n json.Number
	if json.Unmarshal(b, &n) == nil {
		*t = Text(n.String())
	}
	return nil
}

// Take is UnmarshalJSON, but a text that is the known one is taken over and not
// made anew.
func (t *Text) Take(raw []byte, known Text) {
	if n := len(raw); n == len(known)+2 && raw[0] == '"' && string(raw[1:n-1]) == string(known) {
		*t = known
		return
	}
	_ = t.UnmarshalJSON(raw) // it never fails
}

// Number is a number as BMCs send them: also as a string ("512"), or null.
type Number struct {
	Value float64
	Set   bool
}

// UnmarshalJSON never fails: what is no number is not set.
func (n *Number) UnmarshalJSON(b []byte) error {
	text := strings.TrimSpace(strings.Trim(string(b), `"`))
	v, err := strconv.ParseFloat(text, 64)
	if err == nil && v-v == 0 { // neither NaN nor infinite
		*n = Number{Value: v, Set: true}
	}
	return nil
}

// Flag is a truth value as BMCs send them: also as a string ("true"), or null.
type Flag struct{ Value, Set bool }

// UnmarshalJSON never fails: what is no truth value is not set.
func (f *Flag) UnmarshalJSON(b []byte) error {
	if v, err := strconv.ParseBool(strings.Trim(string(b), `"`)); err == nil {
		*f = Flag{Value: v, Set: true}
	}
	return nil
}

// maxLinkDepth is how deep encoding/json lets nest what it hands to a Link.
const maxLinkDepth = 10_000

// Link is a reference to another resource.
type Link string

// UnmarshalJSON takes {"@odata.id": "…"}, and the bare string that some BMCs
// send in its place. What is not a path on the BMC is "".
func (l *Link) UnmarshalJSON(b []byte) error {
	var id Text
	switch s := scan.New(b, maxLinkDepth); {
	case len(b) > 0 && b[0] == '{': // the member may be the whole resource
		for name := range s.Members {
			if string(name) == "@odata.id" {
				id = ""
				_ = id.UnmarshalJSON(s.Raw()) // it never fails
			}
		}
		if s.End() != nil {
			id = ""
		}
	case len(b) > 0 && b[0] == '"':
		_ = id.UnmarshalJSON(b)
	}
	path, _, _ := strings.Cut(string(id), "#")
	if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") {
		*l = Link(path)
	}
	return nil
}

// Status is the Status member of a resource.
type Status struct {
	State        Text `json:"State"`
	Health       Text `json:"Health"`
	HealthRollup Text `json:"HealthRollup"`
}

// Worst is the health of a resource with all below it, "" if unknown.
func (s Status) Worst() string {
	if s.HealthRollup != "" {
		return string(s.HealthRollup)
	}
	return string(s.Health)
}

// Absent reports whether the resource stands for an empty slot.
func (s Status) Absent() bool { return s.State == "Absent" }

// At is the value that a JSON pointer (RFC 6901) names in body, nil if there is
// none. The empty pointer names the whole.
func At(body []byte, pointer string) any {
	var v any
	if json.Unmarshal(body, &v) != nil {
		return nil
	}
	pointer = strings.TrimPrefix(pointer, "#")
	if pointer == "" || pointer == "/" {
		return v
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for part := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		part = unescape.Replace(part)
		switch node := v.(type) {
		case map[string]any:
			v = node[part]
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(node) {
				return nil
			}
			v = node[i]
		default:
			return nil
		}
	}
	return v
}
