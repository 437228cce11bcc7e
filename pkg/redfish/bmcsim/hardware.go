package bmcsim

import (
	"net/http"
	"slices"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/logs"
)

const boardURI = "/redfish/v1/Chassis/motherboard"

// hardwareRoutes are cards, cores and what a rack server has none of.
func hardwareRoutes() []route {
	const system = "/redfish/v1/Systems/{system}"
	empty := func(uri, kind, name string, extra obj) map[string]deed {
		return gets(func(*BMC, *request) reply { return collection(uri, kind, name, nil, extra) })
	}
	return []route{
		{path: system + "/PCIeDevices", schema: "PCIeDeviceCollection/PCIeDeviceCollection", do: gets(getCards)},
		{path: system + "/PCIeDevices/{card}", schema: "PCIeDevice/PCIeDevice", linkEarly: true, do: gets(getCard)},
		{path: system + "/PCIeDevices/{card}/PCIeFunctions", schema: "PCIeFunctionCollection/PCIeFunctionCollection", do: gets(getCardFunctions)},
		{path: system + "/Processors/{cpu}/SubProcessors", head: true, schema: "ProcessorCollection/ProcessorCollection", do: gets(getCores)},
		{path: "/redfish/v1/Cables", do: empty("/redfish/v1/Cables", "CableCollection", "Cable Collection",
			obj{"Description": "Collection of Cable Entries"})},
		{path: "/redfish/v1/Fabrics", do: gets(fixedCollection("/redfish/v1/Fabrics", "FabricCollection", "Fabric Collection"))},
		{path: "/redfish/v1/TelemetryService", do: gets(getTelemetry)},
		{path: "/redfish/v1/TelemetryService/MetricReportDefinitions", do: empty("/redfish/v1/TelemetryService/MetricReportDefinitions",
			"MetricReportDefinitionCollection", "Metric Definition Collection", nil)},
		{path: "/redfish/v1/TelemetryService/MetricReports", do: empty("/redfish/v1/TelemetryService/MetricReports",
			"MetricReportCollection", "Metric Report Collection", nil)},
		{path: "/redfish/v1/TelemetryService/Triggers", do: empty("/redfish/v1/TelemetryService/Triggers",
			"TriggersCollection", "Triggers Collection", nil)},
	}
}

// boardRoutes is a chassis inside the chassis. It must come before the others,
// whose paths match it too.
func boardRoutes() []route {
	return []route{
		{path: boardURI, do: map[string]deed{
			http.MethodGet:   {auth.Login, getBoard},
			http.MethodPatch: {auth.ConfigureComponents, patchChassis},
		}},
	}
}

func getCards(b *BMC, _ *request) reply {
	return collection(hardware.CardsURI, "PCIeDeviceCollection", "PCIe Device Collection", b.server.CardNames(), obj{"Description": "Collection of PCIe Devices"})
}

func getCard(b *BMC, q *request) reply { return shown("PCIeDevice", q.args["card"], b.server.Card) }

func getCardFunctions(b *BMC, q *request) reply {
	id := q.args["card"]
	if _, found := b.server.Card(id); !found {
		return notFound("PCIeDevice", id)
	}
	return collection(hardware.CardsURI+"/"+id+"/PCIeFunctions", "PCIeFunctionCollection", "PCIe Function Collection", nil,
		obj{"Description": "Collection of PCIe Functions for PCIe Device " + id})
}

func getCores(b *BMC, q *request) reply {
	id := q.args["cpu"]
	if !slices.Contains(b.server.Processors(), id) {
		return notFound("Processor", id)
	}
	return collection(hardware.ProcessorsURI+"/"+id+"/SubProcessors", "ProcessorCollection", "SubProcessor Collection", nil, nil)
}

func getBoard(b *BMC, _ *request) reply {
	at := func(name string) obj { return hardware.Link(boardURI + "/" + name) }
	return ok(obj{
		"@odata.id": boardURI, "@odata.type": "#Chassis.v1_22_0.Chassis",
		"Actions": obj{"#Chassis.Reset": obj{
			"@Redfish.ActionInfo": boardURI + "/ResetActionInfo", "target": boardURI + "/Actions/Chassis.Reset",
		}},
		"Assembly": at("Assembly"), "ChassisType": "RackMount", "EnvironmentMetrics": at("EnvironmentMetrics"), "Id": "motherboard",
		"Links": obj{
			"ComputerSystems": []obj{hardware.Link(systemURI)}, "ContainedBy": hardware.Link(chassisURI), "ManagedBy": []obj{hardware.Link(managerURI)},
			"Processors": []obj{}, "Processors@odata.count": 0,
		},
		"Manufacturer": b.cfg.Manufacturer, "Model": "SIM-MB-1", "Name": "motherboard", "NetworkAdapters": at("NetworkAdapters"),
		"PartNumber": "SIM-MB-0001", "PowerState": b.chassisPower(), "PowerSubsystem": at("PowerSubsystem"),
		"Sensors": at("Sensors"), "SerialNumber": b.server.Part("MB", 0), "Status": obj{"State": "Enabled"}, "ThermalSubsystem": at("ThermalSubsystem"),
	})
}

func getTelemetry(*BMC, *request) reply {
	const uri = "/redfish/v1/TelemetryService"
	return ok(obj{
		"@odata.id": uri, "@odata.type": "#TelemetryService.v1_2_1.TelemetryService", "Id": "TelemetryService",
		"MetricReportDefinitions": hardware.Link(uri + "/MetricReportDefinitions"), "MetricReports": hardware.Link(uri + "/MetricReports"),
		"Name": "Telemetry Service", "Status": obj{"State": "Absent"}, "Triggers": hardware.Link(uri + "/Triggers"),
	})
}

// hostLogRoutes are what the host said while it booted.
func hostLogRoutes() []route {
	const system = "/redfish/v1/Systems/{system}/LogServices"
	return []route{
		{path: system + "/HostLogger", do: gets(getHostLogger)},
		{path: system + "/HostLogger/Entries", do: gets(noEntries(systemLogsURI+"/HostLogger", "HostLogger"))},
		{path: system + "/PostCodes", do: gets(getPostCodes)},
		{path: system + "/PostCodes/Entries", do: gets(getPostCodeEntries)},
		{path: system + "/PostCodes/Entries/{entry}", do: gets(getPostCode)},
	}
}

func getHostLogger(*BMC, *request) reply {
	const uri = systemLogsURI + "/HostLogger"
	return ok(obj{
		"@odata.id": uri, "@odata.type": "#LogService.v1_2_0.LogService", "Description": "Host Logger Service",
		"Entries": hardware.Link(uri + "/Entries"), "Id": "HostLogger", "Name": "Host Logger Service",
	})
}

const postCodesURI = systemLogsURI + "/PostCodes"

func getPostCodes(b *BMC, q *request) reply {
	return ok(obj{
		"@odata.id": postCodesURI, "@odata.type": "#LogService.v1_2_0.LogService",
		"Actions":  obj{"#LogService.ClearLog": obj{"target": postCodesURI + "/Actions/LogService.ClearLog"}},
		"DateTime": b.stamp(q.now, clock.Seconds), "DateTimeLocalOffset": "+00:00", "Description": "POST Code Log Service",
		"Entries": hardware.Link(postCodesURI + "/Entries"), "Id": "PostCodes", "Name": "POST Code Log Service", "OverWritePolicy": "WrapsWhenFull",
	})
}

// postCodes are those of the last boot; a host that is off shows none.
func (b *BMC) postCodes() []obj {
	if !b.power().On() {
		return []obj{}
	}
	return logs.PostCodes(postCodesURI+"/Entries", b.state.LastReset, b.state.Clock)
}

func getPostCodeEntries(b *BMC, _ *request) reply {
	return collectionOf(postCodesURI+"/Entries", "LogEntryCollection", "POST Code Log Entries", b.postCodes(),
		obj{"Description": "Collection of POST Code Log Entries"})
}

func getPostCode(b *BMC, q *request) reply {
	for _, e := range b.postCodes() {
		if e["Id"] == q.args["entry"] {
			return ok(e)
		}
	}
	return notFound("LogEntry", q.args["entry"])
}
