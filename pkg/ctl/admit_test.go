package ctl_test

import "github.com/chiba-mesh/chiba/pkg/wire/pb"

// found are the BMCs that are none of the fleet.
func found() []*pb.Node {
	return []*pb.Node{
		stranger("r01-7k2m4q", "sha256/SSSS", "waiting", "nobody has let it in"),
		stranger("r01-zzzzzz", "sha256/TTTT", "refused", "not ours", "ada"),
	}
}

// stranger is a BMC that was found and is none of the fleet.
func stranger(name, pin, is, why string, by ...string) *pb.Node {
	return &pb.Node{
		Name: name, Rack: "r01", Address: "10.1.0.9:443", State: "stranger", Trust: &pb.BMCTrust{Pin: pin, Takeover: "none", Level: "T1"},
		Admission: &pb.Admission{State: is, Why: why, By: by, Make: "OpenBMC", Evidence: []*pb.Evidence{
			{What: "link", Is: "eth1", From: "mdns"}, {What: "name", Is: "redfish on \x1b[31m", From: "its own word"},
		}},
	}
}
