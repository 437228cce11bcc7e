package scl

import (
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Elements is the registry of what can be read of a node, sorted by namespace:
// the manual's table, the type checker and completion come from it.
func Elements() []Element { return append([]Element(nil), elements[:]...) }

// Lookup finds the element that the reference name means, and what stands in
// the place of its free item: Lookup("storage.volume.v0.state") is the element
// "storage.volume.*.state" with the parameter "v0".
func Lookup(name string) (e *Element, param string, ok bool) {
	for i := range elements {
		if param, ok = elements[i].match(name); ok {
			return &elements[i], param, true
		}
	}
	return nil, "", false
}

func (e *Element) match(name string) (param string, ok bool) {
	prefix, suffix, free := strings.Cut(e.Name, "*")
	if !free {
		return "", e.Name == name
	}
	if len(name) <= len(prefix)+len(suffix) || !strings.HasPrefix(name, prefix) || !strings.HasSuffix(name, suffix) {
		return "", false
	}
	return name[len(prefix) : len(name)-len(suffix)], true
}

// OfMesh reports whether the mesh itself knows the element's value, so that no
// BMC is asked.
func (e *Element) OfMesh() bool {
	for _, namespace := range []string{"node.", "rack.", "site.", "trust."} {
		if strings.HasPrefix(e.Name, namespace) {
			return true
		}
	}
	return false
}

// Texts that several elements have in common.
var (
	healths    = []string{"OK", "Warning", "Critical"}
	powers     = []string{"on", "off", "powering-on", "powering-off", "paused"}
	lights     = []string{"on", "off", "blink"}
	links      = []string{"up", "down"}
	nodeStates = []string{string(fleet.Ready), string(fleet.Unreachable), string(fleet.Untrusted), string(fleet.Refused), string(fleet.Stranger)}
)

// Where the values of one subject come from. "*" is any member of a collection.
const (
	system    = "Systems/*"
	manager   = "Managers/*"
	sensors   = "Chassis/*/Sensors/*"
	thermal   = "Chassis/*/Thermal"
	power     = "Chassis/*/Power"
	processor = "Systems/*/Processors/*"
	dimm      = "Systems/*/Memory/*"
	drive     = "Systems/*/Storage/*/Drives/*"
	nic       = "Systems/*/EthernetInterfaces/*"
)

// elements is the registry. It is never written to.
var elements = [...]Element{
	{Name: "cpu.temp", Type: NumberType, Unit: fleet.Celsius, Reduce: Max, Sources: []string{sensors, thermal}, Doc: "temperature of the processors"},
	{Name: "cpu.rate", Type: NumberType, Unit: fleet.Percent, Reduce: Max, Sources: []string{processor + "/ProcessorMetrics", sensors}, Doc: "how busy the processors are"},
	{Name: "cpu.power", Type: NumberType, Unit: fleet.Watt, Reduce: Sum, Sources: []string{sensors, processor + "/ProcessorMetrics"}, Doc: "power that the processors draw"},
	{Name: "cpu.count", Type: NumberType, Sources: []string{system + "#/ProcessorSummary/Count", processor}, Doc: "how many processors there are"},
	{Name: "cpu.model", Type: TextType, Sources: []string{system + "#/ProcessorSummary/Model", processor}, Doc: "model of the processors"},
	{Name: "cpu.health", Type: TextType, Reduce: Worst, Values: healths, Sources: []string{processor, system + "#/ProcessorSummary"}, Doc: "health of the processors"},

	{Name: "memory.size", Type: NumberType, Unit: fleet.Byte, Sources: []string{system + "#/MemorySummary", dimm}, Doc: "main memory of the server"},
	{Name: "memory.health", Type: TextType, Reduce: Worst, Values: healths, Sources: []string{dimm, system + "#/MemorySummary"}, Doc: "health of the memory modules"},
	{Name: "memory.temp", Type: NumberType, Unit: fleet.Celsius, Reduce: Max, Sources: []string{sensors, thermal}, Doc: "temperature of the memory modules"},
	{Name: "memory.ecc-errors", Type: NumberType, Reduce: Sum, Sources: []string{dimm + "/MemoryMetrics"}, Doc: "corrected memory errors since the server's start"},

	{Name: "fan.speed", Type: NumberType, Unit: fleet.RPM, Reduce: Min, Sources: []string{sensors, thermal}, Doc: "speed of the fans"},
	{Name: "fan.percent", Type: NumberType, Unit: fleet.Percent, Reduce: Min, Sources: []string{sensors, thermal}, Doc: "speed of the fans, of fans that report a percentage"},
	{Name: "fan.health", Type: TextType, Reduce: Worst, Values: healths, Sources: []string{"Chassis/*/ThermalSubsystem/Fans/*", thermal}, Doc: "health of the fans"},

	{Name: "temp.inlet", Type: NumberType, Unit: fleet.Celsius, Reduce: Max, Sources: []string{sensors, thermal}, Doc: "temperature of the air that comes in"},
	{Name: "temp.exhaust", Type: NumberType, Unit: fleet.Celsius, Reduce: Max, Sources: []string{sensors, thermal}, Doc: "temperature of the air that goes out"},
	{Name: "temp.max", Type: NumberType, Unit: fleet.Celsius, Reduce: Max, Sources: []string{sensors, thermal}, Doc: "the hottest of all temperature sensors"},

	{Name: "power.state", Type: TextType, Values: powers, Sources: []string{system + "#/PowerState"}, Doc: "whether the server is on"},
	{Name: "power.watts", Type: NumberType, Unit: fleet.Watt, Reduce: Sum, Sources: []string{"Chassis/*/EnvironmentMetrics", sensors, power}, Doc: "power that the server draws"},
	{Name: "power.cap", Type: NumberType, Unit: fleet.Watt, Sources: []string{"Chassis/*/EnvironmentMetrics#/PowerLimitWatts", power}, Doc: "the limit set on the server's power"},
	{Name: "power.supply.health", Type: TextType, Reduce: Worst, Values: healths, Sources: []string{"Chassis/*/PowerSubsystem/PowerSupplies/*", power}, Doc: "health of the power supplies"},
	{Name: "power.redundancy", Type: TextType, Reduce: Worst, Values: healths, Sources: []string{"Chassis/*/PowerSubsystem#/PowerSupplyRedundancy", power}, Doc: "health of the supplies' redundancy"},

	{Name: "storage.health", Type: TextType, Reduce: Worst, Values: healths, Sources: []string{"Systems/*/Storage/*"}, Doc: "health of the storage"},
	{Name: "storage.drive.count", Type: NumberType, Reduce: Sum, Sources: []string{"Systems/*/Storage/*#/Drives"}, Doc: "how many drives there are"},
	{Name: "storage.drive.health", Type: TextType, Reduce: Worst, Values: healths, Sources: []string{drive}, Doc: "health of the drives"},
	{Name: "storage.drive.temp", Type: NumberType, Unit: fleet.Celsius, Reduce: Max, Sources: []string{sensors, drive + "/EnvironmentMetrics"}, Doc: "temperature of the drives"},
	{Name: "storage.drive.life", Type: NumberType, Unit: fleet.Percent, Reduce: Min, Sources: []string{drive + "#/PredictedMediaLifeLeftPercent"}, Doc: "life that the drives have left"},
	{Name: "storage.volume.*.state", Type: TextType, Sources: []string{"Systems/*/Storage/*/Volumes/*#/Status/State"}, Doc: "state of the named volume, as Redfish has it"},

	{Name: "network.link", Type: TextType, Values: links, Sources: []string{nic + "#/LinkStatus"}, Doc: "whether the host's first interface has a link"},
	{Name: "network.mac", Type: TextType, Sources: []string{nic + "#/MACAddress"}, Doc: "hardware address of the host's first interface"},
	{Name: "network.ip", Type: TextType, Sources: []string{nic + "#/IPv4Addresses", nic + "#/IPv6Addresses"}, Doc: "address of the host's first interface"},
	{Name: "network.speed", Type: NumberType, Sources: []string{nic + "#/SpeedMbps"}, Doc: "speed of the host's first interface, megabits a second"},

	{Name: "system.health", Type: TextType, Values: healths, Sources: []string{system + "#/Status"}, Doc: "health of the whole server"},
	{Name: "system.model", Type: TextType, Sources: []string{system + "#/Model"}, Doc: "model of the server"},
	{Name: "system.manufacturer", Type: TextType, Sources: []string{system + "#/Manufacturer"}, Doc: "who made the server"},
	{Name: "system.serial", Type: TextType, Sources: []string{system + "#/SerialNumber", "Chassis/*#/SerialNumber"}, Doc: "serial number of the server"},
	{Name: "system.uuid", Type: TextType, Sources: []string{system + "#/UUID"}, Doc: "UUID of the server"},
	{Name: "system.sku", Type: TextType, Sources: []string{system + "#/SKU"}, Doc: "SKU of the server"},
	{Name: "system.asset-tag", Type: TextType, Sources: []string{system + "#/AssetTag"}, Doc: "the owner's asset tag"},
	{Name: "system.boot-progress", Type: TextType, Sources: []string{system + "#/BootProgress/LastState"}, Doc: "how far the start of the server has come, as Redfish has it"},
	{Name: "system.boot-target", Type: TextType, Sources: []string{system + "#/Boot/BootSourceOverrideTarget"}, Doc: "from what the server starts next"},
	{Name: "system.led", Type: TextType, Values: lights, Sources: []string{system + "#/LocationIndicatorActive", system + "#/IndicatorLED"}, Doc: "the light that shows where the server is"},

	{Name: "bios.version", Type: TextType, Sources: []string{system + "#/BiosVersion"}, Doc: "version of the host's firmware"},
	{Name: "bios.attr.*", Type: TextType, Sources: []string{"Systems/*/Bios#/Attributes"}, Doc: "the named setting of the host's firmware"},

	{Name: "bmc.version", Type: TextType, Sources: []string{manager + "#/FirmwareVersion"}, Doc: "version of the BMC's firmware"},
	{Name: "bmc.health", Type: TextType, Values: healths, Sources: []string{manager + "#/Status"}, Doc: "health of the BMC"},
	{Name: "bmc.state", Type: TextType, Sources: []string{manager + "#/Status/State"}, Doc: "state of the BMC, as Redfish has it"},
	{Name: "bmc.uuid", Type: TextType, Sources: []string{manager + "#/UUID"}, Doc: "UUID of the BMC"},
	{Name: "bmc.latency", Type: NumberType, Unit: fleet.Second, Sources: []string{"measured"}, Doc: "how long the BMC takes to answer"},
	{Name: "bmc.sessions", Type: NumberType, Sources: []string{"SessionService/Sessions"}, Doc: "how many sessions are open on the BMC"},

	{Name: "firmware.*.version", Type: TextType, Sources: []string{"UpdateService/FirmwareInventory/*#/Version"}, Doc: "version of the named firmware"},
	{Name: "firmware.*.updateable", Type: BoolType, Sources: []string{"UpdateService/FirmwareInventory/*#/Updateable"}, Doc: "whether the named firmware can be updated"},

	{Name: "log.critical", Type: NumberType, Sources: []string{"Systems/*/LogServices/*/Entries"}, Doc: "how many critical entries the event log holds"},
	{Name: "log.last", Type: TextType, Sources: []string{"Systems/*/LogServices/*/Entries"}, Doc: "the newest entry of the event log"},

	{Name: "node.name", Type: TextType, Sources: []string{"mesh"}, Doc: "name of the node"},
	{Name: "node.address", Type: TextType, Sources: []string{"mesh"}, Doc: "where the node's BMC was last found"},
	{Name: "node.vendor", Type: TextType, Sources: []string{"mesh"}, Doc: "who made the server, as last seen"},
	{Name: "node.model", Type: TextType, Sources: []string{"mesh"}, Doc: "model of the server, as last seen"},
	{Name: "node.serial", Type: TextType, Sources: []string{"mesh"}, Doc: "serial number of the server, as last seen"},
	{Name: "node.state", Type: TextType, Values: nodeStates, Sources: []string{"mesh"}, Doc: "whether its agent can work with the node's BMC"},
	{Name: "node.label.*", Type: TextType, Sources: []string{"mesh"}, Doc: "the named label of the node"},
	{Name: "rack.name", Type: TextType, Sources: []string{"mesh"}, Doc: "name of the node's rack"},
	{Name: "site.name", Type: TextType, Sources: []string{"mesh"}, Doc: "name of the node's site"},

	{Name: "trust.level", Type: TextType, Values: []string{"TX", "T0", "T1", "T2", "T3", "T4"}, Sources: []string{"mesh"}, Doc: "how far the node's BMC is believed"},
	{Name: "trust.key", Type: TextType, Values: []string{"new", "same", "changed"}, Sources: []string{"mesh"}, Doc: "whether the BMC showed the expected key"},
	{Name: "trust.vouched-by", Type: TextType, Values: []string{"nobody", "person", "rack", "maker"}, Sources: []string{"mesh"}, Doc: "who says that the key is that BMC's"},
	{Name: "trust.listed", Type: BoolType, Sources: []string{"mesh"}, Doc: "whether the BMC is in the rack's asset list"},
	{Name: "trust.serial-confirmed", Type: BoolType, Sources: []string{"mesh"}, Doc: "whether it tells the serial of the asset list"},
	{Name: "trust.on-link", Type: BoolType, Sources: []string{"mesh"}, Doc: "whether it was heard on the rack's BMC network itself"},
	{Name: "trust.make", Type: TextType, Sources: []string{"mesh"}, Doc: "the make of the BMC, as far as it tells anybody"},
	{Name: "trust.uuid", Type: TextType, Sources: []string{"mesh"}, Doc: "UUID of its service root, which is its own word"},
	{Name: "trust.mac", Type: TextType, Sources: []string{"mesh"}, Doc: "hardware address at which it answered, as the kernel has it"},
	{Name: "trust.link", Type: TextType, Sources: []string{"mesh"}, Doc: "interface of its agent on which it was heard"},
	{Name: "trust.access", Type: TextType, Values: []string{"none", "password", "token", "mutual TLS", "mutual TLS only"}, Sources: []string{"mesh"}, Doc: "how the agent gets into the BMC"},
}

// raw is the element of the escape hatch; like the registry it is never written
// to.
var raw = Element{Name: "redfish", Doc: "any resource and JSON pointer"}

// RawElement is the element of the escape hatch (redfish "URI#POINTER"). It has
// no Type: what is there is known once it is read.
func RawElement() *Element { return &raw }

// event is what (event "MESSAGE-ID") refers to. It is never read: it happens.
var event = Element{Name: "event", Type: BoolType, Doc: "an event that the BMC tells of"}

// EventElement is the element of (event "GLOB"): true for the one moment at which
// an event arrived whose message id matches the Param of the reference.
func EventElement() *Element { return &event }

// IsEvent reports whether r is an (event …), which is heard and can't be read.
func (r Ref) IsEvent() bool { return r.Element == &event }

// MatchEvent reports whether the message id of an event, for example
// "OpenBMC.0.5.PowerSupplyFanFailed", matches a glob. A glob without a dot is
// held against the key alone, because registry and version differ from BMC to BMC.
func MatchEvent(glob, messageID string) bool {
	if !strings.Contains(glob, ".") {
		messageID = messageID[strings.LastIndexByte(messageID, '.')+1:]
	}
	return Glob(glob, messageID)
}

// Of is what the mesh itself knows of the element r means on node: the value of
// an element OfMesh, or the last seen one of an element that every node record
// keeps. Else it is unknown.
func (r Ref) Of(node fleet.Node) fleet.Value {
	var text string
	switch r.Element.Name {
	case "node.name":
		text = string(node.Name)
	case "node.address":
		text = node.Address
	case "node.vendor", "system.manufacturer":
		text = node.Vendor
	case "node.model", "system.model":
		text = node.Model
	case "node.serial", "system.serial":
		text = node.Serial
	case "node.state":
		text = string(node.State)
	case "node.label.*":
		text = node.Labels[r.Param]
	case "rack.name":
		text = string(node.Rack)
	case "site.name":
		text = string(node.Site)
	case "power.state":
		text = node.Power
	case "system.health":
		text = node.Health
	case "trust.level":
		text = node.Trust.Level
	case "trust.listed", "trust.serial-confirmed", "trust.on-link":
		if said, known := node.Trust.Elements[r.Element.Name]; known {
			return fleet.Bool(said == "true")
		}
	case "trust.make":
		text = node.Admission.Make
	case "trust.uuid":
		text = node.Admission.UUID
	case "trust.mac", "trust.link":
		text = node.Admission.Told(strings.TrimPrefix(r.Element.Name, "trust."))
	case "trust.key", "trust.vouched-by", "trust.access":
		text = node.Trust.Elements[r.Element.Name]
	}
	if text == "" {
		return fleet.NoValue("not known without asking the BMC")
	}
	return fleet.Text(text)
}
