package bmcsim

import (
	"fmt"
	"hash/fnv"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/form"
)

const jsonType = "application/json"

// obj is a JSON object. encoding/json writes its keys in the order of their
// bytes, as bmcweb does.
type obj = map[string]any

// reply is an answer before it is written.
type reply struct {
	status  int
	body    any    // JSON; nil: none
	raw     string // a body that is not JSON
	rawType string
	header  [][2]string
	bare    bool // without Allow, OData-Version and Link, as on Managers/bmc
	noOData bool // without OData-Version
	tagless []string
	encoded []byte // body as it is sent, once it is known
	accept  string // what the client would rather have
	zstd    bool
	after   time.Duration // how long the BMC needs for it, beside others
}

func ok(body obj) reply { return reply{status: http.StatusOK, body: body} }

func noContent() reply { return reply{status: http.StatusNoContent} }

func (r *reply) set(name, value string) { r.header = append(r.header, [2]string{name, value}) }

func (r *reply) get(name string) string {
	for _, h := range r.header {
		if h[0] == name {
			return h[1]
		}
	}
	return ""
}

// etag is the strong tag of a 200 with a JSON body, else "". Properties in
// tagless do not count: bmcweb leaves the clock out of a manager's tag.
func (r *reply) etag() string {
	if r.status != http.StatusOK || r.body == nil {
		return ""
	}
	text := r.text()
	if o, isObj := r.body.(obj); isObj && len(r.tagless) > 0 {
		o = maps.Clone(o)
		for _, key := range r.tagless {
			delete(o, key)
		}
		text = form.Print(o)
	}
	h := fnv.New64a()
	_, _ = h.Write(text)
	return fmt.Sprintf("\"%X\"", h.Sum64())
}

// text is the body as it is sent. The body must not change afterwards.
func (r *reply) text() []byte {
	switch {
	case r.body == nil:
		return []byte(r.raw)
	case r.encoded == nil:
		r.encoded = form.Print(r.body)
	}
	return r.encoded
}

// write sends the reply and returns its status.
func (r *reply) write(w http.ResponseWriter, method string) int {
	text, contentType := r.text(), r.rawType
	if r.body != nil {
		text, contentType = form.Encode(r.accept, text)
	}
	if r.zstd && len(text) > 0 {
		text = form.Zstd(text)
		r.set("Content-Encoding", "zstd")
	}
	h := w.Header()
	if r.status != http.StatusUnauthorized || r.get(plain) == "" {
		security(h)
	}
	if contentType == "" {
		h["Content-Type"] = nil // or net/http would guess one
	} else {
		h.Set("Content-Type", contentType)
	}
	for _, kv := range r.header {
		if kv[0] != plain {
			put(h, kv[0], kv[1])
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(r.status)
	if method != http.MethodHead {
		_, _ = w.Write(text)
	}
	return r.status
}

// plain marks the one reply that bmcweb sends without any of its headers: to
// a large body before the login.
const plain = "\x00plain"

func security(h http.Header) {
	put(h, "Strict-Transport-Security", "max-age=31536000; includeSubdomains")
	put(h, "Pragma", "no-cache")
	put(h, "Cache-Control", "no-store, max-age=0")
	put(h, "X-Content-Type-Options", "nosniff")
}

// put keeps the spelling of the name ("ETag", "OData-Version"), which
// http.Header.Set would change.
func put(h http.Header, name, value string) { h[name] = []string{value} }

// text is a value that is one, or else "".
func text(v any) string { s, _ := v.(string); return s }
