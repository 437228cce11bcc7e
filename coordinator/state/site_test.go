package state_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// inSite is an agent of site s1 that listens for the others.
func inSite(name, rack, gossip, key string) *pb.Command {
	return &pb.Command{Body: &pb.Command_PutAgent{PutAgent: &pb.PutAgent{Agent: &pb.AgentInfo{
		Name: name, Rack: rack, Site: "s1", SpoolEpoch: 1, NextSeq: 1, SiteGossip: gossip, SiteCalls: gossip, SealKey: []byte(key),
	}}}}
}

func siteKey(site string, names ...string) *pb.Command {
	k := &pb.SiteKeyring{Site: site, Sealed: map[string]string{}}
	for _, n := range names {
		k.Sealed[n] = "sealed for " + n
	}
	return &pb.Command{Body: &pb.Command_PutSiteKey{PutSiteKey: &pb.PutSiteKey{Key: k}}}
}

// site is what an agent is told, as "a1@10.0.0.1 a2@… key 2".
func siteOf(m interface{ Site(string) *pb.Site }, agent string) string {
	s := m.Site(agent)
	if s == nil {
		return "alone"
	}
	var all []string
	for _, a := range s.GetAgents() {
		all = append(all, a.GetName()+"@"+a.GetGossip())
	}
	for _, k := range s.GetKeys() {
		all = append(all, fmt.Sprintf("key %d %s", k.GetId(), k.GetSealed()))
	}
	return strings.Join(all, ", ")
}

func TestWhoGossipsInASite(t *testing.T) {
	l := newLog(t)
	l.must(putAgent("a0", "r0")) // listens for nobody
	equal(t, "racks to wake", l.must(inSite("a1", "r1", "10.0.0.1", "k1")).Racks, []string{"r1"})
	equal(t, "racks to wake", l.must(inSite("a2", "r2", "10.0.0.2", "k2")).Racks, []string{"r1", "r2"})
	equal(t, "covered", l.Sites()[0].Covered(), false)
	equal(t, "racks to wake", l.must(siteKey("s1", "a1", "a2")).Racks, []string{"r1", "r2"})
	equal(t, "covered", l.Sites()[0].Covered(), true)
	equal(t, "a1 is told", siteOf(l, "a1"), "a1@10.0.0.1, a2@10.0.0.2, key 1 sealed for a1")
	equal(t, "who does not listen is told", siteOf(l, "a0"), "alone")

	equal(t, "racks to wake by the same again", len(l.must(inSite("a2", "r2", "10.0.0.2", "k2")).Racks), 0)
	equal(t, "racks to wake by a move", l.must(inSite("a2", "r2", "10.0.0.9", "k2")).Racks, []string{"r1", "r2"})
	equal(t, "covered after a move", l.Sites()[0].Covered(), true)
	l.must(inSite("a2", "r2", "10.0.0.9", "another sealing key"))
	equal(t, "covered after a new sealing key", l.Sites()[0].Covered(), false)
	equal(t, "a2 is told", siteOf(l, "a2"), "a1@10.0.0.1, a2@10.0.0.9")

	l.must(siteKey("s1", "a1", "a2"))
	l.must(denyAt(1, "rack/r2"))
	equal(t, "covered after a denial", l.Sites()[0].Covered(), false)
	equal(t, "a1 is told", siteOf(l, "a1"), "a1@10.0.0.1, key 2 sealed for a1, key 1 sealed for a1")
	equal(t, "the denied is told", siteOf(l, "a2"), "alone")
	for range 5 {
		l.must(siteKey("s1", "a1"))
	}
	equal(t, "the last keys", siteOf(l, "a1"), "a1@10.0.0.1, key 7 sealed for a1, key 6 sealed for a1, key 5 sealed for a1")
}

func TestASiteIsBounded(t *testing.T) {
	l := newLog(t)
	names := make([]string, state.MaxSiteAgents+1)
	for i := range names {
		names[i] = fmt.Sprintf("a%04d", i)
		l.must(inSite(names[i], "r"+names[i], "10.0.0.1", "k"))
	}
	equal(t, "agents", len(l.Site(names[0]).GetAgents()), state.MaxSiteAgents)
	equal(t, "the one too many", siteOf(l, names[state.MaxSiteAgents]), "alone")
	refusedAs(t, l.try(siteKey("s1", names...)), fault.TooLarge, "257 agents")
	refusedAs(t, l.try(siteKey("")), fault.BadInput, "has no name")
	refusedAs(t, l.try(inSite("b", "rb", strings.Repeat("1", 99), "k")), fault.BadInput, "address")
	long := siteKey("s1", "a0001")
	long.GetPutSiteKey().GetKey().Sealed["a0001"] = strings.Repeat("x", 2000)
	refusedAs(t, l.try(long), fault.TooLarge, "no sealed key")
}

// Whatever happens, an agent is told the same of its site as by a machine that has only
// just come to know all that.
func TestWhoGossipsIsNeverOfYesterday(t *testing.T) {
	l := newLog(t)
	l.must(inSite("a1", "r1", "10.0.0.1", "k1"))
	for what, c := range []*pb.Command{
		inSite("a2", "r2", "10.0.0.2", "k2"), inSite("a2", "r2", "10.0.0.9", "k2"), inSite("a2", "r2", "10.0.0.9", "k3"),
		denyAt(1, "rack/r2"), allowAt(2000, "rack/r2"), denyAt(3000, "agent/a1"), inSite("a2", "r2", "", "k3"), allowAt(4000, "agent/a1"),
	} {
		_, _, _ = siteOf(l, "a1"), siteOf(l, "a2"), l.Sites() // which is remembered
		l.must(c)
		fresh := state.New()
		if err := fresh.Restore(l.Snapshot()); err != nil {
			t.Fatal(err)
		}
		for _, agent := range []string{"a1", "a2"} {
			equal(t, fmt.Sprintf("after command %d %s is told", what, agent), siteOf(l, agent), siteOf(fresh, agent))
		}
		equal(t, fmt.Sprintf("after command %d the sites are", what), fmt.Sprint(l.Sites()), fmt.Sprint(fresh.Sites()))
	}
	if err := l.Restore(state.New().Snapshot()); err != nil {
		t.Fatal(err)
	}
	equal(t, "sites after all is gone", len(l.Sites()), 0)
	equal(t, "a1 is told then", siteOf(l, "a1"), "alone")
}
