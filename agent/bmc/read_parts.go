package bmc

import (
	"context"
	"errors"
	"fmt"
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

func storageHealth(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	s, uri, err := v.system(ctx)
	if err != nil {
		return sample{uri: uri}, err
	}
	stores, err := parts[member](ctx, v, s.Storage, "health of the storage")
	return membersOf(stores, s.Storage, healthOf), err
}

func driveCount(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	found, uri, err := v.driveLinks(ctx)
	return one("drives", fleet.Number(float64(len(found)), fleet.NoUnit), uri), err
}

func ofDrives(value func(drive) fleet.Value) source {
	return func(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
		found, uri, err := v.drives(ctx)
		s := sample{uri: uri}
		for _, d := range found {
			s.all = append(s.all, fleet.Instance{Name: string(d.ID), Value: value(d)})
		}
		return s, err
	}
}

// volumeState finds the volume of that id or name in all storage.
func volumeState(ctx context.Context, v *view, ref scl.Ref) (sample, error) {
	what := fmt.Sprintf("volume %q", ref.Param)
	s, uri, err := v.system(ctx)
	if err != nil {
		return sample{uri: uri}, err
	}
	type store struct{ Volumes redfish.Link }
	stores, err := parts[store](ctx, v, s.Storage, what)
	if err != nil {
		return sample{uri: s.Storage}, err
	}
	for _, st := range stores {
		volumes, err := parts[member](ctx, v, st.Volumes, what)
		if err != nil && !fault.Is(err, fault.Unsupported) {
			return sample{uri: st.Volumes}, err
		}
		for _, m := range volumes {
			if same(string(m.ID), ref.Param) || same(string(m.Name), ref.Param) {
				return one(string(m.ID), textOf(m.Status.State, "state of the volume"), st.Volumes), nil
			}
		}
	}
	return sample{uri: s.Storage}, absent(what)
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

// driveLinks are the drives of all storage, or those of the chassis where the
// storage lists none.
func (v *view) driveLinks(ctx context.Context) ([]redfish.Link, redfish.Link, error) {
	s, uri, err := v.system(ctx)
	if err != nil {
		return nil, uri, err
	}
	type store struct{ Drives []redfish.Link }
	stores, err := parts[store](ctx, v, s.Storage, "storage")
	if err != nil {
		return nil, s.Storage, err
	}
	var found []redfish.Link
	for _, st := range stores {
		found = append(found, st.Drives...)
	}
	return links(found), s.Storage, nil
}

func (v *view) drives(ctx context.Context) ([]drive, redfish.Link, error) {
	found, uri, err := v.driveLinks(ctx)
	if err != nil {
		return nil, uri, err
	}
	all, err := resources[drive](ctx, v, found, "drives")
	return all, uri, err
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

// firmware finds the entry of the inventory that the reference names: by its
// id, by its id without the hash that OpenBMC appends ("bios" for
// "bios_e5f60718"), or by its name.
func firmware(value func(member) fleet.Value) source {
	return func(ctx context.Context, v *view, ref scl.Ref) (sample, error) {
		what := fmt.Sprintf("firmware %q", ref.Param)
		members, uri, err := v.firmwareLinks(ctx)
		if err != nil {
			return sample{uri: uri}, orAbsent(err, what)
		}
		for _, m := range members {
			id := lastSegment(m)
			if !same(id, ref.Param) && !strings.HasPrefix(strings.ToLower(id), strings.ToLower(ref.Param)+"_") {
				continue
			}
			var f member
			err = redfish.Get(ctx, v, m, &f)
			return one(id, value(f), m), err
		}
		all, err := resources[member](ctx, v, members, what)
		for _, f := range all {
			if same(string(f.Name), ref.Param) {
				return one(string(f.ID), value(f), uri), nil
			}
		}
		if err == nil {
			err = absent(what)
		}
		return sample{uri: uri}, err
	}
}

func (v *view) firmwareLinks(ctx context.Context) ([]redfish.Link, redfish.Link, error) {
	p, err := v.places(ctx)
	if err != nil {
		return nil, "", err
	}
	var service struct{ FirmwareInventory redfish.Link }
	if p.root.UpdateService == "" {
		return nil, "", absent("firmware inventory")
	}
	if err = redfish.Get(ctx, v, p.root.UpdateService, &service); err != nil {
		return nil, p.root.UpdateService, err
	}
	members, err := redfish.Members(ctx, v, service.FirmwareInventory, maxParts)
	return members, service.FirmwareInventory, err
}

func updateable(f member) fleet.Value {
	if !f.Updateable.Set {
		return fleet.NoValue("this BMC does not report whether the firmware can be updated")
	}
	return fleet.Bool(f.Updateable.Value)
}

// logEntry is what is read of a LogEntry.
type logEntry struct {
	Created  redfish.Text
	Severity redfish.Text
	Message  redfish.Text
}

// eventLog reads the system's log of events.
func (v *view) eventLog(ctx context.Context) ([]logEntry, redfish.Link, error) {
	service, uri, err := v.logService(ctx)
	if err != nil {
		return nil, uri, err
	}
	raw, err := redfish.Entries(ctx, v, service.Entries, maxEntries)
	if err != nil {
		return nil, service.Entries, err
	}
	entries := make([]logEntry, len(raw))
	for i, r := range raw {
		_ = redfish.Decode(r, &entries[i]) // it came inside valid JSON
	}
	return entries, service.Entries, nil
}

// logService is what is read of a LogService.
type logService struct {
	Entries redfish.Link
	Actions struct {
		Clear struct {
			Target string `json:"target"`
		} `json:"#LogService.ClearLog"`
	}
}

// logService finds the log of events: the system's, by the usual ids, else the
// first one, else the manager's.
func (v *view) logService(ctx context.Context) (*logService, redfish.Link, error) {
	const what = "event log"
	s, uri, err := v.system(ctx)
	if err != nil {
		return nil, uri, err
	}
	collections := []redfish.Link{s.LogServices}
	if p, err := v.places(ctx); err == nil && p.manager != "" {
		var m struct{ LogServices redfish.Link }
		if s.LogServices == "" && redfish.Get(ctx, v, p.manager, &m) == nil {
			collections = append(collections, m.LogServices)
		}
	}
	for _, collection := range links(collections) {
		members, err := redfish.Members(ctx, v, collection, maxParts)
		if err != nil {
			return nil, collection, orAbsent(err, what)
		}
		for _, id := range []string{"EventLog", "SEL", "Log1", ""} {
			for _, m := range members {
				if id == "" || strings.EqualFold(lastSegment(m), id) {
					service := &logService{}
					err := redfish.Get(ctx, v, m, service)
					return service, m, err
				}
			}
		}
	}
	return nil, uri, absent(what)
}

func logCritical(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	entries, uri, err := v.eventLog(ctx)
	n := 0
	for _, e := range entries {
		if e.Severity == "Critical" {
			n++
		}
	}
	return one("entries", fleet.Number(float64(n), fleet.NoUnit), uri), err
}

// logLast is the text of the newest entry. BMCs sort either way, and their
// clocks may stand at 1970, so that the time decides and order only a tie.
func logLast(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	entries, uri, err := v.eventLog(ctx)
	if err == nil && len(entries) == 0 {
		err = errors.New("the event log is empty")
	}
	var last logEntry
	for _, e := range entries {
		if last.Message == "" || e.Created > last.Created {
			last = e
		}
	}
	return one(string(last.Created), textOf(last.Message, "text of the entry"), uri), err
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
