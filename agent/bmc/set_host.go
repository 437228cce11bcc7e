package bmc

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// noHostInterface is what a BMC lacks that shows only its own network.
const noHostInterface = "not supported by this BMC: it shows no host network interface"

// interfaceSetting is (network (interface NAME (ip …) (netmask …) (gateway …)
// (dhcp …))): the host's interface, never the BMC's own.
type interfaceSetting struct{}

func (interfaceSetting) settles(l *Lane) time.Duration { return 10 * l.cfg.Poll }

func (interfaceSetting) compare(ctx context.Context, v *view, settings []scl.Setting) []fleet.Change {
	e, err := v.ethernet(ctx, settings[0].Name)
	if err != nil {
		return unread(settings, err)
	}
	out := make([]fleet.Change, len(settings))
	for i, s := range settings {
		out[i] = e.compare(s)
	}
	return out
}

func (e *ethernet) compare(s scl.Setting) fleet.Change {
	a := e.address()
	want := s.Value.String()
	switch s.Field {
	case "ip":
		return compared(string(a.Address), sameAddress(string(a.Address), want))
	case "netmask":
		return compared(string(a.SubnetMask), sameAddress(string(a.SubnetMask), want))
	case "gateway":
		return compared(string(a.Gateway), sameAddress(string(a.Gateway), want))
	case "dhcp":
		if !e.DHCP.Enabled.Set {
			return unsupported("not supported by this BMC: it does not show whether the host's interface uses DHCP")
		}
		want, _ := s.Value.Bool()
		return compared(fleet.Bool(e.DHCP.Enabled.Value).String(), e.DHCP.Enabled.Value == want)
	default:
		return unsupported("the agent can't configure " + s.Path())
	}
}

// address is the one that was set, else the one in use.
func (e *ethernet) address() ipv4 {
	for _, a := range append(e.Static, e.Addresses...) {
		if a.Address != "" {
			return a
		}
	}
	return ipv4{}
}

func sameAddress(a, b string) bool {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x == y
}

// ethernet is the host's interface of that name or id, or with that MAC.
func (v *view) ethernet(ctx context.Context, name string) (*ethernet, error) {
	listed, _, err := v.ethernets(ctx)
	if err != nil {
		if fault.Is(err, fault.Unsupported) {
			return nil, fault.New(fault.Unsupported, "", noHostInterface)
		}
		return nil, err
	}
	var names []string
	var d doubt // of one that could not be read: it may be the one
	for i := range listed {
		d.note(listed[i].err)
		e := &listed[i].value
		if e.uri != "" && (strings.EqualFold(string(e.ID), name) || strings.EqualFold(string(e.Name), name) || strings.EqualFold(string(e.MAC), name)) {
			return e, nil
		}
		names = append(names, string(e.ID))
	}
	if d.err != nil {
		return nil, d.err
	}
	return nil, fault.New(fault.Unsupported, "", fmt.Sprintf("not supported by this BMC: it shows no host interface %q, only %s", name, strings.Join(names, ", ")))
}

// write sends the whole address: Redfish replaces the list of addresses.
func (interfaceSetting) write(ctx context.Context, v *view, settings []scl.Setting) error {
	e, err := v.ethernet(ctx, settings[0].Name)
	if err != nil {
		return err
	}
	a, body, static := e.address(), map[string]any{}, false
	for _, s := range settings {
		text := redfish.Text(s.Value.String())
		switch s.Field {
		case "ip":
			a.Address, static = text, true
		case "netmask":
			a.SubnetMask, static = text, true
		case "gateway":
			a.Gateway, static = text, true
		case "dhcp":
			on, _ := s.Value.Bool()
			body["DHCPv4"] = map[string]any{"DHCPEnabled": on}
		}
	}
	if static {
		address := map[string]any{"Address": a.Address, "SubnetMask": a.SubnetMask}
		if a.Gateway != "" {
			address["Gateway"] = a.Gateway
		}
		body["IPv4StaticAddresses"] = []any{address}
	}
	return v.lane.patch(ctx, v.prio, e.uri, body)
}

// deviceSetting is (storage (device NAME (size …) (type …))): hardware that
// must be there. It is checked, never created.
type deviceSetting struct{}

func (deviceSetting) settles(*Lane) time.Duration { return 0 }

func (deviceSetting) compare(ctx context.Context, v *view, settings []scl.Setting) []fleet.Change {
	listed, _, err := v.drives(ctx)
	if err != nil {
		return unread(settings, err)
	}
	all, err := whole(listed) // without one of them the next would take its name
	if err != nil {
		return unread(settings, err)
	}
	d, found := named(all, settings[0].Name)
	out := make([]fleet.Change, len(settings))
	for i, s := range settings {
		if !found {
			out[i] = fleet.Change{Before: "absent", Verdict: fleet.Differs, Note: "there is no such drive"}
			continue
		}
		out[i] = d.compare(s)
	}
	return out
}

func (d drive) compare(s scl.Setting) fleet.Change {
	switch s.Field {
	case "size":
		if !d.Bytes.Set {
			return unsupported("this BMC reports no capacity of drive " + string(d.ID))
		}
		want, _ := s.Value.Number()
		return compared(fleet.Number(d.Bytes.Value, fleet.Byte).String(), sameSize(d.Bytes.Value, want))
	case "type":
		if d.Media == "" && d.Protocol == "" {
			return unsupported("this BMC reports no type of drive " + string(d.ID))
		}
		want := s.Value.String()
		return compared(string(d.Media), same(string(d.Media), want) || same(string(d.Protocol), want))
	default:
		return unsupported("the agent can't check " + s.Path())
	}
}

// sameSize allows 7 % of the larger size: that covers GB written for GiB and
// what vendors round away; it tells 480 GB from 512 GB's neighbours but not
// from 500 GB.
func sameSize(a, b float64) bool { return math.Abs(a-b) <= 0.07*math.Max(a, b) }

// named finds a drive by its id or name. A BMC does not know the names that an
// operating system gives: "sda", "sdb", … and "nvme0n1", "nvme1n1", … stand for
// the first, second, … drive in the BMC's order, NVMe counted on its own.
func named(all []drive, name string) (drive, bool) {
	for _, d := range all {
		if strings.EqualFold(string(d.ID), name) || strings.EqualFold(string(d.Name), name) {
			return d, true
		}
	}
	var index int
	nvme := false
	if rest, ok := strings.CutPrefix(name, "sd"); ok && len(rest) == 1 && rest[0] >= 'a' && rest[0] <= 'z' {
		index = int(rest[0] - 'a')
	} else if n, err := fmt.Sscanf(name, "nvme%dn1", &index); n == 1 && err == nil {
		nvme = true
	} else {
		return drive{}, false
	}
	for _, d := range all {
		if d.Status.Absent() || strings.EqualFold(string(d.Protocol), "NVMe") != nvme {
			continue
		}
		if index--; index < 0 {
			return d, true
		}
	}
	return drive{}, false
}

func (deviceSetting) write(context.Context, *view, []scl.Setting) error {
	return fault.New(fault.Conflict, "check the storage", "the hardware is not what the script says; a device is checked, never made").
		WithHint("change the script or the hardware")
}
