package redfish

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish/scan"
)

// Getter reads one resource as JSON. A Client is one; so is whoever paces it.
type Getter interface {
	Fetch(ctx context.Context, uri string) ([]byte, error)
}

// rootURI is the one path that every service has (DSP0266).
const rootURI = "/redfish/v1/"

// Root is the part of the ServiceRoot by which the rest is found.
type Root struct {
	UUID           Text `json:"UUID"`
	Product        Text `json:"Product"`
	Vendor         Text `json:"Vendor"`
	Oem            keys `json:"Oem"`
	Systems        Link `json:"Systems"`
	Chassis        Link `json:"Chassis"`
	Managers       Link `json:"Managers"`
	AccountService Link `json:"AccountService"`
	UpdateService  Link `json:"UpdateService"`
	EventService   Link `json:"EventService"`
	Links          struct {
		Sessions Link `json:"Sessions"`
		Provider Link `json:"ManagerProvidingService"`
	} `json:"Links"`
	Features struct {
		Expand struct {
			ExpandAll bool `json:"ExpandAll"`
			NoLinks   bool `json:"NoLinks"`
		} `json:"ExpandQuery"`
	} `json:"ProtocolFeaturesSupported"`
}

// keys are the names of an object's members, a few at most.
type keys []string

// UnmarshalJSON never fails: what is no object has no keys.
func (k *keys) UnmarshalJSON(b []byte) error {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(b, &members) // no object: no keys
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if len(*k) < 8 {
			*k = append(*k, short(name))
		}
	}
	return nil
}

// SessionsURI is the collection of sessions.
func (r *Root) SessionsURI() Link {
	if r.Links.Sessions != "" {
		return r.Links.Sessions
	}
	return "/redfish/v1/SessionService/Sessions"
}

// Expand is the query that makes a collection come with its members, "" where
// the BMC announces none. OpenBMC as built by default has none.
func (r *Root) Expand() string {
	switch {
	case r.Features.Expand.NoLinks:
		return "?$expand=.($levels=1)"
	case r.Features.Expand.ExpandAll:
		return "?$expand=*($levels=1)"
	default:
		return ""
	}
}

// Root reads the ServiceRoot, which needs no login, once.
func (c *Client) Root(ctx context.Context) (*Root, error) {
	c.mu.Lock()
	known := c.root
	c.mu.Unlock()
	if known != nil {
		return known, nil
	}
	reply, err := rawGetter{c, &session{}}.ask(ctx, rootURI)
	if err != nil {
		return nil, err
	}
	root := &Root{}
	if err := Decode(reply.Body, root); err != nil {
		return nil, err
	}
	if root.Systems == "" {
		return nil, fault.New(fault.Garbage, "read "+rootURI, "this is no Redfish service root: it links to no systems")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.root = root
	c.sawRoot(root, reply.Header.Get("Server"))
	return root, nil
}

// Get reads the resource at uri into out, which tolerates wrong types.
func Get(ctx context.Context, g Getter, uri Link, out any) error {
	body, err := g.Fetch(ctx, string(uri))
	if err != nil {
		return err
	}
	return Decode(body, out)
}

// maxPages bounds the pages of one collection.
const maxPages = 64

// Members are the links of a collection in the BMC's order, over all pages, at
// most limit.
func Members(ctx context.Context, g Getter, collection Link, limit int) ([]Link, error) {
	raw, err := Entries(ctx, g, collection, limit)
	var links []Link
	for _, r := range raw {
		var l Link
		if json.Unmarshal(r, &l) == nil && l != "" {
			links = append(links, l)
		}
	}
	return links, err
}

// Entries are the members of a collection as the BMC sends them, whole where it
// inlines them (the entries of a log), over all pages, at most limit.
func Entries(ctx context.Context, g Getter, collection Link, limit int) ([]json.RawMessage, error) {
	var all []json.RawMessage
	seen := map[Link]bool{}
	for uri := collection; uri != "" && !seen[uri] && len(seen) < maxPages && len(all) < limit; {
		seen[uri] = true
		var page struct {
			Members []json.RawMessage `json:"Members"`
			Next    nextLink          `json:"Members@odata.nextLink"`
		}
		if err := Get(ctx, g, uri, &page); err != nil {
			return all, err
		}
		all = append(all, page.Members...)
		uri = Link(page.Next)
	}
	return all[:min(len(all), limit)], nil
}

// Walker reads one resource and has it walked once. A Client is one; so is whoever
// paces it.
type Walker interface {
	Walk(ctx context.Context, uri string, read func(*scan.Scanner)) error
}

// WalkEntries is Entries in one walk: entry is called with the scanner before each
// member. What it does not read is skipped. After an error it has seen a part.
func WalkEntries(ctx context.Context, w Walker, collection Link, limit int, entry func(*scan.Scanner)) error {
	entries := 0
	seen := map[Link]bool{}
	for uri := collection; uri != "" && !seen[uri] && len(seen) < maxPages && entries < limit; {
		seen[uri] = true
		var next nextLink
		err := w.Walk(ctx, string(uri), func(s *scan.Scanner) {
			for name := range s.Members {
				switch string(name) {
				case "Members":
					for range s.Items {
						if entries++; entries <= limit {
							entry(s)
						}
					}
				case "Members@odata.nextLink":
					_ = next.UnmarshalJSON(s.Raw()) // it never fails
				}
			}
		})
		if err != nil {
			return err
		}
		uri = Link(next)
	}
	return nil
}

// nextLink is the path of the next page; some BMCs send a whole URL, some an
// object. What is not a path is "": there is no next page.
type nextLink string

// UnmarshalJSON never fails.
func (n *nextLink) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		*n = nextLink(pathOf(text))
		return nil
	}
	var l Link
	_ = l.UnmarshalJSON(b)
	*n = nextLink(l)
	return nil
}

// Action is an entry of a resource's Actions.
type Action struct {
	Target  string   `json:"target"`
	Info    Text     `json:"@Redfish.ActionInfo"`
	Allowed []string `json:"ResetType@Redfish.AllowableValues"`
}

// ResetTypes are the values that a reset action allows: those it lists, else
// those of its ActionInfo, nil if the BMC tells neither.
func (a Action) ResetTypes(ctx context.Context, g Getter) ([]string, error) {
	if len(a.Allowed) > 0 || a.Info == "" {
		return a.Allowed, nil
	}
	var info struct {
		Parameters []struct {
			Name    Text     `json:"Name"`
			Allowed []string `json:"AllowableValues"`
		} `json:"Parameters"`
	}
	if err := Get(ctx, g, Link(a.Info), &info); err != nil {
		return nil, err
	}
	for _, p := range info.Parameters {
		if strings.EqualFold(string(p.Name), "ResetType") {
			return p.Allowed, nil
		}
	}
	return nil, nil
}
