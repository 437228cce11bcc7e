package syntax_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with the file that belongs to the test file source.
func golden(t *testing.T, source, got string) {
	t.Helper()
	name := strings.TrimSuffix(source, ".scl") + ".golden"
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got); go test -update writes it anew:\n%s", name, diff)
	}
}

// sources calls f with each test source of a directory.
func sources(t *testing.T, dir string, f func(t *testing.T, file string, src []byte)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.scl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no test sources in %s: %v", dir, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			f(t, file, src)
		})
	}
}

func TestErrors(t *testing.T) {
	sources(t, "errors", func(t *testing.T, file string, src []byte) {
		t.Helper()
		_, diags := syntax.Read(filepath.Base(file), src)
		if diags.Errors() == 0 {
			t.Error("there is nothing wrong in it")
		}
		golden(t, file, diags.String())
	})
}

func TestRead(t *testing.T) {
	for src, want := range map[string]string{
		`(> cpu.temp 90C)`:                    `(> cpu.temp 90C)`,
		`[a (b) [c d]]`:                       `(a (b) (c d))`,
		`true #t false #f`:                    `#t #t #f #f`,
		`42 -7 +7 3.25 1e3 80% 3.2GHz 1e3rpm`: `42 -7 +7 3.25 1e3 80% 3.2GHz 1e3rpm`,
		`- + -x +x known? != a/b .5`:          `- + -x +x known? != a/b .5`,
		"\"a\\\"\\\\\\n\\t\\u{1F600}\r\"":     `"a\"\\\n\t😀\u{d}"`,
		`größe "größe" 12µs`:                  `größe "größe" 12µs`,
		"a;b\n#|c #|d|# |#e#;f g#;#;h i j":    `a e g j`,
		"\uFEFF(a)":                           `(a)`,
		`""`:                                  `""`,
		"":                                    "",
	} {
		tree, diags := syntax.Read("x", []byte(src))
		if len(diags) > 0 {
			t.Errorf("%s:\n%s", src, diags)
		}
		var got []string
		for _, n := range tree.Forms {
			got = append(got, syntax.Print(n))
		}
		if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", src, diff)
		}
	}
}

func TestSpans(t *testing.T) {
	src := "(größe\n  \"a\nb\" 90C) ; c\n#;x y"
	tree, _ := syntax.Read("x", []byte(src))
	var got []string
	var visit func(n *syntax.Node)
	visit = func(n *syntax.Node) {
		s := n.Span
		got = append(got, fmt.Sprintf("%d:%d-%d:%d %s", s.Start.Line, s.Start.Col, s.End.Line, s.End.Col, src[s.Start.Offset:s.End.Offset]))
		for _, sub := range n.List {
			visit(sub)
		}
	}
	for _, n := range tree.Forms {
		visit(n)
	}
	want := []string{
		"1:1-3:8 (größe\n  \"a\nb\" 90C)",
		"1:2-1:7 größe",
		"2:3-3:3 \"a\nb\"",
		"3:4-3:7 90C",
		"4:5-4:6 y",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
}

func TestLimits(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("(", n) + strings.Repeat(")", n) }
	text := func(n int) string { return `"` + strings.Repeat("x", n) + `"` }
	for name, test := range map[string]struct {
		src  string
		want string // beginning of the only diagnostic, empty for none
	}{
		"source":        {strings.Repeat(" ", syntax.MaxSource), ""},
		"source + 1":    {strings.Repeat(" ", syntax.MaxSource+1), "x:1:1: error[SCL0111]: the source is 4194305 bytes long, and 4 MiB is the most"},
		"5 MiB":         {strings.Repeat("(a)\xff\n", 1<<20), "x:1:1: error[SCL0111]: "},
		"nesting":       {nested(256), ""},
		"nesting + 1":   {nested(257), "x:1:257: error[SCL0112]: lists are nested more than 256 deep"},
		"nested marks":  {strings.Repeat("#;", 257) + "x", "x:1:513: error[SCL0112]: "},
		"endless marks": {strings.Repeat("#;", 1<<20), "x:1:513: error[SCL0112]: "},
		"endless lists": {strings.Repeat("(", 1<<22), "x:1:257: error[SCL0112]: "},
		"string":        {text(syntax.MaxString), ""},
		"string + 1":    {"\n" + text(syntax.MaxString+1), "x:2:1: error[SCL0113]: this string is longer than 1 MiB"},
		"forms":         {strings.Repeat("()", syntax.MaxForms), ""},
		"forms + 1":     {strings.Repeat("()\n", syntax.MaxForms+1), "x:100001:1: error[SCL0114]: the source has more than 100,000 forms"},
		"words + 1":     {strings.Repeat("a\n", syntax.MaxAtoms+1), "x:1000001:1: error[SCL0114]: the source has more than 1,000,000 words"},
		"not UTF-8":     {"(größe\n \"ü\xfc\" \xff)", "x:2:4: error[SCL0110]: "},
		"not UTF-8 BOM": {"\uFEFFa\xff", "x:1:2: error[SCL0110]: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, diags := syntax.Read("x", []byte(test.src))
			switch {
			case test.want == "" && len(diags) > 0:
				t.Errorf("got %.300s", diags)
			case test.want != "" && (len(diags) != 1 || !strings.HasPrefix(diags.String(), test.want)):
				t.Errorf("got %d diagnostics, %.300s\nwant one, %s", len(diags), diags, test.want)
			}
		})
	}
}

func TestManyErrorsAreCut(t *testing.T) {
	_, diags := syntax.Read("x", []byte(strings.Repeat("@ ", 1<<20)))
	if len(diags) != syntax.MaxDiagnostics {
		t.Errorf("got %d diagnostics, want %d", len(diags), syntax.MaxDiagnostics)
	}
	for _, d := range diags {
		if len(d.Excerpt.Line) > 400 {
			t.Fatalf("an excerpt of %d bytes", len(d.Excerpt.Line))
		}
	}
}

func TestQuote(t *testing.T) {
	for s, want := range map[string]string{
		"":                 `""`,
		"r07-u[01-40]":     `"r07-u[01-40]"`,
		`") (dump "all`:    `"\") (dump \"all"`,
		`\`:                `"\\"`,
		"a\nb\tc\x00\x1b[": `"a\nb\tc\u{0}\u{1b}["`,
		"größe\u202e":      `"größe\u{202e}"`,
		"\xff":             `"\u{fffd}"`,
	} {
		got := syntax.Quote(s)
		if got != want {
			t.Errorf("Quote(%q) = %s, want %s", s, got, want)
		}
		tree, diags := syntax.Read("x", []byte(got))
		if len(diags) > 0 || len(tree.Forms) != 1 || tree.Forms[0].Text != strings.ToValidUTF8(s, "\uFFFD") {
			t.Errorf("Quote(%q) = %s reads back as %v\n%s", s, got, tree.Forms, diags)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"cpu.temp", "cpu.rate", "fan.speed"}
	for word, want := range map[string]string{
		"cpu.tmp": "cpu.temp", "cpu.tepm": "cpu.temp", "CPU.Temp": "cpu.temp", "fan.sped": "fan.speed",
		"x": "", "": "", "storage": "", strings.Repeat("cpu.temp", 100): "",
	} {
		if got, ok := syntax.Nearest(word, names); got != want || ok != (want != "") {
			t.Errorf("Nearest(%q) = %q, %v; want %q", word, got, ok, want)
		}
	}
}

func TestJSON(t *testing.T) {
	_, diags := syntax.Read("a.scl", []byte("\n  (password \"canary\" <@)"))
	want := `[{"file":"a.scl","line":2,"col":23,"endLine":2,"endCol":24,"severity":"error","code":"SCL0101",` +
		`"text":"unexpected character","help":"names, addresses and texts stand in double quotes",` +
		`"source":"  (password (secret) (secret))"}]`
	if diff := cmp.Diff(want, string(diags.JSON())); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	if got := string(syntax.Diagnostics(nil).JSON()); got != "[]" {
		t.Errorf("no diagnostics are %s", got)
	}
}
