package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

type coordinator struct {
	Name, Role, Problem string
	Answering           bool
	Agents              int
	BehindMS            int64 `json:"behind_ms"`
}

// fleet is three coordinators and three racks, each a process of its own.
type cluster struct {
	*world
	coordinators map[string]*process // by name, c1 to c3
	agents       []string
}

var coordinatorParts = map[string]string{"c1": "coordinator", "c2": "coordinator-2", "c3": "coordinator-3"}

func newCluster(t *testing.T, flags ...string) *cluster {
	t.Helper()
	c := &cluster{world: newWorldOf(t, 3), coordinators: map[string]*process{}}
	c.start(append([]string{"dev", "--only", "sim", "--coordinators", "3", "--racks", "3"}, flags...)...).wait("ready in")
	for name := range coordinatorParts {
		c.run1(name)
	}
	c.ready()
	c.agents = []string{"agent", "agent-2", "agent-3"}
	if slices.Contains(flags, "--standby") {
		c.agents = append(c.agents, "standby", "standby-2", "standby-3")
	}
	for _, part := range c.agents {
		c.start("dev", "--only", part).wait("ready in")
	}
	c.linkedAll()
	c.known(24)
	return c
}

// run1 starts one coordinator.
func (c *cluster) run1(name string) {
	c.t.Helper()
	c.coordinators[name] = c.start("dev", "--only", coordinatorParts[name])
}

func (c *cluster) ready() {
	c.t.Helper()
	for _, p := range c.coordinators {
		p.wait("ready in")
	}
}

// linkedAll waits until all agents are connected.
func (c *cluster) linkedAll() {
	c.t.Helper()
	var agents []agent
	c.until("all agents are connected", func() bool {
		c.decode(&agents, "get", "agents")
		return len(agents) == len(c.agents) && !slices.ContainsFunc(agents, func(a agent) bool { return !a.Connected })
	})
}

// roles are the leader, the one that answers the client, and one that is neither.
func (c *cluster) leader() string {
	c.t.Helper()
	var name string
	c.until("somebody leads", func() bool {
		var all []coordinator
		c.decode(&all, "get", "coordinators")
		i := slices.IndexFunc(all, func(o coordinator) bool { return o.Role == "leader" })
		if i >= 0 {
			name = all[i].Name
		}
		return i >= 0
	})
	return name
}

// outage writes until stop is called, which tells the longest time between two
// writes that were done.
func (c *cluster) outage() (stop func() time.Duration) {
	end := make(chan struct{})
	var longest time.Duration
	var writing sync.WaitGroup
	writing.Go(func() {
		last := time.Now()
		for {
			select {
			case <-end:
				return
			default:
			}
			if got := c.run("get", "scripts", "--consistency", "linearizable"); got.code != 0 { // a commit each
				c.t.Errorf("a write ended with %d: %s", got.code, got.stderr)
			}
			longest, last = max(longest, time.Since(last)), time.Now()
		}
	})
	return func() time.Duration {
		close(end)
		writing.Wait()
		return longest
	}
}

// kill -9 of the leader, and then of the coordinator that the command talks to, in
// the middle of an apply to all racks: the command finishes, every node has exactly
// one result, and writes go on within two seconds.
func TestKill9OfTheLeaderDuringApply(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.killDuringApply(0, c.leader())
	c.killDuringApply(1, "c1")
}

// The same where each rack has two agents: no rack changes hands, and nothing is done
// twice.
func TestKill9OfTheLeaderWithStandbys(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "--standby")
	c.killDuringApply(0, c.leader())
	var all []struct{ Name, Role string }
	c.decode(&all, "get", "agents")
	for _, a := range all {
		if want := map[bool]string{true: "standby", false: "active"}[strings.HasSuffix(a.Name, "b")]; a.Role != want {
			t.Errorf("%s is %s, want %s", a.Name, a.Role, want)
		}
	}
}

// killDuringApply kills a coordinator amid an apply to all racks.
func (c *cluster) killDuringApply(round int, name string) {
	c.t.Helper()
	last := []string{"ai-node-1", "r02-u01", "r03-u01"} // these keep the run from its end
	for _, node := range last {
		c.must("sim", "set", node, "power.state", "off")
	}
	path := c.file(fmt.Sprintf("round%d.scl", round), fmt.Sprintf(`
(config "all" (asset-tag "round %d"))
(action ("%s") (wait (= power.state "on") (timeout 2m)))`, round, strings.Join(last, `" "`)))
	apply := c.start("apply", path, "--yes")
	c.until("the run is under way", func() bool {
		var runs []run
		c.decode(&runs, "get", "runs")
		return slices.ContainsFunc(runs, func(r run) bool { return r.Script == fmt.Sprint("round", round) && r.State == "running" })
	})
	stop := c.outage()
	c.t.Logf("round %d: %s is killed", round, name)
	c.coordinators[name].kill()
	c.until("another leads", func() bool { return c.leader() != name })
	for _, node := range last {
		c.must("sim", "set", node, "power.state", "on")
	}
	select {
	case <-apply.done:
	case <-time.After(patience):
		c.t.Fatal("the apply does not end")
	}
	longest := stop()
	c.t.Logf("round %d: the longest time between two writes was %s", round, longest.Round(time.Millisecond))
	if longest > 5*time.Second {
		c.t.Errorf("nothing could be written for %s", longest)
	}
	if code := apply.cmd.ProcessState.ExitCode(); code != 0 {
		c.t.Errorf("apply: exit %d\n%s", code, apply.out)
	}
	c.once(fmt.Sprint("round", round))
	c.run1(name)
	c.ready()
	c.linkedAll()
}

// once checks that the script ran once, and every node of the fleet has one result
// of each kind.
func (c *cluster) once(script string) {
	c.t.Helper()
	var runs []run
	c.decode(&runs, "get", "runs")
	runs = slices.DeleteFunc(runs, func(r run) bool { return r.Script != script })
	if len(runs) != 1 {
		c.t.Fatalf("%s ran %d times: %+v", script, len(runs), runs)
	}
	var whole run
	c.decode(&whole, "get", "run", runs[0].ID)
	seen := map[string]int{}
	for _, r := range whole.Results {
		seen[r.Node+" "+r.Step+" "+r.Path]++
	}
	tags := 0
	for what, times := range seen {
		if times != 1 {
			c.t.Errorf("%q is recorded %d times", what, times)
		}
		if strings.HasSuffix(what, " asset-tag") {
			tags++
		}
	}
	if whole.State != "done" || tags != 24 {
		c.t.Errorf("%s is %s and has tagged %d nodes of 24: %v", script, whole.State, tags, seen)
	}
}

// One of three tells what it knew, says that it is old, and decides nothing. When
// all have been killed and started again nothing is lost.
func TestAMinorityAndARestartOfAll(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must("apply", c.file("tag.scl", `(config "all" (asset-tag "kept"))`), "--yes")
	for _, name := range []string{"c1", "c2"} {
		c.coordinators[name].kill()
	}
	var got outcome
	c.until("it says that it reaches nobody", func() bool {
		got = c.run("get", "scripts")
		return strings.Contains(got.stderr, "majority")
	})
	if got.code != 0 || !strings.Contains(got.stdout, "tag") {
		t.Errorf("it tells nothing: exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if got = c.run("get", "scripts", "--consistency", "stale"); got.code != 0 || !strings.Contains(got.stdout, "tag") || !strings.Contains(got.stderr, " old") {
		t.Errorf("stale: exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if got = c.run("get", "scripts", "--consistency", "linearizable"); got.code == 0 || got.stdout != "" || !strings.Contains(got.stderr, "leader") {
		t.Errorf("linearizable: exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if got = c.run("apply", c.file("more.scl", `(config "all" (asset-tag "more"))`), "--yes"); got.code == 0 || !strings.Contains(got.stderr, "leader") || !strings.Contains(got.stderr, "hint") {
		t.Errorf("a write: exit %d after %s\n%s", got.code, got.took, got.stderr)
	}
	c.coordinators["c3"].kill()
	c.run1("c3")
	c.until("it tells what it knew, though it was started alone", func() bool {
		got = c.run("get", "scripts")
		return got.code == 0 && strings.Contains(got.stdout, "tag") && strings.Contains(got.stderr, " old")
	})
	for name := range coordinatorParts {
		if name != "c3" {
			c.run1(name)
		}
	}
	c.ready()
	c.linkedAll()
	c.once("tag")
	c.must("trust", "deny", "serial/77", "--reason", "a write")
	c.must("trust", "author", "show")
	c.must("apply", c.file("more.scl", `(config "all" (asset-tag "more"))`), "--yes")
	if out := c.must("get", "coordinators", "--consistency", "linearizable"); strings.Count(out, "follower") != 2 {
		t.Errorf("the coordinators are\n%s", out)
	}
}

// A file of the log of one of three is lost: it does not start, and says what to do. The
// others go on, and when that was done it has all that they have.
func TestTheLogOfOneIsDamaged(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must("apply", c.file("tag.scl", `(config "all" (asset-tag "kept"))`), "--yes")
	c.coordinators["c3"].interrupt() // its agents go to the others
	c.linkedAll()
	dir := filepath.Join(c.dir, "coordinator-3", "raft")
	segments, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("it has no log: %v", err)
	}
	if err := os.Remove(segments[0]); err != nil {
		t.Fatal(err)
	}
	c.run1("c3")
	if hint := c.coordinators["c3"].wait("hint:"); !strings.Contains(hint, "chiba coordinator remove c3, move "+dir+" away") {
		t.Errorf("it says %s", hint)
	}
	if code := c.coordinators["c3"].ended(); code != 1 || !strings.Contains(c.coordinators["c3"].out.String(), "of the log are lost") {
		t.Errorf("it ends with %d:\n%s", code, c.coordinators["c3"].out)
	}
	c.must("apply", c.file("more.scl", `(config "all" (asset-tag "more"))`), "--yes")

	c.must("coordinator", "remove", "c3")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	c.run1("c3")
	c.ready()
	c.linkedAll()
	c.until("all three decide", func() bool {
		var all []coordinator
		c.decode(&all, "get", "coordinators")
		return len(all) == 3 && !slices.ContainsFunc(all, func(o coordinator) bool { return o.Role == "" || o.Problem != "" })
	})
	c.once("tag")
	c.once("more")
	c.must("audit", "verify")
}
