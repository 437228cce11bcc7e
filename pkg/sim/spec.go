// Package sim runs a rack of simulated BMCs on the loopback interface and lets
// a person or a test move it by hand.
//
// A Rack is one process's worth of pkg/redfish/bmcsim: every BMC has its own
// port, certificate and state file, all are announced over mDNS, and a unix
// socket in the state directory takes commands (Client, and the command line
// of Command).
package sim

import (
	"fmt"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// Spec is one server of a rack: its name in the fleet and its hardware. The
// BMC's host name, serial number and state file follow from the name unless
// Config says otherwise.
type Spec struct {
	Name   fleet.NodeName
	Config bmcsim.Config
}

// DevRack is the rack of `chiba dev`: eight servers on which the examples of
// the manual run as they stand.
func DevRack() []Spec {
	specs := []Spec{
		{Name: "ai-node-0", Config: bmcsim.Config{PowerOn: true}},
		{Name: "ai-node-1"}, // the spare that a rule starts
		{Name: "ServerName", Config: bmcsim.Config{
			HostNIC:           &bmcsim.NIC{Address: "10.0.0.20", Netmask: "255.255.255.0", Gateway: "10.0.0.1"},
			Drives:            []bmcsim.Drive{{ID: "sda", Bytes: 500e9, Media: "SSD", Model: "SIM-SSD-500"}},
			MinPasswordLength: 7, // its example sets a short password
		}},
	}
	for u := 4; u <= 8; u++ {
		specs = append(specs, Spec{Name: unit(1, u), Config: bmcsim.Config{PowerOn: true}})
	}
	return specs
}

// DevRacks are the racks of a `chiba dev` with several: r01 is DevRack, each of
// the others has eight servers that are on.
func DevRacks(n int) []Spec {
	specs := DevRack()
	for rack := 2; rack <= n; rack++ {
		for u := 1; u <= 8; u++ {
			specs = append(specs, Spec{Name: unit(rack, u), Config: bmcsim.Config{PowerOn: true}})
		}
	}
	return specs
}

// Racks is n like servers, 40 to a rack, all on. With first 1 they are named r01-u01,
// r01-u02 …; no two servers of different names have the same serial.
func Racks(first, n int) []Spec {
	const units = 40
	specs := make([]Spec, n)
	for i := range specs {
		specs[i] = Spec{Name: unit(first+i/units, 1+i%units), Config: bmcsim.Config{PowerOn: true}}
	}
	return specs
}

func unit(rack, u int) fleet.NodeName {
	return fleet.NodeName(fmt.Sprintf("r%02d-u%02d", rack, u))
}
