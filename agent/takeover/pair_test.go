package takeover_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/takeover"
)

var other = takeover.Partner{Account: "chiba-b1", Twin: "PEM", Print: "other twin"}

// The other agent of the rack gets its place in a take-over, is shut out and let in
// again by the one step, and leaves with us.
func TestThePartnerOfATakeover(t *testing.T) {
	b := fresh()
	b.rec = b.rec.With(other)
	if diff := cmp.Diff(strings.Replace(all, "strict", "pair strict", 1), b.run()); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct {
		why  string
		do   func()
		want string
	}{
		{"all is as it shall be", func() {}, ""},
		{"it is shut out", func() { b.rec = b.rec.ShutOut(true) }, "pair"},
		{"it stays shut out", func() {}, ""},
		{"it has made itself an administrator", func() { b.seen.PartnerGood = true }, "pair"},
		{"it is let in", func() { b.rec = b.rec.ShutOut(false) }, "pair"},
		{"the BMC has lost its anchor", func() { b.seen.PartnerRoot = false }, "pair"},
		{"it comes with another twin", func() {
			b.rec = b.rec.With(takeover.Partner{Account: other.Account, Twin: "PEM 2", Print: "third"})
			b.seen.PartnerRoot = false
		}, "pair"},
		{"the certificate is the partner's", func() { b.rec.SignedBy = "third" }, ""},
		{"there is another agent", func() {
			b.rec = b.rec.With(takeover.Partner{Account: "chiba-c1", Print: "x"})
			b.seen.PartnerGood = false
		}, "request install pair"},
		{"there is none any longer", func() { b.rec = b.rec.With(takeover.Partner{}) }, ""},
	} {
		c.do()
		if diff := cmp.Diff(c.want, b.run()); diff != "" {
			t.Errorf("%s: %s", c.why, diff)
		}
	}
	b.rec = b.rec.With(other).Release("sealed")
	if did := b.run(); !strings.HasSuffix(did, "return uproot dismiss") {
		t.Errorf("the release: %s", did)
	}
}

// What one agent has kept is the other one's to go on with, and the way back is the
// same.
func TestARecordChangesHands(t *testing.T) {
	b := fresh()
	b.rec = b.rec.With(other)
	b.run()
	first := takeover.Partner{Account: "chiba-a1", Twin: "PEM of a", Print: "twin"}
	theirs := b.rec.HandTo("chiba-b1", "other twin", first)
	if theirs.Account != "chiba-b1" || !theirs.AccountProven || theirs.ProvenBy != "other twin" || !theirs.Unique {
		t.Errorf("the other one's record is %+v", theirs)
	}
	if p := theirs.Partner; p.Account != "chiba-a1" || p.Print != "twin" || !p.Made {
		t.Errorf("its partner is %+v", p)
	}
	b.seen.Twin = "other twin"
	if step, _ := takeover.Next(now, b.seen, theirs); step != takeover.Nothing {
		t.Errorf("it begins with %s: a certificate of the partner's is the rack's", step)
	}
	back := theirs.HandTo("chiba-a1", "twin", other)
	if back.Account != b.rec.Account || back.ProvenBy != b.rec.ProvenBy || back.Partner.Account != "chiba-b1" {
		t.Errorf("back again it is %+v", back)
	}
	unknown := b.rec.With(takeover.Partner{}).HandTo("chiba-b1", "other twin", first)
	if unknown.AccountProven || unknown.ProvenBy != "" {
		t.Errorf("an account that was never made logs in: %+v", unknown)
	}
	if met := takeover.Met("pin"); met.HandTo("chiba-b1", "x", first).Partner != nil {
		t.Error("a BMC that was never taken over has no accounts of ours")
	}
}
