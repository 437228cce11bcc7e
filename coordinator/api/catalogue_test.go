package api_test

import (
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/catalogue/source"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const oneRack = `
sites: [{name: osl1, labels: {region: north}}]
racks: [{name: r1, site: osl1, labels: {row: c}}]
groups: [{name: web, members: ["n1", '(where (= node.label.row "d"))']}]
`

// signed is a catalogue as an author sends it, changed by edit before it is signed.
func (w *world) signed(text string, from uint64, gone []string, edit ...func(*order.Order)) *pb.PutCatalogueRequest {
	w.t.Helper()
	o := w.authors.Order(order.Catalogue, catalogue.Name, "")
	o.Digest, o.Parts = order.Digest([]byte(text)), "1 -"
	if c, found := source.Read("site.yaml", []byte(text)); len(found) == 0 {
		parts, err := c.Parts(gone)
		if err != nil {
			w.t.Fatal(err)
		}
		tree, err := catalogue.NewTree(parts)
		if err != nil {
			w.t.Fatal(err)
		}
		if o.Parts, err = tree.Root(); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, e := range edit {
		e(&o)
	}
	return &pb.PutCatalogueRequest{File: "/home/ada/site.yaml", Source: []byte(text), Envelope: w.authors.Sign(o), From: from}
}

func (w *world) putCatalogue(q *pb.PutCatalogueRequest) (*pb.Catalogue, error) {
	answer, err := w.fleet.PutCatalogue(w.t.Context(), connect.NewRequest(q))
	if err != nil {
		return nil, err
	}
	return answer.Msg.GetCatalogue(), nil
}

func TestPutCatalogue(t *testing.T) {
	w := newWorld(t)
	kept, err := w.putCatalogue(w.signed(oneRack, 0, nil))
	if err != nil || kept.GetBy() != "ada" || kept.GetFile() != "site.yaml" || len(kept.GetSource()) > 0 {
		t.Fatalf("%+v, %v", kept, err)
	}
	got, err := w.fleet.GetCatalogue(t.Context(), connect.NewRequest(&pb.GetCatalogueRequest{}))
	if c := got.Msg.GetCatalogue(); err != nil || string(c.GetSource()) != oneRack || len(c.GetParts()) != 2 || c.GetVersion() != kept.GetVersion() {
		t.Errorf("%+v, %v", c, err)
	}
	for script, want := range map[string][]string{
		`(action (site "osl1") (set-indicator on))`:                         {"r1"},
		`(action (group "web") (set-indicator on))`:                         {"r1", "r2"}, // nobody has said in which row those of r2 are
		`(action (and (rack "r1") (group "web")) (set-indicator on))`:       {"r1"},
		`(action (where (= node.label.region "north")) (set-indicator on))`: {"r1", "r2"},
	} {
		p, err := w.fleet.Prepare(t.Context(), connect.NewRequest(&pb.PrepareRequest{File: "s.scl", Source: []byte(script)}))
		if err != nil {
			t.Fatal(err)
		}
		var racks []string
		for _, r := range p.Msg.GetRacks() {
			racks = append(racks, r.GetRack())
		}
		if !slices.Equal(racks, want) {
			t.Errorf("%s concerns %v: %s", script, racks, p.Msg.GetDiagnostics().GetText())
		}
	}
}

// A catalogue that is wrong, or not what was signed, changes nothing.
func TestPutCatalogueRefuses(t *testing.T) {
	w := newWorld(t)
	first, err := w.putCatalogue(w.signed(oneRack, 0, nil))
	if err != nil {
		t.Fatal(err)
	}
	two := strings.Replace(oneRack, "osl1, labels: {row: c}", "osl1, labels: {row: d}", 1)
	other := w.signed(two, first.GetVersion(), []string{"r1"})
	other.Source = []byte(oneRack + "\n")
	for what, c := range map[string]struct {
		why string
		q   *pb.PutCatalogueRequest
	}{
		"a rack of no site":     {"there is no site osl2", w.signed(strings.Replace(oneRack, "site: osl1", "site: osl2", 1), first.GetVersion(), []string{"r1"})},
		"compared with another": {"came in between", w.signed(two, 0, []string{"r1"})},
		"other bytes":           {"not the one that was signed", other},
		"other parts":           {"its parts are others", w.signed(two, first.GetVersion(), []string{"r7"})},
		"no signature":          {"it is not signed", &pb.PutCatalogueRequest{Source: []byte(two), From: first.GetVersion()}},
		"an order for a script": {"the script is not the one that was signed", &pb.PutCatalogueRequest{Source: []byte(oneRack), Envelope: w.authors.Apply("s", `(show all)`).GetEnvelope(), From: first.GetVersion()}},
		"another name":          {"not the one that was signed", w.signed(two, first.GetVersion(), []string{"r1"}, func(o *order.Order) { o.Name = "other" })},
	} {
		if _, err := w.putCatalogue(c.q); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want an error with %q", what, err, c.why)
		}
	}
	if got := w.machine.Catalogue().Message().GetVersion(); got != first.GetVersion() {
		t.Errorf("version %d is in force", got)
	}
	if _, err := w.putCatalogue(w.signed(two, first.GetVersion(), []string{"r1"})); err != nil {
		t.Errorf("one that is right: %v", err)
	}
}
