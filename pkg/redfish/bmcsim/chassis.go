package bmcsim

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
)

const (
	chassisURI  = "/redfish/v1/Chassis/chassis"
	suppliesURI = chassisURI + "/PowerSubsystem/PowerSupplies"
	fansURI     = chassisURI + "/ThermalSubsystem/Fans"
	supplyCount = 2
)

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
	cpus := links(processorsURI, numbered("cpu", b.cfg.CPUs))
	connected := obj{
		"ComputerSystems": []obj{link(systemURI)}, "ManagedBy": []obj{link(managerURI)},
		"Processors": cpus, "Processors@odata.count": len(cpus),
	}
	if b.cfg.Board {
		connected["Contains"], connected["Contains@odata.count"] = []obj{link(boardURI)}, 1
	}
	if len(b.cfg.Drives) > 0 {
		connected["Storage"], connected["Storage@odata.count"] = []obj{link(storageURI)}, 1
	}
	return ok(obj{
		"@odata.id": chassisURI, "@odata.type": "#Chassis.v1_22_0.Chassis",
		"Actions": obj{"#Chassis.Reset": obj{
			"@Redfish.ActionInfo": chassisURI + "/ResetActionInfo", "target": chassisURI + "/Actions/Chassis.Reset",
		}},
		"Assembly": link(chassisURI + "/Assembly"), "EnvironmentMetrics": link(chassisURI + "/EnvironmentMetrics"),
		"AssetTag": b.state.AssetTag, "ChassisType": "RackMount", "Drives": link(chassisURI + "/Drives"),
		"Id": "chassis", "Links": connected, "Location": label("SIM.ND0"),
		"Manufacturer": b.cfg.Manufacturer, "Model": b.cfg.Model, "Name": "chassis",
		"NetworkAdapters": link(chassisURI + "/NetworkAdapters"), "PartNumber": "SIM-CH-0001",
		"PowerState": b.chassisPower(), "PowerSubsystem": link(chassisURI + "/PowerSubsystem"),
		"Sensors": link(sensorsURI), "SerialNumber": b.cfg.Serial, "Status": obj{"State": "Enabled"},
		"ThermalSubsystem": link(chassisURI + "/ThermalSubsystem"), "UUID": b.state.SystemUUID, "Version": "A1",
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
		"Id": "PowerSubsystem", "Name": "Power Subsystem", "PowerSupplies": link(suppliesURI), "Status": enabled(),
	})
}

func getSupplies(*BMC, *request) reply {
	return collection(suppliesURI, "PowerSupplyCollection", "Power Supply Collection", numbered("powersupply", supplyCount),
		obj{"Description": "The collection of PowerSupply resource instances."})
}

func getSupply(b *BMC, q *request) reply {
	id := q.args["supply"]
	i := slices.Index(numbered("powersupply", supplyCount), id)
	if i < 0 {
		return notFound("PowerSupply", id)
	}
	return ok(obj{
		"@odata.id": suppliesURI + "/" + id, "@odata.type": "#PowerSupply.v1_5_0.PowerSupply",
		"FirmwareVersion": "1.02", "Id": id, "Location": label(fmt.Sprintf("E%d", i)), "Manufacturer": "Delta",
		"Model": "DPS-1600", "Name": "Power Supply", "PartNumber": "DPS1600AB", "SerialNumber": b.part("PSU", i), "Status": enabled(),
	})
}

func getThermalSubsystem(*BMC, *request) reply {
	const uri = chassisURI + "/ThermalSubsystem"
	return ok(obj{
		"@odata.id": uri, "@odata.type": "#ThermalSubsystem.v1_0_0.ThermalSubsystem", "Fans": link(fansURI),
		"Id": "ThermalSubsystem", "Name": "Thermal Subsystem", "Status": enabled(), "ThermalMetrics": link(uri + "/ThermalMetrics"),
	})
}

func getFans(b *BMC, _ *request) reply {
	return collection(fansURI, "FanCollection", "Fan Collection", numbered("fan", b.cfg.Fans),
		obj{"Description": "The collection of Fan resource instances chassis"})
}

func getFan(b *BMC, q *request) reply {
	id := q.args["fan"]
	i := slices.Index(numbered("fan", b.cfg.Fans), id)
	if i < 0 {
		return notFound("Fan", id)
	}
	return ok(obj{
		"@odata.id": fansURI + "/" + id, "@odata.type": "#Fan.v1_6_0.Fan", "Id": id, "Location": label(fmt.Sprintf("A%d", i)),
		"Manufacturer": "Nidec", "Model": "UltraFlo", "Name": "Fan", "PartNumber": "NID-FAN-01",
		"SerialNumber": b.part("FAN", i), "Status": enabled(),
	})
}

func getChassisDrives(b *BMC, _ *request) reply {
	return collectionOf(chassisURI+"/Drives", "DriveCollection", "Drive Collection", b.driveLinks(), nil)
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
