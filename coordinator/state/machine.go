// Package state is what the coordinators agree on: scripts, runs and their
// results, nodes, agents and firings. It is pure: a Machine is a function of
// the commands that were applied to it, in their order, and of nothing else.
//
// Messages that a Machine has taken in or given out are shared, and nobody
// changes them any more: a change replaces the message. So reads, snapshots and
// watchers need no deep copies. The lists it gives out are the caller's own.
package state

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Version is the version of the commands and snapshots that this package reads.
const Version = 1

// What one cluster keeps. The limits are part of command version 1: two
// coordinators with different ones would disagree.
const (
	MaxSource       = 4 << 20   // bytes of a script
	MaxScripts      = 10_000    // standing
	MaxEndedScripts = 10_000    // whose end is told to agents; that of the oldest order is let go first
	MaxSourceBytes  = 512 << 20 // of all standing scripts
	MaxOpenRuns     = 1_000     // not ended
	MaxEndedRuns    = 1_000     // the oldest goes first
	MaxResults      = 100_000   // of one run; later ones only count
	MaxRunBytes     = 32 << 20  // of one run's results; later ones lose what they read
	MaxResultBytes  = 512 << 20 // of all runs, sources counted; the oldest ended runs go first, then as above
	MaxFirings      = 10_000    // the oldest goes first
	MaxFiringBytes  = 64 << 20  // of all firings; the oldest goes first
	MaxNews         = 10_000    // of hardware; the oldest goes first
	MaxNewsBytes    = 32 << 20  // of all of them; the oldest goes first
	MaxNodesPerRack = 4_096
	MaxFoundPerRack = 256    // BMCs that are none of the fleet
	MaxDenied       = 10_000 // subjects denied; as many that were once
	MaxEnrolled     = 20_000 // agents
	MaxTokens       = 1_000  // for joining, used ones too until they end
	MaxPending      = 32     // machines that wait to be approved
	MaxArtifacts    = 1_000
	maxCatalogue    = 16 << 20 // bytes of a catalogue with its parts
	maxReason       = 1 << 10  // bytes
	maxEnvelope     = 64 << 10 // bytes
	maxName         = 253      // bytes of a name, as in DNS
	maxNode         = 16 << 10 // bytes of a node's summary
	maxRecent       = 4_096    // ids of commands that are remembered
	maxFiring       = 64 << 10 // bytes of a firing; a bigger one loses what it read and did
	maxNews         = 64 << 10 // bytes of one news; a bigger one loses its list
)

// Machine is the replicated state. The zero value is not ready: use New. All
// methods are safe for concurrent use.
type Machine struct {
	mu     sync.RWMutex
	broken error  // the command that stopped it
	index  uint64 // of the last command; 0 after New and Restore
	at     int64  // the latest time of a command that did something, in milliseconds

	revision uint64 // of the desired state: scripts, runs to do
	nextRun  uint64
	events   uint64 // how many there were

	agents  map[string]*pb.AgentInfo
	owners  map[string]*pb.Owner // by rack
	scripts map[string]*pb.Script
	over    map[string]*pb.Ended  // scripts that stood, by the order that ended them
	local   map[string]*pb.Script // decisions on racks, see localKey
	nodes   map[string]*pb.Node
	perRack map[string]int      // nodes
	found   map[string]*pb.Node // BMCs that are none of the fleet, by RACK/NAME
	claims  claims              // of both
	policy  *pb.PutPolicy       // of authors; nil: none was set
	audit   *journal

	sourceBytes int               // of all scripts
	serving     map[string]string // the agent of each rack

	runs     []*run // by number
	runBytes int    // of all sources and results

	denied  map[string]*pb.Denial // by subject
	allowed map[string]*pb.Denial // that were denied once: an agent that was cut off may tell of it again

	tokens   map[string]*pb.JoinToken   // by id
	enrolled map[string]*pb.Enrolment   // by agent
	pending  map[string]*pb.PendingJoin // by key

	book      *Book                        // the site catalogue; nil: there is none
	siteKeys  map[string][]*pb.SiteKeyring // by site, newest first
	artifacts map[string]*pb.Artifact      // by digest

	firings     []*pb.Firing // oldest first
	firingBytes int

	news      []*pb.HardwareNews // oldest first
	newsBytes int

	sessions map[string]*session // who has proposed what was applied, by name
	recent   []string            // ids of the last commands of an earlier log, oldest first
	applied  map[string]bool     // the same
}

// run is a run with what came of it. Only results and rolled change in place.
type run struct {
	msg     *pb.Run
	results []*pb.Result
	bytes   int     // of its source and its results
	rolled  *rolled // nil: it is not done in waves
	// places are the numbers of the racks in msg: there may be thousands, and each
	// result and each pull asks for one. They never change.
	places map[string]int
}

func newRun(msg *pb.Run) *run {
	r := &run{msg: msg, bytes: len(msg.GetSource()) + len(msg.GetEnvelope()), places: make(map[string]int, len(msg.GetRacks()))}
	for i, part := range msg.GetRacks() {
		if _, twice := r.places[part.GetRack()]; !twice {
			r.places[part.GetRack()] = i
		}
	}
	return r
}

// part is a rack's part in the run, and its number; nil if it has none.
func (r *run) part(rack string) (part *pb.RackRun, i int) {
	if i, ok := r.places[rack]; ok {
		return r.msg.GetRacks()[i], i
	}
	return nil, 0
}

// New is the empty state.
func New() *Machine {
	return &Machine{
		agents:  map[string]*pb.AgentInfo{},
		owners:  map[string]*pb.Owner{},
		scripts: map[string]*pb.Script{},
		over:    map[string]*pb.Ended{},
		local:   map[string]*pb.Script{},
		audit:   newJournal(),
		nodes:   map[string]*pb.Node{},
		perRack: map[string]int{},
		serving: map[string]string{},
		found:   map[string]*pb.Node{},
		claims:  newClaims(),
		denied:  map[string]*pb.Denial{},
		allowed: map[string]*pb.Denial{},
		tokens:  map[string]*pb.JoinToken{}, enrolled: map[string]*pb.Enrolment{}, pending: map[string]*pb.PendingJoin{},
		siteKeys: map[string][]*pb.SiteKeyring{}, artifacts: map[string]*pb.Artifact{},
		nextRun: 1,
		applied: map[string]bool{}, sessions: map[string]*session{},
	}
}

// Outcome is what one command did.
type Outcome struct {
	// Err says why the command was refused, with a fault.Kind; the state is then
	// as before.
	Err error
	// Repeated is a command that was applied before, by its id. Nothing was done
	// this time; what was done is told by the first outcome.
	Repeated bool
	// Again is an order that was carried out before, by its envelope: whoever sent
	// it had lost the answer. Nothing was done this time; Run and Script are what
	// came of it.
	Again bool

	Run    *pb.Run    // started or canceled
	Script *pb.Script // as kept
	Denial *pb.Denial // as kept, or ended
	Denied bool       // the deny list has changed
	Owner  *pb.Owner  // of a rack, that has changed

	Catalogue *pb.Catalogue   // as kept
	Artifact  *pb.Artifact    // as kept, or removed
	Token     *pb.JoinToken   // as kept, or revoked
	Pending   *pb.PendingJoin // asked for, or judged
	Enrolment *pb.Enrolment   // as it is now; it may be locked
	fresh     bool            // it was enrolled or locked by this command

	Revision uint64 // of the desired state, after the command

	NextWanted uint64            // of the agent's spool, after RecordResults and PutAgent
	Dropped    []Dropped         // records that count as recorded but were not kept
	became     map[uint64]string // of decisions on racks, by the record
	firstTaken uint64            // the first record of RecordResults that was not known yet

	Racks  []string    // whose desired state changed, sorted
	Runs   []string    // ids of the runs that changed or have new results, in order
	Events []*pb.Event // for watchers
}

// Dropped is a record that made no sense here, and why.
type Dropped struct {
	Seq    uint64
	Reason string
}

// Apply applies the command with the log index. An error means that this
// version can't know what the command does: the state is then unchanged, every
// later Apply returns the same error, and the process must stop, because
// skipping a command would make it disagree with the others.
func (m *Machine) Apply(index uint64, c *pb.Command) (Outcome, error) {
	all, err := m.ApplyAll(index, []*pb.Command{c})
	if err != nil {
		return Outcome{}, err
	}
	return all[0], nil
}

// ApplyAll applies the commands of the entry with the log index, in order, as Apply
// does: each has an outcome of its own, and one that is refused changes nothing for
// the others. After an error the process must stop, as above.
func (m *Machine) ApplyAll(index uint64, list []*pb.Command) ([]Outcome, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		m.broken = m.readable(index, list)
	}
	if m.broken != nil {
		return nil, m.broken
	}
	m.index = index
	all := make([]Outcome, len(list))
	for i, c := range list {
		if all[i], m.broken = m.apply(c); m.broken != nil {
			return nil, m.broken
		}
	}
	return all, nil
}

func (m *Machine) apply(c *pb.Command) (Outcome, error) {
	if !m.fresh(m.index, c) {
		return Outcome{Repeated: true, Revision: m.revision}, nil
	}
	before := m.agents[c.GetPutAgent().GetAgent().GetName()]
	o := m.dispatch(c)
	if o.Err == nil && !o.Again {
		m.at = max(m.at, c.GetAtUnixMs())
		if err := m.audit.note(c, o, before); err != nil {
			return Outcome{}, err
		}
	}
	slices.Sort(o.Racks)
	o.Racks = slices.Compact(o.Racks)
	o.Revision = m.revision
	m.events += uint64(len(o.Events))
	for _, e := range o.Events {
		e.AtUnixMs = c.GetAtUnixMs()
	}
	return o, nil
}

// remember keeps the id of a command.
func (m *Machine) remember(id string) {
	if id == "" {
		return
	}
	if len(m.recent) == maxRecent {
		delete(m.applied, m.recent[0])
		m.recent = m.recent[1:]
	}
	m.recent = append(m.recent, id)
	m.applied[id] = true
}

// readable says whether this version can apply the commands of an entry.
func (m *Machine) readable(index uint64, list []*pb.Command) error {
	if index <= m.index {
		return fmt.Errorf("apply command %d: it comes after command %d", index, m.index)
	}
	for _, c := range list {
		if err := known(index, c); err != nil {
			return err
		}
	}
	return nil
}

// known says whether this version knows what c does.
func known(index uint64, c *pb.Command) error {
	switch {
	case c.GetVersion() != Version:
		return unreadable(index, fmt.Sprintf("its version is %d, this coordinator reads %d", c.GetVersion(), Version))
	case c.GetBody() == nil || c.GetBatch() != nil:
		return unreadable(index, "its type is not known to this version")
	}
	for _, r := range c.GetRecordResults().GetRecords() {
		if r.GetBody() == nil {
			return unreadable(index, fmt.Sprintf("the type of record %d is not known to this version", r.GetSeq()))
		}
	}
	return nil
}

func unreadable(index uint64, why string) error {
	e := fault.New(fault.Unsupported, fmt.Sprintf("apply command %d", index), why)
	return e.WithHint("start the chiba version that the other coordinators run; nothing was lost")
}

func (m *Machine) dispatch(c *pb.Command) Outcome {
	at := c.GetAtUnixMs()
	switch b := c.GetBody().(type) {
	case *pb.Command_PutScript:
		return m.applyScript(at, b.PutScript.GetScript(), nil)
	case *pb.Command_StartRun:
		return m.applyScript(at, nil, b.StartRun.GetRun())
	case *pb.Command_ApplyScript:
		return m.applyScript(at, b.ApplyScript.GetScript(), b.ApplyScript.GetRun())
	case *pb.Command_RemoveScript:
		return m.removeScript(b.RemoveScript)
	case *pb.Command_CancelRun:
		return m.cancelRun(at, b.CancelRun)
	case *pb.Command_SteerRun:
		return m.steerRun(at, c.GetBy(), b.SteerRun)
	case *pb.Command_PutPolicy:
		return m.putPolicy(b.PutPolicy)
	case *pb.Command_RecordResults:
		return m.record(at, b.RecordResults)
	case *pb.Command_PutAgent:
		return m.putAgent(at, b.PutAgent.GetAgent())
	case *pb.Command_Deny:
		return m.deny(at, b.Deny.GetDenials())
	case *pb.Command_Allow:
		return m.allow(at, b.Allow)
	case *pb.Command_PutSiteKey:
		return m.putSiteKey(at, b.PutSiteKey.GetKey())
	case *pb.Command_PutArtifact:
		return m.putArtifact(at, b.PutArtifact.GetArtifact())
	case *pb.Command_RemoveArtifact:
		return m.removeArtifact(b.RemoveArtifact.GetDigest())
	case *pb.Command_HoldArtifact:
		return m.holdArtifact(b.HoldArtifact)
	case *pb.Command_PutCatalogue:
		return m.putCatalogue(at, b.PutCatalogue)
	case *pb.Command_OwnRack:
		return m.ownRack(at, b.OwnRack)
	case *pb.Command_Mark:
		return Outcome{}
	default:
		return m.join(c)
	}
}

func refused(k fault.Kind, op, why string) Outcome {
	return Outcome{Err: fault.New(k, op, why)}
}

// putAgent keeps what an agent says of itself.
func (m *Machine) putAgent(at int64, a *pb.AgentInfo) Outcome {
	const op = "register agent"
	if err := errors.Join(nameOK("agent", a.GetName()), nameOK("rack", a.GetRack()), siteAddrOK(a)); err != nil {
		return refused(fault.BadInput, op, err.Error())
	}
	known := m.agents[a.GetName()]
	if known != nil && known.GetRack() != a.GetRack() {
		return Outcome{Err: fault.New(fault.Conflict, op, fmt.Sprintf("agent %s serves rack %s, not %s", a.GetName(), known.GetRack(), a.GetRack())).
			WithHint("enrol the machine under a new agent name")}
	}
	if other := m.serving[a.GetRack()]; other != "" && other != a.GetName() {
		if err := m.mayServe(a); err != nil {
			return Outcome{Err: err}
		}
	}
	m.serving[a.GetRack()] = a.GetName()
	fresh := shallow(a)
	if known != nil {
		fresh.SpoolEpoch, fresh.NextSeq = cursor(known, a)
	}
	m.agents[a.GetName()] = fresh
	t := take{m: m, at: at, agent: fresh}
	t.out.Racks = m.moved(known, fresh)
	t.out.Owner = m.inherit(at, fresh)
	if known != nil && fresh.GetSpoolEpoch() > known.GetSpoolEpoch() && m.owners[a.GetRack()].GetAgent() == a.GetName() {
		t.lost()
	}
	t.out.NextWanted = fresh.GetNextSeq()
	return t.out
}

// cursor is where the spool goes on. A newer epoch starts where it says. In the
// known epoch an agent that has had more acknowledged than we know has thrown
// that away: going back for it would wait for ever.
func cursor(known, said *pb.AgentInfo) (epoch, next uint64) {
	switch {
	case said.GetSpoolEpoch() > known.GetSpoolEpoch():
		return said.GetSpoolEpoch(), said.GetNextSeq()
	case said.GetSpoolEpoch() == known.GetSpoolEpoch():
		return known.GetSpoolEpoch(), max(known.GetNextSeq(), said.GetNextSeq())
	default:
		return known.GetSpoolEpoch(), known.GetNextSeq()
	}
}

func nameOK(what, name string) error {
	if name == "" {
		return fmt.Errorf("the %s has no name", what)
	}
	if len(name) > maxName {
		return fmt.Errorf("the name of the %s is longer than %d bytes", what, maxName)
	}
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("the name of the %s has a character that can't be printed: %q", what, name)
	}
	return nil
}

// racks are the racks of all agents, sorted.
func (m *Machine) racks() []string {
	racks := make([]string, 0, len(m.agents))
	for _, a := range m.agents {
		racks = append(racks, a.GetRack())
	}
	slices.Sort(racks)
	return slices.Compact(racks)
}

// shallow is a copy of a message that shares what its fields point to.
func shallow[M proto.Message](m M) M {
	from := m.ProtoReflect()
	to := from.New()
	for fd, v := range from.Range {
		to.Set(fd, v)
	}
	return to.Interface().(M)
}
