package events

import (
	"errors"
	"net/url"
	"regexp"
	"strings"
)

var errFilter = errors.New("the filter is not understood")

var comparison = regexp.MustCompile(`^\(?(MessageId|RegistryPrefix|EventFormatType) eq '?([A-Za-z0-9._]+)'?\)?$`)

// ParseFilter understands $filter=NAME eq VALUE, joined by "or".
func ParseFilter(raw string) (f Filter, err error) {
	q, err := url.ParseQuery(raw)
	if err != nil || q.Get("$filter") == "" {
		return f, err
	}
	for part := range strings.SplitSeq(q.Get("$filter"), " or ") {
		m := comparison.FindStringSubmatch(strings.TrimSpace(part))
		if m == nil {
			return f, errFilter
		}
		switch m[1] {
		case "MessageId":
			f.MessageIDs = append(f.MessageIDs, m[2])
		case "RegistryPrefix":
			f.Prefixes = append(f.Prefixes, m[2])
		}
	}
	return f, nil
}
