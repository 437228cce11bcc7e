package e2e_test

import (
	"slices"
	"strings"
	"testing"
)

const threeRacks = `
sites:
  - {name: osl1, address: Oslo, labels: {region: north}}
  - {name: fra1, labels: {region: south}}
racks:
  - {name: r01, site: osl1, position: hall 2, labels: {row: c}, limits: {nodes: 2, requests: 1, spool: 256MiB}}
  - name: r02
    site: osl1
    labels: {row: d}
    nodes: [{name: r02-u01, labels: {role: web}}]
  - {name: r03, site: fra1, labels: {row: c}}
groups:
  - {name: web, members: ['(where (= node.label.role "web"))', "r03-u01"]}
  - {name: north, members: ['(where (= node.label.region "north"))']}
`

// rackRow is what `chiba get racks -o json` says.
type rackRow struct {
	Name, Site, Catalogue string
	Agents                []string
	Connected             bool
	Nodes, Ready          int
}

func (c *cluster) racks() map[string]rackRow {
	c.t.Helper()
	var all []rackRow
	c.decode(&all, "get", "racks")
	byName := map[string]rackRow{}
	for _, r := range all {
		byName[r.Name] = r
	}
	return byName
}

// nodesOf are the nodes that a target selects.
func (c *cluster) nodesOf(target string) []string {
	c.t.Helper()
	out := c.must("get", "nodes", target, "-o", "name")
	return strings.Fields(out)
}

// A catalogue over three racks of which one is cut off: it is checked, shown, applied,
// and used by all of them; scripts select by it, a run over it shows each rack and is
// cancelled for all; a rack goes on by it without any coordinator, and after the rack
// was taken out of it nothing is lost.
func TestTheSiteCatalogueOverThreeRacks(t *testing.T) {
	w := newWorld(t)
	w.start("dev", "--only", "sim", "--racks", "3").wait("ready in")
	coordinator := w.start("dev", "--only", "coordinator")
	coordinator.wait("ready in")
	c := &cluster{world: w, coordinators: map[string]*process{}, agents: []string{"agent", "agent-2", "agent-3"}}
	agents := map[string]*process{}
	for _, part := range c.agents {
		agents[part] = w.start("dev", "--only", part)
		agents[part].wait("ready in")
	}
	c.linkedAll()
	c.until("all nodes are ready", func() bool {
		all := c.racks()
		return all["r01"].Ready == 8 && all["r02"].Ready == 8 && all["r03"].Ready == 8
	})
	agents["agent-3"].kill()
	c.until("r03 is cut off", func() bool { return !c.racks()["r03"].Connected })

	wrong := w.file("wrong.yaml", strings.Replace(threeRacks, "site: fra1", "site: frs1", 1))
	for _, verb := range []string{"check", "apply"} {
		if got := w.run("catalogue", verb, wrong); got.code != 1 || !strings.Contains(got.stderr, ":11:23: error[CAT0108]: there is no site frs1") ||
			!strings.Contains(got.stderr, "help: did you mean fra1?") {
			t.Errorf("%s of a wrong one: exit %d\n%s%s", verb, got.code, got.stdout, got.stderr)
		}
	}
	if got := w.run("catalogue", "show"); got.code != 1 || !strings.Contains(got.stderr, "there is no site catalogue") {
		t.Errorf("a wrong one has changed something: %s%s", got.stdout, got.stderr)
	}

	file := w.file("site.yaml", threeRacks)
	got := w.run("catalogue", "apply", file)
	if got.code != 0 || !strings.Contains(got.stdout, "+ rack r03: label row c; site fra1") || !strings.Contains(got.stderr, "cut off, and told when they are back: r03") {
		t.Fatalf("apply: exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if out := w.must("catalogue", "export"); out != threeRacks {
		t.Errorf("it is exported as\n%s", out)
	}
	if log := w.must("audit", "log"); !strings.Contains(log, "the site catalogue") {
		t.Errorf("the audit log does not tell of it:\n%s", log)
	}
	c.until("those that are reached have it", func() bool { all := c.racks(); return all["r01"].Catalogue == "yes" && all["r02"].Catalogue == "yes" })
	if r := c.racks()["r03"]; r.Catalogue != "behind" || r.Site != "fra1" {
		t.Errorf("r03, which is cut off: %+v", r)
	}
	if got := c.nodesOf(`(group "web")`); !slices.Equal(got, []string{"r02-u01", "r03-u01"}) {
		t.Errorf("the web servers are %v", got)
	}
	if got := c.nodesOf(`(and (group "north") (where (= node.label.row "d")))`); len(got) != 8 || got[0] != "r02-u01" {
		t.Errorf("row d in the north is %v", got)
	}
	c.runOverGroup()
	c.withoutCoordinator(coordinator, agents["agent-2"])
	c.start("dev", "--only", "coordinator").wait("ready in")
	c.start("dev", "--only", "agent-2").wait("ready in")
	c.start("dev", "--only", "agent-3").wait("ready in")
	c.until("r03 has it too", func() bool { r := c.racks()["r03"]; return r.Connected && r.Catalogue == "yes" })
	if out := c.must("show", `(site "fra1")`, "node.label.region"); strings.Count(out, "south") != 8 {
		t.Errorf("the nodes of fra1 say of themselves:\n%s", out)
	}
	c.takeOut(file)
}

// runOverGroup cancels a run of which one rack hears later.
func (c *cluster) runOverGroup() {
	c.t.Helper()
	script := c.file("web.scl", `(action (group "web") (set-indicator on))`)
	applied := c.run("apply", script, "--yes")
	if !strings.Contains(applied.stdout, "r02: 1/1 done") || !strings.Contains(applied.stderr, "r03 is cut off and does its part when it is back") {
		c.t.Errorf("apply: exit %d\n%s%s", applied.code, applied.stdout, applied.stderr)
	}
	var run struct {
		State string
		Racks []struct {
			Rack, State string
			OK          int
		}
	}
	states := func() string {
		c.decode(&run, "get", "run", "R1")
		all := []string{run.State}
		for _, r := range run.Racks {
			all = append(all, r.Rack+" "+r.State)
		}
		return strings.Join(all, ", ")
	}
	// r01 has a node of which nobody has said whether it is a web server: it says no.
	c.until("r02 is done and r03 waits", func() bool { return states() == "running, r01 done, r02 done, r03 waiting" })
	if out := c.must("get", "run", "R1"); !strings.Contains(out, "r03") || !strings.Contains(out, "waiting") {
		c.t.Errorf("get run does not tell of each rack:\n%s", out)
	}
	if out := c.must("get", "runs"); !strings.Contains(out, "running") {
		c.t.Errorf("get runs:\n%s", out)
	}
	c.must("cancel", "run", "R1")
	if got := states(); got != "canceled, r01 done, r02 done, r03 canceled" {
		c.t.Errorf("after it was cancelled: %s", got)
	}
	if got := c.run("watch", "run", "R1"); got.code == 0 || !strings.Contains(got.stdout+got.stderr, "cancel") {
		c.t.Errorf("watch of a run that was cancelled: exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}

// withoutCoordinator restarts an agent while no coordinator is reached: it goes on by
// what it was told of its rack.
func (c *cluster) withoutCoordinator(coordinator, agent *process) {
	c.t.Helper()
	coordinator.kill()
	agent.kill()
	again := c.start("dev", "--only", "agent-2")
	again.wait("ready in")
	socket := c.dir + "/agent-2/agent.sock"
	got := c.run("--agent="+socket, "show", `(group "web")`, "node.label.role", "site.name")
	if got.code != 0 || !strings.Contains(got.stdout, "r02-u01") || !strings.Contains(got.stdout, "osl1") {
		c.t.Errorf("on the rack, without a coordinator: exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	again.kill()
}

// takeOut takes r03 out of the catalogue, whose agent is there.
func (c *cluster) takeOut(file string) {
	c.t.Helper()
	two, _, _ := strings.Cut(threeRacks, "  - {name: r03")
	less := c.file("less.yaml", two)
	got := c.run("catalogue", "apply", less)
	if got.code != 2 || !strings.Contains(got.stderr, "rack r03 is no longer in it, and agent-r03 serves it: nothing is lost") {
		c.t.Errorf("without consent: exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if out := c.must("catalogue", "export"); out != threeRacks {
		c.t.Error("without consent it was applied")
	}
	c.must("catalogue", "apply", less, "--yes")
	r := c.racks()["r03"]
	if r.Site != "dev" || r.Nodes != 8 || !r.Connected || r.Catalogue != "" {
		c.t.Errorf("r03, which is in no catalogue: %+v", r)
	}
	c.until("r03 knows that it is out", func() bool { return strings.Count(c.must("show", `(rack "r03")`, "site.name"), "dev") == 8 })
	if got := c.run("show", `(site "fra1")`); got.code == 0 {
		c.t.Errorf("a site without a rack is known:\n%s", got.stdout)
	}
	c.must("catalogue", "apply", file, "--yes")
	c.until("r03 is in it again", func() bool { return strings.Count(c.must("show", `(rack "r03")`, "site.name"), "fra1") == 8 })
}
