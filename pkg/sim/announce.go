package sim

import (
	"fmt"
	"net"
	"strconv"

	"github.com/grandcat/zeroconf"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// serviceType is how an OpenBMC announces its Redfish service where it does.
const serviceType = "_obmc_redfish._tcp"

// announcer is one mDNS responder for each BMC.
type announcer struct{ servers []*zeroconf.Server }

// start announces on the loopback interface alone: nothing of a simulated
// rack is seen outside this machine. The interface is named because it has no
// multicast flag, and works all the same.
func (a *announcer) start(nodes []Node) error {
	lo, err := loopback()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		_, port, err := net.SplitHostPort(n.Address)
		if err != nil {
			return fault.Wrap(fault.Internal, "announce "+string(n.Name), err)
		}
		number, err := strconv.Atoi(port)
		if err != nil {
			return fault.Wrap(fault.Internal, "announce "+string(n.Name), err)
		}
		s, err := zeroconf.RegisterProxy(fmt.Sprintf("redfish on %s %s", n.Name, port), serviceType, "local.", number,
			string(n.Name), []string{"127.0.0.1"}, nil, []net.Interface{lo})
		if err != nil {
			a.stop()
			return fault.Wrap(fault.Unavailable, "announce over mDNS", err)
		}
		a.servers = append(a.servers, s)
	}
	return nil
}

func (a *announcer) stop() {
	for _, s := range a.servers {
		s.Shutdown()
	}
	a.servers = nil
}

func loopback() (net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return net.Interface{}, fault.Wrap(fault.Unavailable, "list the network interfaces", err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 && i.Flags&net.FlagUp != 0 {
			return i, nil
		}
	}
	return net.Interface{}, fault.New(fault.Unavailable, "announce over mDNS", "there is no loopback interface")
}
