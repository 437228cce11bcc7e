package intent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/intent"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const leak = `
(monitor "r01-u01" (cooldown 5m) (limit 2 (in 1h))
  (trigger "leak"
    (condition (> temp.inlet 60))
    (action "r02-u[05-06]" (log "leak") (sequence (power graceful-off) (power off))))
  (trigger "spare"
    (condition (> cpu.temp 90))
    (action (log "hot") (start-new-server-with-image "r02-u07" "image")))
  (trigger "held" (when-cut-off (run-for 10m)) (condition (> cpu.temp 90)) (action "r02-u05" (power off))))
`

var fired = time.UnixMilli(1_800_000_000_000)

// bench is rack r02, which is asked by r01.
type bench struct {
	now   time.Time
	from  intent.Asker
	facts intent.Facts
	what  *pb.Intent
}

func newBench(t *testing.T) *bench {
	t.Helper()
	program, diags := compile.Source("leak.scl", []byte(leak))
	if program == nil {
		t.Fatal(diags)
	}
	here := map[fleet.NodeName]bool{"r02-u05": true, "r02-u06": true, "r02-u07": true, "r02-u08": true}
	return &bench{
		now: fired.Add(time.Second), from: intent.Asker{Agent: "agent-r01", Rack: "r01", Site: "s", Epoch: owner.Epoch{Grant: 3}},
		facts: intent.Facts{Rack: "r02", Site: "s", Program: program, Here: func(n fleet.NodeName) bool { return here[n] }},
		what:  intent.New(fleet.Firing{Script: "leak", Rule: "leak", Node: "r01-u01", At: fired}, 7, 1, "r02-u05"),
	}
}

func (b *bench) past(rule, node string, ago time.Duration) {
	at := fired.Add(-ago)
	b.facts.Past = append(b.facts.Past, &pb.Asked{
		Intent: intent.New(fleet.Firing{Script: "leak", Rule: rule, Node: fleet.NodeName(node), At: at}, 7, 1, "r02-u05"),
	})
}

// What a rule says is done, and nothing else.
func TestJob(t *testing.T) {
	for name, c := range map[string]struct {
		with func(b *bench)
		does string // the command, or
		why  string
		kind fault.Kind
	}{
		"what the script says":           {with: func(*bench) {}, does: "(power graceful-off)"},
		"the last of a sequence":         {with: func(b *bench) { b.what.Command = 2 }, does: "(power off)"},
		"on the other node":              {with: func(b *bench) { b.what.On = "r02-u06" }, does: "(power graceful-off)"},
		"the node that a command names":  {with: func(b *bench) { b.what.Rule, b.what.On = "spare", "r02-u07" }, does: `(start-new-server-with-image "r02-u07" "image")`},
		"of a version that rested":       {with: func(b *bench) { b.past("leak", "r01-u01", time.Minute); b.facts.Past[0].Intent.Version = 6 }, does: "(power graceful-off)"},
		"another command of the firing":  {with: func(b *bench) { b.past("leak", "r01-u01", 0) }, does: "(power graceful-off)"},
		"after the cooldown":             {with: func(b *bench) { b.past("leak", "r01-u01", 5*time.Minute) }, does: "(power graceful-off)"},
		"cut off for less than it may":   {with: func(b *bench) { b.what.Rule, b.what.Command = "held", 0; b.facts.Cut = fired }, does: "(power off)"},
		"clocks that differ a little":    {with: func(b *bench) { b.now = fired.Add(-time.Minute) }, does: "(power graceful-off)"},
		"a node that no rule names":      {with: func(b *bench) { b.what.On = "r02-u08" }, why: "does not say that this is to be done on r02-u08", kind: fault.Denied},
		"a node of the other command":    {with: func(b *bench) { b.what.Rule, b.what.On = "spare", "r02-u05" }, why: "does not say", kind: fault.Denied},
		"what stays in its own rack":     {with: func(b *bench) { b.what.Rule, b.what.On, b.what.Command = "spare", "r02-u05", 0 }, why: "does not say", kind: fault.Denied},
		"a command that is not there":    {with: func(b *bench) { b.what.Command = 3 }, why: "does not say", kind: fault.Denied},
		"a command before the first":     {with: func(b *bench) { b.what.Command = -1 }, why: "does not say", kind: fault.Denied},
		"a rule that is not there":       {with: func(b *bench) { b.what.Rule = "x" }, why: "has no rule x", kind: fault.Denied},
		"a node that it does not watch":  {with: func(b *bench) { b.what.Node = "r01-u02" }, why: "watches no node r01-u02 of rack r01", kind: fault.Denied},
		"a node of the one who is asked": {with: func(b *bench) { b.what.Node = "r02-u05" }, why: "watches no node", kind: fault.Denied},
		"another site":                   {with: func(b *bench) { b.from.Site = "x" }, why: "of another site, x", kind: fault.Denied},
		"its own rack":                   {with: func(b *bench) { b.from.Rack = "r02" }, why: "its own rack", kind: fault.Denied},
		"a node of a third rack":         {with: func(b *bench) { b.what.On = "r03-u01" }, why: "rack r02 has no node r03-u01", kind: fault.NotFound},
		"from the future":                {with: func(b *bench) { b.now = fired.Add(-3 * time.Minute) }, why: "has not fired yet", kind: fault.Denied},
		"valid for too long":             {with: func(b *bench) { b.what.UntilUnixMs++ }, why: "valid for longer than 10m", kind: fault.Denied},
		"too late":                       {with: func(b *bench) { b.now = fired.Add(13 * time.Minute) }, why: "came too late", kind: fault.Timeout},
		"within the cooldown":            {with: func(b *bench) { b.past("leak", "r01-u01", 4*time.Minute) }, why: "(cooldown 5m0s)", kind: fault.Denied},
		"more often than the limit": {
			with: func(b *bench) { b.past("leak", "r01-u02", time.Minute); b.past("leak", "r01-u03", 2*time.Minute) },
			why:  "(limit 2 (in 1h0m0s))", kind: fault.Denied,
		},
		"cut off for too long": {with: func(b *bench) {
			b.what.Rule, b.what.Command, b.facts.Cut = "held", 0, fired.Add(-time.Hour)
		}, why: "held while no coordinator is reached", kind: fault.Unavailable},
		"too much": {with: func(b *bench) { b.facts.Past = make([]*pb.Asked, intent.MostKept) }, why: "too much already", kind: fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c.with(b)
			job, err := b.facts.Job(b.now, b.from, b.what)
			if c.why == "" {
				if err != nil || job.Command.Text != c.does {
					t.Errorf("it does %q, %v", job.Command.Text, err)
				}
				if least := fired.Add(intent.ValidFor + intent.KeptFor); job.Keep.Before(least) {
					t.Errorf("it is kept until %s, want at least %s", job.Keep, least)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.why) || !fault.Is(err, c.kind) {
				t.Errorf("%v of kind %s, want %q of kind %s", err, fault.KindOf(err), c.why, c.kind)
			}
		})
	}
}

// What differs in anything is another intent; a rack can't speak of another's.
func TestKeysTellIntentsApart(t *testing.T) {
	same := func() *pb.Intent { return newBench(t).what }
	all := []*pb.Intent{same(), same(), same(), same(), same(), same(), same()}
	all[0].Script, all[1].Rule, all[2].Node, all[3].AtUnixMs, all[4].Command, all[5].On, all[6].Version = "x", "x", "x", 1, 9, "x", 1
	seen := map[string]bool{intent.Key("r01", same()): true, intent.Key("r03", same()): true}
	for _, i := range all {
		seen[intent.Key("r01", i)] = true
	}
	if len(seen) != len(all)+2 || !seen[intent.Key("r01", same())] {
		t.Errorf("%d keys of %d intents", len(seen), len(all)+2)
	}
}

// asking is a pursuit and the clock.
type asking struct {
	*intent.Pursuit
	now time.Time
}

func newAsking(t *testing.T) *asking {
	t.Helper()
	of := &pb.Intended{Intent: newBench(t).what, Text: "(power off)", TakesMs: time.Hour.Milliseconds()}
	return &asking{&intent.Pursuit{Of: of}, fired}
}

// hears answers again and again until the pursuit is over.
func (a *asking) hears(t *testing.T, answer *pb.SiteAnswer, err error) (asked int, r fleet.Result) {
	t.Helper()
	for ; asked < 100_000; asked++ {
		next := a.Answered(a.now, "agent-r02", answer, err)
		if next.Over {
			return asked, next.Result
		}
		a.now = a.now.Add(next.Pause)
	}
	t.Fatal("it never ends")
	return 0, r
}

// Nobody is asked for ever, and what is not known is not told as known.
func TestPursuitEnds(t *testing.T) {
	unreached := fault.New(fault.Unavailable, "ask agent agent-r02", "no route")
	for name, c := range map[string]struct {
		answer *pb.SiteAnswer
		err    error
		heard  bool
		least  time.Duration // that it goes on
		most   time.Duration
		status fleet.Status
		why    string
	}{
		"done":           {answer: &pb.SiteAnswer{State: pb.SiteAnswer_DONE, Result: &pb.Result{Status: "confirmed", Step: "(power off)"}}, status: fleet.Confirmed},
		"refused":        {answer: &pb.SiteAnswer{State: pb.SiteAnswer_REFUSED, Kind: "denied", Error: "no"}, status: fleet.Failed, why: "ask agent agent-r02: no"},
		"never reached":  {err: unreached, least: 9 * time.Minute, most: 10 * time.Minute, status: fleet.Failed, why: "not done: no agent took it within 10m"},
		"reached before": {err: unreached, heard: true, least: time.Hour, most: 73 * time.Minute, status: fleet.Unknown, why: "it may have been done, and nobody tells"},
		"never answers": {
			err:   fault.New(fault.Timeout, "", "deadline"),
			least: time.Hour, most: 73 * time.Minute, status: fleet.Unknown, why: "it may have been done",
		},
		"never done":        {answer: &pb.SiteAnswer{}, least: time.Hour, most: 73 * time.Minute, status: fleet.Unknown, why: "agent-r02 has begun it"},
		"a script for ever": {answer: &pb.SiteAnswer{State: pb.SiteAnswer_SCRIPT}, least: 9 * time.Minute, most: 10 * time.Minute, status: fleet.Failed, why: "it does not know the script"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAsking(t)
			a.Heard = c.heard
			asked, r := a.hears(t, c.answer, c.err)
			took := a.now.Sub(fired)
			if took < c.least || took > c.most || r.Status != c.status || !strings.Contains(r.Error, c.why) {
				t.Errorf("after %s and %d questions: %s %q", took, asked, r.Status, r.Error)
			}
			if r.Node != "r02-u05" || r.Step != "(power off)" {
				t.Errorf("the result is of %s %s", r.Node, r.Step)
			}
			if c.least > 0 && r.Hint == "" {
				t.Error("nobody is told what to do next")
			}
			if c.err != nil && asked > 400 {
				t.Errorf("%d questions: it does not slow down", asked)
			}
		})
	}
}

// The script is brought once, at once, and only to who asks for it.
func TestPursuitBringsTheScript(t *testing.T) {
	a := newAsking(t)
	if next := a.Answered(a.now, "a", &pb.SiteAnswer{State: pb.SiteAnswer_SCRIPT}, nil); !next.Script || next.Pause != 0 {
		t.Errorf("asked for the script: %+v", next)
	}
	if next := a.Answered(a.now, "a", nil, fault.New(fault.Unavailable, "", "gone")); next.Script || next.Pause == 0 {
		t.Errorf("it is gone: %+v", next)
	}
	if next := a.Answered(a.now, "b", &pb.SiteAnswer{State: pb.SiteAnswer_SCRIPT}, nil); !next.Script {
		t.Errorf("the next one asks for the script: %+v", next)
	}
	if r := a.GiveUp(fault.New(fault.Canceled, "", "gone")).Result; r.Status != fleet.Failed {
		t.Errorf("given up before anybody heard: %s", r.Status)
	}
	a.Answered(a.now, "b", &pb.SiteAnswer{}, nil)
	if r := a.GiveUp(fault.New(fault.Canceled, "", "gone")).Result; r.Status != fleet.Unknown {
		t.Errorf("given up after somebody took it: %s", r.Status)
	}
}

// A program that names other nodes is the same for both sides.
func TestWhatARuleActsOn(t *testing.T) {
	b := newBench(t)
	var names []string
	for _, m := range b.facts.Program.Monitors {
		for _, n := range m.ActsOn() {
			names = append(names, m.Name+" "+string(n))
		}
		for _, c := range scl.Flat(m.Commands) {
			if to := c.Elsewhere(); to != "" {
				names = append(names, m.Name+" by itself "+string(to))
			}
		}
	}
	if got := strings.Join(names, ", "); got != "leak r02-u05, leak r02-u06, spare by itself r02-u07, held r02-u05" {
		t.Error(got)
	}
}
