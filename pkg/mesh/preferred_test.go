package mesh

import (
	"net"
	"testing"
)

func TestPreferredAddress(t *testing.T) {
	four, six := net.IPAddr{IP: net.ParseIP("192.0.2.1")}, net.IPAddr{IP: net.ParseIP("2001:db8::1")}
	local := net.IPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}
	all := func(*net.UDPAddr) bool { return true }
	none := func(*net.UDPAddr) bool { return false }
	only6 := func(a *net.UDPAddr) bool { return a.IP.To4() == nil }
	for _, c := range []struct {
		name     string
		found    []net.IPAddr
		routable func(*net.UDPAddr) bool
		want     string
	}{
		{"IPv4 first", []net.IPAddr{six, four}, all, "192.0.2.1:7443"},
		{"at a site with IPv6 alone", []net.IPAddr{four, six}, only6, "[2001:db8::1]:7443"},
		{"no way at all", []net.IPAddr{six, four}, none, "192.0.2.1:7443"},
		{"the zone is kept", []net.IPAddr{local}, all, "[fe80::1%eth0]:7443"},
		{"the order is kept", []net.IPAddr{local, six}, all, "[fe80::1%eth0]:7443"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := preferred(c.found, 7443, c.routable).String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
