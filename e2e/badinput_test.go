package e2e_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// position is what every diagnostic about a source begins with.
var position = regexp.MustCompile(`(?m)^\S+:\d+:\d+: error\[SCL\d{4}\]: `)

// Bad input gives one clear diagnostic, an exit code of 1 or 2, and changes
// nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dev().wait("8 of 8 BMCs")
	var before []stats
	w.decode(&before, "sim", "stats")

	sources := map[string]string{
		"unbalanced parens": `(config "r01-u04" (power (state "on"))`,
		"unknown form":      `(confgi "r01-u04" (power (state "on")))`,
		"wrong unit":        `(monitor "r01-u04" (condition (> cpu.temp 90W)) (action (power off)))`,
		"unknown node":      `(config "r01-u40" (asset-tag "x"))`,
		"too large":         "; " + strings.Repeat("x", 5<<20),
		"not UTF-8":         "(config \"r01-u04\" (asset-tag \"\xff\xfe\"))",
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.scl")
			if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
				t.Fatal(err)
			}
			got := w.run("apply", path, "--yes")
			if got.code != 1 && got.code != 2 {
				t.Errorf("exit %d", got.code)
			}
			if n := len(position.FindAllString(got.stderr, -1)); n != 1 {
				t.Errorf("%d diagnostics, want one:\n%s", n, got.stderr)
			}
			if !strings.Contains(got.stderr, "help:") && !strings.Contains(got.stderr, "hint:") {
				t.Errorf("no way on:\n%s", got.stderr)
			}
		})
	}

	var after []stats
	w.decode(&after, "sim", "stats")
	for i := range after {
		if after[i].Writes != before[i].Writes {
			t.Errorf("%s was written to", after[i].Node)
		}
	}
	var scripts []any
	w.decode(&scripts, "get", "scripts")
	if len(scripts) != 0 {
		t.Errorf("scripts were kept: %v", scripts)
	}
}

// A BMC that misbehaves fails alone, with its reason; the others are served.
func TestASickBMCHarmsNoOther(t *testing.T) {
	t.Parallel()
	for _, sickness := range []string{"hang", "garbage", "500", "huge", "drop"} {
		t.Run(sickness, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.dev()
			healthy := w.run("show", "all", "cpu.temp").took
			w.must("sim", "fault", "r01-u06", sickness)
			path := w.file("tag.scl", `(config "all" (asset-tag "rack 1"))`)

			got := w.run("apply", path, "--yes", "-o", "json")
			if got.code != 3 {
				t.Errorf("exit %d, want 3 (partly failed)\n%s%s", got.code, got.stdout, got.stderr)
			}
			var r run
			w.decode(&r, "get", "run", "R1")
			for _, did := range r.Results {
				sick := did.Node == "r01-u06"
				if sick && (did.Status != "failed" || did.Error == "") {
					t.Errorf("the sick node: %+v", did)
				}
				if !sick && did.Status != "confirmed" {
					t.Errorf("a healthy node: %+v", did)
				}
				if limit := 10 * (healthy.Milliseconds() + 200); !sick && did.TookMS > limit {
					t.Errorf("%s took %d ms; the rack alone reads in %v", did.Node, did.TookMS, healthy)
				}
			}
			if len(r.Results) != 8 {
				t.Errorf("%d results, want one for each of 8 nodes", len(r.Results))
			}
		})
	}
}
