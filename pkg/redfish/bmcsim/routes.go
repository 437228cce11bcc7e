package bmcsim

import (
	"maps"
	"net/http"
	"slices"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
)

// routes are all resources of a BMC with this hardware. The first that
// matches a path is taken.
func routes(cfg Config) []route {
	list := slices.Concat(serviceRoutes(), sessionRoutes(), accountRoutes(), systemRoutes(), inventoryRoutes(),
		logRoutes(cfg.DBusLog), chassisRoutes(), managerRoutes(), certificateRoutes(), eventRoutes(), updateRoutes(), taskRoutes(), dumpRoutes(), browserRoutes(), hardwareRoutes(), hostLogRoutes())
	if cfg.Board {
		list = slices.Concat(boardRoutes(), list)
	}
	if cfg.HostNIC != nil {
		list = append(list, hostNICRoutes()...)
	}
	for i := range list {
		list[i].prepare()
	}
	return list
}

func gets(run handler) map[string]deed { return map[string]deed{http.MethodGet: {auth.Login, run}} }

// readOnlyThing takes a PATCH, and no property in it.
func readOnlyThing(run handler) map[string]deed {
	return map[string]deed{http.MethodGet: {auth.Login, run}, http.MethodPatch: {auth.ConfigureComponents, patchChassis}}
}

func posts(need auth.Privilege, run handler) map[string]deed {
	return map[string]deed{http.MethodPost: {need, run}}
}

// collection is a Redfish collection; extra are properties it has besides.
func collection(uri, kind, name string, ids []string, extra obj) reply {
	return collectionOf(uri, kind, name, hardware.Links(uri, ids), extra)
}

func collectionOf(uri, kind, name string, members []obj, extra obj) reply {
	o := obj{
		"@odata.id": uri, "@odata.type": "#" + kind + "." + kind, "Name": name,
		"Members": members, "Members@odata.count": len(members),
	}
	maps.Copy(o, extra)
	return ok(o)
}

func fixedCollection(uri, kind, name string, ids ...string) handler {
	return func(*BMC, *request) reply { return collection(uri, kind, name, ids, nil) }
}

func actionInfo(owner string, values ...string) handler {
	return func(*BMC, *request) reply {
		return ok(obj{
			"@odata.id": owner + "/ResetActionInfo", "@odata.type": "#ActionInfo.v1_1_2.ActionInfo",
			"Id": "ResetActionInfo", "Name": "Reset Action Info",
			"Parameters": []obj{{"AllowableValues": values, "DataType": "String", "Name": "ResetType", "Required": true}},
		})
	}
}
