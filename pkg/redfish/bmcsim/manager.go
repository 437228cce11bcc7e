package bmcsim

import (
	"net/http"
	"slices"
	"time"
)

const (
	managerURI = "/redfish/v1/Managers/bmc"
	httpsURI   = managerURI + "/NetworkProtocol/HTTPS/Certificates"
)

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
		{path: manager + "/NetworkProtocol", head: true, schema: "ManagerNetworkProtocol/NetworkProtocol", do: map[string]deed{
			http.MethodGet:   {login, getNetworkProtocol},
			http.MethodPatch: {configureManager, patchNetworkProtocol},
		}},
		{path: manager + "/NetworkProtocol/HTTPS/Certificates", do: gets(getCertificates)},
		{path: manager + "/NetworkProtocol/HTTPS/Certificates/{certificate}", do: gets(getCertificate)},
		{path: manager + "/EthernetInterfaces", do: gets(getManagerNICs)},
		{path: manager + "/EthernetInterfaces/{nic}", do: map[string]deed{
			http.MethodGet:   {login, getManagerNIC},
			http.MethodPatch: {configureManager, patchManagerNIC},
		}},
		{path: manager + "/ManagerDiagnosticData", do: gets(getDiagnostics)},
	}
}

// getManager comes without Allow, OData-Version and Link, because the code
// that leaves DateTime out of the ETag replaces the whole response.
func getManager(b *BMC, q *request) reply {
	image := link(firmwareURI + "/" + bmcID)
	r := ok(obj{
		"@odata.id": managerURI, "@odata.type": "#Manager.v1_15_0.Manager",
		"Actions": obj{"#Manager.Reset": obj{
			"@Redfish.ActionInfo": managerURI + "/ResetActionInfo", "target": managerURI + "/Actions/Manager.Reset",
		}},
		"DateTime": b.stamp(q.now, seconds), "DateTimeLocalOffset": "+00:00", "TimeZoneName": "Etc/UTC",
		"Description":        "Baseboard Management Controller",
		"EthernetInterfaces": link(managerURI + "/EthernetInterfaces"), "FirmwareVersion": bmcVersion,
		"GraphicalConsole": graphicalConsole(), "Id": "bmc", "LastResetTime": b.stamp(b.start, seconds),
		"Links": obj{
			"ActiveSoftwareImage": image, "SoftwareImages": []obj{image}, "SoftwareImages@odata.count": 1,
			"ManagerForChassis": []obj{link(chassisURI)}, "ManagerForChassis@odata.count": 1,
			"ManagerForServers": []obj{link(systemURI)}, "ManagerForServers@odata.count": 1,
		},
		"Location": label("SIM.ND0-P0-C5"), "LogServices": link(managerLogs),
		"ManagerDiagnosticData": link(managerURI + "/ManagerDiagnosticData"), "ManagerType": "BMC",
		"Manufacturer": b.cfg.Manufacturer, "Model": "AST2600", "Name": "OpenBmc Manager",
		"NetworkProtocol": link(managerURI + "/NetworkProtocol"),
		"PartNumber":      "SIM-BMC-0001", "PowerState": "On", "SerialNumber": b.part("BMC", 0),
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
	b.start = q.now
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
		"HTTP": protocol(nil, false), "HTTPS": https, "IPMI": protocol(623, false), "SSH": protocol(22, true),
		"Id": "NetworkProtocol", "Name": "Manager Network Protocol",
		"NTP": obj{
			"NTPServers": b.state.NTP.Servers, "NetworkSuppliedServers": []string{}, "ProtocolEnabled": b.state.NTP.Enabled,
		},
		"Status": obj{"Health": "OK", "HealthRollup": "OK", "State": "Enabled"},
	})
}

func patchNetworkProtocol(b *BMC, q *request) reply {
	v, r, valid := q.patch(field{path: "HostName"}, field{path: "NTP/ProtocolEnabled", kind: boolKind},
		field{path: "NTP/NTPServers", kind: textsKind})
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
	if servers, given := v["NTP/NTPServers"].([]string); given {
		b.state.NTP.Servers = servers
	}
	q.dirty = true
	return noContent()
}

func getCertificates(*BMC, *request) reply {
	return collection(httpsURI, "CertificateCollection", "HTTPS Certificates Collection", []string{"1"},
		obj{"Description": "A Collection of HTTPS certificate instances"})
}

// getCertificate shows the certificate that is served, with a Location header
// even on GET.
func getCertificate(b *BMC, q *request) reply {
	if id := q.args["certificate"]; id != "1" {
		return notFound("Certificate", id)
	}
	leaf := b.cert.Leaf
	name := obj{"CommonName": leaf.Subject.CommonName, "Country": "US", "Organization": "OpenBMC"}
	r := ok(obj{
		"@odata.id": httpsURI + "/1", "@odata.type": "#Certificate.v1_0_0.Certificate",
		"CertificateString": b.state.Certificate, "Description": "HTTPS Certificate", "Id": "1",
		"Issuer": name, "KeyUsage": []string{"KeyEncipherment"}, "Name": "HTTPS Certificate", "Subject": name,
		"ValidNotAfter": leaf.NotAfter.Format(seconds), "ValidNotBefore": leaf.NotBefore.Format(seconds),
	})
	r.set("Location", httpsURI+"/1")
	return r
}

func getDiagnostics(b *BMC, q *request) reply {
	return ok(obj{
		"@odata.id":   managerURI + "/ManagerDiagnosticData",
		"@odata.type": "#ManagerDiagnosticData.v1_2_0.ManagerDiagnosticData",
		"Id":          "ManagerDiagnosticData", "Name": "Manager Diagnostic Data",
		"ServiceRootUptimeSeconds": real(q.now.Sub(b.start).Truncate(time.Millisecond).Seconds()),
	})
}
