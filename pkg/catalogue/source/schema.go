package source

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Bounds of what a person may ask for.
const (
	maxConnections = 4
	maxNodes       = 64
	maxRequests    = 64
	leastSpool     = 16 << 20
	mostSpool      = 1 << 40
	maxPerRack     = 4096 // BMCs, nodes
	maxNetworks    = 64   // of one rack
	maxMembers     = 1000 // of one group
	scanBits       = 12   // of the largest network that is looked through: 4,096 addresses
)

// placed is where a name stands.
type placed map[string]*yaml.Node

// catalogue reads the whole file.
func (r *reader) catalogue(text []byte) *catalogue.Catalogue {
	root := r.document(text)
	if root == nil {
		return nil
	}
	c := &catalogue.Catalogue{}
	sites, racks, nodes, agents := placed{}, placed{}, placed{}, placed{}
	var of []*yaml.Node // where a rack says its site
	nets := &networks{reader: r}
	r.fields(root, "a catalogue",
		field{name: "sites", need: true, read: func(n *yaml.Node) {
			r.list(n, "sites", catalogue.MaxSites, func(n *yaml.Node) { c.Sites = append(c.Sites, r.site(n, sites)) })
		}},
		field{name: "racks", need: true, read: func(n *yaml.Node) {
			r.list(n, "racks", catalogue.MaxRacks, func(n *yaml.Node) {
				c.Racks = append(c.Racks, r.rack(n, &rackNames{racks: racks, nodes: nodes, agents: agents, of: &of, nets: nets}))
			})
		}},
		field{name: "groups", read: func(n *yaml.Node) { c.Groups = r.groups(n) }},
	)
	all := slices.Sorted(maps.Keys(sites))
	for _, at := range of {
		if sites[at.Value] == nil && !r.full() {
			r.fail(at, UnknownName, "there is no site "+at.Value, meant(at.Value, all, "the sites are "))
		}
	}
	nets.compare()
	return c
}

// once notes a name, and whether it is the first of its kind.
func (r *reader) once(names placed, n *yaml.Node, what string) bool {
	if first := names[n.Value]; first != nil {
		r.fail(n, SameName, fmt.Sprintf("the %s %s is there twice", what, n.Value), fmt.Sprintf("the first is on line %d", first.Line))
		return false
	}
	names[n.Value] = n
	return true
}

func (r *reader) site(n *yaml.Node, names placed) (s catalogue.Site) {
	r.fields(n, "a site",
		field{name: "name", need: true, read: func(n *yaml.Node) {
			if r.label(n, "a site's name") && r.once(names, n, "site") {
				s.Name = fleet.SiteName(n.Value)
			}
		}},
		field{name: "address", read: func(n *yaml.Node) { s.Address, _ = r.text(n, "an address") }},
		field{name: "labels", read: func(n *yaml.Node) { s.Labels = r.labels(n) }},
		field{name: "wan", read: func(n *yaml.Node) {
			r.fields(n, "wan", field{name: "connections", read: func(n *yaml.Node) {
				s.WAN.Connections = r.count(n, "connections", 1, maxConnections)
			}})
		}},
	)
	return s
}

// rackNames is what the racks of a file have said so far.
type rackNames struct {
	racks, nodes, agents placed
	of                   *[]*yaml.Node
	nets                 *networks
}

func (r *reader) rack(n *yaml.Node, names *rackNames) (k catalogue.Rack) {
	var where []*span
	r.fields(n, "a rack",
		field{name: "name", need: true, read: func(n *yaml.Node) {
			if r.label(n, "a rack's name") && r.once(names.racks, n, "rack") {
				k.Name = fleet.RackName(n.Value)
			}
		}},
		field{name: "site", need: true, read: func(n *yaml.Node) {
			if site, ok := r.text(n, "a site"); ok {
				k.Site, *names.of = fleet.SiteName(site), append(*names.of, n)
			}
		}},
		field{name: "position", read: func(n *yaml.Node) { k.Position, _ = r.text(n, "a position") }},
		field{name: "labels", read: func(n *yaml.Node) { k.Labels = r.labels(n) }},
		field{name: "standby", read: func(n *yaml.Node) {
			if r.name(n, "an agent's name") && r.once(names.agents, n, "standby") {
				k.Standby = fleet.AgentName(n.Value)
			}
		}},
		field{name: "networks", read: func(n *yaml.Node) {
			r.list(n, "networks", maxNetworks, func(n *yaml.Node) {
				network, at := r.network(n)
				k.Networks, where = append(k.Networks, network), append(where, at)
			})
		}},
		field{name: "bmcs", read: func(n *yaml.Node) {
			r.list(n, "bmcs", maxPerRack, func(n *yaml.Node) {
				bmc, at := r.bmc(n)
				k.BMCs, where = append(k.BMCs, bmc), append(where, at)
			})
		}},
		field{name: "limits", read: func(n *yaml.Node) { k.Limits = r.limits(n) }},
		field{name: "nodes", read: func(n *yaml.Node) {
			r.list(n, "nodes", maxPerRack, func(n *yaml.Node) { k.Nodes = append(k.Nodes, r.node(n, names.nodes)) })
		}},
	)
	for _, s := range where {
		if s != nil {
			s.rack = string(k.Name)
			names.nets.all = append(names.nets.all, s)
		}
	}
	return k
}

func (r *reader) network(n *yaml.Node) (w catalogue.Network, at *span) {
	var scan *yaml.Node
	r.fields(n, "a network",
		field{name: "cidr", need: true, read: func(n *yaml.Node) {
			text, ok := r.text(n, "a CIDR")
			if !ok {
				return
			}
			cidr, err := netip.ParsePrefix(text)
			switch {
			case err != nil:
				r.fail(n, BadValue, text+" is no CIDR", "write it like 10.20.1.0/24")
			case cidr != cidr.Masked():
				r.fail(n, BadValue, text+" is an address in a network", "the network is "+cidr.Masked().String())
			default:
				w.CIDR, at = cidr, &span{node: n, prefix: cidr}
			}
		}},
		field{name: "interface", read: func(n *yaml.Node) {
			if r.name(n, "an interface's name") {
				w.Interface = n.Value
			}
		}},
		field{name: "scan", read: func(n *yaml.Node) { w.Scan, scan = r.yes(n, "scan"), n }},
	)
	if w.Scan && w.CIDR.IsValid() && w.CIDR.Addr().BitLen()-w.CIDR.Bits() > scanBits {
		r.fail(scan, BadValue, fmt.Sprintf("%s is too large to be looked through", w.CIDR), "scan networks of at most /20, or /116 of IPv6; elsewhere BMCs announce themselves, or are listed in bmcs")
	}
	return w, at
}

// bmc reads an address with or without a port.
func (r *reader) bmc(n *yaml.Node) (netip.AddrPort, *span) {
	const https = 443
	text, ok := r.text(n, "a BMC's address")
	if !ok {
		return netip.AddrPort{}, nil
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		addr, addrErr := netip.ParseAddr(text)
		if at = netip.AddrPortFrom(addr, https); addrErr != nil {
			r.fail(n, BadValue, text+" is no address", "write it like 10.20.1.17, 10.20.1.17:8443 or [fd00::17]:443")
			return netip.AddrPort{}, nil
		}
	}
	addr := at.Addr().Unmap()
	at = netip.AddrPortFrom(addr, at.Port())
	return at, &span{node: n, prefix: netip.PrefixFrom(addr.WithZone(""), addr.BitLen()), port: at.Port(), zone: addr.Zone()}
}

func (r *reader) limits(n *yaml.Node) (l catalogue.Limits) {
	r.fields(n, "limits",
		field{name: "nodes", read: func(n *yaml.Node) { l.Nodes = r.count(n, "nodes", 1, maxNodes) }},
		field{name: "requests", read: func(n *yaml.Node) { l.Requests = r.count(n, "requests", 1, maxRequests) }},
		field{name: "spool", read: func(n *yaml.Node) { l.Spool = r.bytes(n) }},
	)
	return l
}

// bytes reads a size: 512MiB, 2GiB.
func (r *reader) bytes(n *yaml.Node) int64 {
	if !r.plain(n) {
		return 0
	}
	for unit, size := range map[string]int64{"MiB": 1 << 20, "GiB": 1 << 30} {
		number, is := strings.CutSuffix(n.Value, unit)
		if !is || n.Kind != yaml.ScalarNode {
			continue
		}
		v, err := strconv.ParseInt(strings.TrimSpace(number), 10, 32)
		if err == nil && v*size >= leastSpool && v*size <= mostSpool {
			return v * size
		}
	}
	r.fail(n, BadValue, "a size is a whole number of MiB or GiB, from 16MiB to 1024GiB", "write it like 512MiB")
	return 0
}

func (r *reader) node(n *yaml.Node, names placed) (x catalogue.Node) {
	r.fields(n, "a node",
		field{name: "name", need: true, read: func(n *yaml.Node) {
			if r.name(n, "a node's name") && r.once(names, n, "node") {
				x.Name = fleet.NodeName(n.Value)
			}
		}},
		field{name: "labels", read: func(n *yaml.Node) { x.Labels = r.labels(n) }},
	)
	return x
}

func (r *reader) labels(n *yaml.Node) map[string]string {
	if !r.plain(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.fail(n, WrongType, "labels is a mapping, and this is "+kindOf(n), "write it like labels: {row: c, purpose: ai}")
		return nil
	}
	if len(n.Content)/2 > catalogue.MaxLabels {
		r.fail(n, TooMuch, fmt.Sprintf("it has %d labels, and may have %d", len(n.Content)/2, catalogue.MaxLabels), "")
		return nil
	}
	labels, seen := map[string]string{}, map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if key := n.Content[i]; r.key(key, seen) && r.name(key, "a label's name") {
			if value, ok := r.text(n.Content[i+1], "a label"); ok {
				labels[key.Value] = value
			}
		}
	}
	return labels
}

// label reads the name of a site or a rack: one DNS label in lower case, as a
// certificate has it (trust.ValidLabel).
func (r *reader) label(n *yaml.Node, what string) bool {
	text, ok := r.text(n, what)
	if !ok {
		return false
	}
	bad := strings.ContainsFunc(text, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' })
	if bad || len(text) > 63 || strings.Trim(text, "-") != text {
		r.fail(n, BadName, what+" is 1 to 63 lower-case letters, digits or '-', not at an end", "it is the one in the agents' certificates")
		return false
	}
	return true
}

// name reads another name (trust.ValidName).
func (r *reader) name(n *yaml.Node, what string) bool {
	text, ok := r.text(n, what)
	if !ok {
		return false
	}
	bad := strings.ContainsFunc(text, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.", c)
	})
	if bad || len(text) > 63 {
		r.fail(n, BadName, what+" is 1 to 63 letters, digits, '-', '_' or '.'", "")
		return false
	}
	return true
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}

// shown keeps a text from moving the cursor of who reads it.
func shown(c rune) rune {
	if unicode.IsPrint(c) {
		return c
	}
	return unicode.ReplacementChar
}
