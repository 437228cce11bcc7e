package inventory

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// maxDepth bounds how deep in a document parts are looked for.
const maxDepth = 32

// Of is the inventory of a tree that was read.
func Of(tree *redfish.Tree) *Inventory {
	b := builder{
		kinds: kinds(), inv: &Inventory{Cut: tree.Cut},
		own: map[string]bool{}, inline: map[string]bool{}, folded: map[string]redfish.Resource{},
	}
	for _, r := range tree.Resources {
		if r.Body != nil {
			b.own[plain(r.URI)] = true
		}
	}
	for _, r := range tree.Resources {
		if r.Body != nil {
			b.resource(r)
		}
	}
	for _, r := range tree.Resources {
		if r.Body == nil {
			b.unread(r)
		}
	}
	for _, k := range b.kinds {
		k.sort(b.inv)
	}
	slices.SortStableFunc(b.inv.Others, func(x, y Other) int { return cmp.Compare(x.URI, y.URI) })
	slices.SortStableFunc(b.inv.Unread, func(x, y Unread) int { return cmp.Compare(x.URI, y.URI) })
	slices.SortStableFunc(b.inv.Oddities, func(x, y Oddity) int { return cmp.Compare(x.URI, y.URI) })
	return b.inv
}

type builder struct {
	kinds  []kind
	inv    *Inventory
	own    map[string]bool // read as resources of their own
	inline map[string]bool // found inside of others
	folded map[string]redfish.Resource
}

func plain(uri string) string { return strings.TrimRight(uri, "/") }

func (b *builder) resource(r redfish.Resource) {
	b.inv.Resources++
	d := decode(r.Body)
	uri := plain(r.URI)
	for _, what := range append(d.odd, named(r.URI, d)...) {
		b.inv.Oddities = append(b.inv.Oddities, Oddity{uri, what})
	}
	// A BMC that does not tell cases apart shows one thing under two URIs.
	fold := strings.ToLower(uri)
	if twin, known := b.folded[fold]; known && bytes.Equal(twin.Body, r.Body) {
		b.inv.Others = append(b.inv.Others, Other{URI: uri, Type: "the same as " + twin.URI})
		return
	}
	b.folded[fold] = r
	if d.data == nil {
		b.inv.Others = append(b.inv.Others, Other{URI: uri, Type: d.typ})
		return
	}
	b.add(node{uri: uri, at: r.URI, typ: d.typ, data: d.data})
}

// add puts a node into its list, and what it holds into theirs.
func (b *builder) add(n node) {
	if k := choose(b.kinds, n.typ, n.uri); k != nil {
		k.add(b.inv, n)
	} else {
		b.inv.Others = append(b.inv.Others, Other{URI: n.uri, Type: n.typ})
	}
	b.search(n, n.data, "", 0)
}

// search finds the parts inside of a resource: members that come with their
// collection, the lists of Thermal and Power, and what vendors put under Oem.
func (b *builder) search(n node, data map[string]any, pointer string, depth int) {
	if depth > maxDepth {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		at := pointer + "/" + strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
		switch x := data[name].(type) {
		case map[string]any:
			b.inner(n, x, name, at, depth)
		case []any:
			for i, item := range x {
				if object, isObject := item.(map[string]any); isObject {
					b.inner(n, object, name, at+"/"+strconv.Itoa(i), depth)
				}
			}
		}
	}
}

func (b *builder) inner(n node, data map[string]any, list, pointer string, depth int) {
	typ := typeOf(data["@odata.type"])
	if typ == "" && (pointer == "/"+list || pointer[:strings.LastIndexByte(pointer, '/')] == "/"+list) {
		typ = inside(n.typ, list)
	}
	id, _ := data["@odata.id"].(string)
	uri := plain(strings.TrimSuffix(id, "#"))
	member := strings.HasPrefix(pointer, "/Members/") && len(data) > 1
	if typ == "" && !member {
		b.search(n, data, pointer, depth+1)
		return
	}
	if uri == "" {
		uri = n.uri + "#" + pointer
	}
	if b.own[uri] || b.inline[uri] {
		return // it speaks, or spoke, for itself
	}
	b.inline[uri] = true
	at := n.at + "#" + pointer
	if k := choose(b.kinds, typ, uri); k != nil {
		k.add(b.inv, node{uri: uri, at: at, typ: typ, data: data})
	} else {
		b.inv.Others = append(b.inv.Others, Other{URI: uri, Type: typ})
	}
	b.search(n, data, pointer, depth+1)
}

// unread keeps what could not be read; if its URI says what it is, it is a part
// of which nothing is known.
func (b *builder) unread(r redfish.Resource) {
	inline := b.inline[plain(r.URI)]
	b.inv.Unread = append(b.inv.Unread, Unread{URI: r.URI, Why: r.Err, Inline: inline})
	if inline {
		return
	}
	if k := choose(b.kinds, "", r.URI); k != nil {
		k.add(b.inv, node{uri: plain(r.URI), at: r.URI, err: r.Err})
	}
}
