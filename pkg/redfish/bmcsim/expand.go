package bmcsim

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
)

// maxLevels is how deep a build with $expand follows links.
const maxLevels = 6

// expansion is what $expand asked for: "." for what is below, "~" for what is
// under Links, "*" for both, and how deep.
type expansion struct {
	below, related bool
	levels         int
}

// parseExpand understands a mark with or without ($levels=N).
func parseExpand(value string) (e expansion, valid bool) {
	mark, rest, deep := strings.Cut(value, "($levels=")
	e.levels = 1
	if deep {
		n, err := strconv.Atoi(strings.TrimSuffix(rest, ")"))
		if err != nil || n < 1 || n > maxLevels || !strings.HasSuffix(rest, ")") {
			return e, false
		}
		e.levels = n
	}
	e.below, e.related = mark == "." || mark == "*", mark == "~" || mark == "*"
	return e, e.below || e.related
}

// expand puts resources in the place of links to them, where q may read them.
func (b *BMC) expand(q *request, v any, e expansion, inLinks bool) any {
	switch v := v.(type) {
	case obj:
		if uri, bare := v["@odata.id"].(string); bare && len(v) == 1 && e.levels > 0 && (inLinks && e.related || !inLinks && e.below) {
			return b.fetch(q, uri, v, e)
		}
		out := maps.Clone(v)
		for key, inner := range v {
			if key != "@odata.id" {
				out[key] = b.expand(q, inner, e, inLinks || key == "Links")
			}
		}
		return out
	case []obj:
		out := make([]any, len(v))
		for i, inner := range v {
			out[i] = b.expand(q, inner, e, inLinks)
		}
		return out
	}
	return v
}

// fetch is the resource behind a link, or the link if there is none to see.
func (b *BMC) fetch(q *request, uri string, link obj, e expansion) any {
	inner := *q
	inner.path, inner.method, inner.args = uri, http.MethodGet, map[string]string{"query": ""}
	rt := b.find(&inner)
	if rt == nil || strings.Contains(uri, "#") {
		return link
	}
	get, found := rt.do[http.MethodGet]
	if !found || !q.role.may(get.need) || inner.ownerMissing() != nil {
		return link
	}
	r := get.run(b, &inner)
	body, isObj := r.body.(obj)
	if r.status != http.StatusOK || !isObj {
		return link
	}
	e.levels--
	return b.expand(q, body, e, false)
}
