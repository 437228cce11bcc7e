// Package inventory turns what a BMC shows into one typed model, whatever its
// make: what is built into the server, what runs on the BMC, who may log in.
//
// It decides and does nothing: Of takes a tree that was read, Digest and Diff
// take inventories. Facts that a BMC doesn't tell, or tells in a form nobody
// can read, are unknown with the reason, never zero. Nothing of a tree is lost:
// what has no place in the model is in Others, what can't be read in Unread.
//
// An inventory says what is, not how it is: readings, states and health are kept
// as they were seen, but change neither the digest nor Diff. A monitor watches
// those.
package inventory

import "github.com/chiba-mesh/chiba/pkg/fleet"

// Fact is one value and where it stands.
type Fact struct {
	fleet.Value
	// Source is the URI of the resource that was read and, after a '#', the JSON
	// pointer (RFC 6901) of the property in it.
	Source string
}

// Part is what all parts have.
type Part struct {
	// URI is the part's own, by which it is known. What a BMC lists inside of
	// another resource without a URI of its own has that one's with a pointer.
	URI  string
	Type string // the schema's name as the BMC gives it: "Processor", "DellLicense"; "" if none

	Name Fact `at:"Name"`
	// Present is false for an empty slot.
	Present Fact `at:"Status/State" as:"presence"`
	State   Fact `at:"Status/State" live:"yes"`
	Health  Fact `at:"Status/HealthRollup|Status/Health" live:"yes"`
}

// made is what manufacturers write on a thing.
type made struct {
	Manufacturer Fact `at:"Manufacturer|Vendor"`
	Model        Fact `at:"Model|ProductName"`
	Serial       Fact `at:"SerialNumber"`
	PartNumber   Fact `at:"PartNumber"`
}

// System is a server.
type System struct {
	Part
	made
	SKU        Fact `at:"SKU"`
	UUID       Fact `at:"UUID"`
	AssetTag   Fact `at:"AssetTag"`
	HostName   Fact `at:"HostName"`
	BIOS       Fact `at:"BiosVersion"`
	Processors Fact `at:"ProcessorSummary/Count"`
	CPUModel   Fact `at:"ProcessorSummary/Model"`
	Memory     Fact `at:"MemorySummary/TotalSystemMemoryGiB" unit:"GiB"`
	Power      Fact `at:"PowerState" live:"yes"`
}

// Manager is a BMC.
type Manager struct {
	Part
	made
	Kind     Fact `at:"ManagerType"`
	Firmware Fact `at:"FirmwareVersion"`
	UUID     Fact `at:"UUID|ServiceEntryPointUUID"`
	Clock    Fact `at:"DateTime" live:"yes"`
}

// Chassis is a case, a sled, a rack, a board.
type Chassis struct {
	Part
	made
	Kind     Fact `at:"ChassisType"`
	SKU      Fact `at:"SKU"`
	AssetTag Fact `at:"AssetTag"`
	Power    Fact `at:"PowerState" live:"yes"`
}

// Processor is a CPU, GPU or other accelerator.
type Processor struct {
	Part
	made
	Kind         Fact `at:"ProcessorType"`
	Socket       Fact `at:"Socket"`
	Architecture Fact `at:"ProcessorArchitecture"`
	Cores        Fact `at:"TotalCores"`
	Threads      Fact `at:"TotalThreads"`
	Speed        Fact `at:"MaxSpeedMHz" unit:"MHz"`
	Firmware     Fact `at:"FirmwareVersion"`
}

// Memory is a memory module, or the empty slot of one.
type Memory struct {
	Part
	made
	Slot     Fact `at:"DeviceLocator|MemoryLocation/Slot"`
	Kind     Fact `at:"MemoryDeviceType"`
	Capacity Fact `at:"CapacityMiB" unit:"MiB"`
	Speed    Fact `at:"OperatingSpeedMhz" unit:"MHz"`
	ECC      Fact `at:"ErrorCorrection"`
	Ranks    Fact `at:"RankCount"`
}

// Drive is a disk.
type Drive struct {
	Part
	made
	Capacity Fact `at:"CapacityBytes" unit:"B"`
	Media    Fact `at:"MediaType"`
	Protocol Fact `at:"Protocol"`
	Firmware Fact `at:"Revision|FirmwareVersion"`
	Speed    Fact `at:"RotationSpeedRPM" unit:"rpm"`
	Life     Fact `at:"PredictedMediaLifeLeftPercent" unit:"%" live:"yes"`
	Failing  Fact `at:"FailurePredicted" live:"yes"`
}

// Volume is what a controller makes of drives.
type Volume struct {
	Part
	RAID      Fact `at:"RAIDType|VolumeType"`
	Capacity  Fact `at:"CapacityBytes|Capacity/Data/AllocatedBytes" unit:"B"`
	Encrypted Fact `at:"Encrypted"`
}

// Controller is a storage controller.
type Controller struct {
	Part
	made
	Firmware Fact `at:"FirmwareVersion"`
	Speed    Fact `at:"SpeedGbps"` // in Gbit/s
}

// NIC is a network interface with an address: of the host or of the BMC.
type NIC struct {
	Part
	MAC       Fact `at:"PermanentMACAddress|MACAddress"`
	Speed     Fact `at:"SpeedMbps" live:"yes"` // in Mbit/s
	Link      Fact `at:"LinkStatus" live:"yes"`
	Enabled   Fact `at:"InterfaceEnabled"`
	HostName  Fact `at:"HostName"`
	Address   Fact `at:"IPv4Addresses/0/Address"`
	AddressV6 Fact `at:"IPv6Addresses/0/Address"`
}

// Adapter is a network card.
type Adapter struct {
	Part
	made
	Firmware Fact `at:"Controllers/0/FirmwarePackageVersion"`
}

// Port is a port of an adapter.
type Port struct {
	Part
	Address Fact `at:"AssociatedNetworkAddresses/0|Ethernet/AssociatedMACAddresses/0"`
	Number  Fact `at:"PhysicalPortNumber|PortId"`
	Link    Fact `at:"LinkStatus" live:"yes"`
	Speed   Fact `at:"CurrentLinkSpeedMbps|CurrentSpeedGbps" live:"yes"` // as the BMC counts
}

// Device is a PCIe card.
type Device struct {
	Part
	made
	Kind     Fact `at:"DeviceType"`
	Firmware Fact `at:"FirmwareVersion"`
}

// PSU is a power supply.
type PSU struct {
	Part
	made
	Capacity Fact `at:"PowerCapacityWatts" unit:"W"`
	Firmware Fact `at:"FirmwareVersion"`
	Output   Fact `at:"LastPowerOutputWatts|PowerOutputWatts" unit:"W" live:"yes"`
}

// Fan is a fan.
type Fan struct {
	Part
	made
	Label Fact `at:"FanName"` // where there is no Name: services before Redfish 1.1
	Place Fact `at:"PhysicalContext"`
	Speed Fact `at:"Reading|SpeedPercent/Reading" live:"yes"` // as the BMC counts
}

// Sensor is a sensor. Which there are changes with the power of many servers, so
// that sensors are in no digest.
type Sensor struct {
	Part
	Kind    Fact `at:"ReadingType" live:"yes"`
	Units   Fact `at:"ReadingUnits|BaseUnits" live:"yes"`
	Place   Fact `at:"PhysicalContext" live:"yes"`
	Reading Fact `at:"Reading|ReadingCelsius|ReadingVolts|PowerConsumedWatts|CurrentReading|CurrentState" live:"yes"`
}

// Firmware is a piece of software that the BMC knows the version of.
type Firmware struct {
	Part
	Version    Fact `at:"Version|VersionString"`
	Released   Fact `at:"ReleaseDate"`
	Updateable Fact `at:"Updateable"`
	ID         Fact `at:"SoftwareId"`
}

// Account is a login, by name: no inventory holds a password.
type Account struct {
	Part
	User    Fact `at:"UserName"`
	Role    Fact `at:"RoleId"`
	Enabled Fact `at:"Enabled"`
	Locked  Fact `at:"Locked" live:"yes"`
}

// Certificate is one that the BMC serves or trusts.
type Certificate struct {
	Part
	Subject     Fact `at:"Subject/CommonName"`
	Issuer      Fact `at:"Issuer/CommonName"`
	From        Fact `at:"ValidNotBefore"`
	Until       Fact `at:"ValidNotAfter"`
	Serial      Fact `at:"SerialNumber"`
	Fingerprint Fact `at:"Fingerprint"`
}

// License is a right that was bought.
type License struct {
	Part
	Entitlement Fact `at:"EntitlementId|EntitlementID|LicenseKey"`
	Kind        Fact `at:"LicenseType"`
	Description Fact `at:"LicenseDescription|Description"`
	Until       Fact `at:"ExpirationDate|LicenseEndDate"`
}

// Other is a resource without a place in the model.
type Other struct {
	URI, Type string
}

// Unread is a resource to which a link leads and that could not be read.
type Unread struct {
	URI, Why string
	// Inline says that another resource holds its content, so nothing is lost.
	Inline bool
}

// Inventory is everything that one BMC shows. All lists are sorted by URI.
type Inventory struct {
	Systems      []System
	Managers     []Manager
	Chassis      []Chassis
	Processors   []Processor
	Memory       []Memory
	Drives       []Drive
	Volumes      []Volume
	Controllers  []Controller
	NICs         []NIC
	Adapters     []Adapter
	Ports        []Port
	Devices      []Device
	PSUs         []PSU
	Fans         []Fan
	Sensors      []Sensor
	Firmware     []Firmware
	Accounts     []Account
	Certificates []Certificate
	Licenses     []License

	Others   []Other
	Unread   []Unread
	Oddities []Oddity
	// Cut is why the tree is not whole, "" if it is.
	Cut string
	// Resources were read.
	Resources int
}
