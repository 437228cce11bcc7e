package link_test

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/discovery/link"
)

func TestThreat03OnlyWhatIsOnTheLink(t *testing.T) {
	prefixes := func(texts ...string) (all []netip.Prefix) {
		for _, p := range texts {
			all = append(all, netip.MustParsePrefix(p))
		}
		return all
	}
	eth := link.Link{Interface: net.Interface{Name: "eth1"}, Prefixes: prefixes("10.1.0.0/24", "fd00:1::/64")}
	lo := link.Link{Interface: net.Interface{Name: "lo", Flags: net.FlagLoopback}, Prefixes: prefixes("127.0.0.0/8", "::1/128")}
	odd := link.Link{Interface: net.Interface{Name: "eth2"}, Prefixes: prefixes("127.0.0.0/8")}
	all := link.Link{Interface: net.Interface{Name: "eth3"}, Prefixes: prefixes("0.0.0.0/0", "::/0")}
	for _, c := range []struct {
		addr string
		link link.Link
		want string
	}{
		{"10.1.0.9", eth, "10.1.0.9"},
		{"::ffff:10.1.0.9", eth, "10.1.0.9"},
		{"10.2.0.9", eth, ""},
		{"10.2.0.9", lo, ""},
		{"127.0.0.1", eth, ""},
		{"127.0.0.1", odd, ""},
		{"127.0.0.1", lo, "127.0.0.1"},
		{"::1", lo, "::1"},
		{"fd00:1::9", eth, "fd00:1::9"},
		{"fe80::9", eth, "fe80::9%eth1"},
		{"fe80::9%eth7", eth, "fe80::9%eth1"},
		{"fe80::9", lo, ""},
		{"8.8.8.8", eth, ""},
		{"224.0.0.251", all, ""},
		{"ff02::1", all, ""},
		{"0.0.0.0", all, ""},
		{"::", all, ""},
	} {
		host, ok := c.link.Reach(netip.MustParseAddr(c.addr))
		if ok != (c.want != "") || ok && host != c.want {
			t.Errorf("%s on %s is reached at %q, %v; want %q", c.addr, c.link.Name, host, ok, c.want)
		}
	}
}

func TestFind(t *testing.T) {
	_, err := link.Find([]string{"no-such-interface"})
	if err == nil || !strings.Contains(err.Error(), "no-such-interface") {
		t.Errorf("got %v", err)
	}
	all, err := link.Find([]string{"lo"})
	if err != nil {
		t.Skip("there is no interface lo here")
	}
	lo := all[0]
	if !lo.Loopback() || !lo.Mine(netip.MustParseAddr("127.0.0.1")) || lo.Mine(netip.MustParseAddr("127.0.0.2")) {
		t.Errorf("%+v", lo)
	}
	if others, err := link.Find(nil); err == nil && slices.ContainsFunc(others, link.Link.Loopback) {
		t.Error("the loopback takes part without being named")
	}
}

// One socket asks on the loopback, the other hears it: from where, and on what.
func TestAskAndRead(t *testing.T) {
	links, err := link.Find([]string{"lo"})
	if err != nil {
		t.Skip("there is no interface lo here")
	}
	o := link.Options{Group: netip.MustParseAddrPort("224.0.0.251:5353"), Join: true, Hops: 255}
	hears, err := link.Open(links, o)
	if err != nil {
		t.Fatal(err)
	}
	o.Join = false
	asks, err := link.Open(links, o)
	if err != nil {
		t.Fatal(err)
	}
	o.Hops = 254
	far, err := link.Open(links, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*link.Conn{far, asks} {
		if err := c.Ask([]byte("link_test says hello")); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, link.MaxPacket)
	dropped := false
	for {
		p, why, err := hears.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		dropped = dropped || strings.Contains(why, "hop limit below 255")
		if string(p.Data) == "link_test says hello" {
			if p.Link.Name != "lo" || p.From == "" || !dropped {
				t.Errorf("heard %+v, the one from afar was dropped: %v", p, dropped)
			}
			break
		}
	}
	for _, c := range []*link.Conn{hears, asks, far} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := hears.Read(buf); err == nil {
		t.Error("a closed socket reads on")
	}
}
