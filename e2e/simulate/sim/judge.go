package sim

import (
	"maps"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// judge holds the invariants. It applies the log the moment something is committed,
// sees every transaction of every disk, every ack that an agent gets and everything
// that a BMC does, and compares. It counts each record by a text that no other has. A large world has none: nil.
type judge struct {
	w       *World
	machine machine
	agents  map[string]*account
	results map[string]int // of each run that were looked at
	owners  map[reign]*agent

	recorded int
	doubled  int // under another epoch, after a disk was lost
	acts     int
}

// account is what is known of one agent's records.
type account struct {
	epoch    uint64
	seq      map[uint64]map[string]uint64 // epoch -> text -> seq, as written
	text     map[uint64]map[uint64]string // the same, the other way round
	recorded map[string]bool              // by text
	under    map[uint64]map[string]bool   // by epoch
	last     map[uint64]uint64            // seq recorded last, by epoch
	acked    map[uint64]uint64            // by epoch
	durable  map[string]bool              // must be recorded in the end
	epochs   int                          // how many the disk may have had
	revision uint64
}

func newJudge(w *World) *judge {
	return &judge{w: w, machine: w.newMachine(), agents: map[string]*account{}, results: map[string]int{}, owners: map[reign]*agent{}}
}

func (j *judge) account(name string) *account {
	a := j.agents[name]
	if a == nil {
		a = &account{
			seq: map[uint64]map[string]uint64{}, text: map[uint64]map[uint64]string{}, recorded: map[string]bool{},
			under: map[uint64]map[string]bool{}, last: map[uint64]uint64{}, acked: map[uint64]uint64{}, durable: map[string]bool{}, epochs: 1,
		}
		j.agents[name] = a
	}
	return a
}

// written is a record that is on the disk of an agent.
func (j *judge) written(a *agent, epoch uint64, r *pb.Record) {
	if j == nil {
		return
	}
	x := j.account(a.name)
	if epoch != x.epoch {
		x.epoch = epoch
		if x.epochs--; x.epochs < 0 {
			j.w.violate("%s begins spool epoch %d, and its disk is the one it had", a.name, epoch)
		}
		x.seq[epoch], x.text[epoch] = map[string]uint64{}, map[uint64]string{}
	}
	text := textOf(r)
	x.text[epoch][r.GetSeq()] = text
	if text != "" {
		x.seq[epoch][text] = r.GetSeq()
		x.durable[text] = true
	}
}

// lost is told when an agent has another disk: what was on the old one need not be
// recorded any more, and the spool may begin another epoch.
func (j *judge) lost(a *agent) {
	for _, n := range a.nodes { // what it knew of owners is lost too
		a.bmcs[n].highest = owner.Claim{}
	}
	x := j.account(a.name)
	x.epochs, x.revision = 2, 0
	clear(x.acked)
	for text := range x.durable {
		if !x.recorded[text] {
			delete(x.durable, text)
		}
	}
}

// committed is the log's next command.
func (j *judge) committed(index uint64, c *pb.Command) {
	if j == nil {
		return
	}
	batch := c.GetRecordResults()
	o, err := j.machine.Apply(index, c)
	if err != nil {
		j.w.violate("command %d can't be applied: %v", index, err)
		return
	}
	var lists [][]string // each in the order of the state
	for _, id := range o.Runs {
		_, fresh, _ := j.machine.Run(id, j.results[id])
		j.results[id] += len(fresh)
		var texts []string
		for _, r := range fresh {
			texts = append(texts, r.GetPath())
		}
		lists = append(lists, texts)
	}
	var firings []string
	for _, e := range o.Events {
		if f := e.GetFiring(); f != nil {
			firings = append(firings, f.GetHeld())
		}
	}
	j.ordered(batch, append(lists, firings))
	for _, d := range o.Dropped {
		if !strings.Contains(d.Reason, "was done already") {
			j.w.violate("record %d of %s is dropped: %s", d.Seq, batch.GetAgent(), d.Reason)
		}
	}
	if index%hashEvery == 0 {
		if j.w.group.hashes[index], err = j.machine.Hash(); err != nil {
			j.w.violate("%v", err)
		}
	}
}

// ordered is the invariant that records are recorded in the order in which they were
// written.
func (j *judge) ordered(b *pb.RecordResults, lists [][]string) {
	x, epoch := j.account(b.GetAgent()), b.GetSpoolEpoch()
	highest := x.last[epoch]
	for _, texts := range lists {
		last := x.last[epoch]
		for _, text := range texts {
			j.record(b, text)
			seq := x.seq[epoch][text]
			if seq != 0 && seq <= last {
				j.w.violate("%s is recorded after record %d, and its number is %d", text, last, seq)
			}
			last = max(last, seq)
		}
		highest = max(highest, last)
	}
	x.last[epoch] = highest
}

// record is the invariant that each record is recorded once.
func (j *judge) record(b *pb.RecordResults, text string) {
	rack, _, ok := strings.Cut(strings.TrimPrefix(text, known), "/")
	if !ok || rack != b.GetRack() {
		j.w.violate("%s has recorded %q", b.GetAgent(), text)
		return
	}
	x, epoch := j.account(b.GetAgent()), b.GetSpoolEpoch()
	j.recorded++
	if x.under[epoch] == nil {
		x.under[epoch] = map[string]bool{}
	}
	switch {
	case x.under[epoch][text]:
		j.w.violate("%s is recorded twice", text)
	case x.recorded[text]:
		j.doubled++
	}
	x.under[epoch][text], x.recorded[text] = true, true
}

// acked is the invariant that an ack implies a commit, and that what an agent may
// forget is recorded, and is what it has written.
func (j *judge) acked(a *agent, epoch, next uint64) {
	if j == nil {
		return
	}
	x := j.account(a.name)
	if known, _ := j.machine.Agent(a.name); known.GetSpoolEpoch() == epoch && known.GetNextSeq() < next {
		j.w.violate("%s is told that its records before %d are kept, and %d is not in the log", a.name, next, known.GetNextSeq())
		return
	}
	for seq := max(1, x.acked[epoch]); seq < next && epoch == x.epoch; seq++ {
		if text := x.text[epoch][seq]; text != "" && !x.recorded[text] {
			j.w.violate("record %d of %s is acknowledged and lost: %s", seq, a.name, text)
			return
		}
	}
	x.acked[epoch] = max(x.acked[epoch], next)
}

// acted is the invariant that what must be done once is done once: by one journal, and
// by the two of a pair if the standby knew of it.
func (j *judge) acted(b *bmc, o demand) {
	if j == nil {
		return
	}
	j.acts++
	if b.acts == nil {
		b.acts = map[string][]act{}
	}
	this := act{o.from, o.copies, o.pair, o.shared}
	for _, was := range b.acts[o.unit] {
		switch {
		case was.by == this.by && was.copies == this.copies:
			j.w.violate("%s is done again by %s", o.unit, this.by.name)
		case was.shared && was.pair == this.pair:
			j.w.violate("%s is done by %s, and again by %s, which knew of it", o.unit, was.by.name, this.by.name)
		}
	}
	b.acts[o.unit] = append(b.acts[o.unit], this)
}

// copies is how often a disk of the rack's agents was another one.
func (j *judge) copies(b *bmc) (n int) {
	if j == nil {
		return 0
	}
	for _, a := range j.w.racks[b.rack] {
		n += a.copies
	}
	return n
}

// owns is the invariant that an epoch of a rack has one owner.
func (j *judge) owns(a *agent) {
	if j == nil || a.partner == nil {
		return
	}
	this := reign{a.rack, a.out.Claim.Epoch}
	if was := j.owners[this]; was != nil && was != a {
		j.w.violate("%s and %s own rack %s in epoch %s", was.name, a.name, a.rack, this.epoch)
	}
	j.owners[this] = a
}

// reign is an epoch of a rack.
type reign struct {
	rack  string
	epoch owner.Epoch
}

// begins is the invariant that two agents do not both begin writes by leases. The
// clock of a machine that was suspended tells nothing of a lease: there the fence is
// what holds.
func (j *judge) begins(a *agent) {
	if j == nil || a.partner == nil {
		return
	}
	b := a.partner
	if b.up && b.may() && !a.out.Until.IsZero() && !b.out.Until.IsZero() && a.stood == 0 && b.stood == 0 && b.paused <= j.w.now {
		j.w.violate("%s begins a write by its lease, and the lease of %s runs too", a.name, b.name)
	}
}

// writes is the invariant that no write under a lower epoch reaches a BMC after the
// owner in a higher one has shut the other one out, or has written.
func (j *judge) writes(b *bmc, o demand) {
	if j == nil || o.from.partner == nil {
		return
	}
	if b.highest.After(o.epoch) && b.highest.Agent != o.epoch.Agent {
		j.w.violate("%s writes to a BMC of %s in epoch %s after %s", o.from.name, b.rack, o.epoch.Epoch, b.highest)
	}
	if o.epoch.After(b.highest) {
		b.highest = o.epoch
	}
}

// kept is the invariant that the desired state of a rack does not go back, unless
// coordinators tell nothing else.
func (j *judge) kept(a *agent, revision uint64) {
	if j == nil {
		return
	}
	x := j.account(a.name)
	if revision < x.revision && a.older <= journal.StalePulls {
		j.w.violate("%s goes back from revision %d to %d after %d older states", a.name, x.revision, revision, a.older)
	}
	x.revision = revision
}

// converged is what must be true when nothing has been broken for long enough.
func (j *judge) converged() {
	last := uint64(len(j.w.group.log))
	want, _ := j.machine.Hash()
	for _, r := range j.w.group.replicas {
		if r.applied != last {
			j.w.violate("coordinator %s has applied %d of %d commands", r.name, r.applied, last)
		} else if hash, _ := r.machine.Hash(); hash != want {
			j.w.violate("coordinator %s has another state than the log gives", r.name)
		}
	}
	for _, r := range j.machine.Runs() {
		if r.GetState() == state.Running {
			j.w.violate("run %s has not ended", r.GetId())
		}
	}
	for _, a := range j.w.agents {
		j.settled(a)
	}
}

// settled is converged for one agent.
func (j *judge) settled(a *agent) {
	if !a.up || a.session == nil {
		j.w.violate("%s has found no coordinator", a.name)
		return
	}
	if c, err := a.spool.Cursor(); err != nil || c.First != c.Next {
		j.w.violate("%s has records %d to %d that nobody takes: %v", a.name, c.First, c.Next, err)
	}
	if want := j.machine.Counts().Revision; a.revision != want {
		j.w.violate("%s has revision %d, the desired state is %d", a.name, a.revision, want)
	}
	switch works := a.reigns && a.may(); {
	case a.partner == nil && !works:
		j.w.violate("%s does not work on its rack: it is %s", a.name, a.out.Role)
	case a.partner != nil && works == (a.partner.reigns && a.partner.may()):
		j.w.violate("%s is %s and %s is %s", a.name, a.out.Role, a.partner.name, a.partner.out.Role)
	}
	for _, n := range a.nodes {
		// An owner notices at its next write that one that lost its memory has shut it out.
		unnoticed := a.reigns && j.copies(a.bmcs[n]) > 0
		if a.partner != nil && a.bmcs[n].reader[a.name] && j.w.mutant == None && !unnoticed {
			j.w.violate("%s is still shut out of %s", a.name, n)
			break
		}
	}
	j.mirrored(a)
	if n := len(a.disk.tables[intentsTable]); n > 0 {
		j.w.violate("%s has begun %d things and says nothing of them", a.name, n)
	}
	for _, text := range slices.Sorted(maps.Keys(j.account(a.name).durable)) {
		if !j.account(a.name).recorded[text] {
			j.w.violate("%s was kept on disk and is lost", text)
			return
		}
	}
}

// heard reports whether a table holds orders, of which both agents hear.
func heard(table spool.Table) bool {
	return table == spool.Floors || table == spool.Scripts || table == spool.Here
}

// mirrored is that the standby has what the owner has written. Of the newest orders
// each keeps what it has seen.
func (j *judge) mirrored(a *agent) {
	if a.partner == nil || !a.reigns {
		return
	}
	for table, rows := range a.disk.tables {
		copies := a.partner.disk.tables[table]
		for key, value := range rows {
			if !heard(table) && journal.Mirrored(table, key) && string(copies[key]) != string(value) {
				j.w.violate("%s has %s %q, and its standby has not", a.name, table, key)
				return
			}
		}
		for key := range copies {
			if !heard(table) && journal.Mirrored(table, key) && rows[key] == nil {
				j.w.violate("the standby of %s has %s %q, and it has not", a.name, table, key)
				return
			}
		}
	}
}
