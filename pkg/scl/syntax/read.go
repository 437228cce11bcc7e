package syntax

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// The limits of a source.
const (
	MaxSource = 4 << 20   // bytes of a source
	MaxDepth  = 256       // lists inside lists
	MaxString = 1 << 20   // bytes of a string
	MaxForms  = 100_000   // lists of a source
	MaxAtoms  = 1_000_000 // symbols, strings, numbers and truth values of a source
)

// Tree is a source that was read.
type Tree struct {
	File  string
	Forms []*Node // the forms of the top level

	src    string
	root   *Node
	hidden []extent
}

// Read reads a source. The tree is never nil; if the diagnostics hold errors
// it lacks what could not be read.
func Read(file string, src []byte) (*Tree, Diagnostics) {
	t := &Tree{File: file, root: &Node{Kind: List}}
	origin := Span{File: file, Start: Pos{Line: 1, Col: 1}, End: Pos{Line: 1, Col: 1}}
	if len(src) > MaxSource {
		return t, Diagnostics{{
			Code: LongSource, Severity: Error, Span: origin,
			Text: "the source is " + strconv.Itoa(len(src)) + " bytes long, and 4 MiB is the most a source may be",
			Help: "split it into several scripts",
		}}
	}
	t.src = string(src)
	t.hidden = hide(t.src)
	if !utf8.ValidString(t.src) {
		return t, Diagnostics{t.notUTF8()}
	}
	r := reader{tree: t}
	r.scanner = scanner{file: file, src: t.src, pos: origin.Start, report: r.report}
	if strings.HasPrefix(t.src, "\uFEFF") {
		r.pos.Offset = len("\uFEFF")
	}
	r.fill(t.root)
	t.root.Span = Span{File: file, Start: origin.Start, End: r.pos}
	t.Forms = t.root.List
	return t, r.diags
}

func (t *Tree) notUTF8() Diagnostic {
	bad := 0
	for i, r := range t.src {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(t.src[i:]); size == 1 {
				bad = i
				break
			}
		}
	}
	start := Pos{Line: 1, Col: 1}.after(strings.TrimPrefix(t.src[:bad], "\uFEFF"))
	start.Offset = bad
	end := start
	end.Offset++
	end.Col++
	return t.Diagnose(NotUTF8, Span{File: t.File, Start: start, End: end},
		"the source is not UTF-8 text: there is a stray byte here", "save the file in UTF-8")
}

// reader builds the tree from the scanner's tokens.
type reader struct {
	scanner
	tree   *Tree
	diags  Diagnostics
	unread *token // a token to read again
	depth  int    // of lists and "#;"
	open   int    // lists
	forms  int
	atoms  int
	margin Pos  // the first list that begins in column 1 inside another list
	done   bool // a limit was passed: read no further
}

// report notes an error. After too many of them reading ends.
func (r *reader) report(code Code, span Span, text, help string) {
	if r.done {
		return
	}
	r.diags = append(r.diags, r.tree.Diagnose(code, span, text, help))
	if len(r.diags) >= MaxDiagnostics {
		r.done = true
	}
}

// limit notes the error of passing a limit and ends reading.
func (r *reader) limit(code Code, span Span, text, help string) {
	r.report(code, span, text, help)
	r.done = true
}

func (r *reader) take() token {
	if r.unread != nil {
		t := *r.unread
		r.unread = nil
		return t
	}
	return r.next()
}

// fill reads the data of parent up to its closing bracket, which is returned,
// or up to the end.
func (r *reader) fill(parent *Node) (closing token) {
	for !r.done {
		t := r.take()
		switch t.kind {
		case tokEOF:
			return t
		case tokClose:
			if parent != r.tree.root {
				return t
			}
			r.report(StrayBracket, t.span, "nothing is open that this "+t.text+" could close", "remove it, or look for a bracket too many before it")
		case tokComment:
			r.note(parent, t, t.text)
		case tokSkip:
			if r.skipped(t) != nil {
				r.note(parent, t, r.src[t.span.Start.Offset:r.pos.Offset])
			}
		case tokOpen, tokAtom:
			if n := r.datum(t); n != nil {
				parent.List = append(parent.List, n)
			}
		}
	}
	return token{kind: tokEOF}
}

func (r *reader) note(parent *Node, t token, text string) {
	line := t.kind == tokComment && strings.HasPrefix(text, ";")
	if line {
		text = strings.TrimRight(text, " \t\r")
	}
	parent.notes = append(parent.notes, note{
		at: len(parent.List), text: text, line: line,
		own: t.newlines > 0 || t.span.Start.Offset == 0, blank: t.newlines > 1, start: t.span.Start.Offset,
	})
}

// skipped reads the datum that the "#;" of skip comments out; nil if there is
// none.
func (r *reader) skipped(skip token) *Node {
	if !r.enter(skip.span) {
		return nil
	}
	defer r.leave()
	for !r.done {
		t := r.take()
		switch t.kind {
		case tokComment:
		case tokSkip:
			r.skipped(t)
		case tokOpen, tokAtom:
			return r.datum(t)
		case tokEOF, tokClose:
			r.unread = &t
			r.report(NoDatum, skip.span, `nothing follows this "#;" that it could comment out`, "remove it, or write a form behind it")
			return nil
		}
	}
	return nil
}

// datum is the datum that begins with t; nil if a limit was passed.
func (r *reader) datum(t token) *Node {
	if t.kind == tokAtom {
		if r.atoms++; r.atoms > MaxAtoms {
			r.limit(ManyForms, t.span, "the source has more than 1,000,000 words, the most a source may have", "split it into several scripts")
			return nil
		}
		return t.atom
	}
	return r.list(t)
}

func (r *reader) list(open token) *Node {
	if r.forms++; r.forms > MaxForms {
		r.limit(ManyForms, open.span, "the source has more than 100,000 forms, the most a source may have", "split it into several scripts")
		return nil
	}
	if !r.enter(open.span) {
		return nil
	}
	defer r.leave()
	r.open++
	defer func() { r.open-- }()
	if r.open > 1 && open.span.Start.Col == 1 && r.margin.Line == 0 {
		r.margin = open.span.Start
	}
	n := &Node{Kind: List, Span: open.span, blank: open.newlines > 1}
	closing := r.fill(n)
	n.Span.End = r.pos
	switch {
	case closing.kind == tokEOF:
		r.unclosed(open)
	case matching(open.text) != closing.text:
		r.report(WrongBracket, closing.span, "this "+closing.text+" closes the "+open.text+" of line "+strconv.Itoa(open.span.Start.Line), "write "+matching(open.text))
	case r.open == 1:
		r.margin = Pos{}
	}
	return n
}

// unclosed reports the outermost list that is still open at the end, once.
func (r *reader) unclosed(open token) {
	if r.open > 1 || r.done {
		return
	}
	help := "add a " + matching(open.text)
	if r.margin.Line > 0 {
		help += "; line " + strconv.Itoa(r.margin.Line) + " begins in column 1 although the list is still open, so it is probably missing just before that line"
	}
	r.report(OpenList, open.span, "this "+open.text+" is never closed", help)
}

func matching(open string) string {
	if open == "[" {
		return "]"
	}
	return ")"
}

func (r *reader) enter(at Span) bool {
	if r.depth >= MaxDepth {
		r.limit(DeepNesting, at, "lists are nested more than 256 deep, the most a source may have", "nest less")
		return false
	}
	r.depth++
	return true
}

func (r *reader) leave() { r.depth-- }
