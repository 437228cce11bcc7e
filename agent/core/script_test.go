package core_test

import (
	"bufio"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

var update = flag.Bool("update", false, "rewrite the golden scripts")

// TestScripts plays testdata/*.txt. A script is comments and commands; what the
// engine answers to a command stands below it, indented.
//
//	rule NAME NODE[,NODE…] REF > NUMBER [every D] [for D] [cooldown D] [limit N D] [cut-off hold|D]
//	                                 puts a rule in force
//	drop NAME                        takes it out of force
//	scl SOURCE                       puts the monitors of a script in force
//	at D                             passes time up to D after the start
//	push NODE [ID:]KEY@TIME…         the BMC pushes events
//	log NODE KEY@TIME…               its log is read, and holds these
//	gap NODE                         something may have been missed
//	NODE REF=VALUE[ REF=VALUE…]      answers the read of a node; ? is unknown
//	cut, heal                        the link to the coordinators
//	restart                          a new engine with the states of the old one
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newPlayer(t).play(string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the engine answers otherwise (-want +got):\n%s", diff)
			}
		})
	}
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type player struct {
	t      *testing.T
	engine *core.Engine
	now    time.Time
	rules  core.Rules
	next   time.Time
	link   core.Link
	asked  map[fleet.NodeName][]scl.Ref
	marks  map[fleet.NodeName]core.Marks
	out    strings.Builder
}

func newPlayer(t *testing.T) *player {
	t.Helper()
	return &player{
		t: t, engine: core.New(nil, nil), now: start, link: core.Link{Since: start},
		asked: make(map[fleet.NodeName][]scl.Ref), marks: make(map[fleet.NodeName]core.Marks),
	}
}

func (p *player) play(script string) string {
	p.link = core.Link{Connected: true, Since: start}
	p.step(p.link)
	sc := bufio.NewScanner(strings.NewReader(script))
	for sc.Scan() {
		line := sc.Text()
		if strings.HasPrefix(line, "  ") {
			continue // an earlier answer
		}
		fmt.Fprintln(&p.out, line)
		if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(line, "#") {
			p.do(f)
		}
	}
	return p.out.String()
}

func (p *player) do(f []string) {
	switch f[0] {
	case "rule":
		p.rules = append(p.rules, p.rule(f[1:]))
		p.step(p.rules)
	case "drop":
		var rest core.Rules
		for _, r := range p.rules {
			if r.Monitor.Name != f[1] {
				rest = append(rest, r)
			}
		}
		p.rules = rest
		p.step(p.rules)
	case "scl":
		p.scl(strings.Join(f[1:], " "))
	case "push":
		p.step(core.Heard{Node: fleet.NodeName(f[1]), Events: events(f[2:])})
	case "log":
		p.step(core.Heard{Node: fleet.NodeName(f[1]), Log: events(f[2:]), HasLog: true})
	case "gap":
		p.step(core.Heard{Node: fleet.NodeName(f[1]), Gap: true})
	case "cut", "heal":
		p.link = core.Link{Connected: f[0] == "heal", Since: p.now}
		p.step(p.link)
	case "restart":
		p.engine = core.New(p.engine.States(), slices.Collect(maps.Values(p.marks)))
		clear(p.asked)
		p.step(p.link)
		p.step(p.rules)
	case "at":
		p.wait(start.Add(p.duration(f[1])))
	default:
		p.answer(fleet.NodeName(f[0]), f[1:])
	}
}

// wait steps the engine whenever it asked for it, up to the time until.
func (p *player) wait(until time.Time) {
	for !p.next.IsZero() && !p.next.After(until) {
		p.now = p.next
		p.step(core.Tick{})
	}
	p.now = until
}

func (p *player) step(in core.Input) {
	out := p.engine.Step(p.now, in)
	for _, m := range out.Marks {
		p.marks[m.Node] = m
	}
	if out.Deaf {
		clear(p.marks)
		p.say("forget what was heard")
	}
	p.next = out.Next
	for _, r := range out.Read {
		p.asked[r.Node] = r.Refs
		refs := make([]string, len(r.Refs))
		for i, ref := range r.Refs {
			refs[i] = ref.Text
		}
		p.say("read %s: %s", r.Node, strings.Join(refs, " "))
	}
	for _, f := range out.Fire {
		values := make([]string, len(f.Firing.Readings))
		for i, r := range f.Firing.Readings {
			values[i] = r.Ref + " is " + r.Value.String()
		}
		what := "fire"
		if f.Firing.Held != "" {
			what = "held"
		}
		tail := ""
		if f.Firing.CutOff {
			tail = ", cut off"
		}
		if f.Firing.Held != "" {
			tail += " — " + f.Firing.Held
		}
		p.say("%s %s on %s: %s%s", what, f.Firing.Rule, f.Firing.Node, strings.Join(values, ", "), tail)
	}
	for _, k := range out.Gone {
		p.say("forget %s on %s", k.Rule, k.Node)
	}
}

func (p *player) say(format string, args ...any) {
	fmt.Fprintf(&p.out, "  %7s  %s\n", p.now.Sub(start).Round(100*time.Millisecond), fmt.Sprintf(format, args...))
}

func (p *player) answer(node fleet.NodeName, pairs []string) {
	s := core.Sample{Node: node, Refs: p.asked[node]}
	if s.Refs == nil {
		p.t.Fatalf("nobody asked %s", node)
	}
	delete(p.asked, node)
	for _, ref := range s.Refs {
		r := fleet.Reading{Node: node, Ref: ref.Text, Value: fleet.NoValue("not reported")}
		for _, pair := range pairs {
			if name, value, _ := strings.Cut(pair, "="); name == ref.Text && value != "?" {
				n, err := strconv.ParseFloat(value, 64)
				if err != nil {
					p.t.Fatal(err)
				}
				r.Value = fleet.Number(n, ref.Element.Unit)
			}
		}
		s.Readings = append(s.Readings, r)
	}
	p.step(s)
}

func (p *player) rule(f []string) core.Rule {
	m := above(f[0], f[2], p.number(f[4]))
	r := core.Rule{Script: "s", Monitor: m}
	for n := range strings.SplitSeq(f[1], ",") {
		r.Nodes = append(r.Nodes, fleet.NodeName(n))
	}
	for f = f[5:]; len(f) > 1; f = f[2:] {
		switch f[0] {
		case "every":
			m.Options.Every = p.duration(f[1])
		case "for":
			m.Options.For = p.duration(f[1])
		case "cooldown":
			m.Options.Cooldown = p.duration(f[1])
		case "limit":
			m.Options.Limit = scl.Limit{Count: int(p.number(f[1])), Window: p.duration(f[2])}
			f = f[1:]
		case "cut-off":
			if m.Options.CutOff.Hold = f[1] == "hold"; !m.Options.CutOff.Hold {
				m.Options.CutOff.RunFor = p.duration(f[1])
			}
		default:
			p.t.Fatalf("unknown option %q", f[0])
		}
	}
	return r
}

func (p *player) scl(source string) {
	program, diags := compile.Source("s.scl", []byte(source))
	if program == nil {
		p.t.Fatal(diags)
	}
	for i := range program.Monitors {
		m := &program.Monitors[i]
		p.rules = append(p.rules, core.Rule{Script: "s", Monitor: m, Nodes: []fleet.NodeName{fleet.NodeName(m.Target.Name)}})
	}
	p.step(p.rules)
}

// events are written [ID:]KEY@TIME.
func events(f []string) (all []core.Event) {
	for _, text := range f {
		what, at, _ := strings.Cut(text, "@")
		id, key, named := strings.Cut(what, ":")
		if !named {
			id, key = "", what
		}
		all = append(all, core.Event{ID: id, MessageID: "X.1." + key, Time: at})
	}
	return all
}

func (p *player) duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *player) number(s string) float64 {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// above is a monitor with the condition (> REF LIMIT) and no rest after firing.
func above(name, ref string, limit float64) *scl.Monitor {
	element := &scl.Element{Name: ref, Type: scl.NumberType, Unit: fleet.Celsius}
	return &scl.Monitor{
		Name: name,
		Condition: &scl.Condition{
			Refs: []scl.Ref{{Text: ref, Element: element}},
			Text: fmt.Sprintf("(> %s %v)", ref, limit),
			Test: func(slots []scl.Slot) scl.Truth {
				n, ok := slots[0].Value.Number()
				switch {
				case !ok:
					return scl.Unknown
				case n > limit:
					return scl.True
				default:
					return scl.False
				}
			},
		},
		Commands: []scl.Command{{Verb: scl.DoLog, Args: []string{"hot"}, Text: `(log "hot")`}},
		Options:  scl.Options{Every: 10 * time.Second},
	}
}
