package compile_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

const manual = "../../../docs/scl.md"

func readManual(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestManualBlocksCompile(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```scheme\n(.*?)```").FindAllStringSubmatch(readManual(t), -1)
	if len(blocks) < 10 {
		t.Fatalf("the manual has %d blocks of SCL", len(blocks))
	}
	for _, block := range blocks {
		if p, diags := compile.Source("scl.md", []byte(block[1])); p == nil {
			t.Errorf("%s\n%s", block[1], diags)
		}
	}
}

// TestManualElements holds the manual's table against the registry.
func TestManualElements(t *testing.T) {
	text := readManual(t)
	before, rest, ok1 := strings.Cut(text, "-update -->\n")
	_, after, ok2 := strings.Cut(rest, "<!-- end of elements")
	if !ok1 || !ok2 {
		t.Fatal("the manual lacks the marks of its table of elements")
	}
	want := before + "-update -->\n" + elementTable() + "<!-- end of elements" + after
	if *update {
		if err := os.WriteFile(manual, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("the manual's elements are not the registry's; go test -update writes them (-want +got):\n%s", diff)
	}
}

func elementTable() string {
	var b strings.Builder
	b.WriteString("| element | is | of several | meaning | read from |\n| --- | --- | --- | --- | --- |\n")
	for _, e := range scl.Elements() {
		sources := "`" + strings.Join(e.Sources, "` · `") + "`"
		if e.OfMesh() {
			sources = "the mesh itself"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", e.Name, elementType(e), reduction(e.Reduce), e.Doc, sources)
	}
	return b.String()
}

func elementType(e scl.Element) string {
	switch {
	case e.Type == scl.BoolType:
		return "true or false"
	case len(e.Values) > 0:
		return "`" + strings.Join(e.Values, "` `") + "`"
	case e.Type == scl.TextType:
		return "text"
	case e.Unit.String() == "":
		return "number"
	}
	return "number, " + e.Unit.String()
}

func reduction(r scl.Reduction) string {
	switch r {
	case scl.Max:
		return "largest"
	case scl.Min:
		return "smallest"
	case scl.Sum:
		return "sum"
	case scl.Worst:
		return "worst"
	case scl.First:
	}
	return "first"
}

// TestManualCodes finds every code in the code base, once, and in the manual's
// table, once.
func TestManualCodes(t *testing.T) {
	literal := regexp.MustCompile(`"(SCL\d{4})"`)
	var inCode []string
	err := filepath.WalkDir("../../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		for _, m := range literal.FindAllStringSubmatch(string(src), -1) {
			inCode = append(inCode, m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var inManual []string
	for _, m := range regexp.MustCompile(`(?m)^\| (SCL\d{4}) \|`).FindAllStringSubmatch(readManual(t), -1) {
		inManual = append(inManual, m[1])
	}
	slices.Sort(inCode)
	if diff := cmp.Diff(inCode, inManual); diff != "" {
		t.Errorf("codes (-code +manual):\n%s", diff)
	}
	if len(slices.Compact(inCode)) != len(inManual) {
		t.Error("a code stands twice")
	}
}
