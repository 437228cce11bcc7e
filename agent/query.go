package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/level"
)

// nodeTimeout bounds what a question may take on one node, so that a BMC that
// hangs has an error of its own while the others answer.
const nodeTimeout = 15 * time.Second

// dumpTimeout is longer: a dump reads everything a BMC has.
const dumpTimeout = 2 * time.Minute

// notWatched is why a rule does not watch a node that was chosen by what its BMC
// said: the rules go by what the mesh knows.
const notWatched = "a rule does not ask the BMC which nodes it watches, so this one is not watched"

// summaryRefs is what (show NODE) shows.
var summaryRefs = [...]string{
	"node.state", "power.state", "system.health", "system.manufacturer", "system.model", "system.serial", "cpu.temp", "bmc.version",
}

// query is one question, as it is answered.
type query struct {
	*Agent
	script string // the name under which it would be applied
	units  []unit
	plan   bool
	send   func(*pb.QueryEvent) error
	old    *scl.Program // what is in force under the script's name
	rules  *chooser     // selects as the rules do: by what the mesh knows

	mu     sync.Mutex
	failed map[fleet.NodeName]bool
}

// Query answers a question about this rack: what a script would change, or what a
// show, dump or refresh tells. Nothing of it is kept.
func (a *Agent) Query(ctx context.Context, q *pb.Query, send func(*pb.QueryEvent) error) *pb.QueryEvent_Done {
	name := cmp.Or(q.GetScript(), scriptName(q.GetFile())) // what apply would make of the file
	program, diags := programOf(q.GetFile(), q.GetSource(), name)
	if program == nil {
		return refused(fault.New(fault.BadInput, "read script", diags.String()))
	}
	x := &query{
		Agent: a, script: name, units: unitsOf(program), plan: q.GetPlan(), send: send, failed: make(map[fleet.NodeName]bool),
	}
	x.old = x.programs()[fleet.ScriptName(x.script)]
	x.rules = x.chooser(program)
	if err := errors.Join(x.allowed(program), x.looked(ctx)); err != nil {
		return refused(err)
	}
	chosen := x.chosen(ctx, program)
	if err := send(&pb.QueryEvent{Body: &pb.QueryEvent_Started_{Started: &pb.QueryEvent_Started{Nodes: int32(len(chosen))}}}); err != nil {
		return refused(err)
	}
	var group errgroup.Group
	group.SetLimit(a.atOnce())
	for n, units := range chosen {
		group.Go(func() error { return x.node(ctx, n, units) })
	}
	if err := group.Wait(); err != nil {
		return refused(err)
	}
	return &pb.QueryEvent_Done{Nodes: int32(len(chosen)), Failed: int32(len(x.failed))}
}

func refused(err error) *pb.QueryEvent_Done {
	kind, text, hint := wire.ToFault(err)
	return &pb.QueryEvent_Done{Kind: kind, Error: text, Hint: hint}
}

// allowed refuses to do anything that a question must not do.
func (x *query) allowed(p *scl.Program) error {
	if x.plan {
		return nil
	}
	writes := p.Standing()
	for _, s := range p.Steps {
		writes = writes || len(s.Action) > 0
	}
	if writes {
		return fault.New(fault.BadInput, "ask", "the script does more than show, dump and refresh").
			WithHint("chiba apply does what a script says, chiba plan tells what it would change")
	}
	return nil
}

func (x *query) chosen(ctx context.Context, p *scl.Program) map[*node][]unit {
	c := x.chooser(p)
	targets := make([]scl.Target, len(x.units))
	for i, u := range x.units {
		targets[i] = u.target
	}
	x.learn(ctx, c, targets, nodeTimeout)
	chosen := make(map[*node][]unit)
	for _, n := range x.rack.everybody() {
		for _, u := range x.units {
			if c.match(u.target, n) == scl.True {
				chosen[n] = append(chosen[n], u)
			}
		}
	}
	return chosen
}

// node answers for one node. The error is that nobody listens any longer.
func (x *query) node(ctx context.Context, n *node, units []unit) error {
	for _, u := range units {
		events, failed := x.unit(ctx, n, u)
		if failed {
			x.mu.Lock()
			x.failed[n.entry.Name] = true
			x.mu.Unlock()
		}
		for _, e := range events {
			wire.Fit(e)
			if err := x.send(e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *query) unit(ctx context.Context, n *node, u unit) (events []*pb.QueryEvent, failed bool) {
	patience := nodeTimeout
	if u.step != nil && u.step.Dump != nil {
		patience = dumpTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !x.plan {
		r := x.look(ctx, n, *u.step)
		return []*pb.QueryEvent{{Body: &pb.QueryEvent_Result{Result: wire.ToResult(r)}}}, !r.Status.OK()
	}
	var changes []fleet.Change
	switch {
	case u.rule != nil:
		changes = []fleet.Change{x.rule(n, u.rule)}
	case u.config != nil:
		changes = x.Agent.plan(ctx, n, u.config)
	case u.cmd != nil:
		changes = []fleet.Change{x.action(n, u)}
	}
	for _, c := range changes {
		failed = failed || c.Verdict == fleet.Unreadable || c.Verdict == fleet.Barred
		events = append(events, changeEvent(c))
	}
	return events, failed
}

func changeEvent(c fleet.Change) *pb.QueryEvent {
	return &pb.QueryEvent{Body: &pb.QueryEvent_Change{Change: wire.ToChange(c)}}
}

// action tells what a command will do, or that it will be refused.
func (x *query) action(n *node, u unit) fleet.Change {
	c := fleet.Change{Node: n.entry.Name, Path: "action", After: u.text, Verdict: fleet.Differs, Note: "will be done once"}
	if err := x.mayDo(n, *u.cmd); err != nil && x.takenSoon(n, x.judge(n)) {
		c.Note = waitsForTakeover
	} else if err != nil {
		c.Verdict, c.Note = fleet.Barred, err.Error()
	}
	return c
}

// rule tells whether a rule is new on a node.
func (x *query) rule(n *node, m *scl.Monitor) fleet.Change {
	c := fleet.Change{Node: n.entry.Name, Path: "rule " + m.Name, After: ruleText(m), Verdict: fleet.Differs, Note: "new"}
	if x.rules.match(m.Target, n) != scl.True {
		c.Verdict, c.Note = fleet.Unreadable, notWatched
		return c
	}
	if why := x.barred(n, m.Commands); why != "" {
		c.Note += "; held for now: " + why
	}
	if x.old == nil {
		return c
	}
	for i := range x.old.Monitors {
		have := &x.old.Monitors[i]
		if have.Name != m.Name {
			continue
		}
		c.Before, c.Note = ruleText(have), "replaces the one in force"
		if sameRule(*have, *m) {
			c.Verdict, c.Note = fleet.Same, "in force"
		}
	}
	return c
}

func ruleText(m *scl.Monitor) string {
	return "when " + m.Condition.Text + " do " + strings.TrimSpace(strings.ReplaceAll(texts(m.Commands), "\n", " "))
}

func sameRule(a, b scl.Monitor) bool {
	return a.Condition.Text == b.Condition.Text && a.Target.Text == b.Target.Text && a.Options == b.Options && texts(a.Commands) == texts(b.Commands)
}

func texts(commands []scl.Command) string {
	var b strings.Builder
	for _, c := range commands {
		b.WriteString(c.Text + "\n")
	}
	return b.String()
}

// scriptName is the name that a file's script has unless somebody gave another.
func scriptName(file string) string {
	if i := strings.LastIndexAny(file, `/\`); i >= 0 {
		file = file[i+1:]
	}
	return strings.TrimSuffix(file, ".scl")
}

// look does a step that only reads.
func (a *Agent) look(ctx context.Context, n *node, s scl.Step) fleet.Result {
	begun := a.now()
	r := a.see(ctx, n, s)
	r.Node, r.Step, r.Attempts = n.entry.Name, s.Text, 1
	r.Started, r.Took = begun, a.now().Sub(begun)
	return r
}

func (a *Agent) see(ctx context.Context, n *node, s scl.Step) fleet.Result {
	switch {
	case s.Show != nil:
		refs := s.Show.Refs
		if len(refs) == 0 {
			refs = summary()
		}
		readings, err := a.read(ctx, n, bmc.Person, refs)
		r := fleet.Result{Readings: readings, Status: fleet.Confirmed}
		if err != nil {
			return failed(r, err)
		}
		return r
	case s.Dump != nil && s.Dump.Format == scl.InventoryFormat:
		return a.inventory(ctx, n)
	case s.Dump != nil && s.Dump.Format == scl.TrustFormat:
		return a.explain(n)
	case s.Dump != nil:
		return a.dump(ctx, n, s.Dump.Format)
	default:
		l, err := n.way()
		if err == nil {
			err = a.mayLook(n)
		}
		if err != nil {
			return failure(err)
		}
		now := a.refresh(ctx, n, l)
		if now.State != fleet.Ready {
			return failure(fault.New(fault.Unavailable, "refresh", now.Reason))
		}
		return fleet.Result{Status: fleet.Confirmed}
	}
}

func summary() []scl.Ref {
	var refs []scl.Ref
	for _, name := range summaryRefs {
		if e, param, ok := scl.Lookup(name); ok {
			refs = append(refs, scl.Ref{Text: name, Element: e, Param: param})
		}
	}
	return refs
}

// dump is everything a BMC says. What is longer than a result may be is refused:
// half a document is no document.
func (a *Agent) dump(ctx context.Context, n *node, format string) fleet.Result {
	l, err := a.way(n, level.Look)
	if err != nil {
		return failure(err)
	}
	tree, err := l.Dump(ctx)
	if err != nil {
		return failure(err)
	}
	write := (*redfish.Tree).JSON
	if format == "xml" {
		write = (*redfish.Tree).XML
	}
	var body bytes.Buffer
	if err := write(tree, io.Writer(&body)); err != nil {
		return failure(err)
	}
	if body.Len() > fleet.MaxBody {
		return failure(fault.New(fault.TooLarge, "dump", fmt.Sprintf("it has %d bytes, the limit is %d", body.Len(), fleet.MaxBody)).
			WithHint("show what you need: chiba show NODE ELEMENT"))
	}
	return fleet.Result{Status: fleet.Confirmed, Body: body.Bytes()}
}
