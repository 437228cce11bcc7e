package discover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grandcat/zeroconf"
	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/chiba-mesh/chiba/discovery/link"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// runRack is the other end of the cables. It lives until its input ends.
func runRack(kind string) error {
	in := bufio.NewScanner(os.Stdin)
	if !in.Scan() {
		return errors.New("nobody plugged it in")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	kind, param, _ := strings.Cut(kind, " ")
	v4 := "10.9.0.2/24"
	if kind == "linklocal" {
		v4 = ""
	}
	if err := errors.Join(upErr("lo"), upErr("vb", v4, "fe80::2/64"), upErr("vd", "10.8.0.2/24", "fe80::c2/64")); err != nil {
		return err
	}
	var err error
	switch kind {
	case "bmcs", "linklocal", "mute":
		err = bmcs(ctx, v4 != "", kind != "mute")
	case "responders":
		err = responders(ctx, param)
	case "ssdp":
		if err = bmcs(ctx, true, false); err == nil {
			err = answerSSDP(ctx)
		}
	case "flood":
		if err = bmcs(ctx, true, true); err == nil {
			go flood(ctx, in)
		}
	case "liar":
		if err = bmcs(ctx, true, true); err == nil {
			go lie(ctx, param)
		}
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if kind != "flood" {
		for in.Scan() { // until it is closed
		}
		return nil
	}
	<-ctx.Done()
	return nil
}

const bmcCount = 8

// bmcs are simulated BMCs, each with addresses of its own and port 443. The first
// half announces as OpenBMC's IBM layer does, the other as its stock image: only
// the console.
func bmcs(ctx context.Context, v4, announce bool) error {
	vb, err := net.InterfaceByName("vb")
	if err != nil {
		return err
	}
	for n := 1; n <= bmcCount; n++ {
		name := fmt.Sprintf("bmc-%d", n)
		b, err := bmcsim.New(bmcsim.Config{Hostname: name, Serial: "S" + strconv.Itoa(n)})
		if err != nil {
			return err
		}
		ips := []string{fmt.Sprintf("fe80::b:%d", n)}
		if v4 {
			ips = append(ips, fmt.Sprintf("10.9.0.%d", 100+n))
		}
		for _, ip := range ips {
			bits, host := "/64", ip+"%vb"
			if !strings.Contains(ip, ":") {
				bits, host = "/24", ip
			}
			if err := upErr("vb", ip+bits); err != nil {
				return err
			}
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, "443"))
			if err != nil {
				return err
			}
			go func() { _ = b.Serve(ctx, l) }()
		}
		service, port := "_obmc_redfish._tcp", 443
		if n > bmcCount/2 {
			service, port = "_obmc_console._tcp", 2200
		}
		if announce {
			if _, err := zeroconf.RegisterProxy("redfish on "+name, service, "local.", port, name, ips, []string{"Type=Server"}, []net.Interface{*vb}); err != nil {
				return err
			}
		}
	}
	return nil
}

// answerOf is what a responder says of one instance at one address.
func answerOf(instance string, ip net.IP, port uint16) *dns.Msg {
	const service = "_obmc_redfish._tcp.local."
	host := strings.ReplaceAll(instance, " ", "-") + ".local."
	full := strings.ReplaceAll(instance, " ", `\ `) + "." + service
	h := func(name string, kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 120}
	}
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}, Compress: true}
	m.Answer = []dns.RR{&dns.PTR{Hdr: h(service, dns.TypePTR), Ptr: full}}
	m.Extra = []dns.RR{&dns.SRV{Hdr: h(full, dns.TypeSRV), Port: port, Target: host}, &dns.TXT{Hdr: h(full, dns.TypeTXT), Txt: []string{"Type=Server"}}}
	if v4 := ip.To4(); v4 != nil {
		m.Extra = append(m.Extra, &dns.A{Hdr: h(host, dns.TypeA), A: v4})
	} else {
		m.Extra = append(m.Extra, &dns.AAAA{Hdr: h(host, dns.TypeAAAA), AAAA: ip})
	}
	return m
}

const responderCount = 400

// responders answer as RFC 6762 has it: 20 to 120 ms after a query, by multicast
// not twice within a second, by unicast to who asks for that. What they hear and
// what they say is lost with the given probability in percent.
func responders(ctx context.Context, percent string) error {
	loss, err := strconv.ParseFloat(percent, 64)
	if err != nil {
		return err
	}
	lost := func() bool { return rand.Float64()*100 < loss }
	vb, err := net.InterfaceByName("vb")
	if err != nil {
		return err
	}
	group := &net.UDPAddr{IP: net.ParseIP("ff02::fb"), Port: 5353, Zone: "vb"}
	udp, err := net.ListenUDP("udp6", group)
	if err != nil {
		return err
	}
	pc := ipv6.NewPacketConn(udp)
	if err = errors.Join(pc.JoinGroup(vb, group), pc.SetHopLimit(255), pc.SetMulticastHopLimit(255), pc.SetMulticastInterface(vb), udp.SetReadBuffer(1<<20)); err != nil {
		return err
	}
	var packed [responderCount][]byte
	for i := range packed {
		if packed[i], err = answerOf(fmt.Sprintf("bmc %d", i), net.ParseIP(fmt.Sprintf("fe80::f:%x", i)), 443).Pack(); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	var said [responderCount]time.Time
	go func() {
		buf := make([]byte, link.MaxPacket)
		for ctx.Err() == nil {
			n, _, from, err := pc.ReadFrom(buf)
			var q dns.Msg
			if err != nil || q.Unpack(buf[:n]) != nil || q.Response || len(q.Question) == 0 {
				continue
			}
			unicast := q.Question[0].Qclass&(1<<15) != 0
			for i := range packed {
				if lost() {
					continue
				}
				time.AfterFunc(20*time.Millisecond+rand.N(100*time.Millisecond), func() {
					to := net.Addr(group)
					mu.Lock()
					again := time.Since(said[i]) < time.Second
					if !unicast && !again {
						said[i] = time.Now()
					}
					mu.Unlock()
					if unicast {
						to = from
					} else if again {
						return
					}
					if !lost() {
						_, _ = pc.WriteTo(packed[i], nil, to)
					}
				})
			}
		}
	}()
	return nil
}

// answerSSDP answers searches: for odd numbers as DSP0266 says, for even ones with
// LOCATION and the other form of the target. One more names a host elsewhere.
func answerSSDP(ctx context.Context) error {
	vb, err := net.InterfaceByName("vb")
	if err != nil {
		return err
	}
	udp, err := net.ListenMulticastUDP("udp4", vb, &net.UDPAddr{IP: net.IPv4(239, 255, 255, 250), Port: 1900})
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 2048)
		for ctx.Err() == nil {
			n, from, err := udp.ReadFromUDP(buf)
			if err != nil || !strings.HasPrefix(string(buf[:n]), "M-SEARCH") {
				continue
			}
			for i := 1; i <= bmcCount+1; i++ {
				st, header, host := "urn:dmtf-org:service:redfish-rest:1", "AL", fmt.Sprintf("10.9.0.%d", 100+i)
				if i%2 == 0 {
					st, header = st+".0", "LOCATION"
				}
				if i > bmcCount {
					host = "198.51.100.9"
				}
				fmt.Fprintf(writer{udp, from}, "HTTP/1.1 200 OK\r\nCACHE-CONTROL:max-age=1800\r\nST:%s\r\n"+
					"USN:uuid:00000000-0000-0000-0000-00000000000%d::%s\r\n%s:https://%s/redfish/v1/\r\nEXT:\r\n\r\n", st, i, st, header, host)
			}
		}
	}()
	return nil
}

type writer struct {
	conn *net.UDPConn
	to   *net.UDPAddr
}

func (w writer) Write(data []byte) (int, error) { return w.conn.WriteToUDP(data, w.to) }

// floodCount BMCs are 100,000 records: each has four.
const floodCount = 25_000

// flood announces BMCs that are not there, as fast as it can, each from one of
// sixteen addresses: at what it hears at its input.
func flood(ctx context.Context, in *bufio.Scanner) {
	defer os.Exit(0)
	var conns []*net.UDPConn
	for i := range 16 {
		ip := fmt.Sprintf("fe80::bad:%x", i)
		if err := upErr("vb", ip+"/64"); err != nil {
			fmt.Println(err)
			return
		}
		c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP(ip), Zone: "vb"})
		if err != nil {
			fmt.Println(err)
			return
		}
		if err := ipv6.NewPacketConn(c).SetMulticastHopLimit(255); err != nil {
			fmt.Println(err)
			return
		}
		conns = append(conns, c)
	}
	in.Scan()
	group := &net.UDPAddr{IP: net.ParseIP("ff02::fb"), Port: 5353, Zone: "vb"}
	begun := time.Now()
	for i := range floodCount {
		data, err := answerOf(fmt.Sprintf("rogue %d", i), net.ParseIP(fmt.Sprintf("fe80::dead:%x:%x", i>>16, i&0xffff)), 443).Pack()
		if err == nil {
			_, _ = conns[i%len(conns)].WriteTo(data, group)
		}
	}
	fmt.Println("flooded", time.Since(begun).Round(time.Millisecond))
	for in.Scan() {
	}
	_ = ctx
}

// lie says again and again what must not be believed.
func lie(ctx context.Context, how string) {
	from, hops, ip := "10.9.0.2", 255, "10.9.0.66"
	iface := "vb"
	switch how {
	case "router": // it has crossed one
		hops = 254
	case "source": // the sender is not of this network
		from = "192.0.2.66"
		if err := upErr("vb", from+"/32"); err != nil {
			fmt.Println(err)
		}
	case "target": // it names a host elsewhere
		ip = "198.51.100.7"
	case "interface": // it comes in where nobody looks
		from, iface, ip = "10.8.0.2", "vd", "10.9.0.66"
	}
	at, err := net.InterfaceByName(iface)
	if err != nil {
		fmt.Println(err)
		return
	}
	udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from+":0")))
	if err != nil {
		fmt.Println(err)
		return
	}
	pc := ipv4.NewPacketConn(udp)
	if err = errors.Join(pc.SetMulticastTTL(hops), pc.SetMulticastInterface(at)); err != nil {
		fmt.Println(err)
		return
	}
	data, err := answerOf("liar", net.ParseIP(ip), 443).Pack()
	if err != nil {
		fmt.Println(err)
		return
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		if _, err := pc.WriteTo(data, nil, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}); err != nil {
			fmt.Println(err)
		}
		<-tick.C
	}
}
