package catalogue

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Parts are the parts of a catalogue as they are signed: that of all racks first, the
// others by name. Gone are racks that were in an earlier one: those that are no longer
// get a part that says so, because an agent does not take silence for an order.
func (c *Catalogue) Parts(gone []string) ([][]byte, error) {
	sites := make(map[fleet.SiteName]*Site, len(c.Sites))
	for i := range c.Sites {
		sites[c.Sites[i].Name] = &c.Sites[i]
	}
	racks := map[fleet.RackName]Part{"": {Groups: c.Groups}}
	for _, name := range gone {
		racks[fleet.RackName(name)] = Part{Name: fleet.RackName(name), Removed: true}
	}
	racks[""] = Part{Groups: c.Groups}
	for i := range c.Racks {
		r := &c.Racks[i]
		racks[r.Name] = Part{Name: r.Name, Rack: r, Site: sites[r.Site]}
	}
	out := make([][]byte, 0, len(racks))
	for _, name := range slices.Sorted(maps.Keys(racks)) {
		text, err := json.Marshal(racks[name])
		if err != nil {
			return nil, fault.Wrap(fault.Internal, "write the catalogue's parts", err)
		}
		if len(text) > maxPart {
			return nil, fault.New(fault.TooLarge, "write the catalogue's parts", fmt.Sprintf("that of rack %q has more than %d KiB", name, maxPart>>10))
		}
		out = append(out, text)
	}
	return out, nil
}

// ReadPart reads a part. What a later version may have written there is an error.
func ReadPart(text []byte) (*Part, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	p := &Part{}
	if err := d.Decode(p); err != nil {
		return nil, fault.New(fault.Garbage, "read a part of the catalogue", err.Error()).
			WithHint("run the same build of chiba everywhere")
	}
	return p, nil
}

// Tree is the Merkle tree (RFC 6962) whose leaves are parts. It does not change.
type Tree struct {
	size   int64
	hashes []tlog.Hash // in the order of tlog's storage
}

// ReadHashes implements tlog.HashReader.
func (t *Tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		if at < 0 || at >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("there is no hash %d", at)
		}
		out[i] = t.hashes[at]
	}
	return out, nil
}

// NewTree is the tree of parts.
func NewTree(parts [][]byte) (*Tree, error) {
	t := &Tree{}
	for _, p := range parts {
		fresh, err := tlog.StoredHashes(t.size, p, t)
		if err != nil {
			return nil, fault.Wrap(fault.Internal, "hash the catalogue's parts", err)
		}
		t.size, t.hashes = t.size+1, append(t.hashes, fresh...)
	}
	return t, nil
}

// Root is how many parts there are and the hash over all of them: what an order for a
// catalogue signs.
func (t *Tree) Root() (string, error) {
	hash, err := tlog.TreeHash(t.size, t)
	return fmt.Sprintf("%d %s", t.size, hash), fault.Wrap(fault.Internal, "hash the catalogue's parts", err)
}

// Prove proves that the part of that index is one of those that the Root is of.
func (t *Tree) Prove(index int) ([][]byte, error) {
	proof, err := tlog.ProveRecord(t.size, int64(index), t)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "prove a part of the catalogue", err)
	}
	out := make([][]byte, len(proof))
	for i, h := range proof {
		out[i] = h[:]
	}
	return out, nil
}

// Check verifies that a part is that of the index among those that a signed root is
// of. The error is of kind Untrusted.
func Check(root string, part []byte, index int64, proof [][]byte) error {
	const op = "verify a part of the catalogue"
	var size int64
	var text string
	if _, err := fmt.Sscanf(root, "%d %s", &size, &text); err != nil {
		return fault.New(fault.Untrusted, op, "what was signed is no catalogue")
	}
	head, err := tlog.ParseHash(text)
	if err != nil || index < 0 || index >= size {
		return fault.New(fault.Untrusted, op, "what was signed is no catalogue, or has no such part")
	}
	hashes := make(tlog.RecordProof, len(proof))
	for i, h := range proof {
		if len(h) != tlog.HashSize {
			return fault.New(fault.Untrusted, op, "its proof is none")
		}
		hashes[i] = tlog.Hash(h)
	}
	if tlog.CheckRecord(hashes, size, head, index, tlog.RecordHash(part)) != nil {
		return fault.New(fault.Untrusted, op, "it is not what was signed")
	}
	return nil
}
