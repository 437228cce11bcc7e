package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	hubtalk "github.com/chiba-mesh/chiba/coordinator/hub/talk"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	patience      = 10 * time.Second // of a proposal, as raftnode's
	snapshotEvery = 200              // entries
	hashEvery     = 256
)

// group is Raft as the coordinators see it: one log of which a prefix is committed,
// a leader that may be another one between two events, proposals of which nobody
// knows whether they will be committed. It is a model; what the log is applied to is
// not.
type group struct {
	w        *World
	rnd      *rand.Rand
	replicas []*replica
	log      [][]byte // committed commands; the first has the index 1
	leader   *replica // nil: nobody
	term     int
	limbo    [][]byte // offered to a leader that is none any more
	latest   int64    // time of the last command
	last     time.Duration
	hashes   map[uint64]string // of the judge's state, by index

	snapshots bool // are made
}

// replica is one coordinator.
type replica struct {
	*group
	name    string
	up      bool
	life    int
	machine machine
	applied uint64 // index

	snapshot      []byte
	snapshotIndex uint64

	proposals int
	waiting   map[string]*proposal
	sessions  map[string]*session // greeted, by agent
	offset    time.Duration       // of its clock

	lent    map[string]hubtalk.Loan  // racks, by agent
	born    time.Duration            // of the process
	touched time.Duration            // when it last heard of a leader that has a majority
	heard   map[string]time.Duration // when another one was last heard of
}

// machine is the replicated state; a mutant may be around it.
type machine interface {
	Apply(index uint64, c *pb.Command) (state.Outcome, error)
	Snapshot() *pb.Snapshot
	Restore(s *pb.Snapshot) error
	Hash() (string, error)
	Overdue(now int64) []string
	Agents() []*pb.AgentInfo
	Runs() []*pb.Run
	Run(id string, from int) (*pb.Run, []*pb.Result, bool)
	LastVersion(name string) uint64

	Agent(name string) (*pb.AgentInfo, bool)
	Counts() state.Counts
	Policy() (envelope []byte, version uint64)
	Desired(rack string) *pb.Desired
	Owner(rack string) *pb.Owner
	Site(agent string) *pb.Site
}

// proposal is a command on its way into the log.
type proposal struct {
	command  *pb.Command
	deadline time.Duration
	offered  bool
	done     func(state.Outcome, error)
}

var (
	errNoLeader = fault.New(fault.Unavailable, "commit", "the coordinators have no leader")
	errUnsure   = fault.New(fault.Timeout, "commit", "the log did not answer in time")
)

func (r *replica) clock() time.Time { return start.Add(r.w.now + r.offset) }

// propose has c committed and applied here, as raftnode does: it asks whoever leads,
// again while the lead changes, with one id. done is called once, unless the process
// ends before.
func (r *replica) propose(c *pb.Command, done func(state.Outcome, error)) {
	r.proposals++
	c.Version, c.Id = state.Version, fmt.Sprintf("%s/%d/%d", r.name, r.life, r.proposals)
	p := &proposal{command: c, deadline: r.w.now + patience, done: done}
	r.waiting[c.GetId()] = p
	r.offer(p)
}

func (r *replica) offer(p *proposal) {
	if r.waiting[p.command.GetId()] != p {
		return // it was applied
	}
	if r.w.now >= p.deadline {
		delete(r.waiting, p.command.GetId())
		err := errUnsure
		if !p.offered {
			err = errNoLeader
		}
		p.done(state.Outcome{}, err)
		return
	}
	wait := time.Duration(10+r.rnd.IntN(190)) * time.Millisecond
	if leader := r.leader; leader != nil && r.reaches(leader) {
		p.offered = true
		wait = time.Second // by then it is applied, or the answer is lost
		r.w.after(r.hop(leader), func() { r.submit(leader, p.command) })
	}
	life := r.life
	r.w.after(wait, func() {
		if r.life == life {
			r.offer(p)
		}
	})
}

// hop is how long a message takes to another coordinator.
func (r *replica) hop(to *replica) time.Duration {
	if r == to {
		return 0
	}
	return time.Duration(1+r.rnd.IntN(10)) * time.Millisecond
}

func (r *replica) reaches(o *replica) bool {
	return r.up && o.up && (r == o || !r.w.net.cut(r.name, o.name))
}

// majority reports whether a replica reaches enough to commit.
func (g *group) majority(r *replica) bool {
	n := 0
	for _, o := range g.replicas {
		if r.reaches(o) {
			n++
		}
	}
	return n > len(g.replicas)/2
}

// submit gives c to leader, who has it committed if it still leads a majority when
// the others have it; if not, the next leader may have it in its log, or not.
func (g *group) submit(leader *replica, c *pb.Command) {
	if g.leader != leader || !leader.up {
		return // it refuses
	}
	c.AtUnixMs = max(leader.clock().UnixMilli(), g.latest)
	data := encode(c)
	term := g.term
	g.last = max(g.last+1, g.w.now+time.Duration(1+g.rnd.IntN(6))*time.Millisecond)
	g.w.at(g.last, func() {
		if g.term == term && g.majority(leader) {
			g.append(data)
			return
		}
		g.limbo = append(g.limbo, data)
	})
}

func (g *group) append(data []byte) {
	g.log = append(g.log, data)
	index := uint64(len(g.log))
	c := decode(data)
	g.latest = max(g.latest, c.GetAtUnixMs())
	g.w.judge.committed(index, c)
	for _, r := range g.replicas {
		if r == g.leader {
			r.catchUp()
			continue
		}
		life := r.life
		g.w.after(time.Duration(1+g.rnd.IntN(12))*time.Millisecond, func() {
			if r.life == life {
				r.catchUp()
			}
		})
	}
}

// elect makes another one the leader, if one reaches a majority.
func (g *group) elect() {
	g.term++
	g.leader = nil
	var able []*replica
	for _, r := range g.replicas {
		if r.up && g.majority(r) {
			able = append(able, r)
		}
	}
	if len(able) == 0 {
		return
	}
	g.leader = able[g.rnd.IntN(len(able))]
	g.w.say("%s leads in term %d", g.leader.name, g.term)
	limbo := g.limbo
	g.limbo = nil
	for _, data := range limbo {
		if g.rnd.IntN(2) == 0 {
			g.append(data)
		}
	}
	g.leader.catchUp()
}

// watch looks every half second whether the leader still leads, and has the leader
// end the runs that are overdue, as the product does.
func (g *group) watch() {
	if g.leader == nil || !g.leader.up || !g.majority(g.leader) {
		g.elect()
	}
	for _, r := range g.replicas {
		r.catchUp()
		if g.leader != nil && r.reaches(g.leader) && g.majority(g.leader) {
			r.touched = g.w.now
		}
		for _, o := range g.replicas {
			if r.reaches(o) {
				r.heard[o.name] = g.w.now
			}
		}
	}
	if l := g.leader; l != nil {
		for _, id := range l.machine.Overdue(l.clock().UnixMilli()) {
			l.propose(&pb.Command{Body: &pb.Command_CancelRun{CancelRun: &pb.CancelRun{Id: id}}}, func(state.Outcome, error) {})
		}
	}
	g.w.after(500*time.Millisecond, g.watch)
}

// catchUp applies what is committed, as far as it is heard of.
func (r *replica) catchUp() {
	for r.up && r.applied < uint64(len(r.log)) && r.leader != nil && r.reaches(r.leader) {
		r.applied++
		c := decode(r.log[r.applied-1])
		o, err := r.machine.Apply(r.applied, c)
		if err != nil {
			r.w.violate("coordinator %s can't apply command %d: %v", r.name, r.applied, err)
			return
		}
		r.compare()
		if r.snapshots && r.applied%snapshotEvery == 0 {
			r.snapshot, r.snapshotIndex = encode(r.machine.Snapshot()), r.applied
		}
		if o.Repeated {
			continue
		}
		r.tell(o)
		if p := r.waiting[c.GetId()]; p != nil {
			delete(r.waiting, c.GetId())
			p.done(o, nil)
		}
	}
}

// tell tells the agents of racks whose desired state or owner has changed.
func (r *replica) tell(o state.Outcome) {
	for _, rack := range o.Racks {
		for _, a := range r.w.racks[rack] {
			if s := r.sessions[a.name]; s != nil {
				s.hint()
			}
		}
	}
	for _, a := range r.w.racks[o.Owner.GetRack()] {
		if s := r.sessions[a.name]; s != nil {
			s.toAgent(&pb.FromCoordinator{Body: &pb.FromCoordinator_Leased{Leased: hubtalk.Leased(r.machine.Owner(o.Owner.GetRack()), 0, leaseTTL)}})
		}
	}
}

// compare is the invariant that replicas which have applied the same are the same.
func (r *replica) compare() {
	want, ok := r.hashes[r.applied]
	if !ok {
		return
	}
	if hash, err := r.machine.Hash(); err != nil || hash != want {
		r.w.violate("coordinator %s has another state than the log gives after command %d: %v", r.name, r.applied, err)
	}
}

// crash ends the process of a coordinator; nobody is told.
func (r *replica) crash() {
	if !r.up {
		return
	}
	r.w.say("%s is killed", r.name)
	r.up = false
	r.life++
	r.waiting, r.sessions = map[string]*proposal{}, map[string]*session{}
	if r.leader == r {
		r.leader = nil
		r.term++
	}
}

// boot starts it again from its last snapshot and the log after it.
func (r *replica) boot() {
	if r.up {
		return
	}
	r.up = true
	r.machine, r.applied = r.w.newMachine(), 0
	r.lent, r.born, r.heard = map[string]hubtalk.Loan{}, r.w.now, map[string]time.Duration{}
	for _, o := range r.replicas {
		r.heard[o.name] = r.w.now
	}
	if r.snapshot != nil {
		var s pb.Snapshot
		err := errors.Join(proto.Unmarshal(r.snapshot, &s), r.machine.Restore(&s))
		if err != nil {
			r.w.violate("coordinator %s can't restore its snapshot: %v", r.name, err)
		}
		r.applied = r.snapshotIndex
	}
	r.w.say("%s starts again at command %d", r.name, r.applied)
	r.catchUp()
}

func encode(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err) // it was decoded, or made here
	}
	return data
}

func decode(data []byte) *pb.Command {
	c := &pb.Command{}
	if err := proto.Unmarshal(data, c); err != nil {
		panic(err) // encode made it
	}
	return c
}
