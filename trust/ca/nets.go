package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
)

// netsFile is where a site's CA has the networks of its BMCs, one a line: no
// certificate of its own could hold them, because coordinators are elsewhere.
const netsFile = "bmc-nets"

// least is how long a prefix is at least: what is shorter holds more than BMCs.
const (
	least4 = 8
	least6 = 32
)

// ParseNet reads a network of BMCs. A rack's CA may name every address in it, to
// everybody who trusts the root; so it is no address, not everything, and not
// link-local, which means another machine on every link.
func ParseNet(text string) (netip.Prefix, error) {
	bad := func(why string) (netip.Prefix, error) {
		return netip.Prefix{}, fault.New(fault.BadInput, "read the network", fmt.Sprintf("%q %s", text, why)).
			WithHint("name the networks in which the BMCs are, as 10.17.0.0/16 or fd00:17::/64")
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return bad("is no network")
	}
	p = p.Masked()
	switch {
	case p.Addr().IsLinkLocalUnicast():
		return bad("is link-local")
	case p.Addr().Is4() && p.Bits() < least4, p.Addr().Is6() && p.Bits() < least6:
		return bad("is too large")
	}
	return p, nil
}

// KeepNets puts the networks of BMCs into dir, beside a site's CA, for OpenSite.
func KeepNets(dir string, nets []netip.Prefix) error {
	var text strings.Builder
	for _, n := range nets {
		text.WriteString(n.Masked().String() + "\n")
	}
	return fault.Wrap(fault.Unavailable, "keep the networks of BMCs", trust.WriteFile(filepath.Join(dir, netsFile), 0o644, []byte(text.String())))
}

func readNets(dir string) (nets []netip.Prefix, err error) {
	path := filepath.Join(dir, netsFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.FieldsSeq(string(text)) {
		n, err := ParseNet(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		nets = append(nets, n)
	}
	return nets, nil
}

func everyAddress() []*net.IPNet {
	return []*net.IPNet{ipNet(netip.MustParsePrefix("0.0.0.0/0")), ipNet(netip.MustParsePrefix("::/0"))}
}

func ipNet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
