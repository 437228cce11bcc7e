package client

import (
	"context"
	"path/filepath"
	"time"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/catalogue/source"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
)

// Catalogue is a site catalogue in force.
type Catalogue struct {
	File     string
	Source   []byte // YAML
	Digest   string // hex SHA-256 of Source
	Version  uint64 // 0: there is none
	Revision uint64 // of the fleet's desired state since this catalogue
	By       string
	At       time.Time
	Parts    [][]byte // see pkg/catalogue
}

func toCatalogue(c *pb.Catalogue) *Catalogue {
	return &Catalogue{
		File: c.GetFile(), Source: c.GetSource(), Digest: c.GetDigest(), Version: c.GetVersion(), Revision: c.GetRevision(),
		By: c.GetBy(), At: wire.FromTime(c.GetAtUnixMs()), Parts: c.GetParts(),
	}
}

// Catalogue is the site catalogue in force; its Version is 0 if there is none.
func (c *Client) Catalogue(ctx context.Context) (*Catalogue, error) {
	a, err := call(ctx, c, "get the site catalogue", pbconnect.FleetClient.GetCatalogue, &pb.GetCatalogueRequest{})
	if err != nil {
		return nil, err
	}
	return toCatalogue(a.GetCatalogue()), nil
}

// SignCatalogue signs a catalogue, of which next was read, that is to follow last.
// Nothing is changed.
func (c *Client) SignCatalogue(text []byte, next *catalogue.Catalogue, last *Catalogue) (*Signed, error) {
	if c.author == nil {
		return nil, c.noAuthor("sign the site catalogue")
	}
	gone, err := last.racks()
	if err != nil {
		return nil, err
	}
	root, err := rootOf(next, gone)
	if err != nil {
		return nil, err
	}
	envelope, err := c.sign(order.Order{
		Kind: order.Catalogue, Name: catalogue.Name, Audience: []string{order.Fleet}, Digest: order.Digest(text), Parts: root,
	}, last.Version, time.Now())
	if err != nil {
		return nil, err
	}
	return &Signed{Envelope: envelope, Source: text, Gone: gone}, nil
}

func rootOf(c *catalogue.Catalogue, gone []string) (string, error) {
	parts, err := c.Parts(gone)
	if err != nil {
		return "", err
	}
	tree, err := catalogue.NewTree(parts)
	if err != nil {
		return "", err
	}
	return tree.Root()
}

// racks are all those that the catalogue has a part for.
func (c *Catalogue) racks() (names []string, err error) {
	for _, text := range c.Parts {
		p, err := catalogue.ReadPart(text)
		if err != nil {
			return nil, err
		}
		if p.Name != "" {
			names = append(names, string(p.Name))
		}
	}
	return names, nil
}

// CheckCatalogue compares a signed catalogue with what was signed: nobody should sign,
// or apply, one whose parts say something else than its text.
func (s Signed) CheckCatalogue() (*catalogue.Catalogue, error) {
	const op = "read the signed catalogue"
	o, err := s.Order()
	if err != nil {
		return nil, err
	}
	if o.Kind != order.Catalogue {
		return nil, fault.New(fault.BadInput, op, "it is signed to "+o.String()).WithHint("a script is applied with: chiba apply FILE.dsse")
	}
	c, found := source.Read("site.yaml", s.Source)
	if len(found) > 0 {
		return nil, fault.New(fault.BadInput, op, found[0].Text).WithHint("see all that is wrong: chiba catalogue check FILE")
	}
	root, err := rootOf(c, s.Gone)
	if err != nil {
		return nil, err
	}
	if o.Digest != order.Digest(s.Source) || o.Parts != root {
		return nil, fault.New(fault.Untrusted, op, "what was signed is not what it says").WithHint("have it prepared anew: chiba catalogue apply --prepare FILE.dsse")
	}
	return c, nil
}

// PutCatalogue puts a signed catalogue into force that was compared with the version
// from. Another one that came in between is an error of kind Conflict.
func (c *Client) PutCatalogue(ctx context.Context, file string, s Signed, from uint64) (*Catalogue, error) {
	a, err := call(ctx, c, "apply "+file, pbconnect.FleetClient.PutCatalogue, &pb.PutCatalogueRequest{
		File: filepath.Base(file), Source: s.Source, Envelope: s.Envelope, From: from,
	})
	if err != nil {
		return nil, err
	}
	return toCatalogue(a.GetCatalogue()), nil
}
