package bmcsim

import (
	"net/http"
	"slices"
	"time"
)

const managerURI = "/redfish/v1/Managers/bmc"

func managerRoutes() []route {
	const manager = "/redfish/v1/Managers/{manager}"
	return []route{
		{path: "/redfish/v1/Managers", do: gets(fixedCollection("/redfish/v1/Managers", "ManagerCollection", "Manager Collection", "bmc"))},
		{path: manager, do: map[string]deed{
			http.MethodGet:   {login, getManager},
			http.MethodPatch: {configureManager, patchManager},
		}},
		{path: manager + "/ResetActionInfo", do: gets(actionInfo(managerURI, "GracefulRestart", "ForceRestart"))},
		{path: manager + "/Actions/Manager.Reset", do: posts(configureManager, resetManager)},
		{path: manager + "/Actions/Manager.ResetToDefaults", do: posts(configureManager, resetToDefaults)},
		{path: manager + "/NetworkProtocol", head: true, schema: "ManagerNetworkProtocol/NetworkProtocol", do: map[string]deed{
			http.MethodGet:   {login, getNetworkProtocol},
			http.MethodPatch: {configureManager, patchNetworkProtocol},
		}},
		{path: manager + "/EthernetInterfaces", do: map[string]deed{
			http.MethodGet:  {login, getManagerNICs},
			http.MethodPost: {configureComponents, noVLAN},
		}},
		{path: manager + "/EthernetInterfaces/{nic}", do: map[string]deed{
			http.MethodGet:    {login, getManagerNIC},
			http.MethodPatch:  {configureManager, patchManagerNIC},
			http.MethodDelete: {configureManager, noVLAN},
		}},
		{path: manager + "/ManagerDiagnosticData", do: gets(getDiagnostics)},
	}
}

// getManager comes without Allow, OData-Version and Link, because the code
// that leaves DateTime out of the ETag replaces the whole response.
func getManager(b *BMC, q *request) reply {
	active := b.running(false)
	all := links(firmwareURI, b.firmwareIDs(func(f firmware) bool { return !f.Bios }))
	r := ok(obj{
		"@odata.id": managerURI, "@odata.type": "#Manager.v1_15_0.Manager",
		"Actions": obj{
			"#Manager.Reset": obj{"@Redfish.ActionInfo": managerURI + "/ResetActionInfo", "target": managerURI + "/Actions/Manager.Reset"},
			"#Manager.ResetToDefaults": obj{
				"ResetType@Redfish.AllowableValues": []string{"ResetAll"}, "target": managerURI + "/Actions/Manager.ResetToDefaults",
			},
		},
		"DateTime": b.stamp(q.now, seconds), "DateTimeLocalOffset": "+00:00", "TimeZoneName": "Etc/UTC",
		"Description":        "Baseboard Management Controller",
		"EthernetInterfaces": link(managerURI + "/EthernetInterfaces"), "FirmwareVersion": active.Version,
		"GraphicalConsole": graphicalConsole(), "Id": "bmc", "LastResetTime": b.stamp(b.start, seconds),
		"Links": obj{
			"ActiveSoftwareImage": link(firmwareURI + "/" + active.ID), "SoftwareImages": all, "SoftwareImages@odata.count": len(all),
			"ManagerForChassis": []obj{link(chassisURI)}, "ManagerForChassis@odata.count": 1,
			"ManagerForServers": []obj{link(systemURI)}, "ManagerForServers@odata.count": 1,
		},
		"Location": label("SIM.ND0-P0-C5"), "LogServices": link(managerLogs),
		"ManagerDiagnosticData": link(managerURI + "/ManagerDiagnosticData"), "ManagerType": "BMC",
		"Manufacturer": b.cfg.Manufacturer, "Model": "AST2600", "Name": "OpenBmc Manager",
		"NetworkProtocol": link(managerURI + "/NetworkProtocol"),
		"Oem": obj{"OpenBmc": obj{
			"@odata.id": managerURI + "#/Oem/OpenBmc", "@odata.type": "#OpenBMCManager.v1_1_0.Manager",
			"Certificates": link(truststoreURI),
		}},
		"PartNumber": "SIM-BMC-0001", "PowerState": "On", "SerialNumber": b.part("BMC", 0),
		"ServiceEntryPointUUID": b.state.ServiceUUID, "ServiceIdentification": b.state.Service,
		"SparePartNumber": "", "Status": enabled(), "UUID": b.state.ManagerUUID,
	})
	r.bare, r.tagless = true, []string{"DateTime"}
	return r
}

func patchManager(b *BMC, q *request) reply {
	v, r, valid := q.patch(field{path: "DateTime"}, field{path: "ServiceIdentification"})
	if !valid {
		return r
	}
	if text, given := v.text("DateTime"); given {
		t, err := time.Parse(time.RFC3339, text)
		switch {
		case err != nil:
			return badRequest("PropertyValueFormatError", quoted(text), "DateTime")
		case b.state.NTP.Enabled:
			return badRequest("PropertyValueConflict", "DateTime", "Managers/NetworkProtocol/NTPProtocolEnabled")
		}
		b.state.Clock, q.dirty = t.Sub(q.now), true
	}
	if name, given := v.text("ServiceIdentification"); given {
		b.state.Service, q.dirty = name, true
		return success()
	}
	return noContent()
}

func resetManager(b *BMC, q *request) reply {
	v, r, valid := q.action(field{path: "ResetType", need: true})
	if !valid {
		return r
	}
	if kind, _ := v.text("ResetType"); !slices.Contains([]string{"GracefulRestart", "ForceRestart"}, kind) {
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
	b.activate(false)
	if b.cfg.ResetTime == 0 {
		return
	}
	if b.defaults {
		b.forget(now)
	}
	b.gone, b.away = now.Add(lastWords), now.Add(b.cfg.ResetTime)
	b.start = b.away
	b.tasks = nil
	b.csrUntil = time.Time{}
	b.startClock(b.away)
	if b.cfg.OnRestart != nil {
		b.cfg.OnRestart()
	}
}

// startClock puts the clock of a board without a battery to 1970.
func (b *BMC) startClock(now time.Time) {
	if b.cfg.Epoch {
		b.state.Clock = time.Unix(0, 0).Sub(now)
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
	v, r, valid := q.action(field{path: "ResetType"})
	if !valid {
		return r
	}
	if kind, _ := v.text("ResetType"); kind != "ResetAll" {
		return badRequest("ActionParameterNotSupported", kind, "ResetType")
	}
	b.defaults = true
	return success()
}

func getNetworkProtocol(b *BMC, _ *request) reply {
	protocol := func(port any, on bool) obj { return obj{"Port": port, "ProtocolEnabled": on} }
	https := protocol(443, true)
	https["Certificates"] = link(httpsURI)
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
	v, r, valid := q.patch(field{path: "HostName"}, field{path: "NTP/ProtocolEnabled", kind: boolKind},
		field{path: "NTP/NTPServers", kind: textsKind},
		field{path: "IPMI/ProtocolEnabled", kind: boolKind}, field{path: "SSH/ProtocolEnabled", kind: boolKind})
	if !valid {
		return r
	}
	if _, given := v.text("HostName"); given {
		return failure(http.StatusMethodNotAllowed, message("PropertyNotWritable", "HostName"))
	}
	if on, given := v.bool("NTP/ProtocolEnabled"); given {
		b.state.NTP.Enabled = on
		if on {
			b.state.Clock = 0
		}
	}
	for path, to := range map[string]*bool{"IPMI/ProtocolEnabled": &b.state.IPMI, "SSH/ProtocolEnabled": &b.state.SSH} {
		if on, given := v.bool(path); given {
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
		"ServiceRootUptimeSeconds": real(q.now.Sub(b.start).Truncate(time.Millisecond).Seconds()),
	})
}
