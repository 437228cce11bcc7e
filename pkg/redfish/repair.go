package redfish

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Repair makes JSON of what was meant to be JSON: without a byte order mark,
// from UTF-16, with the control characters in its texts escaped (DSP0266 wants
// UTF-8 without any of these). What is fine, and what can't be repaired, comes
// back as it was. flaws say what was amended.
func Repair(body []byte) (repaired []byte, flaws []string) {
	if rest, marked := bytes.CutPrefix(body, []byte("\xEF\xBB\xBF")); marked {
		body, flaws = rest, append(flaws, "it begins with a byte order mark")
	} else if text, wide := fromUTF16(body); wide {
		body, flaws = text, append(flaws, "it is UTF-16")
	}
	if json.Valid(body) {
		return body, flaws
	}
	trimmed := bytes.TrimRight(body, "\x00 \t\r\n")
	if escaped := escapeControls(trimmed); json.Valid(escaped) {
		if len(trimmed) < len(body) && bytes.IndexByte(body[len(trimmed):], 0) >= 0 {
			flaws = append(flaws, "zero bytes follow it")
		}
		if len(escaped) > len(trimmed) {
			flaws = append(flaws, "its texts hold control characters")
		}
		return escaped, flaws
	}
	return body, flaws
}

// fromUTF16 knows UTF-16 by its mark, or by the zero beside the bracket or brace
// that JSON of Redfish begins with.
func fromUTF16(body []byte) ([]byte, bool) {
	if len(body) < 2 || len(body)%2 != 0 {
		return nil, false
	}
	big, marked := body[0] == 0xFE && body[1] == 0xFF, true
	switch {
	case big, body[0] == 0xFF && body[1] == 0xFE:
	case body[0] == 0 && (body[1] == '{' || body[1] == '['):
		big, marked = true, false
	case body[1] == 0 && (body[0] == '{' || body[0] == '['):
		marked = false
	default:
		return nil, false
	}
	if marked {
		body = body[2:]
	}
	units := make([]uint16, len(body)/2)
	for i := range units {
		lo, hi := body[2*i], body[2*i+1]
		if big {
			lo, hi = hi, lo
		}
		units[i] = uint16(hi)<<8 | uint16(lo)
	}
	var text []byte
	for _, r := range utf16.Decode(units) {
		text = utf8.AppendRune(text, r)
	}
	return text, true
}

// escapeControls writes the control characters within texts as JSON wants them.
func escapeControls(body []byte) []byte {
	out := make([]byte, 0, len(body))
	quoted := false
	for i := 0; i < len(body); i++ {
		b := body[i]
		switch {
		case quoted && b == '\\' && i+1 < len(body):
			out = append(out, b, body[i+1])
			i++
			continue
		case b == '"':
			quoted = !quoted
		case quoted && b < 0x20:
			out = fmt.Appendf(out, `\u%04x`, b)
			continue
		}
		out = append(out, b)
	}
	return out
}

// linkText is a member that is a link, wherever it stands in a text.
var linkText = regexp.MustCompile(`"(@odata\.id|@Redfish\.ActionInfo|Uri|href|[^"\\]*@odata\.nextLink)"\s*:\s*"((?:[^"\\]|\\.)*)"`)

// linksIn finds the links in a body without decoding it: in one that is broken,
// and in an object that names a member twice, of which a decoder keeps one.
func linksIn(body []byte) []string {
	var all []string
	for _, m := range linkText.FindAllSubmatch(body, -1) {
		all = append(all, strings.ReplaceAll(string(m[2]), `\/`, "/"))
	}
	return all
}
