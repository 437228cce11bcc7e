package level_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/trust/level"
)

// stranger is a BMC that was heard on the link of rack r07 and told what it is.
func stranger() level.Candidate {
	return level.Candidate{
		Facts: level.Facts{OnLink: fact(true, time.Minute), Key: fact(level.KeyNew, time.Minute)},
		Rack:  "r07", Pin: "sha256/K", UUID: "uuid-1", MAC: "02:00:00:00:00:01", Serial: "S1", Make: "OpenBMC",
	}
}

// decided is a ruling in one line.
func decided(r level.Ruling) string {
	text := string(r.State)
	if r.Asset != nil {
		text += " as " + r.Asset.Node
	}
	return text + ": " + r.Why + " [" + strings.Join(r.By, ", ") + "]"
}

func TestRule(t *testing.T) {
	const listed = `(trust-policy (asset "u5" (key "sha256/K")))`
	offLink := func(c *level.Candidate) { c.OnLink = fact(false, 0) }
	anna := func(c *level.Candidate) { c.Approved = append(c.Approved, fact("anna", time.Hour)) }
	ben := func(c *level.Candidate) { c.Approved = append(c.Approved, fact("ben", time.Minute)) }
	both := func(c *level.Candidate) { anna(c); ben(c) }
	denied := func(c *level.Candidate) { c.Denied = fact("stolen", 0) }
	refused := func(c *level.Candidate) { c.Refused = level.Fact[string]{Is: "not ours", At: now, From: "ben"} }
	for _, c := range []struct {
		name, policy string
		change       func(*level.Candidate)
		want         string
	}{
		{"by default nobody", `(trust-policy (ask #f))`, nil, "waiting: nobody has let it in []"},
		{"a person", `(trust-policy (ask #f))`, anna, "admitted: let in by anna [anna]"},
		{"a person, from off the link", `(trust-policy (ask #f))`, func(c *level.Candidate) { anna(c); offLink(c) }, "admitted: let in by anna [anna]"},
		{"a person, although it was denied", `(trust-policy (ask #f))`, func(c *level.Candidate) { anna(c); denied(c) }, "refused: it is on the deny list: stolen [test]"},
		{"a person, whom another one contradicts", `(trust-policy (ask #f))`, func(c *level.Candidate) { anna(c); refused(c) }, "refused: not ours [ben]"},
		{"one of two people", `(trust-policy (approve 2))`, anna, "waiting: 2 different people must let it in, so far: anna []"},
		{"one of two people, twice", `(trust-policy (approve 2))`, func(c *level.Candidate) { anna(c); anna(c) }, "waiting: 2 different people must let it in, so far: anna []"},
		{"two people", `(trust-policy (approve 2)) (trust-policy (approve 1))`, both, "admitted: let in by anna and ben [anna, ben]"},
		{"its key is listed", listed, nil, "admitted as u5: it is u5 of the asset list [trust-policy]"},
		{"its key is listed, from off the link", listed, offLink, "admitted as u5: it is u5 of the asset list [trust-policy]"},
		{"listed, and denied", listed, denied, "refused: it is on the deny list: stolen [test]"},
		{"listed, and refused by a person", listed, refused, "refused: not ours [ben]"},
		{"listed, and refused by a policy", listed + `(trust-policy (refuse (= trust.make "OpenBMC")))`, nil, "refused: the trust policy refuses it [trust-policy]"},
		{"listed, and claimed twice", listed, func(c *level.Candidate) { c.Clash = fact("r08/x has the same key", 0) }, "waiting: r08/x has the same key []"},
		{"claimed twice, although a person lets it in", listed, func(c *level.Candidate) { anna(c); c.Twin = fact("n1", 0) }, "waiting: n1 tells the same serial []"},
		{"listed, and a person is asked for", listed + `(trust-policy (ask #t))`, nil, "waiting: it is u5 of the asset list; the trust policy asks for a person's word, too []"},
		{"and has come", listed + `(trust-policy (ask #t))`, anna, "admitted as u5: let in by anna [anna]"},
		{"listed in another rack", `(trust-policy (asset "u5" (key "sha256/K") (rack "r08")))`, nil, "waiting: nobody has let it in []"},
		{"listed in racks like it", `(trust-policy (asset "u5" (key "sha256/K") (rack "r0*")))`, nil, "admitted as u5: it is u5 of the asset list [trust-policy]"},
		{"by UUID", `(trust-policy (asset "u5" (uuid "UUID-1")))`, nil, "admitted as u5: it is u5 of the asset list [trust-policy]"},
		{"by UUID, from off the link", `(trust-policy (asset "u5" (uuid "UUID-1")))`, offLink, "waiting: it is u5 of the asset list by its UUID, but was not heard on the BMC network itself []"},
		{"by hardware address", `(trust-policy (asset "u5" (mac "02:00:00:00:00:01") (make "openbmc")))`, nil, "admitted as u5: it is u5 of the asset list [trust-policy]"},
		{"by UUID, of another make", `(trust-policy (asset "u5" (uuid "uuid-1") (make "iLO")))`, nil, `waiting: its make is "OpenBMC", that of u5 in the asset list is "iLO" []`},
		{"by UUID, with another key", `(trust-policy (asset "u5" (uuid "uuid-1") (key "sha256/L")))`, nil, "waiting: its key is not that of u5 in the asset list []"},
		{"by serial", `(trust-policy (asset "u5" (serial "s1")))`, nil, "waiting: it claims the serial of u5 in the asset list, which only a login can show []"},
		{"by serial and UUID", `(trust-policy (asset "u5" (serial "s1") (uuid "uuid-1")))`, nil, "admitted as u5: it is u5 of the asset list [trust-policy]"},
		{"in doubt, and a person says so", `(trust-policy (asset "u5" (serial "s1")))`, anna, "admitted: let in by anna [anna]"},
		{"as two", `(trust-policy (asset "u5" (uuid "uuid-1")) (asset "u6" (mac "02:00:00:00:00:01")))`, nil, "waiting: it is both u5 and u6 of the asset list []"},
		{"by a condition", `(trust-policy (admit (= trust.make "OpenBMC") (= rack.name "r07")))`, nil, "admitted: the trust policy lets it in [trust-policy]"},
		{"by a condition, from off the link", `(trust-policy (admit (= trust.make "OpenBMC")))`, offLink, "waiting: nobody has let it in []"},
		{"by one of two conditions", `(trust-policy (admit (= trust.make "OpenBMC"))) (trust-policy (admit trust.listed))`, nil, "waiting: nobody has let it in []"},
	} {
		s := stranger()
		if c.change != nil {
			c.change(&s)
		}
		node := fleet.Node{Rack: s.Rack, Admission: fleet.Admission{Make: s.Make, UUID: s.UUID}}
		if diff := cmp.Diff(c.want, decided(policy(t, node, c.policy).Rule(s))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// What nobody has said lets in nobody: a BMC of no policy waits, whatever it says of
// itself.
func TestThreat02ClaimsLetNobodyIn(t *testing.T) {
	for _, claim := range []func(*level.Candidate){
		func(c *level.Candidate) { c.Serial = "S99" },
		func(c *level.Candidate) { c.Make, c.UUID = "trust-policy", "admitted" },
		func(c *level.Candidate) { c.By = fact(level.Nobody, 0) },
	} {
		s := stranger()
		claim(&s)
		if r := (level.Policy{}).Rule(s); r.State != fleet.Waiting || len(r.By) > 0 {
			t.Errorf("%+v is %s", s, decided(r))
		}
	}
}
