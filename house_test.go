package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/chiba-mesh/chiba/"

// floors says which trees a tree may import, besides itself. A process never
// imports the other process; the ground floor knows nothing of either.
var floors = map[string][]string{
	"pkg":         {},
	"trust":       {"pkg"},
	"discovery":   {"pkg"},
	"agent":       {"pkg", "trust", "discovery"},
	"coordinator": {"pkg", "trust", "discovery"},
	"e2e":         {"pkg", "trust", "discovery", "agent", "coordinator"},
}

// pure lists the packages that decide and never do: no network, disk, clock,
// logger, randomness or goroutine, so that the same input gives the same output
// in a test, in a simulation and on every replica.
var pure = []string{
	"pkg/catalogue", "pkg/catalogue/source", "pkg/fleet", "pkg/fault", "pkg/order", "pkg/scl", "pkg/scl/syntax", "pkg/scl/compile",
	"pkg/redfish/bmcsim/auth", "pkg/redfish/bmcsim/clock", "pkg/redfish/bmcsim/firmware", "pkg/redfish/bmcsim/hardware",
	"pkg/redfish/bmcsim/input", "pkg/redfish/bmcsim/logs", "pkg/redfish/bmcsim/message", "pkg/redfish/bmcsim/power",
	"pkg/redfish/bmcsim/sensors", "pkg/redfish/bmcsim/tasks",
	"pkg/redfish/inventory", "pkg/redfish/scan", "pkg/obs/prom", "discovery", "trust/level", "trust/enroll", "agent/core", "agent/journal", "agent/link/talk", "agent/owner", "agent/story", "agent/takeover", "coordinator/hub/talk", "coordinator/state",
}

var impure = []string{"net", "net/http", "os", "os/exec", "os/signal", "math/rand", "math/rand/v2", "crypto/rand", "crypto/tls", "log"}

// clock lists what reads the time or waits for it.
var clock = []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}

type listed struct {
	ImportPath, Dir            string
	Imports, GoFiles, CgoFiles []string
}

func TestTreesImportOnlyDownward(t *testing.T) {
	for _, p := range packages(t) {
		tree := treeOf(p.ImportPath)
		allowed, ok := floors[tree]
		if !ok {
			continue // main.go, the switch
		}
		for _, imported := range p.Imports {
			to := treeOf(imported)
			if to == "" || to == tree || slices.Contains(allowed, to) {
				continue
			}
			t.Errorf("%s imports %s: the %s tree may import only %v, so that each floor can be built, tested and replaced alone",
				p.ImportPath, imported, tree, allowed)
		}
	}
}

func TestOnlyOnePackageKnowsRaft(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, "github.com/hashicorp/raft") && p.ImportPath != module+"coordinator/raftnode" {
				t.Errorf("%s imports %s: only coordinator/raftnode may, so that the log can be reasoned about in one place", p.ImportPath, imported)
			}
		}
	}
}

func TestAgentAloneLinksNoCoordinator(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "./agent/chiba-agent").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		if treeOf(path) == "coordinator" || treeOf(path) == "e2e" || strings.HasPrefix(path, "github.com/hashicorp/raft") || strings.HasPrefix(path, "connectrpc.com/") {
			t.Errorf("chiba-agent links %s: it is the agent alone, so that a rack's machine keeps little in memory", path)
		}
	}
}

func TestNoCgo(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s uses cgo in %v: the product is one static binary", p.ImportPath, p.CgoFiles)
		}
	}
}

func TestPurePackagesArePure(t *testing.T) {
	found := map[string]bool{}
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if !slices.Contains(pure, name) {
			continue
		}
		found[name] = true
		for _, imported := range p.Imports {
			if slices.Contains(impure, imported) {
				t.Errorf("%s imports %s: it decides and must not touch the world", name, imported)
			}
		}
		for _, file := range p.GoFiles {
			checkPure(t, filepath.Join(p.Dir, file))
		}
	}
	for _, name := range pure {
		if !found[name] {
			t.Errorf("%s is listed as pure and does not exist", name)
		}
	}
}

func checkPure(t *testing.T, path string) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.GoStmt:
			t.Errorf("%s starts a goroutine: a pure package has none", set.Position(n.Pos()))
		case *ast.SelectorExpr:
			if ident, ok := n.X.(*ast.Ident); ok && ident.Name == "time" && slices.Contains(clock, n.Sel.Name) {
				t.Errorf("%s reads the clock: a pure package is told the time", set.Position(n.Pos()))
			}
		}
		return true
	})
}

// treeOf is the top-level folder of one of our packages, "" for anything else.
func treeOf(path string) string {
	rest, ok := strings.CutPrefix(path, module)
	if !ok {
		return ""
	}
	tree, _, _ := strings.Cut(rest, "/")
	return tree
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,Imports,GoFiles,CgoFiles", "./...")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []listed
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// A target that is only called phony is "done" without doing anything.
func TestEveryMakeTargetHasARule(t *testing.T) {
	text, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		names, is := strings.CutPrefix(line, ".PHONY:")
		if !is {
			continue
		}
		for name := range strings.FieldsSeq(names) {
			if !strings.Contains(string(text), "\n"+name+":") {
				t.Errorf("make %s does nothing: it has no rule", name)
			}
		}
	}
}
