package ctl

import (
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func TestCertificateOf(t *testing.T) {
	for want, trust := range map[string]fleet.BMCTrust{
		"its own":                {CertEnds: time.Unix(1, 0)},
		"ours":                   {Own: true},
		"ours, until 2026-12-22": {Own: true, CertEnds: time.Date(2026, 12, 22, 12, 0, 0, 0, time.Local)},
	} {
		if got := certificateOf(trust); got != want {
			t.Errorf("%+v: %q, want %q", trust, got, want)
		}
	}
}
