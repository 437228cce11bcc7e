package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc/openbmc"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/seal"
)

// keptShare is how long what must not be lost waits for the standby to have it. One
// that is slower is asked no more until it answers again.
const keptShare = 2 * time.Second

const keyPartner = "partner"

// companion is what is known of the other agent of the rack. It is safe for
// concurrent use.
type companion struct {
	mu    sync.Mutex
	is    introduced
	up    bool   // it has answered the last question
	life  uint64 // of its process
	held  uint64 // of our changes, in our life
	moved chan struct{}
}

// introduced is what the partner has said of itself, as it is kept.
type introduced struct {
	Account string `json:"account"`
	Twin    string `json:"twin"`
	Key     []byte `json:"key"`
	Epoch   uint64 `json:"epoch"` // of Key
}

func (t introduced) partner() takeover.Partner {
	return takeover.Partner{Account: t.Account, Twin: t.Twin, Print: openbmc.Fingerprint([]byte(t.Twin))}
}

func (t introduced) same(o introduced) bool {
	return t.Account == o.Account && t.Twin == o.Twin && bytes.Equal(t.Key, o.Key) && t.Epoch == o.Epoch
}

// partner is the other agent as BMCs know it; the zero Partner if it has never told.
func (c *companion) partner() takeover.Partner {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.is.partner()
}

// recipients are who can read what is sealed in the spool.
func (c *companion) recipients(own seal.Recipient) []seal.Recipient {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []seal.Recipient{own}
	if len(c.is.Key) > 0 {
		all = append(all, seal.Recipient{Rack: own.Rack, Epoch: c.is.Epoch, Key: c.is.Key})
	}
	return all
}

// hears notes an answer, or nil for none, and what it says of our changes.
func (c *companion) hears(s *pb.PairState, life uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.up = s != nil; c.up {
		c.life = s.GetLife()
		c.held = 0
		if s.GetHeldOf() == life {
			c.held = s.GetHeld()
		}
	}
	close(c.moved)
	c.moved = make(chan struct{})
}

func (c *companion) state() (up bool, held uint64, moved <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up, c.held, c.moved
}

// recallPartner reads what the partner has told an earlier life.
func (a *Agent) recallPartner() error {
	a.companion.moved = make(chan struct{})
	return a.spool.View(func(tx *spool.Tx) error {
		if raw := tx.Get(spool.Notes, keyPartner); raw != nil && a.cfg.Pair.Name != "" {
			return fault.Wrap(fault.Garbage, "read what the other agent has told", json.Unmarshal(raw, &a.companion.is))
		}
		return nil
	})
}

// meetPartner keeps what the partner says of itself; what was sealed is sealed to it, too.
func (a *Agent) meetPartner(s *pb.PairState) error {
	is := introduced{Account: s.GetAccount(), Twin: string(s.GetTwin()), Key: s.GetSealKey()}
	if len(s.GetSealProof()) > 0 {
		to, err := seal.Verify(s.GetSealProof(), a.trust.rack.Domain(), a.trust.endpoint.Credentials().Roots, a.now())
		if err != nil {
			return err
		}
		is.Key, is.Epoch = to.Key, to.Epoch
	}
	a.companion.mu.Lock()
	same := a.companion.is.same(is)
	a.companion.is = is
	a.companion.mu.Unlock()
	if same {
		return nil
	}
	err := a.spool.Update(func(tx *spool.Tx) error {
		tx.PutJSON(spool.Notes, keyPartner, is)
		return nil
	})
	if err == nil && a.office.reigns() {
		err = errors.Join(a.reseal(), a.befriend())
	}
	return err
}

// reseal seals the passwords of all BMCs anew, to whoever may read them now.
func (a *Agent) reseal() (err error) {
	for _, n := range a.rack.members() {
		err = errors.Join(err, n.ledger.Keep(func(r takeover.Record) takeover.Record { return n.ledger.resealed(r) }))
		err = errors.Join(err, a.vault.reseal(string(n.entry.Name)))
	}
	return errors.Join(err, a.resealGiven())
}

// resealed is the record with its passwords sealed to whoever may read them now. One
// that can't be opened stays as it is.
func (l *ledger) resealed(r takeover.Record) takeover.Record {
	again := func(sealed string) string {
		plain, err := l.Open(sealed)
		if err != nil {
			return sealed
		}
		fresh, err := l.Seal(plain)
		if err != nil {
			return sealed
		}
		return fresh
	}
	r.Sealed = maps.Clone(r.Sealed)
	for user, sealed := range r.Sealed {
		r.Sealed[user] = again(sealed)
	}
	if r.Known != "" {
		r.Known = again(r.Known)
	}
	return r
}

// reseal is the same for the logins that scripts have set.
func (v *vault) reseal(bmc string) error {
	logins, err := v.logins(bmc)
	if err != nil || len(logins) == 0 {
		return err
	}
	for i, k := range logins {
		password, openErr := v.key.Open(k.Sealed, v.rack, v.loginUse(bmc))
		if openErr != nil {
			continue
		}
		if logins[i], err = v.seal(bmc, redfish.Credentials{User: k.User, Password: password}); err != nil {
			return err
		}
	}
	return v.keep(bmc, logins)
}

// befriend has the take-overs give the partner its place on every BMC.
func (a *Agent) befriend() (err error) {
	p := a.companion.partner()
	for _, n := range a.rack.members() {
		err = errors.Join(err, n.ledger.Keep(func(r takeover.Record) takeover.Record {
			if r.Goal == "" || p.Account == r.Account {
				return r
			}
			return r.With(p)
		}))
		n.lookAtTakeover()
	}
	return err
}

// shared waits, for a bounded time, until the standby has all that was written here.
// What must not be forgotten waits for it before a BMC hears of it.
func (a *Agent) shared() {
	if a.pair == nil || !a.office.reigns() {
		return
	}
	last, _ := a.spool.Version()
	timer := time.NewTimer(keptShare)
	defer timer.Stop()
	for {
		up, held, moved := a.companion.state()
		if !up || held >= last {
			return
		}
		select {
		case <-moved:
		case <-timer.C:
			a.companion.hears(nil, a.life)
			a.log.Warn("the standby is too slow; it is waited for when it answers again", obs.Peer, string(a.cfg.Pair.Name))
			return
		}
	}
}

// replicate brings the standby what is written here, until ctx ends.
func (a *Agent) replicate(ctx context.Context) error {
	if a.pair == nil {
		return nil
	}
	for {
		last, next := a.spool.Version()
		up, held, moved := a.companion.state()
		if up && held != last {
			if err := a.push(ctx, held); err != nil && ctx.Err() == nil {
				a.companion.hears(nil, a.life)
				a.log.Warn("the standby does not take what was written here", obs.Peer, string(a.cfg.Pair.Name), obs.Err, err)
			}
			if ctx.Err() == nil {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		case <-moved:
		}
	}
}

func (a *Agent) push(ctx context.Context, held uint64) error {
	share := &pb.PairShare{Owner: a.office.owner(a.cfg.Rack), Life: a.life, From: held}
	changes, last, ok := a.spool.Changes(held)
	if !ok || held == 0 {
		var err error
		if changes, last, err = a.spool.Everything(); err != nil {
			return err
		}
		share.All = true
	}
	share.To = last
	for _, c := range changes {
		share.Rows = append(share.Rows, &pb.PairRow{Table: string(c.Table), Key: []byte(c.Key), Value: c.Value, Gone: c.Value == nil})
	}
	reply, err := a.pair.Ask(ctx, &pb.PairCall{Body: &pb.PairCall_Share{Share: share}})
	if reply.GetState() != nil {
		a.office.tell(owner.Partner{Claim: claimOf(reply.GetState().GetKnown())})
	}
	if err == nil {
		a.companion.hears(reply.GetState(), a.life)
	}
	return err
}

// answerPartner answers the other agent of the rack.
func (a *Agent) answerPartner(_ context.Context, call *pb.PairCall) *pb.PairReply {
	var err error
	switch b := call.GetBody().(type) {
	case *pb.PairCall_State:
		a.office.tell(owner.Partner{Claim: claimOf(b.State.GetKnown())})
		err = a.meetPartner(b.State)
	case *pb.PairCall_Share:
		a.office.tell(owner.Partner{Claim: claimOf(b.Share.GetOwner())})
		err = a.takeShare(b.Share)
	default:
		err = fault.New(fault.Unsupported, "answer the other agent", "it asks what this version does not know")
	}
	reply := &pb.PairReply{State: a.pairState()}
	if err != nil {
		reply.Kind, reply.Error = string(fault.KindOf(err)), err.Error()
	}
	return reply
}

// pairState is how we are, for the partner.
func (a *Agent) pairState() *pb.PairState {
	public, proof, err := a.sealKey()
	if err != nil {
		a.complain("show our sealing key", err)
	}
	s := &pb.PairState{
		Agent: string(a.cfg.Name), Known: a.office.owner(a.cfg.Rack), Active: a.office.reigns(), SealKey: public, SealProof: proof,
		Account: a.pass.account, Life: a.life,
	}
	if a.pass.issuer != nil {
		s.Twin = a.pass.issuer.Twin()
	}
	a.taken.mu.Lock()
	defer a.taken.mu.Unlock()
	s.Held, s.HeldOf = a.taken.Held()
	return s
}

// taken is how far we are with the changes of the partner.
type taken struct {
	mu sync.Mutex // serialises what is taken
	journal.Follower
}

// own notes that we are the owner now. A share that is being taken ends first.
func (t *taken) own() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Own()
}

// takeShare takes what the owner has written. Who does not own the rack, as far as
// we know, is told so by our state.
func (a *Agent) takeShare(s *pb.PairShare) error {
	const op = "take what the owner has written"
	from := claimOf(s.GetOwner())
	a.taken.mu.Lock()
	defer a.taken.mu.Unlock()
	switch known := a.office.claim(); {
	case from.Agent != string(a.cfg.Pair.Name) || known.After(from):
		return fault.New(fault.Conflict, op, "the rack is of "+known.String())
	case a.office.reigns():
		return fault.New(fault.Unavailable, op, "this agent is about to become the standby")
	case !a.taken.Follows(s.GetLife(), s.GetFrom(), s.GetAll()):
		return nil // our state says where it goes on
	}
	if err := a.takePolicy(s); err != nil {
		return err
	}
	a.desiring.Lock()
	defer a.desiring.Unlock()
	changes := changesOf(s)
	if err := a.spool.Take(changes, s.GetAll(), a.keeps); err != nil {
		return err
	}
	a.taken.Took(s.GetLife(), s.GetTo())
	return errors.Join(a.heedScripts(changes), a.enrol(changes), a.reread(changes))
}

func changesOf(s *pb.PairShare) []spool.Change {
	changes := make([]spool.Change, 0, len(s.GetRows()))
	for _, r := range s.GetRows() {
		c := spool.Change{Table: spool.Table(r.GetTable()), Key: string(r.GetKey())}
		if !r.GetGone() {
			c.Value = append([]byte{}, r.GetValue()...)
		}
		changes = append(changes, c)
	}
	return changes
}

// reread puts the records of BMCs that have changed in force.
func (a *Agent) reread(changes []spool.Change) error {
	some := false
	for _, c := range changes {
		some = some || c.Table == spool.Takeovers || c.Table == spool.Notes
	}
	if !some {
		return nil
	}
	members := a.rack.members()
	known := make([]Entry, len(members))
	for i, n := range members {
		known[i] = n.entry
	}
	records, err := openLedgers(a.spool, known)
	if err != nil {
		return err
	}
	for _, n := range members {
		before := n.ledger.Record().Pin
		n.ledger.keeping.Lock()
		n.ledger.adopt(records[n.entry.Name])
		n.ledger.keeping.Unlock()
		if at := n.lastAddress(); at != "" && n.ledger.Record().Pin != before {
			a.askAt(at) // another key answers there now
		}
	}
	return nil
}

func claimOf(o *pb.Owner) owner.Claim {
	return owner.Claim{Agent: o.GetAgent(), Epoch: owner.Epoch{Grant: o.GetGrant(), Local: o.GetLocal()}}
}
