package wire

import (
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// ToBMCTrust is the message of t.
func ToBMCTrust(t fleet.BMCTrust) *pb.BMCTrust {
	return &pb.BMCTrust{
		Pin: utf8(t.Pin), Takeover: utf8(string(t.Takeover)), Wanted: t.Wanted, Released: t.Released, Step: utf8(t.Step),
		Own: t.Own, CertEndsUnixMs: ToTime(t.CertEnds), UniquePassword: t.UniquePassword, Weak: texts(t.Weak),
		ClockOffUs: t.ClockOff.Microseconds(), Limits: texts(t.Limits), Quarantine: utf8(t.Quarantine), AtUnixMs: ToTime(t.At),
		Level: utf8(t.Level), Why: utf8(t.Why), SinceUnixMs: ToTime(t.Since), Elements: labels(t.Elements),
	}
}

// FromBMCTrust is the trust of m.
func FromBMCTrust(m *pb.BMCTrust) fleet.BMCTrust {
	return fleet.BMCTrust{
		Pin: m.GetPin(), Takeover: fleet.Takeover(m.GetTakeover()), Wanted: m.GetWanted(), Released: m.GetReleased(), Step: m.GetStep(),
		Own: m.GetOwn(), CertEnds: FromTime(m.GetCertEndsUnixMs()), UniquePassword: m.GetUniquePassword(), Weak: m.GetWeak(),
		ClockOff: time.Duration(m.GetClockOffUs()) * time.Microsecond, Limits: m.GetLimits(), Quarantine: m.GetQuarantine(),
		At: FromTime(m.GetAtUnixMs()), Level: m.GetLevel(), Why: m.GetWhy(), Since: FromTime(m.GetSinceUnixMs()), Elements: m.GetElements(),
	}
}

func texts(all []string) []string {
	var out []string
	for _, s := range all {
		out = append(out, utf8(s))
	}
	return out
}
