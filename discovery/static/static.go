// Package static is the finder that is told where the BMCs are.
package static

import (
	"context"
	"time"

	"github.com/chiba-mesh/chiba/discovery"
)

// Name is what this finder calls itself in a sighting.
const Name = "static"

// repeat is how often the list is told again, so that it never expires.
const repeat = time.Minute

// Finder tells a list of addresses, each host:port.
type Finder struct{ Addresses []string }

// Run tells every address at once, and again every minute, until ctx ends.
func (f Finder) Run(ctx context.Context, out chan<- discovery.Sighting) error {
	tick := time.NewTicker(repeat)
	defer tick.Stop()
	for {
		for _, a := range f.Addresses {
			select {
			case out <- discovery.Sighting{Address: a, Found: Name}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
