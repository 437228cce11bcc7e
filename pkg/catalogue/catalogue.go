// Package catalogue is what an operator writes down of a data centre and keeps in
// git: sites, racks with their BMC networks and limits, labels and groups, in one
// YAML file, which package source reads.
//
// Who signs a catalogue signs its parts: one for each rack, and one for all. An agent
// gets its own with a proof that it belongs to what was signed, so that a coordinator
// can hold a part back, and can't make one. What a part says of nodes is laid over
// what their agent tells (Part.Over), in the same way at the rack and at the
// coordinators.
//
// The package is pure: it decides, and reads and sends nothing.
package catalogue

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Name is that of the order which puts a catalogue into force: a cluster has one.
const Name = "catalogue"

// The limits of a catalogue.
const (
	MaxSource = 4 << 20 // bytes
	MaxSites  = 10_000
	MaxRacks  = 25_000
	MaxGroups = 1_000
	MaxLabels = 64 // of one thing
	maxPart   = 256 << 10
	MaxText   = 253 // bytes of a name, a label, an address
)

// Catalogue is a whole one. Names are unique among their kind; lists are in the order
// of the file.
type Catalogue struct {
	Sites  []Site
	Racks  []Rack
	Groups []Group
}

// Site is racks behind one WAN link.
type Site struct {
	Name    fleet.SiteName    `json:"name"`
	Address string            `json:"address,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	WAN     WAN               `json:"wan,omitzero"`
}

// WAN is how much of the link of a site is ours.
type WAN struct {
	// Connections over which an agent fetches an artifact from far; 0: as many as it
	// finds best.
	Connections int `json:"connections,omitempty"`
}

// Rack is what one agent, or an active one with its standby, serves.
type Rack struct {
	Name     fleet.RackName    `json:"name"`
	Site     fleet.SiteName    `json:"site"`
	Position string            `json:"position,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Standby  fleet.AgentName   `json:"standby,omitempty"` // the agent that stands by; "": there is none
	// Networks are where the rack's BMCs are; none: wherever they are heard.
	Networks []Network        `json:"networks,omitempty"`
	BMCs     []netip.AddrPort `json:"bmcs,omitempty"` // where to look in any case
	Limits   Limits           `json:"limits,omitzero"`
	Nodes    []Node           `json:"nodes,omitempty"`
}

// Network is a BMC network.
type Network struct {
	CIDR      netip.Prefix `json:"cidr"`
	Interface string       `json:"interface,omitempty"` // of the agent's machine, to be browsed; "": any
	Scan      bool         `json:"scan,omitempty"`      // look at each address
}

// Limits are how much an agent does at once; 0: as much as it finds best.
type Limits struct {
	Nodes    int   `json:"nodes,omitempty"`    // worked on at once
	Requests int   `json:"requests,omitempty"` // read from one BMC at once
	Spool    int64 `json:"spool,omitempty"`    // bytes kept for the coordinators
}

// Node is what is said of one server.
type Node struct {
	Name   fleet.NodeName    `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
}

// Group is a selection with a name.
type Group struct {
	Name    string   `json:"name"`
	Members []string `json:"members"` // each a target in SCL; one that begins with no bracket is a name
}

// Part is what is said of one rack, or of all.
type Part struct {
	Name    fleet.RackName `json:"name,omitempty"`    // "": of all
	Removed bool           `json:"removed,omitempty"` // it was in an earlier one, and is no longer
	Site    *Site          `json:"site,omitempty"`
	Rack    *Rack          `json:"rack,omitempty"`
	Groups  []Group        `json:"groups,omitempty"` // of all
}

// Over lays what is said over what the agent of the rack tells of a node: the site,
// and the labels. The closest to the node counts: what is said of it here, what its
// agent was told, the rack, the site. A nil Part says nothing.
func (p *Part) Over(n fleet.Node) fleet.Node {
	if p.Listed() {
		n.Site, n.Labels = p.Site.Name, p.Labels(n.Name, n.Labels)
	}
	return n
}

// Listed reports whether the rack stands in the catalogue.
func (p *Part) Listed() bool { return p != nil && p.Rack != nil && p.Site != nil }

// Labels are those of a node of the rack whose agent was told some. They are the
// caller's own.
func (p *Part) Labels(node fleet.NodeName, told map[string]string) map[string]string {
	labels := make(map[string]string, len(told)+len(p.Rack.Labels)+len(p.Site.Labels))
	maps.Copy(labels, p.Site.Labels)
	maps.Copy(labels, p.Rack.Labels)
	maps.Copy(labels, told)
	if i := slices.IndexFunc(p.Rack.Nodes, func(x Node) bool { return x.Name == node }); i >= 0 {
		maps.Copy(labels, p.Rack.Nodes[i].Labels)
	}
	if len(labels) == 0 {
		return nil
	}
	return labels
}

// Limit is how many of something are done at once: the usual number, or the one that
// is said, if it is less. More than usual is nobody's to say from far.
func Limit(usual, said int) int {
	if said > 0 && said < usual {
		return said
	}
	return usual
}

// May reports whether a BMC of the rack may be at an address: in one of its networks,
// at one of its BMCs, or on the link of the agent itself. Where no network is said it
// may be anywhere.
func (p *Part) May(at netip.AddrPort) bool {
	if p == nil || p.Rack == nil || len(p.Rack.Networks) == 0 {
		return true
	}
	addr := at.Addr().Unmap()
	return addr.IsLinkLocalUnicast() ||
		slices.ContainsFunc(p.Rack.Networks, func(n Network) bool { return n.CIDR.Contains(addr.WithZone("")) }) ||
		slices.Contains(p.Rack.BMCs, netip.AddrPortFrom(addr, at.Port()))
}
