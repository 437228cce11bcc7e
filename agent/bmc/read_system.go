package bmc

import (
	"context"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// systemSources are the elements that the ComputerSystem itself tells.
func systemSources() map[string]source {
	of := func(value func(*system) fleet.Value) source {
		return func(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
			s, uri, err := v.system(ctx)
			if err != nil {
				return sample{uri: uri}, err
			}
			return one(string(s.ID), value(s), uri), nil
		}
	}
	return map[string]source{
		"power.state":         of(func(s *system) fleet.Value { return wordOf(s.PowerState, "power state") }),
		"system.health":       of(func(s *system) fleet.Value { return textOf(redfish.Text(s.Status.Worst()), "health of the system") }),
		"system.model":        of(func(s *system) fleet.Value { return textOf(s.Model, "model") }),
		"system.manufacturer": of(func(s *system) fleet.Value { return textOf(s.Manufacturer, "manufacturer") }),
		"system.serial":       of(func(s *system) fleet.Value { return textOf(s.SerialNumber, "serial number") }),
		"system.uuid":         of(func(s *system) fleet.Value { return textOf(s.UUID, "UUID of the system") }),
		"system.sku":          of(func(s *system) fleet.Value { return textOf(s.SKU, "SKU") }),
		"system.asset-tag":    of(assetTag),
		"system.boot-progress": of(func(s *system) fleet.Value {
			return textOf(s.BootProgress.LastState, "boot progress")
		}),
		"system.boot-target": of(func(s *system) fleet.Value { return bootTarget(s.Boot) }),
		"system.led":         of(led),
		"bios.version":       of(func(s *system) fleet.Value { return textOf(s.BiosVersion, "BIOS version") }),
	}
}

func assetTag(s *system) fleet.Value {
	if s.AssetTag == nil {
		return fleet.NoValue("this BMC reports no asset tag")
	}
	return fleet.Text(string(*s.AssetTag))
}

// bootTarget is the source of the next boots as SCL writes it; "none" when
// nothing overrides the BIOS's own order.
func bootTarget(b boot) fleet.Value {
	if b.Target == "" {
		return fleet.NoValue("this BMC reports no boot override")
	}
	if b.Enabled == "Disabled" {
		return fleet.Text("none")
	}
	return fleet.Text(bootWord(string(b.Target)))
}

// led is the locating light: "on", "off" or "blink".
func led(s *system) fleet.Value {
	switch s.IndicatorLED {
	case "Lit":
		return fleet.Text("on")
	case "Blinking":
		return fleet.Text("blink")
	case "Off":
		// OpenBMC keeps the deprecated property beside the newer one.
		if !s.Locating.Value {
			return fleet.Text("off")
		}
	}
	switch {
	case !s.Locating.Set:
		return fleet.NoValue("this BMC reports no indicator light")
	case s.Locating.Value:
		return fleet.Text("on")
	default:
		return fleet.Text("off")
	}
}

// bmcSources are the elements of the BMC itself.
func bmcSources() map[string]source {
	of := func(value func(*manager) fleet.Value) source {
		return func(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
			m, uri, err := v.manager(ctx)
			if err != nil {
				return sample{uri: uri}, err
			}
			return one(lastSegment(uri), value(m), uri), nil
		}
	}
	return map[string]source{
		"bmc.version":  of(func(m *manager) fleet.Value { return textOf(m.FirmwareVersion, "firmware version of its own") }),
		"bmc.health":   of(func(m *manager) fleet.Value { return textOf(redfish.Text(m.Status.Worst()), "health of its own") }),
		"bmc.state":    of(func(m *manager) fleet.Value { return textOf(m.Status.State, "state of its own") }),
		"bmc.uuid":     of(func(m *manager) fleet.Value { return textOf(m.UUID, "UUID of its own") }),
		"bmc.latency":  latency,
		"bmc.sessions": sessions,
	}
}

// sessions counts who is logged in, ourselves among them.
func sessions(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	p, err := v.places(ctx)
	if err != nil {
		return sample{}, err
	}
	open, err := redfish.Members(ctx, v, p.root.SessionsURI(), maxParts)
	return one("open", fleet.Number(float64(len(open)), fleet.NoUnit), p.root.SessionsURI()), err
}

// latency is how long the BMC takes for a read, as a moving average over all
// that the lane reads.
func latency(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	known := func() time.Duration {
		v.lane.mu.Lock()
		defer v.lane.mu.Unlock()
		return v.lane.stats.Latency
	}
	if known() == 0 {
		if _, _, err := v.system(ctx); err != nil {
			return sample{}, err
		}
	}
	return one("read", fleet.Number(known().Seconds(), fleet.Second), ""), nil
}
