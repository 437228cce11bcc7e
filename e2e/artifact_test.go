package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An image is given to one of three coordinators, soon on all of them, and installed
// in three racks of one site: it crosses the way from the coordinators once, and the
// racks give it to each other.
func TestAnArtifactCrossesTheWANOnce(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, 3)
	w.start("dev", "--only", "sim", "--coordinators", "3", "--racks", "3").wait("ready in")
	c := &cluster{world: w, coordinators: map[string]*process{}}
	for name := range coordinatorParts {
		c.run1(name)
	}
	c.ready()
	var agents []*process
	for _, part := range []string{"agent", "agent-2", "agent-3"} {
		agents = append(agents, w.start("dev", "--only", part, "--verbose"))
	}
	for i, a := range agents {
		a.wait("ready in")
		for _, other := range []string{"agent-r01", "agent-r02", "agent-r03"} {
			if other != []string{"agent-r01", "agent-r02", "agent-r03"}[i] {
				a.wait("peer=" + other + " alive=true")
			}
		}
	}
	image := w.file("bmc.tar", "version=2.20.0\n"+strings.Repeat("firmware ", 600<<10))
	out := w.must("artifact", "add", image)
	digest, _, _ := strings.Cut(out, " ")
	if !strings.HasPrefix(digest, "sha256:") || strings.Count(out, "c") < 2 {
		t.Fatalf("chiba artifact add said %q", out)
	}
	c.until("all coordinators have it", func() bool { return strings.Contains(w.must("artifact", "list"), "c1,c2,c3") })
	script := w.file("firmware.scl", strings.ReplaceAll(
		`(action "ai-node-0" U) (action "r02-u01" U) (action "r03-u01" U)`, "U",
		`(update-firmware bmc (image "`+digest+`") (version "2.20.0"))`))
	if got := w.run("apply", script, "--yes"); got.code != 0 || strings.Count(got.stdout, "confirmed  2.18.0-sim -> 2.20.0") != 3 {
		t.Fatalf("exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	fromFar, fromSite := 0, 0
	for i, a := range agents {
		line := a.wait("artifact fetched")
		if strings.Contains(line, "the coordinator at") {
			fromFar++
		} else if strings.Contains(line, "agent agent-r0") {
			fromSite++
		}
		dir := []string{"agent", "agent-2", "agent-3"}[i]
		file := filepath.Join(w.dir, dir, "artifacts", "fetched", strings.Replace(digest, ":", "-", 1))
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
	if fromFar != 1 || fromSite != 2 {
		t.Errorf("%d have it from a coordinator, %d from the site", fromFar, fromSite)
	}
	if got := w.run("artifact", "remove", "bmc.tar"); got.code != 0 {
		t.Errorf("remove: exit %d, %s", got.code, got.stderr)
	}
	if out := w.must("artifact", "list"); strings.Contains(out, "bmc.tar") {
		t.Errorf("it is still there:\n%s", out)
	}
}
