// Package link is the local network as the finders see it: which interfaces there
// are, which addresses are on them, and a socket that tells of every packet where
// it came in and how far it has come. What is not on the link is not believed.
package link

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Link is an interface and the prefixes that are reached on it directly.
type Link struct {
	net.Interface
	Prefixes []netip.Prefix
	own      []netip.Addr
}

// Find returns the links of the named interfaces or, if none is named, of every
// multicast interface that is up. A named interface is taken as it is: the
// loopback has no multicast flag on Linux, and works.
func Find(names []string) ([]Link, error) {
	const op = "find interfaces"
	var links []Link
	for _, name := range names {
		iface, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fault.Wrap(fault.NotFound, op, fmt.Errorf("%s: %w", name, err))
		}
		links = append(links, linkOf(*iface))
	}
	if len(names) > 0 {
		return links, nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	for _, iface := range all {
		if iface.Flags&net.FlagUp != 0 && iface.Flags&net.FlagMulticast != 0 && iface.Flags&net.FlagLoopback == 0 {
			links = append(links, linkOf(iface))
		}
	}
	if len(links) == 0 {
		return nil, fault.New(fault.NotFound, op, "no interface for multicast is up").
			WithHint("plug in or bring up the interface of the BMC network, and name it")
	}
	return links, nil
}

func linkOf(iface net.Interface) Link {
	l := Link{Interface: iface}
	addrs, err := iface.Addrs()
	if err != nil {
		return l // nothing is on it
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			l.Prefixes = append(l.Prefixes, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()).Masked())
			l.own = append(l.own, p.Addr().Unmap())
		}
	}
	return l
}

// Loopback reports whether the link is this machine alone.
func (l Link) Loopback() bool { return l.Flags&net.FlagLoopback != 0 }

// Reach is how to write addr so that it is reached on this link; false if it is
// not on it.
func (l Link) Reach(addr netip.Addr) (host string, ok bool) {
	addr = addr.Unmap().WithZone("")
	if addr.IsMulticast() || addr.IsUnspecified() {
		return "", false
	}
	if addr.IsLinkLocalUnicast() && addr.Is6() {
		return addr.WithZone(l.Name).String(), !l.Loopback()
	}
	for _, p := range l.Prefixes {
		if p.Contains(addr) && (!addr.IsLoopback() || l.Loopback()) {
			return addr.String(), true
		}
	}
	return "", false
}

// Mine reports whether addr is this host's own on the link.
func (l Link) Mine(addr netip.Addr) bool {
	return slices.Contains(l.own, addr.Unmap().WithZone(""))
}
