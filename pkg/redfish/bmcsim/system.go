package bmcsim

import (
	"net/http"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/form"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/power"
)

const systemURI = hardware.SystemURI

func systemRoutes() []route {
	return []route{
		{path: "/redfish/v1/Systems", head: true, schema: "ComputerSystemCollection", do: gets(
			fixedCollection("/redfish/v1/Systems", "ComputerSystemCollection", "Computer System Collection", "system"))},
		{path: "/redfish/v1/Systems/{system}", head: true, schema: "ComputerSystem/ComputerSystem", linkPatch: true, do: map[string]deed{
			http.MethodGet:   {auth.Login, getSystem},
			http.MethodPatch: {auth.ConfigureComponents, patchSystem},
		}},
		{
			path: "/redfish/v1/Systems/{system}/ResetActionInfo", head: true, schema: "ActionInfo/ActionInfo",
			do: gets(actionInfo(systemURI, power.ResetTypes()...)),
		},
		{path: "/redfish/v1/Systems/{system}/Actions/ComputerSystem.Reset", do: posts(auth.ConfigureComponents, resetSystem)},
		{path: "/redfish/v1/Systems/{system}/Bios", do: gets(getBios)},
		{path: "/redfish/v1/Systems/{system}/Bios/Actions/Bios.ResetBios", do: posts(auth.ConfigureComponents, resetBios)},
	}
}

func getSystem(b *BMC, _ *request) reply {
	s, p := b.state, b.power()
	o := obj{
		"@odata.id": systemURI, "@odata.type": "#ComputerSystem.v1_22_0.ComputerSystem",
		"Actions": obj{"#ComputerSystem.Reset": obj{
			"@Redfish.ActionInfo": systemURI + "/ResetActionInfo",
			"target":              systemURI + "/Actions/ComputerSystem.Reset",
		}},
		"AssetTag": s.AssetTag, "Bios": hardware.Link(systemURI + "/Bios"), "BiosVersion": b.state.Running(true).Version,
		"Boot":             s.Boot.Body(),
		"BootProgress":     obj{"LastState": p.Progress, "LastStateTime": b.stamp(p.At, clock.Microseconds)},
		"Description":      "Computer System",
		"FabricAdapters":   hardware.Link(systemURI + "/FabricAdapters"),
		"GraphicalConsole": graphicalConsole(),
		"HostWatchdogTimer": obj{
			"FunctionEnabled": false, "Status": obj{"State": "Enabled"}, "TimeoutAction": "ResetSystem",
		},
		"Id": "system", "Name": "system", "SystemType": "Physical",
		"LastResetTime":           b.stamp(s.LastReset, clock.Seconds),
		"Links":                   obj{"Chassis": []obj{hardware.Link(chassisURI)}, "ManagedBy": []obj{hardware.Link(managerURI)}},
		"LocationIndicatorActive": s.Indicator,
		"LogServices":             hardware.Link(systemURI + "/LogServices"),
		"Manufacturer":            b.cfg.Manufacturer, "Model": b.cfg.Model, "SerialNumber": b.cfg.Serial,
		"Memory":        hardware.Link(systemURI + "/Memory"),
		"MemorySummary": obj{"TotalSystemMemoryGiB": form.Real(b.server.GiB())},
		"PCIeDevices":   hardware.Links(hardware.CardsURI, b.server.CardNames()), "PCIeDevices@odata.count": len(b.cfg.PCIe),
		"PartNumber": "SIM-1U-0001", "UUID": s.SystemUUID,
		"PowerRestorePolicy": s.Restore, "PowerState": p.Power,
		"ProcessorSummary": obj{"CoreCount": b.server.Cores(), "Count": b.cfg.CPUs},
		"Processors":       hardware.Link(systemURI + "/Processors"),
		"SerialConsole": obj{
			"IPMI": obj{"ServiceEnabled": false}, "MaxConcurrentSessions": 15,
			"SSH": obj{"HotKeySequenceDisplay": "Press ~. to exit console", "Port": 2200, "ServiceEnabled": true},
		},
		"Status":  obj{"Health": s.Health, "State": p.Status},
		"Storage": hardware.Link(systemURI + "/Storage"),
	}
	if b.cfg.HostNIC != nil {
		o["EthernetInterfaces"] = hardware.Link(systemURI + "/EthernetInterfaces")
	}
	return ok(o)
}

func graphicalConsole() obj {
	return obj{"ConnectTypesSupported": []string{"KVMIP"}, "MaxConcurrentSessions": 4, "ServiceEnabled": true}
}

// choice is a text property with a list of acceptable values.
type choice struct {
	path   string
	allow  []string
	inText string // how the error names the property, if not by its path
	to     *string
}

func patchSystem(b *BMC, q *request) reply {
	v, r, valid := q.patch(input.Field{Path: "AssetTag"}, input.Field{Path: "LocationIndicatorActive", Kind: input.Bool},
		input.Field{Path: "PowerRestorePolicy"}, input.Field{Path: "Boot/BootSourceOverrideTarget"},
		input.Field{Path: "Boot/BootSourceOverrideEnabled"}, input.Field{Path: "Boot/BootSourceOverrideMode"})
	if !valid {
		return r
	}
	boot, restore := b.state.Boot, b.state.Restore
	for _, c := range []choice{
		// bmcweb misspells the target's name in the error, and so do we.
		{"Boot/BootSourceOverrideTarget", power.BootTargets(), "BootSourceTargetOverride", &boot.Target},
		{"Boot/BootSourceOverrideEnabled", []string{"Disabled", "Once", "Continuous"}, "BootSourceOverrideEnabled", &boot.Enabled},
		{"Boot/BootSourceOverrideMode", []string{"Legacy", "UEFI"}, "BootSourceOverrideMode", &boot.Mode},
		{"PowerRestorePolicy", []string{"AlwaysOn", "AlwaysOff", "LastState"}, "PowerRestorePolicy", &restore},
	} {
		value, given := v.Text(c.path)
		if given && !slices.Contains(c.allow, value) {
			return badRequest("PropertyValueNotInList", message.Quoted(value), c.inText)
		}
		if given {
			*c.to = value
		}
	}
	b.state.Boot, b.state.Restore = boot, restore
	if tag, given := v.Text("AssetTag"); given {
		b.state.AssetTag = tag
	}
	if on, given := v.Bool("LocationIndicatorActive"); given {
		b.state.Indicator = on
	}
	q.dirty = true
	return noContent()
}

func resetSystem(b *BMC, q *request) reply {
	v, r, valid := q.action(input.Field{Path: "ResetType", Need: true})
	if !valid {
		return r
	}
	kind, _ := v.Text("ResetType")
	if !slices.Contains(power.ResetTypes(), kind) {
		return badRequest("ActionParameterUnknown", "Reset", kind)
	}
	if kind == "Nmi" {
		return success()
	}
	b.resetPower(q.now, kind)
	q.dirty = true
	return noContent()
}

func (b *BMC) resetPower(now time.Time, kind string) {
	b.state.Power = b.state.Power.Reset(now, kind, b.cfg.Transition)
	b.settle(now)
}

func getBios(b *BMC, _ *request) reply {
	image := hardware.Link(firmwareURI + "/" + b.state.Running(true).ID)
	all := hardware.Links(firmwareURI, b.state.ImagesOf(true))
	return ok(obj{
		"@odata.id": systemURI + "/Bios", "@odata.type": "#Bios.v1_1_0.Bios",
		"Actions":     obj{"#Bios.ResetBios": obj{"target": systemURI + "/Bios/Actions/Bios.ResetBios"}},
		"Description": "BIOS Configuration Service", "Id": "BIOS", "Name": "BIOS Configuration",
		"Links": obj{"ActiveSoftwareImage": image, "SoftwareImages": all, "SoftwareImages@odata.count": len(all)},
	})
}

// resetBios needs no body and takes whatever it gets.
func resetBios(*BMC, *request) reply { return success() }

// stamp is a moment by the BMC's own clock.
func (b *BMC) stamp(t time.Time, layout string) string {
	return b.state.Clock.Stamp(t, layout)
}
