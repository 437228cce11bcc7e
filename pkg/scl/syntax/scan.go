package syntax

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEOF tokenKind = iota
	tokOpen
	tokClose
	tokAtom
	tokComment // a line or block comment
	tokSkip    // #; which comments out the next datum
)

// token is a piece of source. Atoms carry their node.
type token struct {
	kind     tokenKind
	text     string // as written
	span     Span
	newlines int // line ends in the space before it
	atom     *Node
}

// scanner cuts a valid UTF-8 source into tokens. It reports what is wrong and
// goes on; every call of next consumes at least one byte before the end.
type scanner struct {
	file   string
	src    string
	pos    Pos
	report func(code Code, span Span, text, help string)
}

func (s *scanner) next() token {
	for {
		newlines := s.space()
		start := s.pos
		kind, atom, ok := s.token()
		if !ok {
			continue // reported; look for the next token
		}
		span := s.since(start)
		if atom != nil {
			atom.Span = span
			atom.blank = newlines > 1
		}
		return token{
			kind: kind, text: s.src[start.Offset:s.pos.Offset], span: span, newlines: newlines, atom: atom,
		}
	}
}

func (s *scanner) token() (kind tokenKind, atom *Node, ok bool) {
	if s.pos.Offset >= len(s.src) {
		return tokEOF, nil, true
	}
	switch rest := s.src[s.pos.Offset:]; rest[0] {
	case '(', '[':
		s.skip(1)
		return tokOpen, nil, true
	case ')', ']':
		s.skip(1)
		return tokClose, nil, true
	case ';':
		s.skip(lineLength(rest))
		return tokComment, nil, true
	case '"':
		atom, ok = s.text()
		return tokAtom, atom, ok
	case '#':
		return s.hash()
	}
	atom, ok = s.word()
	return tokAtom, atom, ok
}

// space skips white space and counts the line ends in it.
func (s *scanner) space() (newlines int) {
	line := s.pos.Line
	end := s.pos.Offset
	for end < len(s.src) && isSpace(s.src[end]) {
		end++
	}
	s.skip(end - s.pos.Offset)
	return s.pos.Line - line
}

// skip moves n bytes on and keeps count of lines and columns.
func (s *scanner) skip(n int) { s.pos = s.pos.after(s.src[s.pos.Offset : s.pos.Offset+n]) }

// after is the position behind text, which begins at p.
func (p Pos) after(text string) Pos {
	for i := range len(text) {
		switch c := text[i]; {
		case c == '\n':
			p.Line++
			p.Col = 1
		case utf8.RuneStart(c):
			p.Col++
		}
	}
	p.Offset += len(text)
	return p
}

func (s *scanner) since(start Pos) Span { return Span{File: s.file, Start: start, End: s.pos} }

// hash reads what begins with "#".
func (s *scanner) hash() (kind tokenKind, atom *Node, ok bool) {
	start := s.pos
	rest := s.src[start.Offset:]
	switch {
	case strings.HasPrefix(rest, "#|"):
		return tokComment, nil, s.block()
	case strings.HasPrefix(rest, "#;"):
		s.skip(2)
		return tokSkip, nil, true
	}
	n := 1 + wordLength(rest[1:])
	s.skip(n)
	if word := rest[:n]; word == "#t" || word == "#f" {
		return tokAtom, &Node{Kind: Bool, Text: word}, true
	}
	s.report(BadCharacter, s.since(start), `unexpected "#"`, `truth values are written #t and #f, comments "; …", "#| … |#" and "#; …"`)
	return tokAtom, nil, false
}

// block skips a block comment; they nest.
func (s *scanner) block() bool {
	start := s.pos
	rest := s.src[start.Offset:]
	for depth, i := 0, 0; i+1 < len(rest); i++ {
		switch rest[i : i+2] {
		case "#|":
			depth++
			i++
		case "|#":
			depth--
			i++
			if depth == 0 {
				s.skip(i + 1)
				return true
			}
		}
	}
	s.skip(2)
	opening := s.since(start)
	s.skip(len(rest) - 2)
	s.report(OpenComment, opening, "this block comment is never closed", `close it with "|#"; block comments nest, so every "#|" needs its own`)
	return false
}

// text reads a string.
func (s *scanner) text() (*Node, bool) {
	start := s.pos
	n, closed := stringLength(s.src[start.Offset:])
	if !closed {
		s.skip(1)
		opening := s.since(start)
		s.skip(n - 1)
		s.report(OpenString, opening, "this string is never closed", `add a '"'; it may also be missing from a string further up`)
		return nil, false
	}
	if n-2 > MaxString {
		s.skip(n)
		s.report(LongString, s.since(start), "this string is longer than 1 MiB, the most a string may hold", "keep long texts elsewhere and refer to them by a URL")
		return nil, false
	}
	s.skip(1)
	value := s.unescape(n - 2)
	s.skip(1)
	return &Node{Kind: String, Text: value}, true
}

// stringLength is the length of the string with which src begins, quotes
// included, and whether it is closed.
func stringLength(src string) (n int, closed bool) {
	for i := 1; i < len(src); i++ {
		switch src[i] {
		case '\\':
			i++
		case '"':
			return i + 1, true
		}
	}
	return len(src), false
}

// unescape reads the next n bytes, the inside of a string.
func (s *scanner) unescape(n int) string {
	raw := s.src[s.pos.Offset : s.pos.Offset+n]
	if strings.IndexByte(raw, '\\') < 0 {
		s.skip(n)
		return raw
	}
	var b strings.Builder
	for raw != "" {
		plain := strings.IndexByte(raw, '\\')
		if plain < 0 {
			plain = len(raw)
		}
		b.WriteString(raw[:plain])
		s.skip(plain)
		raw = raw[plain:]
		if raw == "" {
			break
		}
		start := s.pos
		r, size, ok := escape(raw)
		s.skip(size)
		if ok {
			b.WriteRune(r)
		} else { // what is written stays unsaid: it may be part of a password
			s.report(BadEscape, s.since(start), "unknown escape in a string", `write \" \\ \n \t, or \u{1F600} for a character by its number`)
		}
		raw = raw[size:]
	}
	return b.String()
}

// escape reads the escape with which raw begins. size is at least 1, whether it
// is right or not.
func escape(raw string) (r rune, size int, ok bool) {
	if len(raw) < 2 {
		return 0, len(raw), false
	}
	switch raw[1] {
	case '"', '\\':
		return rune(raw[1]), 2, true
	case 'n':
		return '\n', 2, true
	case 't':
		return '\t', 2, true
	case 'u':
		return codePoint(raw)
	}
	_, n := utf8.DecodeRuneInString(raw[1:])
	return 0, 1 + n, false
}

// codePoint reads \u{…}.
func codePoint(raw string) (r rune, size int, ok bool) {
	const most = len(`\u{10FFFF}`)
	end := strings.IndexByte(raw[:min(len(raw), most)], '}')
	if end < 0 || raw[2] != '{' {
		return 0, 2, false
	}
	n, err := strconv.ParseUint(raw[3:end], 16, 32)
	if err != nil || n > unicode.MaxRune || !utf8.ValidRune(rune(n)) {
		return 0, end + 1, false
	}
	return rune(n), end + 1, true
}

// word reads a symbol, a number or a truth value.
func (s *scanner) word() (*Node, bool) {
	start := s.pos
	rest := s.src[start.Offset:]
	n := wordLength(rest)
	if n == 0 {
		r, size := utf8.DecodeRuneInString(rest)
		s.skip(size)
		text := "unexpected character"
		if !unicode.IsPrint(r) { // one that can be seen may be part of a password
			text += fmt.Sprintf(" U+%04X", r)
		}
		s.report(BadCharacter, s.since(start), text, "names, addresses and texts stand in double quotes")
		return nil, false
	}
	s.skip(n)
	word := rest[:n]
	switch {
	case looksNumeric(word):
		num, unit, ok := ParseNumber(word)
		if !ok {
			s.report(BadNumber, s.since(start), "this is no number", `a number is 42, -7, 3.25 or 1e3, with its unit directly behind it (90C, 500GB); anything else that begins with a digit, such as an address, stands in double quotes`)
			return nil, false
		}
		return &Node{Kind: Number, Text: word, Num: num, Unit: unit}, true
	case word == "true":
		return &Node{Kind: Bool, Text: "#t"}, true
	case word == "false":
		return &Node{Kind: Bool, Text: "#f"}, true
	case strings.Contains(word, "%"):
		s.report(BadCharacter, s.since(start), `unexpected character '%'`, "a percent sign stands directly behind a number, as in 80%")
		return nil, false
	}
	return &Node{Kind: Symbol, Text: word}, true
}

// ParseNumber reads a number with or without a unit directly behind it: "42",
// "-1.5e3", "90C", "80%". It says nothing about which units there are. A number
// beyond a float64 is none.
func ParseNumber(s string) (num float64, unit string, ok bool) {
	if !looksNumeric(s) {
		return 0, "", false
	}
	n := numberLength(s)
	num, err := strconv.ParseFloat(s[:n], 64)
	if err != nil || math.IsInf(num, 0) {
		return 0, "", false
	}
	unit = s[n:]
	return num, unit, unit == "" || unit == "%" || strings.IndexFunc(unit, notLetter) < 0
}

func notLetter(r rune) bool { return !unicode.IsLetter(r) }

// looksNumeric reports whether s begins with a digit, or with a sign and a
// digit: such a word is a number or wrong, never a symbol.
func looksNumeric(s string) bool {
	if s != "" && (s[0] == '-' || s[0] == '+') {
		s = s[1:]
	}
	return s != "" && isDigit(s[0])
}

// numberLength is how much of s is the number, the rest being its unit.
func numberLength(s string) int {
	i := 1 + digits(s[1:]) // the sign or the first digit
	if i+1 < len(s) && s[i] == '.' && isDigit(s[i+1]) {
		i += 1 + digits(s[i+1:])
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		exp := i + 1
		if exp < len(s) && (s[exp] == '-' || s[exp] == '+') {
			exp++
		}
		if n := digits(s[exp:]); n > 0 {
			i = exp + n
		}
	}
	return i
}

func digits(s string) int {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return i
		}
	}
	return len(s)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func lineLength(s string) int {
	if i := strings.IndexByte(s, '\n'); i >= 0 {
		return i
	}
	return len(s)
}

// wordLength is the length of the run of symbol characters, or of a number with
// its unit, with which s begins.
func wordLength(s string) int {
	for i, r := range s {
		if !isWord(r) {
			return i
		}
	}
	return len(s)
}

func isWord(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return true
	case r < utf8.RuneSelf:
		return strings.ContainsRune("._-+*/<>=!?%", r)
	}
	return unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r)
}
