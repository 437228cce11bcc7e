package agent

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/level"
)

// Every command and every setting of the language is in the table of deeds, and
// what is not is never done.
func TestEveryCommandAndSettingIsADeed(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../pkg/scl/scl.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	verbs, resources := 0, 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type == nil || len(spec.Values) != 1 {
			return true
		}
		name, isIdent := spec.Type.(*ast.Ident)
		literal, isLiteral := spec.Values[0].(*ast.BasicLit)
		if !isIdent || !isLiteral {
			return true
		}
		value, _ := strconv.Unquote(literal.Value)
		switch name.Name {
		case "Verb":
			verbs++
			if _, known := deeds[scl.Verb(value)]; !known {
				t.Errorf("the command %s is no deed", value)
			}
		case "Resource":
			resources++
			if _, known := settingDeeds[scl.Resource(value)]; !known {
				t.Errorf("the setting %s is no deed", value)
			}
		}
		return true
	})
	if verbs < 14 || resources < 7 {
		t.Errorf("%d commands and %d settings were found", verbs, resources)
	}
	all := deedsOf(scl.Command{Verb: "frobnicate"})
	for _, of := range deeds {
		for _, d := range of {
			if level.Floor(d) > level.Attested {
				t.Errorf("%s is no deed", d)
			}
		}
	}
	if len(all) != 1 || level.Floor(all[0]) <= level.Attested {
		t.Errorf("an unknown command is %v", all)
	}
}

func (o *taker) do(text string, verb scl.Verb, args ...string) fleet.Result {
	return o.agent.command(o.t.Context(), o.node(), scl.Command{Verb: verb, Args: args, Text: text}, nil)
}

// at waits for a level.
func (o *taker) at(l string) fleet.Node {
	o.t.Helper()
	return o.until(l, func(n fleet.Node) bool { return n.Trust.Level == l })
}

// explained is what trust explain shows.
func explained(t *testing.T, a *Agent, n *node) (x fleet.TrustExplanation) {
	t.Helper()
	if err := json.Unmarshal(a.explain(n).Body, &x); err != nil {
		t.Fatal(err)
	}
	return x
}

// The factory's password holds a BMC at T2: it is read, and may be taken over.
// Everything else is refused with the reason and the way on, also in a plan, until
// the password is another one.
func TestFactoryPasswordIsHeldAtT2(t *testing.T) {
	o := newOwner(t, bmcsim.Config{Serial: "S1"})
	o.cfg.Nodes[0].TakeOver, o.cfg.Nodes[0].Serial = false, "S1"
	o.start()
	o.until("ready", func(n fleet.Node) bool { return n.State == fleet.Ready })
	o.at("T2")
	for verb, args := range map[scl.Verb][]string{scl.DoPower: {"on"}, scl.DoBoot: {"pxe"}, scl.DoIndicator: {"on"}, scl.DoClearLog: nil, scl.DoBMCReset: nil} {
		r := o.do("("+string(verb)+")", verb, args...)
		if r.Kind != string(fault.Untrusted) || !strings.Contains(r.Error, "left the factory") || !strings.Contains(r.Hint, "chiba bmc takeover n1") {
			t.Errorf("%s: %+v", verb, r)
		}
	}
	program, diags := programOf("s.scl", []byte(`(config "n1" (asset-tag "x") (bmc (user "root" (password "Of-this-BMC-1"))))
		(action "n1" (power on)) (show "n1" power.state trust.level)`), "s")
	if program == nil {
		t.Fatal(diags)
	}
	config := &program.Configs[0]
	x := &query{Agent: o.agent}
	if c := x.action(o.node(), unit{cmd: &program.Steps[0].Action[0], text: "(power on)"}); c.Verdict != fleet.Barred || !strings.Contains(c.Note, "left the factory") {
		t.Errorf("the plan of an action: %+v", c)
	}
	plan := o.agent.plan(t.Context(), o.node(), config)
	if plan[0].Verdict != fleet.Barred || plan[1].Verdict == fleet.Barred {
		t.Errorf("the plan of a config: %+v", plan)
	}
	if r := o.agent.look(t.Context(), o.node(), program.Steps[1]); !r.Status.OK() || r.Readings[1].Value.String() != "T2" {
		t.Errorf("it can't be read: %+v", r)
	}

	// The password is the way out.
	results := o.agent.apply(t.Context(), o.node(), config)
	if results[0].Kind != string(fault.Untrusted) || results[1].Status != fleet.Confirmed {
		t.Fatalf("apply: %+v", results)
	}
	o.agent.settle(o.node())
	o.at("T3")
	if r := o.do("(power on)", scl.DoPower, "on"); !r.Status.OK() {
		t.Errorf("power at T3: %+v", r)
	}
}

func TestTakenOverIsT3(t *testing.T) {
	o := newOwner(t, bmcsim.Config{Serial: "S1"})
	o.cfg.Nodes[0].Serial = "S1"
	o.start()
	o.taken()
	o.at("T3")
	x := explained(t, o.agent, o.node())
	var has []string
	for _, r := range x.Has {
		has = append(has, r.What+", "+r.From)
		if r.At.IsZero() || time.Since(r.At) > time.Minute {
			t.Errorf("%s was at %s", r.What, r.At)
		}
	}
	expect(t, []string{
		"its key is known, TLS handshake", "it is in the asset list, the BMC's own word",
		"it serves a certificate of the rack, TLS handshake", "its serial is the listed one, the BMC's own word",
	}, has)
	if x.Level != "T3" || len(x.Bad)+len(x.Lacks) > 0 || len(x.Digest) != 64 || x.Since.IsZero() {
		t.Errorf("explained as %+v", x)
	}
	if got := o.node().seen().Trust.Elements; got["trust.access"] != "mutual TLS only" || got["trust.vouched-by"] != "rack" || got["trust.serial-confirmed"] != "true" {
		t.Errorf("SCL sees %v", got)
	}
	// Without a serial in the catalogue the key counts, which has followed from it.
	o.stop()
	o.cfg.Nodes[0].Serial = ""
	o.start()
	o.taken()
	o.at("T3")
}

// Another server's BMC under a known key: nothing is sent to it any more, a
// person's look at it and the true serial are the way back.
func TestAnotherSerialIsQuarantined(t *testing.T) {
	o := newOwner(t, bmcsim.Config{Serial: "S2"})
	o.cfg.Nodes[0].TakeOver, o.cfg.Nodes[0].Serial = false, "S1"
	o.start()
	seen := o.at("TX")
	if seen.State != fleet.Untrusted || !strings.Contains(seen.Reason, "chiba bmc accept n1 --pin "+o.bmc.Pin()) {
		t.Errorf("it is %s: %s", seen.State, seen.Reason)
	}
	o.bmc.ResetStats()
	o.provoke()
	if got := o.bmc.Requests(); len(got) > 0 {
		t.Errorf("it was sent %v", got)
	}
	if r := o.accept(o.bmc.Pin()); r.Status != fleet.Unchanged {
		t.Errorf("looked at again: %+v", r)
	}
	o.at("TX") // it still is the other one
	o.stop()
	o.cfg.Nodes[0].Serial = "S2"
	o.start()
	o.at("T2")
}

// levels are those of the world's nodes now.
func (w *world) levels() string {
	var all []string
	for _, n := range w.agent.rack.members() {
		all = append(all, n.seen().Trust.Level)
	}
	return strings.Join(all, " ")
}

func (w *world) expectLevels(want, when string) {
	w.t.Helper()
	if got := w.levels(); got != want {
		w.t.Errorf("%s the levels are %s, want %s", when, got, want)
	}
}

// Two BMCs tell one serial. Where the catalogue decides whose it is, the other one
// alone is quarantined: nobody harms another by a lie. A serial that nobody wrote
// tells nothing.
func TestOneSerialTwice(t *testing.T) {
	for _, c := range []struct{ tells, listed, want string }{
		{"S7", "", "TX TX T3"},
		{"S7", "s7", "T3 TX T3"},
		{"To be filled by O.E.M.", "", "T3 T3 T3"},
		{"0000000", "", "T3 T3 T3"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.lanes["n1"].serial, w.lanes["n2"].serial, w.lanes["n3"].serial = c.tells, c.tells, "S9"
			w.cfg.Nodes[0].Serial = c.listed
			w.start(w.dir)
			defer w.stop()
			pass(lookAgain)
			w.expectLevels(c.want, c.tells+": ")
		})
	}
}

// A denial quarantines within seconds and its end gives the BMC back. Each change
// is one record, and a restart adds none.
func TestDeniedBMC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		pin := "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
		w.cfg.Nodes[0].Pin, w.pins[withPort("n1")] = pin, pin
		w.start(w.dir)
		w.expectLevels("T3 T3 T3", "at first")
		subject, err := trust.ParseSubject(pin)
		if err != nil {
			t.Fatal(err)
		}
		w.agent.denials.Set([]fleet.Denial{{Subject: subject, Reason: "it was stolen", By: "ada", At: time.Now()}})
		pass(lookAgain)
		w.expectLevels("TX T3 T3", "denied")
		r := w.agent.command(t.Context(), w.agent.rack.members()[0], scl.Command{Verb: scl.DoPower, Args: []string{"on"}, Text: "(power on)"}, nil)
		if r.Kind != string(fault.Untrusted) || !strings.Contains(r.Error, "it was stolen") || !strings.Contains(r.Hint, "chiba trust allow "+pin) {
			t.Errorf("a command: %+v", r)
		}
		if got := w.lanes["n1"].did(); got != "" {
			t.Errorf("it was told %s", got)
		}
		w.agent.denials.Set(nil)
		pass(lookAgain)
		w.expectLevels("T3 T3 T3", "allowed again")
		if n := w.agent.rack.members()[0].seen(); n.State != fleet.Ready {
			t.Errorf("it is %s: %s", n.State, n.Reason)
		}
		w.stop()
		w.start(w.dir)
		defer w.stop()
		var ofN1 []string
		for _, text := range w.recordsOf(func(r *pb.Record) bool { return r.GetTrust() != nil }) {
			if strings.HasPrefix(text, "n1") {
				ofN1 = append(ofN1, text)
			}
		}
		expect(t, []string{`n1 from "" to T3`, `n1 from "T3" to TX it is on the deny list: it was stolen`, `n1 from "TX" to T3`}, ofN1)
	})
}

// What was not seen for longer than the policy says does not count, until it is
// seen again.
func TestOldFactsDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		w.apply(`(trust-policy (fresh 10m))`)
		w.lanes["n1"].set(func() { w.lanes["n1"].state = fleet.Unreachable })
		w.mu.Lock()
		delete(w.pins, withPort("n1"))
		w.mu.Unlock()
		pass(16 * time.Minute)
		w.expectLevels("T0 T3 T3", "after a quarter of an hour")
		_, err := w.agent.way(w.agent.rack.members()[0], level.Power)
		if !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), "last seen") {
			t.Errorf("power: %v", err)
		}
		w.lanes["n1"].set(func() { w.lanes["n1"].state = fleet.Ready })
		pass(refreshEvery)
		w.expectLevels("T3 T3 T3", "back")
	})
}

// A policy raises what a deed needs. A rule whose command it bars is held, and
// fires when the policy is gone and the condition still true.
func TestPolicyHoldsARuleUntilItIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 95)
		w.start(w.dir)
		defer w.stop()
		policy := &pb.Script{Name: "p", File: "p.scl", Source: []byte(`(trust-policy (require T4 power))`)}
		rule := &pb.Script{Name: "s", File: "s.scl", Source: []byte(`(monitor "n1" (trigger "hot" (condition (> cpu.temp 90)) (action (reboot))))`)}
		w.desire(&pb.Desired{Revision: 1, Scripts: []*pb.Script{policy, rule}})
		pass(15 * time.Second)
		expect(t, []string{"hot on n1, cut off, held n1: check trust: power needs trust level T4 and this BMC has T3"}, w.records())
		if got := w.lanes["n1"].did(); got != "" {
			t.Errorf("it was told %s", got)
		}
		w.desire(&pb.Desired{Revision: 2, Ended: []*pb.Ended{w.ended("p")}})
		pass(15 * time.Second)
		if got := w.records(); len(got) != 2 || got[1] != "hot on n1, cut off, n1: (reboot) confirmed" {
			t.Errorf("after its end: %q", got)
		}
	})
}

// After a restart a rule is barred until its BMC was seen. Then the rules are
// resolved again, although there is nothing new to be reported of the node.
func TestARuleIsFreeAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		w.apply(`(monitor "n1" (trigger "hot" (condition (> cpu.temp 90)) (action (reboot))))`)
		pass(15 * time.Second)
		w.stop()
		a := w.assemble(w.dir)
		if rules := a.rules(); rules[0].Barred["n1"] == "" {
			t.Error("nobody has seen it yet")
		}
		n, before := a.rack.named("n1"), len(w.recordsOf(func(*pb.Record) bool { return true }))
		n.set(w.lanes["n1"], "n1:443", "static")
		n.heard(discovery.Candidate{Found: []string{"static"}, Seen: a.now()})
		a.refresh(t.Context(), n, w.lanes["n1"])
		if now := len(w.recordsOf(func(*pb.Record) bool { return true })); now != before {
			t.Errorf("%d records instead of %d: the test shows nothing: %q", now, before, w.recordsOf(func(*pb.Record) bool { return true }))
		}
		if rules := a.rules(); len(a.targets) == 0 || rules[0].Barred["n1"] != "" {
			t.Errorf("the rules are not resolved again, or barred: %q", rules[0].Barred["n1"])
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// A site that wants to be asked about every BMC gets a person's word by accept, and
// keeps it over a restart. A where selects by the level.
func TestAskedForEveryBMC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i, pin := range []string{"sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="} {
			w.cfg.Nodes[i].Pin, w.pins[withPort(string(w.cfg.Nodes[i].Name))] = pin, pin
		}
		w.start(w.dir)
		w.apply(`(trust-policy (ask #t))`)
		w.expectLevels("T1 T1 T1", "before anybody was asked")
		accept := scl.Command{Verb: scl.DoAccept, Args: []string{w.cfg.Nodes[0].Pin}, Text: "(bmc-accept)"}
		if r := w.agent.command(t.Context(), w.agent.rack.members()[0], accept, nil); !r.Status.OK() {
			t.Errorf("accept: %+v", r)
		}
		w.expectLevels("T3 T1 T1", "after the word for one")
		w.stop()
		w.start(w.dir)
		defer w.stop()
		pass(lookAgain)
		w.expectLevels("T3 T1 T1", "after a restart")
		got := w.ask(&pb.Query{Source: []byte(`(show (where (= trust.level "T3")) trust.level trust.key trust.listed trust.access)`)})
		if len(got) != 3 || !strings.Contains(got[1], "n1:") || !strings.Contains(got[1], "trust.level=T3 trust.key=same trust.listed=#t trust.access=password") {
			t.Errorf("shown: %q", got)
		}
	})
}
