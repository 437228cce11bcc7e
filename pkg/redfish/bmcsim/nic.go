package bmcsim

import (
	"maps"
	"net/http"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/certs"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
)

const (
	hostNICsURI    = systemURI + "/EthernetInterfaces"
	managerNICsURI = managerURI + "/EthernetInterfaces"
)

// hostNICRoutes exist only if the BMC shows its host's interface.
func hostNICRoutes() []route {
	const nics = "/redfish/v1/Systems/{system}/EthernetInterfaces"
	return []route{
		{path: nics, do: gets(getHostNICs)},
		{path: nics + "/{nic}", do: map[string]deed{
			http.MethodGet:   {auth.Login, getHostNIC},
			http.MethodPatch: {auth.ConfigureComponents, patchHostNIC},
		}},
	}
}

func getHostNICs(*BMC, *request) reply {
	return collection(hostNICsURI, "EthernetInterfaceCollection", "Ethernet Network Interface Collection", []string{"eth0"},
		obj{"Description": "Collection of EthernetInterfaces for this System"})
}

func getManagerNICs(*BMC, *request) reply {
	return collection(managerNICsURI, "EthernetInterfaceCollection", "Ethernet Network Interface Collection", []string{"eth0"},
		obj{"Description": "Collection of EthernetInterfaces for this Manager"})
}

func (q *request) noNIC() bool { return q.args["nic"] != "eth0" }

func getHostNIC(b *BMC, q *request) reply {
	if q.noNIC() {
		return notFound("EthernetInterface", q.args["nic"])
	}
	o := b.state.HostNIC.Body(hardware.MAC(b.cfg.Serial, 2))
	o["@odata.id"] = hostNICsURI + "/eth0"
	o["Description"], o["Name"] = "Host Network Interface", "Host Ethernet Interface"
	return ok(o)
}

func getManagerNIC(b *BMC, q *request) reply {
	if q.noNIC() {
		return notFound("EthernetInterface", q.args["nic"])
	}
	o := b.state.BMCNIC.Body(hardware.MAC(b.cfg.Serial, 1))
	o["@odata.id"] = managerNICsURI + "/eth0"
	o["Description"], o["Name"] = "Management Network Interface", "Manager Ethernet Interface"
	o["HostName"], o["FQDN"] = b.state.Hostname, b.state.Hostname
	return ok(o)
}

// noVLAN is the answer to making and deleting VLANs, which are not simulated.
func noVLAN(_ *BMC, q *request) reply { return notAllowed(q.method) }

func merged(parts ...obj) obj {
	out := obj{}
	for _, p := range parts {
		maps.Copy(out, p)
	}
	return out
}

func nicFields() []input.Field {
	return []input.Field{{Path: "IPv4StaticAddresses", Kind: input.Objects}, {Path: "DHCPv4/DHCPEnabled", Kind: input.Bool}}
}

func patchHostNIC(b *BMC, q *request) reply {
	v, r, valid := q.patch(nicFields()...)
	if !valid {
		return r
	}
	return b.patchNIC(q, &b.state.HostNIC, v)
}

// patchManagerNIC stores an address but keeps answering where it was: the
// simulator's own address is its listener's. A new host name means a new key
// and a new certificate, at once.
func patchManagerNIC(b *BMC, q *request) reply {
	v, r, valid := q.patch(append(nicFields(), input.Field{Path: "HostName"})...)
	if !valid {
		return r
	}
	if name, given := v.Text("HostName"); given && name != b.state.Hostname {
		if r := b.rename(name); r != nil {
			return *r
		}
	}
	return b.patchNIC(q, &b.state.BMCNIC, v)
}

func (b *BMC) rename(name string) *reply {
	changed := *b.state
	changed.Hostname = name
	var err error
	if certs.Own(b.cert.Leaf) { // one that somebody installed stays
		err = changed.renewCertificate(b.cfg)
	}
	if err == nil {
		err = b.adopt(&changed)
	}
	if err != nil {
		r := internalError()
		return &r
	}
	return nil
}

func (b *BMC) patchNIC(q *request, nic *NIC, v input.Values) reply {
	if q.noNIC() {
		return notFound("EthernetInterface", q.args["nic"])
	}
	changed := *nic
	if list, given := v["IPv4StaticAddresses"].([]obj); given {
		if problem := changed.SetStatic(list); problem != nil {
			return failure(http.StatusBadRequest, problem)
		}
	}
	if on, given := v.Bool("DHCPv4/DHCPEnabled"); given {
		changed.DHCP = on
	}
	*nic, q.dirty = changed, true
	return noContent()
}
