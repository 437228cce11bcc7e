package bmc

import (
	"context"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// chassisSources are the elements told by the parts of the chassis that are no
// sensors.
func chassisSources() map[string]source {
	return map[string]source{
		"fan.health":          fanHealth,
		"power.cap":           powerCap,
		"power.supply.health": supplyHealth,
		"power.redundancy":    redundancy,
	}
}

// doubt keeps the first failure that says more than that something is not
// there: only without one may an element be called absent.
type doubt struct{ err error }

func (d *doubt) get(ctx context.Context, v *view, uri redfish.Link, out any) bool {
	if uri == "" {
		return false
	}
	err := redfish.Get(ctx, v, uri, out)
	d.note(err)
	return err == nil
}

func (d *doubt) note(err error) {
	if err != nil && d.err == nil && !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Unsupported) {
		d.err = err
	}
}

// absent is the failure, or that the BMC reports no such thing.
func (d *doubt) absent(what string) error {
	if d.err != nil {
		return d.err
	}
	return absent(what)
}

// chassisOf reads every chassis.
func (v *view) chassisOf(ctx context.Context) ([]got[chassis], error) {
	all, err := v.chassisLinks(ctx)
	if err != nil {
		return nil, err
	}
	return resources[chassis](ctx, v, all, "chassis")
}

// part is an entry of the lists in the older Thermal and Power resources.
type part struct {
	Name    redfish.Text
	FanName redfish.Text
	Status  redfish.Status
}

// healths collects the health of parts: of the members of the collection that
// of finds in a chassis, or else of the entries that it finds in the older
// resource.
func (v *view) healths(ctx context.Context, what string, of func(chassis, *doubt) (redfish.Link, func() []part)) (sample, error) {
	all, err := v.chassisOf(ctx)
	if err != nil {
		return sample{}, err
	}
	var s sample
	var d doubt
	for _, g := range all {
		d.note(g.err)
		collection, older := of(g.value, &d)
		if collection != "" {
			found, err := parts[member](ctx, v, collection, what)
			d.note(err)
			got := membersOf(found, collection, healthOf)
			if s.all, s.uri = append(s.all, got.all...), collection; len(found) > 0 {
				continue
			}
		}
		for _, p := range older() {
			if !p.Status.Absent() {
				name := string(p.Name + p.FanName)
				s.all = append(s.all, fleet.Instance{Name: name, Value: textOf(redfish.Text(p.Status.Worst()), "health of "+name)})
			}
		}
	}
	if len(s.all) == 0 {
		return s, d.absent(what)
	}
	return s, nil
}

func fanHealth(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	return v.healths(ctx, "health of the fans", func(c chassis, d *doubt) (redfish.Link, func() []part) {
		var now struct{ Fans redfish.Link }
		d.get(ctx, v, c.ThermalSubsystem, &now)
		return now.Fans, func() []part {
			var older struct{ Fans []part }
			d.get(ctx, v, c.Thermal, &older)
			return older.Fans
		}
	})
}

func supplyHealth(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	return v.healths(ctx, "health of the power supplies", func(c chassis, d *doubt) (redfish.Link, func() []part) {
		var now struct{ PowerSupplies redfish.Link }
		d.get(ctx, v, c.PowerSubsystem, &now)
		return now.PowerSupplies, func() []part {
			var older struct{ PowerSupplies []part }
			d.get(ctx, v, c.Power, &older)
			return older.PowerSupplies
		}
	})
}

// redundancy is the health of the groups in which the supplies back each other.
func redundancy(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	all, err := v.chassisOf(ctx)
	if err != nil {
		return sample{}, err
	}
	var s sample
	var d doubt
	for _, g := range all {
		d.note(g.err)
		for _, uri := range links([]redfish.Link{g.value.PowerSubsystem, g.value.Power}) {
			var doc struct {
				Now   []part `json:"PowerSupplyRedundancy"`
				Older []part `json:"Redundancy"`
			}
			d.get(ctx, v, uri, &doc)
			for _, group := range append(doc.Now, doc.Older...) {
				s.uri = uri
				s.all = append(s.all, fleet.Instance{Name: string(group.Name), Value: textOf(redfish.Text(group.Status.Worst()), "health of this redundancy")})
			}
		}
	}
	if len(s.all) == 0 {
		return s, d.absent("redundancy of the power supplies")
	}
	return s, nil
}

// powerCap is the limit set on the server's consumption.
func powerCap(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	all, err := v.chassisOf(ctx)
	if err != nil {
		return sample{}, err
	}
	var d doubt
	for _, g := range all {
		d.note(g.err)
		c := g.value
		var e struct {
			Limit struct{ SetPoint redfish.Number } `json:"PowerLimitWatts"`
		}
		if d.get(ctx, v, c.EnvironmentMetrics, &e) && e.Limit.SetPoint.Set {
			return one("limit", fleet.Number(e.Limit.SetPoint.Value, fleet.Watt), c.EnvironmentMetrics), nil
		}
		var p struct {
			PowerControl []struct {
				PowerLimit struct{ LimitInWatts redfish.Number }
			}
		}
		if d.get(ctx, v, c.Power, &p) && len(p.PowerControl) > 0 && p.PowerControl[0].PowerLimit.LimitInWatts.Set {
			return one("limit", fleet.Number(p.PowerControl[0].PowerLimit.LimitInWatts.Value, fleet.Watt), c.Power), nil
		}
	}
	return sample{}, d.absent("power cap")
}
