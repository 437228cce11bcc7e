package mdns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/grandcat/zeroconf"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/discovery"
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
	for i, service := range services {
		server, err := zeroconf.RegisterProxy("bmc", service, "local.", 8443+i, "bmc-test.local.", []string{"127.0.0.1"}, nil, []net.Interface{lo})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Shutdown)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, ended := make(chan discovery.Sighting, 100), make(chan error, 1)
	go func() {
		ended <- Finder{Interfaces: []string{lo.Name}, Log: slog.New(slog.DiscardHandler)}.Run(ctx, out)
	}()
	want := []discovery.Sighting{
		{Address: "127.0.0.1:8443", Name: "bmc", Found: Name},
		{Address: "127.0.0.1:8444", Name: "bmc", Found: Name},
	}
	deadline := time.After(window / 2)
	for len(want) > 0 {
		select {
		case s := <-out:
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

func TestOnlyWhatIsOnTheLink(t *testing.T) {
	eth := link{Interface: net.Interface{Name: "eth1"}, prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00:1::/64")}}
	lo := link{Interface: net.Interface{Name: "lo", Flags: net.FlagLoopback}, prefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
	odd := link{Interface: net.Interface{Name: "eth2"}, prefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	for _, c := range []struct {
		addr  string
		links []link
		want  []string
	}{
		{"10.1.0.9", []link{eth}, []string{"10.1.0.9:443"}},
		{"10.2.0.9", []link{eth, lo}, nil},
		{"127.0.0.1", []link{eth}, nil},
		{"127.0.0.1", []link{odd}, nil},
		{"127.0.0.1", []link{eth, lo}, []string{"127.0.0.1:443"}},
		{"::1", []link{lo}, []string{"[::1]:443"}},
		{"fd00:1::9", []link{eth}, []string{"[fd00:1::9]:443"}},
		{"fe80::9", []link{eth, lo}, []string{"[fe80::9%eth1]:443"}},
		{"8.8.8.8", []link{eth, lo}, nil},
	} {
		e := &zeroconf.ServiceEntry{Port: 443}
		if ip := net.ParseIP(c.addr); ip.To4() != nil {
			e.AddrIPv4 = []net.IP{ip}
		} else {
			e.AddrIPv6 = []net.IP{ip}
		}
		var got []string
		for _, s := range sightings(e, c.links) {
			got = append(got, s.Address)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s on %v: -want +got:\n%s", c.addr, c.links, diff)
		}
	}
}

func TestHostileAnswers(t *testing.T) {
	lo := []link{{Interface: net.Interface{Name: "lo", Flags: net.FlagLoopback}, prefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	local := []net.IP{net.IPv4(127, 0, 0, 1)}
	for _, port := range []int{0, -1, 70000} {
		if s := sightings(&zeroconf.ServiceEntry{Port: port, AddrIPv4: local}, lo); s != nil {
			t.Errorf("port %d is told: %v", port, s)
		}
	}
	e := &zeroconf.ServiceEntry{Port: 1, AddrIPv4: append([]net.IP{nil, {1, 2, 3}}, local...)}
	e.Instance = "a\x1b[31m\xff\x00\\032" + strings.Repeat("x", 1000)
	s := sightings(e, lo)
	if len(s) != 1 || strings.ContainsAny(s[0].Name, "\x1b\x00\\") || len(s[0].Name) > maxName {
		t.Errorf("told: %q", fmt.Sprint(s))
	}
}

func TestMissingInterface(t *testing.T) {
	_, err := Finder{Interfaces: []string{"no-such-interface"}}.links()
	if err == nil || !strings.Contains(err.Error(), "no-such-interface") {
		t.Errorf("got %v", err)
	}
}
