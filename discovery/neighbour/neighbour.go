// Package neighbour is the finder that knows who is on the link at all: it pings
// all nodes of it (ff02::1) and reads the kernel's table of neighbours. It finds
// BMCs that announce nothing, and everything else that is plugged in: who of them
// is a BMC only the probe can tell.
package neighbour

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/link"
)

// Name is what this finder calls itself in a sighting.
const Name = "neighbours"

const (
	https    = "443"
	allNodes = "ff02::1"
	// protocol is ICMPv6's number, for the parser.
	protocol = 58
	soon     = 500 * time.Millisecond // the second look, at what the first woke up
	repeat   = time.Minute
	// maxNeighbours bounds what one look tells.
	maxNeighbours = 4096
)

// Finder looks on the named interfaces, or on every multicast interface that is up.
type Finder struct{ Interfaces []string }

// Run looks at once, soon again, and every minute until ctx ends. It tells in a
// note what the system does not let it do.
func (f Finder) Run(ctx context.Context, out chan<- discovery.Sighting) error {
	for wait := soon; ; wait = repeat {
		links, err := link.Find(f.Interfaces)
		if err != nil {
			return err
		}
		look(ctx, links, wait, out)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// look pings and listens on all links for a while; then it reads the table, which
// by then knows whom the other finders woke up as well.
func look(ctx context.Context, links []link.Link, length time.Duration, out chan<- discovery.Sighting) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var wg sync.WaitGroup
	for _, l := range links {
		if l.Loopback() {
			continue // nobody else is there
		}
		wg.Go(func() {
			if err := ping(ctx, l, out); err != nil {
				tell(ctx, out, discovery.Sighting{Found: Name, Note: "can't ping the nodes on " + l.Name + ": " + err.Error()})
			}
		})
	}
	known, err := neighbours()
	if err != nil {
		tell(ctx, out, discovery.Sighting{Found: Name, Note: "can't read the kernel's neighbours: " + err.Error()})
	}
	for _, n := range known[:min(len(known), maxNeighbours)] {
		for _, l := range links {
			if l.Index == n.index {
				tellOf(ctx, l, n.addr, out)
			}
		}
	}
	wg.Wait()
	<-ctx.Done()
}

// entry is one of the kernel's table.
type entry struct {
	index int
	addr  netip.Addr
	mac   string // as net.HardwareAddr writes it; "" if there is none
}

// Hardware is the hardware address that the kernel has for a host on one of its
// links, host:port; "" if it has none. Whoever sits on the link can claim one.
func Hardware(address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return ""
	}
	all, err := neighbours()
	if err != nil {
		return "" // there are systems where it can't be read
	}
	for _, e := range all {
		if e.addr.Unmap() == at.Addr().Unmap().WithZone("") && (at.Addr().Zone() == "" || zoneOf(e.index) == at.Addr().Zone()) {
			return e.mac
		}
	}
	return ""
}

func zoneOf(index int) string {
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return ""
}

// ping asks all nodes of the link to answer and tells who does, until ctx ends.
func ping(ctx context.Context, l link.Link, out chan<- discovery.Sighting) error {
	conn, raw, err := open()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		_ = conn.Close()
	})
	if err := send(conn, l, raw); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for range maxNeighbours {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if m, err := icmp.ParseMessage(protocol, buf[:n]); err == nil && m.Type == ipv6.ICMPTypeEchoReply {
			tellOf(ctx, l, addrOf(from), out)
		}
	}
	return nil
}

// open opens an unprivileged ICMP socket, which Linux grants by the sysctl
// net.ipv4.ping_group_range, or else a raw one, which needs CAP_NET_RAW.
func open() (conn *icmp.PacketConn, raw bool, err error) {
	if conn, err = icmp.ListenPacket("udp6", "::"); err == nil {
		return conn, false, nil
	}
	if conn, err = icmp.ListenPacket("ip6:ipv6-icmp", "::"); err == nil {
		filter := &ipv6.ICMPFilter{}
		filter.SetAll(true)
		filter.Accept(ipv6.ICMPTypeEchoReply)
		_ = conn.IPv6PacketConn().SetICMPFilter(filter) // without it there is more to skip
		return conn, true, nil
	}
	if errors.Is(err, os.ErrPermission) {
		err = errors.New("it needs a group in net.ipv4.ping_group_range, or CAP_NET_RAW")
	}
	return nil, false, err
}

func send(conn *icmp.PacketConn, l link.Link, raw bool) error {
	echo := icmp.Message{Type: ipv6.ICMPTypeEchoRequest, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1, Data: []byte("chiba")}}
	data, err := echo.Marshal(nil)
	if err != nil {
		return err
	}
	var to net.Addr = &net.UDPAddr{IP: net.ParseIP(allNodes), Zone: l.Name}
	if raw {
		to = &net.IPAddr{IP: net.ParseIP(allNodes), Zone: l.Name}
	}
	_ = conn.IPv6PacketConn().SetMulticastHopLimit(1) // so that no router forwards it
	_, err = conn.WriteTo(data, to)
	return err
}

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr()
	case *net.IPAddr:
		addr, _ := netip.AddrFromSlice(a.IP)
		return addr.WithZone(a.Zone)
	}
	return netip.Addr{}
}

// tellOf tells of a neighbour, unless it is on another link or this host.
func tellOf(ctx context.Context, l link.Link, addr netip.Addr, out chan<- discovery.Sighting) {
	if addr.Zone() != "" && addr.Zone() != l.Name || l.Mine(addr) {
		return
	}
	if host, ok := l.Reach(addr); ok {
		tell(ctx, out, discovery.Sighting{Address: net.JoinHostPort(host, https), Found: Name, Link: l.Name})
	}
}

func tell(ctx context.Context, out chan<- discovery.Sighting, s discovery.Sighting) {
	select {
	case out <- s:
	case <-ctx.Done():
	}
}
