package compile

import (
	"bytes"
	"fmt"
	"sort"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// Rewrite replaces every literal secret of p, which was compiled from src, by
// (sealed "…") with what seal makes of it. The result compiles to the same
// program with Sealed in place of Literal. Secrets in comments, which nobody
// needs, are blanked. It is an error if seal fails; nothing is returned then.
func Rewrite(src []byte, p *scl.Program, seal func(scl.Secret) (string, error)) ([]byte, error) {
	var edits []edit
	for s := range p.Secrets() {
		if s.Literal.Empty() {
			continue
		}
		sealed, err := seal(s)
		if err != nil {
			return nil, fmt.Errorf("seal the password in line %d: %w", s.Span.Start.Line, err)
		}
		edits = append(edits, edit{s.Span.Start.Offset, s.Span.End.Offset, "(sealed " + syntax.Quote(sealed) + ")"})
	}
	for _, e := range syntax.CommentSecrets(src) {
		edits = append(edits, edit{e.Start, e.End, syntax.Hidden})
	}
	return apply(src, edits), nil
}

// edit replaces src[start:end].
type edit struct {
	start, end int
	text       string
}

func apply(src []byte, edits []edit) []byte {
	sort.Slice(edits, func(i, j int) bool { return edits[i].start < edits[j].start })
	var out bytes.Buffer
	at := 0
	for _, e := range edits {
		out.Write(src[at:e.start])
		out.WriteString(e.text)
		at = e.end
	}
	out.Write(src[at:])
	return out.Bytes()
}
