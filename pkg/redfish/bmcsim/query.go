package bmcsim

import (
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// query is what a client asked of a reply beside the resource.
type query struct {
	only   bool
	expand bool
	paths  []string // of $select
	top    int      // -1: all
	skip   int
	paging bool // $top or $skip was given
}

var selectable = regexp.MustCompile(`^[A-Za-z@#][A-Za-z0-9@#._]*(/[A-Za-z@#][A-Za-z0-9@#._]*)*$`)

// parseQuery understands what bmcweb does: only, $select, $top and $skip, and
// $expand=. of collections where it is built in. All
// else with a dollar is refused with 501, and anything without is ignored.
func parseQuery(raw string, expand bool) (query, *reply) {
	q := query{top: -1}
	for part := range strings.SplitSeq(raw, "&") {
		key, value, _ := strings.Cut(part, "=")
		key, value = unescape(key), unescape(value)
		valid, status := true, http.StatusBadRequest
		switch key {
		case "only":
			q.only = true
		case "$select":
			q.paths = strings.Split(value, ",")
			for _, path := range q.paths {
				valid = valid && selectable.MatchString(path)
			}
		case "$expand":
			q.expand = expand && strings.HasPrefix(value, ".")
			valid, status = q.expand, http.StatusNotImplemented
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
			r := failure(status, message("QueryParameterValueFormatError", quoted(value), key))
			return q, &r
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

// page cuts the members of a collection. Only log collections tell where the
// next page starts, and that link forgets $top.
func (q query) page(o obj) {
	members, isCollection := o["Members"].([]obj)
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
	if to < total && strings.HasPrefix(text(o["@odata.type"]), "#LogEntryCollection") {
		o["Members@odata.nextLink"] = text(o["@odata.id"]) + "?$skip=" + strconv.Itoa(to)
	}
}

func text(v any) string { s, _ := v.(string); return s }

// selected keeps the properties that were asked for, and what names the
// resource.
func (q query) selected(o obj) obj {
	if len(q.paths) == 0 {
		return o
	}
	return pick(o, q.paths)
}

func pick(o obj, paths []string) obj {
	out := obj{}
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
		if inner, isObj := o[key].(obj); isObj && out[key] == nil {
			out[key] = pick(inner, rest)
		}
	}
	return out
}
