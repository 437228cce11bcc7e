package static

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// MaxRange bounds the addresses of one range: a rack's network, not a site's.
const MaxRange = 4096

// Range lists the hosts of a CIDR range, or the one host that is given, each with
// the port of HTTPS. The addresses of an IPv4 network and of its broadcast are no
// hosts.
func Range(text string) ([]string, error) {
	const op = "read the range"
	if !strings.Contains(text, "/") {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, bad(text)
		}
		return []string{withPort(addr)}, nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return nil, bad(text)
	}
	bits := prefix.Addr().BitLen() - prefix.Bits()
	if bits > 12 {
		return nil, fault.New(fault.TooLarge, op, fmt.Sprintf("%s holds more than %d addresses", text, MaxRange)).
			WithHint("give the ranges where the BMCs are, each of at most /20, or /116 of IPv6")
	}
	prefix = prefix.Masked()
	var all []string
	for addr := prefix.Addr(); addr.IsValid() && prefix.Contains(addr); addr = addr.Next() {
		all = append(all, withPort(addr))
	}
	if prefix.Addr().Is4() && bits >= 2 {
		all = all[1 : len(all)-1]
	}
	return all, nil
}

func withPort(addr netip.Addr) string { return net.JoinHostPort(addr.String(), "443") }

func bad(text string) error {
	return fault.New(fault.BadInput, "read the range", fmt.Sprintf("%q is neither an address nor a range", text)).
		WithHint("write it like 10.0.0.0/24, 10.0.0.7 or fe80::7%eth1")
}
