package agent

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/level"
)

const (
	// maxStrangers bounds the BMCs that are told of and are none of the rack: who
	// floods the network with keys must not fill the coordinators' memory.
	maxStrangers = 128
	maxEvidence  = 24
	ownWord      = "its own word"
)

// around are the candidates that are no member's.
type around struct {
	found  map[string]discovery.Candidate // by key
	double map[string]string              // how several BMCs show one key
	all    bool                           // look also at those of whom there is no news
}

// strange keeps what is seen of strangers, has them ruled on, and lets in whom the
// ruling lets in. Nothing is sent to them for it.
func (a *Agent) strange(s around) {
	uuids := make(map[string][]string)
	for _, c := range s.found {
		if c.UUID != "" {
			uuids[c.UUID] = append(uuids[c.UUID], c.Pin)
		}
	}
	for _, n := range a.rack.others() {
		if _, still := s.found[n.entry.Pin]; !still {
			a.rack.part(n)
			a.gone(n.entry.Name, "it was not heard of for "+discovery.Expiry.String())
		}
	}
	for _, pin := range slices.Sorted(maps.Keys(s.found)) {
		c := s.found[pin]
		if n := a.rack.stranger(pin); n != nil && !n.news(c) && !s.all {
			continue
		}
		clash := s.double[pin]
		if clash == "" {
			clash = a.claimed(c, uuids[c.UUID])
		}
		n := a.rack.stranger(pin)
		if n == nil {
			if n = a.meet(c); n == nil {
				continue
			}
		}
		a.sight(n, c, clash)
		a.decide(n)
	}
}

// news reports whether a stranger shows something else than before, but for the time.
// Only find's goroutine asks.
func (n *node) news(c discovery.Candidate) bool {
	c.Seen = time.Time{}
	c.Addresses = slices.Sorted(slices.Values(c.Addresses)) // theirs is the order in time
	if reflect.DeepEqual(c, n.shown) {
		return false
	}
	n.shown = c
	return true
}

// claimed is who else claims the UUID of a candidate: other strangers, or a member,
// whom a claim that anybody can make does not harm.
func (a *Agent) claimed(c discovery.Candidate, same []string) string {
	if c.UUID == "" {
		return ""
	}
	for _, m := range a.rack.members() {
		if m.seen().Admission.UUID == c.UUID {
			return string(m.entry.Name) + " has the same UUID"
		}
	}
	for _, pin := range same {
		if other := a.rack.stranger(pin); pin != c.Pin && other != nil {
			return string(other.entry.Name) + " has the same UUID"
		}
	}
	return ""
}

// meet begins to tell of a candidate; nil if there are too many already.
func (a *Agent) meet(c discovery.Candidate) *node {
	known, err := a.admissionOf(c.Pin)
	if err != nil {
		a.complain("look up who let a BMC in", err)
		return nil
	}
	judged := len(known.Words) > 0 || known.Refused != nil
	if len(a.rack.others()) >= maxStrangers && !judged {
		if a.strangers.add("") {
			a.log.Warn("more BMCs are in no catalogue than are told of", obs.Count, maxStrangers)
		}
		return nil
	}
	n := newNode(Entry{Name: a.provisional(c.Pin), Pin: c.Pin, Login: Login{Given: &givenLogin{}}}, a.cfg.Rack, a.cfg.Site)
	n.ledger = a.newLedger(takeover.Met(c.Pin))
	n.admission = known
	n.noticed.approved = known.approvals()
	n.summary.Admission.State = fleet.Waiting
	a.rack.meet(n)
	if a.strangers.add(c.Pin) {
		a.log.Info("a BMC that is not in the catalogue", obs.BMC, c.Pin, obs.Node, string(n.entry.Name), obs.Addr, c.Addresses[0], obs.Reason, strings.Join(c.Names, " "))
	}
	return n
}

// provisional is the name of a BMC that nobody has named: the rack's with six
// letters of the hash of its key, or more if those are somebody's.
func (a *Agent) provisional(pin string) fleet.NodeName {
	sum := sha256.Sum256([]byte("chiba-bmc key " + pin))
	letters := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))
	for size := 6; ; size += 2 {
		name := fleet.NodeName(string(a.cfg.Rack) + "-" + letters[:size])
		if !a.rack.taken(name, pin) || size > 30 {
			return name
		}
	}
}

// sight keeps what is seen of a stranger.
func (a *Agent) sight(n *node, c discovery.Candidate, clash string) {
	a.observe(n, c)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noticed.key = level.Fact[level.Key]{Is: level.KeyNew, At: c.Seen, From: byHandshake}
	n.noticed.clash = level.Fact[string]{}
	if clash != "" {
		n.noticed.clash = level.Fact[string]{Is: clash, At: c.Seen, From: "discovery"}
	}
	if !slices.Contains(c.Addresses, n.summary.Address) {
		n.summary.Address = c.Addresses[0]
	}
	n.summary.Found, n.summary.Seen = strings.Join(c.Found, ","), c.Seen
	n.summary.Vendor = c.Vendor
	n.summary.Admission.Make, n.summary.Admission.UUID = c.Make, c.UUID
	n.serialSaid = announced(c.Hints)
}

// observe keeps what was seen of a BMC from outside, of a member as of a stranger.
func (a *Agent) observe(n *node, c discovery.Candidate) {
	n.heard(c)
	n.mu.Lock()
	asked := n.hardware.address
	n.mu.Unlock()
	mac := ""
	if fresh := !slices.Contains(c.Addresses, asked); fresh {
		asked, mac = c.Addresses[0], a.hardware(c.Addresses[0])
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hardware.address != asked {
		n.hardware.address, n.hardware.mac = asked, mac
	}
	n.summary.Admission.Evidence = evidence(c, n.hardware.mac)
}

// evidence is what was seen of a BMC from outside, and who saw it.
func evidence(c discovery.Candidate, mac string) []fleet.Evidence {
	by := strings.Join(c.Found, ", ")
	var all []fleet.Evidence
	add := func(what, is, from string) {
		if is != "" && len(all) < maxEvidence {
			all = append(all, fleet.Evidence{What: what, Is: is, From: from})
		}
	}
	for _, l := range c.Links {
		add("link", l, by)
	}
	for _, at := range slices.Sorted(slices.Values(c.Addresses)) {
		add("address", at, by)
	}
	add("mac", mac, "the kernel's neighbours")
	for _, name := range c.Names {
		add("name", name, ownWord)
	}
	for _, s := range c.Services {
		add("service", s, ownWord)
	}
	for _, h := range c.Hints {
		add("says", h, ownWord)
	}
	add("uuid", c.UUID, ownWord)
	add("make", c.Make, ownWord)
	for _, odd := range c.Odd {
		add("odd", odd, "discovery")
	}
	return all
}

// announced is the serial that a BMC announces.
func announced(hints []string) string {
	for _, h := range hints {
		for part := range strings.FieldsSeq(h) {
			if serial, ok := strings.CutPrefix(part, "serial="); ok && says(serial) {
				return serial
			}
		}
	}
	return ""
}

// decide rules on a stranger, and lets it in if the ruling does.
func (a *Agent) decide(n *node) {
	r := a.rule(n)
	if r.State == fleet.Admitted && !a.office.reigns() {
		r = level.Ruling{State: fleet.Waiting, Why: "the other agent of the rack lets it in"}
	}
	if r.State == fleet.Admitted {
		if why := a.letIn(n, r); why != nil {
			r = level.Ruling{State: fleet.Waiting, Why: why.Error()}
		}
	}
	if r.State == fleet.Admitted {
		return
	}
	n.mu.Lock()
	n.summary.State, n.summary.Reason = fleet.Stranger, string(r.State)+": "+r.Why
	n.summary.Admission.State, n.summary.Admission.Why, n.summary.Admission.By = r.State, r.Why, r.By
	n.mu.Unlock()
	a.settle(n)
}

// rule is the ruling on a stranger.
func (a *Agent) rule(n *node) level.Ruling {
	s := n.seen()
	c := level.Candidate{
		Facts: a.facts(n), Rack: a.cfg.Rack, Pin: n.entry.Pin, UUID: s.Admission.UUID, Make: s.Admission.Make,
		MAC: s.Admission.Told("mac"), Refused: n.admitted().barred(),
	}
	n.mu.Lock()
	c.Serial = n.serialSaid
	n.mu.Unlock()
	if subject, err := trust.ParseSubject(trust.ServerSubject(c.Serial)); err == nil {
		if d, denied := a.denials.Of(subject); denied {
			c.Denied = level.Fact[string]{Is: d.Reason, At: d.At, From: d.By}
		}
	}
	return level.Of(a.policies(), a.view(n)).Rule(c)
}

// letIn makes a stranger a member. Its key is on disk, as that of the member,
// before anything is done with it.
func (a *Agent) letIn(n *node, r level.Ruling) error {
	m := n.admitted()
	m.Was, m.Name = n.entry.Name, n.entry.Name
	if r.Asset != nil {
		m.Name, m.Position, m.Listed = fleet.NodeName(r.Asset.Node), r.Asset.Position, true
		if r.Asset.Serial != "" {
			m.Serial = r.Asset.Serial
		}
	}
	if m.Asks != "" {
		m.Name = m.Asks
	}
	switch {
	case !trust.ValidName(string(m.Name)):
		return fmt.Errorf("%q can't be its name", m.Name)
	case a.rack.taken(m.Name, n.entry.Pin):
		return fmt.Errorf("there is another node of the name %s", m.Name)
	}
	s := n.seen()
	m.State, m.Why, m.By, m.At = fleet.Admitted, r.Why, r.By, a.now()
	m.Make, m.UUID, m.Address = s.Admission.Make, s.Admission.UUID, s.Address
	member := newNode(m.entry(a.openGiven), a.cfg.Rack, a.cfg.Site)
	member.ledger = a.newLedger(takeover.Met(m.Pin))
	if err := a.keepAdmission(m); err != nil {
		return err
	}
	if err := member.ledger.replace(takeover.Met(m.Pin)); err != nil {
		return err
	}
	a.enlist(member, m)
	n.mu.Lock()
	member.noticed = n.noticed
	member.noticed.approved = m.approvals()
	member.hardware = n.hardware
	member.summary.Admission.Evidence = n.summary.Admission.Evidence
	member.summary.Trust.Level, member.summary.Trust.Since = n.summary.Trust.Level, n.summary.Trust.Since
	n.mu.Unlock()
	a.rack.add(member)
	if member.entry.Name != n.entry.Name {
		a.gone(n.entry.Name, "it was let in as "+string(member.entry.Name))
	}
	a.log.Info("a BMC was let in", obs.Node, string(member.entry.Name), obs.BMC, m.Pin, obs.Reason, r.Why)
	a.settle(member)
	a.askAt("")
	return nil
}

// enlist says of a member how it came to be one.
func (a *Agent) enlist(n *node, m admission) {
	n.admission = m
	n.summary.Admission.State, n.summary.Admission.Why, n.summary.Admission.By = m.State, m.Why, m.By
	n.summary.Admission.Make, n.summary.Admission.UUID = m.Make, m.UUID
	if a.pass.issuer != nil {
		n.ledger.uri = a.pass.issuer.NodeURI(string(n.entry.Name))
	}
	n.ledger.refresh()
}

// gone tells the coordinators that there is no such node here any longer.
func (a *Agent) gone(name fleet.NodeName, why string) {
	err := a.spool.Update(func(tx *spool.Tx) error {
		if !tx.Has(spool.Nodes, string(name)) {
			return nil
		}
		tx.Delete(spool.Nodes, string(name))
		tx.Delete(spool.Inventories, string(name))
		tx.Append(a.now(), &pb.Record{Body: &pb.Record_Gone{Gone: &pb.NodeGone{Node: string(name), Reason: why}}})
		return nil
	})
	if err != nil {
		a.complain("tell that a node is gone", err)
	}
}
