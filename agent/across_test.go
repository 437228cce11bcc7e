package agent

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/intent"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/site"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/sign"
)

const leakRule = `(monitor "n1" (trigger "leak" (every 10s) (cooldown 0s)
	(condition (> cpu.temp 90))
	(action "m1" (power graceful-off) (power off))))`

// yard is the racks of a site without its network: what one asks another comes from
// whom the yard says it comes.
type yard struct {
	mu     sync.Mutex
	racks  map[fleet.AgentName]fleet.RackName
	agents map[fleet.AgentName]*Agent
	calls  []string
	lost   func(to fleet.AgentName, c *pb.SiteCall) bool // the answer, not the question
}

// enter has the agents of a world be in the yard, one after the other.
func (y *yard) enter(w *world) {
	w.meet = func(a *Agent) {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.racks[a.cfg.Name], y.agents[a.cfg.Name] = a.cfg.Rack, a
		a.others, a.jitter = fellow{y, a.cfg.Name}, func() float64 { return 0 }
	}
}

// away has an agent be reached by nobody.
func (y *yard) away(name fleet.AgentName) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.agents[name] = nil
}

// asked is how often an agent was asked to act.
func (y *yard) asked(name fleet.AgentName) (n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, c := range y.calls {
		if c == string(name) {
			n++
		}
	}
	return n
}

// fellow is an agent as it asks the others.
type fellow struct {
	*yard
	self fleet.AgentName
}

func (n fellow) Peers() (all []site.Peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, rack := range n.racks {
		if name != n.self {
			all = append(all, site.Peer{Agent: name, Rack: rack, Alive: n.agents[name] != nil})
		}
	}
	slices.SortFunc(all, func(a, b site.Peer) int { return strings.Compare(string(a.Agent), string(b.Agent)) })
	return all
}

func (n fellow) Ask(ctx context.Context, to fleet.AgentName, c *pb.SiteCall) (*pb.SiteReply, error) {
	n.mu.Lock()
	a, rack, lost := n.agents[to], n.racks[n.self], n.lost
	if c.GetIntent() != nil && a != nil {
		n.calls = append(n.calls, string(to))
	}
	n.mu.Unlock()
	if a == nil {
		return nil, fault.New(fault.Unavailable, "ask agent "+string(to), "no route to host")
	}
	from := trust.Identity{Role: trust.Agent, Name: string(n.self), Domain: trust.Domain{Site: "s1", Rack: string(rack)}}
	reply, err := a.answerSite(ctx, from, proto.CloneOf(c))
	n.mu.Lock()
	gone := n.agents[to] != a // meanwhile
	n.mu.Unlock()
	if gone || lost != nil && lost(to, c) {
		return nil, fault.New(fault.Timeout, "ask agent "+string(to), "no answer")
	}
	return reply, err
}

// twoRacks are r1 with n1 and n2, whose agent is a1, and r2 with m1 and m2, whose
// agent is a2. Neither runs yet.
func twoRacks(t *testing.T) (*yard, *world, *world) {
	t.Helper()
	y := &yard{racks: make(map[fleet.AgentName]fleet.RackName), agents: make(map[fleet.AgentName]*Agent)}
	one, two := newWorld(t), newWorld(t)
	two.cfg.Name, two.cfg.Rack, two.cfg.ScriptRoot = "a2", "r2", filepath.Join(one.dir, sign.RootFile)
	two.authors, two.policy, two.orders = one.authors, one.policy, one.orders
	two.cfg.Nodes = nil
	for _, name := range []fleet.NodeName{"m1", "m2"} {
		two.cfg.Nodes = append(two.cfg.Nodes, Entry{Name: name, Pin: "sha256/" + string(name), Address: string(name)})
		two.lanes[name] = &fakeLane{node: name, state: fleet.Ready, power: "on", values: make(map[string]fleet.Value)}
		two.pins[withPort(string(name))] = "sha256/" + string(name)
	}
	y.enter(one)
	y.enter(two)
	one.temp("n1", 50)
	return y, one, two
}

// both starts both, with a script in force.
func both(t *testing.T, source string) (*yard, *world, *world) {
	t.Helper()
	y, one, two := twoRacks(t)
	two.start(two.dir)
	one.start(one.dir)
	two.apply(source)
	one.apply(source)
	return y, one, two
}

func stopBoth(one, two *world) { one.stop(); two.stop() }

const (
	leakAtOne = "leak on n1, cut off, m1: (power graceful-off) confirmed by a2, m1: (power off) confirmed by a2"
	leakAtTwo = "leak on m1, cut off, asked by a1 of r1 for n1, m1: "
)

// A rule of one rack acts in another while neither reaches a coordinator. Both tell
// what was done, once and in order.
func TestRuleActsInAnotherRack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, one, two := both(t, leakRule)
		defer stopBoth(one, two)
		one.temp("n1", 95)
		pass(15 * time.Second)
		expect(t, []string{leakAtOne}, one.records())
		expect(t, []string{leakAtTwo + "(power graceful-off) confirmed", leakAtTwo + "(power off) confirmed"}, two.records())
		if got := two.lanes["m1"].did(); got != "(power graceful-off); (power off)" {
			t.Errorf("m1 was told %q", got)
		}
		if n := one.intents(); n != 0 {
			t.Errorf("%d notes are left", n)
		}
		one.temp("n1", 50)
		pass(15 * time.Second)
		one.temp("n1", 95)
		pass(15 * time.Second)
		if got := two.lanes["m1"].did(); strings.Count(got, "(power off)") != 2 {
			t.Errorf("the rule fired again, and m1 was told %q", got)
		}
	})
}

// Each node goes its own way: one that fails keeps no other one back, wherever it is.
func TestRuleActsOnNodesOfSeveralRacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, one, two := both(t, strings.Replace(leakRule, `"m1"`, `("m1" "m2" "n2")`, 1))
		defer stopBoth(one, two)
		two.lanes["m1"].do = func(context.Context, scl.Command) fleet.Result {
			return failure(fault.New(fault.Unavailable, "power", "it hangs"))
		}
		one.temp("n1", 95)
		pass(15 * time.Second)
		if got := [3]string{two.lanes["m1"].did(), two.lanes["m2"].did(), one.lanes["n2"].did()}; got != [3]string{
			"(power graceful-off)", "(power graceful-off); (power off)", "(power graceful-off); (power off)",
		} {
			t.Errorf("they were told %q", got)
		}
		got := one.records()
		if len(got) != 1 || !strings.Contains(got[0], "m1: (power graceful-off) failed by a2 (power: it hangs)") || strings.Count(got[0], "confirmed") != 4 {
			t.Errorf("recorded: %q", got)
		}
	})
}

// The command that names a node itself goes there, and the others stay.
func TestStartImageInAnotherRack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, one, two := both(t, strings.Replace(hotRule, `"n2"`, `"m2"`, 1))
		defer stopBoth(one, two)
		one.temp("n1", 95)
		pass(15 * time.Second)
		expect(t, []string{`hot on n1, cut off, n1: (log "hot") confirmed, m2: (start-new-server-with-image "m2" "ubuntu") confirmed by a2`}, one.records())
	})
}

// Answers get lost, for a while: what was done is not done again.
func TestLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y, one, two := both(t, leakRule)
		defer stopBoth(one, two)
		y.mu.Lock()
		y.lost = func(_ fleet.AgentName, c *pb.SiteCall) bool { return c.GetIntent() != nil }
		y.mu.Unlock()
		one.temp("n1", 95)
		pass(5 * time.Minute)
		if n := y.asked("a2"); n < 5 {
			t.Errorf("it was asked %d times", n)
		}
		y.mu.Lock()
		y.lost = nil
		y.mu.Unlock()
		pass(time.Minute)
		expect(t, []string{leakAtOne}, one.records())
		if got := two.lanes["m1"].did(); got != "(power graceful-off); (power off)" {
			t.Errorf("m1 was told %q", got)
		}
	})
}

// Nobody takes it for ten minutes: then it is not done, and said so. Before that it is.
func TestUnreachedRack(t *testing.T) {
	for name, c := range map[string]struct {
		back time.Duration
		want string
	}{
		"for a while":  {7 * time.Minute, leakAtOne},
		"for too long": {11 * time.Minute, "leak on n1, cut off, m1: (power graceful-off) failed (not done: no agent took it within 10m0s: find the rack of a node: no rack that answers has m1, and these agents do not: a2)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				y, one, two := both(t, leakRule)
				defer stopBoth(one, two)
				y.away("a2")
				one.temp("n1", 95)
				pass(c.back)
				y.mu.Lock()
				y.agents["a2"] = two.agent
				y.mu.Unlock()
				pass(5 * time.Minute)
				expect(t, []string{c.want}, one.records())
			})
		})
	}
}

// An agent without an address for the others says so at once.
func TestAloneInItsSite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 95)
		w.start(w.dir)
		defer w.stop()
		w.apply(leakRule)
		pass(15 * time.Second)
		expect(t, []string{"leak on n1, cut off, m1: (power graceful-off) failed (ask another rack: agent a1 has no address for the others of its site)"}, w.records())
	})
}

// The one who does it is killed in the middle. The next process can't know how it
// ended, says so to both sides, and does not repeat it.
func TestDoerIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y, one, two := both(t, leakRule)
		hang := make(chan bool)
		two.lanes["m1"].do = func(context.Context, scl.Command) fleet.Result { <-hang; return fleet.Result{} }
		one.temp("n1", 95)
		pass(15 * time.Second)
		dead := two.crash()
		y.away("a2")
		close(hang)
		two.stop()
		two.lanes["m1"].do, two.lanes["m1"].calls = nil, nil
		pass(time.Minute)
		two.start(dead)
		defer stopBoth(one, two)
		pass(time.Minute)
		unknown := "(power graceful-off) unknown%s (the agent stopped while it did (power graceful-off); it is not repeated)"
		expect(t, []string{"leak on n1, cut off, m1: " + strings.Replace(unknown, "%s", " by a2", 1)}, one.records())
		expect(t, []string{leakAtTwo + strings.Replace(unknown, "%s", "", 1)}, two.records())
		if got := two.lanes["m1"].did(); got != "" {
			t.Errorf("m1 was told %q", got)
		}
	})
}

// The one who does it is killed before it has begun: the next process does it.
func TestDoerIsKilledBeforeItBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, one, two := both(t, leakRule)
		defer one.stop()
		two.stop()
		two.assemble(two.dir) // it takes what it is asked, and nobody works
		two.agent.office.set(owner.Output{Role: owner.Active})
		one.temp("n1", 95)
		pass(15 * time.Second)
		if err := two.agent.Close(); err != nil {
			t.Fatal(err)
		}
		two.start(two.dir)
		defer two.stop()
		pass(time.Minute)
		expect(t, []string{leakAtOne}, one.records())
	})
}

// The one who asks is killed while the other one acts. The next process asks again for
// the same, is told what came of it, and goes on with the rest.
func TestAskerIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y, one, two := both(t, leakRule)
		hang := make(chan bool)
		two.lanes["m1"].do = func(context.Context, scl.Command) fleet.Result { <-hang; return fleet.Result{Status: fleet.Confirmed} }
		one.temp("n1", 95)
		pass(15 * time.Second)
		dead := one.crash()
		one.stop()
		close(hang)
		pass(time.Minute)
		before := y.asked("a2")
		one.start(dead)
		defer stopBoth(one, two)
		pass(time.Minute)
		expect(t, []string{leakAtOne}, one.records())
		if got := two.lanes["m1"].did(); got != "(power graceful-off); (power off)" || y.asked("a2") == before {
			t.Errorf("m1 was told %q", got)
		}
		expect(t, []string{leakAtTwo + "(power graceful-off) confirmed", leakAtTwo + "(power off) confirmed"}, two.records())
	})
}

// The standby of the one who does it has what that one has written down.
func TestStandbyAnswersForTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y, one, two := both(t, leakRule)
		hang := make(chan bool)
		two.lanes["m1"].do = func(context.Context, scl.Command) fleet.Result { <-hang; return fleet.Result{} }
		one.temp("n1", 95)
		pass(15 * time.Second)
		mirror := two.crash()
		y.away("a2")
		close(hang)
		two.stop()
		two.lanes["m1"].do, two.lanes["m1"].calls = nil, nil
		two.cfg.Name = "a2-b"
		two.start(mirror)
		defer stopBoth(one, two)
		pass(time.Minute)
		got := one.records()
		if len(got) != 1 || !strings.Contains(got[0], "(power graceful-off) unknown by a2-b") || two.lanes["m1"].did() != "" {
			t.Errorf("recorded: %q, m1 was told %q", got, two.lanes["m1"].did())
		}
		for _, table := range []spool.Table{spool.Asked, spool.Intents} {
			if !journal.Mirrored(table, "x") {
				t.Errorf("a standby has no %s", table)
			}
		}
	})
}

// asks has an agent ask another one for something of its own making.
func (y *yard) asks(t *testing.T, from, to fleet.AgentName, call *pb.SiteIntent) (*pb.SiteAnswer, error) {
	t.Helper()
	reply, err := fellow{y, from}.Ask(t.Context(), to, &pb.SiteCall{Body: &pb.SiteCall_Intent{Intent: call}})
	return reply.GetAnswer(), err
}

// An agent in bad hands asks for what no script says, in many ways: it is refused,
// told, and nothing is done.
func TestLiarIsRefusedAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y, one, two := both(t, leakRule)
		defer stopBoth(one, two)
		version := one.agent.versionOf("s")
		good := func() *pb.SiteIntent {
			return &pb.SiteIntent{Intent: intent.New(fleet.Firing{Script: "s", Rule: "leak", Node: "n1", At: time.Now()}, version, 1, "m1")}
		}
		forged, unsigned := `(monitor "n1" (trigger "leak" (condition (> cpu.temp 90)) (action "m2" (power off))))`, good()
		unsigned.Intent.Version, unsigned.Intent.On, unsigned.Source = version+1000, "m2", []byte(forged)
		unsigned.Envelope = one.agent.standing.scripts["s"].GetEnvelope()
		foreign, o := good(), one.authors.Order(order.Standing, "s", forged)
		o.Audience = []string{"r1"}
		foreign.Intent.Version, foreign.Intent.On, foreign.Source, foreign.Envelope = o.Version, "m2", []byte(forged), one.authors.Sign(o)
		for name, c := range map[string]struct {
			call *pb.SiteIntent
			with func(i *pb.Intent)
			why  string
		}{
			"another node":       {call: good(), with: func(i *pb.Intent) { i.On = "m2" }, why: "does not say that this is to be done on m2"},
			"another rule":       {call: good(), with: func(i *pb.Intent) { i.Rule = "x" }, why: "has no rule x"},
			"another command":    {call: good(), with: func(i *pb.Intent) { i.Command = 7 }, why: "does not say"},
			"not its node":       {call: good(), with: func(i *pb.Intent) { i.Node = "n2" }, why: "watches no node n2 of rack r1"},
			"an old version":     {call: good(), with: func(i *pb.Intent) { i.Version = version - 1 }, why: "is over: this rack has had version"},
			"a forged script":    {call: unsigned, why: "the script is not the one that was signed"},
			"a script of r1":     {call: foreign, why: "the order is not meant for rack r2"},
			"long past":          {call: good(), with: func(i *pb.Intent) { i.AtUnixMs -= time.Hour.Milliseconds(); i.UntilUnixMs -= time.Hour.Milliseconds() }, why: "came too late"},
			"valid for a decade": {call: good(), with: func(i *pb.Intent) { i.UntilUnixMs += time.Hour.Milliseconds() }, why: "valid for longer"},
		} {
			if c.with != nil {
				c.with(c.call.GetIntent())
			}
			answer, err := y.asks(t, "a1", "a2", c.call)
			if err != nil || answer.GetState() != pb.SiteAnswer_REFUSED || !strings.Contains(answer.GetError(), c.why) {
				t.Errorf("%s: %v, %v", name, answer, err)
			}
		}
		got := strings.Join(two.records(), "\n")
		if strings.Count(got, "refused intent s: asked by agent a1 of rack r1 for m") != 9 {
			t.Errorf("told:\n%s", got)
		}
		if did := two.lanes["m1"].did() + two.lanes["m2"].did(); did != "" {
			t.Errorf("its BMCs were told %q", did)
		}
	})
}

// A rack asks no more often than its rule may fire, whatever it says; the same again is
// not asked for again.
func TestLiarIsHeldToTheCooldown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y, one, two := both(t, strings.Replace(leakRule, "(cooldown 0s)", "(cooldown 5m)", 1))
		defer stopBoth(one, two)
		at := time.Now()
		ask := func(at time.Time) string {
			f := fleet.Firing{Script: "s", Rule: "leak", Node: "n1", At: at}
			answer, err := y.asks(t, "a1", "a2", &pb.SiteIntent{Intent: intent.New(f, one.agent.versionOf("s"), 1, "m1")})
			if err != nil {
				t.Fatal(err)
			}
			return answer.GetState().String() + answer.GetError()
		}
		for range 3 {
			if got := ask(at); got != "DONE" {
				t.Errorf("asked for the same: %s", got)
			}
		}
		if got := ask(at.Add(time.Second)); !strings.Contains(got, "(cooldown 5m0s)") {
			t.Errorf("asked again: %s", got)
		}
		if got := two.lanes["m1"].did(); got != "(power off)" {
			t.Errorf("m1 was told %q", got)
		}
	})
}

// An agent whose rack has another owner by now asks in vain.
func TestOldOwnerAsksInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y, one, two := both(t, leakRule)
		defer stopBoth(one, two)
		call := &pb.SiteIntent{Intent: intent.New(fleet.Firing{Script: "s", Rule: "leak", Node: "n1", At: time.Now()}, one.agent.versionOf("s"), 0, "m1"), Grant: 7, Local: 1}
		if answer, err := y.asks(t, "a1", "a2", call); err != nil || answer.GetState() != pb.SiteAnswer_DONE {
			t.Fatal(answer, err)
		}
		call.Local = 0
		answer, err := y.asks(t, "a1", "a2", call)
		if err != nil || !strings.Contains(answer.GetError(), "rack r1 has had another owner since: it asks in epoch 7, and was heard in epoch 7.1") {
			t.Errorf("%v, %v", answer, err)
		}
		call.Grant = 8
		if answer, err := y.asks(t, "a1", "a2", call); err != nil || answer.GetState() != pb.SiteAnswer_DONE {
			t.Errorf("the next owner asks for the same: %v, %v", answer, err)
		}
		if got := two.lanes["m1"].did(); got != "(power graceful-off)" {
			t.Errorf("m1 was told %q", got)
		}
	})
}

// A rack that was cut off when a script came gets it from the one who asks, verifies it
// as any other, and does not keep it in force.
func TestScriptComesWithTheIntent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, one, two := twoRacks(t)
		two.start(two.dir)
		one.start(one.dir)
		defer stopBoth(one, two)
		two.desire(&pb.Desired{Revision: 1})
		one.apply(leakRule)
		one.temp("n1", 95)
		pass(15 * time.Second)
		expect(t, []string{leakAtOne}, one.records())
		if n := len(two.agent.programs()); n != 0 {
			t.Errorf("%d scripts stand in the other rack", n)
		}
	})
}

// What was removed in the rack that is asked is not done there, though the one who asks
// has not heard of it.
func TestRemovedWhereItIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, one, two := both(t, leakRule)
		defer stopBoth(one, two)
		two.told(&pb.Desired{Revision: 2, Policy: two.policy, Ended: []*pb.Ended{two.ended("s")}})
		one.temp("n1", 95)
		pass(15 * time.Second)
		got := one.records()
		if len(got) != 1 || !strings.Contains(got[0], "m1: (power graceful-off) failed (ask agent a2: do what another rack asks: version") || two.lanes["m1"].did() != "" {
			t.Errorf("recorded: %q", got)
		}
	})
}

// A rule that is held while no coordinator is reached is held by both: by the one that
// watches, and by the one that is to act.
func TestHeldWhileTheOtherRackIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, one, two := both(t, strings.Replace(leakRule, "(cooldown 0s)", "(cooldown 0s) (when-cut-off hold)", 1))
		defer stopBoth(one, two)
		one.temp("n1", 95)
		pass(time.Minute)
		expect(t, []string{"leak on n1, cut off, held (when-cut-off hold): no coordinator is reached"}, one.records())
		one.link.up.Store(true)
		one.agent.Linked(true, time.Now())
		pass(time.Minute)
		if got := two.lanes["m1"].did(); got != "" {
			t.Errorf("the other rack is cut off, and m1 was told %q", got)
		}
		two.link.up.Store(true)
		pass(time.Minute)
		if got := two.lanes["m1"].did(); got != "(power graceful-off); (power off)" {
			t.Errorf("m1 was told %q", got)
		}
	})
}

// Whoever removes a rule wants it to stop: what is asked of others, too, from the next
// command on.
func TestRemovedWhileItIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, one, two := both(t, leakRule)
		defer stopBoth(one, two)
		two.lanes["m1"].do = func(context.Context, scl.Command) fleet.Result {
			<-time.After(time.Minute)
			return fleet.Result{Status: fleet.Confirmed}
		}
		one.temp("n1", 95)
		pass(15 * time.Second)
		one.told(&pb.Desired{Revision: 2, Policy: one.policy, Ended: []*pb.Ended{one.ended("s")}})
		pass(2 * time.Minute)
		expect(t, []string{"leak on n1, cut off, m1: (power graceful-off) confirmed by a2, m1: (power off) skipped (not tried: the rule is no longer in force)"}, one.records())
	})
}

// Two racks that say they have a node are both not asked to act on it.
func TestTwoRacksClaimANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y, one, two := both(t, leakRule)
		defer stopBoth(one, two)
		y.mu.Lock()
		y.racks["a3"], y.agents["a3"] = "r3", two.agent
		y.mu.Unlock()
		one.temp("n1", 95)
		pass(12 * time.Minute)
		got := one.records()
		if len(got) != 1 || !strings.Contains(got[0], "racks r2 and r3 both say that they have m1") || two.lanes["m1"].did() != "" {
			t.Errorf("recorded: %q", got)
		}
	})
}

// What was done is remembered for a day, and then forgotten.
func TestAskedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, one, two := both(t, leakRule)
		kept := func() (n int) {
			err := two.agent.spool.View(func(tx *spool.Tx) error {
				all, err := journal.AskedBy(tx, "r1")
				n = len(all)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		one.temp("n1", 95)
		pass(15 * time.Second)
		if n := kept(); n != 2 {
			t.Errorf("%d are remembered", n)
		}
		one.temp("n1", 50)
		pass(15 * time.Second)
		stopBoth(one, two)
		pass(25 * time.Hour)
		two.start(two.dir)
		one.start(one.dir)
		defer stopBoth(one, two)
		one.temp("n1", 95)
		pass(time.Minute)
		if n := kept(); n != 2 {
			t.Errorf("%d are remembered a day later", n)
		}
	})
}
