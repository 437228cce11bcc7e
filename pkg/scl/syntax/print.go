package syntax

import (
	"fmt"
	"math"
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
func Print(n *Node) string {
	p := printer{hidden: func(*Node) bool { return false }, most: math.MaxInt}
	p.print(n)
	return p.String()
}

// MaxShown is the most bytes of a text that Show makes.
const MaxShown = 1 << 10

// Show is the canonical text of n on one line, with secrets hidden, cut with
// "…" if it is longer than MaxShown.
func (t *Tree) Show(n *Node) string {
	p := printer{most: MaxShown - len("…")}
	p.hidden = func(n *Node) bool {
		_, hidden := t.hiddenAt(n.Span.Start.Offset)
		return hidden
	}
	p.print(n)
	text := p.String()
	if len(text) <= MaxShown {
		return text
	}
	cut := MaxShown - len("…")
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

// printer prints until it has more than most bytes.
type printer struct {
	strings.Builder
	hidden func(*Node) bool
	most   int
}

func (p *printer) print(n *Node) {
	switch {
	case p.hidden(n):
		p.WriteString(Hidden)
	case n.Kind == String:
		text := n.Text
		if len(text)-utf8.UTFMax > p.most {
			text = text[:p.most+utf8.UTFMax] // Show cuts further
		}
		p.WriteString(Quote(text))
	case n.Kind != List:
		p.WriteString(n.Text)
	default:
		p.WriteByte('(')
		for i, c := range n.List {
			if i > 0 {
				p.WriteByte(' ')
			}
			if p.Len() > p.most {
				return
			}
			p.print(c)
		}
		p.WriteByte(')')
	}
}
