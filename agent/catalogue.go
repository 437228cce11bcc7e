package agent

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/mdns"
	"github.com/chiba-mesh/chiba/discovery/static"
	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// keyCatalogue is the rack's part of the site catalogue, as it came.
const keyCatalogue = "catalogue"

// listing is what the site catalogue says of the rack, and the groups that it makes.
// Its zero value says nothing. It is safe for concurrent use.
type listing struct {
	mu      sync.RWMutex
	told    *pb.RackCatalogue // nil: there is none
	part    *catalogue.Part   // nil: the rack stands in none
	groups  map[string]scl.Target
	changed chan struct{} // closed when there is another
}

// now is what is said, and what is closed when something else is.
func (l *listing) now() (*catalogue.Part, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.part, l.changed
}

func (l *listing) set(told *pb.RackCatalogue, part *catalogue.Part, groups map[string]scl.Target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told, l.part, l.groups = told, part, groups
	if l.changed != nil {
		close(l.changed)
	}
	l.changed = make(chan struct{})
}

// said is the rack's part; nil if it stands in none.
func (l *listing) said() *catalogue.Part {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.part
}

func (l *listing) message() *pb.RackCatalogue {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.told
}

// members are the groups of the catalogue. The map is shared.
func (l *listing) members() map[string]scl.Target {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.groups
}

// limits are those of the rack.
func (l *listing) limits() catalogue.Limits {
	if p := l.said(); p.Listed() {
		return p.Rack.Limits
	}
	return catalogue.Limits{}
}

// CatalogueVersion is that of the site catalogue of which the agent has its part.
func (a *Agent) CatalogueVersion() uint64 { return a.listing.message().GetVersion() }

// view is a node as scripts select it: with the site and the labels that the
// catalogue gives it. What the agent tells the coordinators is without them.
func (a *Agent) view(n *node) fleet.Node { return a.listing.said().Over(n.seen()) }

// heedCatalogue takes the rack's part of a newer catalogue. A catalogue that is merely
// no longer told of goes on.
func (a *Agent) heedCatalogue(c *pb.RackCatalogue) error {
	if c == nil || c.GetVersion() == a.CatalogueVersion() {
		return nil
	}
	o, err := a.authority.current().Fresh(c.GetEnvelope(), nil, string(a.cfg.Rack), a.now())
	if err == nil {
		err = a.admits(journal.FloorOfCatalogue, o)
	}
	var part *catalogue.Part
	var groups map[string]scl.Target
	if err == nil {
		part, groups, err = a.provenParts(c, o)
	}
	if err == nil && c.GetRack() == nil && a.listing.message().GetRack() != nil {
		err = fault.New(fault.Untrusted, "take the site catalogue", "it says nothing of this rack, which stood in it")
	}
	if err != nil {
		return a.refuse(refusedCatalogue, catalogue.Name, c.GetEnvelope(), err)
	}
	raw, err := proto.Marshal(c)
	if err != nil {
		return fault.Wrap(fault.Internal, "keep the site catalogue", err)
	}
	err = a.spool.Update(func(tx *spool.Tx) error {
		tx.Put(spool.Notes, keyCatalogue, raw)
		journal.Raise(tx, journal.FloorOfCatalogue, o.Name, o.Version, hashOf(o))
		return nil
	})
	if err == nil {
		a.learnCatalogue(c, part, groups)
		a.log.Info("site catalogue in force", obs.Count, c.GetVersion())
	}
	return err
}

// provenParts are the parts of a catalogue, which are among those that an order signs.
func (a *Agent) provenParts(c *pb.RackCatalogue, o order.Order) (*catalogue.Part, map[string]scl.Target, error) {
	if err := named(o, catalogue.Name, order.Catalogue); err != nil {
		return nil, nil, err
	}
	if o.Version != c.GetVersion() {
		return nil, nil, fault.New(fault.Untrusted, "verify order", "the catalogue has another version than its order")
	}
	all, err := provenPart(c.GetAll(), o, "")
	if err != nil {
		return nil, nil, err
	}
	var mine *catalogue.Part
	if c.GetRack() != nil {
		if mine, err = provenPart(c.GetRack(), o, a.cfg.Rack); err != nil {
			return nil, nil, err
		}
	}
	return mine, catalogue.Targets(all.Groups), nil
}

func provenPart(c *pb.CataloguePart, o order.Order, rack fleet.RackName) (*catalogue.Part, error) {
	if err := catalogue.Check(o.Parts, c.GetText(), c.GetIndex(), c.GetProof()); err != nil {
		return nil, err
	}
	p, err := catalogue.ReadPart(c.GetText())
	if err == nil && p.Name != rack {
		err = fault.New(fault.Untrusted, "verify a part of the catalogue", "it is that of another rack")
	}
	return p, err
}

// recallCatalogue goes on with what was known. It is verified again: the disk may have
// been in other hands, and authors may have lost their word since.
func (a *Agent) recallCatalogue() error {
	c := a.listing.message()
	if c == nil {
		c = &pb.RackCatalogue{}
		err := a.spool.View(func(tx *spool.Tx) error {
			return fault.Wrap(fault.Garbage, "read the site catalogue", proto.Unmarshal(tx.Get(spool.Notes, keyCatalogue), c))
		})
		if err != nil || c.GetVersion() == 0 {
			return err
		}
	}
	o, _, err := a.authority.current().Order(c.GetEnvelope())
	var part *catalogue.Part
	var groups map[string]scl.Target
	if err == nil {
		part, groups, err = a.provenParts(c, o)
	}
	if err != nil {
		a.learnCatalogue(nil, nil, nil)
		return a.refuse(refusedCatalogue, catalogue.Name, c.GetEnvelope(), err)
	}
	a.learnCatalogue(c, part, groups)
	return nil
}

// learnCatalogue puts what is said into force: where BMCs are looked for, how much is
// done at once, whom scripts select.
func (a *Agent) learnCatalogue(c *pb.RackCatalogue, part *catalogue.Part, groups map[string]scl.Target) {
	if bytes.Equal(c.GetEnvelope(), a.listing.message().GetEnvelope()) && c != nil {
		return
	}
	a.listing.set(c, part, groups)
	a.spool.Limit(a.listing.limits().Spool)
	a.retarget()
}

// mayBe reports whether a BMC of the rack may be where a finder has heard of one.
func (a *Agent) mayBe(s discovery.Sighting) bool {
	at, err := netip.ParseAddrPort(s.Address)
	return err != nil || s.Found == static.Name || a.listing.said().May(at)
}

// atOnce is how many nodes are worked on at the same time.
func (a *Agent) atOnce() int { return catalogue.Limit(atOnce, a.listing.limits().Nodes) }

// streams is over how many connections an artifact is fetched from far, of usually so
// many.
func (a *Agent) streams(usual int) int {
	if p := a.listing.said(); p.Listed() {
		return catalogue.Limit(usual, p.Site.WAN.Connections)
	}
	return usual
}

// listed is the finder that looks where the catalogue says.
type listed struct{ *Agent }

// Run looks there until ctx ends, and begins anew when the catalogue says something
// else.
func (l listed) Run(ctx context.Context, out chan<- discovery.Sighting) error {
	for ctx.Err() == nil {
		part, changed := l.listing.now()
		looking, cancel := context.WithCancel(ctx)
		group, looking := errgroup.WithContext(looking)
		for _, f := range l.findersOf(part) {
			group.Go(func() error { return f.Run(looking, out) })
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-looking.Done():
		}
		cancel()
		if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return ctx.Err()
}

// findersOf are the finders of what a part says. An interface that is browsed already
// is not browsed twice.
func (a *Agent) findersOf(p *catalogue.Part) []finder {
	if !p.Listed() {
		return nil
	}
	var addresses, interfaces []string
	for _, at := range p.Rack.BMCs {
		addresses = append(addresses, at.String())
	}
	for _, n := range p.Rack.Networks {
		if n.Scan {
			all, err := static.Range(n.CIDR.String())
			if err != nil { // it was checked before it was signed
				a.log.Warn("a network can't be looked through", obs.Addr, n.CIDR.String(), obs.Err, err)
			}
			addresses = append(addresses, all...)
		}
		browsed := len(a.cfg.Interfaces) == 0 || slices.Contains(a.cfg.Interfaces, n.Interface)
		if n.Interface != "" && !browsed && !a.cfg.NoMDNS {
			interfaces = append(interfaces, n.Interface)
		}
	}
	all := []finder{static.Finder{Addresses: addresses}}
	if len(interfaces) > 0 {
		slices.Sort(interfaces)
		all = append(all, mdns.Finder{Interfaces: slices.Compact(interfaces), Log: a.log})
	}
	return all
}
