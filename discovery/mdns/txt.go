package mdns

import (
	"regexp"
	"strings"
)

const (
	maxTXT  = 32  // strings of one record
	maxName = 128 // characters that are shown
	maxHint = 160
)

// told are the keys that say what a BMC takes itself for, as OpenBMC's design
// documents and other firmware write them.
var told = [...]string{"type", "role", "manufacturer", "vendor", "model", "serial"}

var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// hints is what a TXT record (RFC 6763, section 6) says of role and type, and the
// UUID. The first of several equal keys counts; keys have no case.
func hints(txt []string) (hint, id string) {
	values := map[string]string{}
	for _, entry := range txt {
		key, value, _ := strings.Cut(entry, "=")
		key = strings.ToLower(key)
		if _, again := values[key]; !again && key != "" {
			values[key] = value
		}
	}
	var parts []string
	for _, key := range told {
		if v := strings.TrimSpace(clean(values[key])); v != "" {
			parts = append(parts, key+"="+v)
		}
	}
	if u := values["uuid"]; uuid.MatchString(u) {
		id = strings.ToLower(u)
	}
	return cut(strings.Join(parts, " "), maxHint), id
}

// clean makes a name that anybody may have announced fit to be shown. It undoes
// the escapes of the presentation format first: `\.` and `\032`.
func clean(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(unescape(name), ""))
	return cut(name, maxName)
}

func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n])
	}
	return s
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if rest := s[i+1:]; len(rest) >= 3 && digits(rest[:3]) {
			if n := int(rest[0]-'0')*100 + int(rest[1]-'0')*10 + int(rest[2]-'0'); n < 256 {
				b.WriteByte(byte(n))
			}
			i += 3
		} else if rest != "" {
			b.WriteByte(rest[0])
			i++
		}
	}
	return b.String()
}

func digits(s string) bool {
	return strings.Trim(s, "0123456789") == ""
}
