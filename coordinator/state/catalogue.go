package state

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Book is a site catalogue in force, ready to be asked. It does not change. A nil Book
// is empty.
type Book struct {
	msg   *pb.Catalogue
	tree  *catalogue.Tree
	parts map[string]*catalogue.Part // by rack; that of all under ""
	index map[string]int
}

// putCatalogue replaces the site catalogue. Its order was verified before it came into
// the log, and is verified again at each rack.
func (m *Machine) putCatalogue(at int64, c *pb.PutCatalogue) Outcome {
	const op = "put the site catalogue into force"
	next, known := c.GetCatalogue(), m.book.Message()
	switch {
	case known.GetVersion() != 0 && bytes.Equal(next.GetEnvelope(), known.GetEnvelope()):
		return Outcome{Again: true, Catalogue: known}
	case len(next.GetEnvelope()) > maxEnvelope || proto.Size(next) > maxCatalogue:
		return refused(fault.TooLarge, op, fmt.Sprintf("with its parts it has more than %d MiB", maxCatalogue>>20))
	case c.GetFrom() != known.GetVersion() || next.GetVersion() <= known.GetVersion():
		return Outcome{Err: fault.New(fault.Conflict, op, fmt.Sprintf("version %d by %s came in between", known.GetVersion(), known.GetBy())).
			WithHint("look at it with: chiba catalogue show, then apply yours again")}
	}
	kept := shallow(next)
	kept.AtUnixMs, kept.Revision = at, m.revision+1
	book, err := open(kept)
	if err != nil {
		return Outcome{Err: err}
	}
	m.book = book
	m.revision++
	return Outcome{Catalogue: kept, Racks: m.racks()}
}

// open reads the parts of a catalogue.
func open(c *pb.Catalogue) (*Book, error) {
	tree, err := catalogue.NewTree(c.GetParts())
	if err != nil {
		return nil, err
	}
	b := &Book{msg: c, tree: tree, parts: make(map[string]*catalogue.Part), index: make(map[string]int)}
	for i, text := range c.GetParts() {
		p, err := catalogue.ReadPart(text)
		if err != nil {
			return nil, err
		}
		b.parts[string(p.Name)], b.index[string(p.Name)] = p, i
	}
	return b, nil
}

func (m *Machine) restoreCatalogue(c *pb.Catalogue) (err error) {
	if c != nil {
		m.book, err = open(c)
	}
	return err
}

// Catalogue is the site catalogue in force; nil: there is none.
func (m *Machine) Catalogue() *Book {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.book
}

// Message is the catalogue as it is kept; nil: there is none. It is shared.
func (b *Book) Message() *pb.Catalogue {
	if b == nil {
		return nil
	}
	return b.msg
}

// Part is what is said of a rack; nil if nothing is.
func (b *Book) Part(rack string) *catalogue.Part {
	if b == nil {
		return nil
	}
	return b.parts[rack]
}

// Names are the racks and the sites that stand in it, and all racks of which it has a
// part, those that are no longer there too. Sorted.
func (b *Book) Names() (racks, sites, parts []string) {
	if b == nil {
		return nil, nil, nil
	}
	for _, name := range slices.Sorted(maps.Keys(b.parts)) {
		p := b.parts[name]
		if name != "" {
			parts = append(parts, name)
		}
		if p.Listed() {
			racks, sites = append(racks, name), append(sites, string(p.Site.Name))
		}
	}
	slices.Sort(sites)
	return racks, slices.Compact(sites), parts
}

// Groups are those that it makes.
func (b *Book) Groups() []catalogue.Group {
	if p := b.Part(""); p != nil {
		return p.Groups
	}
	return nil
}

// over lays what is said of nodes over what their agents tell.
func (b *Book) over(nodes []*pb.Node) []*pb.Node {
	if b == nil {
		return nodes
	}
	for i, n := range nodes {
		p := b.parts[n.GetRack()]
		if !p.Listed() {
			continue
		}
		fresh := shallow(n)
		fresh.Site, fresh.Labels = string(p.Site.Name), p.Labels(fleet.NodeName(n.GetName()), n.GetLabels())
		nodes[i] = fresh
	}
	return nodes
}

// of is what a rack gets of it; nil: there is none.
func (b *Book) of(rack string) *pb.RackCatalogue {
	if b == nil {
		return nil
	}
	return &pb.RackCatalogue{
		Version: b.msg.GetVersion(), Envelope: b.msg.GetEnvelope(), All: b.proven(""), Rack: b.proven(rack),
	}
}

// proven is a part with its proof; nil if there is none.
func (b *Book) proven(rack string) *pb.CataloguePart {
	i, has := b.index[rack]
	if !has {
		return nil
	}
	proof, err := b.tree.Prove(i)
	if err != nil { // the index is one of the tree's
		return nil
	}
	return &pb.CataloguePart{Text: b.msg.GetParts()[i], Index: int64(i), Proof: proof}
}
