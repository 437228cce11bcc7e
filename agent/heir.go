package agent

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/seal"
)

// What the standby makes of what its partner hands it. Orders are orders, whoever
// brings them: a script, and an order that was given on the rack, is taken if authors
// have signed it and it is newer than what is known here. All else is the owner's own
// and is taken as it is.

// keeps says what of a share is not to be touched here.
func (a *Agent) keeps(tx *spool.Tx, c spool.Change) bool {
	if journal.Outdated(tx, c) || c.Table == spool.Notes && c.Key == journal.Policy {
		return true
	}
	switch {
	case c.Value == nil:
		return false
	case c.Table == spool.Scripts:
		s := &pb.Script{}
		return proto.Unmarshal(c.Value, s) != nil || s.GetName() != c.Key || a.kept(s.GetEnvelope(), s.GetSource(), s.GetName()) != nil
	case c.Table == spool.Here:
		return !a.ordered(c)
	}
	return false
}

// ordered reports whether authors have signed an order that was given on the rack.
func (a *Agent) ordered(c spool.Change) bool {
	l := localOf(c)
	o, _, err := a.authority.current().Order(l.GetEnvelope())
	return err == nil && o.Name == c.Key && o.Name == l.GetName() && o.Version == l.GetVersion() && string(o.Kind) == l.GetKind() && o.For(string(a.cfg.Rack))
}

// localOf is the order in a row, nil if there is none.
func localOf(c spool.Change) *pb.LocalOrder {
	r := &pb.Record{}
	if proto.Unmarshal(c.Value, r) != nil {
		return nil
	}
	return r.GetLocal()
}

// takePolicy takes a newer policy of authors that the owner has heard of.
func (a *Agent) takePolicy(s *pb.PairShare) error {
	for _, row := range s.GetRows() {
		if row.GetTable() != string(spool.Notes) || string(row.GetKey()) != journal.Policy {
			continue
		}
		if next, err := a.authority.root.Policy(row.GetValue()); err != nil || next.Version <= a.PolicyVersion() {
			continue
		}
		if _, err := a.adopt(row.GetValue()); err != nil {
			return err
		}
	}
	return nil
}

// heedScripts puts the scripts that have come in force, and ends those for whose name
// the owner has obeyed a newer order.
func (a *Agent) heedScripts(changes []spool.Change) error {
	concerned := slices.ContainsFunc(changes, func(c spool.Change) bool { return c.Table == spool.Scripts || c.Table == spool.Floors })
	if !concerned {
		return nil
	}
	a.standing.mu.Lock()
	have := a.standing.scripts
	a.standing.mu.Unlock()
	next := make(map[string]*script)
	err := a.spool.Update(func(tx *spool.Tx) error {
		var ended []string
		for name, raw := range tx.All(spool.Scripts, "") {
			s := &pb.Script{}
			if err := proto.Unmarshal(raw, s); err != nil {
				return fault.Wrap(fault.Garbage, "read scripts", err)
			}
			switch old := have[name]; {
			case journal.Ended(tx, s):
				ended = append(ended, name)
			case old != nil && old.GetVersion() == s.GetVersion():
				next[name] = old
			default:
				next[name] = a.compiled(s)
			}
		}
		for _, name := range ended {
			tx.Delete(spool.Scripts, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	a.standing.mu.Lock()
	a.standing.scripts = next
	a.standing.mu.Unlock()
	a.retarget()
	return nil
}

// retell has the coordinators told again of the orders that were given on the rack and
// that the dead owner may not have told them of: they hear of a run before its
// results. Whoever has heard of an order already takes it for that one.
func (a *Agent) retell() error {
	return a.spool.Update(func(tx *spool.Tx) error {
		sources := make(map[string][]byte) // of the runs that go on
		for _, raw := range tx.All(spool.Runs, "") {
			r := &pb.Run{}
			if err := proto.Unmarshal(raw, r); err != nil {
				return fault.Wrap(fault.Garbage, "read runs", err)
			}
			sources[r.GetId()] = r.GetSource()
		}
		var all []*pb.Record
		for name, raw := range tx.All(spool.Here, "") {
			r, s := &pb.Record{}, &pb.Script{}
			if err := errors.Join(proto.Unmarshal(raw, r), proto.Unmarshal(tx.Get(spool.Scripts, name), s)); err != nil {
				return fault.Wrap(fault.Garbage, "read what was ordered on the rack", err)
			}
			if l := untold(r.GetLocal(), sources, s); l != nil {
				all = append(all, &pb.Record{AtUnixMs: r.GetAtUnixMs(), Body: &pb.Record_Local{Local: l}})
			}
		}
		for _, r := range all {
			tx.Append(time.UnixMilli(r.GetAtUnixMs()), r)
		}
		return nil
	})
}

// untold is an order as it is told again, nil if there is nothing left to tell of it:
// the run that it began goes on, or the script stands.
func untold(l *pb.LocalOrder, sources map[string][]byte, s *pb.Script) *pb.LocalOrder {
	l = proto.CloneOf(l)
	source, goesOn := sources[l.GetRun()]
	switch {
	case goesOn:
		l.Source = source
	case s.GetVersion() == l.GetVersion() && s.GetVersion() > 0:
		l.Source, l.Run = s.GetSource(), "" // who had its run done tells of that
	default:
		return nil
	}
	return l
}

// enrol makes those members whom the owner has let in, and takes leave of those whom
// it has turned out.
func (a *Agent) enrol(changes []spool.Change) error {
	if !slices.ContainsFunc(changes, func(c spool.Change) bool { return c.Table == spool.Notes }) {
		return nil
	}
	a.admitting.Lock()
	defer a.admitting.Unlock()
	all, err := admitted(a.spool)
	if err != nil {
		return err
	}
	for _, n := range a.rack.members() {
		if _, still := all[n.entry.Pin]; !still && n.admitted().State == fleet.Admitted {
			a.rack.remove(n)
			a.log.Info("a BMC is no longer of the rack", obs.Node, string(n.entry.Name), obs.BMC, n.entry.Pin)
		}
	}
	for _, pin := range slices.Sorted(maps.Keys(all)) {
		if err = a.welcome(all[pin]); err != nil {
			return err
		}
	}
	for _, n := range a.rack.others() {
		if m, err := a.admissionOf(n.entry.Pin); err == nil {
			n.words(m)
		}
	}
	a.askAt("")
	return nil
}

// welcome makes a BMC that was let in a member, unless it is one or stands in the
// catalogue.
func (a *Agent) welcome(m admission) error {
	if n := a.rack.named(m.Name); n != nil {
		if n.entry.Pin == m.Pin {
			n.words(m)
		}
		return nil
	}
	e := m.entry(a.openGiven)
	if slices.ContainsFunc(a.cfg.Nodes, func(c Entry) bool { return c.Pin == m.Pin }) {
		return nil
	}
	records, err := openLedgers(a.spool, []Entry{e})
	if err != nil {
		return err
	}
	n := newNode(e, a.cfg.Rack, a.cfg.Site)
	n.ledger = a.newLedger(records[e.Name])
	a.enlist(n, m)
	a.rack.add(n)
	a.log.Info("a BMC was let in by the other agent of the rack", obs.Node, string(m.Name), obs.BMC, m.Pin)
	return nil
}

// resealGiven seals the logins that people gave with their word to whoever may read
// them now. One that can't be opened stays as it is.
func (a *Agent) resealGiven() error {
	return a.spool.Update(func(tx *spool.Tx) error {
		again := make(map[string]admission)
		for key, raw := range tx.All(spool.Notes, spool.Key(admissions)) {
			var m admission
			if err := json.Unmarshal(raw, &m); err != nil {
				return fault.Wrap(fault.Garbage, "read who let a BMC in", err)
			}
			if password, err := a.openGiven(m.Sealed, useAdmission(m.Bound)); m.Sealed != "" && err == nil {
				if m.Sealed, err = a.sealGiven(m.Bound, password); err == nil {
					again[key] = m
				}
			}
		}
		for key, m := range again {
			tx.PutJSON(spool.Notes, key, m)
		}
		return nil
	})
}

// sealGiven seals a login that a person gave for the BMC with that key.
func (a *Agent) sealGiven(pin string, password fleet.Secret) (string, error) {
	return seal.Seal(a.companion.recipients(a.key.Recipient(string(a.cfg.Rack))), useAdmission(pin), password)
}
