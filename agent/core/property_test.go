package core_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// world drives an engine with random temperatures and keeps what it did.
type world struct {
	rng    *rand.Rand
	engine *core.Engine
	rules  core.Rules
	now    time.Time
	next   time.Time

	reads map[fleet.NodeName][]time.Time
	fires []fleet.Firing
	seen  map[fleet.NodeName][]scl.Truth // of the only rule, in the order of samples
	edges []int                          // edges[i]: how many samples its node had when fires[i] fired
}

var rack = []fleet.NodeName{"r1-u01", "r1-u02", "r1-u03", "r1-u04"}

func newWorld(seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	m := above("hot", "cpu.temp", 90)
	m.Options = scl.Options{
		Every:    time.Duration(1+rng.IntN(10)) * time.Second,
		For:      time.Duration(rng.IntN(3)) * 5 * time.Second,
		Cooldown: time.Duration(rng.IntN(4)) * 20 * time.Second,
		Limit:    scl.Limit{Count: rng.IntN(4), Window: 2 * time.Minute},
	}
	w := &world{
		rng: rng, engine: core.New(nil, nil), now: start,
		rules: core.Rules{{Script: "s", Monitor: m, Nodes: rack}},
		reads: make(map[fleet.NodeName][]time.Time), seen: make(map[fleet.NodeName][]scl.Truth),
	}
	w.step(core.Link{Connected: true, Since: start})
	w.step(w.rules)
	return w
}

// step answers every read at once, as a healthy rack does.
func (w *world) step(in core.Input) {
	out := w.engine.Step(w.now, in)
	w.next = out.Next
	for _, f := range out.Fire {
		if f.Firing.Held == "" {
			w.fires = append(w.fires, f.Firing)
			w.edges = append(w.edges, len(w.seen[f.Firing.Node]))
		}
	}
	for _, r := range out.Read {
		w.reads[r.Node] = append(w.reads[r.Node], w.now)
		v := fleet.Number(float64(70+w.rng.IntN(40)), fleet.Celsius)
		if w.rng.IntN(8) == 0 {
			v = fleet.NoValue("lost")
		}
		w.seen[r.Node] = append(w.seen[r.Node], w.rules[0].Monitor.Condition.Test([]scl.Slot{{Value: v}}))
		w.step(core.Sample{Node: r.Node, Refs: r.Refs, Readings: []fleet.Reading{{Node: r.Node, Value: v}}})
	}
}

func (w *world) run(d time.Duration) {
	for until := w.now.Add(d); !w.next.IsZero() && w.next.Before(until); {
		w.now = w.next
		w.step(core.Tick{})
	}
}

func TestInvariants(t *testing.T) {
	fired := 0
	for seed := range uint64(300) {
		w := newWorld(seed)
		w.run(10 * time.Minute)
		fired += len(w.fires)
		o := w.rules[0].Monitor.Options
		last := make(map[fleet.NodeName]int) // index into fires
		for i, f := range w.fires {
			if j, again := last[f.Node]; again {
				if gap := f.At.Sub(w.fires[j].At); gap < o.Cooldown {
					t.Fatalf("seed %d: %s fired again after %v, the cooldown is %v", seed, f.Node, gap, o.Cooldown)
				}
				if !slices.Contains(w.seen[f.Node][w.edges[j]:w.edges[i]], scl.False) {
					t.Fatalf("seed %d: %s fired again and was never false between", seed, f.Node)
				}
			}
			if truth := w.seen[f.Node][w.edges[i]-1]; truth != scl.True {
				t.Fatalf("seed %d: %s fired on a sample that was %v", seed, f.Node, truth)
			}
			last[f.Node] = i
			if n := o.Limit.Count; n > 0 && i >= n && f.At.Sub(w.fires[i-n].At) < o.Limit.Window {
				t.Fatalf("seed %d: %d firings within %v, the limit is %d", seed, n+1, o.Limit.Window, n)
			}
		}
		w.checkReads(t, seed, o.Every)
	}
	if fired < 1000 {
		t.Fatalf("only %d firings: the worlds are too quiet to prove anything", fired)
	}
}

func (w *world) checkReads(t *testing.T, seed uint64, every time.Duration) {
	t.Helper()
	for _, n := range rack {
		if len(w.reads[n]) == 0 || w.reads[n][0].Sub(start) > time.Second {
			t.Fatalf("seed %d: the first sample of %s is not within a second: %v", seed, n, w.reads[n])
		}
		for i, at := range w.reads[n][1:] {
			if gap := at.Sub(w.reads[n][i]); gap != every {
				t.Fatalf("seed %d: %s was read after %v, every is %v", seed, n, gap, every)
			}
		}
	}
}

// A restart between two steps changes nothing of what the rules do.
func TestRestartChangesNothing(t *testing.T) {
	for seed := range uint64(200) {
		steady, restarted := core.New(nil, nil), core.New(nil, nil)
		w := newWorld(seed)
		both := func(in core.Input) ([]core.Fire, []core.Fire) {
			a, b := steady.Step(w.now, in), restarted.Step(w.now, in)
			return a.Fire, b.Fire
		}
		both(core.Link{Connected: true, Since: start})
		both(w.rules)
		for range 200 {
			w.now = w.now.Add(time.Duration(w.rng.IntN(15)) * time.Second)
			s := core.Sample{Node: rack[w.rng.IntN(len(rack))], Refs: w.rules[0].Monitor.Condition.Refs}
			s.Readings = []fleet.Reading{{Value: fleet.Number(float64(80+w.rng.IntN(20)), fleet.Celsius)}}
			a, b := both(s)
			if diff := cmp.Diff(firings(a), firings(b)); diff != "" {
				t.Fatalf("seed %d: a restart changed what fires (-steady +restarted):\n%s", seed, diff)
			}
			if w.rng.IntN(4) == 0 {
				restarted = core.New(restarted.States(), nil)
				restarted.Step(w.now, core.Link{Connected: true, Since: start})
				restarted.Step(w.now, w.rules)
			}
		}
	}
}

func firings(fs []core.Fire) []string {
	var out []string
	for _, f := range fs {
		out = append(out, string(f.Firing.Node)+" "+f.Firing.Held)
	}
	return out
}

// What is kept after each step is enough: the states that Changed told of,
// gathered, are the states of the engine.
func TestChangedIsComplete(t *testing.T) {
	w := newWorld(7)
	kept := make(map[core.Key]core.State)
	for range 500 {
		w.now = w.now.Add(time.Duration(w.rng.IntN(15)) * time.Second)
		s := core.Sample{Node: rack[w.rng.IntN(len(rack))], Refs: w.rules[0].Monitor.Condition.Refs}
		s.Readings = []fleet.Reading{{Value: fleet.Number(float64(80+w.rng.IntN(20)), fleet.Celsius)}}
		for _, c := range w.engine.Step(w.now, s).Changed {
			kept[c.Key] = c
		}
	}
	for _, s := range w.engine.States() {
		if diff := cmp.Diff(s, kept[s.Key]); diff != "" {
			t.Errorf("%v was not kept as it is (-is +kept):\n%s", s.Key, diff)
		}
	}
}

// A clock that jumps back delays the next sample and the end of a cooldown by
// no more than their own length.
func TestClockSetBack(t *testing.T) {
	w := newWorld(1)
	w.rules[0].Monitor.Options = scl.Options{Every: 10 * time.Second, Cooldown: time.Minute}
	temp := func(v float64) core.Output {
		return w.engine.Step(w.now, core.Sample{
			Node: rack[0], Refs: w.rules[0].Monitor.Condition.Refs,
			Readings: []fleet.Reading{{Value: fleet.Number(v, fleet.Celsius)}},
		})
	}
	if out := temp(95); len(out.Fire) != 1 || out.Fire[0].Firing.Held != "" {
		t.Fatalf("a hot CPU did not fire: %+v", out.Fire)
	}
	w.now = start.Add(-24 * time.Hour)
	temp(50)
	if out := w.engine.Step(w.now.Add(10*time.Second), core.Tick{}); len(out.Read) == 0 {
		t.Error("no sample a period after the clock was set back")
	}
	w.now = w.now.Add(61 * time.Second)
	if out := temp(95); len(out.Fire) != 1 || out.Fire[0].Firing.Held != "" {
		t.Errorf("the cooldown outlasts its minute after the clock was set back: %+v", out.Fire)
	}
}

func BenchmarkSample(b *testing.B) {
	w := newWorld(1)
	s := core.Sample{Node: rack[0], Refs: w.rules[0].Monitor.Condition.Refs, Readings: []fleet.Reading{{Value: fleet.Number(50, fleet.Celsius)}}}
	for b.Loop() {
		w.now = w.now.Add(time.Second)
		w.engine.Step(w.now, s)
	}
}

// BenchmarkSampleOfSixty is one sample of sixty sensors with a rule over them.
func BenchmarkSampleOfSixty(b *testing.B) {
	w := newWorld(1)
	r := fleet.Reading{Value: fleet.Number(59, fleet.Celsius)}
	for i := range 60 {
		r.Instances = append(r.Instances, fleet.Instance{Name: "t", Value: fleet.Number(float64(i), fleet.Celsius)})
	}
	s := core.Sample{Node: rack[0], Refs: w.rules[0].Monitor.Condition.Refs, Readings: []fleet.Reading{r}}
	b.ReportAllocs()
	for b.Loop() {
		w.now = w.now.Add(time.Second)
		w.engine.Step(w.now, s)
	}
}

// A link that was cut "tomorrow", because the clock was set back over a restart, is
// cut since now: (run-for …) is not a day longer for it.
func TestCutInTheFuture(t *testing.T) {
	m := above("hot", "cpu.temp", 90)
	m.Options = scl.Options{Every: time.Minute, CutOff: scl.CutOff{RunFor: time.Hour}}
	e := core.New(nil, nil)
	e.Step(start, core.Link{Since: start.Add(24 * time.Hour)})
	e.Step(start, core.Rules{{Script: "s", Monitor: m, Nodes: rack[:1]}})
	hot := core.Sample{Node: rack[0], Refs: m.Condition.Refs, Readings: []fleet.Reading{{Value: fleet.Number(95, fleet.Celsius)}}}
	fires := e.Step(start.Add(2*time.Hour), hot).Fire
	if len(fires) != 1 || fires[0].Firing.Held == "" {
		t.Errorf("it is not held: %v", fires)
	}
}
