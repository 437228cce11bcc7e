// Package scan walks a JSON text once, from its beginning to its end, and hands
// out the few members that its caller reads. It exists because a rack's sensors
// are read every few seconds and a BMC's answer is mostly what nobody asked for:
// thresholds, ranges and links. It is pure.
//
// What a BMC sends is hostile until shown otherwise. Every byte is checked, also
// of what is skipped: the package accepts the texts that encoding/json accepts
// and no others, down to the depth that it is told. It allocates nothing. What it
// hands out are pieces of the text, for the types of package redfish to read.
//
// Names are compared as they are written: encoding/json also takes "NAME" for
// "Name", which DSP0266 (7.5) forbids.
package scan

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/bits"
)

// What can be wrong with a text.
var (
	ErrSyntax = errors.New("the text is not JSON")
	ErrDeep   = errors.New("the text is nested too deep")
)

// Scanner stands before a value of its text. It is for one goroutine. After the
// first error it stands at the end and gives nothing.
type Scanner struct {
	text []byte
	at   int
	end  int // of the last object or list, without the space behind it
	room int // levels that may still be opened
	err  error
}

// New walks text, in which objects and lists may stand at most depth deep in
// each other.
func New(text []byte, depth int) *Scanner {
	s := &Scanner{text: text, room: depth}
	s.space()
	return s
}

// Valid is nil if text is one JSON value of at most that depth.
func Valid(text []byte, depth int) error {
	s := New(text, depth)
	s.Skip()
	return s.End()
}

// End is the first error. Without one it is nil if the text ends here.
func (s *Scanner) End() error {
	if s.err == nil && s.at < len(s.text) {
		s.fail(ErrSyntax)
	}
	return s.err
}

func (s *Scanner) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	s.at = len(s.text)
}

// next is the byte before which it stands, 0 at the end. No JSON has a 0 outside
// of a text.
func (s *Scanner) next() byte {
	if s.at < len(s.text) {
		return s.text[s.at]
	}
	return 0
}

// Members is the sequence of the names of an object: for name := range s.Members.
// Within the loop the scanner stands before the member's value; what the loop does
// not read is skipped. A value that is no object is skipped and has no members.
func (s *Scanner) Members(yield func(name []byte) bool) {
	if s.next() != '{' {
		s.Skip()
		return
	}
	wanted := true
	for more := s.open('}'); more; more = s.another('}') {
		name, before := s.name(), s.at
		wanted = wanted && s.err == nil && yield(name)
		if s.at == before {
			s.Skip()
		}
	}
}

// Items is the sequence of the values of a list: for range s.Items. Within the loop
// the scanner stands before one of them; what the loop does not read is skipped. A
// value that is no list is skipped and has no items.
func (s *Scanner) Items(yield func() bool) {
	if s.next() != '[' {
		s.Skip()
		return
	}
	wanted := true
	for more := s.open(']'); more; more = s.another(']') {
		before := s.at
		if wanted = wanted && yield(); s.at == before {
			s.Skip()
		}
	}
}

// Raw reads a value of any kind and returns it as it is written. It is a piece of
// the text; empty after an error.
func (s *Scanner) Raw() []byte {
	from := s.at
	to := s.value()
	if s.err != nil {
		return nil
	}
	return s.text[from:to]
}

// Skip reads a value and forgets it.
func (s *Scanner) Skip() { s.value() }

// value reads a value with the space behind it, and tells where it ended.
func (s *Scanner) value() (end int) {
	switch c := s.next(); c {
	case '"':
		s.quoted()
	case '{', '[':
		closing := c + 2 // } and ] stand two behind in ASCII
		for more := s.open(closing); more; more = s.another(closing) {
			if c == '{' {
				s.name()
			}
			s.value()
		}
		return s.end
	case 't':
		s.word("true")
	case 'f':
		s.word("false")
	case 'n':
		s.word("null")
	default:
		s.number()
	}
	end = s.at
	s.space()
	return end
}

// open enters an object or a list, and reports whether it has anything in it.
func (s *Scanner) open(closing byte) bool {
	if s.room--; s.room < 0 {
		s.fail(ErrDeep)
		return false
	}
	s.at++
	s.space()
	if s.next() != closing {
		return s.err == nil
	}
	s.leave()
	return false
}

// another goes on to the next entry, and reports whether there is one.
func (s *Scanner) another(closing byte) bool {
	switch s.next() {
	case ',':
		s.at++
		s.space()
		return true
	case closing:
		s.leave()
		return false
	}
	s.fail(ErrSyntax)
	return false
}

func (s *Scanner) leave() {
	s.room++
	s.at++
	s.end = s.at
	s.space()
}

// name reads the name of a member and the colon.
func (s *Scanner) name() []byte {
	from := s.at
	if s.next() != '"' {
		s.fail(ErrSyntax)
		return nil
	}
	escaped := s.quoted()
	if s.err != nil {
		return nil
	}
	name := s.text[from+1 : s.at-1]
	s.space()
	if s.next() != ':' {
		s.fail(ErrSyntax)
		return nil
	}
	s.at++
	s.space()
	if escaped {
		var plain string
		_ = json.Unmarshal(s.text[from:from+len(name)+2], &plain) // it was checked
		return []byte(plain)
	}
	return name
}

func (s *Scanner) word(w string) {
	if rest := s.text[s.at:]; len(rest) < len(w) || string(rest[:len(w)]) != w {
		s.fail(ErrSyntax)
		return
	}
	s.at += len(w)
}

// number reads -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
func (s *Scanner) number() {
	if s.next() == '-' {
		s.at++
	}
	if s.next() == '0' {
		s.at++
	} else {
		s.digits()
	}
	if s.next() == '.' {
		s.at++
		s.digits()
	}
	if s.next()|0x20 == 'e' {
		s.at++
		if c := s.next(); c == '+' || c == '-' {
			s.at++
		}
		s.digits()
	}
}

// digits reads one digit or more.
func (s *Scanner) digits() {
	from := s.at
	for s.at < len(s.text) && s.text[s.at]-'0' <= 9 {
		s.at++
	}
	if s.at == from {
		s.fail(ErrSyntax)
	}
}

// Eight bytes at once, each in its own lane of a word.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// quoted reads a text with its quotes, and reports whether it has escapes. The
// bytes that matter are searched for eight at a time: the lowest of the bits
// that a lane below 0x20, a quote or a backslash sets is always right, those
// above may be echoes of it.
func (s *Scanner) quoted() (escaped bool) {
	s.at++
	for {
		rest, i := s.text[s.at:], 0
		for ; i+8 <= len(rest); i += 8 {
			w := binary.LittleEndian.Uint64(rest[i:])
			quote, slash := w^ones*'"', w^ones*'\\'
			found := ((w-ones*0x20)&^w | (quote-ones)&^quote | (slash-ones)&^slash) & highs
			if found != 0 {
				i += bits.TrailingZeros64(found) / 8
				break
			}
		}
		s.at += i
		switch c := s.next(); {
		case c == '"':
			s.at++
			return escaped
		case c < 0x20: // or the end
			s.fail(ErrSyntax)
			return escaped
		case c == '\\':
			escaped = true
			s.escape()
		default:
			s.at++
		}
	}
}

// escape reads a backslash and what it stands for.
func (s *Scanner) escape() {
	s.at++
	switch s.next() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.at++
	case 'u':
		s.at++
		for range 4 {
			if !hex(s.next()) {
				s.fail(ErrSyntax)
				return
			}
			s.at++
		}
	default:
		s.fail(ErrSyntax)
	}
}

func hex(c byte) bool { return c-'0' <= 9 || c|0x20 >= 'a' && c|0x20 <= 'f' }

// space goes over what may stand between two words. BMCs indent: after a line
// there are mostly blanks.
func (s *Scanner) space() {
	if s.next() > ' ' {
		return
	}
	rest, i := s.text[s.at:], 0
	for i < len(rest) && (rest[i] == ' ' || rest[i] == '\n' || rest[i] == '\r' || rest[i] == '\t') {
		for i++; i+8 <= len(rest); i += 8 {
			if other := binary.LittleEndian.Uint64(rest[i:]) ^ ones*' '; other != 0 {
				i += bits.TrailingZeros64(other) / 8
				break
			}
		}
	}
	s.at += i
}
