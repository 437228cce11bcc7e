package core

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// full is Step as it is meant: it looks at every node each time.
func (e *Engine) full(now time.Time, in Input) (out Output) {
	e.link.Since = earlier(e.link.Since, now)
	in.happen(e, now, &out)
	for _, n := range e.nodes {
		n.settle(now)
		if due := n.next(); !due.IsZero() && !due.After(now) {
			out.Read = append(out.Read, n.read(now))
		}
		if due := n.next(); !due.IsZero() && (out.Next.IsZero() || due.Before(out.Next)) {
			out.Next = due
		}
	}
	e.agenda.anew(e.nodes, now)
	return out
}

// spentFull counts over all states.
func (e *Engine) spentFull(of named, window time.Duration, now time.Time) (n int) {
	for k, s := range e.states {
		if k.named() != of {
			continue
		}
		for _, at := range s.Fired {
			if now.Sub(at) < window {
				n++
			}
		}
	}
	return n
}

// sketch is a random world for two engines: one steps, the other looks at everything.
type sketch struct {
	rnd        *rand.Rand
	quick, all *Engine
	now        time.Time
	asked      []Read
	rules      []Rule
}

func (w *sketch) rule(i int) Rule {
	m := &scl.Monitor{
		Name: fmt.Sprintf("m%d", i),
		Condition: &scl.Condition{
			Text: fmt.Sprintf("above %d", w.rnd.IntN(2)),
			Test: func(slots []scl.Slot) scl.Truth {
				n, ok := slots[0].Value.Number()
				switch event, _ := slots[1].Value.Bool(); {
				case event:
					return scl.True
				case !ok:
					return scl.Unknown
				case n > 60:
					return scl.True
				}
				return scl.False
			},
			Refs: []scl.Ref{
				{Text: "t", Element: &scl.Element{Name: fmt.Sprintf("t%d", w.rnd.IntN(3)), Type: scl.NumberType}},
				{Text: "(event X.*)", Element: &scl.Element{Name: "event", Type: scl.BoolType}, Param: "X.*"},
			},
		},
		Options: scl.Options{
			Every: time.Duration(w.rnd.IntN(20)) * time.Second, For: time.Duration(w.rnd.IntN(2)*10) * time.Second,
			Cooldown: time.Duration(w.rnd.IntN(2)) * time.Minute, Limit: scl.Limit{Count: w.rnd.IntN(4), Window: time.Minute},
		},
	}
	r := Rule{Script: "s", Monitor: m}
	for n := range 12 {
		if w.rnd.IntN(3) > 0 {
			r.Nodes = append(r.Nodes, fleet.NodeName(fmt.Sprintf("n%02d", n)))
		}
	}
	return r
}

// input is something that happens: mostly answers, time, and now and then anything
// else that there is.
func (w *sketch) input() Input {
	node := fleet.NodeName(fmt.Sprintf("n%02d", w.rnd.IntN(13)))
	switch n := w.rnd.IntN(20); {
	case n < 10 && len(w.asked) > 0:
		i := w.rnd.IntN(len(w.asked))
		r := w.asked[i]
		w.asked = slices.Delete(w.asked, i, i+1)
		s := Sample{Node: r.Node, Refs: r.Refs}
		for range r.Refs[w.rnd.IntN(2)*w.rnd.IntN(len(r.Refs)):] {
			s.Readings = append(s.Readings, fleet.Reading{Node: r.Node, Value: fleet.Number(float64(w.rnd.IntN(100)), fleet.Celsius)})
		}
		return s
	case n < 14:
		return Tick{}
	case n < 16:
		return Heard{Node: node, Events: []Event{{MessageID: "X.1.0.Y", Time: strconv.Itoa(w.rnd.IntN(9))}}, Gap: w.rnd.IntN(2) == 0}
	case n == 16:
		return Link{Connected: w.rnd.IntN(2) == 0, Since: w.now}
	case n == 17: // some rules go, some come, some stay
		rules := slices.DeleteFunc(slices.Clone(w.rules), func(Rule) bool { return w.rnd.IntN(3) == 0 })
		for len(rules) < 4 && w.rnd.IntN(2) == 0 {
			rules = append(rules, w.rule(w.rnd.IntN(5)))
		}
		w.rules = rules
		return Rules(rules)
	default:
		return Tick{}
	}
}

// pass is how the clock goes on: seldom back.
func (w *sketch) pass(next time.Time) {
	switch n := w.rnd.IntN(12); {
	case n == 0:
		w.now = w.now.Add(-time.Duration(w.rnd.IntN(100)) * time.Second)
	case n < 4 && next.After(w.now):
		w.now = next
	case n < 8:
		w.now = w.now.Add(time.Duration(w.rnd.IntN(9000)) * time.Millisecond)
	}
}

// An engine that looks only at what is due answers as one that looks at everything.
func TestStepIsAsLookingAtEverything(t *testing.T) {
	fires, reads := 0, 0
	same := func(seed uint64) bool {
		w := &sketch{rnd: rand.New(rand.NewPCG(seed, 1)), quick: New(nil, nil), all: New(nil, nil), now: time.Unix(1e9, 0)}
		for i := range 400 {
			in := w.input()
			if i == 0 {
				w.rules = []Rule{w.rule(0), w.rule(1), w.rule(2)}
				in = Rules(w.rules)
			}
			got, want := w.quick.Step(w.now, in), w.all.full(w.now, in)
			if want, got := describe(want), describe(got); !slices.Equal(want, got) {
				t.Logf("seed %d, step %d, %T at %v (-everything +due):\n%s", seed, i, in, w.now, cmp.Diff(want, got))
				return false
			}
			for _, r := range w.rules {
				of, window := named{r.Script, r.Monitor.Name}, r.Monitor.Options.Limit.Window
				some := &watch{rule: &rule{script: r.Script, Monitor: r.Monitor}}
				if got, want := w.quick.spent(some, w.now), w.quick.spentFull(of, window, w.now); got != want {
					t.Logf("seed %d, step %d: %s has fired %d times, counted are %d", seed, i, r.Monitor.Name, want, got)
					return false
				}
			}
			w.asked = append(w.asked, got.Read...)
			fires, reads = fires+len(got.Fire), reads+len(got.Read)
			w.pass(got.Next)
		}
		return true
	}
	if err := quick.Check(same, &quick.Config{MaxCount: 100}); err != nil {
		t.Error(err)
	}
	if fires < 1000 || reads < 3000 {
		t.Errorf("%d firings and %d reads: the worlds are too quiet to prove anything", fires, reads)
	}
}

// describe is all of an output as lines.
func describe(out Output) (lines []string) {
	for _, r := range out.Read {
		keys := []string{"read", string(r.Node)}
		for _, ref := range r.Refs {
			keys = append(keys, keyOf(ref))
		}
		lines = append(lines, strings.Join(keys, " "))
	}
	for _, f := range out.Fire {
		lines = append(lines, fmt.Sprint("fire ", f.Firing))
	}
	for _, s := range out.Changed {
		lines = append(lines, fmt.Sprint("changed ", s))
	}
	return append(lines, fmt.Sprint("gone ", out.Gone), fmt.Sprint("marks ", len(out.Marks), out.Deaf), fmt.Sprint("next ", out.Next))
}

// BenchmarkRack is what passes between two samples of a rack: one of its nodes is due,
// is read, and answers. It must not cost more the more nodes there are.
func BenchmarkRack(b *testing.B) {
	for _, nodes := range []int{10, 100, 1000, 10_000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			w := &sketch{rnd: rand.New(rand.NewPCG(1, 1))}
			r := w.rule(0)
			r.Monitor.Options = scl.Options{Every: time.Minute}
			r.Nodes = nil
			for n := range nodes {
				r.Nodes = append(r.Nodes, fleet.NodeName(fmt.Sprintf("n%05d", n)))
			}
			now := time.Unix(1e9, 0)
			e := New(nil, nil)
			readings := []fleet.Reading{{Value: fleet.Number(50, fleet.Celsius)}}
			out := e.Step(now, Rules{r})
			b.ReportAllocs()
			for b.Loop() {
				for len(out.Read) == 0 {
					now = out.Next
					out = e.Step(now, Tick{})
				}
				for _, r := range out.Read {
					more := e.Step(now, Sample{Node: r.Node, Refs: r.Refs, Readings: readings})
					out.Read, out.Next = more.Read, more.Next
				}
			}
		})
	}
}
