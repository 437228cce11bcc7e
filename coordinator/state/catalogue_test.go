package state_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// putCatalogue is a catalogue of some racks of site osl1, as that version, compared
// with another; gone are racks that were in an earlier one.
func putCatalogue(version, from uint64, gone []string, racks ...string) *pb.Command {
	c := &catalogue.Catalogue{Sites: []catalogue.Site{{Name: "osl1", Labels: map[string]string{"region": "north"}}}}
	for _, r := range racks {
		c.Racks = append(c.Racks, catalogue.Rack{Name: fleet.RackName(r), Site: "osl1", Labels: map[string]string{"row": "c"}})
	}
	parts, err := c.Parts(gone)
	if err != nil {
		panic(err)
	}
	return &pb.Command{By: "ada", Body: &pb.Command_PutCatalogue{PutCatalogue: &pb.PutCatalogue{From: from, Catalogue: &pb.Catalogue{
		File: "site.yaml", Source: []byte("the text"), Digest: "d", Version: version, Envelope: fmt.Append(nil, "signed ", version), Parts: parts, By: "ada",
	}}}}
}

// nodesAre the nodes as "n1 in site with label row", by name.
func nodesAre(m interface{ Nodes() []*pb.Node }) string {
	var all []string
	for _, n := range m.Nodes() {
		all = append(all, fmt.Sprintf("%s %s %q", n.GetName(), n.GetSite(), n.GetLabels()["row"]+n.GetLabels()["region"]))
	}
	return strings.Join(all, ", ")
}

func TestTheCatalogueIsKept(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	l.must(putAgent("a2", "r2"))
	l.must(batch("a1", "r1", 1, node("n1", "b1")))
	l.must(batch("a2", "r2", 1, node("n2", "b2")))
	equal(t, "before", nodesAre(l), `n1 s1 "", n2 s1 ""`)
	equal(t, "no catalogue is told", l.Desired("r1").GetCatalogue() == nil, true)

	revision := l.Counts().Revision
	o := l.must(putCatalogue(10, 0, nil, "r1"))
	equal(t, "racks to wake", o.Racks, []string{"r1", "r2"})
	equal(t, "revision", []uint64{o.Revision, o.Catalogue.GetRevision()}, []uint64{revision + 1, revision + 1})
	equal(t, "nodes", nodesAre(l), `n1 osl1 "cnorth", n2 s1 ""`)
	for rack, parts := range map[string]int{"r1": 2, "r2": 1} {
		told := l.Desired(rack).GetCatalogue()
		got := []*pb.CataloguePart{told.GetAll()}
		if told.GetRack() != nil {
			got = append(got, told.GetRack())
		}
		equal(t, "parts for "+rack, len(got), parts)
		tree, err := catalogue.NewTree(l.Catalogue().Message().GetParts())
		if err != nil {
			t.Fatal(err)
		}
		root, err := tree.Root()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range got {
			if err := catalogue.Check(root, p.GetText(), p.GetIndex(), p.GetProof()); err != nil {
				t.Errorf("%s: %v", rack, err)
			}
		}
	}

	equal(t, "the same again", l.must(putCatalogue(10, 0, nil, "r1")).Again, true)
	refusedAs(t, l.try(putCatalogue(11, 9, nil, "r2")), fault.Conflict, "version 10 by ada came in between")
	refusedAs(t, l.try(putCatalogue(9, 10, nil, "r2")), fault.Conflict, "version 10 by ada came in between")
	bad := putCatalogue(11, 10, nil, "r2")
	bad.GetPutCatalogue().GetCatalogue().Parts[1] = []byte(`{"owner": "ada"}`)
	refusedAs(t, l.try(bad), fault.Garbage, "owner")
	big := putCatalogue(11, 10, nil, "r2")
	big.GetPutCatalogue().GetCatalogue().Source = make([]byte, 17<<20)
	refusedAs(t, l.try(big), fault.TooLarge, "more than 16 MiB")
	equal(t, "after what was refused", nodesAre(l), `n1 osl1 "cnorth", n2 s1 ""`)

	l.must(putCatalogue(11, 10, []string{"r1"}, "r2"))
	equal(t, "nodes of another one", nodesAre(l), `n1 s1 "", n2 osl1 "cnorth"`)
	racks, sites, parts := l.Catalogue().Names()
	equal(t, "names", [][]string{racks, sites, parts}, [][]string{{"r2"}, {"osl1"}, {"r1", "r2"}})

	restored := state.New()
	if err := restored.Restore(l.Snapshot()); err != nil {
		t.Fatal(err)
	}
	equal(t, "nodes after a restart", nodesAre(restored), nodesAre(l))
	equal(t, "what r1 is told after a restart", restored.Desired("r1").GetCatalogue().String(), l.Desired("r1").GetCatalogue().String())
	spoiled := l.Snapshot()
	spoiled.Catalogue = &pb.Catalogue{Parts: [][]byte{[]byte("x")}}
	if err := restored.Restore(spoiled); err == nil {
		t.Error("a snapshot with a catalogue that can't be read is restored")
	}
	audit := string(l.Audit(0, 1000)[len(l.Audit(0, 1000))-1])
	if !strings.Contains(audit, `"by":"operator ada"`) || !strings.Contains(audit, "the site catalogue") {
		t.Errorf("the audit log has %s", audit)
	}
}

// A snapshot of a later build may hold what this one would forget: then it is not
// restored.
func TestASnapshotOfALaterBuildIsNotRestored(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a1", "r1"))
	s := l.Snapshot()
	s.ProtoReflect().SetUnknown([]byte{0xc2, 0xbb, 0x01, 0x01, 'x'}) // field 3000
	other := state.New()
	refusedAs(t, state.Outcome{Err: other.Restore(s)}, fault.Unsupported, "does not know")
	equal(t, "agents", len(other.Agents()), 0)
}

func TestAnEmptyCatalogueSaysNothing(t *testing.T) {
	var none *state.Book
	racks, sites, parts := none.Names()
	equal(t, "names", len(racks)+len(sites)+len(parts), 0)
	equal(t, "groups", len(none.Groups()), 0)
	equal(t, "message", none.Message() == nil, true)
	equal(t, "part", none.Part("r1") == nil, true)
}
