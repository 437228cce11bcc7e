package scl

import (
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// TargetKind is the operation of a Target.
type TargetKind uint8

// The kinds of target.
const (
	TargetAll    TargetKind = iota + 1
	TargetName              // Name is one node's name, ranges already expanded
	TargetGlob              // Name is a glob over node names
	TargetGroup             // Name is a group
	TargetRack              // Name is a rack, or a glob over racks
	TargetSite              // Name is a site, or a glob over sites
	TargetWhere             // Where holds
	TargetAnd               // all of Of
	TargetOr                // any of Of
	TargetExcept            // Of[0] without the rest
)

// Target selects nodes.
type Target struct {
	Kind  TargetKind
	Name  string
	Where *Condition
	Of    []Target
	Text  string // canonical text
	Span  syntax.Span
}

// Subject is a node as far as a target can ask about it.
type Subject struct {
	Node fleet.Node
	// Group tells the members of a group; nil or ok == false: no such group.
	Group func(name string) (members Target, ok bool)
	// Slot reads an element for TargetWhere; nil means nothing is known.
	Slot func(Ref) Slot
}
