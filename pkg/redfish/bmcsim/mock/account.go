package mock

import (
	"path"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Unlinked is a file of a record to which no link leads.
type Unlinked struct {
	redfish.Resource
	Why string // no link leads there
}

// Unlinked are the files of the record that a crawl did not come to, by URI, each
// with the reason. So every file of a record is read: by its links, or here.
func (t *Tree) Unlinked(crawled *redfish.Tree) []Unlinked {
	read := map[string]bool{}
	var missing []string // that a link names and nobody recorded
	for _, r := range crawled.Resources {
		if r.Body != nil {
			read[t.name(r.URI)] = true
		} else {
			missing = append(missing, key(r.URI))
		}
	}
	var all []Unlinked
	for _, uri := range t.URIs() {
		if !read[uri] {
			body := t.resources[uri]
			all = append(all, Unlinked{redfish.Resource{URI: uri, Body: body}, t.why(uri, body, missing)})
		}
	}
	return all
}

// why says who should have named a file: the collection above it or, for schemas
// and registries, the index that the service root names.
func (t *Tree) why(uri string, body []byte, missing []string) string {
	var doc struct {
		Type   redfish.Text `json:"@odata.type"`
		Schema redfish.Text `json:"$schema"`
	}
	clean, _ := redfish.Repair(body)
	_ = redfish.Decode(clean, &doc) // what is broken has neither
	word := ""
	switch {
	case strings.Contains(string(doc.Type), "Registry"):
		word = "registries"
	case doc.Schema != "", strings.Contains(strings.ToLower(path.Dir(uri)), "schemas"):
		word = "schemas"
	}
	for above := path.Dir(uri); above != service && above != "/"; above = path.Dir(above) {
		if slices.Contains(missing, above) {
			return notRecorded(above)
		}
	}
	for _, index := range missing {
		if word != "" && strings.HasSuffix(strings.ToLower(index), word) {
			return notRecorded(index)
		}
	}
	if t.name(path.Dir(uri)) == "" {
		return notRecorded(path.Dir(uri))
	}
	return "not linked: " + path.Dir(uri) + " was recorded and does not name it"
}

func notRecorded(index string) string {
	return "not linked: the index " + index + " was not recorded"
}
