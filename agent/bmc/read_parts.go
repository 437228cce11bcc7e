package bmc

import (
	"context"
	"fmt"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

const (
	maxParts   = 512  // members of one collection of parts
	maxEntries = 5000 // entries of a log
)

// partSources are the elements told by the parts of a server.
func partSources() map[string]source {
	return map[string]source{
		"cpu.count":              cpuCount,
		"cpu.model":              cpuModel,
		"cpu.health":             cpuHealth,
		"memory.size":            memorySize,
		"memory.health":          memoryHealth,
		"memory.ecc-errors":      eccErrors,
		"storage.health":         storageHealth,
		"storage.volume.*.state": volumeState,
		"storage.drive.count":    driveCount,
		"storage.drive.health":   ofDrives(func(d drive) fleet.Value { return textOf(redfish.Text(d.Status.Worst()), "health of the drive") }),
		"storage.drive.life":     ofDrives(func(d drive) fleet.Value { return measured(d.Life, fleet.Percent, "life left of the drive") }),
		"network.ip":             network(func(e ethernet) fleet.Value { return textOf(firstAddress(e), "address of this interface") }),
		"network.mac":            network(func(e ethernet) fleet.Value { return textOf(e.MAC, "MAC of this interface") }),
		"network.speed":          network(func(e ethernet) fleet.Value { return measured(e.Mbps, fleet.NoUnit, "speed of this interface") }),
		"network.link":           network(linkOf),
		"bios.attr.*":            biosAttribute,
		"firmware.*.version":     firmware(func(f member) fleet.Value { return textOf(f.Version, "version of this firmware") }),
		"firmware.*.updateable":  firmware(updateable),
		"log.critical":           logCritical,
		"log.last":               logLast,
	}
}

// measured is a number, or the statement that the BMC reports no such thing.
func measured(n redfish.Number, unit fleet.Unit, what string) fleet.Value {
	if !n.Set {
		return fleet.NoValue("this BMC reports no " + what)
	}
	return fleet.Number(n.Value, unit)
}

// parts reads every member of a collection; one that fails is left out unless
// all of them do.
func parts[T any](ctx context.Context, v *view, collection redfish.Link, what string) ([]T, error) {
	if collection == "" {
		return nil, absent(what)
	}
	members, err := redfish.Members(ctx, v, collection, maxParts)
	if err != nil {
		return nil, orAbsent(err, what)
	}
	return resources[T](ctx, v, members, what)
}

func resources[T any](ctx context.Context, v *view, members []redfish.Link, what string) ([]T, error) {
	type result struct {
		value T
		err   error
	}
	var found []T
	var errs []error
	for _, r := range each(members, func(uri redfish.Link) (r result) {
		r.err = redfish.Get(ctx, v, uri, &r.value)
		return r
	}) {
		if r.err != nil {
			errs = append(errs, r.err)
			continue
		}
		found = append(found, r.value)
	}
	switch {
	case len(found) > 0:
		return found, nil
	case len(errs) > 0:
		return nil, errs[0]
	default:
		return nil, absent(what)
	}
}

func cpuCount(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	s, uri, err := v.system(ctx)
	if err != nil {
		return sample{uri: uri}, err
	}
	if s.CPU.Count.Set {
		return one("processors", fleet.Number(s.CPU.Count.Value, fleet.NoUnit), uri), nil
	}
	cpus, err := parts[member](ctx, v, s.Processors, "processors")
	return one("processors", fleet.Number(float64(len(cpus)), fleet.NoUnit), s.Processors), err
}

func cpuModel(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	s, uri, err := v.system(ctx)
	if err != nil {
		return sample{uri: uri}, err
	}
	if s.CPU.Model != "" {
		return one("processors", fleet.Text(string(s.CPU.Model)), uri), nil
	}
	cpus, err := parts[member](ctx, v, s.Processors, "processor model")
	return membersOf(cpus, s.Processors, func(m member) fleet.Value { return textOf(m.Model, "processor model") }), err
}

func cpuHealth(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	s, uri, err := v.system(ctx)
	if err != nil {
		return sample{uri: uri}, err
	}
	if s.CPU.Status.Worst() != "" {
		return one("processors", fleet.Text(s.CPU.Status.Worst()), uri), nil
	}
	cpus, err := parts[member](ctx, v, s.Processors, "health of the processors")
	return membersOf(cpus, s.Processors, healthOf), err
}

func memorySize(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	s, uri, err := v.system(ctx)
	if err != nil {
		return sample{uri: uri}, err
	}
	if s.RAM.GiB.Set && s.RAM.GiB.Value > 0 {
		return one("memory", fleet.Number(s.RAM.GiB.Value*(1<<30), fleet.Byte), uri), nil
	}
	dimms, err := parts[member](ctx, v, s.Memory, "memory size")
	return membersOf(dimms, s.Memory, func(m member) fleet.Value {
		if !m.Capacity.Set {
			return fleet.NoValue("this BMC reports no capacity of the module")
		}
		return fleet.Number(m.Capacity.Value*(1<<20), fleet.Byte)
	}), err
}

func memoryHealth(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	s, uri, err := v.system(ctx)
	if err != nil {
		return sample{uri: uri}, err
	}
	if s.RAM.Status.Worst() != "" {
		return one("memory", fleet.Text(s.RAM.Status.Worst()), uri), nil
	}
	dimms, err := parts[member](ctx, v, s.Memory, "health of the memory")
	return membersOf(dimms, s.Memory, healthOf), err
}

// eccErrors adds up what the modules corrected since the server's start.
func eccErrors(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	const what = "memory errors"
	s, uri, err := v.system(ctx)
	if err != nil {
		return sample{uri: uri}, err
	}
	type dimm struct {
		ID      redfish.Text `json:"Id"`
		Metrics redfish.Link
	}
	dimms, err := parts[dimm](ctx, v, s.Memory, what)
	if err != nil {
		return sample{uri: s.Memory}, err
	}
	found := sample{uri: s.Memory}
	for _, d := range dimms {
		var m struct {
			CurrentPeriod struct{ CorrectableECCErrorCount redfish.Number }
		}
		if d.Metrics != "" && redfish.Get(ctx, v, d.Metrics, &m) == nil {
			found.all = append(found.all, fleet.Instance{
				Name: string(d.ID), Value: measured(m.CurrentPeriod.CorrectableECCErrorCount, fleet.NoUnit, what),
			})
		}
	}
	if len(found.all) == 0 {
		return found, absent(what)
	}
	return found, nil
}

// biosAttribute is one of the host firmware's settings, as it is now.
func biosAttribute(ctx context.Context, v *view, ref scl.Ref) (sample, error) {
	what := fmt.Sprintf("BIOS attribute %q", ref.Param)
	s, uri, err := v.system(ctx)
	if err != nil {
		return sample{uri: uri}, err
	}
	if s.Bios == "" {
		return sample{uri: uri}, absent(what)
	}
	var bios struct{ Attributes map[string]any }
	if err := redfish.Get(ctx, v, s.Bios, &bios); err != nil {
		return sample{uri: s.Bios}, orAbsent(err, what)
	}
	value, found := bios.Attributes[ref.Param]
	if !found || value == nil {
		return sample{uri: s.Bios}, absent(what)
	}
	return one(ref.Param, fleet.Text(fmt.Sprint(value)), s.Bios), nil
}

// ethernets are the interfaces of the host, never those of the BMC.
func (v *view) ethernets(ctx context.Context) ([]ethernet, redfish.Link, error) {
	const what = "host network interface"
	s, uri, err := v.system(ctx)
	if err != nil {
		return nil, uri, err
	}
	if s.Ethernet == "" {
		return nil, uri, absent(what)
	}
	members, err := redfish.Members(ctx, v, s.Ethernet, maxParts)
	if err != nil {
		return nil, s.Ethernet, orAbsent(err, what)
	}
	all, err := resources[ethernet](ctx, v, members, what)
	if len(all) == len(members) {
		for i := range all {
			all[i].uri = members[i]
		}
	}
	return all, s.Ethernet, err
}

func network(value func(ethernet) fleet.Value) source {
	return func(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
		all, uri, err := v.ethernets(ctx)
		s := sample{uri: uri}
		for _, e := range all {
			s.all = append(s.all, fleet.Instance{Name: string(e.ID), Value: value(e)})
		}
		return s, err
	}
}

func firstAddress(e ethernet) redfish.Text {
	for _, a := range append(e.Addresses, e.Static...) {
		if a.Address != "" {
			return a.Address
		}
	}
	return ""
}

// linkOf is "up", "down" or what else the BMC says.
func linkOf(e ethernet) fleet.Value {
	return wordOf(redfish.Text(strings.TrimPrefix(string(e.LinkStatus), "Link")), "link state of this interface")
}

func membersOf(all []member, uri redfish.Link, value func(member) fleet.Value) sample {
	s := sample{uri: uri}
	for _, m := range all {
		if !m.Status.Absent() {
			s.all = append(s.all, fleet.Instance{Name: string(m.ID), Value: value(m)})
		}
	}
	return s
}

func healthOf(m member) fleet.Value {
	return textOf(redfish.Text(m.Status.Worst()), "health of "+string(m.ID))
}
