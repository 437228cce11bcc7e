package mdns

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// link is an interface and the prefixes that are reached on it directly.
type link struct {
	net.Interface
	prefixes []netip.Prefix
}

// links are the interfaces to browse. A named interface is taken as it is: the
// loopback has no multicast flag on Linux, and works.
func (f Finder) links() ([]link, error) {
	const op = "find interfaces"
	if len(f.Interfaces) > 0 {
		var links []link
		for _, name := range f.Interfaces {
			iface, err := net.InterfaceByName(name)
			if err != nil {
				return nil, fault.Wrap(fault.NotFound, op, fmt.Errorf("%s: %w", name, err))
			}
			links = append(links, linkOf(*iface))
		}
		return links, nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	var links []link
	for _, iface := range all {
		if iface.Flags&net.FlagUp != 0 && iface.Flags&net.FlagMulticast != 0 && iface.Flags&net.FlagLoopback == 0 {
			links = append(links, linkOf(iface))
		}
	}
	if len(links) == 0 {
		return nil, fault.New(fault.NotFound, op, "no interface for multicast is up").
			WithHint("name the BMC network's interface in the agent's configuration: interfaces: [eth1]")
	}
	return links, nil
}

func linkOf(iface net.Interface) link {
	l := link{Interface: iface}
	addrs, err := iface.Addrs()
	if err != nil {
		return l // nothing is on it
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			l.prefixes = append(l.prefixes, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()).Masked())
		}
	}
	return l
}

// reach is how to write addr so that it is reached on this link; false if it is
// not on it.
func (l link) reach(addr netip.Addr) (host string, ok bool) {
	if addr.IsLinkLocalUnicast() && addr.Is6() {
		return addr.WithZone(l.Name).String(), l.Flags&net.FlagLoopback == 0
	}
	for _, p := range l.prefixes {
		if p.Contains(addr) && (!addr.IsLoopback() || l.Flags&net.FlagLoopback != 0) {
			return addr.String(), true
		}
	}
	return "", false
}
