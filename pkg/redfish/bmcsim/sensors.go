package bmcsim

import (
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/climate"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

const sensorsURI = chassisURI + "/Sensors"

// sensor is one reading of the chassis. Its id is TYPE_NAME as in bmcweb.
type sensor struct {
	id, name    string
	ref         string // the SCL element it belongs to
	quantity    string // ReadingType
	units       string // ReadingUnits, as UCUM
	low, high   float64
	caution     limits
	critical    limits
	value       func(climate.Climate) float64
	hasLimits   bool
	temperature bool
}

// limits are thresholds; NaN is none.
type limits struct{ lower, upper float64 }

// sensors are all sensors of the hardware, in the order of their ids.
func (c Config) sensors() []sensor {
	list := []sensor{
		temperature("inlet", "temp.inlet", 40, 45, climate.Climate.Inlet),
		temperature("exhaust", "temp.exhaust", 60, 70, climate.Climate.Exhaust),
		wattage("total_power", "power.watts", climate.Climate.Total),
	}
	for i := range c.CPUs {
		cpu := "cpu" + strconv.Itoa(i)
		list = append(list,
			temperature(cpu, "cpu.temp", 90, 100, func(c climate.Climate) float64 { return c.CPUTemp(i) }),
			wattage(cpu, "cpu.power", func(c climate.Climate) float64 { return c.CPUPower(i) }),
			sensor{
				id: "utilization_" + cpu, name: cpu, ref: "cpu.rate", quantity: "Percent", units: "%", high: 100,
				value: func(c climate.Climate) float64 { return c.Load(i) },
			})
	}
	for i := range c.Fans {
		fan := "fan" + strconv.Itoa(i)
		none := math.NaN()
		list = append(list, sensor{
			id: "fantach_" + fan, name: fan, ref: "fan.speed", quantity: "Rotational", units: "RPM", high: 20000,
			value: func(c climate.Climate) float64 { return c.Fan(i) }, hasLimits: true,
			caution: limits{lower: 2000, upper: none}, critical: limits{lower: 1000, upper: none},
		})
	}
	slices.SortFunc(list, func(x, y sensor) int { return compareText(x.id, y.id) })
	return list
}

func temperature(name, ref string, caution, critical float64, value func(climate.Climate) float64) sensor {
	return sensor{
		id: "temperature_" + name, name: name, ref: ref, quantity: "Temperature", units: "Cel",
		low: -128, high: 127, hasLimits: true, temperature: true,
		caution: limits{lower: 5, upper: caution}, critical: limits{lower: 0, upper: critical}, value: value,
	}
}

func wattage(name, ref string, value func(climate.Climate) float64) sensor {
	return sensor{id: "power_" + name, name: name, ref: ref, quantity: "Power", units: "W", high: 3200, value: value}
}

// read is the pinned value, or what the climate makes of it, to a thousandth.
func (b *BMC) read(s sensor, now time.Time) real {
	v, pinned := b.state.Pins[s.id]
	if !pinned {
		v = s.value(climate.Climate{Seed: b.cfg.Seed, On: b.power().Power != "Off", CPUs: b.cfg.CPUs, At: now})
	}
	return real(math.Round(v*1000) / 1000)
}

// health is what the thresholds say. A server that is off has no slow fan.
func (s sensor) health(v float64, on bool) string {
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

func getSensors(b *BMC, _ *request) reply {
	var ids []string
	for _, s := range b.sensors {
		ids = append(ids, s.id)
	}
	return collection(sensorsURI, "SensorCollection", "Sensors", ids, obj{"Description": "Collection of Sensors for this Chassis"})
}

func getSensor(b *BMC, q *request) reply {
	id := q.args["sensor"]
	list := b.sensors
	i := slices.IndexFunc(list, func(s sensor) bool { return s.id == id })
	if i < 0 {
		return notFound(id, "Sensor") // bmcweb swaps the two here
	}
	s := list[i]
	v := b.read(s, q.now)
	o := obj{
		"@odata.id": sensorsURI + "/" + id, "@odata.type": "#Sensor.v1_11_1.Sensor", "Id": id, "Name": spaced(s.name),
		"Reading": v, "ReadingRangeMax": real(s.high), "ReadingRangeMin": real(s.low),
		"ReadingType": s.quantity, "ReadingUnits": s.units,
		"Status": obj{"Health": s.health(float64(v), b.power().on()), "State": "Enabled"},
	}
	if s.quantity == "Rotational" {
		o["SpeedRPM"] = v
	}
	if s.hasLimits {
		reading := func(v float64) obj { return obj{"Reading": real(v)} }
		o["Thresholds"] = obj{
			"LowerCaution": reading(s.caution.lower), "LowerCritical": reading(s.critical.lower),
			"UpperCaution": reading(s.caution.upper), "UpperCritical": reading(s.critical.upper),
		}
	}
	return ok(o)
}

func getThermalMetrics(b *BMC, q *request) reply {
	readings := []obj{}
	for _, s := range b.sensors {
		if s.temperature {
			readings = append(readings, obj{"DataSourceUri": sensorsURI + "/" + s.id, "Reading": b.read(s, q.now)})
		}
	}
	return ok(obj{
		"@odata.id":   chassisURI + "/ThermalSubsystem/ThermalMetrics",
		"@odata.type": "#ThermalMetrics.v1_0_1.ThermalMetrics", "Id": "ThermalMetrics", "Name": "Thermal Metrics",
		"TemperatureReadingsCelsius": readings, "TemperatureReadingsCelsius@odata.count": len(readings),
	})
}
