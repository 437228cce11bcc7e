package sim

import (
	"fmt"
	"slices"
	"time"
)

// Fault is something that goes wrong at a time. A world's faults are a list that is
// drawn before it begins, so that it can be played again without some of them.
type Fault struct {
	At   time.Duration
	Kind string
	Who  int // of the agents, the coordinators, or the sites, by the kind
	More int // what else the kind needs to know
	For  time.Duration
}

// String is the fault as a line.
func (f Fault) String() string {
	return fmt.Sprintf("%s %s who=%d more=%d for=%s", clock(f.At), f.Kind, f.Who, f.More, f.For)
}

// kinds is what a fault of each kind does.
func kinds() map[string]func(w *World, f Fault) {
	return map[string]func(w *World, f Fault){
		"cut site":    func(w *World, f Fault) { w.cutSite(f.Who%sites, f.For) },
		"cut pair":    func(w *World, f Fault) { w.net.part(w.agent(f.Who).name, w.coordinator(f.More).name, f.For) },
		"cut WAN":     func(w *World, f Fault) { w.cutCoordinator(w.coordinator(f.Who), f.For, true) },
		"part leader": func(w *World, f Fault) { w.cutCoordinator(w.coordinator(f.Who), f.For, false) },
		"cut stream":  func(w *World, f Fault) { w.cutStream(w.agent(f.Who)) },
		"send again":  func(w *World, f Fault) { w.sendAgain(w.agent(f.Who), w.coordinator(f.More)) },

		"cut agent":    func(w *World, f Fault) { w.cutAgent(w.paired(f), f) },
		"cut partner":  func(w *World, f Fault) { w.cutPartner(w.paired(f), 4*f.For) },
		"cut rack":     func(w *World, f Fault) { a := w.paired(f); w.net.part(a.name, a.rack, f.For) },
		"stop process": func(w *World, f Fault) { w.paired(f).pause(f.For, false) },
		"suspend":      func(w *World, f Fault) { w.paired(f).pause(f.For, true) },
		"crash":        func(w *World, f Fault) { w.paired(f).fuse = 1 + f.More%40 },

		"kill agent":    func(w *World, f Fault) { w.agent(f.Who).fuse = 1 + f.More%12 },
		"torn write":    func(w *World, f Fault) { w.agent(f.Who).lose(1 + f.More%3) },
		"disk rollback": func(w *World, f Fault) { w.agent(f.Who).lose(4 + f.More%kept) },
		"late batches":  func(w *World, f Fault) { w.loseAndSend(w.agent(f.Who), 1+f.More%8, f.For) },
		"disk loss":     func(w *World, f Fault) { w.agent(f.Who).lose(0) },
		"disk full":     func(w *World, f Fault) { w.fill(w.agent(f.Who), f.For) },
		"clock":         func(w *World, f Fault) { w.agent(f.Who).offset += time.Duration(f.More-500) * 10 * time.Second },

		"kill coordinator":  func(w *World, f Fault) { w.kill(w.coordinator(f.Who), f.For) },
		"another leader":    func(w *World, _ Fault) { w.group.elect() },
		"coordinator clock": func(w *World, f Fault) { w.coordinator(f.Who).offset += time.Duration(f.More-500) * time.Second },

		"BMC hangs":    func(w *World, f Fault) { w.each(f, func(b *bmc) { b.hangs = w.now + f.For }) },
		"BMC is slow":  func(w *World, f Fault) { w.each(f, func(b *bmc) { b.slow = w.now + f.For }) },
		"BMC lies":     func(w *World, f Fault) { w.each(f, func(b *bmc) { b.lies = w.now + f.For }) },
		"BMC restarts": func(w *World, f Fault) { w.each(f, func(b *bmc) { b.hangs = w.now + time.Minute }) },
	}
}

// Draw draws the faults of the world of a seed: a swarm, which is some of the kinds,
// each about as often as the others.
func Draw(seed uint64) []Fault {
	rnd := dice(2, seed)
	var all []string
	for kind := range kinds() {
		all = append(all, kind)
	}
	slices.Sort(all)
	var some []string
	for _, kind := range all {
		if rnd.IntN(3) == 0 {
			some = append(some, kind)
		}
	}
	faults := []Fault{}
	if len(some) == 0 {
		return faults
	}
	for range 5 + rnd.IntN(40) {
		faults = append(faults, Fault{
			At: time.Duration(rnd.Int64N(int64(busy))), Kind: some[rnd.IntN(len(some))],
			Who: rnd.IntN(1000), More: rnd.IntN(1000), For: time.Duration(1+rnd.IntN(90)) * time.Second,
		})
	}
	slices.SortStableFunc(faults, func(a, b Fault) int { return int(a.At - b.At) })
	return faults
}

func (w *World) cutSite(site int, d time.Duration) {
	for _, a := range w.agents {
		if a.site == fmt.Sprintf("s%d", site) {
			for _, c := range w.group.replicas {
				w.net.part(a.name, c.name, d)
			}
		}
	}
}

// paired is an agent that has a partner, if there is one.
func (w *World) paired(f Fault) *agent {
	var some []*agent
	for _, a := range w.agents {
		if a.partner != nil {
			some = append(some, a)
		}
	}
	if len(some) == 0 {
		return w.agent(f.Who)
	}
	return some[f.Who%len(some)]
}

// cutAgent cuts an agent from all coordinators, and from its partner too.
func (w *World) cutAgent(a *agent, f Fault) {
	for _, c := range w.group.replicas {
		w.net.part(a.name, c.name, f.For)
	}
	if f.More%2 == 0 {
		w.cutPartner(a, f.For)
	}
}

func (w *World) cutPartner(a *agent, d time.Duration) {
	if a.partner != nil {
		w.net.part(a.name, a.partner.name, d)
	}
}

// cutCoordinator cuts a coordinator from the others, or from all agents.
func (w *World) cutCoordinator(c *replica, d time.Duration, agents bool) {
	if agents {
		for _, a := range w.agents {
			w.net.part(a.name, c.name, d)
		}
		return
	}
	for _, o := range w.group.replicas {
		if o != c {
			w.net.part(o.name, c.name, d)
		}
	}
}

// cutStream ends a session at the agent's end with all that is on its way, and the
// coordinator does not hear of it.
func (w *World) cutStream(a *agent) {
	s := a.session
	if s == nil {
		return
	}
	s.up.close()
	s.down.close()
	a.alive(func() { s.leave("the connection breaks") })
}

// sendAgain hands the last batches of an agent to a coordinator once more, as a
// session that nobody has ended yet does.
func (w *World) sendAgain(a *agent, c *replica) {
	if !c.up {
		return
	}
	for _, b := range a.sent {
		old := newSession(a, c)
		old.aOver, old.hello = true, b.hello
		old.results.send(func() { old.atCoordinator(func() { old.batch(b.batch) }) })
	}
}

// loseAndSend holds up what an agent sends, and puts its disk back meanwhile: what
// comes in the end is of another life of the disk.
func (w *World) loseAndSend(a *agent, transactions int, late time.Duration) {
	if a.session == nil {
		return
	}
	w.net.part(a.name, a.session.c.name, late)
	w.after(late/6, func() { a.lose(transactions) })
}

func (w *World) fill(a *agent, d time.Duration) {
	a.disk.full = true
	w.after(d, func() { a.disk.full = false })
}

func (w *World) kill(c *replica, d time.Duration) {
	c.crash()
	w.after(d, c.boot)
}

// each is every BMC of a rack, or one.
func (w *World) each(f Fault, do func(*bmc)) {
	a := w.agent(f.Who)
	for i, n := range a.nodes {
		if f.More%3 == 0 || i == f.More%len(a.nodes) {
			do(a.bmcs[n])
		}
	}
}
