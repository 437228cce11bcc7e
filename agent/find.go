package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/mdns"
	"github.com/chiba-mesh/chiba/discovery/static"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/trust/level"
)

const (
	maxProbes    = 32
	probeTimeout = 5 * time.Second
	// lookAgain is how often the table is gone through without news.
	lookAgain = 5 * time.Second
)

// finder is one way to find BMCs.
type finder interface {
	Run(ctx context.Context, out chan<- discovery.Sighting) error
}

func (c *Config) finders() []finder {
	all := []finder{static.Finder{Addresses: c.addresses()}}
	if !c.NoMDNS {
		all = append(all, mdns.Finder{Interfaces: c.Interfaces, Log: c.Log})
	}
	return all
}

// probed is what answered at an address.
type probed struct {
	address string
	discovery.Answer
	err error
}

// find runs the finders, reads the key of whatever they hint at, and gives each
// node of the catalogue a lane to the address where its key answers. Nothing is
// sent to a BMC but a TLS handshake until then.
func (a *Agent) find(ctx context.Context) error {
	sightings, answers := make(chan discovery.Sighting), make(chan probed)
	group, ctx := errgroup.WithContext(ctx)
	for _, f := range a.finders {
		group.Go(func() error { return f.Run(ctx, sightings) })
	}
	var probes sync.WaitGroup
	defer probes.Wait()
	slots := make(chan struct{}, maxProbes)
	group.Go(func() error {
		table := &discovery.Table{}
		tick := time.NewTicker(lookAgain)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
				table.Expire(a.now())
				a.rejudge()
				a.askForLog()
				for _, address := range table.Due(a.now()) {
					probes.Go(func() { a.probe(ctx, address, slots, answers) })
				}
			case address := <-a.askAgain:
				a.match(ctx, table, address == "")
				if address != "" {
					probes.Go(func() { a.probe(ctx, address, slots, answers) })
				}
			case s := <-sightings:
				if a.mayBe(s) && table.See(a.now(), s) {
					probes.Go(func() { a.probe(ctx, s.Address, slots, answers) })
				}
			case p := <-answers:
				table.Answered(a.now(), p.address, p.Answer, p.err)
				a.answered(p)
				a.match(ctx, table, false)
			}
		}
	})
	return group.Wait()
}

// probe reads the key that answers at an address, and of a stranger what its
// service root tells anybody.
func (a *Agent) probe(ctx context.Context, address string, slots chan struct{}, answers chan<- probed) {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return
	}
	asking, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	pin, err := a.fingerprint(asking, address)
	answer := discovery.Answer{Pin: pin}
	stranger := err == nil && a.memberBy(pin) == nil && !a.expected(address)
	if stranger || err == nil && a.crowded.has(pin) {
		if answer, err = a.root(asking, address); !stranger {
			answer, err = discovery.Answer{Pin: pin, Root: answer.Root}, nil // its key is what counts
		}
	}
	select {
	case answers <- probed{address, answer, err}:
	case <-ctx.Done():
	}
}

// expected reports whether a member's BMC should answer at an address: another key
// there is a warning, and whoever has it is asked nothing.
func (a *Agent) expected(address string) bool {
	return slices.ContainsFunc(a.rack.members(), func(n *node) bool {
		return n.place(n.ledger.Record()) == address || n.seen().Address == address
	})
}

// place is where the node's BMC should be: where the catalogue says, or where it was
// when its key was ours; "" if nobody knows.
func (n *node) place(r takeover.Record) string {
	if n.entry.Address != "" {
		return withPort(n.entry.Address)
	}
	return r.Address
}

// match gives lanes to the nodes whose key has answered, and looks at the strangers:
// at all of them, or at those of whom there is news.
func (a *Agent) match(ctx context.Context, table *discovery.Table, all bool) {
	a.admitting.Lock()
	defer a.admitting.Unlock()
	found := table.Candidates()
	a.tellApart(found)
	candidates, double := apart(found)
	for _, n := range a.rack.members() {
		if takeover.Over(n.ledger.Record()) {
			a.leftAlone(n)
			continue
		}
		if c, ok := n.among(candidates); ok {
			n.doubled(double[c.Pin], a.now())
			a.connect(ctx, n, c)
			delete(candidates, c.Pin)
			continue
		}
		a.missing(n, candidates, table)
	}
	a.strange(around{candidates, double, all})
}

// crowded are keys that answer at several addresses: what else is told there says
// whether that is one BMC. It is safe for concurrent use.
type crowded struct {
	mu   sync.Mutex
	keys map[string]bool
}

func (c *crowded) has(pin string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys[pin]
}

// add reports whether the key is news.
func (c *crowded) add(pin string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys[pin] || len(c.keys) >= discovery.MaxAddresses {
		return false
	}
	if c.keys == nil {
		c.keys = make(map[string]bool)
	}
	c.keys[pin] = true
	return true
}

// tellApart has the service roots read where one key answers at several addresses.
func (a *Agent) tellApart(all []discovery.Candidate) {
	for _, c := range all {
		if len(c.Addresses) > 1 && a.crowded.add(c.Pin) {
			for _, at := range c.Addresses {
				a.askAt(at)
			}
		}
	}
}

// apart is the candidates by their keys, and which keys several BMCs show: such a
// key identifies none of them.
func apart(all []discovery.Candidate) (byPin map[string]discovery.Candidate, double map[string]string) {
	byPin, double = make(map[string]discovery.Candidate), make(map[string]string)
	for _, c := range all {
		if first, again := byPin[c.Pin]; again {
			double[c.Pin] = fmt.Sprintf("BMCs at %s and %s show the same key", first.Addresses[0], c.Addresses[0])
			continue
		}
		byPin[c.Pin] = c
	}
	return byPin, double
}

// doubled notes that other BMCs show the same key, "" that none does.
func (n *node) doubled(how string, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noticed.clash = level.Fact[string]{}
	if how != "" {
		n.noticed.clash = level.Fact[string]{Is: how, At: now, From: "discovery"}
	}
}

// connect opens the lane of a node at the address where it was seen last. A lane
// that works is left where it is.
func (a *Agent) connect(ctx context.Context, n *node, c discovery.Candidate) {
	a.observe(n, c)
	n.mu.Lock()
	have, at := n.lane, n.address
	n.found = c.Addresses[0]
	n.mu.Unlock()
	if !a.office.reigns() {
		return // the standby knows where it is, and leaves it alone
	}
	if have != nil {
		state, _ := have.State()
		if at == c.Addresses[0] || state != fleet.Unreachable {
			return
		}
	}
	l, err := a.open(n.entry, c.Addresses[0])
	if err != nil {
		if n.refuse(a.now(), fleet.Unreachable, err.Error()) {
			a.settle(n)
		}
		return
	}
	n.bar(a.mayLook(n) != nil)
	if old := n.set(l, c.Addresses[0], strings.Join(c.Found, ",")); old != nil {
		a.log.Info("a BMC has moved", obs.Node, n.entry.Name, obs.Addr, c.Addresses[0])
		a.closing.Go(func() { a.closeLane(ctx, n, old) })
	}
	n.poke()
	n.lookAtTakeover()
}

// leftAlone says why a BMC that was given back has no lane.
func (a *Agent) leftAlone(n *node) {
	if n.refuse(a.now(), fleet.Refused, "it was given back; to have it again: "+takeItWith(n.entry.Name)) {
		a.settle(n)
	}
	a.contacted(n)
}

// askAt has the key at an address read again, or with none what is known matched
// again.
func (a *Agent) askAt(address string) {
	select {
	case a.askAgain <- address:
	default: // the table asks by itself before long
	}
}

// among is the candidate with the node's key: the one it is known by, or one that
// a step of our own has made.
func (n *node) among(candidates map[string]discovery.Candidate) (discovery.Candidate, bool) {
	r := n.ledger.Record()
	for _, pin := range []string{r.Pin, r.Next} {
		if c, ok := candidates[pin]; ok {
			return c, true
		}
	}
	return discovery.Candidate{}, false
}

// missing says what is wrong with a node whose key does not answer: another key
// at its address is a warning, nothing there is not.
func (a *Agent) missing(n *node, strangers map[string]discovery.Candidate, table *discovery.Table) {
	r := n.ledger.Record()
	address := n.place(r)
	if address == "" {
		return
	}
	for _, c := range strangers {
		for _, at := range c.Addresses {
			if at != address {
				continue
			}
			reason := fmt.Sprintf("%s answers with the key %s, expected %s; nothing is sent to it; if the BMC was replaced: chiba bmc accept %s --pin %s",
				address, c.Pin, r.Pin, n.entry.Name, c.Pin)
			if !a.office.reigns() {
				a.leaveToOwner(n, address)
				delete(strangers, c.Pin)
				return
			}
			n.shows(c.Pin)
			if a.strangers.add(c.Pin) {
				a.log.Warn("another key than expected answers", obs.Node, n.entry.Name, obs.BMC, c.Pin, obs.Addr, at)
			}
			delete(strangers, c.Pin) // the node tells of it
			if n.refuse(a.now(), fleet.Untrusted, reason) {
				a.settle(n)
				a.contacted(n)
			}
			return
		}
	}
	if problem := table.Problem(address); problem != "" && n.refuse(a.now(), fleet.Unreachable, problem) {
		a.settle(n)
		a.contacted(n)
	}
}

// leaveToOwner says of a BMC that shows a key which we do not know that it is the
// owner's to judge: it may just be taking it over, and we hear of the key a moment
// later. If the rack becomes ours the key is looked at again.
func (a *Agent) leaveToOwner(n *node, address string) {
	if n.refuse(a.now(), fleet.Unreachable, "another key than this standby knows answers at "+address+"; the agent that works on the rack judges it") {
		a.settle(n)
	}
	a.contacted(n)
}

// closeLane deletes the session of a lane, in its own time.
func (a *Agent) closeLane(ctx context.Context, n *node, l lane) {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	if err := l.Close(closing); err != nil {
		a.log.Warn("a BMC session stays open until it times out", obs.Node, n.entry.Name, obs.Err, err)
	}
}

// seenOnce remembers what was said already.
type seenOnce map[string]bool

func (s seenOnce) add(key string) bool {
	if s[key] || len(s) > discovery.MaxAddresses {
		return false
	}
	s[key] = true
	return true
}
