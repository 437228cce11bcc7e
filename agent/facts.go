package agent

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/level"
)

// Who observed a fact.
const (
	byHandshake = "TLS handshake"
	byCatalogue = "the catalogue"
	byBMC       = "the BMC's own word"
	byTakeover  = "take-over"
	byPerson    = "their signature"
	byAssets    = "trust-policy"
	byLogin     = "login"
)

// noticed is what was observed of a BMC since the agent started.
type noticed struct {
	key    level.Fact[level.Key]
	other  string // the key that answered instead, if one did
	onLink level.Fact[bool]
	serial level.Fact[string] // as it tells it
	login  time.Time          // the last answer to somebody who was logged in
	// accepted is when a person took the key for this BMC's, zero if the
	// catalogue's counts; approved are the people who let it in.
	accepted time.Time
	approved []level.Fact[string]
	clash    level.Fact[string] // who else claims what it does
}

// noticing is a copy of what was observed.
func (n *node) noticing() noticed {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.noticed
}

// notice takes what a look came to. The caller holds mu.
func (n *node) notice(now time.Time, s fleet.Node, err error) {
	switch {
	case err == nil:
		n.noticed.key, n.noticed.other = level.Fact[level.Key]{Is: level.KeySame, At: now, From: byHandshake}, ""
		n.noticed.login = now
		n.tell(s.Serial, now)
	case s.State == fleet.Untrusted:
		n.noticed.key = level.Fact[level.Key]{Is: level.KeyChanged, At: now, From: byHandshake}
	}
}

// tell takes the serial that a BMC tells. The caller holds mu.
func (n *node) tell(serial string, at time.Time) {
	if says(serial) {
		n.noticed.serial = level.Fact[string]{Is: serial, At: at, From: byBMC}
	}
}

func (n *node) told(serial string, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tell(serial, at)
}

// shows notes the key that answers where the BMC should.
func (n *node) shows(pin string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noticed.other = pin
}

// heard takes what discovery knows of the BMC's way to us.
func (n *node) heard(c discovery.Candidate) {
	onLink := slices.ContainsFunc(c.Found, func(finder string) bool { return finder != "static" })
	from := strings.Join(c.Found, ", ")
	if len(c.Links) > 0 {
		from += " on " + strings.Join(c.Links, ", ")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noticed.onLink = level.Fact[bool]{Is: onLink, At: c.Seen, From: from}
}

// bar says whether the BMC may be listened to.
func (n *node) bar(barred bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.barred != barred {
		n.barred = barred
		n.turn()
	}
}

// answered takes that a key has answered.
func (a *Agent) answered(p probed) {
	if p.err != nil {
		return
	}
	for _, n := range a.rack.members() {
		if n.ledger.Record().Has(p.Pin) {
			n.mu.Lock()
			n.noticed.key, n.noticed.other = level.Fact[level.Key]{Is: level.KeySame, At: a.now(), From: byHandshake}, ""
			n.mu.Unlock()
		}
	}
}

// facts are what is known of a node's BMC.
func (a *Agent) facts(n *node) level.Facts {
	r, s := n.ledger.Record(), n.noticing()
	f := level.Facts{
		OnLink: s.onLink, Key: s.key, By: a.voucher(n, r, s), Asset: a.asset(n, r), Access: access(r, s),
		Default: a.factory(n, r, s), Denied: a.denial(n, r), Twin: a.twin(n), Clash: a.clash(n, s), Approved: s.approved,
	}
	if r.Goal == takeover.Taken && !r.Seen.At.IsZero() {
		w := r.Seen.Weak()
		f.Weak = level.Fact[bool]{Is: w.Basic || w.Cookie || w.IPMI || w.SSH, At: r.Seen.At, From: byTakeover}
		f.Clock = level.Fact[bool]{Is: r.Seen.ClockOff.Abs() <= takeover.ClockSlack, At: r.Seen.At, From: byTakeover}
	}
	return f
}

// voucher is who stands for the key: the rack's authority once its certificate is
// served, before that whoever wrote the key into the catalogue, or accepted it.
func (a *Agent) voucher(n *node, r takeover.Record, s noticed) level.Fact[level.Voucher] {
	switch {
	case r.Ours():
		at := r.Seen.At
		if s.key.Is == level.KeySame && s.key.At.After(at) {
			at = s.key.At
		}
		return level.Fact[level.Voucher]{Is: level.RackCA, At: at, From: byHandshake}
	case !s.accepted.IsZero():
		return level.Fact[level.Voucher]{Is: level.Person, At: s.accepted, From: byPerson}
	case n.uncatalogued():
		return a.introducer(r, s)
	}
	return level.Fact[level.Voucher]{Is: level.Person, At: a.cfg.Written, From: byCatalogue}
}

// introducer is who vouches for the key of a BMC that stands in no catalogue: a
// person, whose order names the key, or an asset list that does.
func (a *Agent) introducer(r takeover.Record, s noticed) level.Fact[level.Voucher] {
	if len(s.approved) > 0 {
		return level.Fact[level.Voucher]{Is: level.Person, At: s.approved[0].At, From: s.approved[0].Is}
	}
	for _, p := range a.policies() {
		for _, row := range p.Assets {
			if r.Has(row.Key) {
				return level.Fact[level.Voucher]{Is: level.Person, At: a.cfg.Written, From: byAssets}
			}
		}
	}
	return level.Fact[level.Voucher]{}
}

// asset is how the BMC stands to the catalogue, which always has its key, or to the
// asset list. Where there is no serial, the one of the first meeting counts against
// another.
func (a *Agent) asset(n *node, r takeover.Record) level.Fact[level.Asset] {
	told := n.serial(r)
	want := n.listedSerial()
	same := strings.EqualFold(want, told.Is)
	switch {
	case told.Known() && says(want) && same:
		return level.Fact[level.Asset]{Is: level.Confirmed, At: told.At, From: told.From}
	case told.Known() && says(want), told.Known() && says(r.Serial) && !strings.EqualFold(r.Serial, told.Is) && !same:
		return level.Fact[level.Asset]{Is: level.Mismatch, At: told.At, From: told.From}
	}
	if !n.uncatalogued() {
		return level.Fact[level.Asset]{Is: level.Listed, At: a.cfg.Written, From: byCatalogue}
	}
	for _, p := range a.policies() {
		for _, row := range p.Assets {
			if r.Has(row.Key) || n.admitted().Listed && row.Node == string(n.entry.Name) {
				return level.Fact[level.Asset]{Is: level.Listed, At: a.cfg.Written, From: byAssets}
			}
		}
	}
	return level.Fact[level.Asset]{}
}

// uncatalogued reports whether the BMC stands in no catalogue: it was let in, or is
// a stranger.
func (n *node) uncatalogued() bool { return n.seen().Admission.State != fleet.Listed }

// listedSerial is the serial that the server should tell, "" if nobody has said.
func (n *node) listedSerial() string { return cmp.Or(n.entry.Serial, n.admitted().Serial) }

// serial is the one that the BMC told last.
func (n *node) serial(r takeover.Record) level.Fact[string] {
	told := n.noticing().serial
	if says(r.Seen.Serial) && r.Seen.At.After(told.At) {
		return level.Fact[string]{Is: r.Seen.Serial, At: r.Seen.At, From: byBMC}
	}
	return told
}

// access is how we get in.
func access(r takeover.Record, s noticed) level.Fact[level.Access] {
	at := s.login
	if r.Seen.At.After(at) {
		at = r.Seen.At
	}
	f := level.Fact[level.Access]{At: at, From: byLogin}
	switch takeover.State(r) {
	case fleet.TakeoverStrict:
		f.Is = level.Strict
	case fleet.TakeoverMutual:
		f.Is = level.Mutual
	case fleet.TakeoverToken:
		f.Is = level.Token
	case fleet.TakeoverNone:
		if !s.login.IsZero() {
			f.Is = level.Password
		}
	}
	return f
}

// factory is whether the password that everybody knows is in force. It is, as far
// as we know, if it is the configured one and nothing has replaced it.
func (a *Agent) factory(n *node, r takeover.Record, s noticed) level.Fact[bool] {
	if r.Unique && !r.Returned {
		return level.Fact[bool]{At: r.Seen.At, From: byTakeover}
	}
	user, password, err := a.cfg.loginOf(n.entry).read()
	if err != nil || !isFactory(user, password) {
		return level.Fact[bool]{At: a.cfg.Written, From: byCatalogue}
	}
	logins, err := a.vault.logins(string(n.entry.Name))
	if err == nil && len(logins) > 0 && r.Goal != takeover.Taken { // a take-over proves it first
		return level.Fact[bool]{At: s.login, From: byLogin}
	}
	f := level.Fact[bool]{Is: true, At: s.login, From: byLogin}
	if f.At.IsZero() {
		f.At, f.From = a.cfg.Written, byCatalogue
	}
	return f
}

// denial is why one of the BMC's keys, or the serial that it tells or should tell,
// is on the deny list.
func (a *Agent) denial(n *node, r takeover.Record) level.Fact[string] {
	who := []string{r.Pin, r.First, r.Next}
	for _, serial := range []string{n.serial(r).Is, n.listedSerial(), r.Serial} {
		who = append(who, trust.ServerSubject(serial))
	}
	for _, name := range who {
		subject, err := trust.ParseSubject(name)
		if err != nil {
			continue
		}
		if d, denied := a.denials.Of(subject); denied {
			return level.Fact[string]{Is: d.Reason, At: d.At, From: d.By}
		}
	}
	return level.Fact[string]{}
}

// twin is another node that tells the same serial. A BMC that tells what the
// catalogue says of it is not harmed by one of which the catalogue does not.
func (a *Agent) twin(n *node) level.Fact[string] {
	mine := n.serial(n.ledger.Record()).Is
	listed := strings.EqualFold(n.listedSerial(), mine)
	if !says(mine) {
		return level.Fact[string]{}
	}
	for _, other := range a.rack.members() {
		if other == n || listed && !strings.EqualFold(other.listedSerial(), mine) {
			continue
		}
		if told := other.serial(other.ledger.Record()); strings.EqualFold(told.Is, mine) {
			return level.Fact[string]{Is: string(other.entry.Name), At: told.At, From: told.From}
		}
	}
	return level.Fact[string]{}
}

// blanks are what boards say that nobody has given a serial: they tell nothing.
var blanks = []string{
	"to be filled by o.e.m.", "default string", "system serial number", "not specified", "not available", "none", "n/a", "na",
	"null", "unknown", "empty", "0123456789", "123456789", "1234567890",
}

// says reports whether a serial tells one server from another.
func says(serial string) bool {
	serial = strings.ToLower(strings.TrimSpace(serial))
	return strings.Trim(serial, "0.-_ x") != "" && !slices.Contains(blanks, serial)
}

// policies are the trust-policy forms of all standing scripts.
func (a *Agent) policies() []scl.TrustPolicy {
	a.standing.mu.Lock()
	defer a.standing.mu.Unlock()
	var all []scl.TrustPolicy
	for _, s := range a.standing.scripts {
		if s.program != nil {
			all = append(all, s.program.Trust...)
		}
	}
	return all
}

// resume takes up, from an earlier life, which level each BMC had and since when,
// and which keys a person has accepted.
func (a *Agent) resume() error {
	return a.spool.View(func(tx *spool.Tx) error {
		for _, n := range a.rack.members() {
			m, err := admissionIn(tx, n.ledger.Record().First)
			if err != nil {
				return err
			}
			n.admission, n.noticed.approved = m, m.approvals()
			if tx.Has(spool.Notes, acceptedKey(n.entry)) {
				n.noticed.accepted = tx.Time(spool.Notes, acceptedAtKey(n.entry))
			}
			msg := &pb.Node{}
			if err := proto.Unmarshal(tx.Get(spool.Nodes, string(n.entry.Name)), msg); err != nil {
				return fault.Wrap(fault.Garbage, "read the summary of "+string(n.entry.Name), err)
			}
			was := wire.FromBMCTrust(msg.GetTrust())
			n.summary.Trust.Level, n.summary.Trust.Since = was.Level, was.Since
			n.summary.Admission.Evidence = wire.FromAdmission(msg.GetAdmission()).Evidence
		}
		return nil
	})
}
