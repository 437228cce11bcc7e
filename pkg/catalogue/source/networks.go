package source

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"go.yaml.in/yaml/v3"
)

// span is a network, or the one address of a BMC.
type span struct {
	node   *yaml.Node
	rack   string
	prefix netip.Prefix
	port   uint16 // of a BMC; 0: a network
	zone   string
}

func (s *span) String() string {
	if s.port == 0 {
		return s.prefix.String()
	}
	return netip.AddrPortFrom(s.prefix.Addr().WithZone(s.zone), s.port).String()
}

// networks are those of all racks.
type networks struct {
	*reader
	all []*span
}

// compare tells which of them have addresses in common. Sorted by their beginning, the
// larger first, each is in those whose end has not come: prefixes nest or are apart.
func (w *networks) compare() {
	slices.SortStableFunc(w.all, func(a, b *span) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()), cmp.Compare(min(a.port, 1), min(b.port, 1)))
	})
	var around []*span // networks
	bmcs := map[string]*span{}
	for _, s := range w.all {
		for len(around) > 0 && !around[len(around)-1].prefix.Contains(s.prefix.Addr()) {
			around = around[:len(around)-1]
		}
		for _, outer := range slices.Backward(around) {
			if w.clash(outer, s) {
				break // one is enough to mend it
			}
		}
		if s.port == 0 {
			around = append(around, s)
			continue
		}
		if first := bmcs[s.String()]; first != nil {
			w.fail(s.node, Overlap, fmt.Sprintf("the BMC at %s is there twice", s), fmt.Sprintf("the first is on line %d", first.node.Line))
			continue
		}
		bmcs[s.String()] = s
	}
}

// clash tells of a network that has addresses of another, or the BMC of another rack.
func (w *networks) clash(around, s *span) bool {
	if s.port == 0 {
		first, second := around, s
		if second.node.Line < first.node.Line {
			first, second = s, around
		}
		w.fail(second.node, Overlap, fmt.Sprintf("%s overlaps %s of rack %s", second, first, first.rack), fmt.Sprintf("the other is on line %d", first.node.Line))
		return true
	}
	if around.rack == s.rack || s.zone != "" {
		return false
	}
	w.fail(s.node, Overlap, fmt.Sprintf("%s is in the network %s of rack %s", s, around, around.rack), fmt.Sprintf("that network is on line %d", around.node.Line))
	return true
}
