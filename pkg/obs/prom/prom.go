// Package prom writes metrics in the text format of Prometheus, version 0.0.4
// (prometheus.io/docs/instrumenting/exposition_formats). It keeps no registry:
// whoever has numbers writes them when they are asked for. What stands in a label
// may come from a BMC, so that it is escaped and its length bounded; a second
// sample with the same labels, for which a scraper would refuse the whole answer,
// is left out. It is pure.
package prom

import (
	"io"
	"slices"
	"strconv"
	"strings"
)

// ContentType is the header of an answer in this format.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Kind is what a metric's number means.
type Kind string

// The kinds.
const (
	Counter Kind = "counter" // it only grows, until the process starts anew
	Gauge   Kind = "gauge"
)

// maxLabel bounds a label's value, in bytes.
const maxLabel = 128

// Page collects metrics, each with its samples, for one answer. The zero Page is
// empty. It is for one goroutine.
type Page struct {
	order []string
	of    map[string]*metric
}

type metric struct {
	kind    Kind
	help    string
	samples strings.Builder
	seen    map[string]bool
}

// Declare names a metric and says what it is. Only declared metrics are written,
// in the order of their declaration, and those without samples are not. The name
// is [a-z_]+, ends in the unit or in _total, and is not checked.
func (p *Page) Declare(name string, kind Kind, help string) {
	if p.of == nil {
		p.of = map[string]*metric{}
	}
	if p.of[name] == nil {
		p.order = append(p.order, name)
		p.of[name] = &metric{kind: kind, help: help, seen: map[string]bool{}}
	}
}

// Add adds a sample to a declared metric and reports whether it is the first with
// these labels, which are names and values in turn.
func (p *Page) Add(name string, value float64, labels ...string) bool {
	m := p.of[name]
	if m == nil {
		return false
	}
	text := labelText(labels)
	if m.seen[text] {
		return false
	}
	m.seen[text] = true
	m.samples.WriteString(name + text + " " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
	return true
}

// WriteTo implements io.WriterTo.
func (p *Page) WriteTo(w io.Writer) (n int64, err error) {
	for _, name := range p.order {
		m := p.of[name]
		if m.samples.Len() == 0 {
			continue
		}
		help := strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(m.help)
		wrote, err := io.WriteString(w, "# HELP "+name+" "+help+"\n# TYPE "+name+" "+string(m.kind)+"\n"+m.samples.String())
		if n += int64(wrote); err != nil {
			return n, err
		}
	}
	return n, nil
}

// labelText is `{name="value",…}`, without those that have no value.
func labelText(labels []string) string {
	var pairs []string
	for pair := range slices.Chunk(labels, 2) {
		if len(pair) == 2 && pair[1] != "" {
			pairs = append(pairs, pair[0]+`="`+escape(pair[1])+`"`)
		}
	}
	if len(pairs) == 0 {
		return ""
	}
	return "{" + strings.Join(pairs, ",") + "}"
}

// escape makes a value fit for a label.
func escape(value string) string {
	if len(value) > maxLabel {
		value = value[:maxLabel]
	}
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(value, "\ufffd"))
}
