package owner_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/owner"
)

const (
	patience = 5 * time.Second
	ttl      = 30 * time.Second
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func claim(agent string, grant, local uint64) owner.Claim {
	return owner.Claim{Agent: agent, Epoch: owner.Epoch{Grant: grant, Local: local}}
}

// say is what follows, in one line.
func say(o owner.Output) string {
	text := []string{o.Role.String(), o.Claim.String()}
	for _, f := range []struct {
		is   bool
		word string
	}{{o.Keep, "keep"}, {o.Fence, "fence"}, {o.Regain, "regain"}, {o.Ask, "ask"}, {o.Lost, "lost"}, {o.Shut, "shut"}, {o.Met, "met"}, {o.Look, "look"}} {
		if f.is {
			text = append(text, f.word)
		}
	}
	return strings.Join(text, ", ")
}

func TestWhatFollowsFromWhat(t *testing.T) {
	type step struct {
		at   time.Duration
		in   owner.Input
		want string
	}
	none := owner.Claim{}
	linked, cut := owner.Linked{Connected: true}, owner.Linked{}
	granted := func(c owner.Claim, sent time.Duration) owner.Input {
		return owner.Granted{Claim: c, Sent: begin.Add(sent), TTL: ttl}
	}
	for name, c := range map[string]struct {
		partner string
		kept    owner.Claim
		steps   []step
	}{
		"an agent that is alone works at once": {"", none, []step{
			{0, owner.Tick{}, "active, nobody"},
			{0, linked, "active, nobody, ask"},
			{time.Hour, owner.Tick{}, "active, nobody"},
		}},
		"alone, and another owns the rack": {"", none, []step{
			{0, linked, "active, nobody, ask"},
			{0, granted(claim("b", 7, 0), 0), "standby, b in epoch 7, keep"},
		}},
		"the first of a pair waits for its grant": {"b", none, []step{
			{0, owner.Tick{}, "standby, nobody"},
			{0, linked, "standby, nobody, ask"},
			{time.Second, granted(claim("a", 7, 0), 0), "active, a in epoch 7, keep"},
		}},
		"a lease ends for who asked for it": {"b", claim("a", 7, 0), []step{
			{0, linked, "starting, a in epoch 7, ask"},
			{time.Second, granted(claim("a", 7, 0), 0), "active, a in epoch 7"},
			{26 * time.Second, owner.Tick{}, "active, a in epoch 7"},
			{27 * time.Second, owner.Tick{}, "holding, a in epoch 7"},
			{29 * time.Second, granted(claim("a", 7, 0), 28*time.Second), "active, a in epoch 7"},
		}},
		"cut off, the owner goes on": {"b", claim("a", 7, 0), []step{
			{0, linked, "starting, a in epoch 7, ask"},
			{time.Second, granted(claim("a", 7, 0), 0), "active, a in epoch 7"},
			{2 * time.Second, cut, "active, a in epoch 7"},
			{1000 * time.Hour, owner.Tick{}, "active, a in epoch 7"},
		}},
		"back, it begins nothing before it is granted the rack again": {"b", claim("a", 7, 0), []step{
			{0, owner.Partner{Claim: claim("a", 7, 0)}, "active, a in epoch 7"},
			{time.Hour, linked, "holding, a in epoch 7, ask"},
			{time.Hour, granted(claim("b", 9, 0), time.Hour), "standby, b in epoch 9, keep"},
		}},
		"it starts cut off, and nobody says otherwise": {"b", claim("a", 7, 0), []step{
			{0, owner.Silent{}, "starting, a in epoch 7"},
			{4 * time.Second, owner.Tick{}, "starting, a in epoch 7"},
			{5 * time.Second, owner.Tick{}, "active, a in epoch 7"},
		}},
		"it starts, and its partner has taken over": {"b", claim("a", 7, 0), []step{
			{time.Second, owner.Partner{Claim: claim("b", 7, 1)}, "standby, b in epoch 7.1, keep"},
		}},
		"the owner is silent, and the coordinators give the rack away": {"b", claim("b", 7, 0), []step{
			{0, linked, "standby, b in epoch 7, ask"},
			{1 * time.Second, owner.Silent{}, "standby, b in epoch 7"},
			{5 * time.Second, owner.Silent{}, "standby, b in epoch 7, ask, lost"},
			{5 * time.Second, granted(claim("b", 7, 0), 5*time.Second), "standby, b in epoch 7, ask, lost"},
			{6 * time.Second, granted(claim("a", 8, 0), 6*time.Second), "active, a in epoch 8, keep, fence"},
		}},
		"cut off, the owner is silent": {"b", claim("b", 7, 0), []step{
			{5 * time.Second, owner.Silent{}, "standby, b in epoch 7, lost, look"},
			{6 * time.Second, owner.View{}, "active, a in epoch 7.2, keep, fence"},
		}},
		"cut off, and it is we who are isolated": {"b", claim("b", 7, 0), []step{
			{5 * time.Second, owner.Silent{}, "standby, b in epoch 7, lost, look"},
			{6 * time.Second, owner.View{Isolated: true}, "standby, b in epoch 7, lost, look"},
		}},
		"cut off, and others see the owner": {"b", claim("b", 7, 0), []step{
			{5 * time.Second, owner.Silent{}, "standby, b in epoch 7, lost, look"},
			{6 * time.Second, owner.View{Alive: true}, "standby, b in epoch 7, lost, look"},
			{7 * time.Second, owner.Partner{Claim: claim("b", 7, 0)}, "standby, b in epoch 7"},
			{8 * time.Second, owner.View{}, "standby, b in epoch 7"},
		}},
		"it was connected a moment ago": {"b", claim("b", 7, 0), []step{
			{0, linked, "standby, b in epoch 7, ask"},
			{10 * time.Second, owner.Silent{}, "standby, b in epoch 7, ask, lost"},
			{10 * time.Second, cut, "standby, b in epoch 7, lost"},
			{10 * time.Second, owner.View{}, "standby, b in epoch 7, lost"},
			{15 * time.Second, owner.Silent{}, "standby, b in epoch 7, lost, look"},
		}},
		"a BMC shuts the owner out": {"b", claim("a", 7, 0), []step{
			{0, owner.Partner{Claim: claim("a", 7, 0)}, "active, a in epoch 7"},
			{time.Minute, owner.Refused{}, "standby, a in epoch 7, ask, shut"},
			{time.Minute, owner.Partner{Claim: claim("b", 7, 1)}, "standby, b in epoch 7.1, keep"},
		}},
		"shut out by one that is dead since": {"b", claim("a", 7, 0), []step{
			{0, owner.Partner{Claim: claim("a", 7, 0)}, "active, a in epoch 7"},
			{time.Minute, owner.Refused{}, "standby, a in epoch 7, ask, shut"},
			{90 * time.Second, owner.Silent{}, "standby, a in epoch 7, lost, shut"},
			{90 * time.Second, owner.View{}, "standby, a in epoch 7, lost, shut"},
			{90 * time.Second, linked, "standby, a in epoch 7, ask, lost, shut"},
			{2 * time.Minute, owner.Silent{}, "standby, a in epoch 7, ask, lost, shut"},
			{2 * time.Minute, granted(claim("a", 7, 0), 2*time.Minute), "standby, a in epoch 7, ask, lost, shut"},
			{2 * time.Minute, granted(claim("a", 9, 0), 2*time.Minute), "active, a in epoch 9, keep, fence, regain"},
			{3 * time.Minute, owner.Partner{Claim: claim("b", 9, 1)}, "standby, b in epoch 9.1, keep"},
			{4 * time.Minute, granted(claim("a", 10, 0), 4*time.Minute), "active, a in epoch 10, keep, fence"},
		}},
		"an old grant that it hears of late does not let it in again": {"b", none, []step{
			{6 * time.Second, owner.Silent{}, "standby, nobody, lost, look"},
			{6 * time.Second, owner.View{}, "active, a in epoch 0.2, keep, fence"},
			{7 * time.Second, linked, "holding, a in epoch 0.2, ask"},
			{7 * time.Second, granted(claim("a", 5, 0), 7*time.Second), "active, a in epoch 5, keep, fence"},
			{8 * time.Second, owner.Refused{}, "standby, a in epoch 5, ask, lost, shut"},
			{9 * time.Second, granted(claim("a", 9, 0), 9*time.Second), "active, a in epoch 9, keep, fence, regain"},
		}},
		"shut out, and the other one has forgotten that it is the owner": {"b", claim("a", 7, 0), []step{
			{0, owner.Partner{Claim: claim("a", 7, 0)}, "active, a in epoch 7"},
			{time.Minute, linked, "holding, a in epoch 7, ask"},
			{time.Minute, owner.Refused{}, "standby, a in epoch 7, ask, shut"},
			{61 * time.Second, owner.Partner{Claim: claim("a", 7, 0)}, "standby, a in epoch 7, ask, shut, met"},
			{62 * time.Second, owner.Partner{Claim: claim("a", 7, 0)}, "standby, a in epoch 7, shut, met"},
			{63 * time.Second, owner.Silent{}, "standby, a in epoch 7, shut"},
			{64 * time.Second, granted(claim("b", 9, 0), time.Minute), "standby, b in epoch 9, keep"},
		}},
		"the standby is shut out of nothing": {"b", claim("b", 7, 0), []step{
			{0, owner.Refused{}, "standby, b in epoch 7"},
		}},
		"an older claim is none": {"b", claim("a", 7, 1), []step{
			{0, owner.Partner{Claim: claim("b", 7, 0)}, "active, a in epoch 7.1"},
			{0, linked, "holding, a in epoch 7.1, ask"},
			{0, granted(claim("b", 7, 0), 0), "holding, a in epoch 7.1, ask"},
			{0, granted(claim("a", 7, 1), 0), "active, a in epoch 7.1"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := owner.New(begin, owner.Config{Self: "a", Partner: c.partner, Patience: patience}, c.kept)
			for i, s := range c.steps {
				if got := say(d.Step(begin.Add(s.at), s.in)); got != s.want {
					t.Errorf("step %d, %T:\n got %s\nwant %s", i+1, s.in, got, s.want)
				}
			}
		})
	}
}

func TestEpochsInOrder(t *testing.T) {
	for _, c := range []struct {
		less, more owner.Epoch
	}{
		{owner.Epoch{}, owner.Epoch{Grant: 1}},
		{owner.Epoch{Grant: 1}, owner.Epoch{Grant: 1, Local: 1}},
		{owner.Epoch{Grant: 1, Local: 9}, owner.Epoch{Grant: 2}},
	} {
		if c.less.Compare(c.more) >= 0 || c.more.Compare(c.less) <= 0 {
			t.Errorf("%v is not before %v", c.less, c.more)
		}
	}
	for e, text := range map[owner.Epoch]string{{Grant: 12}: "12", {Grant: 12, Local: 3}: "12.3", {}: "0"} {
		if back, ok := owner.ParseEpoch(text); e.String() != text || !ok || back != e {
			t.Errorf("%v is written %q and read %v, %v", e, e.String(), back, ok)
		}
	}
	for _, text := range []string{"", "x", "1.", "1.2.3", "01", "1.0", "-1"} {
		if e, ok := owner.ParseEpoch(text); ok {
			t.Errorf("%q is read as %v", text, e)
		}
	}
}

// rack is a pair, a BMC and the coordinators, in a world in which messages are
// lost and links come and go.
type rack struct {
	rnd    *rand.Rand
	now    time.Time
	agents [2]*agent
	grant  owner.Claim // as the coordinators have it
	index  uint64
	paired bool   // the link between the two works
	bmc    string // whom the BMC lets write
	owners map[owner.Epoch]string
	log    []string
}

type agent struct {
	name      string
	d         *owner.Decider
	kept      owner.Claim
	out       owner.Output
	alive     bool
	connected bool
	heard     time.Time // by the coordinators
	fencing   bool
}

func newRack(seed uint64) *rack {
	r := &rack{rnd: rand.New(rand.NewPCG(seed, 1)), now: begin, index: 1, paired: true, owners: map[owner.Epoch]string{}}
	for i, name := range []string{"a", "b"} {
		r.agents[i] = &agent{name: name, alive: true, connected: true}
		r.start(i)
	}
	return r
}

func (r *rack) start(i int) {
	a := r.agents[i]
	a.d = owner.New(r.now, owner.Config{Self: a.name, Partner: partnerOf(a.name), Patience: patience}, a.kept)
	a.fencing = false
	r.step(i, owner.Linked{Connected: a.connected})
}

func partnerOf(name string) string { return map[string]string{"a": "b", "b": "a"}[name] }

func (r *rack) step(i int, in owner.Input) {
	a := r.agents[i]
	a.out = a.d.Step(r.now, in)
	r.log = append(r.log, fmt.Sprintf("%s %s %T: %s", r.now.Sub(begin), a.name, in, say(a.out)))
	if a.out.Keep {
		a.kept = a.out.Claim
	}
	a.fencing = a.fencing || a.out.Fence
}

// ask is a lease renewal, which the coordinators answer as they do: see
// coordinator/hub.
func (r *rack) ask(i int) {
	a, b := r.agents[i], r.agents[1-i]
	if !a.connected {
		return
	}
	sent := r.now
	if mine := a.out.Claim; mine.Agent == a.name && mine.After(r.grant) {
		r.grant = mine
	}
	unheard := r.now.Sub(b.heard) >= ttl
	if r.grant.Agent == "" || a.out.Lost && unheard && (r.grant.Agent == b.name || a.out.Shut) {
		r.index++
		r.grant = claim(a.name, r.index, 0)
	}
	lease := time.Duration(0)
	switch {
	case a.out.Role == owner.Standby:
		a.heard = time.Time{} // it says itself that it begins nothing
	case r.grant.Agent == a.name && unheard: // else the other one's lease still runs
		lease, a.heard = ttl, r.now
	}
	r.now = r.now.Add(time.Duration(r.rnd.IntN(200)) * time.Millisecond)
	if r.rnd.IntN(10) > 0 { // else the answer is lost
		r.step(i, owner.Granted{Claim: r.grant, Sent: sent, TTL: lease})
	}
}

func (r *rack) ping(i int) {
	if b := r.agents[1-i]; r.paired && b.alive {
		r.step(i, owner.Partner{Claim: b.out.Claim})
	} else {
		r.step(i, owner.Silent{})
	}
}

// act is what an agent does when its turn comes: it is late at times.
func (r *rack) act(i int) {
	a := r.agents[i]
	if !a.alive {
		return
	}
	r.step(i, owner.Tick{})
	r.ping(i)
	if a.out.Ask || r.rnd.IntN(3) == 0 {
		r.ask(i)
	}
	if a.out.Look {
		r.step(i, owner.View{Isolated: r.rnd.IntN(4) == 0})
	}
	if a.fencing && a.out.Role == owner.Active {
		r.bmc, a.fencing = a.name, false
	}
}

func (r *rack) happen() {
	i := r.rnd.IntN(2)
	a := r.agents[i]
	switch r.rnd.IntN(40) {
	case 0:
		r.paired = !r.paired
	case 1:
		a.connected = !a.connected
		if a.alive {
			r.step(i, owner.Linked{Connected: a.connected})
		}
	case 2:
		if a.alive = !a.alive; a.alive {
			r.start(i)
		}
	}
	r.now = r.now.Add(time.Duration(r.rnd.IntN(3000)) * time.Millisecond)
	r.act(0)
	r.act(1)
}

func (a *agent) writes(now time.Time) bool {
	return a.alive && a.out.Role == owner.Active && !a.fencing && (a.out.Until.IsZero() || now.Before(a.out.Until))
}

// Whatever happens: an epoch has one owner, epochs only rise, and while both agents
// reach the coordinators only one of them begins writes.
func TestOneOwnerPerEpoch(t *testing.T) {
	for seed := range uint64(100) {
		r := newRack(seed)
		var last [2]owner.Epoch
		both := 0 // rounds in which both were connected
		for range 400 {
			r.happen()
			for i, a := range r.agents {
				c := a.out.Claim
				if c.Epoch.Compare(last[i]) < 0 {
					t.Fatalf("seed %d: the epoch of %s falls from %v to %v\n%s", seed, a.name, last[i], c.Epoch, r.tail())
				}
				last[i] = c.Epoch
				if had := r.owners[c.Epoch]; c.Agent != "" && had != "" && had != c.Agent {
					t.Fatalf("seed %d: epoch %v is of %s and %s\n%s", seed, c.Epoch, had, c.Agent, r.tail())
				}
				r.owners[c.Epoch] = c.Agent
			}
			if both++; !r.agents[0].connected || !r.agents[1].connected {
				both = 0
			}
			if both > 1 && r.agents[0].writes(r.now) && r.agents[1].writes(r.now) {
				t.Fatalf("seed %d: both begin writes\n%s", seed, r.tail())
			}
		}
	}
}

// When all is well again there is one who works, and the other stands by.
func TestThereIsAnOwnerInTheEnd(t *testing.T) {
	for seed := range uint64(100) {
		r := newRack(seed)
		for range 100 {
			r.happen()
		}
		r.paired = true
		for i, a := range r.agents {
			a.connected = true
			if !a.alive {
				a.alive = true
				r.start(i)
			}
			r.step(i, owner.Linked{Connected: true})
		}
		for range 60 {
			r.now = r.now.Add(time.Second)
			r.act(0)
			r.act(1)
		}
		roles := map[owner.Role]int{}
		for _, a := range r.agents {
			roles[a.out.Role]++
		}
		if diff := cmp.Diff(map[owner.Role]int{owner.Active: 1, owner.Standby: 1}, roles); diff != "" {
			t.Fatalf("seed %d: roles (-want +got)\n%s\n%s", seed, diff, r.tail())
		}
	}
}

func (r *rack) tail() string { return strings.Join(r.log[max(0, len(r.log)-40):], "\n") }
