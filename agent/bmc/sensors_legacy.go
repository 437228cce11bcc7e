package bmc

import (
	"context"

	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// legacySensors reads a Thermal or a Power resource (deprecated since 2020, the
// only ones of many BMCs in the field).
func (v *view) legacySensors(ctx context.Context, uri redfish.Link, known []sensor) ([]sensor, error) {
	type reading struct {
		ID      redfish.Text `json:"MemberId"`
		Name    redfish.Text
		FanName redfish.Text
		Context redfish.Text   `json:"PhysicalContext"`
		Celsius redfish.Number `json:"ReadingCelsius"`
		Fan     redfish.Number `json:"Reading"`
		Units   redfish.Text   `json:"ReadingUnits"`
		Watts   redfish.Number `json:"PowerConsumedWatts"`
		Status  redfish.Status
	}
	var doc struct{ Temperatures, Fans, PowerControl []reading }
	if err := redfish.Get(ctx, v, uri, &doc); err != nil {
		return nil, err
	}
	var found []sensor
	add := func(r reading, kind string, n redfish.Number, unit string) {
		if r.Status.Absent() || len(found) == maxSensors {
			return
		}
		if r.Name == "" {
			r.Name = r.FanName
		}
		s := sensor{
			trait: trait{id: cut(r.ID), name: cut(r.Name), kind: redfish.Text(kind), context: cut(r.Context), units: cut(redfish.Text(unit))},
			value: quantity(n, unit, string(cut(r.Name))), health: cut(redfish.Text(r.Status.Worst())),
		}
		s.recognize(at(known, len(found)).trait)
		found = append(found, s)
	}
	for _, t := range doc.Temperatures {
		add(t, "Temperature", t.Celsius, "Cel")
	}
	for _, f := range doc.Fans {
		add(f, "Rotational", f.Fan, string(f.Units))
	}
	for i, p := range doc.PowerControl {
		if i == 0 { // the first is the whole server (DSP0268, PowerControl)
			p.Name = "total power"
			add(p, "Power", p.Watts, "W")
		}
	}
	return found, nil
}
