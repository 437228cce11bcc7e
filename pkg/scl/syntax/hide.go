package syntax

import (
	"sort"
	"strings"
)

// Hidden stands wherever a secret of a source would have been shown.
const Hidden = "(secret)"

// extent is a half-open range of offsets.
type extent struct{ start, end int }

// hide finds the secrets of a source: every string, and every other word,
// that follows the symbol password up to the end of its list. It has a small
// lexer of its own that never fails, so that nothing shows either in a source
// that can't be read: words next to "password" are hidden too (a forgotten
// quote), symbols that are nearly "password" or a piece of it count as it (a
// mistyped name), and comments are searched like the rest. Hiding too much only
// costs clarity.
func hide(src string) []extent {
	h := hider{src: src}
	h.scan(0, len(src), false)
	return h.found
}

type hider struct {
	src   string
	found []extent

	// While active, words are secrets. It ends with the list in which it began,
	// once there was something to hide.
	active bool
	depth  int
	any    bool
}

// scan looks at src[i:end]; inside a comment the marks of comments are space.
func (h *hider) scan(i, end int, comment bool) {
	for i < end {
		switch n := h.commentLength(i, end, comment); {
		case n > 0:
			inner := hider{src: h.src, found: h.found, active: h.active, any: h.any}
			text := strings.TrimSuffix(h.src[i:i+n], "|#")
			inside := strings.TrimPrefix(strings.TrimPrefix(text, ";"), "#|")
			inner.scan(i+len(text)-len(inside), i+len(text), true)
			h.found = inner.found
			i += n
		case h.src[i] == '"':
			n, _ := stringLength(h.src[i:end])
			h.word(i, i+n)
			if !h.active && endsSensitive(h.src[i+1:i+n]) {
				// Quotes out of step: what looks like a string is the source
				// between two strings, and ends with "(password ".
				h.active, h.depth, h.any = true, 0, true
			}
			i += n
		default:
			i = h.step(i, end)
		}
	}
}

// step takes the word, the bracket or the space at i.
func (h *hider) step(i, end int) int {
	switch c := h.src[i]; c {
	case '(', '[':
		h.depth++
		return i + 1
	case '#':
		if strings.HasPrefix(h.src[i:end], "#;") {
			return i + 2
		}
	case ')', ']':
		if h.depth--; h.depth < 0 && h.any {
			h.active = false
		}
		return i + 1
	}
	n := wordLength(h.src[i:end])
	if h.active {
		n = solidLength(h.src[i:end])
	}
	if n == 0 {
		return i + 1
	}
	word := h.src[i : i+n]
	if word != "sealed" && word != "secret" {
		h.word(i, i+n)
	}
	if !h.active && sensitive(word) {
		h.active, h.depth, h.any = true, 0, false
	}
	return i + n
}

func (h *hider) word(start, end int) {
	if h.active {
		h.found = append(h.found, extent{start, end})
		h.any = true
	}
}

// solidLength is the length of what stands before the next space, bracket,
// quote or comment: more than a word, for a secret may hold any character.
func solidLength(s string) int {
	if i := strings.IndexAny(s, " \t\r\n()[]\";"); i >= 0 {
		return i
	}
	return len(s)
}

// commentLength is the length of the comment at i, 0 if there is none.
func (h *hider) commentLength(i, end int, comment bool) int {
	rest := h.src[i:end]
	switch {
	case comment:
		return 0
	case rest[0] == ';':
		return lineLength(rest)
	case strings.HasPrefix(rest, "#|"):
		return blockLength(rest)
	}
	return 0
}

// blockLength is the length of the block comment with which src begins.
func blockLength(src string) int {
	for depth, i := 0, 0; i+1 < len(src); i++ {
		switch src[i : i+2] {
		case "#|":
			depth++
			i++
		case "|#":
			depth--
			i++
			if depth == 0 {
				return i + 1
			}
		}
	}
	return len(src)
}

// sensitive reports whether a symbol announces a secret.
func sensitive(symbol string) bool {
	const name, near = "password", 2
	if len(symbol) > 64 {
		return false
	}
	symbol = strings.ReplaceAll(strings.ToLower(symbol), "_", "-")
	switch symbol {
	case "passwd", "pwd", "passphrase":
		return true
	}
	piece := len(symbol) > near && (strings.HasPrefix(name, symbol) || strings.HasSuffix(name, symbol))
	return piece || strings.HasSuffix(symbol, "-"+name) ||
		len(symbol) >= len(name)-near && len(symbol) <= len(name)+near && distance(symbol, name) <= near
}

// endsSensitive reports whether s, which may end with a quote, ends with a
// symbol that announces a secret, apart from space and brackets.
func endsSensitive(s string) bool {
	s = strings.TrimRight(strings.TrimSuffix(s, `"`), " \t\r\n([")
	i := len(s)
	for i > 0 && len(s)-i < 64 && isWord(rune(s[i-1])) {
		i--
	}
	return sensitive(s[i:])
}

// hiddenAt is the hidden extent that holds the offset at.
func (t *Tree) hiddenAt(at int) (extent, bool) {
	i := sort.Search(len(t.hidden), func(i int) bool { return t.hidden[i].end > at })
	if i < len(t.hidden) && t.hidden[i].start <= at {
		return t.hidden[i], true
	}
	return extent{}, false
}

// Hide makes the nodes secrets of the tree, whatever stands before them. It must
// not be called once the tree is shared.
func (t *Tree) Hide(nodes ...*Node) {
	all := t.hidden
	for _, n := range nodes {
		all = append(all, extent{n.Span.Start.Offset, n.Span.End.Offset})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].start < all[j].start })
	t.hidden = nil
	for _, e := range all {
		if last := len(t.hidden) - 1; last >= 0 && e.start < t.hidden[last].end {
			t.hidden[last].end = max(t.hidden[last].end, e.end)
			continue
		}
		t.hidden = append(t.hidden, e)
	}
}

// Range is a half-open range of offsets in a source.
type Range struct{ Start, End int }

// CommentSecrets are the secrets in the comments of a source that can be read.
func CommentSecrets(src []byte) []Range {
	t, _ := Read("", src)
	var found []Range
	var visit func(n *Node)
	visit = func(n *Node) {
		for _, c := range n.notes {
			end := c.start + len(c.text)
			for at := c.start; at < end; at++ {
				h, hidden := t.hiddenAt(at)
				if !hidden {
					continue
				}
				found = append(found, Range{h.start, h.end})
				at = h.end
			}
		}
		for _, sub := range n.List {
			visit(sub)
		}
	}
	visit(t.root)
	return found
}
