package discovery_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/discovery"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

func TestOneBMCWithTwoAddresses(t *testing.T) {
	var table discovery.Table
	table.See(at(0), discovery.Sighting{Address: "10.0.0.5:443", Found: "static"})
	table.See(at(time.Second), discovery.Sighting{Address: "[fe80::5%eth1]:443", Found: "mdns", Name: "bmc-5"})
	table.See(at(2*time.Second), discovery.Sighting{Address: "10.0.0.6:443", Found: "mdns", Name: "bmc-5"})
	table.Probed(at(2*time.Second), "10.0.0.5:443", "sha256/five", nil)
	table.Probed(at(2*time.Second), "[fe80::5%eth1]:443", "sha256/five", nil)
	table.Probed(at(2*time.Second), "10.0.0.6:443", "sha256/six", nil)
	want := []discovery.Candidate{
		{
			Pin: "sha256/five", Addresses: []string{"[fe80::5%eth1]:443", "10.0.0.5:443"},
			Found: []string{"mdns", "static"}, Names: []string{"bmc-5"}, Seen: at(time.Second),
			Odd: []string{"2 BMCs claim the name bmc-5"},
		},
		{
			Pin: "sha256/six", Addresses: []string{"10.0.0.6:443"}, Found: []string{"mdns"}, Names: []string{"bmc-5"}, Seen: at(2 * time.Second),
			Odd: []string{"2 BMCs claim the name bmc-5"},
		},
	}
	if diff := cmp.Diff(want, table.Candidates()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestProbesAreRare(t *testing.T) {
	var table discovery.Table
	s := discovery.Sighting{Address: "10.0.0.5:443", Found: "mdns"}
	for _, step := range []struct {
		at    time.Duration
		probe bool
		err   error
	}{
		{0, true, errors.New("refused")},
		{4 * time.Second, false, nil},
		{5 * time.Second, true, errors.New("refused")}, // it did not answer: soon again
		{14 * time.Second, false, nil},
		{15 * time.Second, true, nil}, // and later each time
		{time.Minute, false, nil},     // it did
		{5*time.Minute + 15*time.Second, true, nil},
	} {
		if got := table.See(at(step.at), s); got != step.probe {
			t.Errorf("at %v: probe is %v, want %v", step.at, got, step.probe)
		}
		if step.probe {
			table.Probed(at(step.at), s.Address, "sha256/x", step.err)
		}
	}
}

func TestDueWithoutASighting(t *testing.T) {
	var table discovery.Table
	table.See(at(0), discovery.Sighting{Address: "10.0.0.5:443", Found: "static"})
	if due := table.Due(at(time.Hour)); due != nil {
		t.Errorf("due while a probe is under way: %v", due)
	}
	table.Probed(at(0), "10.0.0.5:443", "", errors.New("refused"))
	if got := table.Problem("10.0.0.5:443"); got != "refused" {
		t.Errorf("the problem is %q", got)
	}
	wait := time.Duration(0)
	for range 12 {
		wait = min(max(5*time.Second, 2*wait), 5*time.Minute)
		if due := table.Due(at(wait - 1)); due != nil {
			t.Errorf("due before %v", wait)
		}
		if diff := cmp.Diff([]string{"10.0.0.5:443"}, table.Due(at(wait))); diff != "" {
			t.Errorf("after %v: %s", wait, diff)
		}
		table.Probed(at(0), "10.0.0.5:443", "", errors.New("refused"))
	}
}

func TestAddressesExpire(t *testing.T) {
	var table discovery.Table
	s := discovery.Sighting{Address: "10.0.0.5:443", Found: "mdns"}
	table.See(at(0), s)
	table.Probed(at(0), s.Address, "sha256/x", nil)
	table.Expire(at(discovery.Expiry))
	if len(table.Candidates()) != 1 {
		t.Error("it expired early")
	}
	table.Expire(at(discovery.Expiry + time.Second))
	if len(table.Candidates()) != 0 {
		t.Error("it did not expire")
	}
	table.Probed(at(0), s.Address, "sha256/x", nil) // a late answer
	if len(table.Candidates()) != 0 {
		t.Error("a late answer brought it back")
	}
}

func TestThreat04AFloodChangesNothing(t *testing.T) {
	var table discovery.Table
	mine := discovery.Sighting{Address: "10.0.0.5:443", Found: "static"}
	table.See(at(0), mine)
	table.Probed(at(0), mine.Address, "sha256/x", nil)
	probes := 0
	for i := range 3 * discovery.MaxAddresses {
		if table.See(at(0), discovery.Sighting{Address: fmt.Sprintf("10.1.%d.%d:443", i/256, i%256), Found: "mdns"}) {
			probes++
		}
	}
	if probes != discovery.MaxAddresses-1 {
		t.Errorf("%d probes", probes)
	}
	if c := table.Candidates(); len(c) != 1 || c[0].Pin != "sha256/x" {
		t.Errorf("candidates: %v", c)
	}
	if !table.See(at(discovery.Expiry+time.Second), discovery.Sighting{Address: "10.9.9.9:443", Found: "mdns"}) {
		t.Error("after the flood there is no room again")
	}
}

func TestExplain(t *testing.T) {
	var table discovery.Table
	for i, found := range []string{"mdns", "static", "mdns"} {
		table.See(at(0), discovery.Sighting{Address: fmt.Sprintf("10.0.0.%d:443", i), Found: found})
	}
	table.See(at(time.Second), discovery.Sighting{Address: "10.0.0.0:443", Found: "static"})
	table.Probed(at(time.Second), "10.0.0.0:443", "sha256/zero", nil)
	table.Probed(at(2*time.Second), "10.0.0.1:443", "", errors.New("connection refused"))
	want := `10.0.0.0:443: found by mdns and static 4s ago, answers with key sha256/zero
10.0.0.1:443: found by static 5s ago, did not answer 3s ago: connection refused
10.0.0.2:443: found by mdns 5s ago, is being asked for its key
`
	if diff := cmp.Diff(want, table.Explain(at(5*time.Second))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
