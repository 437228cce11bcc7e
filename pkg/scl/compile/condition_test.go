package compile_test

import (
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// typical is the condition that most rules look like, and values that make it
// look at both of its comparisons.
func typical(t testing.TB) (c *scl.Condition, slots []scl.Slot) {
	t.Helper()
	c = example(t, "thermal").Monitors[0].Condition
	return c, []scl.Slot{
		{Value: fleet.Number(50, fleet.Percent)},
		{Value: fleet.Number(60, fleet.Celsius)},
	}
}

func TestTestAllocatesNothing(t *testing.T) {
	c, slots := typical(t)
	if n := testing.AllocsPerRun(100, func() { c.Test(slots) }); n != 0 {
		t.Errorf("%s allocates %v times", c.Text, n)
	}
}

// BenchmarkCondition is held against BenchmarkInGo: at most four times it.
func BenchmarkCondition(b *testing.B) {
	c, slots := typical(b)
	b.ReportAllocs()
	for b.Loop() {
		c.Test(slots)
	}
}

func BenchmarkInGo(b *testing.B) {
	_, slots := typical(b)
	for b.Loop() {
		inGo(slots)
	}
}

// inGo is the condition of thermal.scl as a person would write it in Go.
//
//go:noinline
func inGo(s []scl.Slot) scl.Truth {
	rate, ok1 := s[0].Value.Number()
	temp, ok2 := s[1].Value.Number()
	switch {
	case ok1 && rate > 80 || ok2 && temp > 90:
		return scl.True
	case ok1 && ok2:
		return scl.False
	}
	return scl.Unknown
}
