package bmcsim

import (
	"fmt"
	"slices"
	"strconv"
)

// What the simulated server is built of.
const (
	cpuCores = 32
	dimmGiB  = 32

	processorsURI = systemURI + "/Processors"
	memoryURI     = systemURI + "/Memory"
	storagesURI   = systemURI + "/Storage"
	storageURI    = storagesURI + "/storage0"
	drivesURI     = storageURI + "/Drives"
)

func inventoryRoutes() []route {
	const system = "/redfish/v1/Systems/{system}"
	return []route{
		{path: system + "/Processors", head: true, schema: "ProcessorCollection/ProcessorCollection", do: gets(getProcessors)},
		{path: system + "/Processors/{cpu}", head: true, schema: "Processor/Processor", do: readOnlyThing(getProcessor)},
		{path: system + "/Memory", do: gets(getMemories)},
		{path: system + "/Memory/{dimm}", do: readOnlyThing(getMemory)},
		{path: system + "/Storage", do: gets(getStorages)},
		{path: system + "/Storage/{storage}", do: gets(getStorage)},
		{path: system + "/Storage/{storage}/Drives/{drive}", do: gets(getDrive)},
		{path: system + "/FabricAdapters", head: true, schema: "FabricAdapterCollection/FabricAdapterCollection", do: gets(
			fixedCollection(systemURI+"/FabricAdapters", "FabricAdapterCollection", "Fabric Adapter Collection"))},
	}
}

// numbered is prefix0, prefix1, … n of them.
func numbered(prefix string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = prefix + strconv.Itoa(i)
	}
	return ids
}

func enabled() obj { return obj{"Health": "OK", "State": "Enabled"} }

func label(text string) obj { return obj{"PartLocation": obj{"ServiceLabel": text}} }

func getProcessors(b *BMC, _ *request) reply {
	return collection(processorsURI, "ProcessorCollection", "Processor Collection", numbered("cpu", b.cfg.CPUs), nil)
}

func getProcessor(b *BMC, q *request) reply {
	id := q.args["cpu"]
	i := slices.Index(numbered("cpu", b.cfg.CPUs), id)
	if i < 0 {
		return notFound("Processor", id)
	}
	return ok(obj{
		"@odata.id": processorsURI + "/" + id, "@odata.type": "#Processor.v1_18_0.Processor",
		"Id": id, "Location": label(fmt.Sprintf("P0-C%d", i)), "Manufacturer": "AMD", "MaxSpeedMHz": 3700,
		"Model": "EPYC 9354", "Name": "Processor", "PartNumber": "100-000000798", "ProcessorType": "CPU",
		"SerialNumber": b.part("CPU", i), "Socket": fmt.Sprintf("CPU%d", i), "Status": enabled(),
		"SubProcessors": link(processorsURI + "/" + id + "/SubProcessors"),
		"ProcessorId": obj{
			"EffectiveFamily": "0x19", "EffectiveModel": "0x11", "IdentificationRegisters": "0x00a10f11",
			"MicrocodeInfo": "0x0a101148", "Step": "0x1",
		},
		"TotalCores": cpuCores, "TotalThreads": 2 * cpuCores,
	})
}

// part is the serial number of a component.
func (b *BMC) part(kind string, i int) string { return fmt.Sprintf("%s-%s%02d", b.cfg.Serial, kind, i) }

func getMemories(b *BMC, _ *request) reply {
	return collection(memoryURI, "MemoryCollection", "Memory Module Collection", numbered("dimm", b.cfg.DIMMs), nil)
}

func getMemory(b *BMC, q *request) reply {
	id := q.args["dimm"]
	i := slices.Index(numbered("dimm", b.cfg.DIMMs), id)
	if i < 0 {
		return notFound("Memory", id)
	}
	return ok(obj{
		"@odata.id": memoryURI + "/" + id, "@odata.type": "#Memory.v1_23_0.Memory",
		"AllowedSpeedsMHz": []int{4000, 4800}, "BaseModuleType": "RDIMM", "BusWidthBits": 80,
		"CapacityMiB": dimmGiB * 1024, "DataWidthBits": 64, "ErrorCorrection": "MultiBitECC", "FirmwareRevision": "0",
		"Id": id, "Location": label(fmt.Sprintf("P0-C%d", 10+i)), "Manufacturer": "Samsung", "MemoryDeviceType": "DDR5",
		"MemoryType": "DRAM", "Model": "M321R4GA3BB6-CQK", "Name": "DIMM Slot", "OperatingSpeedMhz": 4800,
		"PartNumber": "M321R4GA3BB6-CQK", "RankCount": 2, "SerialNumber": b.part("DIMM", i), "SparePartNumber": "",
		"Status": enabled(),
	})
}

// getStorages is empty without drives, as on a stock OpenBMC.
func getStorages(b *BMC, _ *request) reply {
	var ids []string
	if len(b.cfg.Drives) > 0 {
		ids = []string{"storage0"}
	}
	return collection(storagesURI, "StorageCollection", "Storage Collection", ids, nil)
}

func (b *BMC) driveLinks() []obj {
	ids := make([]string, len(b.cfg.Drives))
	for i, d := range b.cfg.Drives {
		ids[i] = d.ID
	}
	return links(drivesURI, ids)
}

func (b *BMC) noStorage(id string) bool { return len(b.cfg.Drives) == 0 || id != "storage0" }

func getStorage(b *BMC, q *request) reply {
	if id := q.args["storage"]; b.noStorage(id) {
		return notFound("#Storage.v1_8_0.Storage", id)
	}
	return ok(obj{
		"@odata.id": storageURI, "@odata.type": "#Storage.v1_13_0.Storage",
		"Drives": b.driveLinks(), "Drives@odata.count": len(b.cfg.Drives),
		"Id": "storage0", "Name": "Storage", "Status": enabled(),
	})
}

func getDrive(b *BMC, q *request) reply {
	id := q.args["drive"]
	i := slices.IndexFunc(b.cfg.Drives, func(d Drive) bool { return d.ID == id })
	if i < 0 || b.noStorage(q.args["storage"]) {
		return notFound("Drive", id)
	}
	d := b.cfg.Drives[i]
	return ok(obj{
		"@odata.id": drivesURI + "/" + id, "@odata.type": "#Drive.v1_7_0.Drive",
		"CapacityBytes": d.Bytes, "Id": id, "Links": obj{"Chassis": link(chassisURI)},
		"Manufacturer": "Samsung", "MediaType": d.Media, "Model": d.Model, "Name": id, "PartNumber": d.Model,
		"PredictedMediaLifeLeftPercent": 97, "Protocol": "SATA", "SerialNumber": b.part("DRV", i), "Status": enabled(),
	})
}
