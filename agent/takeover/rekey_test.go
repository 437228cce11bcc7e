package takeover_test

import (
	"testing"

	"github.com/chiba-mesh/chiba/agent/takeover"
)

// A change of key waits for each BMC that would be locked out by it, and for no other.
func TestWhoHoldsAChangeOfKeyBack(t *testing.T) {
	lacks := func(steps ...takeover.Step) map[takeover.Step]string {
		all := map[takeover.Step]string{}
		for _, s := range steps {
			all[s] = "not here"
		}
		return all
	}
	taken := func(seen takeover.Facts, signedBy, provenBy string) takeover.Record {
		return takeover.Record{Goal: takeover.Taken, SignedBy: signedBy, ProvenBy: provenBy, Seen: seen}
	}
	for name, c := range map[string]struct {
		r            takeover.Record
		ready, moved bool
	}{
		"not ours":              {takeover.Record{}, true, true},
		"given back":            {takeover.Record{Goal: takeover.Released}, true, true},
		"never looked at":       {taken(takeover.Facts{}, "", ""), false, false},
		"both anchors":          {taken(takeover.Facts{Twin: "old", Next: "new", NextAnchored: true}, "old", "old"), true, false},
		"one anchor":            {taken(takeover.Facts{Twin: "old", Next: "new"}, "old", "old"), false, false},
		"the anchor of another": {taken(takeover.Facts{Twin: "old", Next: "aborted", NextAnchored: true}, "old", "old"), false, false},
		"no truststore":         {taken(takeover.Facts{Twin: "old", Next: "new", Lacks: lacks(takeover.Anchor)}, "old", ""), true, false},
		"served":                {taken(takeover.Facts{Twin: "new"}, "new", "old"), false, false},
		"proven":                {taken(takeover.Facts{Twin: "new", StaleAnchors: 1}, "new", "new"), false, false},
		"moved":                 {taken(takeover.Facts{Twin: "new"}, "new", "new"), false, true},
		"moved, not looked at":  {taken(takeover.Facts{Twin: "old"}, "new", "new"), false, false},
		"tokens":                {taken(takeover.Facts{Twin: "new", StaleAnchors: 1}, "new", ""), false, true},
		"of another make":       {taken(takeover.Facts{Twin: "new", Lacks: lacks(takeover.Steps()...)}, "", ""), false, true},
	} {
		if ready := takeover.Ready(c.r, "new"); ready != c.ready {
			t.Errorf("%s: ready %v", name, ready)
		}
		if moved := takeover.Moved(c.r, "new"); moved != c.moved {
			t.Errorf("%s: moved %v", name, moved)
		}
	}
}
