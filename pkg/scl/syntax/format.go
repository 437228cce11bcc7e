package syntax

import (
	"strings"
	"unicode/utf8"
)

// lineWidth is where Format begins to break lists.
const lineWidth = 100

// Format lays a source out in the one way of SCL: two spaces per level, a list
// on one line if it was on one and fits, one child per line otherwise, brackets
// round, at most one empty line in a row. It keeps comments and the words as
// they were written, and formatting twice changes nothing more. A source that
// can't be read is not formatted.
func Format(file string, src []byte) ([]byte, Diagnostics) {
	t, diags := Read(file, src)
	if diags.Errors() > 0 {
		return nil, diags
	}
	f := formatter{tree: t}
	f.children(t.root, 0, 0)
	if f.out.Len() > 0 {
		f.out.WriteByte('\n')
	}
	return []byte(f.out.String()), diags
}

type formatter struct {
	tree *Tree
	out  strings.Builder
	col  int  // in code points
	open bool // a line comment is open: what follows needs a new line
}

func (f *formatter) write(s string) {
	f.out.WriteString(s)
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
		f.col = 0
	}
	f.col += utf8.RuneCountInString(s)
}

// newline begins a line, after an empty one if blank.
func (f *formatter) newline(indent int, blank bool) {
	if f.out.Len() > 0 {
		f.write("\n")
		if blank {
			f.write("\n")
		}
	}
	f.write(strings.Repeat(" ", indent))
	f.open = false
}

func (f *formatter) node(n *Node, indent int) {
	if n.Kind != List {
		f.write(f.source(n))
		return
	}
	if line, ok := f.oneLine(n); ok && f.col+utf8.RuneCountInString(line) <= lineWidth {
		f.write(line)
		return
	}
	f.write("(")
	f.children(n, f.head(n, indent+2), indent+2)
	if f.open {
		f.newline(indent, false)
	}
	f.write(")")
}

// head writes the words with which the list n begins, filling lines, and
// returns how many they are.
func (f *formatter) head(n *Node, indent int) int {
	stop := len(n.List)
	if len(n.notes) > 0 {
		stop = n.notes[0].at
	}
	for i, c := range n.List[:stop] {
		if c.Kind == List {
			if i > 0 {
				return i
			}
			f.node(c, indent)
			return 1
		}
		word := f.source(c)
		switch {
		case i == 0:
		case f.col+1+utf8.RuneCountInString(word) > lineWidth && f.col > indent:
			f.newline(indent, false)
		default:
			f.write(" ")
		}
		f.write(word)
	}
	return stop
}

// children writes the data of n from index from on, each on a line of its own,
// and the comments among them.
func (f *formatter) children(n *Node, from, indent int) {
	notes := n.notes
	for i := from; i <= len(n.List); i++ {
		for len(notes) > 0 && notes[0].at <= i {
			f.note(notes[0], indent)
			notes = notes[1:]
		}
		if i == len(n.List) {
			break
		}
		c := n.List[i]
		f.newline(indent, c.blank && f.out.Len() > 0)
		f.node(c, indent)
	}
}

func (f *formatter) note(c note, indent int) {
	switch {
	case c.own || f.open || f.out.Len() == 0:
		f.newline(indent, c.blank)
	default:
		f.write(" ")
	}
	f.write(c.text)
	f.open = c.line
}

// oneLine is n on one line; false if it stood on several or holds comments.
func (f *formatter) oneLine(n *Node) (string, bool) {
	if n.Span.Start.Line != n.Span.End.Line {
		return "", false
	}
	var b strings.Builder
	ok := f.flat(&b, n)
	return b.String(), ok
}

func (f *formatter) flat(b *strings.Builder, n *Node) bool {
	if n.Kind != List {
		b.WriteString(f.source(n))
		return true
	}
	if len(n.notes) > 0 {
		return false
	}
	b.WriteByte('(')
	for i, c := range n.List {
		if i > 0 {
			b.WriteByte(' ')
		}
		if !f.flat(b, c) {
			return false
		}
	}
	b.WriteByte(')')
	return true
}

// source is a word as it was written.
func (f *formatter) source(n *Node) string {
	return f.tree.src[n.Span.Start.Offset:n.Span.End.Offset]
}
