package compile_test

import (
	"testing"

	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

func TestNames(t *testing.T) {
	const src = `(group "web" "r07-u[01-04]")
(config "r07-u1" (power (state "on")))
(monitor (group "wbe") (condition (> cpu.temp 90)) (action (log "hot")))
(refresh (and (rack "r7") (site "fra*") (rack "r*") (site "ams")))
(refresh "x-*")
(show ("r07-*" "r07-u01" (group "web") (group "kept") (where (= node.name "r09-u01"))))
`
	p, diags := compile.Source("fleet.scl", []byte(src))
	if p == nil {
		t.Fatal(diags)
	}
	got := compile.Names([]byte(src), p, compile.Known{
		Nodes: []string{"r07-u01", "r07-u02"}, Racks: []string{"r07"}, Sites: []string{"fra1"}, Groups: []string{"kept"},
	})
	golden(t, "testdata/names.golden", got.String())
	if empty := compile.Names([]byte(src), p, compile.Known{}); empty.Errors() != 11 {
		t.Errorf("with nothing known there are %d errors:\n%s", empty.Errors(), empty)
	}
}
