// Package climate is what sensors would read in a server. It is pure: the time is
// told.
package climate

import (
	"math"
	"time"
)

// Climate is what sensors would read in a server, as a pure function of a seed
// and the time: two BMCs with one seed agree, a restarted one goes on where it
// was, and nothing has to run between two readings.
type Climate struct {
	Seed uint64
	On   bool // switched on
	CPUs int
	At   time.Time
}

// drift wanders between 0 and 1 with about one turn per period.
func (c Climate) drift(salt uint64, period time.Duration) float64 {
	t := float64(c.At.UnixMilli()) / float64(period.Milliseconds())
	return 0.7*c.noise(salt, t) + 0.3*c.noise(salt+1, 4*t)
}

// noise joins random values at whole numbers by smooth curves.
func (c Climate) noise(salt uint64, t float64) float64 {
	step := math.Floor(t)
	a, b := c.random(salt, int64(step)), c.random(salt, int64(step)+1)
	f := t - step
	f = f * f * (3 - 2*f)
	return a + (b-a)*f
}

// random is a hash of its arguments as a number from 0 to 1 (splitmix64).
func (c Climate) random(salt uint64, step int64) float64 {
	z := c.Seed ^ salt*0x9e3779b97f4a7c15 ^ uint64(step)*0xbf58476d1ce4e5b9
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}

// Inlet is the temperature of the aisle in °C.
func (c Climate) Inlet() float64 { return 21 + 5*c.drift(10, 20*time.Minute) }

// Load is the utilisation of a processor in percent. It stays far from the 80
// percent that people watch for: only a hand on the simulator makes that.
func (c Climate) Load(cpu int) float64 {
	if !c.On {
		return 0
	}
	return 6 + 44*c.drift(100+2*uint64(cpu), 90*time.Second)
}

// CPUTemp is the temperature of a processor in °C.
func (c Climate) CPUTemp(cpu int) float64 {
	if !c.On {
		return c.Inlet()
	}
	return c.Inlet() + 16 + 0.5*c.Load(cpu)
}

// CPUPower is what a processor draws, in watts.
func (c Climate) CPUPower(cpu int) float64 {
	if !c.On {
		return 0
	}
	return 62 + 2.1*c.Load(cpu)
}

// Total is the power of the whole server in watts; off, the BMC still draws.
func (c Climate) Total() float64 {
	if !c.On {
		return 9 + 2*c.drift(20, time.Minute)
	}
	sum := 95 + 10*c.drift(20, time.Minute)
	for cpu := range c.CPUs {
		sum += c.CPUPower(cpu)
	}
	return sum
}

// Exhaust is the temperature behind the server in °C.
func (c Climate) Exhaust() float64 {
	if !c.On {
		return c.Inlet() + 0.5
	}
	return c.Inlet() + 4 + c.Total()/60
}

// Fan is the speed of a fan in turns per minute: it follows the hottest processor.
func (c Climate) Fan(i int) float64 {
	if !c.On {
		return 0
	}
	hottest := 0.0
	for cpu := range c.CPUs {
		hottest = max(hottest, c.CPUTemp(cpu))
	}
	return 3200 + 85*max(hottest-30, 0) + 120*c.drift(300+2*uint64(i), 30*time.Second)
}
