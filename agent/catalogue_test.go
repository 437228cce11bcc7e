package agent

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// signedCatalogue is a catalogue of r1 and r2 that an author has signed.
type signedCatalogue struct {
	parts [][]byte
	tree  *catalogue.Tree
	order order.Order
}

func twoRacks(labels map[string]string) *catalogue.Catalogue {
	return &catalogue.Catalogue{
		Sites: []catalogue.Site{{Name: "osl1", Labels: map[string]string{"region": "north"}, WAN: catalogue.WAN{Connections: 2}}},
		Racks: []catalogue.Rack{
			{Name: "r1", Site: "osl1", Labels: labels, Limits: catalogue.Limits{Nodes: 2, Requests: 3, Spool: 32 << 20}},
			{Name: "r2", Site: "osl1", Labels: map[string]string{"row": "z"}},
		},
		Groups: []catalogue.Group{{Name: "web", Members: []string{"n2", `(where (= node.label.row "c"))`}}},
	}
}

func (w *world) catalogue(c *catalogue.Catalogue, gone ...string) *signedCatalogue {
	w.t.Helper()
	parts, err := c.Parts(gone)
	if err != nil {
		w.t.Fatal(err)
	}
	tree, err := catalogue.NewTree(parts)
	if err != nil {
		w.t.Fatal(err)
	}
	root, err := tree.Root()
	if err != nil {
		w.t.Fatal(err)
	}
	o := w.authors.Order(order.Catalogue, catalogue.Name, "")
	o.Digest, o.Parts = order.Digest([]byte("the text")), root
	return &signedCatalogue{parts, tree, o}
}

func (s *signedCatalogue) part(t *testing.T, i int) *pb.CataloguePart {
	t.Helper()
	proof, err := s.tree.Prove(i)
	if err != nil {
		t.Fatal(err)
	}
	return &pb.CataloguePart{Text: s.parts[i], Index: int64(i), Proof: proof}
}

// told is what a coordinator tells the rack of that index.
func (s *signedCatalogue) told(w *world, rack int) *pb.RackCatalogue {
	c := &pb.RackCatalogue{Version: s.order.Version, Envelope: w.authors.Sign(s.order), All: s.part(w.t, 0)}
	if rack > 0 {
		c.Rack = s.part(w.t, rack)
	}
	return c
}

// selects are the nodes that a target selects on the rack now.
func (w *world) selects(target string) string {
	w.t.Helper()
	var got []string
	program, diags := programOf("t.scl", []byte(`(show `+target+`)`), "t")
	if program == nil {
		w.t.Fatal(diags)
	}
	c := w.agent.chooser(program)
	for _, n := range w.agent.rack.members() {
		if c.match(program.Steps[0].Target, n).String() == "true" {
			got = append(got, string(n.entry.Name))
		}
	}
	return strings.Join(got, " ")
}

// The rack's part is used for what is selected, how much is done at once and where is
// looked; it outlives the process, and a rack that is taken out goes on without it.
func TestTheCatalogueIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Nodes[0].Labels = map[string]string{"row": "b"}
		w.start(w.dir)
		if got := w.selects(`(site "osl1")`) + w.selects(`(group "web")`); got != "" || w.agent.CatalogueVersion() != 0 {
			t.Errorf("before there is one: %q", got)
		}
		first := w.catalogue(twoRacks(map[string]string{"row": "c"}))
		w.desire(&pb.Desired{Revision: 1, Catalogue: first.told(w, 1)})
		check := func(when string) {
			t.Helper()
			for target, want := range map[string]string{
				`(site "osl1")`: "n1 n2 n3", `(where (= node.label.region "north"))`: "n1 n2 n3",
				`(where (= node.label.row "b"))`: "n1", `(group "web")`: "n2 n3", // n1 says row b of itself
			} {
				if got := w.selects(target); got != want {
					t.Errorf("%s %s selects %q, want %q", when, target, got, want)
				}
			}
			if l := w.agent.listing.limits(); w.agent.atOnce() != 2 || l.Requests != 3 || w.agent.streams(4) != 2 || w.agent.CatalogueVersion() != first.order.Version {
				t.Errorf("%s: %d at once, %+v, %d connections, version %d", when, w.agent.atOnce(), l, w.agent.streams(4), w.agent.CatalogueVersion())
			}
		}
		check("told:")
		if got := w.nodes(); strings.Contains(strings.Join(got, " "), "north") {
			t.Errorf("what the catalogue says is told as the agent's own: %q", got)
		}
		w.stop()
		w.start(w.dir)
		check("in the next process:")
		w.desire(&pb.Desired{Revision: 2}) // a coordinator that tells of none
		check("not told of any longer:")

		out := w.catalogue(&catalogue.Catalogue{}, "r1", "r2")
		w.desire(&pb.Desired{Revision: 3, Catalogue: out.told(w, 1)})
		if got := w.selects(`(site "osl1")`) + w.selects(`(group "web")`); got != "" {
			t.Errorf("after the rack was taken out: %q", got)
		}
		if got := w.selects(`(site "s1")`); got != "n1 n2 n3" || w.agent.atOnce() != atOnce {
			t.Errorf("after the rack was taken out: %q, %d at once", got, w.agent.atOnce())
		}
		defer w.stop()
	})
}

// A coordinator in bad hands tells what it likes of the catalogue. None of it counts,
// and each is recorded with its reason.
func TestThreat32CatalogueFromABadCoordinator(t *testing.T) {
	for name, c := range map[string]struct {
		why  string
		tell func(w *world, known *signedCatalogue) *pb.RackCatalogue
	}{
		"unsigned": {"it is not signed", func(w *world, _ *signedCatalogue) *pb.RackCatalogue {
			told := w.catalogue(twoRacks(nil)).told(w, 1)
			told.Envelope = nil
			return told
		}},
		"signed by nobody we know": {"signed by nobody who may", func(w *world, _ *signedCatalogue) *pb.RackCatalogue {
			s := w.catalogue(twoRacks(nil))
			told := s.told(w, 1)
			told.Envelope = signed(s.order, w.authors.RootKey)
			return told
		}},
		"an older one": {"not newer than version", func(w *world, known *signedCatalogue) *pb.RackCatalogue {
			s := w.catalogue(twoRacks(nil))
			s.order.Version = known.order.Version - 1
			return s.told(w, 1)
		}},
		"another one of the same version": {"not newer than version", func(w *world, known *signedCatalogue) *pb.RackCatalogue {
			s := w.catalogue(twoRacks(nil))
			s.order.Version = known.order.Version
			told := s.told(w, 1)
			told.Version++
			return told
		}},
		"the part of another rack": {"it is that of another rack", func(w *world, _ *signedCatalogue) *pb.RackCatalogue {
			return w.catalogue(twoRacks(nil)).told(w, 2)
		}},
		"a changed part": {"not what was signed", func(w *world, _ *signedCatalogue) *pb.RackCatalogue {
			told := w.catalogue(twoRacks(map[string]string{"row": "c"})).told(w, 1)
			told.Rack.Text = []byte(strings.Replace(string(told.GetRack().GetText()), `"c"`, `"d"`, 1))
			return told
		}},
		"changed groups": {"not what was signed", func(w *world, _ *signedCatalogue) *pb.RackCatalogue {
			told := w.catalogue(twoRacks(nil)).told(w, 1)
			told.All.Text = []byte(strings.Replace(string(told.GetAll().GetText()), "n2", "n1", 1))
			return told
		}},
		"a part of an earlier one": {"not what was signed", func(w *world, known *signedCatalogue) *pb.RackCatalogue {
			told := w.catalogue(twoRacks(nil)).told(w, 1)
			told.Rack = known.part(w.t, 1)
			return told
		}},
		"silence about the rack": {"it says nothing of this rack", func(w *world, _ *signedCatalogue) *pb.RackCatalogue {
			return w.catalogue(twoRacks(nil)).told(w, 0)
		}},
		"an order for something else": {"the order is to", func(w *world, _ *signedCatalogue) *pb.RackCatalogue {
			s := w.catalogue(twoRacks(nil))
			s.order = w.authors.Order(order.Remove, catalogue.Name, "")
			return s.told(w, 1)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.start(w.dir)
				defer w.stop()
				w.authors.Next() // so that there is room for an older one
				known := w.catalogue(twoRacks(map[string]string{"row": "known"}))
				w.desire(&pb.Desired{Revision: 1, Catalogue: known.told(w, 1)})
				for range 2 { // a coordinator that repeats itself is recorded once
					w.desire(&pb.Desired{Revision: 2, Catalogue: c.tell(w, known)})
				}
				if got := w.selects(`(where (= node.label.row "known"))`); got != "n1 n2 n3" || w.agent.CatalogueVersion() != known.order.Version {
					t.Errorf("in force is version %d, which selects %q", w.agent.CatalogueVersion(), got)
				}
				if got := strings.Join(w.records(), "\n"); !strings.Contains(got, "refused") || !strings.Contains(got, c.why) {
					t.Errorf("recorded: %s\nwant a refusal for: %s", got, c.why)
				}
			})
		})
	}
}

// A policy of authors that no longer has who signed it ends the catalogue.
func TestACatalogueEndsWithItsAuthor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		w.desire(&pb.Desired{Revision: 1, Catalogue: w.catalogue(twoRacks(nil)).told(w, 1)})
		p := w.authors.Policy(2, 1)
		p.Keys.Authors = p.Authors[1:] // bob alone
		next, err := p.Sign(w.authors.RootKey)
		if err != nil {
			t.Fatal(err)
		}
		w.told(&pb.Desired{Revision: 2, Policy: next})
		if got := w.selects(`(site "osl1")`); got != "" || w.agent.CatalogueVersion() != 0 {
			t.Errorf("version %d is in force and selects %q", w.agent.CatalogueVersion(), got)
		}
	})
}

// What is heard of outside the networks of the rack is left alone; what is listed is
// looked at, and something else as soon as something else is said.
func TestBMCsAreLookedForWhereTheCatalogueSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		c := twoRacks(nil)
		c.Racks[0].Networks = []catalogue.Network{{CIDR: netip.MustParsePrefix("10.0.0.8/30"), Scan: true}}
		c.Racks[0].BMCs = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.7:8443")}
		w.desire(&pb.Desired{Revision: 1, Catalogue: w.catalogue(c).told(w, 1)})
		for address, want := range map[string]bool{"10.0.0.9:443": true, "10.0.0.12:443": false, "192.0.2.7:8443": true, "n1:443": true} {
			if got := w.agent.mayBe(discovery.Sighting{Address: address, Found: "mdns"}); got != want {
				t.Errorf("a BMC at %s may be ours: %v", address, got)
			}
		}
		if !w.agent.mayBe(discovery.Sighting{Address: "198.51.100.1:443", Found: "static"}) {
			t.Error("what stands in agent.yaml is not looked at")
		}
		ctx, cancel := context.WithCancel(t.Context())
		out, ended := make(chan discovery.Sighting), make(chan error, 1)
		go func() { ended <- listed{w.agent}.Run(ctx, out) }()
		var got []string
		for range 3 {
			got = append(got, (<-out).Address)
		}
		if want := []string{"192.0.2.7:8443", "10.0.0.9:443", "10.0.0.10:443"}; !slices.Equal(got, want) {
			t.Errorf("looked at: %v", got)
		}
		c.Racks[0].Networks, c.Racks[0].BMCs = nil, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.8:443")}
		w.desire(&pb.Desired{Revision: 2, Catalogue: w.catalogue(c).told(w, 1)})
		begun := time.Now()
		if s := <-out; s.Address != "192.0.2.8:443" || time.Since(begun) > 0 {
			t.Errorf("then at %s after %s", s.Address, time.Since(begun))
		}
		cancel()
		<-ended
	})
}

// What lies on the disk is verified again.
func TestThreat32CatalogueOnTheDiskChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		w.desire(&pb.Desired{Revision: 1, Catalogue: w.catalogue(twoRacks(map[string]string{"row": "secret-row"})).told(w, 1)})
		w.stop()
		path := filepath.Join(w.dir, spoolFile)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.ReplaceAll(string(raw), "secret-row", "forged-row")
		if changed == string(raw) {
			t.Fatal("it is not on the disk")
		}
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		w.start(w.dir)
		defer w.stop()
		if got := w.selects(`(where (= node.label.row "forged-row"))`); got != "" || w.agent.CatalogueVersion() != 0 {
			t.Errorf("what was forged selects %q", got)
		}
	})
}
