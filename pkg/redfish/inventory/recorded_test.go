package inventory_test

import (
	"os"
	"path/filepath"
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
			t.Logf("\n%s%s", inv.Table(), reach(record, tree))
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

// reach says which files of a record the crawl did not read, by folder.
func reach(record *mock.Tree, tree *redfish.Tree) string {
	read := map[string]bool{}
	for _, r := range tree.Resources {
		read[strings.TrimRight(r.URI, "/")] = r.Body != nil
	}
	byFolder := map[string]int{}
	var folders, out []string
	for _, uri := range record.URIs() {
		if read[uri] {
			continue
		}
		folder := uri[:strings.LastIndexByte(uri, '/')]
		if byFolder[folder]++; byFolder[folder] == 1 {
			folders = append(folders, folder)
		}
	}
	for _, f := range folders {
		out = append(out, strings.Join([]string{"  no link leads to", plural(byFolder[f]), "in", f}, " "))
	}
	if len(out) == 0 {
		return "every file of the record was read\n"
	}
	return strings.Join(out, "\n") + "\n"
}
