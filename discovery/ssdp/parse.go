package ssdp

import (
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// target is Redfish's search target (DSP0266, section 10.2); a service may append
// its minor version.
const target = "urn:dmtf-org:service:redfish-rest:1"

const (
	maxMessage = 8 << 10
	maxLines   = 64
)

var usn = regexp.MustCompile(`(?i)^uuid:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:::|$)`)

// message is what an answer or a notice says.
type message struct {
	addr netip.Addr // invalid: the URL names a host, so take the sender
	port uint16
	uuid string
}

// parse reads an answer to a search, or a notice that a service is there. It
// reports false for whatever else is said over SSDP.
func parse(data []byte) (message, bool) {
	if len(data) > maxMessage {
		return message{}, false
	}
	lines := strings.Split(string(data), "\n")
	first, headers := strings.TrimSpace(lines[0]), headersOf(lines[1:])
	kind := headers["ST"]
	switch {
	case strings.HasPrefix(first, "HTTP/1.") && status(first) == "200":
	case strings.HasPrefix(first, "NOTIFY * HTTP/1.") && headers["NTS"] == "ssdp:alive":
		kind = headers["NT"]
	default:
		return message{}, false
	}
	if kind != target && !strings.HasPrefix(kind, target+":") && !strings.HasPrefix(kind, target+".") {
		return message{}, false
	}
	at := headers["AL"]
	if at == "" {
		at = headers["LOCATION"] // not what DSP0266 says, and seen
	}
	m, ok := locate(at)
	if id := usn.FindStringSubmatch(headers["USN"]); id != nil {
		m.uuid = strings.ToLower(id[1])
	}
	return m, ok
}

// status is the second word of a status line.
func status(line string) string {
	words := strings.Fields(line)
	if len(words) < 2 {
		return ""
	}
	return words[1]
}

// headersOf are the first values of the headers, by name in capitals.
func headersOf(lines []string) map[string]string {
	headers := map[string]string{}
	for _, line := range lines[:min(len(lines), maxLines)] {
		line = strings.TrimSpace(line)
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		name = strings.ToUpper(strings.TrimSpace(name))
		if _, again := headers[name]; !again {
			headers[name] = strings.Trim(strings.TrimSpace(value), "<>")
		}
	}
	return headers
}

// locate is where a service root is. Redfish over plain HTTP is not looked at.
func locate(at string) (message, bool) {
	u, err := url.Parse(at)
	if err != nil || !strings.EqualFold(u.Scheme, "https") || u.Hostname() == "" || u.User != nil {
		return message{}, false
	}
	m := message{port: 443}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return message{}, false
		}
		m.port = uint16(n)
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		m.addr = addr.WithZone("") // a zone means nothing on another host
	}
	return m, true
}
