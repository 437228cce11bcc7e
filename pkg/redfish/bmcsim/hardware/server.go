// Package hardware is what a simulated server is built of, and how its parts are
// shown. It is pure: what parts do, and who may ask, is for others.
package hardware

import (
	"fmt"
	"strconv"
)

// Where things are.
const (
	SystemURI     = "/redfish/v1/Systems/system"
	ChassisURI    = "/redfish/v1/Chassis/chassis"
	ManagerURI    = "/redfish/v1/Managers/bmc"
	ProcessorsURI = SystemURI + "/Processors"
	MemoryURI     = SystemURI + "/Memory"
	StorageURI    = SystemURI + "/Storage/storage0"
	DrivesURI     = StorageURI + "/Drives"
	CardsURI      = SystemURI + "/PCIeDevices"
	SuppliesURI   = ChassisURI + "/PowerSubsystem/PowerSupplies"
	FansURI       = ChassisURI + "/ThermalSubsystem/Fans"
)

const (
	cpuCores    = 32
	dimmGiB     = 32
	supplyCount = 2
)

// Server is what a server is built of.
type Server struct {
	Serial string
	CPUs   int
	DIMMs  int // of 32 GiB each
	Fans   int
	Drives []Drive
	PCIe   []PCIe
}

// Drive is a disk of the server.
type Drive struct {
	ID    string // "sda"
	Bytes int64
	Media string // "SSD" or "HDD"
	Model string
}

// PCIe is a card in the server.
type PCIe struct{ ID, Manufacturer, Model, Part string }

// Processors are the ids of the sockets.
func (s Server) Processors() []string { return numbered("cpu", s.CPUs) }

// DIMMSlots are the ids of the memory slots.
func (s Server) DIMMSlots() []string { return numbered("dimm", s.DIMMs) }

// FanNames are the ids of the fans.
func (s Server) FanNames() []string { return numbered("fan", s.Fans) }

// Supplies are the ids of the power supplies.
func (s Server) Supplies() []string { return numbered("powersupply", supplyCount) }

// Storages are the ids of the controllers; none without drives, as on a stock
// OpenBMC.
func (s Server) Storages() []string {
	if len(s.Drives) == 0 {
		return nil
	}
	return []string{"storage0"}
}

// DriveNames are the ids of the drives.
func (s Server) DriveNames() []string {
	ids := make([]string, len(s.Drives))
	for i, d := range s.Drives {
		ids[i] = d.ID
	}
	return ids
}

// CardNames are the ids of the cards.
func (s Server) CardNames() []string {
	ids := make([]string, len(s.PCIe))
	for i, c := range s.PCIe {
		ids[i] = c.ID
	}
	return ids
}

// GiB is the memory of all slots.
func (s Server) GiB() int { return s.DIMMs * dimmGiB }

// Cores are those of all processors.
func (s Server) Cores() int { return s.CPUs * cpuCores }

// Part is the serial number of a component.
func (s Server) Part(kind string, i int) string { return fmt.Sprintf("%s-%s%02d", s.Serial, kind, i) }

// numbered is prefix0, prefix1, … n of them.
func numbered(prefix string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = prefix + strconv.Itoa(i)
	}
	return ids
}

// Link points to a resource.
func Link(uri string) map[string]any { return map[string]any{"@odata.id": uri} }

// Links point to the resources with these ids below base.
func Links(base string, ids []string) []map[string]any {
	out := make([]map[string]any, len(ids))
	for i, id := range ids {
		out[i] = Link(base + "/" + id)
	}
	return out
}

// Enabled is the status of a part that works.
func Enabled() map[string]any { return map[string]any{"Health": "OK", "State": "Enabled"} }

// Label is the location of a part, as it is printed beside it.
func Label(text string) map[string]any {
	return map[string]any{"PartLocation": map[string]any{"ServiceLabel": text}}
}
