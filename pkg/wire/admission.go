package wire

import (
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// ToAdmission is the message of a; nil if there is nothing to tell.
func ToAdmission(a fleet.Admission) *pb.Admission {
	if a.State == fleet.Listed && a.Why+a.Make+a.UUID == "" && len(a.By)+len(a.Evidence) == 0 {
		return nil
	}
	return &pb.Admission{
		State: utf8(string(a.State)), Why: utf8(a.Why), By: texts(a.By), Make: utf8(a.Make), Uuid: utf8(a.UUID),
		Evidence: each(a.Evidence, func(e fleet.Evidence) *pb.Evidence {
			return &pb.Evidence{What: utf8(e.What), Is: utf8(e.Is), From: utf8(e.From)}
		}),
	}
}

// FromAdmission is the admission of m.
func FromAdmission(m *pb.Admission) fleet.Admission {
	return fleet.Admission{
		State: fleet.AdmissionState(m.GetState()), Why: m.GetWhy(), By: m.GetBy(), Make: m.GetMake(), UUID: m.GetUuid(),
		Evidence: each(m.GetEvidence(), func(e *pb.Evidence) fleet.Evidence {
			return fleet.Evidence{What: e.GetWhat(), Is: e.GetIs(), From: e.GetFrom()}
		}),
	}
}
