// Package params is the query of a Redfish URI as bmcweb understands it. It is
// pure.
package params

import (
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Query is what a client asked of a reply beside the resource.
type Query struct {
	Only   bool
	Expand bool
	paths  []string // of $select
	top    int      // -1: all
	skip   int
	paging bool // $top or $skip was given
}

// selectable is a property path that $select takes.
var selectable = regexp.MustCompile(`^[A-Za-z@#][A-Za-z0-9@#._]*(/[A-Za-z@#][A-Za-z0-9@#._]*)*$`)

// All asks for a resource as it is.
func All() Query { return Query{top: -1} }

// Refused is a parameter that is not taken, and the status that says so.
type Refused struct {
	Key, Value string
	Status     int
}

// Parse understands what bmcweb does: only, $select, $top and $skip, and
// $expand=. of collections where it is built in. All
// else with a dollar is refused with 501, and anything without is ignored.
func Parse(raw string, expand bool) (Query, *Refused) {
	q := All()
	for part := range strings.SplitSeq(raw, "&") {
		key, value, _ := strings.Cut(part, "=")
		key, value = unescape(key), unescape(value)
		valid, status := true, http.StatusBadRequest
		switch key {
		case "only":
			q.Only = true
		case "$select":
			q.paths = strings.Split(value, ",")
			for _, path := range q.paths {
				valid = valid && selectable.MatchString(path)
			}
		case "$expand":
			q.Expand = expand && strings.HasPrefix(value, ".")
			valid, status = q.Expand, http.StatusNotImplemented
		case "$top":
			q.top, valid = count(value)
			q.paging = true
		case "$skip":
			q.skip, valid = count(value)
			q.paging = true
		default:
			valid, status = !strings.HasPrefix(key, "$"), http.StatusNotImplemented
		}
		if !valid {
			return q, &Refused{Key: key, Value: value, Status: status}
		}
	}
	return q, nil
}

func unescape(s string) string {
	if t, err := url.QueryUnescape(s); err == nil {
		return t
	}
	return s
}

func count(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err == nil
}

// Page cuts the members of a collection. Only log collections tell where the
// next page starts, and that link forgets $top.
func (q Query) Page(o map[string]any) {
	members, isCollection := o["Members"].([]map[string]any)
	if !isCollection || !q.paging {
		return
	}
	total := len(members)
	from := min(q.skip, total)
	to := total
	if q.top >= 0 {
		to = min(from+q.top, total)
	}
	o["Members"] = members[from:to]
	uri, _ := o["@odata.id"].(string)
	schema, _ := o["@odata.type"].(string)
	if to < total && strings.HasPrefix(schema, "#LogEntryCollection") {
		o["Members@odata.nextLink"] = uri + "?$skip=" + strconv.Itoa(to)
	}
}

// Selected keeps the properties that were asked for, and what names the
// resource.
func (q Query) Selected(o map[string]any) map[string]any {
	if len(q.paths) == 0 {
		return o
	}
	return pick(o, q.paths)
}

func pick(o map[string]any, paths []string) map[string]any {
	out := map[string]any{}
	for _, key := range []string{"@odata.id", "@odata.type", "@odata.context", "@odata.etag"} {
		if v, found := o[key]; found {
			out[key] = v
		}
	}
	deeper := map[string][]string{}
	for _, path := range paths {
		key, rest, nested := strings.Cut(path, "/")
		v, found := o[key]
		switch {
		case !found:
		case !nested:
			out[key] = v
		default:
			deeper[key] = append(deeper[key], rest)
		}
	}
	for key, rest := range deeper {
		if inner, isObj := o[key].(map[string]any); isObj && out[key] == nil {
			out[key] = pick(inner, rest)
		}
	}
	return out
}
