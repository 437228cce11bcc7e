package e2e_test

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/intent"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/sim"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

const aisle = `
(monitor "r01-u04" (every 1s) (trigger "linked" (condition (> cpu.temp 90)) (action "r02-u04" (set-indicator on) (power off))))
(monitor "r01-u05" (every 1s) (trigger "cut" (condition (> cpu.temp 90)) (action ("r02-u05" "r01-u07") (power off))))
(monitor "r01-u06" (every 1s) (trigger "killed" (condition (> cpu.temp 90)) (action "r02-u06" (power off))))
`

// acted is a firing with who asked for it.
type acted struct {
	firing
	Asked struct{ Rack, Agent, Node string }
}

// String is "r02-u05 cut for r01-u05, (power off) on r02-u05 confirmed".
func (a acted) String() string {
	parts := []string{a.Node + " " + a.Rule}
	if a.Asked.Rack != "" {
		parts[0] += " for " + a.Asked.Node
	}
	for _, r := range a.Results {
		parts = append(parts, r.Step+" on "+r.Node+" "+r.Status)
	}
	return strings.Join(parts, ", ")
}

// resets is how often a server was told to change its power.
func resets(t *testing.T, c *sim.Client, node fleet.NodeName) (n int) {
	t.Helper()
	all, err := c.Requests(context.Background(), node)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Method == http.MethodPost && strings.HasSuffix(r.Path, "ComputerSystem.Reset") {
			n++
		}
	}
	return n
}

// lie asks agent-r02 over the site's channel, with the certificate of agent-r01, for
// what no script says, and again for what was done.
func lie(t *testing.T, c *cluster) {
	t.Helper()
	creds, err := trust.Load(filepath.Join(c.dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(c.dir, "agent-2", "site.addr"))
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(strings.TrimSpace(string(text)))
	session, err := mesh.DialSite(t.Context(), netip.AddrPortFrom(at.Addr(), at.Port()+1).String(), trust.NewEndpoint(creds, trust.Options{}).Agents("agent-r02"))
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close("the test is over")
	type when struct {
		Node string
		At   time.Time
	}
	var fired []when
	c.decode(&fired, "get", "firings")
	i := slices.IndexFunc(fired, func(f when) bool { return f.Node == "r01-u04" })
	var epoch uint64
	ask := func(rule, on string, version uint64) *pb.SiteReply {
		f := fleet.Firing{Script: "aisle", Rule: rule, Node: "r01-u04", At: fired[i].At}
		return askSite(t, session, &pb.SiteCall{Body: &pb.SiteCall_Intent{Intent: &pb.SiteIntent{Intent: intent.New(f, version, 1, fleet.NodeName(on)), Grant: epoch}}})
	}
	_, heard, _ := strings.Cut(ask("linked", "r02-u04", 1).GetAnswer().GetError(), "it asks in epoch 0, and was heard in epoch ")
	if epoch, err = strconv.ParseUint(heard, 10, 64); err != nil {
		t.Fatalf("an owner of long ago is answered with %q", heard)
	}
	_, newest, _ := strings.Cut(ask("linked", "r02-u04", 1).GetAnswer().GetError(), "version 1 of aisle is over: this rack has had version ")
	version, err := strconv.ParseUint(newest, 10, 64)
	if err != nil {
		t.Fatalf("a script of long ago is answered with %q", newest)
	}
	for range 3 {
		if got := ask("linked", "r02-u04", version).GetAnswer(); got.GetState() != pb.SiteAnswer_DONE || got.GetResult().GetStatus() != string(fleet.Confirmed) {
			t.Errorf("a replay is answered with %v", got)
		}
	}
	for why, got := range map[string]*pb.SiteReply{
		"does not say that this is to be done on r02-u01": ask("linked", "r02-u01", version),
		"has no rule x": ask("x", "r02-u04", version),
	} {
		if got.GetAnswer().GetState() != pb.SiteAnswer_REFUSED || !strings.Contains(got.GetAnswer().GetError(), why) {
			t.Errorf("a lie is answered with %v, want %q", got, why)
		}
	}
	if !eventually(func() bool {
		return strings.Count(c.must("audit", "log"), "asked by agent agent-r01 of rack r01 for r02-u0") == 4
	}) {
		t.Errorf("who lied is not told:\n%s", c.must("audit", "log"))
	}
}

// askSite is one call to an agent of the site, and its answer.
func askSite(t *testing.T, session mesh.Session, call *pb.SiteCall) *pb.SiteReply {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := session.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	ch, reply := mesh.NewChannel(stream, 0), &pb.SiteReply{}
	if err = errors.Join(ch.Send(&pb.StreamOpen{Kind: pb.StreamOpen_SITE}), ch.Send(call), ch.Receive(reply)); err != nil {
		t.Fatal(err)
	}
	return reply
}

// A rule of one rack acts in another: while a coordinator is reached, while none is,
// and over the death of both agents. When a coordinator is back it has all of it from
// both racks, each once.
func TestAcrossRacks(t *testing.T) {
	c := &cluster{world: newWorld(t), agents: []string{"agent", "agent-2"}}
	c.start("dev", "--only", "sim", "--racks", "2").wait("ready in")
	bmcs, err := sim.Dial(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	coordinator := c.start("dev", "--only", "coordinator")
	coordinator.wait("ready in")
	one, two := c.start("dev", "--only", "agent"), c.start("dev", "--only", "agent-2")
	one.wait("ready in")
	two.wait("ready in")
	c.linkedAll()
	c.taken(16)
	wrong := c.run("apply", c.file("wrong.scl", `(monitor "r01-u04" (condition (> cpu.temp 90)) (action "r02-u99" (power off)))`), "--yes")
	if wrong.code != 1 || !strings.Contains(wrong.stderr, `wrong.scl:1:56: error[SCL0214]: there is no node "r02-u99"`) {
		t.Errorf("a node that nobody has: %+v", wrong)
	}
	c.must("apply", c.file("aisle.scl", aisle), "--yes")
	recorded := func() (all []acted) {
		c.decode(&all, "get", "firings")
		return all
	}
	c.must("sim", "set", "r01-u04", "cpu.temp", "95")
	if !eventually(func() bool { return len(recorded()) == 3 }) {
		t.Fatalf("while a coordinator is reached: %v", recorded())
	}
	if out := c.must("get", "firings"); !strings.Contains(out, "(power off) on r02-u04 by agent-r02: confirmed") || !strings.Contains(out, "asked by agent-r01, where the rule fired on r01-u04") {
		t.Errorf("what people see:\n%s", out)
	}
	lie(t, c)
	if n := resets(t, bmcs, "r02-u04") + resets(t, bmcs, "r02-u01"); n > 1 {
		t.Errorf("after lies and replays they were told %d times", n)
	}

	coordinator.kill()
	one.kill() // and what follows is with what their disks know
	two.kill()
	one, two = c.start("dev", "--only", "agent"), c.start("dev", "--only", "agent-2")
	one.wait("ready in")
	two.wait("ready in")
	c.must("sim", "set", "r01-u05", "cpu.temp", "95")
	if !eventually(func() bool {
		var there []acted
		c.decode(&there, "--agent", "get", "firings")
		return slices.ContainsFunc(there, func(a acted) bool { return a.Rule == "cut" })
	}) {
		t.Fatal("nothing was done while no coordinator was reached")
	}
	two.kill()
	c.must("sim", "set", "r01-u06", "cpu.temp", "95")
	one.wait("another rack is asked in vain")
	one.kill()
	one, two = c.start("dev", "--only", "agent"), c.start("dev", "--only", "agent-2")
	one.wait("going on with what was asked of other racks")
	two.wait("another rack has this one act")
	if !eventually(func() bool { return resets(t, bmcs, "r02-u06") == 1 }) {
		t.Fatal("what was asked of a dead agent was not done by the next one")
	}

	c.start("dev", "--only", "coordinator").wait("ready in")
	c.linkedAll()
	want := []string{
		"r01-u04 linked, (set-indicator on) on r02-u04 confirmed, (power off) on r02-u04 confirmed",
		"r01-u05 cut, (power off) on r01-u07 confirmed, (power off) on r02-u05 confirmed",
		"r01-u06 killed, (power off) on r02-u06 confirmed",
		"r02-u04 linked for r01-u04, (power off) on r02-u04 confirmed",
		"r02-u04 linked for r01-u04, (set-indicator on) on r02-u04 confirmed",
		"r02-u05 cut for r01-u05, (power off) on r02-u05 confirmed",
		"r02-u06 killed for r01-u06, (power off) on r02-u06 confirmed",
	}
	var got []string
	if !eventually(func() bool {
		got = nil
		for _, a := range recorded() {
			slices.SortFunc(a.Results, func(x, y result) int { // of several nodes: in any order
				if a.Rule != "cut" {
					return 0
				}
				return strings.Compare(x.Node, y.Node)
			})
			got = append(got, a.String())
		}
		slices.Sort(got)
		return len(got) >= len(want)
	}) || !slices.Equal(got, want) {
		t.Errorf("recorded:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, node := range []fleet.NodeName{"r02-u04", "r02-u05", "r02-u06"} {
		if n := resets(t, bmcs, node); n > 1 { // the oldest requests are forgotten
			t.Errorf("%s was told %d times", node, n)
		}
	}
	c.must("audit", "verify")
}

// The agent that is asked is dead, and so is the coordinator: the one that takes the
// rack over is asked, and does it.
func TestAcrossRacksToTheStandby(t *testing.T) {
	c := &cluster{world: newWorld(t), agents: []string{"agent", "standby", "agent-2", "standby-2"}}
	c.start("dev", "--only", "sim", "--racks", "2", "--standby").wait("ready in")
	coordinator := c.start("dev", "--only", "coordinator")
	coordinator.wait("ready in")
	running := map[string]*process{}
	for _, part := range c.agents {
		running[part] = c.start("dev", "--only", part)
		running[part].wait("ready in")
	}
	c.linkedAll()
	c.taken(16)
	c.must("apply", c.file("aisle.scl", `(monitor "r01-u04" (every 1s) (trigger "hot" (condition (> cpu.temp 90)) (action "r02-u04" (power off))))`), "--yes")
	coordinator.kill()
	running["agent-2"].kill()
	c.must("sim", "set", "r01-u04", "cpu.temp", "95")
	running["standby-2"].wait("another rack has this one act")
	c.start("dev", "--only", "coordinator").wait("ready in")
	told := func() string {
		var all []acted
		c.decode(&all, "get", "firings")
		var lines []string
		for _, a := range all {
			lines = append(lines, a.String())
		}
		slices.Sort(lines)
		return strings.Join(lines, "; ")
	}
	want := "r01-u04 hot, (power off) on r02-u04 confirmed; r02-u04 hot for r01-u04, (power off) on r02-u04 confirmed"
	if !eventually(func() bool { return told() == want }) {
		t.Errorf("recorded: %s", told())
	}
	if out := c.must("get", "firings"); !strings.Contains(out, "by agent-r02b") {
		t.Errorf("what people see:\n%s", out)
	}
}
