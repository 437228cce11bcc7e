package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/trust/level"
)

// takenPatience is how long a step waits for a take-over that goes on.
const takenPatience = 30 * time.Second

// deeds are what each command does to a BMC. A sequence does what its commands do.
// What does nothing to it is never refused: a person accepts a key that is not
// trusted yet.
var deeds = map[scl.Verb][]level.Deed{
	scl.DoPower:      {level.Power},
	scl.DoReboot:     {level.Power},
	scl.DoBoot:       {level.Boot},
	scl.DoIndicator:  {level.Configure},
	scl.DoClearLog:   {level.Logs},
	scl.DoBMCReset:   {level.Reset},
	scl.DoTakeOver:   {level.Takeover},
	scl.DoRelease:    {level.Takeover},
	scl.DoAccept:     {},
	scl.DoRekey:      {level.Takeover},
	scl.DoRekeyAbort: {},
	scl.DoAdmit:      {},
	scl.DoRefuse:     {},
	scl.DoForget:     {},
	scl.DoLog:        {},
	scl.DoStartImage: {level.Media, level.Boot, level.Power}, // on the node that it names
	scl.DoWait:       {level.Look},
	scl.DoSequence:   {},
	scl.DoFirmware:   {level.Firmware},
}

// settingDeeds are what each setting does to a BMC.
var settingDeeds = map[scl.Resource]level.Deed{
	scl.Power:     level.Power,
	scl.Boot:      level.Boot,
	scl.Interface: level.Configure,
	scl.Device:    level.Look, // hardware that must be there
	scl.User:      level.Users,
	scl.AssetTag:  level.Configure,
	scl.Indicator: level.Configure,
}

// deedsOf is what a command does. A verb that is not in the table does something
// that no level allows.
func deedsOf(c scl.Command) []level.Deed {
	if d, known := deeds[c.Verb]; known {
		return d
	}
	return []level.Deed{level.Deed(c.Verb)}
}

// settingDeed is what a setting does. To replace the password that a BMC left the
// factory with is a part of taking it over, also when a script does it: it is a way
// out of the level that this password holds it at.
func (a *Agent) settingDeed(n *node, s scl.Setting, facts level.Facts) level.Deed {
	if s.Resource == scl.User && s.Field == "password" && facts.Default.Is {
		if user, _, err := a.cfg.loginOf(n.entry).read(); err == nil && user == s.Name {
			return level.Takeover
		}
	}
	if d, known := settingDeeds[s.Resource]; known {
		return d
	}
	return level.Deed(s.Resource)
}

// judgement is a verdict with what led to it.
type judgement struct {
	level.Verdict
	facts  level.Facts
	policy level.Policy
}

// judge works out how far a node's BMC is believed now.
func (a *Agent) judge(n *node) judgement {
	facts, policy := a.facts(n), level.Of(a.policies(), a.view(n))
	return judgement{policy.Judge(a.now(), facts), facts, policy}
}

// why is what keeps a BMC from the next level, "" if nothing does.
func (j judgement) why() string {
	switch {
	case len(j.Bad) > 0:
		return j.Bad[0]
	case len(j.Lacks) > 0:
		return j.Lacks[0].What
	}
	return ""
}

// may is why a BMC must not be used for one of the deeds, nil if it may.
func (j judgement) may(n *node, deeds ...level.Deed) error {
	for _, d := range deeds {
		err := j.policy.May(d, j.Verdict)
		if err == nil {
			continue
		}
		var f *fault.Error
		if !errors.As(err, &f) {
			return err
		}
		f.Node, f.Hint = n.entry.Name, n.named(f.Hint)
		return f
	}
	return nil
}

// named is a hint with the node and its key in their places.
func (n *node) named(hint string) string {
	return strings.NewReplacer("NODE", string(n.entry.Name), "KEY", n.shownKey()).Replace(hint)
}

// shownKey is the key that answered last, as far as it is known.
func (n *node) shownKey() string {
	if s := n.noticing(); s.key.Is == level.KeyChanged {
		return cmp.Or(s.other, "KEY")
	}
	return n.ledger.Record().Pin
}

// may is why a node's BMC must not be used for one of the deeds now.
func (a *Agent) may(n *node, deeds ...level.Deed) error {
	if len(deeds) == 0 {
		return nil
	}
	return a.judge(n).may(n, deeds...)
}

// way is the lane to a node's BMC for deeds that it may be used for.
func (a *Agent) way(n *node, deeds ...level.Deed) (lane, error) {
	l, err := n.way()
	if err == nil {
		err = a.mayBegin(n, deeds...)
	}
	if err == nil {
		err = a.may(n, deeds...)
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// mayBegin is why nothing may be begun on a node's BMC now, nil if it may: the rack is
// not ours, or the other agent is not shut out yet. To look is always free.
func (a *Agent) mayBegin(n *node, deeds ...level.Deed) error {
	if !slices.ContainsFunc(deeds, func(d level.Deed) bool { return d != level.Look }) {
		return nil
	}
	if err := a.office.may(a.now()); err != nil {
		return err
	}
	if n.fenceDue() {
		return fault.New(fault.Unavailable, "use the BMC", "the other agent of the rack is not shut out of it yet")
	}
	return nil
}

// mayLook is why a node's BMC must not be looked at to see how it is. Each look
// begins with a handshake, and ends with it if the key is another one: so neither
// the age of what was seen of the key nor another key keeps us from it.
func (a *Agent) mayLook(n *node) error {
	j := a.judge(n)
	now := a.now()
	j.facts.Key = level.Fact[level.Key]{Is: level.KeySame, At: now, From: byHandshake}
	if j.facts.By.Is == level.RackCA {
		j.facts.By.At = now
	}
	j.Verdict = j.policy.Judge(now, j.facts)
	return j.may(n, level.Look)
}

// takenSoon reports whether only the factory's password keeps a BMC from the next
// level, and a take-over is about to replace it: a matter of seconds.
func (a *Agent) takenSoon(n *node, j judgement) bool {
	r := n.ledger.Record()
	wanted := r.Goal == takeover.Taken || r.Goal == "" && n.entry.TakeOver
	return wanted && j.Level == level.Admitted && j.facts.Default.Is && n.stuckSince(time.Time{}) == nil
}

// awaitTaken waits, for a bounded time, while a take-over that goes on keeps deeds
// from being done: who asks for them in the first seconds of a BMC shall not be
// refused.
func (a *Agent) awaitTaken(ctx context.Context, n *node, deeds ...level.Deed) {
	ctx, cancel := context.WithTimeout(ctx, takenPatience)
	defer cancel()
	for ctx.Err() == nil {
		j := a.judge(n)
		later := a.mayBegin(n, deeds...) != nil && a.office.reigns()
		if !later && (j.may(n, deeds...) == nil || !a.takenSoon(n, j)) {
			return
		}
		wait(ctx, ownLook)
	}
}

// mayDo is why a command will be refused now, nil if it will not.
func (a *Agent) mayDo(n *node, c scl.Command) error {
	if c.Verb == scl.DoStartImage && len(c.Args) > 0 {
		if target := a.rack.named(fleet.NodeName(c.Args[0])); target != nil {
			n = target
		}
	}
	return a.may(n, deedsOf(c)...)
}

// barred is why not all of a rule's commands may be done on a node now, "" if they
// may.
func (a *Agent) barred(n *node, commands []scl.Command) string {
	for _, c := range flat(commands) {
		if err := a.mayDo(n, c); err != nil {
			return err.Error()
		}
	}
	return ""
}

// barredSettings are the settings that a node's BMC may not be used for now, by
// their index.
func (a *Agent) barredSettings(n *node, settings []scl.Setting) map[int]error {
	j := a.judge(n)
	barred := make(map[int]error)
	for i, s := range settings {
		if err := j.may(n, a.settingDeed(n, s, j.facts)); err != nil {
			barred[i] = err
		}
	}
	return barred
}

// deedsOfAll are what settings do to a node's BMC.
func (a *Agent) deedsOfAll(n *node, settings []scl.Setting) []level.Deed {
	facts := a.facts(n)
	var all []level.Deed
	for _, s := range settings {
		all = append(all, a.settingDeed(n, s, facts))
	}
	return all
}

// settle judges a node's BMC, keeps what came of it in the node's summary, and
// reports it.
func (a *Agent) settle(n *node) fleet.Node {
	n.judging.Lock()
	defer n.judging.Unlock()
	barred := a.mayLook(n) != nil
	j := a.judge(n)
	reason := j.why()
	if len(j.Lacks) > 0 {
		reason += "; " + n.named(j.Lacks[0].Do)
	}
	n.mu.Lock()
	before := n.summary.Trust.Level
	if j.Level == level.Quarantined && n.summary.State != fleet.Untrusted {
		n.summary.State, n.summary.Reason = fleet.Untrusted, reason
	}
	n.summary.Trust = a.trustBy(n, n.summary, j)
	now := n.summary
	other := n.judged != now.Trust.Level
	n.judged = now.Trust.Level
	n.mu.Unlock()
	n.bar(barred)
	if other {
		a.retarget() // rules may be barred, or are no longer, also where the mesh knows the level
	}
	if before == level.Quarantined.String() && j.Level > level.Quarantined {
		n.poke() // what it is like is known again only after a look
		n.lookAtTakeover()
	}
	a.report(now, j.facts.Digest())
	return now
}

// rejudge settles every node: time has passed, or what counts has changed. Before
// the first look at the rack there is nothing to be judged.
func (a *Agent) rejudge() {
	if !a.first.isOver() {
		return
	}
	for _, n := range a.rack.members() {
		a.settle(n)
	}
	a.askAt("") // strangers are ruled on again
}

// elements are SCL's trust.… as they read on a node, of what is known.
func (j judgement) elements(node fleet.Node) map[string]string {
	all := make(map[string]string)
	for _, e := range scl.Elements() {
		if !strings.HasPrefix(e.Name, "trust.") || e.Name == "trust.level" {
			continue
		}
		v := j.facts.Value(scl.Ref{Text: e.Name, Element: &e}, node)
		if is, ok := v.Bool(); ok {
			all[e.Name] = strconv.FormatBool(is)
		} else if text, ok := v.Text(); ok {
			all[e.Name] = text
		}
	}
	return all
}

// explain tells all that is known of how far a node's BMC is believed.
func (a *Agent) explain(n *node) fleet.Result {
	since := a.settle(n).Trust.Since
	j := a.judge(n)
	x := fleet.TrustExplanation{
		Node: n.entry.Name, Level: j.Level.String(), Word: j.Level.Word(), Since: since, Key: n.ledger.Record().Pin,
		Bad: j.Bad, Digest: j.facts.Digest(), Facts: tellFacts(j.facts),
	}
	for _, r := range j.Held {
		x.Has = append(x.Has, fleet.TrustReason{What: r.What, From: r.From, At: r.At})
	}
	for _, l := range j.Lacks {
		x.Lacks = append(x.Lacks, fleet.TrustLack{What: l.What, Do: n.named(l.Do)})
	}
	for _, d := range level.Deeds() {
		x.Deeds = append(x.Deeds, fleet.TrustDeed{Deed: string(d), Needs: j.policy.Needs(d).String(), May: j.may(n, d) == nil})
	}
	body, err := json.Marshal(x)
	if err != nil {
		return failure(fault.Wrap(fault.Internal, "explain", err))
	}
	return fleet.Result{Status: fleet.Confirmed, Body: body}
}

// tellFacts are the facts that are known, in words.
func tellFacts(f level.Facts) []fleet.TrustFact {
	all := []fleet.TrustFact{
		told("heard on the BMC network", f.OnLink, yesNo),
		told("key", f.Key, func(k level.Key) string { return [...]string{"new", "the expected one", "another one"}[k] }),
		told("vouched for by", f.By, func(v level.Voucher) string {
			return [...]string{"nobody", "a person", "the rack's authority", "its maker"}[v]
		}),
		told("asset list", f.Asset, func(s level.Asset) string {
			return [...]string{"not in it", "its key is in it", "its serial is the listed one", "its serial is another one"}[s]
		}),
		told("way in", f.Access, level.Access.String),
		told("factory password in force", f.Default, yesNo),
		told("weaker ways in are open", f.Weak, yesNo),
		told("clock is right", f.Clock, yesNo),
		told("denied", f.Denied, text),
		told("tells the serial of", f.Twin, text),
		told("claimed by others, too", f.Clash, text),
	}
	for _, who := range f.Approved {
		all = append(all, told("let in by", who, text))
	}
	return slices.DeleteFunc(all, func(f fleet.TrustFact) bool { return f.Is == "" })
}

func told[T any](name string, f level.Fact[T], say func(T) string) fleet.TrustFact {
	if !f.Known() {
		return fleet.TrustFact{}
	}
	return fleet.TrustFact{Name: name, Is: say(f.Is), From: f.From, At: f.At}
}

func yesNo(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

func text(s string) string { return s }
