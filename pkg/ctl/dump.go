package ctl

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func dumpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "dump json|xml [TARGET]",
		GroupID: cli.GroupSee,
		Short:   "write all that BMCs say about nodes as one document",
		Long: `Write all that BMCs say about nodes as one document.

Of one node it is what the node's agent gathered. Of several it is, in json, an
object with a member per node, in xml, an element nodes with an element node
per node; they come in the order in which they answer.`,
		Example:           "  chiba dump json r01-u03 > r01-u03.json\n  chiba dump xml all > fleet.xml",
		Args:              cli.Args(1, 2),
		ValidArgsFunction: completeDump,
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "json" && args[0] != "xml" {
				return cli.UsageError("no dump format "+strconv.Quote(args[0]), "use json or xml")
			}
			words := []string{args[0], "all"}
			if len(args) == 2 {
				words[1] = target(args[1])
			}
			src, err := command(cmd, "dump", words)
			if err != nil {
				return err
			}
			return with(cmd, func(c *client.Client) error { return dump(cmd, c, src, args[0]) })
		},
	}
}

func dump(cmd *cobra.Command, c *client.Client, src client.Source, format string) error {
	d := &dumper{w: cmd.OutOrStdout(), join: jsonJoin}
	if format == "xml" {
		d.join = xmlJoin
	}
	var results []fleet.Result
	a, err := gather(cmd, c.Show(cmd.Context(), src), func(r fleet.Result) error {
		body, err := r.Body, error(nil)
		if r.Status.OK() {
			body, err = d.join.check(r.Body)
		}
		if err != nil {
			r.Status, r.Kind, r.Error = fleet.Failed, string(fault.Garbage), "its dump is no "+format+": "+err.Error()
		}
		r.Body = nil // or 10,000 of them would fill the memory
		results = append(results, r)
		if !r.Status.OK() {
			return nil
		}
		return d.add(r.Node, body)
	})
	if err != nil {
		return sent(cmd, err)
	}
	if err := d.end(); err != nil {
		return err
	}
	for _, r := range results {
		if !r.Status.OK() {
			cli.Note(cmd, "%s: %s", r.Node, without(r.Node, r.Error))
		}
	}
	return a.end(results)
}

// joiner says how documents become one.
type joiner struct {
	alone       string // before a document that is the only one
	open, close string
	between     string
	name        func(fleet.NodeName) (before, after string)
	check       func([]byte) ([]byte, error) // the document as it can stand inside another one
}

var jsonJoin = joiner{
	open: "{\n", close: "\n}\n", between: ",\n",
	name: func(n fleet.NodeName) (before, after string) {
		q, _ := json.Marshal(string(n)) //nolint:errchkjson // a string always has a JSON form
		return string(q) + ": ", ""
	},
	check: func(doc []byte) ([]byte, error) {
		if !json.Valid(doc) || !utf8.Valid(doc) {
			return nil, errors.New("it does not parse")
		}
		return bytes.TrimSpace(doc), nil
	},
}

var xmlJoin = joiner{
	alone: xml.Header, open: xml.Header + "<nodes>\n", close: "\n</nodes>\n", between: "\n",
	name: func(n fleet.NodeName) (before, after string) {
		var b strings.Builder
		_ = xml.EscapeText(&b, []byte(n))
		return `<node name="` + b.String() + `">`, "</node>"
	},
	check: checkXML,
}

// checkXML is doc without its declaration. What could change the meaning of
// another document (a doctype) is refused.
func checkXML(doc []byte) ([]byte, error) {
	d := xml.NewDecoder(bytes.NewReader(doc))
	start, roots, depth := int64(0), 0, 0
	for first := true; ; first = false {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if depth++; depth == 1 {
				roots++
			}
		case xml.EndElement:
			depth--
		case xml.CharData:
			if depth == 0 && len(bytes.TrimSpace(t)) > 0 {
				return nil, errors.New("it has text outside its root element")
			}
		case xml.Directive:
			return nil, errors.New("it has a doctype")
		case xml.ProcInst:
			switch {
			case t.Target == "xml" && first:
				start = d.InputOffset()
			case t.Target == "xml":
				return nil, errors.New("it has a declaration that is not at its beginning")
			}
		}
	}
	if roots != 1 {
		return nil, fmt.Errorf("it has %s", cli.Count(roots, "root element"))
	}
	return bytes.TrimSpace(doc[start:]), nil
}

// dumper writes documents as they come. The first one waits for the second, as
// one alone is not wrapped.
type dumper struct {
	w     io.Writer
	join  joiner
	n     int
	first fleet.NodeName
	doc   []byte
}

func (d *dumper) add(node fleet.NodeName, doc []byte) error {
	d.n++
	switch d.n {
	case 1:
		d.first, d.doc = node, doc
		return nil
	case 2:
		if err := d.put(d.join.open, d.first, d.doc); err != nil {
			return err
		}
		d.doc = nil
	}
	return d.put(d.join.between, node, doc)
}

func (d *dumper) put(lead string, node fleet.NodeName, doc []byte) error {
	before, after := d.join.name(node)
	if _, err := io.WriteString(d.w, lead+before); err != nil {
		return err
	}
	if _, err := d.w.Write(doc); err != nil {
		return err
	}
	_, err := io.WriteString(d.w, after)
	return err
}

func (d *dumper) end() error {
	switch d.n {
	case 0:
		return nil
	case 1:
		_, err := fmt.Fprintf(d.w, "%s%s\n", d.join.alone, d.doc)
		return err
	}
	_, err := io.WriteString(d.w, d.join.close)
	return err
}
