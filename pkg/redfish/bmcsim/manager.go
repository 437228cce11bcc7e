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
)

const managerURI = hardware.ManagerURI

func managerRoutes() []route {
	const manager = "/redfish/v1/Managers/{manager}"
	return []route{
		{path: "/redfish/v1/Managers", do: gets(fixedCollection("/redfish/v1/Managers", "ManagerCollection", "Manager Collection", "bmc"))},
		{path: manager, do: map[string]deed{
			http.MethodGet:   {auth.Login, getManager},
			http.MethodPatch: {auth.ConfigureManager, patchManager},
		}},
		{path: manager + "/ResetActionInfo", do: gets(actionInfo(managerURI, "GracefulRestart", "ForceRestart"))},
		{path: manager + "/Actions/Manager.Reset", do: posts(auth.ConfigureManager, resetManager)},
		{path: manager + "/Actions/Manager.ResetToDefaults", do: posts(auth.ConfigureManager, resetToDefaults)},
		{path: manager + "/NetworkProtocol", head: true, schema: "ManagerNetworkProtocol/NetworkProtocol", do: map[string]deed{
			http.MethodGet:   {auth.Login, getNetworkProtocol},
			http.MethodPatch: {auth.ConfigureManager, patchNetworkProtocol},
		}},
		{path: manager + "/EthernetInterfaces", do: map[string]deed{
			http.MethodGet:  {auth.Login, getManagerNICs},
			http.MethodPost: {auth.ConfigureComponents, noVLAN},
		}},
		{path: manager + "/EthernetInterfaces/{nic}", do: map[string]deed{
			http.MethodGet:    {auth.Login, getManagerNIC},
			http.MethodPatch:  {auth.ConfigureManager, patchManagerNIC},
			http.MethodDelete: {auth.ConfigureManager, noVLAN},
		}},
		{path: manager + "/ManagerDiagnosticData", do: gets(getDiagnostics)},
	}
}

// getManager comes without Allow, OData-Version and Link, because the code
// that leaves DateTime out of the ETag replaces the whole response.
func getManager(b *BMC, q *request) reply {
	active := b.state.Running(false)
	all := hardware.Links(firmwareURI, b.state.ImagesOf(false))
	r := ok(obj{
		"@odata.id": managerURI, "@odata.type": "#Manager.v1_15_0.Manager",
		"Actions": obj{
			"#Manager.Reset": obj{"@Redfish.ActionInfo": managerURI + "/ResetActionInfo", "target": managerURI + "/Actions/Manager.Reset"},
			"#Manager.ResetToDefaults": obj{
				"ResetType@Redfish.AllowableValues": []string{"ResetAll"}, "target": managerURI + "/Actions/Manager.ResetToDefaults",
			},
		},
		"DateTime": b.stamp(q.now, clock.Seconds), "DateTimeLocalOffset": "+00:00", "TimeZoneName": "Etc/UTC",
		"Description":        "Baseboard Management Controller",
		"EthernetInterfaces": hardware.Link(managerURI + "/EthernetInterfaces"), "FirmwareVersion": active.Version,
		"GraphicalConsole": graphicalConsole(), "Id": "bmc", "LastResetTime": b.stamp(b.start, clock.Seconds),
		"Links": obj{
			"ActiveSoftwareImage": hardware.Link(firmwareURI + "/" + active.ID), "SoftwareImages": all, "SoftwareImages@odata.count": len(all),
			"ManagerForChassis": []obj{hardware.Link(chassisURI)}, "ManagerForChassis@odata.count": 1,
			"ManagerForServers": []obj{hardware.Link(systemURI)}, "ManagerForServers@odata.count": 1,
		},
		"Location": hardware.Label("SIM.ND0-P0-C5"), "LogServices": hardware.Link(managerLogs),
		"ManagerDiagnosticData": hardware.Link(managerURI + "/ManagerDiagnosticData"), "ManagerType": "BMC",
		"Manufacturer": b.cfg.Manufacturer, "Model": "AST2600", "Name": "OpenBmc Manager",
		"NetworkProtocol": hardware.Link(managerURI + "/NetworkProtocol"),
		"Oem": obj{"OpenBmc": obj{
			"@odata.id": managerURI + "#/Oem/OpenBmc", "@odata.type": "#OpenBMCManager.v1_1_0.Manager",
			"Certificates": hardware.Link(truststoreURI),
		}},
		"PartNumber": "SIM-BMC-0001", "PowerState": "On", "SerialNumber": b.server.Part("BMC", 0),
		"ServiceEntryPointUUID": b.state.ServiceUUID, "ServiceIdentification": b.state.Service,
		"SparePartNumber": "", "Status": hardware.Enabled(), "UUID": b.state.ManagerUUID,
	})
	r.bare, r.tagless = true, []string{"DateTime"}
	return r
}

func patchManager(b *BMC, q *request) reply {
	v, r, valid := q.patch(input.Field{Path: "DateTime"}, input.Field{Path: "ServiceIdentification"})
	if !valid {
		return r
	}
	if text, given := v.Text("DateTime"); given {
		t, err := time.Parse(time.RFC3339, text)
		switch {
		case err != nil:
			return badRequest("PropertyValueFormatError", message.Quoted(text), "DateTime")
		case b.state.NTP.Enabled:
			return badRequest("PropertyValueConflict", "DateTime", "Managers/NetworkProtocol/NTPProtocolEnabled")
		}
		b.state.Clock, q.dirty = clock.Offset(t.Sub(q.now)), true
	}
	if name, given := v.Text("ServiceIdentification"); given {
		b.state.Service, q.dirty = name, true
		return success()
	}
	return noContent()
}

func resetManager(b *BMC, q *request) reply {
	v, r, valid := q.action(input.Field{Path: "ResetType", Need: true})
	if !valid {
		return r
	}
	if kind, _ := v.Text("ResetType"); !slices.Contains([]string{"GracefulRestart", "ForceRestart"}, kind) {
		return badRequest("ActionParameterNotSupported", kind, "ResetType")
	}
	b.restart(q.now)
	q.dirty = true
	return success()
}

// lastWords is how long a BMC still answers after it was told to restart: the
// answer to that, and what is asked beside it.
const lastWords = 100 * time.Millisecond

// restart takes the BMC away for a while, if it ever goes. Tasks are forgotten,
// a new image runs; accounts, sessions and subscriptions are kept.
func (b *BMC) restart(now time.Time) {
	b.state.Activate(false)
	if b.cfg.ResetTime == 0 {
		return
	}
	if b.defaults {
		b.forget(now)
	}
	b.gone, b.away = now.Add(lastWords), now.Add(b.cfg.ResetTime)
	b.start = b.away
	b.tasks.Forget()
	b.csrUntil = time.Time{}
	b.startClock(b.away)
	if b.cfg.OnRestart != nil {
		b.cfg.OnRestart()
	}
}

// startClock puts the clock of a board without a battery to 1970.
func (b *BMC) startClock(now time.Time) {
	if b.cfg.Epoch {
		b.state.Clock = clock.Offset(time.Unix(0, 0).Sub(now))
	}
}

// restarting reports whether the BMC is away.
func (b *BMC) restarting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Now()
	return !now.Before(b.gone) && now.Before(b.away)
}

// forget is a factory reset. If no new key can be made, everything stays.
func (b *BMC) forget(now time.Time) {
	cfg := b.cfg
	cfg.Now = func() time.Time { return now }
	if fresh, err := freshState(cfg); err == nil && b.adopt(fresh) == nil {
		b.defaults = false
	}
}

// resetToDefaults says yes; the next restart does it.
func resetToDefaults(b *BMC, q *request) reply {
	v, r, valid := q.action(input.Field{Path: "ResetType"})
	if !valid {
		return r
	}
	if kind, _ := v.Text("ResetType"); kind != "ResetAll" {
		return badRequest("ActionParameterNotSupported", kind, "ResetType")
	}
	b.defaults = true
	return success()
}

func getNetworkProtocol(b *BMC, _ *request) reply {
	protocol := func(port any, on bool) obj { return obj{"Port": port, "ProtocolEnabled": on} }
	https := protocol(443, true)
	https["Certificates"] = hardware.Link(httpsURI)
	return ok(obj{
		"@odata.id":   managerURI + "/NetworkProtocol",
		"@odata.type": "#ManagerNetworkProtocol.v1_9_0.ManagerNetworkProtocol",
		"Description": "Manager Network Service", "FQDN": b.state.Hostname, "HostName": b.state.Hostname,
		"HTTP": protocol(nil, false), "HTTPS": https, "IPMI": protocol(623, b.state.IPMI), "SSH": protocol(22, b.state.SSH),
		"Id": "NetworkProtocol", "Name": "Manager Network Protocol",
		"NTP": obj{
			"NTPServers": b.state.NTP.Servers, "NetworkSuppliedServers": []string{}, "ProtocolEnabled": b.state.NTP.Enabled,
		},
		"Status": obj{"Health": "OK", "HealthRollup": "OK", "State": "Enabled"},
	})
}

func patchNetworkProtocol(b *BMC, q *request) reply {
	v, r, valid := q.patch(input.Field{Path: "HostName"}, input.Field{Path: "NTP/ProtocolEnabled", Kind: input.Bool},
		input.Field{Path: "NTP/NTPServers", Kind: input.Texts},
		input.Field{Path: "IPMI/ProtocolEnabled", Kind: input.Bool}, input.Field{Path: "SSH/ProtocolEnabled", Kind: input.Bool})
	if !valid {
		return r
	}
	if _, given := v.Text("HostName"); given {
		return failure(http.StatusMethodNotAllowed, message.New("PropertyNotWritable", "HostName"))
	}
	if on, given := v.Bool("NTP/ProtocolEnabled"); given {
		b.state.NTP.Enabled = on
		if on {
			b.state.Clock = 0
		}
	}
	for path, to := range map[string]*bool{"IPMI/ProtocolEnabled": &b.state.IPMI, "SSH/ProtocolEnabled": &b.state.SSH} {
		if on, given := v.Bool(path); given {
			*to = on
		}
	}
	if servers, given := v["NTP/NTPServers"].([]string); given {
		b.state.NTP.Servers = servers
	}
	q.dirty = true
	return noContent()
}

func getDiagnostics(b *BMC, q *request) reply {
	return ok(obj{
		"@odata.id":   managerURI + "/ManagerDiagnosticData",
		"@odata.type": "#ManagerDiagnosticData.v1_2_0.ManagerDiagnosticData",
		"Id":          "ManagerDiagnosticData", "Name": "Manager Diagnostic Data",
		"ServiceRootUptimeSeconds": form.Real(q.now.Sub(b.start).Truncate(time.Millisecond).Seconds()),
	})
}
