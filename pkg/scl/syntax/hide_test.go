package syntax_test

import (
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// TestSecretsStayHidden breaks a script that holds a password in every way that
// takes away, adds or changes one byte, or cuts it off, and looks for any piece
// of the password in what people would see.
func TestSecretsStayHidden(t *testing.T) {
	const canary = "CanaryXYZZY"
	src := "(server \"a\"\n (bmc (user \"root\" (password \"" + canary + "\") (role \"Operator\"))\n  (user \"b\" (role \"Operator\"))))\n"
	for i := range len(src) {
		for _, broken := range []string{
			src[:i],
			src[:i] + src[i+1:],
			src[:i] + "\"" + src[i:],
			src[:i] + "(" + src[i:],
			src[:i] + ")" + src[i:],
			src[:i] + " " + src[i:],
			src[:i] + "x" + src[i:],
			src[:i] + "@" + src[i:],
			src[:i] + ";" + src[i:],
			src[:i] + "\n" + src[i:],
			src[:i] + "#|" + src[i:],
			src[:i] + "#;" + src[i:],
			src[:i] + "\xff" + src[i:],
			src[:i] + "\\q" + src[i:],
		} {
			tree, diags := syntax.Read("x", []byte(broken))
			root := &syntax.Node{Kind: syntax.List, List: tree.Forms}
			seen := diags.String() + string(diags.JSON()) + tree.Show(root)
			if strings.Contains(seen, "anary") || strings.Contains(seen, "XYZ") {
				t.Errorf("%q shows the password:\n%s", broken, seen)
			}
		}
	}
}

func TestUnquotedSecretsStayHidden(t *testing.T) {
	for _, src := range []string{
		`(user "root" (password p4ssw0rd))`, `(user "root" (password pass p4ss w0rd))`, `(password sealed p4ss)`, `(password p4:s'{s},x@)`,
	} {
		tree, diags := syntax.Read("x", []byte(src+" @"))
		if text := diags.String() + tree.Show(tree.Forms[0]); strings.Contains(text, "p4") || strings.Contains(text, "w0") {
			t.Errorf("%s shows the password:\n%s", src, text)
		}
	}
}

func TestHiddenOnlyWhereNeeded(t *testing.T) {
	const src = "(log \"enter password\") ; a password for (this) \"x\" @\n(show \"a\" cpu.temp) @\n"
	_, diags := syntax.Read("x", []byte(src))
	if len(diags) != 1 || diags[0].Excerpt.Line != `(show "a" cpu.temp) @` {
		t.Errorf("got\n%s", diags)
	}
}

func TestCommentSecrets(t *testing.T) {
	const src = "(a ; (password \"one\")\n (password \"two\") #;(password \"three\") #| password \"four\" |#)"
	var got []string
	for _, r := range syntax.CommentSecrets([]byte(src)) {
		got = append(got, src[r.Start:r.End])
	}
	if strings.Join(got, " ") != `"one" "three" "four"` {
		t.Errorf("got %v", got)
	}
}
