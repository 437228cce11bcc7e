package syntax_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

func TestFormat(t *testing.T) {
	sources(t, "format", func(t *testing.T, file string, src []byte) {
		t.Helper()
		out, diags := syntax.Format(filepath.Base(file), src)
		if len(diags) > 0 {
			t.Fatal(diags)
		}
		golden(t, file, string(out))
		again, _ := syntax.Format(filepath.Base(file), out)
		if diff := cmp.Diff(string(out), string(again)); diff != "" {
			t.Errorf("formatting twice changes it (-once +twice):\n%s", diff)
		}
	})
}

// TestFormatKeepsScripts formats real scripts: same trees, same comments, and
// nothing more to do the second time.
func TestFormatKeepsScripts(t *testing.T) {
	for _, pattern := range []string{"../../../docs/examples/*.scl", "../compile/testdata/*/*.scl", "testdata/format/*.scl"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no scripts at %s: %v", pattern, err)
		}
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tree, diags := syntax.Read(file, src)
			if len(diags) > 0 {
				t.Fatal(diags)
			}
			checkFormat(t, tree, src)
		}
	}
}

func TestFormatLeavesBrokenSourcesAlone(t *testing.T) {
	if out, diags := syntax.Format("x", []byte("(a")); out != nil || diags.Errors() != 1 {
		t.Errorf("got %q, %v", out, diags)
	}
}

// FuzzRead holds the reader to its promises on any input: it ends, it does not
// panic, what it reads prints to text that reads back to the same tree, and
// formatting keeps the tree and the comments and is idempotent.
func FuzzRead(f *testing.F) {
	for _, src := range []string{
		"", "(", ")", "[)", "\"", "#", "#|", "#;", "#;#;a b", ";", "; a\r\n(b)", "(a ; b\n)", "(; a\n)", "((a) b ; c\n d #| e |# f)",
		"\xff", "\uFEFF(a)", "(a \"b\nc\" #;(d\n\n e) f)", "1e", "1e+", "-", "+1", "\"\\u{41}\"", "\"\\u{\"", "(password \"x\")", "a\u0301 \u202e",
	} {
		f.Add([]byte(src))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		tree, diags := syntax.Read("x", src)
		_, _ = diags.String(), diags.JSON()
		if len(diags) > 0 {
			return
		}
		for _, n := range tree.Forms {
			text := syntax.Print(n)
			again, diags := syntax.Read("x", []byte(text))
			if len(diags) > 0 || len(again.Forms) != 1 || !again.Forms[0].Equal(n) {
				t.Fatalf("%s reads back differently: %v", text, diags)
			}
		}
		checkFormat(t, tree, src)
	})
}

func checkFormat(t *testing.T, tree *syntax.Tree, src []byte) {
	t.Helper()
	out, diags := syntax.Format("x", src)
	if len(diags) > 0 {
		t.Fatalf("format: %v", diags)
	}
	formatted, diags := syntax.Read("x", out)
	if len(diags) > 0 || len(formatted.Forms) != len(tree.Forms) {
		t.Fatalf("formatted to %q: %d forms of %d, %v", out, len(formatted.Forms), len(tree.Forms), diags)
	}
	for i, n := range formatted.Forms {
		if !n.Equal(tree.Forms[i]) {
			t.Fatalf("formatted to %q, which is another tree", out)
		}
	}
	again, _ := syntax.Format("x", out)
	if diff := cmp.Diff(string(out), string(again)); diff != "" {
		t.Fatalf("formatting twice changes it (-once +twice):\n%s", diff)
	}
}
