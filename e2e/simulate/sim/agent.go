package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/agent/journal"
	agenttalk "github.com/chiba-mesh/chiba/agent/link/talk"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// agent is a rack's process on its machine: what is left when the process is killed,
// and what is not. Spool, journal, rules and talk are the product's.
type agent struct {
	w                *World
	name, rack, site string
	rnd              *rand.Rand

	// The machine.
	disk   *disk
	copies int // how often the disk was another: a journal is of one of them
	nodes  []fleet.NodeName
	bmcs   map[fleet.NodeName]*bmc
	offset time.Duration // of its clock
	drift  float64
	fuse   int // steps until the power goes; 0: it does not
	power  string
	texts  int // that were made for records, so that each is known

	partner *agent        // of the pair; nil: there is none
	paused  time.Duration // until then nothing happens in the process
	held    []func()      // what is to happen then
	stood   time.Duration // how long the machine was suspended

	// The process.
	up      bool
	process uint64 // of all
	office
	toFence map[fleet.NodeName]bool
	life    int
	spool   *spool.Spool
	side    *agenttalk.Side
	engine  *core.Engine
	waking  time.Time // when the rules are looked at next
	session *session  // with a talk
	sent    []sent

	revision       uint64
	patience       journal.Patience
	older          int
	active         map[string]*work
	stopped        map[string]bool
	turn, failures int
}

// sent is a batch on its way, after a hello.
type sent struct {
	hello *pb.Hello
	batch *pb.RecordBatch
}

// powerCut is thrown by the step at which the power goes, and ends the process.
type powerCut struct{}

// step is the boundary of an effect: here the power may go.
func (a *agent) step() {
	if a.fuse > 0 {
		if a.fuse--; a.fuse == 0 {
			panic(powerCut{})
		}
	}
}

// alive runs do in the process, which ends if the power goes.
func (a *agent) alive(do func()) {
	if !a.up {
		return
	}
	if a.paused > a.w.now {
		a.held = append(a.held, do)
		return
	}
	defer func() {
		switch r := recover(); r.(type) {
		case nil:
		case powerCut:
			a.die("the power goes")
		default:
			panic(r)
		}
	}()
	do()
}

// after runs do in this process, by its clock; never before d has passed on it.
func (a *agent) after(d time.Duration, do func()) {
	life := a.life
	a.w.after(time.Duration(float64(d)/(1+a.drift))+2, func() {
		if a.life == life {
			a.alive(do)
		}
	})
}

// pause stops the process, or the whole machine with its clock, for a while. Then it
// goes on where it was.
func (a *agent) pause(d time.Duration, machine bool) {
	if !a.up || a.paused > a.w.now {
		return
	}
	a.paused = a.w.now + d
	if machine {
		a.stood += d
	}
	life := a.life
	a.w.at(a.paused, func() {
		held := a.held
		a.held = nil
		for _, do := range held {
			if a.life == life {
				a.alive(do)
			}
		}
	})
}

func (a *agent) now() time.Time {
	return start.Add(time.Duration(float64(a.w.now)*(1+a.drift)) + a.offset)
}

// die ends the process at once; it starts again after a while.
func (a *agent) die(why string) {
	if !a.up {
		return
	}
	a.w.say("%s dies: %s", a.name, why)
	a.up, a.life, a.fuse, a.session = false, a.life+1, 0, nil
	a.paused, a.held, a.engine, a.reigns = 0, nil, nil, false
	a.w.after(time.Duration(1+a.rnd.IntN(20))*time.Second, a.boot)
}

func (a *agent) boot() {
	if a.up {
		return
	}
	a.up = true
	a.alive(a.begin)
}

// begin is the start of the process.
func (a *agent) begin() {
	var err error
	options := spool.Options{Now: a.now, Random: source{a.rnd}, MaxSize: 4 << 20}
	self := agenttalk.Self{
		Agent: fleet.AgentName(a.name), Rack: fleet.RackName(a.rack), Site: fleet.SiteName(a.site), Build: "sim", Boot: boot(a),
	}
	if a.partner != nil {
		options.Mirrored, self.Pair = journal.Mirrored, a.partner.name
	}
	if a.spool, err = spool.On(a.disk, options); err != nil {
		a.die(err.Error())
		return
	}
	a.side = agenttalk.New(self, a, outbox(a))
	a.stopped = map[string]bool{}
	a.older, a.patience, a.turn, a.failures, a.waking = 0, journal.Patience{}, 0, 0, time.Time{}
	a.w.say("%s starts", a.name)
	life := a.life
	err = a.view(func(tx *spool.Tx) error {
		a.revision = journal.Revision(tx)
		return nil
	})
	if err == nil {
		err = a.enter()
	}
	if err != nil {
		a.die(err.Error())
	}
	if a.life != life {
		return
	}
	a.chatter()
	a.dial()
}

// dial tries the next coordinator, as link does.
func (a *agent) dial() {
	order := agenttalk.Preferred(fleet.AgentName(a.name), a.w.coordinators)
	c := a.w.replica(order[a.turn%len(order)])
	a.turn++
	if !c.up || a.w.net.cut(a.name, c.name) {
		a.after(10*time.Second, a.again)
		return
	}
	a.after(time.Duration(5+a.rnd.IntN(50))*time.Millisecond, func() { newSession(a, c).greet() })
}

// again dials after a while.
func (a *agent) again() {
	a.failures++
	rounds := max(0, a.failures-1) / len(a.w.coordinators)
	a.after(agenttalk.Backoff(rounds, a.rnd.Float64()), a.dial)
}

func (a *agent) linked(s *session) {
	a.session, a.failures = s, 0
	a.w.say("%s is welcomed by %s", a.name, s.c.name)
	a.rule(core.Link{Connected: true, Since: a.now()})
	if a.up {
		a.decide(owner.Linked{Connected: true})
	}
}

func (a *agent) unlinked(s *session) {
	if a.session == s {
		a.session = nil
		life := a.life
		if a.rule(core.Link{Since: a.now()}); a.life == life {
			a.decide(owner.Linked{})
		}
		if a.life != life {
			return
		}
	}
	a.again()
}

func (a *agent) view(fn func(*spool.Tx) error) error { return a.spool.View(fn) }

// update keeps something, and sends what was appended.
func (a *agent) update(fn func(*spool.Tx)) error {
	err := a.spool.Update(func(tx *spool.Tx) error {
		fn(tx)
		return nil
	})
	if err == nil && a.session != nil {
		a.session.send()
	}
	if err == nil {
		a.replicate()
	}
	return err
}

// Have implements talk.Agent.
func (a *agent) Have() (revision uint64, scripts map[string]string) { return a.revision, nil }

// PolicyVersion implements talk.Agent; nobody signs in this world.
func (a *agent) PolicyVersion() uint64 { return 0 }

// CatalogueVersion implements talk.Agent; there is none in this world.
func (a *agent) CatalogueVersion() uint64 { return 0 }

// AuditSize implements talk.Agent.
func (a *agent) AuditSize() int64 { return 0 }

// Introduce implements talk.Agent.
func (a *agent) Introduce() error {
	return a.update(func(tx *spool.Tx) {
		for _, n := range a.nodes {
			tx.Append(a.now(), a.summary(n))
		}
	})
}

// Desired implements talk.Agent, in the order in which agent.Desired does it. Orders
// are not signed here; everything else that is decided about them is the journal's.
func (a *agent) Desired(_ context.Context, d *pb.Desired) error {
	told := d.GetRevision()
	if told < a.revision {
		a.older++
	} else {
		a.older = 0
	}
	if a.patience.Lags(a.revision, told) {
		return nil
	}
	full := a.spool.Full()
	err := a.update(func(tx *spool.Tx) {
		for _, r := range d.GetRuns() {
			if full != nil || !a.reigns || !journal.Fresh(tx, r) { // the owner begins it; we ask again when it is we
				continue
			}
			if ok, floor := journal.Admits(tx, journal.FloorOfRun, r.GetScript(), r.GetVersion(), ""); !ok {
				journal.Refuse(tx, a.now(), r, fmt.Errorf("version %d is not newer than version %d", r.GetVersion(), floor))
				continue
			}
			journal.Accept(tx, r)
		}
		if a.revision != told {
			journal.SetRevision(tx, told)
		}
		journal.Tidy(tx, a.now(), d.GetRuns())
	})
	if err != nil {
		return err
	}
	a.w.judge.kept(a, told)
	a.revision = told
	for _, r := range d.GetCanceled() {
		a.stopped[spool.Key(r.GetScript(), strconv.FormatUint(r.GetVersion(), 10))] = true
	}
	return nil
}

// acked is told to the judge: the agent may forget what is below next.
func (a *agent) acked(epoch, next uint64) { a.w.judge.acked(a, epoch, next) }

// committed is told of each transaction: the judge wants to know which records were
// written.
func (a *agent) committed(changes []change) {
	for _, c := range changes {
		if c.table != outboxTable || c.now == nil {
			continue
		}
		var r pb.Record
		if err := proto.Unmarshal(c.now, &r); err != nil {
			a.w.violate("%s has written a record that can't be read: %v", a.name, err)
			continue
		}
		a.w.judge.written(a, binary.BigEndian.Uint64([]byte(c.key[:8])), &r)
	}
}

// lose is another disk than before: a new one, or the old one as it was some
// transactions ago.
func (a *agent) lose(transactions int) {
	a.die("its disk is taken")
	a.copies++
	if transactions == 0 {
		a.disk.renew()
		a.w.say("%s has a new disk", a.name)
	} else {
		a.w.say("%s has its disk of %d transactions ago", a.name, a.disk.back(transactions))
	}
	a.w.judge.lost(a)
}

// text is a text that no other record has.
func (a *agent) text() string {
	a.texts++
	return fmt.Sprintf("%s%s/%s/%d", known, a.rack, a.name, a.texts)
}

// known begins the texts by which the judge knows a record.
const known = "known:"

func textOf(r *pb.Record) string {
	switch b := r.GetBody().(type) {
	case *pb.Record_Result:
		return b.Result.GetPath()
	case *pb.Record_Firing:
		if strings.HasPrefix(b.Firing.GetHeld(), known) {
			return b.Firing.GetHeld()
		}
	}
	return ""
}

// source makes random bytes of a generator.
type source struct{ rnd *rand.Rand }

func (s source) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s.rnd.Uint32())
	}
	return len(p), nil
}

func failed(text string, node fleet.NodeName, kind fault.Kind, why string) fleet.Result {
	return fleet.Result{Node: node, Step: text, Status: fleet.Failed, Kind: string(kind), Error: why}
}
