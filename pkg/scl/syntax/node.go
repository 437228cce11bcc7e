package syntax

import "strings"

// Kind is the kind of a Node.
type Kind uint8

// The kinds of node.
const (
	List   Kind = iota + 1 // ( … ) or [ … ]
	Symbol                 // cpu.temp
	String                 // "r07-u01"
	Number                 // 42 or, with a unit, 90C
	Bool                   // #t, #f, true, false
)

// String is the kind as an error names it.
func (k Kind) String() string {
	switch k {
	case List:
		return "list"
	case Symbol:
		return "symbol"
	case String:
		return "string"
	case Number:
		return "number"
	case Bool:
		return "truth value"
	}
	return "nothing"
}

// Node is one datum of a source. A tree is immutable once read and safe for
// concurrent use.
type Node struct {
	Kind Kind
	// Text is the name of a symbol, the value of a string (escapes resolved), a
	// number as written with its unit, or "#t" or "#f".
	Text string
	Num  float64 // of a number, without regard to its unit
	Unit string  // of a number, as written; empty if it has none
	List []*Node // of a list
	Span Span

	notes []note // of a list: the comments in it
	blank bool   // an empty line stands before it
}

// note is a comment inside a list.
type note struct {
	at    int    // it stands before the list's datum of this index
	text  string // as written
	line  bool   // it ends with the line
	own   bool   // nothing stands before it on its line
	blank bool   // an empty line stands before it
	start int    // its offset in the source
}

// Is reports whether n is a list that begins with the symbol name; "-" and "_"
// are equal in it.
func (n *Node) Is(name string) bool { return n.Head() == name }

// Head is the symbol with which the list n begins, with "-" for every "_"; ""
// if n is no list or begins with no symbol.
func (n *Node) Head() string {
	if n.Kind != List || len(n.List) == 0 || n.List[0].Kind != Symbol {
		return ""
	}
	return strings.ReplaceAll(n.List[0].Text, "_", "-")
}

// Args are the data of the list n after its first.
func (n *Node) Args() []*Node {
	if n.Kind != List || len(n.List) == 0 {
		return nil
	}
	return n.List[1:]
}

// Equal reports whether n and m are the same datum, wherever they stand and
// however they are laid out.
func (n *Node) Equal(m *Node) bool {
	if n.Kind != m.Kind || n.Text != m.Text || len(n.List) != len(m.List) {
		return false
	}
	for i := range n.List {
		if !n.List[i].Equal(m.List[i]) {
			return false
		}
	}
	return true
}
