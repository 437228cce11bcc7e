package climate_test

import (
	"math"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/climate"
)

func TestSensorsStayPlausible(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	for seed := range uint64(20) {
		for step := range 500 {
			c := climate.Climate{Seed: seed, On: true, CPUs: 2, At: start.Add(time.Duration(step) * 7 * time.Second)}
			for name, r := range map[string]struct{ got, low, high float64 }{
				"inlet":   {c.Inlet(), 18, 30},
				"load":    {c.Load(0), 5, 60},
				"cpu":     {c.CPUTemp(1), 35, 70},
				"total":   {c.Total(), 200, 450},
				"exhaust": {c.Exhaust(), c.Inlet(), 45},
				"fan":     {c.Fan(3), 3000, 8000},
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
		c := climate.Climate{Seed: 7, On: true, CPUs: 2, At: start.Add(time.Duration(second) * time.Second)}
		v := c.CPUTemp(0)
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
	a, b := climate.Climate{Seed: 1, On: true, CPUs: 2, At: at}, climate.Climate{Seed: 1, On: true, CPUs: 2, At: at}
	if a.Total() != b.Total() {
		t.Error("one seed and one time give two readings")
	}
	if c := (climate.Climate{Seed: 2, On: true, CPUs: 2, At: at}); c.Total() == a.Total() {
		t.Error("two seeds give one reading")
	}
	if a.Load(0) == a.Load(1) {
		t.Error("both processors are equally busy")
	}
}

func TestSensorsOfAServerThatIsOff(t *testing.T) {
	c := climate.Climate{Seed: 3, CPUs: 2, At: time.Unix(1_700_000_000, 0)}
	if c.Fan(0) != 0 || c.Load(0) != 0 || c.CPUPower(0) != 0 {
		t.Errorf("fan %v, load %v, cpu power %v, want all 0", c.Fan(0), c.Load(0), c.CPUPower(0))
	}
	if c.CPUTemp(0) != c.Inlet() {
		t.Errorf("cpu is at %v °C beside air of %v °C", c.CPUTemp(0), c.Inlet())
	}
	if w := c.Total(); w < 5 || w > 15 {
		t.Errorf("it draws %v W, want what a BMC needs", w)
	}
}
