package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// MaxPacket is the largest UDP payload that is read (RFC 6762, section 17). What
// is longer comes truncated and is no message.
const MaxPacket = 9000

// readBuffer is asked of the kernel: a few hundred BMCs answer at once.
const readBuffer = 1 << 20

// Packet is what came in. Data is valid until the next Read.
type Packet struct {
	Data []byte
	Link Link
	From string // the sender's host as Reach writes it
}

// Conn is one UDP socket for one address family on some links. Ask and Read may be
// called concurrently; Close ends them.
type Conn struct {
	group *net.UDPAddr
	links []Link
	hops  int
	v4    *ipv4.PacketConn
	v6    *ipv6.PacketConn
}

// Options of a Conn.
type Options struct {
	Group netip.AddrPort // where Ask sends to
	// Join listens on the port of the group to what others multicast, beside other
	// processes; without it the socket has a port of its own and hears answers.
	Join bool
	// Hops is the hop limit (TTL) that packets are sent with. A Conn with 255 takes
	// only packets with 255: no router has touched those (RFC 5082).
	Hops int
}

// Open opens a socket. A link that can't multicast in this family is left out;
// if that leaves none, it is an error.
func Open(links []Link, o Options) (*Conn, error) {
	c := &Conn{group: net.UDPAddrFromAddrPort(o.Group), hops: o.Hops}
	network, at := "udp4", "0.0.0.0:0"
	if o.Group.Addr().Is6() {
		network, at = "udp6", "[::]:0"
	}
	var udp *net.UDPConn
	var err error
	if o.Join {
		// A multicast address makes net listen on all addresses and share the port.
		udp, err = net.ListenUDP(network, net.UDPAddrFromAddrPort(o.Group))
	} else {
		var pc net.PacketConn
		if pc, err = (&net.ListenConfig{}).ListenPacket(context.Background(), network, at); err == nil {
			udp = pc.(*net.UDPConn)
		}
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "listen to "+o.Group.String(), err)
	}
	_ = udp.SetReadBuffer(readBuffer) // more is better, less works
	if network == "udp4" {
		err = c.open4(udp, links, o)
	} else {
		err = c.open6(udp, links, o)
	}
	if err == nil && len(c.links) == 0 {
		err = fault.New(fault.Unavailable, "listen to "+o.Group.String(), "no interface takes part")
	}
	if err != nil {
		_ = udp.Close()
		return nil, err
	}
	return c, nil
}

func (c *Conn) open4(udp *net.UDPConn, links []Link, o Options) error {
	c.v4 = ipv4.NewPacketConn(udp)
	for _, l := range links {
		if !o.Join || c.v4.JoinGroup(&l.Interface, c.group) == nil {
			c.links = append(c.links, l)
		}
	}
	return errors.Join(c.v4.SetControlMessage(ipv4.FlagInterface|ipv4.FlagTTL, true),
		c.v4.SetMulticastTTL(o.Hops), c.v4.SetTTL(o.Hops), c.v4.SetMulticastLoopback(true))
}

func (c *Conn) open6(udp *net.UDPConn, links []Link, o Options) error {
	c.v6 = ipv6.NewPacketConn(udp)
	for _, l := range links {
		if !o.Join || c.v6.JoinGroup(&l.Interface, c.group) == nil {
			c.links = append(c.links, l)
		}
	}
	return errors.Join(c.v6.SetControlMessage(ipv6.FlagInterface|ipv6.FlagHopLimit, true),
		c.v6.SetMulticastHopLimit(o.Hops), c.v6.SetHopLimit(o.Hops), c.v6.SetMulticastLoopback(true))
}

// Group is where Ask sends to, host:port.
func (c *Conn) Group() string { return c.group.String() }

// Ask multicasts data on every link. It is an error only if no link took it.
func (c *Conn) Ask(data []byte) error {
	var failed []error
	for _, l := range c.links {
		var err error
		if c.v4 != nil {
			cm := ipv4.ControlMessage{IfIndex: l.Index}
			if l.Loopback() { // else answers go to an address of another interface
				cm.Src = net.IPv4(127, 0, 0, 1)
			}
			_, err = c.v4.WriteTo(data, &cm, c.group)
		} else {
			to := *c.group
			to.Zone = l.Name
			_, err = c.v6.WriteTo(data, &ipv6.ControlMessage{IfIndex: l.Index}, &to)
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) < len(c.links) {
		return nil
	}
	return fault.Wrap(fault.Unavailable, "ask "+c.group.String(), errors.Join(failed...))
}

// Read waits for the next packet that came in on one of the links from a host on
// it. For any other, and there may be many, why says why it was dropped.
func (c *Conn) Read(buf []byte) (p Packet, why string, err error) {
	n, index, hops, from, err := c.read(buf)
	if err != nil {
		if errors.Is(err, net.ErrClosed) {
			err = os.ErrClosed
		}
		return Packet{}, "", err
	}
	for _, l := range c.links {
		if l.Index != index {
			continue
		}
		host, ok := l.Reach(from)
		if l.Loopback() { // only this host sends there, with any address it has
			host, ok = from.String(), true
		}
		switch {
		case !ok:
			return Packet{}, "an answer from off the link " + l.Name + " was dropped", nil
		case c.hops == 255 && hops != 255:
			return Packet{}, "an answer with a hop limit below 255, which a router may have passed on, was dropped", nil
		}
		return Packet{Data: buf[:n], Link: l, From: host}, "", nil
	}
	return Packet{}, "an answer on another interface was dropped", nil
}

func (c *Conn) read(buf []byte) (n, index, hops int, from netip.Addr, err error) {
	var src net.Addr
	if c.v4 != nil {
		var cm *ipv4.ControlMessage
		if n, cm, src, err = c.v4.ReadFrom(buf); cm != nil {
			index, hops = cm.IfIndex, cm.TTL
		}
	} else {
		var cm *ipv6.ControlMessage
		if n, cm, src, err = c.v6.ReadFrom(buf); cm != nil {
			index, hops = cm.IfIndex, cm.HopLimit
		}
	}
	if udp, ok := src.(*net.UDPAddr); ok {
		from = udp.AddrPort().Addr()
	}
	return n, index, hops, from, err
}

// Close ends Read.
func (c *Conn) Close() error {
	if c.v4 != nil {
		return c.v4.Close()
	}
	return c.v6.Close()
}
