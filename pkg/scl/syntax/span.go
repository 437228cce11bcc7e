// Package syntax reads SCL text into a tree in which every node has a span, and
// prints it back. It knows no form and no type.
package syntax

// Pos is a place in a source: line and column count from 1, the column in
// Unicode code points, the offset in bytes from 0.
type Pos struct {
	Line, Col int
	Offset    int
}

// Span is the half-open range of a piece of source.
type Span struct {
	File       string
	Start, End Pos
}
