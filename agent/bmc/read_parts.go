package bmc

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
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

// got is one resource of several, or why it could not be read.
type got[T any] struct {
	uri   redfish.Link
	value T
	err   error
}

// parts reads every member of a collection; see resources.
func parts[T any](ctx context.Context, v *view, collection redfish.Link, what string) ([]got[T], error) {
	if collection == "" {
		return nil, absent(what)
	}
	members, err := redfish.Members(ctx, v, collection, maxParts)
	if err != nil {
		return nil, orAbsent(err, what)
	}
	return resources[T](ctx, v, members, what)
}

// resources reads several resources. One that fails stands for itself: its value is
// unknown, not absent. It is an error if all of them do. What the BMC says is not
// there is left out.
func resources[T any](ctx context.Context, v *view, members []redfish.Link, what string) ([]got[T], error) {
	all := each(members, func(uri redfish.Link) (g got[T]) {
		g.uri = uri
		g.err = redfish.Get(ctx, v, uri, &g.value)
		return g
	})
	if len(all) == 0 {
		return nil, absent(what)
	}
	first := all[0].err
	all = slices.DeleteFunc(all, func(g got[T]) bool { return fault.Is(g.err, fault.NotFound) || fault.Is(g.err, fault.Unsupported) })
	for _, g := range all {
		if g.err == nil {
			return all, nil
		}
		first = g.err
	}
	return nil, first
}

// whole is all of them, or why that is not known: for what is counted or added up.
func whole[T any](all []got[T]) (values []T, err error) {
	for _, g := range all {
		if g.err != nil {
			return nil, g.err
		}
		values = append(values, g.value)
	}
	return values, nil
}

// instances makes a sample of resources: an instance of each, unknown for those
// that were not read. Of is its name and value; an empty slot has no name.
func instances[T any](all []got[T], uri redfish.Link, of func(T) (redfish.Text, fleet.Value)) sample {
	s := sample{uri: uri}
	for _, g := range all {
		name, value := redfish.Text(lastSegment(g.uri)), fleet.Value{}
		if g.err != nil {
			value = fleet.NoValue(g.err.Error())
		} else if name, value = of(g.value); name == "" {
			continue
		}
		s.all = append(s.all, fleet.Instance{Name: string(name), Value: value})
	}
	return s
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
	if err != nil {
		return sample{uri: s.Processors}, err
	}
	all, err := whole(cpus)
	all = slices.DeleteFunc(all, func(m member) bool { return m.Status.Absent() })
	return one("processors", fleet.Number(float64(len(all)), fleet.NoUnit), s.Processors), err
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
	if err != nil {
		return sample{uri: s.Memory}, err
	}
	all, err := whole(dimms)
	total, known := 0.0, false
	for _, m := range all {
		total, known = total+m.Capacity.Value*(1<<20), known || m.Capacity.Set
	}
	if err == nil && !known {
		err = absent("capacity of the modules")
	}
	return one("memory", fleet.Number(total, fleet.Byte), s.Memory), err
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
	found := sample{uri: s.Memory}
	listed, err := parts[dimm](ctx, v, s.Memory, what)
	if err != nil {
		return found, err
	}
	dimms, err := whole(listed)
	if err != nil {
		return found, err
	}
	var doubts doubt
	for _, d := range dimms {
		var m struct {
			CurrentPeriod struct{ CorrectableECCErrorCount redfish.Number }
		}
		if doubts.get(ctx, v, d.Metrics, &m) {
			found.all = append(found.all, fleet.Instance{
				Name: string(d.ID), Value: measured(m.CurrentPeriod.CorrectableECCErrorCount, fleet.NoUnit, what),
			})
		}
	}
	if doubts.err != nil || len(found.all) == 0 {
		return found, doubts.absent(what)
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
func (v *view) ethernets(ctx context.Context) ([]got[ethernet], redfish.Link, error) {
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
	for i := range all {
		all[i].value.uri = all[i].uri
	}
	return all, s.Ethernet, err
}

func network(value func(ethernet) fleet.Value) source {
	return func(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
		all, uri, err := v.ethernets(ctx)
		return instances(all, uri, func(e ethernet) (redfish.Text, fleet.Value) { return cmp.Or(e.ID, "?"), value(e) }), err
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

func membersOf(all []got[member], uri redfish.Link, value func(member) fleet.Value) sample {
	return instances(all, uri, func(m member) (redfish.Text, fleet.Value) {
		if m.Status.Absent() {
			return "", fleet.Value{}
		}
		return cmp.Or(m.ID, "?"), value(m)
	})
}

func healthOf(m member) fleet.Value {
	return textOf(redfish.Text(m.Status.Worst()), "health of "+string(m.ID))
}
