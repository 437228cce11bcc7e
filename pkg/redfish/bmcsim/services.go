package bmcsim

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

func serviceRoutes() []route {
	free := func(run handler) map[string]deed { return map[string]deed{http.MethodGet: {auth.Anyone, run}} }
	return []route{
		{path: "/redfish", do: free(getVersions)},
		{path: "/redfish/v1", head: true, schema: "ServiceRoot/ServiceRoot", do: free(getRoot)},
		{path: "/redfish/v1/odata", do: free(getOData)},
		{path: "/redfish/v1/$metadata", do: free(getMetadata)},
		{path: schemasURI, do: gets(fixedWith(schemasURI, "JsonSchemaFileCollection", "JsonSchemaFile Collection", "Collection of JsonSchemaFiles", schemaNames()))},
		{path: schemasURI + "/{schema}", do: gets(getSchema)},
		{path: schemasURI + "/{schema}/{file}", do: gets(getSchemaFile)},
		{path: registriesURI, do: gets(fixedWith(registriesURI, "MessageRegistryFileCollection", "MessageRegistryFile Collection", "Collection of MessageRegistryFiles", message.Registries()))},
		{path: registriesURI + "/{registry}", do: gets(getRegistryFile)},
		{path: registriesURI + "/{registry}/{file}", do: gets(getRegistry)},
	}
}

func getVersions(*BMC, *request) reply { return ok(obj{"v1": "/redfish/v1/"}) }

func getRoot(b *BMC, _ *request) reply {
	o := obj{
		"@odata.id": "/redfish/v1", "@odata.type": "#ServiceRoot.v1_15_0.ServiceRoot",
		"Id": "RootService", "Name": "Root Service", "RedfishVersion": "1.17.0", "UUID": b.state.ServiceUUID,
		"Links": obj{"ManagerProvidingService": hardware.Link(managerURI), "Sessions": hardware.Link(sessionsURI)},
		"ProtocolFeaturesSupported": obj{
			"DeepOperations": obj{"DeepPATCH": false, "DeepPOST": false}, "ExcerptQuery": false,
			"ExpandQuery": obj{"ExpandAll": false, "Levels": false, "Links": false, "NoLinks": b.cfg.Expand},
			"FilterQuery": false, "OnlyMemberQuery": true, "SelectQuery": true,
		},
		"Tasks": hardware.Link("/redfish/v1/TaskService"),
	}
	for _, name := range []string{
		"AccountService", "Chassis", "JsonSchemas", "Managers", "Registries", "SessionService", "Systems", "UpdateService",
		"Cables", "CertificateService", "EventService", "Fabrics", "TelemetryService",
	} {
		o[name] = hardware.Link("/redfish/v1/" + name)
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
	for _, name := range schemaNames() {
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
