// Package ssdp is the finder that searches the BMC network by SSDP, Redfish's own
// way to be found (DMTF DSP0266). Like every finder it only hints: what comes from
// off the link, or points off it, is dropped.
package ssdp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/link"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Name is what this finder calls itself in a sighting.
const Name = "ssdp"

const (
	// hops is the TTL that DSP0266 asks for. Answers may come with any.
	hops = 2
	// repeat is how often a search is sent: at once, again soon as UDP may lose it,
	// and then for whoever keeps quiet about itself.
	soon, repeat = 300 * time.Millisecond, time.Minute
	// maxRate bounds the messages that are taken from one sender in a second, and
	// maxSenders the senders that are counted in it.
	maxRate, maxSenders = 100, 8192
)

// Finder searches the named interfaces, or every multicast interface that is up.
type Finder struct{ Interfaces []string }

// Run searches at once, soon again, and every minute, and tells what answers or
// gives notice of itself, until ctx ends.
func (f Finder) Run(ctx context.Context, out chan<- discovery.Sighting) error {
	links, err := link.Find(f.Interfaces)
	if err != nil {
		return err
	}
	own, shared, err := open(links)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, c := range append(shared, own...) {
		wg.Go(func() { listen(ctx, c, out) })
		wg.Go(func() {
			<-ctx.Done()
			_ = c.Close()
		})
	}
	err = search(ctx, own)
	cancel()
	wg.Wait()
	return err
}

// open opens for each address family a socket to search with and one that hears
// notices. The second may be missing: the port belongs to somebody who won't share.
func open(links []link.Link) (own, shared []*link.Conn, err error) {
	var failed []error
	for _, group := range []string{"239.255.255.250:1900", "[ff02::c]:1900"} {
		o := link.Options{Group: netip.MustParseAddrPort(group), Hops: hops}
		c, err := link.Open(links, o)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		own = append(own, c)
		o.Join = true
		if c, err = link.Open(links, o); err == nil {
			shared = append(shared, c)
		}
	}
	if len(own) == 0 {
		return nil, nil, fault.Wrap(fault.Unavailable, "search", errors.Join(failed...))
	}
	return own, shared, nil
}

func search(ctx context.Context, own []*link.Conn) error {
	for wait := soon; ; wait = repeat {
		var failed []error
		for _, c := range own {
			for _, st := range []string{target, target + ":0", target + ".0"} {
				if err := c.Ask(query(c.Group(), st)); err != nil {
					failed = append(failed, err)
					break
				}
			}
		}
		if len(failed) == len(own) && ctx.Err() == nil {
			return errors.Join(failed...)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// rates counts the messages of each sender in a second.
type rates struct {
	second time.Time
	count  map[string]int
}

func (r *rates) allow(now time.Time, from string) bool {
	if r.count == nil || now.Sub(r.second) >= time.Second {
		r.second, r.count = now, map[string]int{}
	}
	if n := r.count[from]; n > 0 || len(r.count) < maxSenders {
		r.count[from]++
		return n < maxRate
	}
	return true
}

func listen(ctx context.Context, c *link.Conn, out chan<- discovery.Sighting) {
	buf := make([]byte, link.MaxPacket)
	var r rates
	for {
		p, why, err := c.Read(buf)
		if err != nil {
			return
		}
		s, ok := discovery.Sighting{Found: Name, Note: why}, why != ""
		if !ok && r.allow(time.Now(), p.From) {
			s, ok = sighting(p)
		}
		if !ok {
			continue
		}
		select {
		case out <- s:
		case <-ctx.Done():
			return
		}
	}
}

// sighting is what a packet says, if it says that a Redfish service is there.
func sighting(p link.Packet) (discovery.Sighting, bool) {
	m, ok := parse(p.Data)
	if !ok {
		return discovery.Sighting{}, false
	}
	host := p.From
	if m.addr.IsValid() {
		if host, ok = p.Link.Reach(m.addr); !ok {
			return discovery.Sighting{Found: Name, Note: p.From + " named an address that is not on " + p.Link.Name + ", it was dropped"}, true
		}
	}
	return discovery.Sighting{
		Address: net.JoinHostPort(host, strconv.Itoa(int(m.port))), Found: Name, Service: target, Link: p.Link.Name, Source: p.From, UUID: m.uuid,
	}, true
}

// query searches for one form of the target.
func query(group, st string) []byte {
	return []byte("M-SEARCH * HTTP/1.1\r\nHOST: " + group + "\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: " + st + "\r\n\r\n")
}
