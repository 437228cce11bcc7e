package bmcsim

import (
	"net/http"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
)

const chassisURI = hardware.ChassisURI

func chassisRoutes() []route {
	const chassis = "/redfish/v1/Chassis/{chassis}"
	schema := func(name string) string { return name + "/" + name }
	return []route{
		{path: "/redfish/v1/Chassis", do: gets(getChassisCollection)},
		{path: chassis, do: map[string]deed{
			http.MethodGet:   {auth.Login, getChassis},
			http.MethodPatch: {auth.ConfigureComponents, patchChassis},
		}},
		{path: chassis + "/ResetActionInfo", do: gets(actionInfo(chassisURI, "PowerCycle"))},
		{path: chassis + "/Actions/Chassis.Reset", do: posts(auth.ConfigureComponents, resetChassis)},
		{path: chassis + "/Sensors", do: gets(getSensors)},
		{path: chassis + "/Sensors/{sensor}", do: gets(getSensor)},
		{path: chassis + "/PowerSubsystem", head: true, schema: schema("PowerSubsystem"), do: gets(getPowerSubsystem)},
		{path: chassis + "/PowerSubsystem/PowerSupplies", head: true, schema: schema("PowerSupplyCollection"), do: gets(getSupplies)},
		{path: chassis + "/PowerSubsystem/PowerSupplies/{supply}", head: true, schema: schema("PowerSupply"), do: readOnlyThing(getSupply)},
		{path: chassis + "/ThermalSubsystem", head: true, schema: schema("ThermalSubsystem"), do: gets(getThermalSubsystem)},
		{path: chassis + "/ThermalSubsystem/Fans", head: true, schema: schema("FanCollection"), do: gets(getFans)},
		{path: chassis + "/ThermalSubsystem/Fans/{fan}", head: true, schema: schema("Fan"), do: readOnlyThing(getFan)},
		{path: chassis + "/ThermalSubsystem/ThermalMetrics", head: true, schema: schema("ThermalMetrics"), do: gets(getThermalMetrics)},
		{path: chassis + "/EnvironmentMetrics", head: true, schema: schema("EnvironmentMetrics"), do: readOnlyThing(getEnvironment)},
		{path: chassis + "/Assembly", head: true, schema: schema("Assembly"), do: readOnlyThing(getAssembly)},
		{path: chassis + "/Drives", do: gets(getChassisDrives)},
		{path: chassis + "/NetworkAdapters", do: gets(fixedCollection(chassisURI+"/NetworkAdapters",
			"NetworkAdapterCollection", "chassis Network Adapter Collection"))},
	}
}

func getChassisCollection(b *BMC, _ *request) reply {
	ids := []string{"chassis"}
	if b.cfg.Board {
		ids = append(ids, "motherboard")
	}
	return collection("/redfish/v1/Chassis", "ChassisCollection", "Chassis Collection", ids, nil)
}

func getChassis(b *BMC, _ *request) reply {
	cpus := hardware.Links(hardware.ProcessorsURI, b.server.Processors())
	connected := obj{
		"ComputerSystems": []obj{hardware.Link(systemURI)}, "ManagedBy": []obj{hardware.Link(managerURI)},
		"Processors": cpus, "Processors@odata.count": len(cpus),
	}
	if b.cfg.Board {
		connected["Contains"], connected["Contains@odata.count"] = []obj{hardware.Link(boardURI)}, 1
	}
	if len(b.cfg.Drives) > 0 {
		connected["Storage"], connected["Storage@odata.count"] = []obj{hardware.Link(hardware.StorageURI)}, 1
	}
	return ok(obj{
		"@odata.id": chassisURI, "@odata.type": "#Chassis.v1_22_0.Chassis",
		"Actions": obj{"#Chassis.Reset": obj{
			"@Redfish.ActionInfo": chassisURI + "/ResetActionInfo", "target": chassisURI + "/Actions/Chassis.Reset",
		}},
		"Assembly": hardware.Link(chassisURI + "/Assembly"), "EnvironmentMetrics": hardware.Link(chassisURI + "/EnvironmentMetrics"),
		"AssetTag": b.state.AssetTag, "ChassisType": "RackMount", "Drives": hardware.Link(chassisURI + "/Drives"),
		"Id": "chassis", "Links": connected, "Location": hardware.Label("SIM.ND0"),
		"Manufacturer": b.cfg.Manufacturer, "Model": b.cfg.Model, "Name": "chassis",
		"NetworkAdapters": hardware.Link(chassisURI + "/NetworkAdapters"), "PartNumber": "SIM-CH-0001",
		"PowerState": b.chassisPower(), "PowerSubsystem": hardware.Link(chassisURI + "/PowerSubsystem"),
		"Sensors": hardware.Link(sensorsURI), "SerialNumber": b.cfg.Serial, "Status": obj{"State": "Enabled"},
		"ThermalSubsystem": hardware.Link(chassisURI + "/ThermalSubsystem"), "UUID": b.state.SystemUUID, "Version": "A1",
	})
}

// chassisPower is On or Off: a chassis has no state between.
func (b *BMC) chassisPower() string {
	if b.power().Power == "Off" {
		return "Off"
	}
	return "On"
}

// patchChassis refuses everything: without an LED of its own, an OpenBMC
// chassis has no writable property.
func patchChassis(_ *BMC, q *request) reply {
	_, r, valid := q.patch()
	if !valid {
		return r
	}
	return noContent()
}

func resetChassis(b *BMC, q *request) reply {
	v, r, valid := q.action(input.Field{Path: "ResetType", Need: true})
	if !valid {
		return r
	}
	if kind, _ := v.Text("ResetType"); kind != "PowerCycle" {
		return badRequest("ActionParameterNotSupported", kind, "ResetType")
	}
	b.resetPower(q.now, "PowerCycle")
	q.dirty = true
	return noContent()
}

func getPowerSubsystem(*BMC, *request) reply {
	return ok(obj{
		"@odata.id": chassisURI + "/PowerSubsystem", "@odata.type": "#PowerSubsystem.v1_1_0.PowerSubsystem",
		"Id": "PowerSubsystem", "Name": "Power Subsystem", "PowerSupplies": hardware.Link(hardware.SuppliesURI), "Status": hardware.Enabled(),
	})
}

func getSupplies(b *BMC, _ *request) reply {
	return collection(hardware.SuppliesURI, "PowerSupplyCollection", "Power Supply Collection", b.server.Supplies(),
		obj{"Description": "The collection of PowerSupply resource instances."})
}

func getSupply(b *BMC, q *request) reply {
	return shown("PowerSupply", q.args["supply"], b.server.Supply)
}

func getThermalSubsystem(*BMC, *request) reply {
	const uri = chassisURI + "/ThermalSubsystem"
	return ok(obj{
		"@odata.id": uri, "@odata.type": "#ThermalSubsystem.v1_0_0.ThermalSubsystem", "Fans": hardware.Link(hardware.FansURI),
		"Id": "ThermalSubsystem", "Name": "Thermal Subsystem", "Status": hardware.Enabled(), "ThermalMetrics": hardware.Link(uri + "/ThermalMetrics"),
	})
}

func getFans(b *BMC, _ *request) reply {
	return collection(hardware.FansURI, "FanCollection", "Fan Collection", b.server.FanNames(),
		obj{"Description": "The collection of Fan resource instances chassis"})
}

func getFan(b *BMC, q *request) reply { return shown("Fan", q.args["fan"], b.server.Fan) }

func getChassisDrives(b *BMC, _ *request) reply {
	return collectionOf(chassisURI+"/Drives", "DriveCollection", "Drive Collection", hardware.Links(hardware.DrivesURI, b.server.DriveNames()), nil)
}

// getEnvironment shows no readings, like a stock OpenBMC: they are sensors.
func getEnvironment(*BMC, *request) reply {
	return ok(obj{
		"@odata.id": chassisURI + "/EnvironmentMetrics", "@odata.type": "#EnvironmentMetrics.v1_3_0.EnvironmentMetrics",
		"FanSpeedsPercent": []obj{}, "FanSpeedsPercent@odata.count": 0,
		"Id": "EnvironmentMetrics", "Name": "Chassis Environment Metrics",
	})
}

func getAssembly(*BMC, *request) reply {
	return ok(obj{
		"@odata.id": chassisURI + "/Assembly", "@odata.type": "#Assembly.v1_6_0.Assembly",
		"Assemblies": []obj{}, "Assemblies@odata.count": 0, "Id": "Assembly", "Name": "Assembly Collection",
	})
}
