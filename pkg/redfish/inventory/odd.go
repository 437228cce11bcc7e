package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Oddity is something about a resource that DSP0266 does not allow and that was
// read all the same, or could not be.
type Oddity struct {
	URI, What string
}

// The types of resources that name no schema of Redfish.
const (
	noJSON     = "not JSON"
	noObject   = "not an object"
	jsonSchema = "JSON schema"
)

// document is a resource's body, decoded as far as it goes.
type document struct {
	data map[string]any // nil if it is no object
	typ  string         // of the schema, or one of the types above, or ""
	odd  []string
}

// decode reads a body with every tolerance there is.
func decode(body []byte) (d document) {
	body, d.odd = redfish.Repair(body)
	var doc any
	if redfish.Decode(body, &doc) != nil {
		d.typ = noJSON
		d.odd = append(d.odd, noJSONBut(body))
		return d
	}
	if list, isList := doc.([]any); isList && len(list) == 1 {
		doc = list[0]
		d.odd = append(d.odd, "it is a list of one object")
	}
	var isObject bool
	if d.data, isObject = doc.(map[string]any); !isObject {
		d.typ = noObject
		d.odd = append(d.odd, "it is no object")
		return d
	}
	d.typ = typeOf(d.data["@odata.type"])
	if _, schema := d.data["$schema"]; schema && d.typ == "" {
		d.typ = jsonSchema
	}
	d.odd = append(d.odd, textual(body)...)
	d.odd = append(d.odd, members(d.data)...)
	return d
}

// noJSONBut says what a body is that is not JSON.
func noJSONBut(body []byte) string {
	start := bytes.TrimSpace(body)
	var broken *json.SyntaxError
	switch {
	case len(start) == 0:
		return "it is empty"
	case start[0] == '<':
		return "it is XML or HTML, not JSON"
	case bytes.HasPrefix(start, []byte("PK\x03\x04")):
		return "it is a zip archive, not JSON"
	case start[0] != '{' && start[0] != '[':
		return "it is not JSON"
	}
	var doc any
	if !errors.As(json.Unmarshal(body, &doc), &broken) {
		return "it is broken JSON"
	}
	return fmt.Sprintf("it is broken JSON: %s at byte %d", broken, broken.Offset)
}

// textual is what is lost in decoding: names that stand twice in an object, of
// which the last counts, and numbers that nobody can hold.
func textual(body []byte) (odd []string) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	type level struct {
		names map[string]bool // nil in a list
		value bool            // the next token is a value, not a name
	}
	var stack []level
	twice, huge := "", ""
	for {
		token, err := dec.Token()
		if err != nil {
			break
		}
		top := len(stack) - 1
		name, isText := token.(string)
		switch {
		case token == json.Delim('}') || token == json.Delim(']'):
			stack = stack[:top]
			continue
		case top >= 0 && stack[top].names != nil && !stack[top].value && isText:
			if stack[top].names[name] {
				twice = name
			}
			stack[top].names[name], stack[top].value = true, true
			continue
		case top >= 0:
			stack[top].value = false
		}
		switch x := token.(type) {
		case json.Delim:
			next := level{}
			if x == '{' {
				next.names = map[string]bool{}
			}
			stack = append(stack, next)
		case json.Number:
			if _, err := x.Float64(); err != nil {
				huge = x.String()
			}
		}
	}
	if twice != "" {
		odd = append(odd, fmt.Sprintf("an object of it names %q twice", twice))
	}
	if huge != "" {
		odd = append(odd, "it has a number that is too large: "+huge[:min(len(huge), 20)])
	}
	return odd
}

// members are the oddities of a collection's list.
func members(data map[string]any) (odd []string) {
	raw, has := data["Members"]
	if !has {
		return nil
	}
	list, isList := raw.([]any)
	if !isList {
		return append(odd, "its Members are no list")
	}
	if slices.ContainsFunc(list, func(m any) bool { _, isText := m.(string); return isText }) {
		odd = append(odd, "its Members are bare texts")
	}
	if slices.Contains(list, nil) {
		odd = append(odd, "one of its Members is null")
	}
	_, more := data["Members@odata.nextLink"]
	if n, told := data["Members@odata.count"].(float64); told && int(n) != len(list) && !more {
		odd = append(odd, fmt.Sprintf("it says that it has %v Members and lists %d", n, len(list)))
	}
	return odd
}

// named are the oddities of how a resource of the service is called.
func named(uri string, d document) (odd []string) {
	if d.data == nil || d.typ == jsonSchema || !strings.HasPrefix(uri, "/redfish/v1") || strings.HasSuffix(uri, "/odata") {
		return nil
	}
	id, isText := d.data["@odata.id"].(string)
	own, _, _ := strings.Cut(plain(uri), "?")
	told, _, _ := strings.Cut(plain(id), "?")
	switch {
	case !isText:
		odd = append(odd, "it names no @odata.id")
	case told == own || strings.Contains(id, "#"):
	case strings.EqualFold(told, own):
		odd = append(odd, "links write its URI in another case")
	}
	if _, isText := d.data["@odata.type"].(string); !isText {
		odd = append(odd, "it names no @odata.type")
	}
	return odd
}
