package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// Format is a value of -o.
type Format string

// The formats of output.
const (
	TableFormat Format = "table"
	WideFormat  Format = "wide" // a table with every column, never cut
	JSONFormat  Format = "json"
	YAMLFormat  Format = "yaml"
	NameFormat  Format = "name" // one name per line
)

var formats = []string{string(TableFormat), string(WideFormat), string(JSONFormat), string(YAMLFormat), string(NameFormat)}

// Machine reports whether a program reads the output.
func (f Format) Machine() bool { return f == JSONFormat || f == YAMLFormat }

// OutputOf is the value of -o.
func OutputOf(cmd *cobra.Command) (Format, error) {
	f := text(cmd, "output")
	if f == "" {
		return TableFormat, nil
	}
	if !slices.Contains(formats, f) {
		return "", UsageError(fmt.Sprintf("no output format %q", f), "use one of "+strings.Join(formats, ", "))
	}
	return Format(f), nil
}

// List is what a get command prints: rows for a table, or their data.
type List struct {
	Table Table
	Names []string // for -o name; nil: there are none
	Data  any      // for json and yaml
}

// Print writes l to cmd's output in the format of -o.
func (l List) Print(cmd *cobra.Command) error {
	format, err := OutputOf(cmd)
	if err != nil {
		return err
	}
	switch format {
	case JSONFormat, YAMLFormat:
		return Encode(cmd.OutOrStdout(), format, l.Data)
	case NameFormat:
		if l.Names == nil {
			return BadFormat(format, TableFormat, WideFormat, JSONFormat, YAMLFormat)
		}
		for _, n := range l.Names {
			fmt.Fprintln(cmd.OutOrStdout(), Clean(n))
		}
		return nil
	case TableFormat, WideFormat:
	}
	l.Table.Print(cmd)
	return nil
}

// Encode writes one document of v. The names of the fields are those of its
// json tags in both formats.
func Encode(w io.Writer, f Format, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	out := b.Bytes()
	if f == YAMLFormat {
		var err error
		if out, err = yaml.JSONToYAML(out); err != nil {
			return err
		}
	}
	_, err := w.Write(out)
	return err
}

// Line writes v as JSON on one line.
func Line(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
