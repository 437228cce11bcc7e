package redfish_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

func TestDetect(t *testing.T) {
	for _, c := range []struct {
		want string
		e    redfish.Evidence
	}{
		{"generic", redfish.Evidence{}},
		{"generic", redfish.Evidence{Vendor: "Contoso", Product: "3500RX", Oem: []string{"Contoso"}, Manager: "Joe Friday BMC"}},
		{"OpenBMC", redfish.Evidence{Manager: "OpenBmc"}},
		{"OpenBMC", redfish.Evidence{Provider: "/redfish/v1/Managers/bmc"}},
		{"iDRAC", redfish.Evidence{Oem: []string{"Dell"}}},
		{"iDRAC", redfish.Evidence{Product: "Integrated Dell Remote Access Controller", Manager: "14G Modular"}},
		{"iDRAC", redfish.Evidence{Server: "iDRAC/8"}},
		{"iLO", redfish.Evidence{Vendor: "HPE", Oem: []string{"Hpe"}}},
		{"iLO", redfish.Evidence{Server: "HPE-iLO-Server/1.30"}},
		{"iLO", redfish.Evidence{Manager: "iLO 5"}},
		{"XCC", redfish.Evidence{Vendor: "Lenovo"}},
		{"MegaRAC", redfish.Evidence{Vendor: "Lenovo", Server: "AMI MegaRAC Redfish Service"}}, // ThinkSystem with AMD processors
		{"MegaRAC", redfish.Evidence{Oem: []string{"Ami"}}},
		{"MegaRAC", redfish.Evidence{Vendor: "GIGABYTE"}},
		{"Supermicro", redfish.Evidence{Vendor: "Supermicro"}},
	} {
		if got := redfish.Detect(c.e).Name; got != c.want {
			t.Errorf("%+v: %s; want %s", c.e, got, c.want)
		}
	}
}

// A quirk that nobody can trace is a rumour.
func TestQuirksHaveSources(t *testing.T) {
	generic := redfish.Generic()
	for _, p := range redfish.Profiles() {
		said := map[string]bool{}
		for _, q := range p.Quirks {
			if q.Fact == "" || q.Source == "" {
				t.Errorf("%s: %s has no fact or no source", p.Name, q.Field)
			}
			said[q.Field] = true
		}
		differs := map[string]bool{
			"MaxSessions": p.MaxSessions != generic.MaxSessions, "IfMatch": p.IfMatch != generic.IfMatch,
			"Streams": p.Streams != generic.Streams, "Silence": p.Silence != generic.Silence,
			"PowerRetry": p.PowerRetry != generic.PowerRetry, "WriteWait": p.WriteWait != generic.WriteWait,
			"BootMode": p.BootMode != generic.BootMode, "CloseEach": p.CloseEach != generic.CloseEach,
		}
		for field, differs := range differs {
			if differs && !said[field] {
				t.Errorf("%s differs in %s and does not say why", p.Name, field)
			}
		}
		if p.MaxReads < 1 || p.Streams < 1 || p.Reconnect <= 0 || p.Silence <= 0 {
			t.Errorf("%s leaves a bound open: %+v", p.Name, p)
		}
	}
}

func TestProfileOfTheSimulator(t *testing.T) {
	_, _, _, c := start(t, bmcsim.Config{})
	if got := c.Profile().Name; got != "generic" {
		t.Errorf("before the first answer: %s", got)
	}
	read(t, c)
	before := c.Profile().Name
	c.SawManager("OpenBmc")
	c.SawManager("") // tells nothing
	if got := c.Profile().Name; got != "OpenBMC" {
		t.Errorf("by the root %s, by the manager %s; want OpenBMC", before, got)
	}
}

func TestRootKeepsTheNamesOfOem(t *testing.T) {
	root := `{"Systems":{"@odata.id":"/s"},"Vendor":"Dell","Oem":{"Dell":{"ServiceTag":"X"},"B":1},"EventService":{"@odata.id":"/e"}}`
	for doc, want := range map[string][]string{root: {"B", "Dell"}, strings.Replace(root, `{"Dell":{"ServiceTag":"X"},"B":1}`, `7`, 1): nil} {
		var r redfish.Root
		if err := json.Unmarshal([]byte(doc), &r); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, []string(r.Oem)); diff != "" || r.EventService != "/e" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// What a lane counts and paces by.
func TestObserveHearsEveryExchange(t *testing.T) {
	var all []redfish.Exchange
	b, base, m, _ := start(t, bmcsim.Config{})
	c := connect(t, b, base, m, func(cfg *redfish.Config) {
		cfg.Observe = func(e redfish.Exchange) { e.Took, e.Date = 0, time.Time{}; all = append(all, e) }
	})
	read(t, c)
	if err := b.Fault(bmcsim.Fault{Kind: bmcsim.Drop}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Patch(t.Context(), systemURI, nil); !redfish.Uncertain(err) {
		t.Errorf("got %v; want that nobody knows", err)
	}
	want := []redfish.Exchange{
		{Method: http.MethodGet, Status: 200},
		{Method: http.MethodPost, Status: 201, Login: true},
		{Method: http.MethodGet, Status: 200},
		{Method: http.MethodPatch},
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !(redfish.Exchange{Status: 503}).Busy() || (redfish.Exchange{Status: 500}).Busy() {
		t.Error("503 means busy and 500 does not")
	}
}
