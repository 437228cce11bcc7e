package compile_test

import (
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

// typical is the condition that most rules look like, and values that make it
// look at both of its comparisons.
func typical(tb testing.TB) (c *scl.Condition, slots []scl.Slot) {
	tb.Helper()
	c = example(tb, "thermal").Monitors[0].Condition
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

// BenchmarkAnyOfSixty looks at sixty sensors of which none fulfils it: 250 ns is
// the goal.
func BenchmarkAnyOfSixty(b *testing.B) {
	c := compiled(b, `(any (> cpu.temp 90))`)
	all := make([]fleet.Value, 60)
	for i := range all {
		all[i] = fleet.Number(float64(i), fleet.Celsius)
	}
	slots := []scl.Slot{{Value: all[59], All: all}}
	b.ReportAllocs()
	for b.Loop() {
		if c.Test(slots) != scl.False {
			b.Fatal("it is fulfilled")
		}
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

// TestConditions evaluates conditions over one node. Its values: what is not
// listed is unknown.
func TestConditions(t *testing.T) {
	known := map[string]scl.Slot{
		"cpu.temp":                one(fleet.Number(95, fleet.Celsius), 70, 95, 80),
		"cpu.rate":                {Value: fleet.Number(50, fleet.Percent)},
		"cpu.count":               {Value: fleet.Number(2, fleet.NoUnit)},
		"memory.size":             {Value: fleet.Number(64<<30, fleet.Byte)},
		"temp.inlet":              {Value: fleet.Number(20, fleet.Celsius)},
		"power.state":             {Value: fleet.Text("On")},
		"system.model":            {Value: fleet.Text("PowerEdge R640")},
		"firmware.bmc.updateable": {Value: fleet.Bool(true)},
		"fan.speed": {Value: fleet.Number(900, fleet.RPM), All: []fleet.Value{
			fleet.Number(900, fleet.RPM), fleet.NoValue("no reading"), fleet.Number(1200, fleet.RPM),
		}},
		`(redfish "/redfish/v1/x#/n")`: {Value: fleet.Number(5, fleet.NoUnit)},
		`(redfish "/redfish/v1/x#/t")`: {Value: fleet.Text("x")},
		`(redfish "/redfish/v1/x#/b")`: {Value: fleet.Bool(true)},
	}
	for src, want := range map[string]scl.Truth{
		`(> cpu.temp 90)`: scl.True, `(> cpu.temp 95)`: scl.False, `(>= cpu.temp 95C)`: scl.True,
		`(< cpu.temp 95)`: scl.False, `(<= cpu.temp 95)`: scl.True, `(< 90 cpu.temp)`: scl.True, `(>= 90 cpu.temp)`: scl.False,
		`(= cpu.count 2)`: scl.True, `(!= cpu.count 2)`: scl.False, `(= cpu.temp "95C")`: scl.True,
		`(> memory.size 60GB)`: scl.True, `(= memory.size "64GiB")`: scl.True, `(> cpu.temp temp.inlet)`: scl.True,

		// Unknown is not zero and never makes a rule fire.
		`(> cpu.power 0)`: scl.Unknown, `(< cpu.power 0)`: scl.Unknown, `(= cpu.power 0)`: scl.Unknown, `(!= cpu.power 0)`: scl.Unknown,
		`(not (> cpu.power 0))`: scl.Unknown, `(= cpu.model "x")`: scl.Unknown, `(matches cpu.model "x")`: scl.Unknown,
		`(or (> cpu.temp 90) (> cpu.power 0))`:            scl.True,
		`(or (> cpu.power 0) (> cpu.temp 90))`:            scl.True,
		`(or (> cpu.power 0) (> cpu.temp 99))`:            scl.Unknown,
		`(or (> cpu.temp 99) (> cpu.power 0))`:            scl.Unknown,
		`(or (> cpu.temp 99) (> cpu.rate 99))`:            scl.False,
		`(and (> cpu.temp 90) (> cpu.power 0))`:           scl.Unknown,
		`(and (> cpu.power 0) (> cpu.temp 99))`:           scl.False,
		`(and (> cpu.temp 90) (< cpu.rate 60))`:           scl.True,
		`(or (= cpu.count 3) (> cpu.power 0) (not #f))`:   scl.True,
		`(or (= cpu.count 3) (> cpu.power 0) #f)`:         scl.Unknown,
		`(and (= cpu.count 2) (> cpu.power 0) (not #t))`:  scl.False,
		`(and (= cpu.count 2) #t (> cpu.temp 1))`:         scl.True,
		`(known? cpu.temp)`:                               scl.True,
		`(known? cpu.power)`:                              scl.False,
		`(not (known? (+ cpu.temp cpu.temp)))`:            scl.False,
		`(known? (> cpu.power 0))`:                        scl.False,
		`(and (known? cpu.power) (> cpu.power 0))`:        scl.False,
		`(or (not (known? cpu.power)) (> cpu.power 100))`: scl.True,

		`(= power.state "on")`: scl.True, `(!= power.state "ON")`: scl.False, `(= system.model "poweredge r640")`: scl.False,
		`(in power.state "off" "on")`: scl.True, `(in power.state ("off" "paused"))`: scl.False, `(in cpu.count 1 2 3)`: scl.True,
		`(in cpu.model "a" "b")`: scl.Unknown, `(in cpu.power 1)`: scl.Unknown,
		`(matches system.model "^PowerEdge R[67]40$")`: scl.True, `(matches system.model "^R640")`: scl.False,
		`firmware.bmc.updateable`: scl.True, `(= firmware.bmc.updateable #f)`: scl.False, `(not firmware.x.updateable)`: scl.Unknown,

		`(> (+ cpu.temp 5) 99)`: scl.True, `(= (- cpu.temp temp.inlet) 75C)`: scl.True, `(= (- cpu.count) -2)`: scl.True,
		`(= (* cpu.count 3 2) 12)`: scl.True, `(> (* 2 temp.inlet) 39C)`: scl.True, `(= (/ cpu.temp temp.inlet) 4.75)`: scl.True,
		`(> (/ cpu.temp 0) 1)`: scl.Unknown, `(> (/ cpu.temp 2) 47C)`: scl.True, `(> (+ cpu.temp cpu.temp temp.inlet) 200)`: scl.True,
		`(> (+ cpu.power 5) 0)`: scl.Unknown, `(= (+ 1 1) 2)`: scl.True,

		// Over instances: those that are unknown are left out of a number, and
		// leave a predicate over all of them unknown.
		`(= (max cpu.temp) 95)`: scl.True, `(= (min cpu.temp) 70)`: scl.True, `(= (sum cpu.temp) 245)`: scl.True,
		`(< (avg cpu.temp) 82)`: scl.True, `(= (count cpu.temp) 3)`: scl.True, `(= (count fan.speed) 2)`: scl.True,
		`(= (count (> cpu.temp 75)) 2)`: scl.True, `(> (count (> fan.speed 1000)) 0)`: scl.Unknown, `(> (count cpu.power) 0)`: scl.Unknown,
		`(any (> cpu.temp 94))`: scl.True, `(any (> cpu.temp 95))`: scl.False, `(every (> cpu.temp 69))`: scl.True,
		`(every (> cpu.temp 70))`: scl.False, `(any (> fan.speed 1000))`: scl.True, `(any (> fan.speed 2000))`: scl.Unknown,
		`(every (> fan.speed 1000))`: scl.False, `(every (> fan.speed 100))`: scl.Unknown, `(any (known? fan.speed))`: scl.True,
		`(every (known? fan.speed))`: scl.False, `(any (> cpu.rate 49))`: scl.True, `(every (> cpu.power 49))`: scl.Unknown,
		`(= (max cpu.rate) 50)`: scl.True, `(> (max cpu.power) 50)`: scl.Unknown, `(= (max cpu.temp temp.inlet) 95)`: scl.True,
		`(= (min cpu.temp 10 temp.inlet) 10C)`: scl.True, `(= (avg temp.inlet 40) 30)`: scl.True, `(> (max cpu.temp temp.exhaust) 1)`: scl.Unknown,
		`(any (> cpu.temp (avg cpu.temp)))`: scl.True,

		// What only the BMC tells the type of.
		`(> (redfish "/redfish/v1/x#/n") 4)`: scl.True, `(> (redfish "/redfish/v1/x#/n") 4GB)`: scl.False, `(= (redfish "/redfish/v1/x#/n") 5)`: scl.True,
		`(= (redfish "/redfish/v1/x#/t") "x")`: scl.True, `(= (redfish "/redfish/v1/x#/t") 5)`: scl.Unknown,
		`(redfish "/redfish/v1/x#/b")`: scl.True, `(= (redfish "/redfish/v1/x#/b") #f)`: scl.False,
		`(= (redfish "/redfish/v1/x#/n") (redfish "/redfish/v1/x#/t"))`: scl.False,
		`(= (redfish "/redfish/v1/x#/n") (redfish "/redfish/v1/x#/z"))`: scl.Unknown,
		`(matches (redfish "/redfish/v1/x#/t") "x")`:                    scl.True,
		`(> (redfish "/redfish/v1/x#/z") 4)`:                            scl.Unknown,
	} {
		c := compiled(t, src)
		slots := make([]scl.Slot, len(c.Refs))
		for i, ref := range c.Refs {
			slots[i] = known[ref.Text]
		}
		if got := c.Test(slots); got != want {
			t.Errorf("%s is %v, want %v", src, got, want)
		}
	}
}

// compiled is the condition src.
func compiled(tb testing.TB, src string) *scl.Condition {
	tb.Helper()
	p, diags := compile.Source("x.scl", []byte(`(show (where `+src+`))`))
	if p == nil {
		tb.Fatal(diags)
	}
	return p.Steps[0].Target.Where
}

// one is a value with its instances, in the same unit.
func one(v fleet.Value, instances ...float64) scl.Slot {
	s := scl.Slot{Value: v}
	for _, n := range instances {
		s.All = append(s.All, fleet.Number(n, v.Unit()))
	}
	return s
}

func TestSharedReferenceHasOneSlot(t *testing.T) {
	c := compiled(t, `(and (> cpu.temp 10) (< cpu.temp 90) (known? cpu.rate))`)
	if len(c.Refs) != 2 || c.Refs[0].Text != "cpu.temp" || c.Refs[1].Text != "cpu.rate" {
		t.Errorf("references %v", c.Refs)
	}
}

func TestOperatorsAllocateNothing(t *testing.T) {
	for _, src := range []string{
		`(any (> cpu.temp 94))`, `(> (+ cpu.temp 5) (avg cpu.temp))`, `(in power.state "off" "on")`,
		`(> (count (> cpu.temp 1)) 3)`, `(and (known? cpu.temp) (not (= power.state "on")) (> cpu.temp 1))`,
	} {
		c := compiled(t, src)
		slots := make([]scl.Slot, len(c.Refs))
		for i, ref := range c.Refs {
			slots[i] = one(fleet.Number(50, fleet.Celsius), 50, 60)
			if ref.Element.Type == scl.TextType {
				slots[i] = scl.Slot{Value: fleet.Text("on")}
			}
		}
		if n := testing.AllocsPerRun(100, func() { c.Test(slots) }); n != 0 {
			t.Errorf("%s allocates %v times", src, n)
		}
	}
}
