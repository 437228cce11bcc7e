package syntax

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Code names a kind of diagnostic for good: it is documented in docs/scl.md and
// never reused.
type Code string

// The codes of reading. Those of checking are in package compile.
const (
	BadCharacter Code = "SCL0101"
	OpenString   Code = "SCL0102"
	BadEscape    Code = "SCL0103"
	BadNumber    Code = "SCL0104"
	OpenList     Code = "SCL0105"
	StrayBracket Code = "SCL0106"
	WrongBracket Code = "SCL0107"
	OpenComment  Code = "SCL0108"
	NoDatum      Code = "SCL0109"
	NotUTF8      Code = "SCL0110"
	LongSource   Code = "SCL0111"
	DeepNesting  Code = "SCL0112"
	LongString   Code = "SCL0113"
	ManyForms    Code = "SCL0114"
)

// MaxDiagnostics is the most diagnostics of one source: who has a hundred
// errors to mend is not helped by more.
const MaxDiagnostics = 100

// Severity says whether a diagnostic stops a script.
type Severity string

// The severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Diagnostic is one thing wrong with a source. It holds no secret: not in its
// words, not in its excerpt.
type Diagnostic struct {
	Code     Code
	Severity Severity
	Span     Span
	Text     string // what is wrong: lower case, no period
	Help     string // what to do about it
	Excerpt  Excerpt
}

// Excerpt is the line of the source a diagnostic is about. Secrets in it are
// hidden and long lines cut, so its columns are its own.
type Excerpt struct {
	Line  string // empty if there is nothing to show
	Col   int    // where the marked part begins, from 0, in code points
	Width int    // of the marked part, at least 1
}

// Diagnose is an error about span, with its excerpt.
func (t *Tree) Diagnose(code Code, span Span, text, help string) Diagnostic {
	return t.Illustrate(Diagnostic{Code: code, Severity: Error, Span: span, Text: text, Help: help})
}

// Illustrate is d with its excerpt.
func (t *Tree) Illustrate(d Diagnostic) Diagnostic {
	d.Excerpt = t.excerpt(d.Span)
	return d
}

// Illustrated is d with its excerpt of a source that is no SCL.
func Illustrated(source string, d Diagnostic) Diagnostic {
	return (&Tree{src: source}).Illustrate(d)
}

// String is the diagnostic as people read it, on up to four lines:
//
//	thermal.scl:3:21: error[SCL0209]: 90W is a power, and cpu.temp is a temperature
//	(condition (> cpu.temp 90W))
//	                       ^^^
//	help: write 90C, or 90
func (d Diagnostic) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s[%s]: %s\n", d.Span.File, d.Span.Start.Line, d.Span.Start.Col, d.Severity, d.Code, d.Text)
	if d.Excerpt.Line != "" {
		fmt.Fprintf(&b, "%s\n%s%s\n", d.Excerpt.Line, strings.Repeat(" ", d.Excerpt.Col), strings.Repeat("^", d.Excerpt.Width))
	}
	if d.Help != "" {
		fmt.Fprintf(&b, "help: %s\n", d.Help)
	}
	return b.String()
}

// MarshalJSON is the diagnostic for machines.
func (d Diagnostic) MarshalJSON() ([]byte, error) {
	return plainJSON(struct {
		File     string   `json:"file"`
		Line     int      `json:"line"`
		Col      int      `json:"col"`
		EndLine  int      `json:"endLine"`
		EndCol   int      `json:"endCol"`
		Severity Severity `json:"severity"`
		Code     Code     `json:"code"`
		Text     string   `json:"text"`
		Help     string   `json:"help,omitempty"`
		Source   string   `json:"source,omitempty"`
	}{
		d.Span.File, d.Span.Start.Line, d.Span.Start.Col, d.Span.End.Line, d.Span.End.Col,
		d.Severity, d.Code, d.Text, d.Help, d.Excerpt.Line,
	})
}

// Diagnostics is all that is wrong with a source, in the order of the source.
type Diagnostics []Diagnostic

// Errors is how many of them are errors.
func (ds Diagnostics) Errors() int {
	n := 0
	for _, d := range ds {
		if d.Severity == Error {
			n++
		}
	}
	return n
}

// String is all of them as people read them.
func (ds Diagnostics) String() string {
	var b strings.Builder
	for _, d := range ds {
		b.WriteString(d.String())
	}
	return b.String()
}

// JSON is an array of all of them, for machines.
func (ds Diagnostics) JSON() []byte {
	if ds == nil {
		ds = Diagnostics{}
	}
	text, err := plainJSON(ds)
	if err != nil { // there is nothing in a Diagnostic that JSON can't hold
		return []byte("[]")
	}
	return text
}

// plainJSON is v as JSON with "<" left as it is.
func plainJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// How much of a line an excerpt shows before the beginning of its span and
// after it, in bytes.
const (
	excerptBefore = 160
	excerptAfter  = 160
)

// excerpt cuts out the line on which span begins.
func (t *Tree) excerpt(span Span) Excerpt {
	at := min(span.Start.Offset, len(t.src))
	from, fromCut := t.lineStart(at)
	to, toCut := t.lineEnd(at)
	last := max(at, min(span.End.Offset, to))
	var line strings.Builder
	if fromCut {
		line.WriteString("…")
	}
	e := Excerpt{Col: -1}
	end := -1
	count := func() int { return utf8.RuneCountInString(line.String()) }
	for i := from; i < to; {
		if e.Col < 0 && i >= at {
			e.Col = count()
		}
		if end < 0 && i >= last {
			end = count()
		}
		if h, ok := t.hiddenAt(i); ok {
			if e.Col < 0 && h.end > at {
				e.Col = count()
			}
			line.WriteString(Hidden)
			i = h.end
			continue
		}
		r, size := utf8.DecodeRuneInString(t.src[i:])
		line.WriteRune(printable(r))
		i += size
	}
	if e.Col < 0 {
		e.Col = count()
	}
	if end < 0 {
		end = count()
	}
	e.Width = max(1, end-e.Col)
	if toCut {
		line.WriteString("…")
	}
	e.Line = line.String()
	return e
}

// printable keeps a source from moving the cursor of who reads its errors.
func printable(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case r == utf8.RuneError || !unicode.IsPrint(r):
		return '\uFFFD'
	}
	return r
}

func (t *Tree) lineStart(at int) (from int, cut bool) {
	least := max(0, at-excerptBefore)
	if i := strings.LastIndexByte(t.src[least:at], '\n'); i >= 0 {
		return least + i + 1, false
	}
	if least == 0 {
		return len(t.src[:at]) - len(strings.TrimPrefix(t.src[:at], "\uFEFF")), false
	}
	for least < at && !utf8.RuneStart(t.src[least]) {
		least++
	}
	return least, true
}

func (t *Tree) lineEnd(at int) (to int, cut bool) {
	most := min(len(t.src), at+excerptAfter)
	if i := strings.IndexByte(t.src[at:most], '\n'); i >= 0 {
		return len(strings.TrimSuffix(t.src[:at+i], "\r")), false
	}
	if most == len(t.src) || t.src[most] == '\n' {
		return most, false
	}
	for most > at && !utf8.RuneStart(t.src[most]) {
		most--
	}
	return most, true
}
