package inventory_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/mock"
	"github.com/chiba-mesh/chiba/pkg/redfish/inventory"
)

// TestRecordedTrees reads the recorded trees of real BMCs that CHIBA_TREES names,
// a folder or a .tar.gz, prints what was found (go test -v) and checks that
// nothing was lost: `make crawl-report` is this test.
func TestRecordedTrees(t *testing.T) {
	name := os.Getenv("CHIBA_TREES")
	if name == "" {
		t.Skip("CHIBA_TREES names no folder or .tar.gz of recorded trees")
	}
	trees, err := mock.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range trees {
		t.Run(filepath.Base(record.Name), func(t *testing.T) {
			limits := redfish.CrawlLimits{Count: 20_000, Bytes: 512 << 20}
			tree, err := redfish.Crawl(t.Context(), record, limits)
			if err != nil {
				t.Fatal(err)
			}
			inv := inventory.Of(tree)
			var rest []redfish.Resource
			var why []string
			for _, u := range record.Unlinked(tree) {
				rest, why = append(rest, u.Resource), append(why, u.Why)
			}
			whole := *tree
			whole.Resources = append(slices.Clone(tree.Resources), rest...)
			nothingLost(t, &whole, inventory.Of(&whole))
			got, want := readOf(record, &whole), len(record.URIs())
			t.Logf("\n%s%s\n%s%d of %d files of the record were read, %d lost\n",
				inv.Table(), dead(inv), inventory.Origins(tree, rest, why), got, want, want-got)
			if got != want {
				t.Error("not every file of the record was read")
			}
			limits.Skip = inventory.Skip
			short, err := redfish.Crawl(t.Context(), record, limits)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("an inventory alone takes %d reads of %d", len(short.Resources), len(tree.Resources))
			for _, c := range inventory.Diff(inv, inventory.Of(short)) {
				t.Errorf("what the crawl of an inventory skips is missed: %s", c)
			}
			nothingLost(t, tree, inv)
			if inventory.Of(tree).Digest() != inv.Digest() {
				t.Error("the digest is not stable")
			}
		})
	}
}

// readOf is how many files of a record are in what was read.
func readOf(record *mock.Tree, read *redfish.Tree) int {
	return len(record.URIs()) - len(record.Unlinked(read))
}

// dead are the links that lead to nothing that anybody recorded.
func dead(inv *inventory.Inventory) string {
	var text strings.Builder
	for _, u := range inv.Unread {
		if !u.Inline {
			text.WriteString("a link leads to " + u.URI + ", which was not recorded\n")
		}
	}
	return text.String()
}
