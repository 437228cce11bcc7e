package agent

import (
	"bytes"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/sign"
)

const (
	keyPolicy = journal.Policy
	// maxTold bounds what is remembered of refusals, so that a coordinator that
	// repeats itself every minute is recorded once.
	maxTold = 1024
)

// What an agent refuses, as a Refused says it.
const (
	refusedScript = "script"
	refusedRun    = "run"
	refusedEnd    = "removal"
	refusedCancel = "cancel"
	refusedPolicy = "policy"

	refusedCatalogue = "catalogue"
)

// authority is whom the agent obeys: the authors in the policy that the roots have
// signed. Coordinators only carry what they sign.
type authority struct {
	root sign.Keys

	mu       sync.Mutex
	policy   *sign.Policy // nil: none has come yet, and nothing is obeyed
	envelope []byte       // of the policy
	told     map[string]bool
}

// open reads the roots, and the policy that was kept.
func (u *authority) open(cfg *Config, disk *spool.Spool) (err error) {
	path := cfg.ScriptRoot
	if path == "" {
		path = filepath.Join(cfg.State, sign.RootFile)
	}
	if u.root, err = sign.LoadRoot(path); err != nil {
		return err
	}
	u.told = make(map[string]bool)
	return disk.View(func(tx *spool.Tx) error {
		raw := tx.Get(spool.Notes, keyPolicy)
		if raw == nil {
			return nil
		}
		u.envelope = bytes.Clone(raw)
		u.policy, err = u.root.Policy(u.envelope)
		return err
	})
}

func (u *authority) current() *sign.Policy {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.policy
}

// PolicyVersion is that of the policy of authors that the agent holds.
func (a *Agent) PolicyVersion() uint64 {
	if p := a.authority.current(); p != nil {
		return p.Version
	}
	return 0
}

// adopt takes a newer policy of authors, and tells whether it did.
func (a *Agent) adopt(envelope []byte) (bool, error) {
	u := &a.authority
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(envelope) == 0 || bytes.Equal(envelope, u.envelope) {
		return false, nil
	}
	next, err := u.root.Policy(envelope)
	if err == nil && u.policy != nil && next.Version <= u.policy.Version {
		err = fault.New(fault.Untrusted, "take policy",
			fmt.Sprintf("its version %d is not newer than version %d, which is in force here", next.Version, u.policy.Version))
	}
	if err != nil {
		refused := &pb.Refused{What: refusedPolicy, Digest: order.Digest(envelope), Reason: err.Error()}
		if next != nil {
			refused.Version = next.Version
		}
		return false, a.tellRefused(refused)
	}
	err = a.spool.Update(func(tx *spool.Tx) error {
		tx.Put(spool.Notes, keyPolicy, envelope)
		return nil
	})
	if err != nil {
		return false, err
	}
	u.policy, u.envelope = next, bytes.Clone(envelope)
	a.log.Info("a new policy of authors is in force", obs.Count, next.Version)
	return true, nil
}

// refuse records that an order was not obeyed, once. The error is that of the disk.
func (a *Agent) refuse(what, name string, envelope []byte, why error) error {
	a.authority.mu.Lock()
	defer a.authority.mu.Unlock()
	return a.tellRefused(a.refusal(what, name, envelope, why))
}

func (a *Agent) refusal(what, name string, envelope []byte, why error) *pb.Refused {
	claimed, _ := sign.Peek(envelope) // for the record only
	return &pb.Refused{What: what, Name: name, Version: claimed.Version, Digest: order.Digest(envelope), Reason: why.Error()}
}

// tellRefused is called with the authority locked.
func (a *Agent) tellRefused(r *pb.Refused) error {
	u := &a.authority
	key := spool.Key(r.GetWhat(), r.GetName(), r.GetDigest(), r.GetReason())
	if u.told[key] {
		return nil
	}
	if len(u.told) >= maxTold {
		clear(u.told)
	}
	a.log.Error("refused what a coordinator told", obs.Kind, r.GetWhat(), obs.Script, r.GetName(), obs.Reason, r.GetReason())
	err := a.spool.Update(func(tx *spool.Tx) error {
		tx.Append(a.now(), &pb.Record{Body: &pb.Record_Refused{Refused: r}})
		return nil
	})
	if err == nil {
		u.told[key] = true
	}
	return err
}

// refuseRun ends a run that was not begun: its result says why, for whoever
// applied it.
func (a *Agent) refuseRun(r *pb.Run, why error) error {
	if err := a.refuse(refusedRun, r.GetScript(), r.GetEnvelope(), why); err != nil {
		return err
	}
	return a.spool.Update(func(tx *spool.Tx) error {
		journal.Refuse(tx, a.now(), r, why)
		return nil
	})
}

// scriptOrder verifies a standing script that has just come.
func (a *Agent) scriptOrder(s *pb.Script) (order.Order, error) {
	o, err := a.authority.current().Fresh(s.GetEnvelope(), s.GetSource(), string(a.cfg.Rack), a.now())
	if err != nil {
		return o, err
	}
	if err = named(o, s.GetName(), order.Standing); err != nil {
		return o, err
	}
	return o, a.admits(journal.FloorOfScript, o)
}

// runOrder verifies a run that has just come. An order begins one run, once.
func (a *Agent) runOrder(r *pb.Run) (order.Order, error) {
	o, err := a.authority.current().Fresh(r.GetEnvelope(), r.GetSource(), string(a.cfg.Rack), a.now())
	if err != nil {
		return o, err
	}
	if err = named(o, r.GetScript(), order.Standing, order.Run); err != nil {
		return o, err
	}
	if err = sign.Begins(o, a.now()); err != nil {
		return o, err
	}
	return o, a.admits(journal.FloorOfRun, o)
}

// ending verifies an order that ends the force of a script which stands here: one
// to remove it, to do something else once under its name, or to keep it in force
// elsewhere.
func (a *Agent) ending(e *pb.Ended, old *script) (order.Order, error) {
	o, _, err := a.authority.current().Order(e.GetEnvelope())
	if err != nil {
		return o, err
	}
	if err = named(o, old.GetName(), order.Remove, order.Run, order.Standing); err != nil {
		return o, err
	}
	meant := o.For(string(a.cfg.Rack))
	if o.Kind == order.Standing && meant || o.Kind == order.Remove && !meant {
		return o, fault.New(fault.Untrusted, "verify order", "it does not end the script on this rack")
	}
	if o.Version <= old.GetVersion() {
		return o, older(o, old.GetVersion())
	}
	return o, nil
}

// canceling verifies an order to stop a run, which it names by the version of the
// order that began it.
func (a *Agent) canceling(r *pb.Run) (order.Order, error) {
	o, _, err := a.authority.current().Order(r.GetCancel())
	if err != nil {
		return o, err
	}
	if err = named(o, r.GetScript(), order.Cancel); err != nil {
		return o, err
	}
	if !o.For(string(a.cfg.Rack)) {
		return o, fault.New(fault.Untrusted, "verify order", "it is not meant for this rack")
	}
	return o, nil
}

// kept verifies again what was read from the disk. What has come in time stays in
// force, however late it is by now.
func (a *Agent) kept(envelope, source []byte, name string) error {
	o, _, err := a.authority.current().Order(envelope)
	if err != nil {
		return err
	}
	if err = named(o, name, order.Standing, order.Run); err != nil {
		return err
	}
	if !o.For(string(a.cfg.Rack)) || o.Digest != order.Digest(source) {
		return fault.New(fault.Untrusted, "verify order", "the script is not the one that was signed for this rack")
	}
	return nil
}

// onlyOf are the nodes that an order, which was verified, is only for.
func (a *Agent) onlyOf(envelope []byte) []string {
	o, _, err := a.authority.current().Order(envelope)
	if err != nil {
		return nil
	}
	return o.Only
}

// named refuses an order for another script, or of another kind.
func named(o order.Order, name string, kinds ...order.Kind) error {
	for _, k := range kinds {
		if o.Kind == k && o.Name == name {
			return nil
		}
	}
	return fault.New(fault.Untrusted, "verify order", fmt.Sprintf("the order is to %s", o))
}

func older(o order.Order, seen uint64) error {
	return fault.New(fault.Untrusted, "verify order",
		fmt.Sprintf("version %d of %s is not newer than version %d, which this rack has had", o.Version, o.Name, seen))
}

// admits is an error if an order is older than what was obeyed here for its name.
func (a *Agent) admits(of string, o order.Order) error {
	return a.spool.View(func(tx *spool.Tx) error {
		if ok, floor := journal.Admits(tx, of, o.Name, o.Version, hashOf(o)); !ok {
			return older(o, floor)
		}
		return nil
	})
}

// hashOf tells two orders of one version apart.
func hashOf(o order.Order) string {
	data, err := o.Encode()
	if err != nil {
		return "" // it was decoded, so it can be encoded
	}
	return order.Digest(data)
}
