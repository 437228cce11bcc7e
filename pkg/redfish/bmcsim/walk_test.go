package bmcsim

import (
	"math"
	"testing"
	"time"
)

func TestSensorsStayPlausible(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	for seed := range uint64(20) {
		for step := range 500 {
			c := climate{seed: seed, on: true, cpus: 2, at: start.Add(time.Duration(step) * 7 * time.Second)}
			for name, r := range map[string]struct{ got, low, high float64 }{
				"inlet":   {c.inlet(), 18, 30},
				"load":    {c.load(0), 5, 60},
				"cpu":     {c.cpuTemp(1), 35, 70},
				"total":   {c.total(), 200, 450},
				"exhaust": {c.exhaust(), c.inlet(), 45},
				"fan":     {c.fan(3), 3000, 8000},
			} {
				if !(r.got >= r.low && r.got <= r.high) {
					t.Fatalf("seed %d, step %d: %s reads %v, want %v to %v", seed, step, name, r.got, r.low, r.high)
				}
			}
		}
	}
}

// A monitor must see a value move, not jump.
func TestSensorsMoveSmoothly(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	lowest, highest := math.Inf(1), math.Inf(-1)
	before := math.NaN()
	for second := range 3600 {
		c := climate{seed: 7, on: true, cpus: 2, at: start.Add(time.Duration(second) * time.Second)}
		v := c.cpuTemp(0)
		if math.Abs(v-before) > 1 {
			t.Fatalf("second %d: from %v to %v °C in one second", second, before, v)
		}
		before, lowest, highest = v, min(lowest, v), max(highest, v)
	}
	if highest-lowest < 5 {
		t.Errorf("in an hour it moved only from %v to %v °C", lowest, highest)
	}
}

func TestSensorsFollowSeedAndTimeAlone(t *testing.T) {
	at := time.Unix(1_700_000_123, 0)
	a, b := climate{seed: 1, on: true, cpus: 2, at: at}, climate{seed: 1, on: true, cpus: 2, at: at}
	if a.total() != b.total() {
		t.Error("one seed and one time give two readings")
	}
	if c := (climate{seed: 2, on: true, cpus: 2, at: at}); c.total() == a.total() {
		t.Error("two seeds give one reading")
	}
	if a.load(0) == a.load(1) {
		t.Error("both processors are equally busy")
	}
}

func TestSensorsOfAServerThatIsOff(t *testing.T) {
	c := climate{seed: 3, cpus: 2, at: time.Unix(1_700_000_000, 0)}
	if c.fan(0) != 0 || c.load(0) != 0 || c.cpuPower(0) != 0 {
		t.Errorf("fan %v, load %v, cpu power %v, want all 0", c.fan(0), c.load(0), c.cpuPower(0))
	}
	if c.cpuTemp(0) != c.inlet() {
		t.Errorf("cpu is at %v °C beside air of %v °C", c.cpuTemp(0), c.inlet())
	}
	if w := c.total(); w < 5 || w > 15 {
		t.Errorf("it draws %v W, want what a BMC needs", w)
	}
}
