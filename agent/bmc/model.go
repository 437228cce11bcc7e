package bmc

import (
	"strings"
	"unicode"

	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// system is what is read of a ComputerSystem.
type system struct {
	ID           redfish.Text `json:"Id"`
	UUID         redfish.Text
	Manufacturer redfish.Text
	Model        redfish.Text
	SerialNumber redfish.Text
	SKU          redfish.Text
	AssetTag     *redfish.Text // nil: the BMC has no such property
	BiosVersion  redfish.Text
	PowerState   redfish.Text
	LastReset    redfish.Text `json:"LastResetTime"`
	IndicatorLED redfish.Text
	Locating     redfish.Flag `json:"LocationIndicatorActive"`
	Status       redfish.Status
	Boot         boot
	Settings     struct {
		Object redfish.Link `json:"SettingsObject"`
	} `json:"@Redfish.Settings"`
	BootProgress struct{ LastState redfish.Text }
	Processors   redfish.Link
	Memory       redfish.Link
	Storage      redfish.Link
	LogServices  redfish.Link
	Bios         redfish.Link
	Ethernet     redfish.Link `json:"EthernetInterfaces"`
	CPU          struct {
		Count  redfish.Number
		Model  redfish.Text
		Status redfish.Status
	} `json:"ProcessorSummary"`
	RAM struct {
		GiB    redfish.Number `json:"TotalSystemMemoryGiB"`
		Status redfish.Status
	} `json:"MemorySummary"`
	Links struct {
		Chassis   []redfish.Link
		ManagedBy []redfish.Link
	}
	Actions struct {
		Reset redfish.Action `json:"#ComputerSystem.Reset"`
	}
}

// boot is the Boot member of a ComputerSystem.
type boot struct {
	Enabled redfish.Text `json:"BootSourceOverrideEnabled"`
	Target  redfish.Text `json:"BootSourceOverrideTarget"`
	Mode    redfish.Text `json:"BootSourceOverrideMode"`
	Targets []string     `json:"BootSourceOverrideTarget@Redfish.AllowableValues"`
	Modes   []string     `json:"BootSourceOverrideMode@Redfish.AllowableValues"`
}

// manager is what is read of a Manager.
type manager struct {
	UUID            redfish.Text
	Model           redfish.Text
	FirmwareVersion redfish.Text
	DateTime        redfish.Text
	LastReset       redfish.Text `json:"LastResetTime"`
	Status          redfish.Status
	Actions         struct {
		Reset redfish.Action `json:"#Manager.Reset"`
	}
}

// chassis is what is read of a Chassis.
type chassis struct {
	Sensors            redfish.Link
	Thermal            redfish.Link
	Power              redfish.Link
	PowerSubsystem     redfish.Link
	ThermalSubsystem   redfish.Link
	EnvironmentMetrics redfish.Link
}

// drive is what is read of a Drive.
type drive struct {
	ID       redfish.Text `json:"Id"`
	Name     redfish.Text
	Bytes    redfish.Number `json:"CapacityBytes"`
	Media    redfish.Text   `json:"MediaType"`
	Protocol redfish.Text
	Life     redfish.Number `json:"PredictedMediaLifeLeftPercent"`
	Status   redfish.Status
}

// ethernet is what is read of an EthernetInterface.
type ethernet struct {
	uri        redfish.Link
	ID         redfish.Text `json:"Id"`
	Name       redfish.Text
	MAC        redfish.Text `json:"MACAddress"`
	LinkStatus redfish.Text
	Mbps       redfish.Number `json:"SpeedMbps"`
	DHCP       struct {
		Enabled redfish.Flag `json:"DHCPEnabled"`
	} `json:"DHCPv4"`
	Addresses []ipv4 `json:"IPv4Addresses"`
	Static    []ipv4 `json:"IPv4StaticAddresses"`
}

// ipv4 is one address of an EthernetInterface.
type ipv4 struct {
	Address    redfish.Text
	SubnetMask redfish.Text
	Gateway    redfish.Text
}

// member is a resource of which only the common part matters.
type member struct {
	ID         redfish.Text `json:"Id"`
	Name       redfish.Text
	Model      redfish.Text
	Version    redfish.Text
	Updateable redfish.Flag
	Capacity   redfish.Number `json:"CapacityMiB"`
	Status     redfish.Status
}

// lastSegment is the id that ends a URI.
func lastSegment(uri redfish.Link) string {
	s := strings.TrimRight(string(uri), "/")
	return s[strings.LastIndexByte(s, '/')+1:]
}

// kebab writes a Redfish enumeration as SCL does: "PoweringOn" -> "powering-on".
func kebab(s string) string {
	var b strings.Builder
	for i, r := range s {
		upper := r >= 'A' && r <= 'Z'
		if upper && i > 0 && s[i-1] >= 'a' && s[i-1] <= 'z' {
			b.WriteByte('-')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// same compares two words as people write them: "GracefulShutdown",
// "graceful-shutdown" and "Graceful Shutdown" are one.
func same(a, b string) bool { return plain(a) == plain(b) }

func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == ' ' {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}
