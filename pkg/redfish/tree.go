package redfish

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// JSON writes the tree as one object: each resource under its URI, a resource
// that could not be read as {"error": …}, and "cut" if the tree is not whole.
// Numbers keep their digits, keys are sorted.
func (t *Tree) JSON(w io.Writer) error {
	doc := map[string]any{}
	for _, r := range t.Resources {
		doc[r.URI] = t.clean(r)
	}
	if t.Cut != "" {
		doc["cut"] = t.Cut
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}

// XML writes the tree as a well-formed document: <redfish> with a <resource
// uri="…"> each. A member is an element of its name where that is a name in
// XML, else <member name="…">; an entry of a list is an <item>. The attribute
// type tells what is not a text: object, list, number, bool, null.
func (t *Tree) XML(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString(xml.Header + "<redfish")
	if t.Cut != "" {
		b.WriteString(` cut="` + escaped(t.Cut) + `"`)
	}
	b.WriteString(">\n")
	for _, r := range t.Resources {
		fmt.Fprintf(&b, `<resource uri="%s">`, escaped(r.URI))
		writeXML(&b, t.clean(r))
		b.WriteString("</resource>\n")
	}
	b.WriteString("</redfish>\n")
	_, err := w.Write(b.Bytes())
	return err
}

func writeXML(b *bytes.Buffer, node any) {
	switch x := node.(type) {
	case map[string]any:
		for _, key := range sortedKeys(x) {
			open, end := element(key)
			b.WriteString("<" + open + typeOf(x[key]) + ">")
			writeXML(b, x[key])
			b.WriteString("</" + end + ">")
		}
	case []any:
		for _, item := range x {
			b.WriteString("<item" + typeOf(item) + ">")
			writeXML(b, item)
			b.WriteString("</item>")
		}
	case nil:
	default:
		b.WriteString(escaped(fmt.Sprint(x)))
	}
}

var xmlName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// element is the start and end of a member's element, without the brackets.
// Names that begin with xml are reserved; item and member are ours.
func element(key string) (open, end string) {
	if xmlName.MatchString(key) && !strings.HasPrefix(strings.ToLower(key), "xml") && key != "item" && key != "member" {
		return key, key
	}
	return `member name="` + escaped(key) + `"`, "member"
}

func typeOf(node any) string {
	switch node.(type) {
	case map[string]any:
		return ` type="object"`
	case []any:
		return ` type="list"`
	case json.Number:
		return ` type="number"`
	case bool:
		return ` type="bool"`
	case nil:
		return ` type="null"`
	default:
		return ""
	}
}

// escaped is s as XML text; what XML can't hold becomes U+FFFD.
func escaped(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes everything
	return b.String()
}

// clean is a resource without secrets.
func (t *Tree) clean(r Resource) any {
	if r.Err != "" {
		return map[string]any{"error": t.hide(r.Err)}
	}
	body, _ := Repair(r.Body)
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var node any
	if dec.Decode(&node) != nil {
		return map[string]any{"error": errNotJSON.Error()}
	}
	return t.scrub("", node)
}

// scrub replaces the known secrets everywhere, and whole texts that stand in a
// member named like a secret.
func (t *Tree) scrub(key string, node any) any {
	switch x := node.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, v := range x {
			out[t.hide(k)] = t.scrub(k, v)
		}
		return out
	case []any:
		for i := range x {
			x[i] = t.scrub(key, x[i])
		}
		return x
	case string:
		if x != "" && secretName(key) {
			return fleet.Redacted
		}
		return t.hide(x)
	default:
		return node
	}
}

// secretName reports whether a member of this name holds a secret where it
// holds a text. "PasswordChangeRequired" and the like hold none.
func secretName(key string) bool {
	lower := strings.ToLower(key)
	for _, end := range []string{"password", "passphrase", "token", "secret", "privatekey", "communitystring", "encryptionkey", "authenticationkey"} {
		if strings.HasSuffix(lower, end) {
			return true
		}
	}
	return false
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
