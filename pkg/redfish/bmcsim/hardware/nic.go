package hardware

import (
	"hash/fnv"
	"maps"
	"net/netip"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// NIC is a network interface with one IPv4 address.
type NIC struct {
	Address, Netmask, Gateway string
	DHCP                      bool
}

// MAC is the nth of a server: a locally administered address that follows from the serial number.
func MAC(serial string, n int) string {
	h := hash64(serial) + uint64(n)
	const digits = "0123456789abcdef"
	text := []byte("02:00:00:00:00:00")
	for i := 3; i < len(text); i += 3 {
		text[i], text[i+1] = digits[h>>4&15], digits[h&15]
		h >>= 8
	}
	return string(text)
}

func hash64(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return h.Sum64()
}

// Body is the interface, without what tells where it is.
func (n NIC) Body(macAddress string) map[string]any {
	address := map[string]any{"Address": n.Address, "AddressOrigin": "Static", "Gateway": n.Gateway, "SubnetMask": n.Netmask}
	static := []map[string]any{address}
	if n.DHCP {
		address["AddressOrigin"] = "DHCP"
		static = []map[string]any{}
	}
	useAll := map[string]any{"UseDNSServers": true, "UseDomainName": true, "UseNTPServers": true}
	return map[string]any{
		"@odata.type": "#EthernetInterface.v1_9_0.EthernetInterface",
		"DHCPv4":      merged(useAll, map[string]any{"DHCPEnabled": n.DHCP}),
		"DHCPv6":      merged(useAll, map[string]any{"OperatingMode": "Disabled"}), "EthernetInterfaceType": "Physical",
		"FullDuplex": false, "IPv4Addresses": []map[string]any{address}, "IPv4StaticAddresses": static,
		"IPv6AddressPolicyTable": []map[string]any{}, "IPv6Addresses": []map[string]any{}, "IPv6DefaultGateway": "0:0:0:0:0:0:0:0",
		"IPv6StaticAddresses": []map[string]any{}, "IPv6StaticDefaultGateways": []map[string]any{},
		"Id": "eth0", "InterfaceEnabled": true, "LinkStatus": "LinkUp", "MACAddress": macAddress, "MTUSize": 1500,
		"NameServers": []string{"192.0.2.53"}, "SpeedMbps": 1000,
		"StatelessAddressAutoConfig": map[string]any{"IPv6AutoConfigEnabled": false},
		"StaticNameServers":          []string{"192.0.2.53"}, "Status": map[string]any{"State": "Enabled"},
	}
}

// merged is all properties of some objects.
func merged(parts ...map[string]any) map[string]any {
	out := map[string]any{}
	for _, p := range parts {
		maps.Copy(out, p)
	}
	return out
}

// SetStatic takes the first address; a static address ends DHCP. Of a list with a
// problem it may have taken a part.
func (n *NIC) SetStatic(list []map[string]any) (problem map[string]any) {
	for _, o := range list {
		fields := map[string]*string{"Address": &n.Address, "SubnetMask": &n.Netmask, "Gateway": &n.Gateway}
		for _, name := range []string{"Address", "SubnetMask", "Gateway"} {
			value, isText := o[name].(string)
			if _, given := o[name]; !given && name == "Gateway" {
				continue
			}
			if a, err := netip.ParseAddr(value); !isText || err != nil || !a.Is4() {
				if o[name] == nil {
					return message.New("PropertyMissing", "IPv4StaticAddresses/1/"+name)
				}
				return message.New("PropertyValueFormatError", input.Compact(o[name]), "IPv4StaticAddresses/1/"+name)
			}
			*fields[name] = value
		}
		n.DHCP = false
		break
	}
	return nil
}
