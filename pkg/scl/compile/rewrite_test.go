package compile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// reversed stands for sealing: it needs nothing, and can be checked.
func reversed(s scl.Secret) (string, error) {
	runes := []rune(s.Literal.Reveal())
	var b strings.Builder
	for i := range runes {
		b.WriteRune(runes[len(runes)-1-i])
	}
	return b.String(), nil
}

func TestRewrite(t *testing.T) {
	const src = `; the old one was (password "canary-1")
(config ("a" "b") (bmc
  (user "root" (password "päss\"word") (role "Operator")) #;(user "x" (password "canary-2"))
  (user "sealed" (password (sealed "AbC=")))
  [user "second" (password #| "canary-3" |# "otter")]))
(server "c" (bmc (user "root" (password "third"))))
`
	const want = `; the old one was (password (secret))
(config ("a" "b") (bmc
  (user "root" (password (sealed "drow\"ssäp")) (role "Operator")) #;(user "x" (password (secret)))
  (user "sealed" (password (sealed "AbC=")))
  [user "second" (password #| (secret) |# (sealed "retto"))]))
(server "c" (bmc (user "root" (password (sealed "driht")))))
`
	before, diags := compile.Source("x.scl", []byte(src))
	if before == nil {
		t.Fatal(diags)
	}
	out, err := compile.Rewrite([]byte(src), before, reversed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Errorf("rewritten (-want +got):\n%s", diff)
	}
	after, diags := compile.Source("x.scl", out)
	if len(diags) > 0 {
		t.Fatalf("what is rewritten does not compile without a word: %s", diags)
	}
	for _, c := range before.Configs {
		for i, s := range c.Settings {
			if !s.Secret.Literal.Empty() {
				c.Settings[i].Secret.Sealed, _ = reversed(s.Secret)
			}
		}
	}
	if diff := cmp.Diff(describe(before), describe(after)); diff != "" {
		t.Errorf("it is another program (-before +after):\n%s", diff)
	}
}

// TestRewriteExamples rewrites every example: it stays the same program.
func TestRewriteExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(examples, "*.scl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		before, _ := compile.Source(file, src)
		out, err := compile.Rewrite(src, before, func(scl.Secret) (string, error) { return "x", nil })
		if err != nil {
			t.Fatal(err)
		}
		after, diags := compile.Source(file, out)
		if len(diags) > 0 {
			t.Fatalf("%s: %s", file, diags)
		}
		want := strings.ReplaceAll(describe(before), "= "+fleet.Redacted, "= sealed x")
		if diff := cmp.Diff(want, describe(after)); diff != "" {
			t.Errorf("%s is another program (-before +after):\n%s", file, diff)
		}
	}
}

func TestRewriteStopsWhenSealingFails(t *testing.T) {
	src := []byte("\n(server \"a\" (bmc (user \"root\" (password \"canary\"))))")
	p, _ := compile.Source("x.scl", src)
	cause := errors.New("no key")
	out, err := compile.Rewrite(src, p, func(scl.Secret) (string, error) { return "", cause })
	if out != nil || !errors.Is(err, cause) || err.Error() != "seal the password in line 2: no key" {
		t.Errorf("got %q, %v", out, err)
	}
}

// TestProgramsHideSecrets looks at every text of a program.
func TestProgramsHideSecrets(t *testing.T) {
	src := `(server "a" (bmc (user "root" (password "canary"))))`
	p, diags := compile.Source("x.scl", []byte(src))
	if text := describe(p) + diags.String() + string(diags.JSON()); strings.Contains(text, "canary") {
		t.Errorf("the password shows:\n%s", text)
	}
	if diags.Errors() != 0 || len(diags) != 1 || diags[0].Code != compile.LiteralPassword || diags[0].Severity != syntax.Warning {
		t.Errorf("want one warning, got %s", diags)
	}
}

// TestBrokenScriptsHideSecrets is the like of the test in package syntax, for
// what the compiler says.
func TestBrokenScriptsHideSecrets(t *testing.T) {
	const src = "(server \"a\"\n (bmc (user \"root\" (password \"CanaryXYZZY\") (role \"Operator\"))\n  (user \"b\" (role \"Operator\"))) (nonsense))\n"
	for i := range len(src) {
		for _, broken := range []string{src[:i] + src[i+1:], src[:i] + "x" + src[i:], src[:i] + " " + src[i:], src[:i] + "#;" + src[i:], src[:i] + "\"" + src[i:] + "\""} {
			_, diags := compile.Source("x.scl", []byte(broken))
			if text := diags.String() + string(diags.JSON()); strings.Contains(text, "anary") || strings.Contains(text, "XYZ") {
				t.Errorf("%q shows the password:\n%s", broken, text)
			}
		}
	}
}

// What a secret is for names its script, its target and its place: no two secrets
// of one script have the same use, and none has that of another script.
func TestBind(t *testing.T) {
	const src = `(config "a" (bmc (user "root" (password "one")) (user "ops" (password "two"))))
(config "b" (bmc (user "root" (password "three"))))
(action "a" (bmc-release (password "four")))
`
	uses := map[string]bool{}
	for _, script := range []string{"s", "t"} {
		p, diags := compile.Source("x.scl", []byte(src))
		if p == nil {
			t.Fatal(diags)
		}
		p.Bind(script)
		for s := range p.Secrets() {
			if uses[s.Use] || s.Use == "" {
				t.Errorf("the use %q comes twice", s.Use)
			}
			uses[s.Use] = true
		}
	}
	if len(uses) != 8 {
		t.Errorf("%d uses", len(uses))
	}
}
