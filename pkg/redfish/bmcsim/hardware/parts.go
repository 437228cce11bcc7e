package hardware

import (
	"fmt"
	"slices"
)

type obj = map[string]any

// Processor is a socket with what is in it, if it has this id.
func (s Server) Processor(id string) (map[string]any, bool) {
	i := slices.Index(s.Processors(), id)
	if i < 0 {
		return nil, false
	}
	return obj{
		"@odata.id": ProcessorsURI + "/" + id, "@odata.type": "#Processor.v1_18_0.Processor",
		"Id": id, "Location": Label(fmt.Sprintf("P0-C%d", i)), "Manufacturer": "AMD", "MaxSpeedMHz": 3700,
		"Model": "EPYC 9354", "Name": "Processor", "PartNumber": "100-000000798", "ProcessorType": "CPU",
		"SerialNumber": s.Part("CPU", i), "Socket": fmt.Sprintf("CPU%d", i), "Status": Enabled(),
		"SubProcessors": Link(ProcessorsURI + "/" + id + "/SubProcessors"),
		"ProcessorId": obj{
			"EffectiveFamily": "0x19", "EffectiveModel": "0x11", "IdentificationRegisters": "0x00a10f11",
			"MicrocodeInfo": "0x0a101148", "Step": "0x1",
		},
		"TotalCores": cpuCores, "TotalThreads": 2 * cpuCores,
	}, true
}

// Memory is a slot with what is in it, if it has this id.
func (s Server) Memory(id string) (map[string]any, bool) {
	i := slices.Index(s.DIMMSlots(), id)
	if i < 0 {
		return nil, false
	}
	return obj{
		"@odata.id": MemoryURI + "/" + id, "@odata.type": "#Memory.v1_23_0.Memory",
		"AllowedSpeedsMHz": []int{4000, 4800}, "BaseModuleType": "RDIMM", "BusWidthBits": 80,
		"CapacityMiB": dimmGiB * 1024, "DataWidthBits": 64, "ErrorCorrection": "MultiBitECC", "FirmwareRevision": "0",
		"Id": id, "Location": Label(fmt.Sprintf("P0-C%d", 10+i)), "Manufacturer": "Samsung", "MemoryDeviceType": "DDR5",
		"MemoryType": "DRAM", "Model": "M321R4GA3BB6-CQK", "Name": "DIMM Slot", "OperatingSpeedMhz": 4800,
		"PartNumber": "M321R4GA3BB6-CQK", "RankCount": 2, "SerialNumber": s.Part("DIMM", i), "SparePartNumber": "",
		"Status": Enabled(),
	}, true
}

// Supply is a power supply, if it has this id.
func (s Server) Supply(id string) (map[string]any, bool) {
	i := slices.Index(s.Supplies(), id)
	if i < 0 {
		return nil, false
	}
	return obj{
		"@odata.id": SuppliesURI + "/" + id, "@odata.type": "#PowerSupply.v1_5_0.PowerSupply",
		"FirmwareVersion": "1.02", "Id": id, "Location": Label(fmt.Sprintf("E%d", i)), "Manufacturer": "Delta",
		"Model": "DPS-1600", "Name": "Power Supply", "PartNumber": "DPS1600AB", "SerialNumber": s.Part("PSU", i), "Status": Enabled(),
	}, true
}

// Fan is a fan, if it has this id.
func (s Server) Fan(id string) (map[string]any, bool) {
	i := slices.Index(s.FanNames(), id)
	if i < 0 {
		return nil, false
	}
	return obj{
		"@odata.id": FansURI + "/" + id, "@odata.type": "#Fan.v1_6_0.Fan", "Id": id, "Location": Label(fmt.Sprintf("A%d", i)),
		"Manufacturer": "Nidec", "Model": "UltraFlo", "Name": "Fan", "PartNumber": "NID-FAN-01",
		"SerialNumber": s.Part("FAN", i), "Status": Enabled(),
	}, true
}

// Storage is the controller of the drives, if there are any and it has this id.
func (s Server) Storage(id string) (map[string]any, bool) {
	if len(s.Drives) == 0 || id != "storage0" {
		return nil, false
	}
	return obj{
		"@odata.id": StorageURI, "@odata.type": "#Storage.v1_13_0.Storage",
		"Drives": Links(DrivesURI, s.DriveNames()), "Drives@odata.count": len(s.Drives),
		"Id": "storage0", "Name": "Storage", "Status": Enabled(),
	}, true
}

// Drive is a drive, if it has this id.
func (s Server) Drive(id string) (map[string]any, bool) {
	i := slices.Index(s.DriveNames(), id)
	if i < 0 {
		return nil, false
	}
	d := s.Drives[i]
	return obj{
		"@odata.id": DrivesURI + "/" + id, "@odata.type": "#Drive.v1_7_0.Drive",
		"CapacityBytes": d.Bytes, "Id": id, "Links": obj{"Chassis": Link(ChassisURI)},
		"Manufacturer": "Samsung", "MediaType": d.Media, "Model": d.Model, "Name": id, "PartNumber": d.Model,
		"PredictedMediaLifeLeftPercent": 97, "Protocol": "SATA", "SerialNumber": s.Part("DRV", i), "Status": Enabled(),
	}, true
}

// Card is a PCIe card, if it has this id.
func (s Server) Card(id string) (map[string]any, bool) {
	i := slices.Index(s.CardNames(), id)
	if i < 0 {
		return nil, false
	}
	c := s.PCIe[i]
	return obj{
		"@odata.id": CardsURI + "/" + c.ID, "@odata.type": "#PCIeDevice.v1_19_0.PCIeDevice", "DeviceType": "SingleFunction",
		"Id": c.ID, "Manufacturer": c.Manufacturer, "Model": c.Model, "Name": "PCIe Device",
		"PCIeFunctions": Link(CardsURI + "/" + c.ID + "/PCIeFunctions"),
		"PCIeInterface": obj{"LanesInUse": 16, "MaxLanes": 16, "MaxPCIeType": "Gen4", "PCIeType": "Gen4"},
		"PartNumber":    c.Part, "SerialNumber": s.Part("PCI", i), "Status": Enabled(),
	}, true
}
