package discovery_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/discovery"
)

// answered is what a table makes of answers, in the words of a person: the
// addresses of each candidate and what is odd.
func answered(answers ...[3]string) []string {
	var table discovery.Table
	for i, a := range answers { // address, pin, UUID
		table.See(at(time.Duration(i)), discovery.Sighting{Address: a[0], Found: "mdns"})
		table.Answered(at(time.Duration(i)), a[0], discovery.Answer{Pin: a[1], Root: discovery.Root{UUID: a[2]}}, nil)
	}
	var all []string
	for _, c := range table.Candidates() {
		all = append(all, strings.TrimSpace(strings.Join(c.Addresses, " ")+": "+strings.Join(c.Odd, "; ")))
	}
	return all
}

// On which interface a BMC was heard is told with it; who only stands in a list was
// heard on none.
func TestWhereACandidateWasHeard(t *testing.T) {
	var table discovery.Table
	for _, s := range []discovery.Sighting{
		{Address: "a:1", Found: "static"}, {Address: "b:1", Found: "mdns", Link: "eth1"}, {Address: "b:1", Found: "ssdp", Link: "eth0"},
	} {
		table.See(at(0), s)
		table.Answered(at(0), s.Address, discovery.Answer{Pin: s.Address}, nil)
	}
	var links [][]string
	for _, c := range table.Candidates() {
		links = append(links, c.Links)
	}
	if diff := cmp.Diff([][]string{nil, {"eth0", "eth1"}}, links); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestEvidence(t *testing.T) {
	for name, c := range map[string]struct {
		answers [][3]string
		want    []string
	}{
		"one key is one BMC": {
			[][3]string{{"a:1", "k1", "u1"}, {"b:1", "k1", "u1"}},
			[]string{"b:1 a:1:"},
		},
		"an unread root is no other BMC": {
			[][3]string{{"a:1", "k1", "u1"}, {"b:1", "k1", ""}},
			[]string{"b:1 a:1:"},
		},
		"a key that several BMCs share": {
			[][3]string{{"a:1", "k1", "u1"}, {"b:1", "k1", "u2"}},
			[]string{"a:1: other BMCs show the same key: it identifies none of them", "b:1: other BMCs show the same key: it identifies none of them"},
		},
		"one UUID under two keys is two BMCs": {
			[][3]string{{"a:1", "k1", "u1"}, {"b:1", "k2", "u1"}},
			[]string{"a:1: 2 BMCs claim the UUID u1", "b:1: 2 BMCs claim the UUID u1"},
		},
		"another key at the address": {
			[][3]string{{"a:1", "sha256/0123456789abcdef", "u1"}, {"a:1", "k2", "u1"}},
			[]string{"a:1: the key at a:1 was sha256/0123456789ab"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, answered(c.answers...)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestWhatItSaysOfItself(t *testing.T) {
	var table discovery.Table
	table.See(at(0), discovery.Sighting{
		Address: "a:443", Found: "mdns", Service: "_redfish._tcp", Source: "b", Name: "bmc", Hint: "type=Switch", UUID: "u1",
	})
	table.Answered(at(0), "a:443", discovery.Answer{Pin: "k1", Root: discovery.Root{UUID: "u2", Problem: "no root"}}, nil)
	c := table.Candidates()[0]
	if diff := cmp.Diff([]string{"announces the UUID u1", "no root"}, c.Odd); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([][]string{{"type=Switch"}, {"_redfish._tcp"}}, [][]string{c.Hints, c.Services}); diff != "" {
		t.Error(diff)
	}
	want := "a:443: found by mdns 0s ago under _redfish._tcp as bmc which says type=Switch with UUID u1 (says b), answers with key k1, but no root\n"
	if diff := cmp.Diff(want, table.Explain(at(0))); diff != "" {
		t.Error(diff)
	}
}

func TestOwn(t *testing.T) {
	for _, c := range []struct {
		address, source string
		own             bool
	}{
		{"10.0.0.5:443", "", true},
		{"10.0.0.5:443", "10.0.0.5", true},
		{"10.0.0.5:443", "10.0.0.50", false},
		{"10.0.0.50:443", "10.0.0.5", false},
		{"[fe80::5%eth1]:443", "fe80::5%eth1", true},
		{"[fe80::5%eth1]:443", "fe80::5%eth2", false},
		{"[fe80::5%eth1]:443", "10.0.0.5", false},
		{"", "10.0.0.5", false},
	} {
		if got := (discovery.Sighting{Address: c.address, Source: c.source}).Own(); got != c.own {
			t.Errorf("%s says %s: own is %v", c.source, c.address, got)
		}
	}
}

// One host can't fill the table with others, and what doesn't answer gives way.
func TestThreat04AFloodFromOneHost(t *testing.T) {
	var table discovery.Table
	see := func(i int, source string) bool {
		return table.See(at(0), discovery.Sighting{Address: fmt.Sprintf("10.%d.%d.%d:443", i>>16, i>>8&255, i&255), Found: "mdns", Source: source})
	}
	taken := 0
	for i := range 5000 {
		if see(i, "rogue") {
			taken++
		}
	}
	if taken >= 5000 || !see(5000, "honest") {
		t.Fatalf("%d addresses of one host are taken", taken)
	}
	table.Answered(at(0), "10.0.19.136:443", discovery.Answer{Pin: "k"}, nil)
	for i := 5001; i < 40_000; i++ {
		see(i, fmt.Sprint("rogue ", i))
	}
	for _, s := range table.Silent() {
		table.Answered(at(0), s.Address, discovery.Answer{}, errors.New("no route"))
	}
	if !see(40_000, "late") {
		t.Error("nobody gives way")
	}
	if got := table.Candidates(); len(got) != 1 || got[0].Pin != "k" {
		t.Errorf("the honest one is lost: %v", got)
	}
	if n := len(table.Silent()); n >= discovery.MaxAddresses {
		t.Errorf("%d rows", n)
	}
	if notes := table.Notes(); len(notes) != 1 || !strings.Contains(notes[0], "the table is full") {
		t.Errorf("notes: %q", notes)
	}
}

func TestNotes(t *testing.T) {
	var table discovery.Table
	for range 3 {
		if table.See(at(0), discovery.Sighting{Found: "ssdp", Note: "off the link"}) {
			t.Error("a note is to be asked")
		}
	}
	table.See(at(0), discovery.Sighting{Found: "mdns", Note: "not possible"})
	if diff := cmp.Diff([]string{"mdns: not possible", "ssdp: off the link (3 times)"}, table.Notes()); diff != "" {
		t.Error(diff)
	}
	for i := range 10_000 {
		table.See(at(0), discovery.Sighting{Found: "mdns", Note: strconv.Itoa(i)})
	}
	if notes := table.Notes(); len(notes) > 300 || !slices.ContainsFunc(notes, func(s string) bool { return strings.HasPrefix(s, "more remarks") }) {
		t.Errorf("%d notes", len(notes))
	}
}

func TestSilent(t *testing.T) {
	var table discovery.Table
	for _, a := range []string{"c:1", "b:1", "a:1"} {
		table.See(at(0), discovery.Sighting{Address: a, Found: "mdns", Name: "n"})
	}
	table.Probed(at(0), "c:1", "k", nil)
	table.Probed(at(0), "b:1", "", errors.New("refused"))
	want := []discovery.Silent{
		{Address: "a:1", Found: []string{"mdns"}, Names: []string{"n"}, Seen: at(0)},
		{Address: "b:1", Found: []string{"mdns"}, Names: []string{"n"}, Problem: "refused", Seen: at(0)},
	}
	if diff := cmp.Diff(want, table.Silent()); diff != "" {
		t.Error(diff)
	}
}
