package mdns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/grandcat/zeroconf"
	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/link"
)

// The announcing side of the library, which only this test uses, sleeps on for a
// second after its Shutdown.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/grandcat/zeroconf.(*Server).probe"))
}

func loopback(t *testing.T) net.Interface {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			return i
		}
	}
	t.Skip("no loopback interface")
	return net.Interface{}
}

// Real announcements on the loopback, found by a real browse, told as they come
// and not when the window closes.
func TestFindsWhatIsAnnounced(t *testing.T) {
	lo := loopback(t)
	want := []discovery.Sighting{}
	for i, service := range services {
		server, err := zeroconf.RegisterProxy("bmc v1.2", service, "local.", 8443+i, "bmc-test.local.", []string{"127.0.0.1"}, []string{"Type=Server"}, []net.Interface{lo})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Shutdown)
		port := 8443 + i
		if service == "_obmc_console._tcp" {
			port = 443
		}
		want = append(want, discovery.Sighting{
			Address: fmt.Sprintf("127.0.0.1:%d", port), Name: "bmc v1.2", Found: Name, Service: service, Hint: "type=Server", Link: lo.Name,
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, ended := make(chan discovery.Sighting, 100), make(chan error, 1)
	go func() {
		ended <- Finder{Interfaces: []string{lo.Name}, Log: slog.New(slog.DiscardHandler)}.Run(ctx, out)
	}()
	deadline := time.After(window / 2)
	for len(want) > 0 {
		select {
		case s := <-out:
			s.Source = "" // of any interface
			want = slices.DeleteFunc(want, func(w discovery.Sighting) bool { return w == s })
		case <-deadline:
			t.Fatalf("not found: %v", want)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func TestMissingInterface(t *testing.T) {
	err := Finder{Interfaces: []string{"no-such-interface"}}.browse(t.Context(), newCache(), nil)
	if err == nil || !strings.Contains(err.Error(), "no-such-interface") {
		t.Errorf("got %v", err)
	}
}

var (
	eth   = link.Link{Interface: net.Interface{Index: 2, Name: "eth1"}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}}
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// packet is an answer with the given records, as the zone files write them.
func packet(tb testing.TB, from string, records ...string) link.Packet {
	tb.Helper()
	m := dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Compress: true}
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			tb.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	data, err := m.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return link.Packet{Data: data, Link: eth, From: from}
}

const (
	ptr  = `_redfish._tcp.local. 120 IN PTR my\.bmc._redfish._tcp.local.`
	srv  = `my\.bmc._redfish._tcp.local. 120 IN SRV 0 0 8443 host.local.`
	txt  = `my\.bmc._redfish._tcp.local. 120 IN TXT "Type=Chassis" "uuid=AAAAAAAA-0000-0000-0000-000000000001" "x"`
	a    = `host.local. 120 IN A 10.1.0.9`
	aaaa = `host.local. 120 IN AAAA fe80::9`
)

func addressesOf(all []discovery.Sighting) []string {
	var got []string
	for _, s := range all {
		got = append(got, s.Address)
	}
	return got
}

// An answer is complete whatever the order and the number of its packets.
func TestAnswerInPieces(t *testing.T) {
	both := []string{"10.1.0.9:8443", "[fe80::9%eth1]:8443"}
	for name, packets := range map[string][][]string{
		"one packet":      {{ptr, srv, txt, a, aaaa}},
		"addresses last":  {{ptr}, {txt}, {srv}, {a, aaaa}},
		"addresses first": {{a, aaaa}, {txt}, {srv}},
		"case differs":    {{strings.ToUpper(a), aaaa}, {ptr, txt, strings.ReplaceAll(srv, "host", "HOST")}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache()
			var got []discovery.Sighting
			for i, records := range packets {
				if len(got) > 0 {
					t.Errorf("complete after %d packets: %v", i, got)
				}
				got = c.take(start, packet(t, "10.1.0.9", records...))
			}
			if diff := cmp.Diff(both, addressesOf(got)); diff != "" {
				t.Fatal(diff)
			}
			want := discovery.Sighting{
				Address: both[0], Name: "my.bmc", Found: Name, Service: "_redfish._tcp", Link: eth.Name, Source: "10.1.0.9", Hint: "type=Chassis",
				UUID: "aaaaaaaa-0000-0000-0000-000000000001",
			}
			if diff := cmp.Diff(want, got[0]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What is missing is asked for.
func TestMissingIsAskedFor(t *testing.T) {
	c := newCache()
	c.take(start, packet(t, "10.1.0.9", ptr))
	if q := c.missing(); len(q) != 2 || q[0].Qtype != dns.TypeSRV || q[0].Name != `my\.bmc._redfish._tcp.local.` {
		t.Errorf("asks %v", q)
	}
	c.take(start, packet(t, "10.1.0.9", srv))
	if q := c.missing(); len(q) != 2 || q[1].Qtype != dns.TypeAAAA || q[1].Name != "host.local." {
		t.Errorf("asks %v", q)
	}
	c.take(start, packet(t, "10.1.0.9", a))
	if q := c.missing(); len(q) != 0 {
		t.Errorf("asks %v", q)
	}
}

// What one sender says changes nothing of what another one said.
func TestSendersAreApart(t *testing.T) {
	c := newCache()
	c.take(start, packet(t, "10.1.0.66", srv, `host.local. 120 IN A 10.1.0.66`))
	got := c.take(start, packet(t, "10.1.0.9", srv, a))
	if diff := cmp.Diff([]string{"10.1.0.9:8443"}, addressesOf(got)); diff != "" {
		t.Error(diff)
	}
	c.take(start, packet(t, "10.1.0.66", `my\.bmc._redfish._tcp.local. 0 IN SRV 0 0 8443 host.local.`)) // a forged goodbye
	if got := c.take(start, packet(t, "10.1.0.9", txt)); len(got) != 1 {
		t.Errorf("after somebody else's goodbye: %v", got)
	}
}

func TestCacheExpires(t *testing.T) {
	c := newCache()
	c.take(start, packet(t, "10.1.0.9", ptr, srv, a))
	c.expire(start.Add(119 * time.Second))
	if len(c.instances) != 1 || len(c.hosts) != 1 {
		t.Error("it expired early")
	}
	c.expire(start.Add(121 * time.Second))
	if len(c.instances) != 0 || len(c.hosts) != 0 {
		t.Error("it did not expire")
	}
	c.take(start, packet(t, "10.1.0.9", strings.Replace(srv, "120", "4500", 1)))
	c.expire(start.Add(keep + time.Second))
	if len(c.instances) != 0 {
		t.Error("a long life is believed")
	}
	c.take(start, packet(t, "10.1.0.9", ptr))
	c.take(start, packet(t, "10.1.0.9", strings.Replace(ptr, "120", "0", 1)))
	if len(c.instances) != 0 {
		t.Error("its own goodbye is not heard")
	}
}

func TestThreat03OffLinkTargetIsDropped(t *testing.T) {
	got := newCache().take(start, packet(t, "10.1.0.9", srv, `host.local. 120 IN A 8.8.8.8`))
	if len(got) != 1 || got[0].Address != "" || !strings.Contains(got[0].Note, "not on eth1") {
		t.Errorf("got %+v", got)
	}
}

func TestWhatIsNoAnswerOfOurs(t *testing.T) {
	c := newCache()
	question := packet(t, "10.1.0.9", srv, a)
	question.Data[2] &^= 0x80 // no response
	chaos := packet(t, "10.1.0.9", srv, a)
	for _, p := range []link.Packet{
		question,
		{Data: []byte("rubbish"), Link: eth},
		{Data: chaos.Data[:len(chaos.Data)-3], Link: eth},
		packet(t, "10.1.0.9", `x._ipp._tcp.local. 120 IN SRV 0 0 631 host.local.`, a),
		packet(t, "10.1.0.9", `_redfish._tcp.local. 120 IN SRV 0 0 631 host.local.`, a),
		packet(t, "10.1.0.9", `x._redfish._tcp.local. 120 IN SRV 0 0 0 host.local.`, a),
		packet(t, "10.1.0.9", `x._redfish._tcp.local. 120 CH SRV 0 0 443 host.local.`, a),
	} {
		if got := c.take(start, p); got != nil {
			t.Errorf("told: %v", got)
		}
	}
}

// A flood stays within bounds, and after it an honest BMC is still
// heard at once.
func TestThreat04FloodIsBounded(t *testing.T) {
	c := newCache()
	told := 0
	for i := range 12_000 {
		now := start.Add(time.Duration(i) * 10 * time.Microsecond)
		told += len(c.take(now, packet(t, "10.1.0.66", fmt.Sprintf(`r%d._redfish._tcp.local. 120 IN SRV 0 0 443 h%d.local.`, i, i),
			fmt.Sprintf(`h%d.local. 120 IN A 10.1.0.66`, i))))
	}
	if told == 0 || told > maxRate/2 || len(c.instances) > maxEntries || len(c.hosts) > maxEntries {
		t.Errorf("%d told, %d instances and %d hosts kept", told, len(c.instances), len(c.hosts))
	}
	for i := range 12_000 { // and from ever new senders
		c.take(start, packet(t, strconv.Itoa(i), fmt.Sprintf(`r%d._redfish._tcp.local. 120 IN SRV 0 0 443 h.local.`, i), a))
	}
	if len(c.instances) > maxEntries || len(c.hosts) > maxEntries || len(c.rates) > maxSenders {
		t.Errorf("%d instances, %d hosts and %d senders kept", len(c.instances), len(c.hosts), len(c.rates))
	}
	if got := c.take(start, packet(t, "10.1.0.9", srv, a)); len(got) != 1 {
		t.Errorf("the honest one is not heard: %v", got)
	}
}

func TestHints(t *testing.T) {
	for _, c := range []struct {
		txt      []string
		hint, id string
	}{
		{nil, "", ""},
		{[]string{"path=/redfish/v1/", "UUID=AAAAAAAA-0000-0000-0000-000000000001"}, "", "aaaaaaaa-0000-0000-0000-000000000001"},
		{[]string{"Manufacturer=Acme", "TYPE=Switch", "type=Server", "uuid=42"}, "type=Switch manufacturer=Acme", ""},
		{[]string{"=x", "role", "role=admin", "model=\x1b[31mred\n"}, "model=[31mred", ""},
		{[]string{"serial=" + strings.Repeat("9", 400)}, "serial=" + strings.Repeat("9", maxName), ""},
	} {
		hint, id := hints(c.txt)
		if hint != c.hint || id != c.id {
			t.Errorf("%q: %q, %q", c.txt, hint, id)
		}
	}
}

// harmless reports whether a text can be shown as it is.
func harmless(s string, most int) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= most && strings.IndexFunc(s, unicode.IsControl) < 0
}

func FuzzTXT(f *testing.F) {
	f.Add("Type=Server", "uuid=aaaaaaaa-0000-0000-0000-000000000001")
	f.Add(`role=\032\x\`, "role=\xff\x00")
	f.Fuzz(func(t *testing.T, one, two string) {
		hint, id := hints([]string{one, two})
		if !harmless(hint, maxHint) || id != "" && !uuid.MatchString(id) {
			t.Errorf("%q, %q", hint, id)
		}
		if name := clean(one); !harmless(name, maxName) {
			t.Errorf("name %q", name)
		}
	})
}

func FuzzPacket(f *testing.F) {
	f.Add(packet(f, "10.1.0.9", ptr, srv, txt, a, aaaa).Data)
	f.Add(packet(f, "10.1.0.9", srv, `host.local. 120 IN A 8.8.8.8`).Data)
	f.Fuzz(func(t *testing.T, data []byte) {
		c := newCache()
		for _, s := range c.take(start, link.Packet{Data: data, Link: eth, From: "10.1.0.9"}) {
			if !harmless(s.Name, maxName) || !harmless(s.Hint, maxHint) || (s.Address == "") == (s.Note == "") {
				t.Errorf("%+v", s)
			}
			if s.Address == "" {
				continue
			}
			at, err := netip.ParseAddrPort(s.Address)
			if err != nil || at.Port() == 0 {
				t.Errorf("%s: %v", s.Address, err)
			} else if _, ok := eth.Reach(at.Addr()); !ok {
				t.Errorf("%s is not on the link", s.Address)
			}
		}
		c.missing()
	})
}
