package compile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

// FuzzCompile holds the compiler to its promises on any input: it ends, it does
// not panic, a program comes without errors, and conditions and targets can be
// evaluated whatever is known.
func FuzzCompile(f *testing.F) {
	for _, pattern := range []string{"testdata/*/*.scl", filepath.Join(examples, "*.scl")} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			src, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
			for form := range strings.SplitSeq(string(src), "\n(") {
				f.Add([]byte("(" + form))
			}
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		p, diags := compile.Source("x", src)
		_, _ = diags.String(), diags.JSON()
		if (p == nil) != (diags.Errors() > 0) {
			t.Fatalf("program %v with %s", p, diags)
		}
		if p == nil {
			return
		}
		for _, m := range p.Monitors {
			evaluate(t, m.Condition)
			m.Target.Match(scl.Subject{})
		}
		for _, s := range p.Steps {
			s.Target.Match(scl.Subject{})
		}
		compile.Names(src, p, compile.Known{Nodes: []string{"a"}})
		sealed, err := compile.Rewrite(src, p, func(scl.Secret) (string, error) { return "x", nil })
		if err != nil {
			t.Fatal(err)
		}
		if again, diags := compile.Source("x", sealed); again == nil || describe(again) == "" && describe(p) != "" {
			t.Fatalf("what is rewritten does not compile: %s\n%s", sealed, diags)
		}
	})
}

func evaluate(t *testing.T, c *scl.Condition) {
	t.Helper()
	for _, v := range []fleet.Value{{}, fleet.Number(1, fleet.Celsius), fleet.Text("on"), fleet.Bool(true)} {
		for _, all := range [][]fleet.Value{nil, {v, {}, v}} {
			slots := make([]scl.Slot, len(c.Refs))
			for i := range slots {
				slots[i] = scl.Slot{Value: v, All: all}
			}
			c.Test(slots)
		}
		if !v.Known() && len(c.Refs) > 0 && strings.HasPrefix(c.Text, "(> ") && c.Test(make([]scl.Slot, len(c.Refs))) == scl.True {
			t.Fatalf("%s fires on nothing known", c.Text)
		}
	}
}

// TestCompileIsLinear gives the compiler the largest sources, of kinds that
// would take a careless compiler hours or all memory.
func TestCompileIsLinear(t *testing.T) {
	const size = 4 << 20
	fill := func(unit string) string { return strings.Repeat(unit, size/len(unit)) }
	nested := strings.Repeat("(sequence ", 200) + `(log "` + strings.Repeat("x", 10_000) + `")` + strings.Repeat(")", 200)
	for name, src := range map[string]string{
		"unknown forms":     fill("(x)\n")[:400_000],
		"words":             fill("x ")[:1_900_000],
		"stray words":       `(config "a" (bmc (user "b" ` + fill("x ")[:900_000] + "))) ; password",
		"passwords":         fill("password ")[:2_000_000],
		"quotes":            fill(`""`)[:1_900_000],
		"one line":          "(show \"a\" " + fill("cpu.tmp ")[:800_000] + ")",
		"brackets":          fill("()")[:200_000],
		"open comments":     fill("#| "),
		"closed comments":   fill("; (password \"x\")\n"),
		"names":             `(refresh (` + fill(`"a" `)[:400_000] + `))`,
		"conditions":        `(show (where (or ` + fill("(> cpu.temp 90) ")[:1_500_000] + `)))`,
		"deep conditions":   `(show (where ` + strings.Repeat("(not ", 250) + "#t" + strings.Repeat(")", 250) + `))`,
		"nested sequences":  `(action "a" ` + strings.Repeat(nested, 50) + `)`,
		"monitors":          `(monitor "a" ` + fill(`(trigger (condition #t) (action (log "x"))) `)[:1_000_000] + `)`,
		"numbered monitors": `(monitor "a" ` + fill(`(trigger "m9" (condition #t) (action (log "x"))) `)[:1_000_000] + `)`,
		"literal passwords": fill(`(server "a" (bmc (user "b" (password "c"))))`)[:800_000],
		"groups":            fill(`(group "a" (group "b")) (group "b" (group "c")) `)[:1_000_000],
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			p, diags := compile.Source("x", []byte(src))
			_, _ = diags.String(), diags.JSON()
			if p != nil {
				compile.Names([]byte(src), p, compile.Known{})
				if _, err := compile.Rewrite([]byte(src), p, func(scl.Secret) (string, error) { return "x", nil }); err != nil {
					t.Error(err)
				}
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			t.Logf("%d bytes in %s", len(src), time.Since(start).Round(time.Millisecond))
		})
	}
}
