package ctl

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

func TestDocumentsThatCanStandInAnother(t *testing.T) {
	for _, c := range []struct {
		join      joiner
		doc, want string // want "": refused
	}{
		{jsonJoin, " {\"a\": 1}\n", `{"a": 1}`},
		{jsonJoin, `{"a": 1} {"b": 2}`, ""},
		{jsonJoin, `{"a": `, ""},
		{jsonJoin, "\"\xff\"", ""},
		{jsonJoin, "", ""},
		{xmlJoin, `<a/>`, `<a/>`},
		{xmlJoin, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<!-- x --><a b=\"1\">t</a>\n", `<!-- x --><a b="1">t</a>`},
		{xmlJoin, `<a></b>`, ""},
		{xmlJoin, `<a/><b/>`, ""},
		{xmlJoin, `<a>`, ""},
		{xmlJoin, `text<a/>`, ""},
		{xmlJoin, `<a/><?xml version="1.0"?>`, ""},
		{xmlJoin, `<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>`, ""},
		{xmlJoin, `<?xml version="1.0" encoding="latin1"?><a/>`, ""},
		{xmlJoin, ``, ""},
	} {
		got, err := c.join.check([]byte(c.doc))
		if string(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v, want %q", c.doc, got, err, c.want)
		}
	}
}

// joined is what two nodes with the same document make.
func joined(t *testing.T, j joiner, doc []byte) string {
	t.Helper()
	var b strings.Builder
	d := &dumper{w: &b, join: j}
	if err := errors.Join(d.add(`u"1<`, doc), d.add("u2", doc), d.end()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func FuzzJoinXML(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0"?><a b="c">d<!-- e --><?f g?></a>`))
	f.Add([]byte(`<a><![CDATA[</node>]]></a>`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		clean, err := checkXML(doc)
		if err != nil {
			return
		}
		d := xml.NewDecoder(strings.NewReader(joined(t, xmlJoin, clean)))
		depth, nodes := 0, 0
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("two of %q are not well-formed: %v", clean, err)
			}
			switch token.(type) {
			case xml.StartElement:
				if depth++; depth == 2 {
					nodes++
				}
			case xml.EndElement:
				depth--
			}
		}
		if nodes != 2 {
			t.Errorf("two of %q are %d", clean, nodes)
		}
	})
}

func FuzzJoinJSON(f *testing.F) {
	f.Add([]byte(`{"a": [1, null, "}"]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		clean, err := jsonJoin.check(doc)
		if err != nil {
			return
		}
		var got map[string]json.RawMessage
		if err := json.Unmarshal([]byte(joined(t, jsonJoin, clean)), &got); err != nil || len(got) != 2 {
			t.Errorf("two of %q are %d, %v", clean, len(got), err)
		}
	})
}

// A TARGET argument is one target whatever is in it.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"all", "r01-*", "a,b", `x") (refresh all`, `\`, "a\nb", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		if strings.HasPrefix(arg, "(") {
			return // a form of SCL: command says whether it is one
		}
		p, diags := compile.Source("arguments", []byte("(refresh "+target(arg)+")"))
		if diags.Errors() == 0 && len(p.Steps) != 1 {
			t.Errorf("%q became %d steps", arg, len(p.Steps))
		}
	})
}
