package audit

import (
	"fmt"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Reported is what one of an agent's records says that concerns trust: what the
// agent has refused, what people had it do at its own door, BMCs that are believed
// more or less, and passwords that it has set. The others are no news here.
func Reported(r *pb.Record) (Record, bool) {
	switch b := r.GetBody().(type) {
	case *pb.Record_Refused:
		f := b.Refused
		detail := f.GetReason()
		if f.GetBy() != "" {
			detail = "given by " + f.GetBy() + " on the rack: " + detail
		}
		return Record{What: "refuse", Subject: strings.TrimSpace(f.GetWhat() + " " + f.GetName()), Digest: f.GetDigest(), Detail: detail}, true
	case *pb.Record_Trust:
		c := b.Trust
		return Record{What: "trust", Subject: "bmc of " + c.GetNode(), Digest: c.GetFacts(), Detail: trustChange(c)}, true
	case *pb.Record_Local:
		return onRack(b.Local, r.GetAtUnixMs()), true
	case *pb.Record_Result:
		if p := b.Result; strings.HasSuffix(p.GetPath(), ".password") && p.GetStatus() == string(fleet.Confirmed) {
			return Record{What: "set password", Subject: p.GetNode() + " " + p.GetPath(), Detail: "run " + p.GetRun()}, true
		}
	}
	return Record{}, false
}

// onRack is what a person on the rack's machine had done: by whom, signed by whom,
// and when by the agent's clock.
func onRack(l *pb.LocalOrder, at int64) Record {
	what := map[string]string{"standing": "apply", "run": "run", "remove": "remove", "cancel": "cancel"}[l.GetKind()]
	detail := fmt.Sprintf("by %s (uid %d) at %s, signed by %s, version %d",
		l.GetUser(), l.GetUid(), time.UnixMilli(at).UTC().Format(time.RFC3339), strings.Join(l.GetSigners(), " and "), l.GetVersion())
	if l.GetRun() != "" {
		detail += ", run " + l.GetRun()
	}
	if l.GetCutOff() {
		detail += ", cut off"
	}
	return Record{What: what + " on the rack", Subject: "script " + l.GetName(), Digest: l.GetDigest(), Detail: detail}
}

// trustChange is "T3 to TX: it answers with another key than before".
func trustChange(c *pb.TrustChange) string {
	text := c.GetTo()
	if c.GetFrom() != "" {
		text = c.GetFrom() + " to " + text
	}
	if c.GetWhy() != "" {
		text += ": " + c.GetWhy()
	}
	return text
}
