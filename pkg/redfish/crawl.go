package redfish

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// CrawlLimits bound a crawl. Zero fields mean the default.
type CrawlLimits struct {
	Count int   // resources, default 2,000
	Bytes int64 // of all of them, default 16 MiB
	Width int   // reads asked for at once, default 8; whoever paces them decides
	// Skip leaves out what is not wanted; nil: nothing.
	Skip func(uri string) bool
}

// Resource is one resource of a Tree.
type Resource struct {
	URI  string
	Body json.RawMessage // nil if it could not be read
	Err  string          // why
}

// Tree is what a BMC shows, in the order in which it was found.
type Tree struct {
	Resources []Resource
	Cut       string // why it is not whole, "" if it is
	hide      func(string) string
}

// Crawl reads every resource that links lead to from the service root, breadth
// first, schemas and registries last. It also looks where DSP0266 puts something
// to which no link leads. A resource that can't be read is noted
// and harms no other. The secrets, and what stands in members named like one,
// appear nowhere in the tree's encodings.
func Crawl(ctx context.Context, g Getter, limits CrawlLimits, secrets ...fleet.Secret) (*Tree, error) {
	if limits.Count <= 0 {
		limits.Count = 2000
	}
	if limits.Bytes <= 0 {
		limits.Bytes = 16 << 20
	}
	if limits.Width <= 0 {
		limits.Width = 8
	}
	c := &crawl{limits: limits, seen: map[string]bool{}, tree: &Tree{hide: Hider(secrets...)}}
	c.find(rootURI)
	for _, uri := range unlinked {
		c.seen[uri], c.late = true, append(c.late, uri)
	}
	for ctx.Err() == nil && c.tree.Cut == "" {
		batch := c.next()
		if len(batch) == 0 {
			return c.tree, nil
		}
		c.take(fetchAll(ctx, g, batch))
	}
	if c.tree.Cut == "" {
		c.tree.Cut = "the time was over"
	}
	if len(c.tree.Resources) == 0 {
		return nil, fault.Wrap(fault.KindOf(ctx.Err()), "crawl", ctx.Err())
	}
	return c.tree, nil
}

// unlinked are the resources that every service may have and none links to.
var unlinked = []string{"/redfish", "/redfish/v1/odata"}

type crawl struct {
	limits CrawlLimits
	seen   map[string]bool // without a slash at the end
	queue  []string
	late   []string // schemas and registries
	bytes  int64
	tree   *Tree
}

func (c *crawl) find(uri string) {
	key := strings.TrimRight(uri, "/")
	if key == "" || c.seen[key] || len(c.seen) > 4*c.limits.Count || c.limits.Skip != nil && c.limits.Skip(key) {
		return
	}
	c.seen[key] = true
	if documents(key) {
		c.late = append(c.late, uri)
		return
	}
	c.queue = append(c.queue, uri)
}

// documents reports whether a URI leads to a description of the data rather
// than to the data.
func documents(uri string) bool {
	lower := strings.ToLower(uri)
	return strings.Contains(lower, "/jsonschemas") || strings.Contains(lower, "/registries") || strings.Contains(lower, "/schemas")
}

func (c *crawl) next() []string {
	from := &c.queue
	if len(*from) == 0 {
		from = &c.late
	}
	n := min(len(*from), c.limits.Width)
	batch := (*from)[:n:n]
	*from = (*from)[n:]
	return batch
}

func (c *crawl) take(read []Resource) {
	for _, r := range read {
		if len(c.tree.Resources) >= c.limits.Count {
			c.tree.Cut = "it has more resources than are read at once"
			return
		}
		if c.bytes += int64(len(r.Body)); c.bytes > c.limits.Bytes {
			c.tree.Cut = "it has more bytes than are read at once"
			return
		}
		if r.Err != "" && slices.Contains(unlinked, r.URI) {
			continue // nobody said that it is there
		}
		c.read(r)
	}
}

// read keeps a resource and finds its links. Those of a broken one, and those
// that a decoder drops, are found in its text, after the others.
func (c *crawl) read(r Resource) {
	body, _ := Repair(r.Body)
	var doc any
	_ = Decode(body, &doc) // what is broken is nil
	c.follow(doc)
	for _, link := range linksIn(body) {
		c.find(onBMC(link))
	}
	if r.Err != "" {
		r.Body = nil
	}
	c.tree.Resources = append(c.tree.Resources, r)
}

// follow finds every link in a document.
func (c *crawl) follow(node any) {
	switch x := node.(type) {
	case []any:
		for _, item := range x {
			c.follow(item)
		}
	case map[string]any:
		for _, key := range sortedKeys(x) {
			text, isText := x[key].(string)
			switch {
			case isText && isLink(key):
				c.find(onBMC(text))
			case !isText:
				if key == "Members" {
					c.followTexts(x[key])
				}
				c.follow(x[key])
			}
		}
	}
}

// isLink reports whether the text of a member leads to a resource. Uri is how a
// MessageRegistryFile and a JsonSchemaFile name what they describe, href the way
// of services from before Redfish 1.0.
func isLink(key string) bool {
	switch key {
	case "@odata.id", "@Redfish.ActionInfo", "Uri", "href":
		return true
	}
	return strings.HasSuffix(key, "@odata.nextLink")
}

// followTexts follows members that are bare texts where links are due.
func (c *crawl) followTexts(members any) {
	list, _ := members.([]any)
	for _, m := range list {
		if text, isText := m.(string); isText {
			c.find(onBMC(text))
		}
	}
}

// oldRoot is where services from before Redfish 1.0 are, which some keep beside it.
const oldRoot = "/rest/v1/"

// onBMC is the path of a link within the service, "" for any other.
func onBMC(link string) string {
	path, _, _ := strings.Cut(strings.TrimSpace(link), "#")
	lower := strings.ToLower(path)
	if !strings.HasPrefix(lower, "/redfish/") && !strings.HasPrefix(lower, oldRoot) || strings.ContainsAny(path, "\t\r\n") {
		return ""
	}
	return strings.ReplaceAll(path, " ", "%20") // some put ids into it as they are
}

func fetchAll(ctx context.Context, g Getter, uris []string) []Resource {
	out := make([]Resource, len(uris))
	var all sync.WaitGroup
	for i, uri := range uris {
		all.Go(func() {
			body, err := g.Fetch(ctx, uri)
			out[i] = Resource{URI: uri, Body: body}
			if err != nil {
				out[i].Err = err.Error() // with what came, if it was broken
			}
		})
	}
	all.Wait()
	return out
}
