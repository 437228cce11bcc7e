package agent

import (
	"context"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/level"
)

const (
	refreshEvery   = time.Minute
	refreshSoon    = 5 * time.Second // of a node that is not ready; its lane's breaker asks the BMC less often
	summaryTimeout = 15 * time.Second
	goodbye        = 5 * time.Second // to delete a session
)

// node is one server of the rack: its entry in the catalogue, its lane once its
// BMC is found, and what was last seen of it. It is safe for concurrent use.
type node struct {
	entry Entry
	poked chan struct{} // a token: refresh the summary by what a command has seen
	// taking holds a token if the take-over is to be looked at now.
	taking chan struct{}
	ledger *ledger
	// turned holds a token: there is another lane, or rules need something else.
	turned chan struct{}
	swept  bool // of hear's goroutine: no subscription of an earlier life is left
	// inherited: another agent has worked on it before this reign, of whom we may not
	// know everything. It changes between reigns.
	inherited bool

	opened   chan struct{} // a token: somebody may have changed the hardware or its firmware
	surveyed chan struct{} // holds a token while an inventory is taken

	end context.CancelFunc // ends the work on a member; nil before it has begun

	judging    sync.Mutex // serialises verdicts
	mu         sync.Mutex
	noticed    noticed
	admission  admission
	serialSaid string                        // that a stranger announces
	shown      discovery.Candidate           // what a stranger has shown, of find's goroutine
	hardware   struct{ address, mac string } // the hardware address at an address
	barred     bool                          // nothing is to be listened to
	judged     string                        // the level of the last verdict of this process
	lane       lane                          // nil until the BMC is found
	address    string                        // of the lane
	found      string                        // where its key has answered last
	toFence    bool                          // the other agent of the rack is to be shut out first
	need       attention
	summary    fleet.Node
	stuck      error // why the take-over could not go on, and since when
	stuckAt    time.Time
}

func newNode(e Entry, rack fleet.RackName, site fleet.SiteName) *node {
	n := &node{
		barred: true, entry: e, poked: make(chan struct{}, 1), taking: make(chan struct{}, 1), turned: make(chan struct{}, 1),
		opened: make(chan struct{}, 1), surveyed: make(chan struct{}, 1),
	}
	n.anew(rack, site)
	return n
}

// anew forgets what was seen of the BMC: it is another one, or was never seen.
func (n *node) anew(rack fleet.RackName, site fleet.SiteName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noticed = noticed{}
	n.summary = fleet.Node{
		Trust: fleet.BMCTrust{Level: n.summary.Trust.Level, Since: n.summary.Trust.Since}, Admission: n.summary.Admission,
		Name: n.entry.Name, Rack: rack, Site: site, Serial: n.entry.Serial, Labels: maps.Clone(n.entry.Labels),
		State: fleet.Unreachable, Reason: "its BMC was not found yet: nothing answers with its key",
	}
}

// seen is the summary as it is now. Its labels must not be changed.
func (n *node) seen() fleet.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.summary
}

// way is the lane to the BMC, or why there is none.
func (n *node) way() (lane, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lane == nil {
		kind := fault.Unavailable
		if n.summary.State == fleet.Untrusted {
			kind = fault.Untrusted
		}
		e := fault.New(kind, "reach BMC", n.summary.Reason)
		e.Node = n.entry.Name
		return nil, e.WithHint("see what was found: chiba get nodes")
	}
	return n.lane, nil
}

// answers reports whether the last exchange of the lane, whoever had it, went well.
// It asks the BMC nothing.
func (n *node) answers() bool {
	l, err := n.way()
	if err != nil {
		return false
	}
	state, _ := l.State()
	return state == fleet.Ready
}

// poke asks for a refresh of the summary, soon.
func (n *node) poke() {
	select {
	case n.poked <- struct{}{}:
	default:
	}
}

// lookAtTakeover asks for a look at the take-over, soon.
func (n *node) lookAtTakeover() {
	select {
	case n.taking <- struct{}{}:
	default:
	}
}

// set replaces the lane, and returns the one before.
func (n *node) set(l lane, address, found string) (before lane) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before = n.lane
	n.lane, n.address = l, address
	n.summary.Address, n.summary.Found = address, found
	n.turn()
	return before
}

// stuckOn notes why the take-over can't go on; nil: it does.
func (n *node) stuckOn(now time.Time, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stuck, n.stuckAt = err, now
}

// stuckSince is why the take-over could not go on, noted after a time; nil if it
// could.
func (n *node) stuckSince(begun time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stuckAt.Before(begun) {
		return nil
	}
	return n.stuck
}

// leave takes the lane away and returns it; nil if there was none.
func (n *node) leave() (before lane) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before = n.lane
	n.lane, n.address = nil, ""
	n.turn()
	return before
}

// attend keeps what the rules need of the BMC.
func (n *node) attend(need attention) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.need = need
	n.turn()
}

func (n *node) turn() {
	select {
	case n.turned <- struct{}{}:
	default:
	}
}

// watched is the lane, nil if there is none or it may not be listened to, and what
// the rules need of it.
func (n *node) watched() (lane, attention) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.barred {
		return nil, n.need
	}
	return n.lane, n.need
}

// acceptedAt notes that a person took the key for this BMC's.
func (n *node) acceptedAt(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noticed.accepted = now
}

// refuse notes why there is no lane, if there is none. It reports a change.
func (n *node) refuse(now time.Time, state fleet.NodeState, reason string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lane != nil {
		return false
	}
	if state == fleet.Untrusted {
		n.noticed.key = level.Fact[level.Key]{Is: level.KeyChanged, At: now, From: byHandshake}
	}
	if n.summary.State == state && n.summary.Reason == reason {
		return false
	}
	n.summary.State, n.summary.Reason = state, reason
	return true
}

// tend keeps the summary of a node fresh until ctx ends.
func (a *Agent) tend(ctx context.Context, n *node) error {
	soon := time.NewTicker(refreshSoon)
	defer soon.Stop()
	for last := a.now(); ; {
		look := lane.Summary
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-soon.C:
			if n.seen().State == fleet.Ready && n.answers() && a.now().Sub(last) < refreshEvery {
				continue
			}
		case <-n.poked:
			look = lane.Glance
		}
		if l, err := n.way(); err == nil {
			a.refreshBy(ctx, n, l, look)
		}
		last = a.now()
	}
}

// refresh reads the summary through the lane, and reports it if it has changed.
func (a *Agent) refresh(ctx context.Context, n *node, l lane) fleet.Node {
	return a.refreshBy(ctx, n, l, lane.Summary)
}

func (a *Agent) refreshBy(ctx context.Context, n *node, l lane, look func(lane, context.Context) (fleet.Node, error)) fleet.Node {
	if a.mayLook(n) != nil {
		return a.settle(n)
	}
	reading, cancel := context.WithTimeout(ctx, summaryTimeout)
	defer cancel()
	s, err := look(l, reading)
	if ctx.Err() != nil {
		return n.seen()
	}
	n.mu.Lock()
	if n.lane == l {
		before := n.summary
		n.summary = n.merge(s, err)
		n.notice(a.now(), s, err)
		n.suspect(before)
		if before.State != fleet.Ready && n.summary.State == fleet.Ready {
			n.lookAtTakeover() // it may be back with another clock, or as it left the factory
		}
	}
	n.mu.Unlock()
	a.contacted(n)
	return a.settle(n)
}

// suspect asks for a survey if the server may have been opened since it was seen
// as before: it was switched on, or it is another one.
func (n *node) suspect(before fleet.Node) {
	on := before.Power != "" && before.Power != "on" && n.summary.Power == "on"
	other := before.BMC != "" && before.BMC != n.summary.BMC
	if on || other {
		n.askSurvey()
	}
}

// askSurvey has the inventory taken before long: it may be another one now.
func (n *node) askSurvey() {
	select {
	case n.opened <- struct{}{}:
	default:
	}
}

// merge is s with what the BMC does not know. A BMC that did not answer keeps the
// facts it told before: only its state is news.
func (n *node) merge(s fleet.Node, err error) fleet.Node {
	old := n.summary
	if err != nil {
		old.State, old.Reason = s.State, s.Reason
		if old.State == fleet.Ready || old.State == "" {
			old.State, old.Reason = fleet.Unreachable, err.Error()
		}
		return old
	}
	s.Name, s.Rack, s.Site, s.Labels = old.Name, old.Rack, old.Site, old.Labels
	s.Address, s.Found = old.Address, old.Found
	s.Firmware, s.BIOS, s.Trust, s.Admission = old.Firmware, old.BIOS, old.Trust, old.Admission
	if s.Serial == "" {
		s.Serial = n.entry.Serial
	}
	return s
}

// report records a summary that differs from the one recorded before, and apart
// from it another level, with the digest of the facts behind it. It tells the
// rules, whose targets may select other nodes now.
func (a *Agent) report(s fleet.Node, facts string) {
	if !a.office.reigns() {
		return // the owner tells
	}
	msg := wire.ToNode(s)
	old, news := &pb.Node{}, false
	err := a.spool.View(func(tx *spool.Tx) (err error) {
		news, err = differs(tx, msg, old)
		return err
	})
	if err == nil && news && a.spool.Tight() && old.GetTrust().GetLevel() == s.Trust.Level {
		a.retarget()
		return // what has filled it goes first; the next look tells how the node is then
	}
	if err == nil && news {
		err = a.spool.UpdateSoon(func(tx *spool.Tx) error {
			tx.PutMessage(spool.Nodes, string(s.Name), msg)
			tx.Append(a.now(), &pb.Record{Body: &pb.Record_Node{Node: msg}})
			if from := old.GetTrust().GetLevel(); from != s.Trust.Level && !strange(s, old) {
				tx.Append(a.now(), &pb.Record{Body: &pb.Record_Trust{Trust: &pb.TrustChange{
					Node: msg.GetName(), From: from, To: msg.GetTrust().GetLevel(), Why: msg.GetTrust().GetWhy(), Facts: facts,
				}}})
			}
			return nil
		})
		a.retarget()
	}
	if err != nil {
		a.complain("report node", err)
	}
}

// strange reports whether a node is none of the fleet, and was none. What anybody on
// the network can cause does not go into the audit log, which is for ever: that a
// stranger is there is told among the nodes, and who lets it in, or keeps it out, by
// the order.
func strange(s fleet.Node, old *pb.Node) bool {
	return s.Outside() && (old.GetName() == "" || wire.FromNode(old).Outside())
}

// Introduce records every node's summary again.
func (a *Agent) Introduce() error {
	if !a.office.reigns() {
		return nil
	}
	return a.spool.Update(func(tx *spool.Tx) error {
		for name, raw := range tx.All(spool.Nodes, "") {
			msg := &pb.Node{}
			if err := proto.Unmarshal(raw, msg); err != nil {
				return fault.Wrap(fault.Garbage, "read the summary of "+name, err)
			}
			tx.Append(a.now(), &pb.Record{Body: &pb.Record_Node{Node: msg}})
		}
		return nil
	})
}

// differs compares a summary with the one recorded before, which it reads into old.
// The passing of time is no news.
func differs(tx *spool.Tx, msg, old *pb.Node) (bool, error) {
	if raw := tx.Get(spool.Nodes, msg.GetName()); raw != nil {
		if err := proto.Unmarshal(raw, old); err != nil {
			return false, err
		}
	}
	old.SeenUnixMs = msg.GetSeenUnixMs()
	if old.GetTrust() != nil && msg.GetTrust() != nil {
		old.Trust.AtUnixMs = msg.GetTrust().GetAtUnixMs()
	}
	return !proto.Equal(old, msg), nil
}

// forgetNodes tells the coordinators of nodes that have left the catalogue. A stranger
// may have been met already, and stays.
func (a *Agent) forgetNodes() error {
	return a.spool.Update(func(tx *spool.Tx) error {
		var gone []string
		for name := range tx.All(spool.Nodes, "") {
			if !a.rack.taken(fleet.NodeName(name), "") {
				gone = append(gone, name)
			}
		}
		for _, name := range gone {
			tx.Delete(spool.Nodes, name)
			tx.Delete(spool.Inventories, name)
			tx.Append(a.now(), &pb.Record{Body: &pb.Record_Gone{Gone: &pb.NodeGone{Node: name, Reason: "it is no longer in the catalogue of the rack"}}})
		}
		return nil
	})
}

// read reads elements of a node: what the mesh itself knows from the summary, the
// rest through the lane in one go. The readings have the order of refs. The error
// is why the BMC could not be asked.
func (a *Agent) read(ctx context.Context, n *node, prio bmc.Priority, refs []scl.Ref) ([]fleet.Reading, error) {
	summary := a.view(n)
	out := make([]fleet.Reading, len(refs))
	var ask []scl.Ref
	var at []int
	for i, ref := range refs {
		if ref.Element.OfMesh() {
			v := ref.Of(summary)
			out[i] = fleet.Reading{Node: summary.Name, Ref: ref.Text, Value: v, At: a.now()}
			continue
		}
		ask, at = append(ask, ref), append(at, i)
	}
	if len(ask) == 0 {
		return out, nil
	}
	got, err := a.ask(ctx, n, prio, ask)
	for j, i := range at {
		if j < len(got) {
			out[i] = got[j]
			continue
		}
		out[i] = fleet.Reading{Node: summary.Name, Ref: refs[i].Text, Value: fleet.NoValue(why(err)), At: a.now()}
	}
	return out, err
}

func (a *Agent) ask(ctx context.Context, n *node, prio bmc.Priority, refs []scl.Ref) ([]fleet.Reading, error) {
	l, err := a.way(n, level.Look)
	if err != nil {
		return nil, err
	}
	return l.Read(ctx, prio, refs)
}

func why(err error) string {
	if err == nil {
		return "not read"
	}
	return err.Error()
}
