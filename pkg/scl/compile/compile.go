// Package compile checks SCL text and turns it into a Program. It is pure and
// total: it ends on every input, in time linear in it, and never panics.
package compile

import (
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// Source checks a script. The program is nil if the diagnostics hold errors,
// and there may be warnings if it is not. No diagnostic and no text of the
// program holds a secret.
func Source(file string, src []byte) (*scl.Program, syntax.Diagnostics) {
	tree, diags := syntax.Read(file, src)
	if diags.Errors() > 0 {
		return nil, diags // what was not read can't be checked
	}
	c := &compiler{tree: tree, diags: diags, prog: &scl.Program{File: file}, names: map[string]syntax.Span{}}
	for _, form := range tree.Forms {
		if c.full() {
			break
		}
		c.form(form)
	}
	c.alone()
	c.circles()
	tree.Hide(c.strays...)
	for i := range c.diags { // now that all secrets are known
		c.diags[i] = tree.Illustrate(c.diags[i])
	}
	sort.SliceStable(c.diags, func(i, j int) bool {
		return c.diags[i].Span.Start.Offset < c.diags[j].Span.Start.Offset
	})
	if c.diags.Errors() > 0 {
		return nil, c.diags
	}
	return c.prog, c.diags
}

// compiler checks one script. Its methods report what is wrong and go on with
// what is left, so that one pass tells all.
type compiler struct {
	tree     *syntax.Tree
	diags    syntax.Diagnostics
	errors   int
	prog     *scl.Program
	names    map[string]syntax.Span // of monitors, groups: "monitor m1"
	expanded int                    // names made of ranges so far
	strays   []*syntax.Node         // words that may be passwords without their field
	numbered int                    // of the last monitor that got its name from its place
}

// fail reports an error at n.
func (c *compiler) fail(code syntax.Code, n *syntax.Node, text, help string) {
	c.failAt(code, n.Span, text, help)
}

func (c *compiler) failAt(code syntax.Code, at syntax.Span, text, help string) {
	c.report(syntax.Diagnostic{Code: code, Severity: syntax.Error, Span: at, Text: text, Help: help})
}

func (c *compiler) warn(code syntax.Code, n *syntax.Node, text, help string) {
	c.report(syntax.Diagnostic{Code: code, Severity: syntax.Warning, Span: n.Span, Text: text, Help: help})
}

// report keeps what fits: an error always displaces a warning, so that no
// number of warnings hides that a script is wrong.
func (c *compiler) report(d syntax.Diagnostic) {
	if d.Severity == syntax.Error {
		c.errors++
	}
	if len(c.diags) < syntax.MaxDiagnostics {
		c.diags = append(c.diags, d)
		return
	}
	if d.Severity == syntax.Error {
		for i := range c.diags {
			if c.diags[i].Severity == syntax.Warning {
				c.diags[i] = d
				return
			}
		}
	}
}

// full reports whether no more errors fit, so that it is idle to look for
// their reasons.
func (c *compiler) full() bool { return c.errors > syntax.MaxDiagnostics }

// say is n as a message names it: short, and without secrets.
func (c *compiler) say(n *syntax.Node) string {
	const longest = 40
	text := c.tree.Show(n)
	if short := []rune(text); len(short) > longest {
		return string(short[:longest-1]) + "…"
	}
	return text
}

// unknown reports a name that is none of known, with the one that was most
// likely meant. what is like "form" or "field of power". later are names of the
// language that this version does not carry out.
func (c *compiler) unknown(code syntax.Code, n *syntax.Node, what string, known, later []string) {
	if c.full() {
		return
	}
	name := n.Text
	if n.Kind == syntax.Symbol {
		name = plain(name)
	}
	kind, of, _ := strings.Cut(what, " ")
	called := strings.TrimSpace(kind + " " + c.say(n) + " " + of)
	if slices.Contains(later, name) {
		c.later(n, "the "+called)
		return
	}
	if near, ok := syntax.Nearest(name, append(append([]string(nil), known...), later...)); ok {
		c.fail(code, n, "unknown "+called, "did you mean "+near+"?")
		return
	}
	c.fail(code, n, "unknown "+called, allOf(known))
}

// later reports what belongs to the language and not to this version.
func (c *compiler) later(n *syntax.Node, what string) {
	c.fail(NotYet, n, what+" belongs to the language, but this version does not carry it out yet",
		"leave it out for now; the manual lists what this version carries out")
}

// plain is a name of a form or field with "-" for "_", which are equal there.
func plain(name string) string { return strings.ReplaceAll(name, "_", "-") }

func allOf(known []string) string {
	if len(known) == 1 {
		return "known is " + known[0]
	}
	return "known are " + list(known, "and")
}

// list is "a, b and c".
func list(words []string, and string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " " + and + " " + words[last]
}

// once reports a second use of a name, where each may be used once.
func (c *compiler) once(kind, name string, n *syntax.Node) {
	key := kind + " " + name
	if first, ok := c.names[key]; ok {
		c.fail(Duplicate, n, "there are two "+kind+"s of the name "+syntax.Quote(name),
			"the first is in line "+strconv.Itoa(first.Start.Line)+"; give one of them another name")
		return
	}
	c.names[key] = n.Span
}

// args checks that the form n has at least least and at most most arguments;
// most < 0 means any number.
func (c *compiler) args(n *syntax.Node, least, most int, usage string) bool {
	got := len(n.Args())
	switch {
	case got < least:
		c.fail(WrongCount, n, c.say(n.List[0])+" lacks something", "write "+usage)
		return false
	case most >= 0 && got > most:
		c.fail(WrongCount, n.Args()[most], c.say(n.List[0])+" has something too many: "+c.say(n.Args()[most]), "write "+usage)
		return false
	}
	return true
}

// headed reports whether n is a list that begins with a symbol, and says so if
// it is not: what names what was wanted, like "a form".
func (c *compiler) headed(n *syntax.Node, what, example string) bool {
	if n.Head() != "" {
		return true
	}
	c.fail(WrongType, n, "expected "+what+" and found "+c.found(n), "write it like "+example)
	return false
}

// found is what stands at n, for a message.
func (c *compiler) found(n *syntax.Node) string {
	switch {
	case n.Kind == syntax.List && len(n.List) == 0:
		return "an empty list"
	case n.Head() != "":
		return "the list " + c.say(n)
	case n.Kind == syntax.List:
		return "a list without a name in front"
	}
	return "the " + n.Kind.String() + " " + c.say(n)
}
