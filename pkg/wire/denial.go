package wire

import (
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// ToDenial converts d.
func ToDenial(d fleet.Denial) *pb.Denial {
	return &pb.Denial{Subject: d.Subject, Reason: d.Reason, By: d.By, AtUnixMs: ToTime(d.At)}
}

// FromDenial converts m.
func FromDenial(m *pb.Denial) fleet.Denial {
	return fleet.Denial{Subject: m.GetSubject(), Reason: m.GetReason(), By: m.GetBy(), At: FromTime(m.GetAtUnixMs())}
}

// FromDenials converts a deny list.
func FromDenials(list []*pb.Denial) []fleet.Denial {
	denials := make([]fleet.Denial, len(list))
	for i, m := range list {
		denials[i] = FromDenial(m)
	}
	return denials
}

// ToDenials converts a deny list.
func ToDenials(list []fleet.Denial) []*pb.Denial {
	denials := make([]*pb.Denial, len(list))
	for i, d := range list {
		denials[i] = ToDenial(d)
	}
	return denials
}
