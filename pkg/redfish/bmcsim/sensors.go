package bmcsim

import (
	"math"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/climate"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/form"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/sensors"
)

const sensorsURI = chassisURI + "/Sensors"

// read is the pinned value, or what the climate makes of it, to a thousandth.
func (b *BMC) read(s sensors.Sensor, now time.Time) form.Real {
	v, pinned := b.state.Pins[s.ID]
	if !pinned {
		v = s.Value(climate.Climate{Seed: b.cfg.Seed, On: b.power().Power != "Off", CPUs: b.cfg.CPUs, At: now})
	}
	return form.Real(math.Round(v*1000) / 1000)
}

func getSensors(b *BMC, _ *request) reply {
	var ids []string
	for _, s := range b.sensors {
		ids = append(ids, s.ID)
	}
	return collection(sensorsURI, "SensorCollection", "Sensors", ids, obj{"Description": "Collection of Sensors for this Chassis"})
}

func getSensor(b *BMC, q *request) reply {
	id := q.args["sensor"]
	list := b.sensors
	i := slices.IndexFunc(list, func(s sensors.Sensor) bool { return s.ID == id })
	if i < 0 {
		return notFound(id, "Sensor") // bmcweb swaps the two here
	}
	v := b.read(list[i], q.now)
	return ok(list[i].Body(sensorsURI, v, b.power().On()))
}

func getThermalMetrics(b *BMC, q *request) reply {
	readings := []obj{}
	for _, s := range b.sensors {
		if s.Temperature() {
			readings = append(readings, obj{"DataSourceUri": sensorsURI + "/" + s.ID, "Reading": b.read(s, q.now)})
		}
	}
	return ok(obj{
		"@odata.id":   chassisURI + "/ThermalSubsystem/ThermalMetrics",
		"@odata.type": "#ThermalMetrics.v1_0_1.ThermalMetrics", "Id": "ThermalMetrics", "Name": "Thermal Metrics",
		"TemperatureReadingsCelsius": readings, "TemperatureReadingsCelsius@odata.count": len(readings),
	})
}
