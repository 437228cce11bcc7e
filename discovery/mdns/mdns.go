// Package mdns is the finder that browses the BMC network by multicast DNS
// (RFC 6762, 6763). Nothing that it hears is believed: an answer is a hint where
// to look, and one that points off the link it was asked on is dropped.
//
// The library delivers an entry once and never again, knows neither expiry nor
// the interface of an answer, and fixes its interfaces when it starts; so each
// window browses with a new one and says again what it hears.
package mdns

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grandcat/zeroconf"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
)

// Name is what this finder calls itself in a sighting.
const Name = "mdns"

const (
	window = 10 * time.Second
	pause  = 50 * time.Second // between two windows, and up to a tenth more
	// maxAnswers bounds what one window takes in of one service.
	maxAnswers = 10_000
	maxName    = 128
)

// services are the types under which BMCs announce Redfish: the convention, and
// what OpenBMC's own service files say.
var services = [...]string{"_redfish._tcp", "_obmc_redfish._tcp"}

// Finder browses the named interfaces, or every multicast interface that is up.
type Finder struct {
	Interfaces []string
	Log        *slog.Logger
}

// Run browses at once, and again every minute, until ctx ends. What it hears it
// tells at once. An interface that is missing is looked for again each time.
func (f Finder) Run(ctx context.Context, out chan<- discovery.Sighting) error {
	said := ""
	for ctx.Err() == nil {
		err := f.browse(ctx, out)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			f.Log.Warn("can't browse for BMCs", obs.Err, err)
		}
		rest(ctx)
	}
	return ctx.Err()
}

func rest(ctx context.Context) {
	timer := time.NewTimer(pause + rand.N(pause/10)) //nolint:gosec // jitter
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// browse is one window over all services.
func (f Finder) browse(ctx context.Context, out chan<- discovery.Sighting) error {
	links, err := f.links()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, window)
	defer cancel()
	var wg sync.WaitGroup
	failed := make([]error, len(services))
	for i, service := range services {
		wg.Go(func() { failed[i] = listen(ctx, service, links, out) })
	}
	wg.Wait()
	return errors.Join(failed...)
}

// listen browses for one service until ctx ends.
func listen(ctx context.Context, service string, links []link, out chan<- discovery.Sighting) error {
	resolver, err := resolve(links)
	if err != nil {
		return fault.Wrap(fault.Unavailable, "listen for "+service, err)
	}
	entries := make(chan *zeroconf.ServiceEntry)
	if err := resolver.Browse(ctx, service, "local.", entries); err != nil {
		for range entries { // the library closes it when it has gone
		}
		return fault.Wrap(fault.Unavailable, "ask for "+service, err)
	}
	taken := 0
	for e := range entries { // to its end, or the library's goroutine would hang
		for _, s := range sightings(e, links) {
			if taken++; taken > maxAnswers {
				break
			}
			select {
			case out <- s:
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// resolve listens for IPv4 and IPv6, or for whichever of them the host has.
func resolve(links []link) (*zeroconf.Resolver, error) {
	ifaces := make([]net.Interface, len(links))
	for i, l := range links {
		ifaces[i] = l.Interface
	}
	var err error
	for _, traffic := range []zeroconf.IPType{zeroconf.IPv4AndIPv6, zeroconf.IPv4, zeroconf.IPv6} {
		var r *zeroconf.Resolver
		if r, err = zeroconf.NewResolver(zeroconf.SelectIfaces(ifaces), zeroconf.SelectIPTraffic(traffic)); err == nil {
			return r, nil
		}
	}
	return nil, err
}

// sightings are the addresses of an answer that are on one of the links. Which
// interface an answer came in on is not told: a link-local address, which says
// nothing by itself, is one sighting on each of them.
func sightings(e *zeroconf.ServiceEntry, links []link) []discovery.Sighting {
	var all []discovery.Sighting
	if e.Port <= 0 || e.Port > 0xffff {
		return nil
	}
	for _, ip := range append(append([]net.IP(nil), e.AddrIPv4...), e.AddrIPv6...) {
		addr, ok := netip.AddrFromSlice(ip)
		if !ok {
			continue
		}
		for _, l := range links {
			if host, ok := l.reach(addr.Unmap()); ok {
				all = append(all, discovery.Sighting{
					Address: net.JoinHostPort(host, strconv.Itoa(e.Port)), Name: clean(e.Instance), Found: Name,
				})
			}
		}
	}
	return all
}

// clean makes a name that anybody may have announced fit to be shown.
func clean(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\\' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, ""))
	if r := []rune(name); len(r) > maxName {
		return string(r[:maxName])
	}
	return name
}
