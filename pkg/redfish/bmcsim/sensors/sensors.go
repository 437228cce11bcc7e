// Package sensors are those of a server's chassis: what they are called, when they
// are content, and how their readings are written. What they read is the
// climate's. It is pure.
package sensors

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/climate"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/form"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// Sensor is one reading of the chassis. Its id is TYPE_NAME as in bmcweb.
type Sensor struct {
	ID, Name  string
	Ref       string // the SCL element it belongs to
	Quantity  string // ReadingType
	units     string // ReadingUnits, as UCUM
	low, high float64
	caution   limits
	critical  limits
	Value     func(climate.Climate) float64
	hasLimits bool
}

// limits are thresholds; NaN is none.
type limits struct{ lower, upper float64 }

// Of are all sensors of a server with so many processors and fans, in the order of
// their ids.
func Of(cpus, fans int) []Sensor {
	list := []Sensor{
		temperature("inlet", "temp.inlet", 40, 45, climate.Climate.Inlet),
		temperature("exhaust", "temp.exhaust", 60, 70, climate.Climate.Exhaust),
		wattage("total_power", "power.watts", climate.Climate.Total),
	}
	for i := range cpus {
		cpu := "cpu" + strconv.Itoa(i)
		list = append(list,
			temperature(cpu, "cpu.temp", 90, 100, func(c climate.Climate) float64 { return c.CPUTemp(i) }),
			wattage(cpu, "cpu.power", func(c climate.Climate) float64 { return c.CPUPower(i) }),
			Sensor{
				ID: "utilization_" + cpu, Name: cpu, Ref: "cpu.rate", Quantity: "Percent", units: "%", high: 100,
				Value: func(c climate.Climate) float64 { return c.Load(i) },
			})
	}
	for i := range fans {
		fan := "fan" + strconv.Itoa(i)
		none := math.NaN()
		list = append(list, Sensor{
			ID: "fantach_" + fan, Name: fan, Ref: "fan.speed", Quantity: "Rotational", units: "RPM", high: 20000,
			Value: func(c climate.Climate) float64 { return c.Fan(i) }, hasLimits: true,
			caution: limits{lower: 2000, upper: none}, critical: limits{lower: 1000, upper: none},
		})
	}
	slices.SortFunc(list, func(x, y Sensor) int { return strings.Compare(x.ID, y.ID) })
	return list
}

func temperature(name, ref string, caution, critical float64, value func(climate.Climate) float64) Sensor {
	return Sensor{
		ID: "temperature_" + name, Name: name, Ref: ref, Quantity: "Temperature", units: "Cel",
		low: -128, high: 127, hasLimits: true,
		caution: limits{lower: 5, upper: caution}, critical: limits{lower: 0, upper: critical}, Value: value,
	}
}

func wattage(name, ref string, value func(climate.Climate) float64) Sensor {
	return Sensor{ID: "power_" + name, Name: name, Ref: ref, Quantity: "Power", units: "W", high: 3200, Value: value}
}

// Health is what the thresholds say of a reading. A server that is off has no slow fan.
func (s Sensor) Health(v float64, on bool) string {
	outside := func(l limits) bool { return on && v < l.lower || v > l.upper }
	switch {
	case !s.hasLimits:
		return message.OK
	case outside(s.critical):
		return message.Critical
	case outside(s.caution):
		return message.Warning
	}
	return message.OK
}

// Temperature reports whether the sensor measures one.
func (s Sensor) Temperature() bool { return s.Quantity == "Temperature" }

// Unit is that of the sensor's readings.
func (s Sensor) Unit() fleet.Unit {
	switch s.Quantity {
	case "Temperature":
		return fleet.Celsius
	case "Percent":
		return fleet.Percent
	case "Rotational":
		return fleet.RPM
	}
	return fleet.Watt
}

// Body is the sensor as a member of the collection at uri, with its reading in a
// server that is on or off.
func (s Sensor) Body(uri string, v form.Real, on bool) map[string]any {
	o := map[string]any{
		"@odata.id": uri + "/" + s.ID, "@odata.type": "#Sensor.v1_11_1.Sensor", "Id": s.ID, "Name": strings.ReplaceAll(s.Name, "_", " "),
		"Reading": v, "ReadingRangeMax": form.Real(s.high), "ReadingRangeMin": form.Real(s.low),
		"ReadingType": s.Quantity, "ReadingUnits": s.units,
		"Status": map[string]any{"Health": s.Health(float64(v), on), "State": "Enabled"},
	}
	if s.Quantity == "Rotational" {
		o["SpeedRPM"] = v
	}
	if s.hasLimits {
		reading := func(v float64) map[string]any { return map[string]any{"Reading": form.Real(v)} }
		o["Thresholds"] = map[string]any{
			"LowerCaution": reading(s.caution.lower), "LowerCritical": reading(s.critical.lower),
			"UpperCaution": reading(s.caution.upper), "UpperCritical": reading(s.critical.upper),
		}
	}
	return o
}
