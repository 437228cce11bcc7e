package bmcsim

import "github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"

const storagesURI = systemURI + "/Storage"

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

func getProcessors(b *BMC, _ *request) reply {
	return collection(hardware.ProcessorsURI, "ProcessorCollection", "Processor Collection", b.server.Processors(), nil)
}

func getProcessor(b *BMC, q *request) reply {
	return shown("Processor", q.args["cpu"], b.server.Processor)
}

func getMemories(b *BMC, _ *request) reply {
	return collection(hardware.MemoryURI, "MemoryCollection", "Memory Module Collection", b.server.DIMMSlots(), nil)
}

func getMemory(b *BMC, q *request) reply { return shown("Memory", q.args["dimm"], b.server.Memory) }

func getStorages(b *BMC, _ *request) reply {
	return collection(storagesURI, "StorageCollection", "Storage Collection", b.server.Storages(), nil)
}

func getStorage(b *BMC, q *request) reply {
	return shown("#Storage.v1_8_0.Storage", q.args["storage"], b.server.Storage)
}

func getDrive(b *BMC, q *request) reply {
	if _, found := b.server.Storage(q.args["storage"]); !found {
		return notFound("Drive", q.args["drive"])
	}
	return shown("Drive", q.args["drive"], b.server.Drive)
}

// shown is the answer for a part with an id.
func shown(kind, id string, body func(id string) (obj, bool)) reply {
	o, found := body(id)
	if !found {
		return notFound(kind, id)
	}
	return ok(o)
}
