package bmc

import (
	"context"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/inventory"
)

// inventoryCache bounds the bodies that a lane keeps so that the next inventory
// costs few bytes: a large server's are about that much, a usual one's a tenth.
const inventoryCache = 1 << 20

// Inventory reads what the server and its BMC are made of, behind everything
// else that waits for the BMC. Of what has not changed since it was read last the
// BMC sends nothing but that, if it has entity tags. If ctx ends before the end,
// what was read until then is returned, and Cut says so.
func (l *Lane) Inventory(ctx context.Context) (*inventory.Inventory, error) {
	if _, err := l.view(Inventory).loggedIn(ctx); err != nil {
		return nil, err
	}
	tree, err := redfish.Crawl(ctx, cached{l}, redfish.CrawlLimits{Skip: inventory.Skip})
	if err != nil {
		return nil, l.named(err)
	}
	inv := inventory.Of(tree)
	if inv.Resources == 0 {
		return nil, l.named(fault.New(fault.Unavailable, "read inventory", tree.Resources[0].Err))
	}
	if state, why := l.State(); state != fleet.Ready && inv.Cut == "" {
		inv.Cut = why // else what could not be read would pass for what is not there
	}
	inv.Hide(redfish.Hider(l.client.Secrets()...))
	return inv, nil
}

// cached reads through the lane's cache, at the lane's pace.
type cached struct{ lane *Lane }

// Fetch implements redfish.Getter.
func (c cached) Fetch(ctx context.Context, uri string) (body []byte, err error) {
	l := c.lane
	err = l.paced(ctx, Inventory, l.reads, func() error {
		body, err = l.cache.Fetch(ctx, uri)
		return err
	})
	return body, err
}
