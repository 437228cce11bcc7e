package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/agent/intent"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

const (
	// refusedIntent is what a Refused says of what another rack asks.
	refusedIntent = "intent"
	// answerWithin is how long one who asks waits for the result.
	answerWithin = 3 * time.Second
	askedAtOnce  = 16 // intents that are carried out at once; the others wait on disk
)

// asked is what other racks want done here. What it is, the spool says.
type asked struct {
	mu     sync.Mutex // serialises what is taken
	wake   chan struct{}
	ended  chan struct{} // closed, and replaced, when one is over
	endsMu sync.Mutex
}

func (q *asked) init() { q.wake, q.ended = make(chan struct{}, 1), make(chan struct{}) }

func (q *asked) kick() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *asked) over() {
	q.endsMu.Lock()
	defer q.endsMu.Unlock()
	close(q.ended)
	q.ended = make(chan struct{})
}

func (q *asked) next() <-chan struct{} {
	q.endsMu.Lock()
	defer q.endsMu.Unlock()
	return q.ended
}

// answerIntent answers an agent that has proven who it is and wants something done on a
// node of this rack. What is refused for good is recorded, and so told to the
// coordinators. An error is for now.
func (a *Agent) answerIntent(ctx context.Context, id trust.Identity, call *pb.SiteIntent) (*pb.SiteAnswer, error) {
	if call.GetIntent() == nil {
		return nil, fault.New(fault.BadInput, "answer an agent of the site", "it asks for nothing")
	}
	if err := a.office.may(a.now()); err != nil {
		return nil, err
	}
	from := intent.Asker{
		Agent: fleet.AgentName(id.Name), Rack: fleet.RackName(id.Rack), Site: fleet.SiteName(id.Site),
		Epoch: owner.Epoch{Grant: call.GetGrant(), Local: call.GetLocal()},
	}
	key := intent.Key(from.Rack, call.GetIntent())
	known, err := a.takeIntent(from, key, call)
	switch {
	case err == errNoScript: //nolint:errorlint // it is never wrapped
		return &pb.SiteAnswer{State: pb.SiteAnswer_SCRIPT}, nil
	case fault.Is(err, fault.Unavailable), fault.Is(err, fault.NotFound), fault.Is(err, fault.Internal):
		return nil, err
	case err != nil:
		return a.refuseIntent(from, call.GetIntent(), err)
	}
	return a.awaitAsked(ctx, key, known)
}

// errNoScript is that the script of an intent is not known here.
var errNoScript = fault.New(fault.NotFound, "do what another rack asks", "the script is not known here")

// takeIntent writes down what is asked, once, before anything of it is done.
func (a *Agent) takeIntent(from intent.Asker, key string, call *pb.SiteIntent) (*pb.Asked, error) {
	q, i := &a.asked, call.GetIntent()
	q.mu.Lock()
	defer q.mu.Unlock()
	facts := intent.Facts{
		Rack: a.cfg.Rack, Site: a.siteName(), Group: a.chooser(nil).group, Here: func(n fleet.NodeName) bool { return a.rack.named(n) != nil },
	}
	var known *pb.Asked
	var last owner.Epoch
	err := a.spool.View(func(tx *spool.Tx) (err error) {
		if last, err = succeeds(tx, from); err == nil {
			known, err = journal.Asked(tx, key)
		}
		if err != nil || known != nil {
			return err
		}
		past, err := journal.AskedBy(tx, from.Rack)
		for _, p := range past {
			facts.Past = append(facts.Past, p)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if known != nil {
		if from.Epoch != last { // the rack has changed hands since it was taken
			err = a.keepAsked(key, from, known)
		}
		return known, err
	}
	if !a.connected() {
		facts.Cut = a.cutSince()
	}
	var fromAsker bool
	if facts.Program, fromAsker, err = a.programFor(call); err != nil {
		return nil, err
	}
	job, err := facts.Job(a.now(), from, i)
	if err == nil {
		err = a.spool.Full()
	}
	if err != nil {
		return nil, err
	}
	known = &pb.Asked{
		Intent: i, Rack: string(from.Rack), Agent: string(from.Agent), TakenUnixMs: a.now().UnixMilli(), Text: job.Command.Text, Condition: job.Condition,
		KeepUnixMs: job.Keep.UnixMilli(), CutOff: !facts.Cut.IsZero(),
	}
	if fromAsker {
		known.Envelope, known.Source = call.GetEnvelope(), call.GetSource()
	}
	if err = a.keepAsked(key, from, known); err != nil {
		return nil, err
	}
	a.log.Warn("another rack has this one act", obs.Peer, string(from.Agent), obs.Script, i.GetScript(), obs.Rule, i.GetRule(), obs.Node, i.GetOn())
	q.kick()
	return known, nil
}

// keepAsked keeps what is asked, and in which epoch of the asker's rack.
func (a *Agent) keepAsked(key string, from intent.Asker, what *pb.Asked) error {
	return a.toldStandby(a.spool.Update(func(tx *spool.Tx) error {
		tx.PutJSON(spool.Notes, spool.Key(journal.EpochOf, string(from.Rack)), from.Epoch)
		journal.KeepAsked(tx, key, what)
		return journal.ForgetAsked(tx, a.now())
	}))
}

// succeeds refuses an agent whose rack has had a later owner. It tells the epoch in
// which the rack was last heard.
func succeeds(tx *spool.Tx, from intent.Asker) (known owner.Epoch, err error) {
	if raw := tx.Get(spool.Notes, spool.Key(journal.EpochOf, string(from.Rack))); raw != nil {
		err = fault.Wrap(fault.Garbage, "read in which epoch a rack was heard", json.Unmarshal(raw, &known))
	}
	if err == nil && from.Epoch.Compare(known) < 0 {
		err = fault.New(fault.Denied, "do what another rack asks", fmt.Sprintf("rack %s has had another owner since: it asks in epoch %s, and was heard in epoch %s",
			from.Rack, from.Epoch, known)).WithHint("see who owns it: chiba get agents")
	}
	return known, err
}

// refuseIntent tells that something is not done, here and to the asker.
func (a *Agent) refuseIntent(from intent.Asker, i *pb.Intent, why error) (*pb.SiteAnswer, error) {
	a.authority.mu.Lock()
	defer a.authority.mu.Unlock()
	err := a.tellRefused(&pb.Refused{
		What: refusedIntent, Name: i.GetScript(), Version: i.GetVersion(),
		Reason: fmt.Sprintf("asked by agent %s of rack %s for %s: %v", from.Agent, from.Rack, i.GetOn(), why),
	})
	answer := &pb.SiteAnswer{State: pb.SiteAnswer_REFUSED}
	answer.Kind, answer.Error, answer.Hint = wire.ToFault(why)
	return answer, err
}

// programFor is the script of an intent as its authors have signed it: the one that
// stands here or, if none does, the one that the asker has brought, which is verified
// as if a coordinator had brought it. It is not put into force.
func (a *Agent) programFor(call *pb.SiteIntent) (p *scl.Program, fromAsker bool, err error) {
	i := call.GetIntent()
	a.standing.mu.Lock()
	s := a.standing.scripts[i.GetScript()]
	a.standing.mu.Unlock()
	if s != nil && s.GetVersion() == i.GetVersion() && s.program != nil {
		return s.program, false, nil
	}
	if len(call.GetEnvelope()) == 0 {
		return nil, false, a.lacks(i)
	}
	o, err := a.scriptOrder(&pb.Script{Name: i.GetScript(), Envelope: call.GetEnvelope(), Source: call.GetSource()})
	if err == nil && o.Version != i.GetVersion() {
		err = fault.New(fault.Untrusted, "verify order", "it is of another version than what is asked")
	}
	if err != nil {
		return nil, false, err
	}
	program, diags := programOf(o.File, call.GetSource(), o.Name)
	if program == nil {
		return nil, false, fault.New(fault.BadInput, "read script", "this agent's version can't read it: "+diags.String())
	}
	return program, true, nil
}

// lacks is errNoScript, or an error if the script that is meant is older than one that
// this rack has had.
func (a *Agent) lacks(i *pb.Intent) error {
	return a.spool.View(func(tx *spool.Tx) error {
		if floor, _ := journal.Floor(tx, journal.FloorOfScript, i.GetScript()); i.GetVersion() < floor {
			return fault.New(fault.Denied, "do what another rack asks", fmt.Sprintf("version %d of %s is over: this rack has had version %d", i.GetVersion(), i.GetScript(), floor)).
				WithHint("the rack that asks has not heard of it yet: see that it reaches a coordinator")
		}
		return errNoScript
	})
}

// awaitAsked is the result of what was taken, if it is there soon.
func (a *Agent) awaitAsked(ctx context.Context, key string, known *pb.Asked) (*pb.SiteAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	for {
		ended := a.asked.next() // before it is looked at
		err := a.spool.View(func(tx *spool.Tx) (err error) {
			known, err = journal.Asked(tx, key)
			return err
		})
		switch {
		case err != nil:
			return nil, err
		case known.GetOver():
			return &pb.SiteAnswer{State: pb.SiteAnswer_DONE, Result: known.GetResult()}, nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return &pb.SiteAnswer{State: pb.SiteAnswer_DOING}, nil
		}
	}
}

// siteName is the site as our certificate names it.
func (a *Agent) siteName() fleet.SiteName {
	if a.trust == nil {
		return a.cfg.Site
	}
	id, err := a.trust.endpoint.Credentials().Identity()
	if err != nil {
		return a.cfg.Site
	}
	return fleet.SiteName(id.Site)
}

// carryOut does what other racks have asked, until ctx ends. It waits for the first
// look at the rack, as runs do.
func (a *Agent) carryOut(ctx context.Context) error {
	var doing sync.WaitGroup
	defer doing.Wait()
	if err := a.looked(ctx); err != nil {
		return err
	}
	active, left := make(map[string]bool), make(chan string, askedAtOnce)
	for {
		var all map[string]*pb.Asked
		err := a.spool.View(func(tx *spool.Tx) (err error) {
			all, err = journal.AskedBy(tx, "")
			return err
		})
		if err != nil {
			return err
		}
		for key, what := range all {
			if what.GetOver() || active[key] || len(active) >= askedAtOnce {
				continue
			}
			active[key] = true
			doing.Go(func() {
				defer func() { left <- key }()
				a.doAsked(ctx, key, what)
			})
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.asked.wake:
		case key := <-left:
			delete(active, key)
		}
	}
}

// doAsked does what another rack has asked, from where an earlier process left it, and
// records what came of it. What must not be done twice and was begun is unknown.
func (a *Agent) doAsked(ctx context.Context, key string, what *pb.Asked) {
	c, why := a.commandOf(what)
	on := fleet.NodeName(what.GetIntent().GetOn())
	n := a.rack.named(on)
	var r fleet.Result
	switch {
	case what.GetBegun() && (why != nil || once(c)):
		r = journal.Unknown(on, what.GetText())
	case why != nil:
		r = skipped(on, what.GetText(), why)
	case n == nil:
		r = skipped(on, what.GetText(), fault.New(fault.NotFound, "", "not tried: it is no node of the rack any more"))
	default:
		if a.persist(ctx, "what another rack asks", func() error { return a.beginAsked(key, what) }) != nil {
			return // the next process goes on
		}
		r = a.command(ctx, n, c, nil)
		a.outlawed(ctx, n, r.Kind)
	}
	if ctx.Err() != nil {
		return
	}
	err := a.persist(ctx, "what another rack asked", func() error {
		return a.spool.Update(func(tx *spool.Tx) error {
			journal.EndAsked(tx, a.now(), key, what, r)
			return nil
		})
	})
	if err != nil && ctx.Err() == nil {
		a.complain("what another rack asked", err)
	}
	a.asked.over()
}

func (a *Agent) beginAsked(key string, what *pb.Asked) error {
	what.Begun = true
	return a.toldStandby(a.spool.Update(func(tx *spool.Tx) error {
		journal.KeepAsked(tx, key, what)
		return nil
	}))
}

// commandOf is the command that was taken, or why it is not done any more.
func (a *Agent) commandOf(what *pb.Asked) (c scl.Command, err error) {
	i := what.GetIntent()
	program, _, err := a.programFor(&pb.SiteIntent{Intent: i, Envelope: what.GetEnvelope(), Source: what.GetSource()})
	if err != nil {
		return c, fault.New(fault.Canceled, "", "not tried: the rule is no longer in force")
	}
	if late := a.now().Sub(time.UnixMilli(i.GetUntilUnixMs())); late > intent.Skew {
		return c, fault.New(fault.Timeout, "", "not tried: it is too late for it")
	}
	for _, m := range program.Monitors {
		if commands := scl.Flat(m.Commands); m.Name == i.GetRule() && int(i.GetCommand()) < len(commands) {
			return commands[i.GetCommand()], nil
		}
	}
	return c, fault.New(fault.Canceled, "", "not tried: the rule is no longer in force")
}
