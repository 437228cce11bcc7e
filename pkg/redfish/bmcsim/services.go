package bmcsim

import (
	"fmt"
	"net/http"
	"strings"
)

// Firmware of the BMC and of its host.
const (
	bmcVersion  = "2.18.0-sim"
	biosVersion = "SIM-BIOS-1.4.2"
	bmcID       = "bmc_a1b2c3d4"
	biosID      = "bios_e5f60718"

	updateURI   = "/redfish/v1/UpdateService"
	firmwareURI = updateURI + "/FirmwareInventory"
)

func serviceRoutes() []route {
	free := func(run handler) map[string]deed { return map[string]deed{http.MethodGet: {anyone, run}} }
	return []route{
		{path: "/redfish", do: free(getVersions)},
		{path: "/redfish/v1", head: true, schema: "ServiceRoot/ServiceRoot", do: free(getRoot)},
		{path: "/redfish/v1/odata", do: free(getOData)},
		{path: "/redfish/v1/$metadata", do: free(getMetadata)},
		{path: "/redfish/v1/JsonSchemas", do: gets(func(*BMC, *request) reply {
			return collection("/redfish/v1/JsonSchemas", "JsonSchemaFileCollection", "JsonSchemaFile Collection", nil,
				obj{"Description": "Collection of JsonSchemaFiles"})
		})},
		{path: "/redfish/v1/Registries", do: gets(func(*BMC, *request) reply {
			return collection("/redfish/v1/Registries", "MessageRegistryFileCollection", "MessageRegistryFile Collection", nil,
				obj{"Description": "Collection of MessageRegistryFiles"})
		})},
		{path: "/redfish/v1/TaskService", do: gets(getTaskService)},
		{path: "/redfish/v1/TaskService/Tasks", do: gets(fixedCollection("/redfish/v1/TaskService/Tasks", "TaskCollection", "Task Collection"))},
	}
}

func getVersions(*BMC, *request) reply { return ok(obj{"v1": "/redfish/v1/"}) }

func getRoot(b *BMC, _ *request) reply {
	o := obj{
		"@odata.id": "/redfish/v1", "@odata.type": "#ServiceRoot.v1_15_0.ServiceRoot",
		"Id": "RootService", "Name": "Root Service", "RedfishVersion": "1.17.0", "UUID": b.state.ServiceUUID,
		"Links": obj{"ManagerProvidingService": link(managerURI), "Sessions": link(sessionsURI)},
		"ProtocolFeaturesSupported": obj{
			"DeepOperations": obj{"DeepPATCH": false, "DeepPOST": false}, "ExcerptQuery": false,
			"ExpandQuery": obj{"ExpandAll": false, "Levels": false, "Links": false, "NoLinks": b.cfg.Expand},
			"FilterQuery": false, "OnlyMemberQuery": true, "SelectQuery": true,
		},
		"Tasks": link("/redfish/v1/TaskService"),
	}
	for _, name := range []string{"AccountService", "Chassis", "JsonSchemas", "Managers", "Registries", "SessionService", "Systems", "UpdateService"} {
		o[name] = link("/redfish/v1/" + name)
	}
	return ok(o)
}

func getOData(*BMC, *request) reply {
	list := []obj{}
	for _, uri := range []string{
		"/$metadata", "/odata", "/JsonSchemas", "", "/ServiceRoot", "/Systems", "/Chassis", "/Managers",
		"/SessionService", "/AccountService", "/UpdateService",
	} {
		list = append(list, obj{"kind": "Singleton", "name": "$metadata", "url": "/redfish/v1" + uri})
	}
	r := ok(obj{"@odata.context": "/redfish/v1/$metadata", "value": list})
	r.noOData = true
	return r
}

// getMetadata names the schemas in use; the schema files are not served.
func getMetadata(*BMC, *request) reply {
	var s strings.Builder
	s.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n" +
		`<edmx:Edmx xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx" Version="4.0">` + "\n")
	for _, name := range []string{
		"AccountService", "Chassis", "ComputerSystem", "Drive", "EthernetInterface", "Fan", "LogEntry", "LogService",
		"Manager", "ManagerAccount", "ManagerNetworkProtocol", "Memory", "PowerSubsystem", "PowerSupply", "Processor",
		"Role", "Sensor", "ServiceRoot", "Session", "SessionService", "SoftwareInventory", "Storage", "ThermalSubsystem",
		"UpdateService",
	} {
		fmt.Fprintf(&s, "    <edmx:Reference Uri=\"/redfish/v1/schema/%[1]s_v1.xml\">\n        <edmx:Include Namespace=\"%[1]s\"/>\n    </edmx:Reference>\n", name)
	}
	s.WriteString(`    <edmx:DataServices>
        <Schema xmlns="http://docs.oasis-open.org/odata/ns/edm" Namespace="Service">
            <EntityContainer Name="Service" Extends="ServiceRoot.v1_0_0.ServiceContainer"/>
        </Schema>
    </edmx:DataServices>
</edmx:Edmx>
`)
	return reply{status: http.StatusOK, raw: s.String(), rawType: "application/xml", noOData: true}
}

func getTaskService(b *BMC, q *request) reply {
	return ok(obj{
		"@odata.id": "/redfish/v1/TaskService", "@odata.type": "#TaskService.v1_1_4.TaskService",
		"CompletedTaskOverWritePolicy": "Oldest", "DateTime": b.stamp(q.now, seconds), "Id": "TaskService",
		"LifeCycleEventOnTaskStateChange": true, "Name": "Task Service", "ServiceEnabled": true,
		"Status": obj{"State": "Enabled"}, "Tasks": link("/redfish/v1/TaskService/Tasks"),
	})
}

func updateRoutes() []route {
	return []route{
		{path: updateURI, do: gets(getUpdateService)},
		{path: firmwareURI, do: gets(fixedCollection(firmwareURI, "SoftwareInventoryCollection", "Software Inventory Collection", biosID, bmcID))},
		{path: firmwareURI + "/{image}", do: gets(getFirmware)},
	}
}

// getUpdateService offers no way to push an image: updates come later.
func getUpdateService(*BMC, *request) reply {
	return ok(obj{
		"@odata.id": updateURI, "@odata.type": "#UpdateService.v1_11_1.UpdateService",
		"Description": "Service for Software Update", "FirmwareInventory": link(firmwareURI),
		"Id": "UpdateService", "Name": "Update Service", "ServiceEnabled": true,
	})
}

// getFirmware answers an unknown image with 400, as bmcweb does.
func getFirmware(_ *BMC, q *request) reply {
	id := q.args["image"]
	description, version, item := "BMC image", bmcVersion, managerURI
	switch id {
	case bmcID:
	case biosID:
		description, version, item = "Host image", biosVersion, systemURI+"/Bios"
	default:
		return badRequest("ResourceMissingAtURI", firmwareURI+"/"+id)
	}
	return ok(obj{
		"@odata.id": firmwareURI + "/" + id, "@odata.type": "#SoftwareInventory.v1_1_0.SoftwareInventory",
		"Description": description, "Id": id, "Name": "Software Inventory",
		"RelatedItem": []obj{link(item)}, "RelatedItem@odata.count": 1,
		"Status":     obj{"Health": "OK", "HealthRollup": "OK", "State": "Enabled"},
		"Updateable": true, "Version": version,
	})
}
