package bmcsim

import (
	"maps"
	"net/http"
	"net/netip"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/certs"
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
	o := b.state.HostNIC.body(mac(b.cfg.Serial, 2))
	o["@odata.id"] = hostNICsURI + "/eth0"
	o["Description"], o["Name"] = "Host Network Interface", "Host Ethernet Interface"
	return ok(o)
}

func getManagerNIC(b *BMC, q *request) reply {
	if q.noNIC() {
		return notFound("EthernetInterface", q.args["nic"])
	}
	o := b.state.BMCNIC.body(mac(b.cfg.Serial, 1))
	o["@odata.id"] = managerNICsURI + "/eth0"
	o["Description"], o["Name"] = "Management Network Interface", "Manager Ethernet Interface"
	o["HostName"], o["FQDN"] = b.state.Hostname, b.state.Hostname
	return ok(o)
}

// mac is a locally administered address that follows from the serial number.
func mac(serial string, n int) string {
	h := hash64(serial) + uint64(n)
	const digits = "0123456789abcdef"
	text := []byte("02:00:00:00:00:00")
	for i := 3; i < len(text); i += 3 {
		text[i], text[i+1] = digits[h>>4&15], digits[h&15]
		h >>= 8
	}
	return string(text)
}

func (n NIC) body(macAddress string) obj {
	address := obj{"Address": n.Address, "AddressOrigin": "Static", "Gateway": n.Gateway, "SubnetMask": n.Netmask}
	static := []obj{address}
	if n.DHCP {
		address["AddressOrigin"] = "DHCP"
		static = []obj{}
	}
	useAll := obj{"UseDNSServers": true, "UseDomainName": true, "UseNTPServers": true}
	return obj{
		"@odata.type": "#EthernetInterface.v1_9_0.EthernetInterface",
		"DHCPv4":      merged(useAll, obj{"DHCPEnabled": n.DHCP}),
		"DHCPv6":      merged(useAll, obj{"OperatingMode": "Disabled"}), "EthernetInterfaceType": "Physical",
		"FullDuplex": false, "IPv4Addresses": []obj{address}, "IPv4StaticAddresses": static,
		"IPv6AddressPolicyTable": []obj{}, "IPv6Addresses": []obj{}, "IPv6DefaultGateway": "0:0:0:0:0:0:0:0",
		"IPv6StaticAddresses": []obj{}, "IPv6StaticDefaultGateways": []obj{},
		"Id": "eth0", "InterfaceEnabled": true, "LinkStatus": "LinkUp", "MACAddress": macAddress, "MTUSize": 1500,
		"NameServers": []string{"192.0.2.53"}, "SpeedMbps": 1000,
		"StatelessAddressAutoConfig": obj{"IPv6AutoConfigEnabled": false},
		"StaticNameServers":          []string{"192.0.2.53"}, "Status": obj{"State": "Enabled"},
	}
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
		if r := changed.setStatic(list); r != nil {
			return *r
		}
	}
	if on, given := v.Bool("DHCPv4/DHCPEnabled"); given {
		changed.DHCP = on
	}
	*nic, q.dirty = changed, true
	return noContent()
}

// setStatic takes the first address; a static address ends DHCP.
func (n *NIC) setStatic(list []obj) *reply {
	for _, o := range list {
		fields := map[string]*string{"Address": &n.Address, "SubnetMask": &n.Netmask, "Gateway": &n.Gateway}
		for _, name := range []string{"Address", "SubnetMask", "Gateway"} {
			value, isText := o[name].(string)
			if _, given := o[name]; !given && name == "Gateway" {
				continue
			}
			if a, err := netip.ParseAddr(value); !isText || err != nil || !a.Is4() {
				r := badRequest("PropertyValueFormatError", input.Compact(o[name]), "IPv4StaticAddresses/1/"+name)
				if o[name] == nil {
					r = badRequest("PropertyMissing", "IPv4StaticAddresses/1/"+name)
				}
				return &r
			}
			*fields[name] = value
		}
		n.DHCP = false
		break
	}
	return nil
}
