package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/level"
	"github.com/chiba-mesh/chiba/trust/sign"
)

// repeater is a finder that goes on saying what is there.
type repeater []discovery.Sighting

func (r repeater) Run(ctx context.Context, out chan<- discovery.Sighting) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		for _, s := range r {
			select {
			case out <- s:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// strangers is a rack with n1 in its catalogue, and a BMC on its link that is in
// none.
type strangers struct {
	*world
	heard repeater
	runs  int
}

const strangerPin = "sha256/x1"

func newStrangers(t *testing.T) *strangers {
	t.Helper()
	w := newWorld(t)
	w.cfg.Nodes = w.cfg.Nodes[:1]
	w.pins["x1:443"], w.pins["x2:443"] = strangerPin, "sha256/x2"
	w.roots = map[string]discovery.Root{
		strangerPin: {UUID: "uuid-1", Make: "OpenBMC"}, "sha256/x2": {UUID: "uuid-2"},
	}
	return &strangers{world: w, heard: repeater{{Address: "x1:443", Name: "bmc on x1", Found: "mdns", Link: "eth1", Source: "x1", Service: "_obmc_redfish._tcp"}}}
}

// up starts a process of the agent.
func (s *strangers) up() {
	s.t.Helper()
	w := s.world
	a := w.assemble(w.dir)
	a.finders = append(a.finders, s.heard)
	opened := a.open
	a.open = func(e Entry, at string) (lane, error) {
		s.mu.Lock()
		if w.lanes[e.Name] == nil {
			w.lanes[e.Name] = &fakeLane{node: e.Name, state: fleet.Ready, power: "on", serial: "SN-" + string(e.Name), values: map[string]fleet.Value{}}
		}
		s.mu.Unlock()
		return opened(e, at)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			s.t.Errorf("the agent ended with %v", err)
		}
	}
	<-a.Ready()
	pass(10 * time.Second)
}

// stranger is the one that there is, by its name.
func (s *strangers) stranger() *node {
	s.t.Helper()
	if n := s.agent.rack.stranger(strangerPin); n != nil {
		return n
	}
	s.t.Fatalf("there is no stranger; told: %q", s.nodes())
	return nil
}

// say has keys sign an order about the stranger, and the agent do it.
func (s *strangers) say(what string, keys ...*sign.Key) {
	s.t.Helper()
	s.sayOf(string(s.stranger().entry.Name), what, keys...)
}

func (s *strangers) sayOf(name, what string, keys ...*sign.Key) {
	s.t.Helper()
	s.runs++
	id := "P" + strings.Repeat("x", s.runs)
	source := `(action "` + name + `" ` + what + `)`
	o := s.authors.Order(order.Run, "bmc", source)
	o.NotAfter = time.Now().Add(time.Hour)
	envelope, err := sign.Order(o, keys...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.told(&pb.Desired{Revision: 1, Policy: s.policy, Runs: []*pb.Run{{
		Id: id, Script: "bmc", File: o.File, Source: []byte(source), Envelope: envelope, Version: o.Version, Digest: o.Digest,
	}}})
	pass(time.Second)
}

// admission is how it is told to the coordinators.
func (s *strangers) admission(n *node) string {
	a := n.seen().Admission
	return strings.TrimSpace(string(a.State) + ": " + a.Why + " " + strings.Join(a.By, ","))
}

func TestAStrangerWaitsAndIsToldNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrangers(t)
		s.up()
		defer s.stop()
		n := s.stranger()
		if got := s.admission(n); got != "waiting: nobody has let it in" {
			t.Errorf("it is %s", got)
		}
		if !strings.HasPrefix(string(n.entry.Name), "r1-") || len(n.entry.Name) != len("r1-")+6 {
			t.Errorf("its name is %s", n.entry.Name)
		}
		seen := n.seen()
		if seen.Trust.Level != "T1" || seen.Admission.Make != "OpenBMC" || seen.Admission.Told("link") != "eth1" {
			t.Errorf("it is %s, %+v", seen.Trust.Level, seen.Admission)
		}
		if s.lanes[n.entry.Name] != nil {
			t.Error("a lane was opened to it")
		}
		if user, _, err := s.agent.cfg.loginOf(n.entry).read(); err == nil {
			t.Errorf("the rack's login as %s could be sent to it", user)
		}
		// Nothing but its own name selects it.
		s.run("R1", `(action "all" (power off))`)
		s.run("R2", `(action "r1-*" (power off))`)
		s.run("R3", `(action "`+string(n.entry.Name)+`" (power off))`)
		told := strings.Join(s.records(), "; ")
		want := "R3 " + string(n.entry.Name) + ": (power off) skipped (not tried: it is none of the fleet; it is waiting: nobody has let it in)"
		if strings.Count(told, string(n.entry.Name)) != 1 || !strings.Contains(told, want) {
			t.Errorf("done: %s", told)
		}
	})
}

func TestAPersonAdmitsAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrangers(t)
		s.up()
		was := s.stranger().entry.Name
		s.say(`(bmc-admit "sha256/other")`, s.authors.Ada)
		if got := s.admission(s.stranger()); got != "waiting: nobody has let it in" {
			t.Fatalf("with another key it is %s", got)
		}
		s.say(`(bmc-admit "`+strangerPin+`" (as "n1"))`, s.authors.Ada)
		if s.agent.rack.stranger(strangerPin) == nil {
			t.Fatal("it has got the name of another node")
		}
		s.say(`(bmc-admit "`+strangerPin+`" (as "n9") (serial "SN-n9"))`, s.authors.Ada)
		n := s.agent.rack.named("n9")
		if n == nil {
			t.Fatalf("done: %q", s.records())
		}
		if got := s.admission(n); got != "admitted: let in by ada ada" {
			t.Errorf("it is %s", got)
		}
		if got := strings.Join(s.levelsTold(), "; "); !strings.Contains(got, `n9 from "" to T2`) || strings.Contains(got, string(was)) {
			t.Errorf("the audit log is told: %s", got)
		}
		if got := strings.Join(s.nodes(), "; "); !strings.Contains(got, string(was)+" is gone") || !strings.Contains(got, "n9 is ready, power on") {
			t.Errorf("told: %s", got)
		}
		s.stop()
		s.up()
		defer s.stop()
		if n = s.agent.rack.named("n9"); n == nil {
			t.Fatal("it is forgotten after a restart")
		}
		f := s.agent.facts(n)
		if n.seen().State != fleet.Ready || f.Asset.Is != level.Confirmed || level.People(f.Approved)[0] != "ada" {
			t.Errorf("after a restart it is %s, %+v", n.seen().State, f)
		}
		if user, password, err := s.agent.cfg.loginOf(n.entry).read(); err != nil || !isFactory(user, password) {
			t.Errorf("its login is that of %s, %v", user, err)
		}
		s.run("R1", `(action "n9" (power off))`)
		if got := s.lanes["n9"].did(); strings.Contains(got, "power") {
			t.Errorf("it was switched although its password is the factory's: %s", got)
		}
	})
}

func TestTwoDifferentPeopleCanBeAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrangers(t)
		s.up()
		s.apply(`(trust-policy (approve 2))`)
		s.say(`(bmc-admit "`+strangerPin+`" (as "n9"))`, s.authors.Ada)
		s.say(`(bmc-admit "`+strangerPin+`")`, s.authors.Ada)
		if got := s.admission(s.stranger()); got != "waiting: 2 different people must let it in, so far: ada" {
			t.Errorf("it is %s", got)
		}
		s.stop()
		s.up()
		defer s.stop()
		s.say(`(bmc-admit "`+strangerPin+`")`, s.authors.Bob)
		n := s.agent.rack.named("n9")
		if n == nil {
			t.Fatalf("it is %s", s.admission(s.stranger()))
		}
		if got := s.admission(n); got != "admitted: let in by ada and bob ada,bob" {
			t.Errorf("it is %s", got)
		}
	})
}

// One order that two people have signed is the word of both.
func TestOneOrderCanBeTheWordOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrangers(t)
		s.up()
		defer s.stop()
		s.apply(`(trust-policy (approve 2))`)
		s.say(`(bmc-admit "`+strangerPin+`" (as "n9"))`, s.authors.Ada, s.authors.Bob)
		if s.agent.rack.named("n9") == nil {
			t.Errorf("it is %s", s.admission(s.stranger()))
		}
	})
}

func TestRefusedAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrangers(t)
		s.up()
		s.apply(`(trust-policy (asset "n8" (key "` + strangerPin + `")))`)
		pass(10 * time.Second)
		n := s.agent.rack.named("n8")
		if n == nil {
			t.Fatalf("it is %s", s.admission(s.stranger()))
		}
		lane := s.lanes["n8"]
		s.sayOf("n8", `(bmc-refuse "not ours")`, s.authors.Bob)
		pass(time.Minute)
		if got := s.admission(s.stranger()); got != "refused: not ours bob" {
			t.Errorf("it is %s", got)
		}
		if s.agent.rack.named("n8") != nil || !lane.closed {
			t.Error("it is a node still")
		}
		s.stop()
		s.up()
		defer s.stop()
		if got := s.admission(s.stranger()); got != "refused: not ours bob" {
			t.Errorf("after a restart it is %s", got)
		}
		s.say(`(bmc-forget)`, s.authors.Ada)
		pass(time.Minute)
		if n := s.agent.rack.named("n8"); n == nil || s.admission(n) != "admitted: it is n8 of the asset list trust-policy" {
			t.Errorf("told: %q", s.nodes())
		}
		s.sayOf("n1", `(bmc-forget)`, s.authors.Ada)
		if got := strings.Join(s.records(), "; "); !strings.Contains(got, "n1: (bmc-forget) failed (forget the BMC: it stands in the catalogue of its agent)") {
			t.Errorf("done: %s", got)
		}
	})
}

func TestWhatAStrangerClaimsThatOthersDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrangers(t)
		s.heard = append(s.heard, discovery.Sighting{Address: "x2:443", Found: "mdns", Link: "eth1", Source: "x2"})
		s.roots["sha256/x2"] = discovery.Root{UUID: "uuid-1"}
		s.up()
		defer s.stop()
		s.say(`(bmc-admit "`+strangerPin+`" (as "n9"))`, s.authors.Ada)
		other := s.agent.rack.stranger("sha256/x2")
		if got := s.admission(s.stranger()); got != "waiting: "+string(other.entry.Name)+" has the same UUID" {
			t.Errorf("it is %s", got)
		}
		if v := s.agent.judge(other); v.Level != level.Quarantined {
			t.Errorf("the other one is %s: %s", v.Level, v.why())
		}
	})
}

// Two BMCs with one key, as some leave the factory or as a thief makes them: the key
// identifies none of them. One BMC with two addresses is one.
func TestOneKeyAtTwoAddresses(t *testing.T) {
	for _, c := range []struct {
		name, there string
		want        level.Level
	}{{"another BMC", "uuid-8", level.Quarantined}, {"the same one", "uuid-7", level.Identified}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStrangers(t)
				s.pins["x1:443"] = "sha256/n1"
				s.roots["n1:443"], s.roots["x1:443"] = discovery.Root{UUID: "uuid-7"}, discovery.Root{UUID: c.there}
				s.up()
				defer s.stop()
				pass(time.Minute)
				n := s.agent.rack.named("n1")
				if v := s.agent.judge(n); v.Level != c.want {
					t.Errorf("it is %s: %s", v.Level, v.why())
				}
			})
		})
	}
}

func TestClashesOfOtherRacksAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrangers(t)
		s.up()
		s.told(&pb.Desired{Revision: 1, Policy: s.policy, Conflicts: []*pb.Conflict{
			{What: "key", Is: "sha256/n1", Nodes: []string{"r1/n1", "r2/x"}, Bad: []string{"r1/n1", "r2/x"}},
		}})
		if v := s.agent.judge(s.agent.rack.named("n1")); v.Level != level.Quarantined || v.why() != "the key sha256/n1 is also that of r2/x" {
			t.Errorf("it is %s: %s", v.Level, v.why())
		}
		s.stop()
		s.up()
		defer s.stop()
		if v := s.agent.judge(s.agent.rack.named("n1")); v.Level != level.Quarantined {
			t.Errorf("after a restart it is %s", v.Level)
		}
		s.told(&pb.Desired{Revision: 1, Policy: s.policy})
		if v := s.agent.judge(s.agent.rack.named("n1")); v.Level == level.Quarantined {
			t.Errorf("it is over, and it is %s: %s", v.Level, v.why())
		}
	})
}

func TestADeniedSerial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrangers(t)
		s.heard[0].Hint = "type=Server serial=sn-7"
		s.lanes["n1"].serial = "SN-8"
		s.up()
		defer s.stop()
		s.agent.denials.Set([]fleet.Denial{
			{Subject: trust.ServerSubject("SN-7"), Reason: "stolen", By: "ops", At: time.Now()},
			{Subject: trust.ServerSubject("SN-8"), Reason: "on fire", By: "ops", At: time.Now()},
		})
		s.agent.rejudge()
		pass(10 * time.Second)
		if got := s.admission(s.stranger()); got != "refused: it is on the deny list: stolen ops" {
			t.Errorf("the stranger is %s", got)
		}
		if v := s.agent.judge(s.agent.rack.named("n1")); v.Level != level.Quarantined || !strings.Contains(v.why(), "on fire") {
			t.Errorf("the node is %s: %s", v.Level, v.why())
		}
	})
}

// Whoever floods the network with keys is told of so far, and no farther.
func TestThreat04AFloodOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStrangers(t)
		for i := range 3 * maxStrangers {
			at := "flood" + strings.Repeat("i", i%10) + string(rune('a'+i/10%26)) + string(rune('a'+i/260)) + ":443"
			s.pins[at] = "sha256/" + at
			s.heard = append(s.heard, discovery.Sighting{Address: at, Found: "mdns", Source: at})
		}
		s.up()
		defer s.stop()
		if got := len(s.agent.rack.others()); got != maxStrangers {
			t.Errorf("%d strangers are told of", got)
		}
		if s.agent.rack.named("n1").seen().State != fleet.Ready {
			t.Error("the node of the rack is not served")
		}
		// The audit log is for ever: what a stranger can have written into it is nothing.
		for _, text := range s.levelsTold() {
			if !strings.HasPrefix(text, "n") {
				t.Errorf("it goes into the audit log: %s", text)
			}
		}
	})
}

// levelsTold are the changes of levels that go into the audit log.
func (s *strangers) levelsTold() []string {
	return s.recordsOf(func(r *pb.Record) bool { return r.GetTrust() != nil })
}
