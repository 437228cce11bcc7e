// Package source reads a site catalogue from YAML. It is strict, and tells all that is
// wrong with a file at once, each with its line and column and what was meant.
//
// The package is pure.
package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// The codes of what can be wrong with a catalogue. Each is told in docs/catalogue.md
// and never reused.
const (
	NotYAML     syntax.Code = "CAT0101" // it can't be read at all
	UnknownKey  syntax.Code = "CAT0102"
	SameKey     syntax.Code = "CAT0103" // a key is there twice
	WrongType   syntax.Code = "CAT0104"
	Missing     syntax.Code = "CAT0105"
	BadName     syntax.Code = "CAT0106"
	SameName    syntax.Code = "CAT0107" // two things have one name
	UnknownName syntax.Code = "CAT0108" // a rack is of a site that is none
	BadValue    syntax.Code = "CAT0109"
	Overlap     syntax.Code = "CAT0110" // networks, or a BMC in the network of another rack
	BadTarget   syntax.Code = "CAT0111"
	TooMuch     syntax.Code = "CAT0112"
	NoShare     syntax.Code = "CAT0113" // an anchor, an alias, a merge or a tag
)

// Read makes a catalogue of YAML, or tells all that is wrong with it in the order of
// the file; which is then nil. It terminates soon on any input.
func Read(file string, text []byte) (*catalogue.Catalogue, syntax.Diagnostics) {
	r := &reader{file: file, src: string(text)}
	r.lines = append(r.lines, 0)
	for i, b := range text {
		if b == '\n' {
			r.lines = append(r.lines, i+1)
		}
	}
	c := r.catalogue(text)
	slices.SortStableFunc(r.found, func(a, b syntax.Diagnostic) int { return a.Span.Start.Offset - b.Span.Start.Offset })
	if len(r.found) > syntax.MaxDiagnostics {
		r.found = r.found[:syntax.MaxDiagnostics]
	}
	for i := range r.found {
		r.found[i] = syntax.Illustrated(r.src, r.found[i])
	}
	if len(r.found) > 0 {
		return nil, r.found
	}
	return c, nil
}

// reader reads one file.
type reader struct {
	file, src string
	lines     []int // where each begins, in bytes
	found     syntax.Diagnostics
}

// document is the one document of the file, nil if there is none that can be read.
func (r *reader) document(source []byte) *yaml.Node {
	switch {
	case len(source) > catalogue.MaxSource:
		r.failAt(1, 1, 1, TooMuch, fmt.Sprintf("the file has more than %d MiB", catalogue.MaxSource>>20), "give each cluster of coordinators a catalogue of its own")
		return nil
	case !utf8.Valid(source):
		r.failAt(1, 1, 1, NotYAML, "the file is not UTF-8", "save it as UTF-8")
		return nil
	}
	d := yaml.NewDecoder(bytes.NewReader(source))
	first, second := &yaml.Node{}, &yaml.Node{}
	switch err := d.Decode(first); {
	case errors.Is(err, io.EOF) || err == nil && first.Kind == 0:
		r.failAt(1, 1, 1, Missing, "the file says nothing", "it has sites: and racks:, see chiba catalogue --help")
		return nil
	case err != nil:
		r.broken(err)
		return nil
	}
	switch err := d.Decode(second); {
	case err == nil:
		r.fail(second, NotYAML, "a second document begins here", "a catalogue is one document: take the --- away")
	case !errors.Is(err, io.EOF):
		r.broken(err)
		return nil
	}
	if len(first.Content) != 1 {
		r.failAt(1, 1, 1, Missing, "the file says nothing", "it has sites: and racks:, see chiba catalogue --help")
		return nil
	}
	return first.Content[0]
}

// broken tells what the YAML reader can't read: it names a line, if anything.
func (r *reader) broken(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		number, why, _ := strings.Cut(rest, ": ")
		if n, numErr := strconv.Atoi(number); numErr == nil {
			line, text = min(max(n, 1), len(r.lines)), why
		}
	}
	from := r.src[r.lines[line-1]:]
	indent := len(from) - len(strings.TrimLeft(from, " \t"))
	r.failAt(line, indent+1, 1, NotYAML, "this is not YAML: "+strings.Map(shown, text), "look at the indentation, the colons and the quotes around this line")
}

// full reports whether enough is wrong.
func (r *reader) full() bool { return len(r.found) >= 4*syntax.MaxDiagnostics }

func (r *reader) fail(n *yaml.Node, code syntax.Code, text, help string) {
	width := utf8.RuneCountInString(n.Value)
	if n.Kind != yaml.ScalarNode || width == 0 || strings.Contains(n.Value, "\n") {
		width = 1
	}
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		width += 2
	}
	r.failAt(n.Line, n.Column, width, code, text, help)
}

func (r *reader) failAt(line, col, width int, code syntax.Code, text, help string) {
	if r.full() {
		return
	}
	line = min(max(line, 1), len(r.lines))
	at := r.lines[line-1]
	for range max(col, 1) - 1 {
		_, size := utf8.DecodeRuneInString(r.src[at:])
		at += size
	}
	end := at
	for range width {
		_, size := utf8.DecodeRuneInString(r.src[end:])
		end += size
	}
	r.found = append(r.found, syntax.Diagnostic{
		Code: code, Severity: syntax.Error, Text: text, Help: help,
		Span: syntax.Span{
			File: r.file, Start: syntax.Pos{Line: line, Col: max(col, 1), Offset: at},
			End: syntax.Pos{Line: line, Col: max(col, 1) + width, Offset: end},
		},
	})
}

// kindOf is what a node is, for a person.
func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	case n.Tag == "!!bool":
		return "the truth value " + n.Value
	case n.Tag == "!!int", n.Tag == "!!float":
		return "the number " + n.Value
	}
	return "the text " + syntax.Quote(n.Value)
}

// plain reports whether a node is what stands there: what is said once and used in
// several places is easily changed in more of them than was meant.
func (r *reader) plain(n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		r.fail(n, NoShare, "a catalogue has no aliases", "write out what *"+n.Value+" stands for")
	case n.Anchor != "":
		r.fail(n, NoShare, "a catalogue has no anchors", "take &"+n.Anchor+" away, and write out what is used elsewhere")
	case n.Tag == "!!merge":
		r.fail(n, NoShare, "a catalogue has no merged mappings", "write out what it merges")
	case n.Style&yaml.TaggedStyle != 0:
		r.fail(n, NoShare, "a catalogue has no tags", "take "+n.Tag+" away, and quote what is to be text")
	default:
		return true
	}
	return false
}

// field is what may stand under a key.
type field struct {
	name string
	need bool
	read func(n *yaml.Node)
}

// fields reads a mapping with those fields. What is said in help begins a sentence.
func (r *reader) fields(n *yaml.Node, what string, all ...field) {
	if !r.plain(n) {
		return
	}
	names := make([]string, len(all))
	for i, f := range all {
		names[i] = f.name
	}
	if n.Kind != yaml.MappingNode {
		r.fail(n, WrongType, what+" is a mapping, and this is "+kindOf(n), "its keys are "+strings.Join(names, ", "))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !r.key(key, seen) {
			continue
		}
		at := slices.Index(names, key.Value)
		switch {
		case at < 0:
			r.fail(key, UnknownKey, fmt.Sprintf("%s has no key %s", what, syntax.Quote(key.Value)), meant(key.Value, names, "its keys are "))
		case value.Tag == "!!null" && r.plain(value):
			r.fail(key, WrongType, key.Value+" has no value", "write one behind the colon, or take the key away")
		default:
			all[at].read(value)
		}
	}
	for _, f := range all {
		if f.need && !seen[f.name] {
			r.fail(n, Missing, fmt.Sprintf("%s has no %s", what, f.name), "write "+f.name+": …")
		}
	}
}

// key notes a key that is text and was not there before.
func (r *reader) key(key *yaml.Node, seen map[string]bool) bool {
	switch {
	case !r.plain(key):
		return false
	case key.Kind != yaml.ScalarNode || key.Tag == "!!null":
		r.fail(key, WrongType, "a key is a word, and this is "+kindOf(key), "")
		return false
	case seen[key.Value]:
		r.fail(key, SameKey, "the key "+syntax.Quote(key.Value)+" is there twice", "take one of them away")
		return false
	}
	seen[key.Value] = true
	return true
}

// meant says which of names was meant, or lists them.
func meant(word string, names []string, all string) string {
	if near, ok := syntax.Nearest(word, names); ok {
		return "did you mean " + near + "?"
	}
	const most = 12
	if len(names) == 0 || len(names) > most {
		return ""
	}
	return all + strings.Join(names, ", ")
}

// list reads a list of at most most things.
func (r *reader) list(n *yaml.Node, what string, most int, each func(*yaml.Node)) {
	switch {
	case !r.plain(n):
	case n.Kind != yaml.SequenceNode:
		r.fail(n, WrongType, what+" is a list, and this is "+kindOf(n), "begin each of its lines with -")
	case len(n.Content) > most:
		r.fail(n, TooMuch, fmt.Sprintf("%s has %d entries, and may have %d", what, len(n.Content), most), "")
	default:
		for _, c := range n.Content {
			each(c)
		}
	}
}

// text reads a text that can be shown on a line.
func (r *reader) text(n *yaml.Node, what string) (string, bool) {
	switch {
	case !r.plain(n):
		return "", false
	case n.Kind != yaml.ScalarNode || n.Tag != "!!str" && n.Tag != "!!timestamp":
		help := "write it in one line"
		if n.Kind == yaml.ScalarNode {
			help = `put it into quotes: "` + n.Value + `"`
		}
		r.fail(n, WrongType, what+" is text, and this is "+kindOf(n), help)
		return "", false
	case n.Value == "" || len(n.Value) > catalogue.MaxText || !printable(n.Value):
		r.fail(n, BadValue, fmt.Sprintf("%s is text of 1 to %d bytes in one line", what, catalogue.MaxText), "")
		return "", false
	}
	return n.Value, true
}

// count reads a whole number between two bounds.
func (r *reader) count(n *yaml.Node, what string, least, most int) int {
	if !r.plain(n) {
		return 0
	}
	v, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil {
		r.fail(n, WrongType, fmt.Sprintf("%s is a number, and this is %s", what, kindOf(n)), fmt.Sprintf("it is from %d to %d", least, most))
		return 0
	}
	if v < least || v > most {
		r.fail(n, BadValue, fmt.Sprintf("%s is from %d to %d", what, least, most), "")
		return 0
	}
	return v
}

// yes reads a truth value.
func (r *reader) yes(n *yaml.Node, what string) bool {
	if !r.plain(n) {
		return false
	}
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		r.fail(n, WrongType, what+" is true or false, and this is "+kindOf(n), "")
		return false
	}
	return n.Value == "true" || n.Value == "True" || n.Value == "TRUE"
}
