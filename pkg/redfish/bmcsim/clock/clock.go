// Package clock is the time as a BMC has it and writes it. It is pure.
package clock

import "time"

// The ways in which OpenBMC writes a moment: most resources count seconds, the
// D-Bus log milliseconds, journal, dumps and boot progress microseconds.
const (
	Seconds      = "2006-01-02T15:04:05-07:00"
	Milliseconds = "2006-01-02T15:04:05.000-07:00"
	Microseconds = "2006-01-02T15:04:05.000000-07:00"
)

// Offset is how far a BMC's clock is off.
type Offset time.Duration

// At is a moment by the BMC's own clock.
func (o Offset) At(t time.Time) time.Time { return t.Add(time.Duration(o)) }

// Stamp is a moment by the BMC's own clock in a layout. The zone is always UTC.
func (o Offset) Stamp(t time.Time, layout string) string { return o.At(t).UTC().Format(layout) }
