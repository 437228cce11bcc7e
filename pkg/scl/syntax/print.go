package syntax

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Quote writes s as an SCL string that reads back as s. Bytes that are not
// UTF-8 become U+FFFD.
func Quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == utf8.RuneError || !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\u{%x}`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Print is the canonical text of n on one line, secrets and all. To show a node
// to a person use Tree.Show.
func Print(n *Node) string { return printed(n, func(*Node) bool { return false }) }

// Show is the canonical text of n on one line, with secrets hidden.
func (t *Tree) Show(n *Node) string {
	return printed(n, func(n *Node) bool {
		_, hidden := t.hiddenAt(n.Span.Start.Offset)
		return hidden
	})
}

func printed(n *Node, hidden func(*Node) bool) string {
	var b strings.Builder
	printTo(&b, n, hidden)
	return b.String()
}

func printTo(b *strings.Builder, n *Node, hidden func(*Node) bool) {
	switch {
	case hidden(n):
		b.WriteString(Hidden)
	case n.Kind == List:
		b.WriteByte('(')
		for i, c := range n.List {
			if i > 0 {
				b.WriteByte(' ')
			}
			printTo(b, c, hidden)
		}
		b.WriteByte(')')
	case n.Kind == String:
		b.WriteString(Quote(n.Text))
	default:
		b.WriteString(n.Text)
	}
}
