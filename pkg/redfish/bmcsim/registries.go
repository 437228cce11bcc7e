package bmcsim

import (
	"slices"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

const (
	schemasURI    = "/redfish/v1/JsonSchemas"
	registriesURI = "/redfish/v1/Registries"
)

// schemaNames are the schemas in use; the files themselves are not served.
func schemaNames() []string {
	return []string{
		"AccountService", "Certificate", "CertificateLocations", "CertificateService", "Chassis", "ComputerSystem", "Drive",
		"EthernetInterface", "EventDestination", "EventService", "Fan", "LogEntry", "LogService", "Manager", "ManagerAccount",
		"ManagerNetworkProtocol", "Memory", "PCIeDevice", "PowerSubsystem", "PowerSupply", "Processor", "Role", "Sensor",
		"ServiceRoot", "Session", "SessionService", "SoftwareInventory", "Storage", "Task", "TaskService", "ThermalSubsystem",
		"UpdateService",
	}
}

func fixedWith(uri, kind, name, description string, ids []string) handler {
	return func(*BMC, *request) reply {
		return collection(uri, kind, name, ids, obj{"Description": description})
	}
}

func getSchema(_ *BMC, q *request) reply {
	id := q.args["schema"]
	if !slices.Contains(schemaNames(), id) {
		return notFound("JsonSchemaFile", id)
	}
	return ok(obj{
		"@odata.id": schemasURI + "/" + id, "@odata.type": "#JsonSchemaFile.v1_0_2.JsonSchemaFile",
		"Description": id + " Schema File Location", "Id": id, "Languages": []string{"en"}, "Languages@odata.count": 1,
		"Location": []obj{{
			"Language": "en", "PublicationUri": "http://redfish.dmtf.org/schemas/v1/" + id + ".json",
			"Uri": schemasURI + "/" + id + "/" + id + ".json",
		}},
		"Location@odata.count": 1, "Name": id + " Schema File", "Schema": "#" + id + "." + id,
	})
}

// getSchemaFile knows none: they are large, and no client needs them of a BMC.
func getSchemaFile(_ *BMC, q *request) reply {
	r := notFound("JsonSchemaFile", q.args["schema"])
	r.noOData = true
	return r
}

func getRegistryFile(_ *BMC, q *request) reply {
	id := q.args["registry"]
	if !slices.Contains(message.Registries(), id) {
		return notFound("MessageRegistryFile", id)
	}
	owner, publication, version := "DMTF ", "https://redfish.dmtf.org/registries/"+id+".json", "Base.1.19"
	switch id {
	case "OpenBMC":
		owner, version = "", "OpenBMC.0.5"
		publication = "https://raw.githubusercontent.com/openbmc/bmcweb/refs/heads/master/redfish-core/include/registries/openbmc.json"
	case "TaskEvent":
		version = "TaskEvent.1.0"
	}
	location := obj{"Language": "en", "PublicationUri": publication, "Uri": registriesURI + "/" + id + "/" + id}
	return ok(obj{
		"@odata.id": registriesURI + "/" + id, "@odata.type": "#MessageRegistryFile.v1_1_0.MessageRegistryFile",
		"Description": owner + id + " Message Registry File Location", "Id": id, "Languages": []string{"en"}, "Languages@odata.count": 1,
		"Location": []obj{location}, "Location@odata.count": 1,
		"Name": id + " Message Registry File", "Registry": version,
	})
}

// getRegistry holds the messages that this simulator can say, not all that the
// standard has.
func getRegistry(_ *BMC, q *request) reply {
	id := q.args["registry"]
	if !slices.Contains(message.Registries(), id) || q.args["file"] != id {
		return notFound("MessageRegistryFile", id)
	}
	messages := obj{}
	if id == "Base" {
		messages = message.Entries()
	}
	version := message.Version(id)
	return ok(obj{
		"@Redfish.Copyright": "", "@odata.type": "#MessageRegistry.v1_6_2.MessageRegistry",
		"Description": "This registry defines the messages that are in use.", "Id": id + "." + version, "Language": "en",
		"Messages": messages, "Name": id + " Message Registry", "OwningEntity": "OpenBMC",
		"RegistryPrefix": id, "RegistryVersion": version,
	})
}
