package compile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

const examples = "../../../docs/examples"

// example compiles docs/examples/NAME.scl.
func example(tb testing.TB, name string) *scl.Program {
	tb.Helper()
	file := name + ".scl"
	src, err := os.ReadFile(filepath.Join(examples, file))
	if err != nil {
		tb.Fatal(err)
	}
	p, diags := compile.Source(file, src)
	if p == nil {
		tb.Fatalf("%s does not compile:\n%s", file, diags)
	}
	return p
}

func TestExamplesCompile(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(examples, "*.scl"))
	if err != nil || len(files) < 2 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if p := example(t, name[:len(name)-len(".scl")]); !p.Standing() && len(p.Steps) == 0 {
			t.Errorf("%s asks for nothing", name)
		}
	}
}
