package redfish

import (
	"context"
	"net/http"
	"sync"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Cache reads through a client and asks a BMC only whether a resource has
// changed since it was read last (If-None-Match). That saves bytes, not
// requests, and is as true as the BMC's tags, of which some leave things out:
// it is for inventory, not for reading back what was written. It is safe for
// concurrent use.
type Cache struct {
	client *Client
	limit  int

	kept keptBodies
}

// NewCache makes a cache of at most limit bytes of bodies.
func NewCache(c *Client, limit int) *Cache {
	return &Cache{client: c, limit: limit, kept: keptBodies{all: map[string]keptBody{}}}
}

// Fetch implements Getter as Client.Fetch does.
func (k *Cache) Fetch(ctx context.Context, uri string) ([]byte, error) {
	old, known := k.kept.get(uri)
	reply, err := k.client.call(ctx, request{method: http.MethodGet, uri: uri, ifNoneMatch: old.tag})
	if err != nil {
		return nil, err
	}
	if reply.Status == http.StatusNotModified && known {
		return old.body, nil
	}
	body, _ := Repair(reply.Body)
	if err := checkJSON(body, k.client.cfg.Limits.Depth); err != nil {
		return body, fault.Wrap(kindOfJSON(err), "read "+uri, err)
	}
	// A weak tag says that the meaning is the same, which is enough.
	if tag := reply.Header.Get("ETag"); tag != "" {
		k.kept.put(uri, keptBody{tag: tag, body: body}, k.limit)
	}
	return body, nil
}

// keptBodies are bodies with their tags, within a bound of bytes. What comes when
// it is full is not kept: an inventory reads everything in one order, and if it
// drove out what it will read first, nothing would ever be found again.
type keptBodies struct {
	mu   sync.Mutex
	all  map[string]keptBody
	size int
}

type keptBody struct {
	tag  string
	body []byte
}

func (k *keptBodies) get(uri string) (keptBody, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, known := k.all[uri]
	return b, known
}

// put keeps b if there is room.
func (k *keptBodies) put(uri string, b keptBody, limit int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.size -= len(k.all[uri].body)
	delete(k.all, uri)
	if k.size+len(b.body) <= limit {
		k.all[uri] = b
		k.size += len(b.body)
	}
}
