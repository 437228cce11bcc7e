package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

const (
	bootStep  = "(boot pxe (once))"
	resetStep = "(power reset)"
)

var began = time.Unix(1000, 0)

func res(node fleet.NodeName, step string, end float64, status fleet.Status) fleet.Result {
	return fleet.Result{Node: node, Step: step, Status: status, Started: began, Took: time.Duration(end * float64(time.Second))}
}

// good is what a run should bring of the nodes a, b and c.
func good() []fleet.Result {
	return []fleet.Result{
		res("a", bootStep, 1, fleet.Attempted), res("a", resetStep, 2, fleet.Confirmed),
		res("b", bootStep, 1, fleet.Confirmed), res("b", resetStep, 4, fleet.Confirmed),
		res("c", bootStep, 1, fleet.Confirmed), res("c", resetStep, 3, fleet.Confirmed),
	}
}

func counted(results []fleet.Result) ScaleRun {
	r := ScaleRun{Healthy: 3}
	r.count(results, map[fleet.NodeName]bool{"a": true, "b": true, "c": true}, began)
	return r
}

func TestCountOfAGoodRun(t *testing.T) {
	got := counted(append(good(), res("sick", bootStep, 99, fleet.Unknown)))
	want := ScaleRun{Healthy: 3, Confirmed: 5, Attempted: 1, P50: 3, P99: 4} // the sick node counts for nothing
	if diff := cmp.Diff(want, got); diff != "" || !got.sound() {
		t.Errorf("sound %v (-want +got):\n%s", got.sound(), diff)
	}
}

// Each of these is what goal 12 forbids, and is seen; also where one lost result
// and one that came twice make the number right.
func TestCountCatchesWhatIsWrong(t *testing.T) {
	drop := func(at int) func([]fleet.Result) []fleet.Result {
		return func(all []fleet.Result) []fleet.Result { return append(all[:at:at], all[at+1:]...) }
	}
	again := func(at int) func([]fleet.Result) []fleet.Result {
		return func(all []fleet.Result) []fleet.Result { return append(all, all[at]) }
	}
	for name, c := range map[string]struct {
		change        []func([]fleet.Result) []fleet.Result
		lost, doubled int
	}{
		"one is lost":                    {[]func([]fleet.Result) []fleet.Result{drop(0)}, 1, 0},
		"a node is lost":                 {[]func([]fleet.Result) []fleet.Result{drop(0), drop(0)}, 2, 0},
		"one comes twice":                {[]func([]fleet.Result) []fleet.Result{again(5)}, 0, 1},
		"one comes three times":          {[]func([]fleet.Result) []fleet.Result{again(5), again(5)}, 0, 2},
		"one for the other of its node":  {[]func([]fleet.Result) []fleet.Result{again(1), drop(0)}, 1, 1},
		"one for the other of all nodes": {[]func([]fleet.Result) []fleet.Result{again(5), drop(0)}, 1, 1},
	} {
		all := good()
		for _, change := range c.change {
			all = change(all)
		}
		if got := counted(all); got.Lost != c.lost || got.Doubled != c.doubled || got.sound() {
			t.Errorf("%s: %d lost, %d doubled, sound %v", name, got.Lost, got.Doubled, got.sound())
		}
	}
}

func TestCountTellsTheFirstFailure(t *testing.T) {
	all := good()
	all[2].Status, all[2].Error = fleet.Failed, "refused"
	all[3].Status, all[3].Error = fleet.Skipped, "not tried"
	got := counted(all)
	if got.sound() || !strings.Contains(got.Why, "b: "+bootStep+": failed refused") || got.Lost+got.Doubled != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestSpread(t *testing.T) {
	id := func(f float64) float64 { return f }
	for want, all := range map[string][]float64{"1.5": {1.5}, "1 / 2 / 9": {9, 1, 2}, "0": nil} {
		if got := spreadOf(all, id).String(); got != want {
			t.Errorf("%v: %s, want %s", all, got, want)
		}
	}
}

func TestCPUOfAProcess(t *testing.T) {
	const line = "4242 (a) b (c) S 1 4242 4242 0 -1 4194560 9 8 7 6 150 50 3 2 20 0 9 0 77"
	if got := cpuIn(line); got != 2 {
		t.Errorf("%v s, want 2", got)
	}
	if got := cpuIn("4242 (cut off"); got != 0 {
		t.Errorf("%v s of a line that is cut off", got)
	}
}
