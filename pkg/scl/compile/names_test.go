package compile_test

import (
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
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

// What is put into force on a rack acts in no other one.
func TestNamesOfARackAlone(t *testing.T) {
	const src = `(monitor "r1-u1" (condition (> cpu.temp 90)) (action ("r1-u2" "r2-u[1-2]") (power off)))`
	p, diags := compile.Source("alone.scl", []byte(src))
	if p == nil {
		t.Fatal(diags)
	}
	known := compile.Known{Nodes: []string{"r1-u1", "r1-u2"}, Alone: true}
	golden(t, "testdata/alone.golden", compile.Names([]byte(src), p, known).String())
}

// A rule acts within its site, whatever its target selects.
func TestAcross(t *testing.T) {
	const src = `(group "far" "ams-u01")
(monitor "fra-u01" (condition (> cpu.temp 90)) (action "fra-u02" (power off)))
(monitor "fra-u01" (condition (> cpu.temp 91)) (action ("fra-u02" "ams-u[01-02]") (power off)))
(monitor (group "far") (condition (> cpu.temp 92)) (action "fra-u02" (power off)))
(monitor (and (rack "r*") (site "fra")) (condition (> cpu.temp 93)) (action "fra-u02" (power off)))
(monitor (rack "r*") (condition (> cpu.temp 94)) (action (sequence (start-new-server-with-image "fra-u02" "image"))))
(monitor "fra-u01" (condition (> cpu.temp 95)) (action (start-new-server-with-image "nobody" "image")))
`
	p, diags := compile.Source("fleet.scl", []byte(src))
	if p == nil {
		t.Fatal(diags)
	}
	nodes := []fleet.Node{
		{Name: "fra-u01", Rack: "r1", Site: "fra"},
		{Name: "fra-u02", Rack: "r2", Site: "fra"},
		{Name: "ams-u01", Rack: "r3", Site: "ams"},
		{Name: "ams-u02", Rack: "r3", Site: "ams"},
	}
	group := func(name string) (scl.Target, bool) { return p.Groups[0].Members, name == "far" }
	golden(t, "testdata/across.golden", compile.Across([]byte(src), p, nodes, group).String())
}
