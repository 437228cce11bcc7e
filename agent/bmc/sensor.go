package bmc

import (
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/scan"
)

// sensor is one reading of a BMC, of a Sensor resource or of the older Thermal
// and Power resources.
type sensor struct {
	trait
	value  fleet.Value
	rpm    fleet.Value // of a fan that reads in percent
	health redfish.Text
	at     time.Time // of the reading
	err    error     // why it could not be read; the rest is what is known of it
}

// trait is what of a sensor stays the same from one reading to the next.
type trait struct {
	id      redfish.Text
	name    redfish.Text
	kind    redfish.Text // ReadingType: "Temperature", "Rotational", "Power", …
	context redfish.Text // PhysicalContext: "CPU", "Intake", …
	units   redfish.Text // ReadingUnits

	roles roleSet // those that it is of
	whole roleSet // those of these for which it speaks alone
}

// scanSensor reads the Sensor resource before which s stands. It was known as what
// an earlier reading of it told; the texts that are still the same are taken over,
// so that a steady monitor makes none anew.
func scanSensor(s *scan.Scanner, known *sensor) (found sensor) {
	var reading, rpm redfish.Number
	var health, rollup redfish.Text
	for name := range s.Members {
		switch string(name) {
		case "Id":
			found.id = word(s.Raw(), known.id)
		case "Name":
			found.name = word(s.Raw(), known.name)
		case "ReadingType":
			found.kind = word(s.Raw(), known.kind)
		case "PhysicalContext":
			found.context = word(s.Raw(), known.context)
		case "ReadingUnits":
			found.units = word(s.Raw(), known.units)
		case "Reading":
			_ = reading.UnmarshalJSON(s.Raw()) // like all of its kind it never fails
		case "SpeedRPM":
			_ = rpm.UnmarshalJSON(s.Raw())
		case "Status":
			for part := range s.Members {
				switch string(part) {
				case "Health":
					health = word(s.Raw(), known.health)
				case "HealthRollup":
					rollup = word(s.Raw(), known.health)
				}
			}
		}
	}
	found.health = redfish.Text(redfish.Status{Health: health, HealthRollup: rollup}.Worst())
	found.value = quantity(reading, string(found.units), string(found.name))
	if rpm.Set {
		found.rpm = fleet.Number(rpm.Value, fleet.RPM)
	}
	found.recognize(known.trait)
	return found
}

// maxWord bounds the texts of a sensor, in bytes: its names are searched with a
// dozen expressions, and kept.
const maxWord = 128

// word reads a text of a sensor.
func word(raw []byte, known redfish.Text) (t redfish.Text) {
	t.Take(raw, known)
	return cut(t)
}

func cut(t redfish.Text) redfish.Text {
	if len(t) > maxWord {
		t = redfish.Text(strings.ToValidUTF8(strings.Clone(string(t[:maxWord])), ""))
	}
	return t
}

// recognize finds the roles of a sensor: by looking at its names only if they are
// not those that it was known by.
func (t *trait) recognize(known trait) {
	if t.roles, t.whole = known.roles, known.whole; *t == known {
		return
	}
	t.roles, t.whole = 0, 0
	for _, r := range roles() {
		if !r.fits(*t) {
			continue
		}
		t.roles |= r.bit
		if r.first != nil && r.first.MatchString(t.label()) {
			t.whole |= r.bit
		}
	}
}

// label is where the words are searched that tell what a sensor measures.
func (t *trait) label() string { return strings.ToLower(string(t.id + " " + t.name)) }

// quantity is a reading in the base unit of its dimension. Units are the UCUM
// codes of DSP0268's ReadingUnits, and what older services write.
func quantity(n redfish.Number, unit, name string) fleet.Value {
	if !n.Set {
		return fleet.NoValue("the sensor " + name + " reports no value now")
	}
	switch unit {
	case "Cel", "C":
		return fleet.Number(n.Value, fleet.Celsius)
	case "%", "Percent":
		return fleet.Number(n.Value, fleet.Percent)
	case "RPM", "{rev}/min":
		return fleet.Number(n.Value, fleet.RPM)
	case "W":
		return fleet.Number(n.Value, fleet.Watt)
	case "kW":
		return fleet.Number(n.Value*1000, fleet.Watt)
	case "mW":
		return fleet.Number(n.Value/1000, fleet.Watt)
	case "V":
		return fleet.Number(n.Value, fleet.Volt)
	case "A":
		return fleet.Number(n.Value, fleet.Ampere)
	default:
		return fleet.Number(n.Value, fleet.NoUnit)
	}
}

// guess tells a sensor's kind by an id in the style of OpenBMC,
// "temperature_cpu0_temp"; an empty kind means that it has to be read.
func guess(id string) trait {
	prefix, rest, _ := strings.Cut(id, "_")
	t := trait{id: redfish.Text(id), name: redfish.Text(strings.ReplaceAll(rest, "_", " "))}
	switch prefix {
	case "temperature", "power", "voltage", "current", "energy", "humidity", "airflow", "pressure":
		t.kind = redfish.Text(prefix) // as ReadingType names it, but for the case
	case "fantach":
		t.kind = "Rotational"
	case "fanpwm", "utilization":
		t.kind = "Percent"
	}
	return t
}
