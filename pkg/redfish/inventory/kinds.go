package inventory

import (
	"cmp"
	"slices"
	"strings"
)

// kind is one list of the model.
type kind struct {
	name  string
	types []string // of schemas, also vendors' own and those inside of others
	// folder is the last but one segment of the URIs, where a type is missing.
	folder string
	add    func(*Inventory, node)
	parts  func(*Inventory) []any // pointers
	sort   func(*Inventory)
	clone  func(*Inventory)      // gives the inventory a list of its own
	copy   func(*Inventory, any) // adds a copy of a part
}

// kinds are all, in the order in which people read them.
func kinds() []kind {
	return []kind{
		kindOf("system", func(i *Inventory) *[]System { return &i.Systems }, "Systems", "ComputerSystem"),
		kindOf("manager", func(i *Inventory) *[]Manager { return &i.Managers }, "Managers", "Manager"),
		kindOf("chassis", func(i *Inventory) *[]Chassis { return &i.Chassis }, "Chassis", "Chassis"),
		kindOf("processor", func(i *Inventory) *[]Processor { return &i.Processors }, "Processors", "Processor"),
		kindOf("memory", func(i *Inventory) *[]Memory { return &i.Memory }, "Memory", "Memory"),
		kindOf("drive", func(i *Inventory) *[]Drive { return &i.Drives }, "Drives", "Drive", "Device"),
		kindOf("volume", func(i *Inventory) *[]Volume { return &i.Volumes }, "Volumes", "Volume"),
		kindOf("controller", func(i *Inventory) *[]Controller { return &i.Controllers }, "StorageControllers", "StorageController"),
		kindOf("nic", func(i *Inventory) *[]NIC { return &i.NICs }, "EthernetInterfaces", "EthernetInterface"),
		kindOf("adapter", func(i *Inventory) *[]Adapter { return &i.Adapters }, "NetworkAdapters", "NetworkAdapter"),
		kindOf("port", func(i *Inventory) *[]Port { return &i.Ports }, "Ports", "Port", "NetworkPort"),
		kindOf("device", func(i *Inventory) *[]Device { return &i.Devices }, "PCIeDevices", "PCIeDevice"),
		kindOf("psu", func(i *Inventory) *[]PSU { return &i.PSUs }, "PowerSupplies", "PowerSupply"),
		kindOf("fan", func(i *Inventory) *[]Fan { return &i.Fans }, "Fans", "Fan"),
		kindOf("sensor", func(i *Inventory) *[]Sensor { return &i.Sensors }, "Sensors", "Sensor", "Temperature", "Voltage", "PowerControl",
			"DellSensor", "DellNumericSensor", "DellPresenceAndStatusSensor"),
		kindOf("firmware", func(i *Inventory) *[]Firmware { return &i.Firmware }, "FirmwareInventory", "SoftwareInventory", "HpeiLOFirmwareInventory"),
		kindOf("account", func(i *Inventory) *[]Account { return &i.Accounts }, "Accounts", "ManagerAccount"),
		kindOf("certificate", func(i *Inventory) *[]Certificate { return &i.Certificates }, "Certificates", "Certificate"),
		kindOf("license", func(i *Inventory) *[]License { return &i.Licenses }, "Licenses", "License", "DellLicense", "HpeiLOLicense"),
	}
}

// Kinds are the names of all kinds of parts, in the order in which people read
// them.
func Kinds() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

// kindOf is the list that at finds. P is what T embeds.
func kindOf[T any, P interface {
	*T
	part() *Part
}](name string, at func(*Inventory) *[]T, folder string, types ...string) kind {
	return kind{
		name: name, folder: folder, types: types,
		add: func(i *Inventory, n node) {
			var made T
			fill(P(&made), n)
			list := at(i)
			*list = append(*list, made)
		},
		parts: func(i *Inventory) []any {
			list := *at(i)
			all := make([]any, len(list))
			for n := range list {
				all[n] = &list[n]
			}
			return all
		},
		clone: func(i *Inventory) { *at(i) = slices.Clone(*at(i)) },
		copy: func(i *Inventory, p any) {
			if part, ok := p.(*T); ok {
				*at(i) = append(*at(i), *part)
			}
		},
		sort: func(i *Inventory) {
			slices.SortStableFunc(*at(i), func(a, b T) int { return cmp.Compare(P(&a).part().URI, P(&b).part().URI) })
		},
	}
}

func (p *Part) part() *Part { return p }

// partOf is what every element of a kind's parts has.
func partOf(p any) *Part {
	if whole, ok := p.(interface{ part() *Part }); ok {
		return whole.part()
	}
	return &Part{}
}

// inside are the lists of other resources that hold parts, and the type of
// these where they don't say one, "" for any other.
func inside(owner, list string) string {
	return map[string]string{
		"Thermal/Temperatures":       "Temperature",
		"Thermal/Fans":               "Fan",
		"Power/PowerSupplies":        "PowerSupply",
		"Power/Voltages":             "Voltage",
		"Power/PowerControl":         "PowerControl",
		"Storage/StorageControllers": "StorageController",
		"SimpleStorage/Devices":      "Device",
	}[owner+"/"+list]
}

// typeOf is the name of the schema in "#Processor.v1_2_0.Processor".
func typeOf(v any) string {
	text, _ := v.(string)
	return text[strings.LastIndexAny(text, ".#")+1:]
}

// choose is the kind of a resource: by its type, or else by its URI.
func choose(all []kind, typ, uri string) *kind {
	segments := strings.Split(strings.TrimRight(uri, "/"), "/")
	for i := range all {
		if k := &all[i]; slices.Contains(k.types, typ) || typ == "" && len(segments) > 1 && segments[len(segments)-2] == k.folder {
			return k
		}
	}
	return nil
}

// Skip tells a crawl what an inventory has no use for: what happened, who is
// logged in, and descriptions of the data. On a stock OpenBMC with a full log
// that is nine resources of ten.
func Skip(uri string) bool {
	for segment := range strings.SplitSeq(strings.ToLower(uri), "/") {
		switch segment {
		case "entries", "logservices", "logs", "sessions", "tasks", "jobs", "subscriptions", "jsonschemas", "schemas", "registries", "metricreports":
			return true
		}
	}
	return false
}
