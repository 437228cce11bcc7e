package ctl_test

import (
	"encoding/json"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// explanation is that of a node: r02-u01 shows another key, r02-u02 has the factory's
// password, the others are fine.
func explanation(node string) []byte {
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	x := fleet.TrustExplanation{
		Node: fleet.NodeName(node), Level: "T3", Word: "identified", Since: ago(3 * time.Hour), Key: "sha256/AAAA", Digest: "af",
		Has: []fleet.TrustReason{
			{What: "its key is known", From: "TLS handshake", At: ago(12 * time.Minute)},
			{What: "it is in the asset list", From: "the catalogue", At: ago(72 * time.Hour)},
		},
		Facts: []fleet.TrustFact{{Name: "key", Is: "the expected one", From: "TLS handshake", At: ago(12 * time.Minute)}},
		Deeds: []fleet.TrustDeed{{Deed: "look", Needs: "T2", May: true}, {Deed: "power", Needs: "T3", May: true}},
	}
	switch node {
	case "r02-u01":
		const why = "it answers with another key than before"
		x.Level, x.Word, x.Has, x.Bad = "TX", "quarantined", nil, []string{why}
		x.Lacks = []fleet.TrustLack{{What: why, Do: "if the BMC was replaced: chiba bmc accept r02-u01 --pin sha256/BBBB"}}
		x.Deeds[0].May, x.Deeds[1].May = false, false
	case "r02-u02":
		x.Level, x.Word = "T2", "admitted"
		x.Lacks = []fleet.TrustLack{{What: "the password that it left the factory with is in force", Do: "chiba bmc takeover r02-u02"}}
		x.Deeds[1].May = false
	}
	body, _ := json.Marshal(x) // it has nothing that could not be encoded
	return body
}
