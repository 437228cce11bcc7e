package e2e_test

import (
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/grandcat/zeroconf"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
)

// foundLine is a BMC as `get bmcs --all -o json` shows it.
type foundLine struct {
	Node, State, Key, Level, Takeover, Make string
	Done                                    bool
	By                                      []string `json:"state_by"`
	Reason                                  string   `json:"state_reason"`
	Evidence                                []struct{ What, Is, From string }
}

// A BMC is announced that stands in no catalogue. It waits and is sent no secret; a
// person admits it; it is taken over, believed, and a rule fires on it. That it is a
// node survives kill -9 of its agent and of the coordinator.
func TestABMCOfNoCatalogueIsAdmitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start("dev", "--only", "sim").wait("ready in")
	coordinator := w.start("dev", "--only", "coordinator")
	coordinator.wait("ready in")
	agent := w.start("dev", "--only", "agent")
	if line, ok := agent.out.findAny(patience, "ready in"); !ok {
		t.Fatalf("the agent is not ready: %s", line)
	}
	sim, url := bmctest.Start(t, bmcsim.Config{Hostname: "extra", Serial: "SN-EXTRA", PowerOn: true})
	announce(t, strings.TrimPrefix(url, "https://"))

	found := w.found(sim.Pin(), func(b foundLine) bool { return b.State == "waiting" })
	if found.Level != "T1" || found.Make != "OpenBMC" || !slices.ContainsFunc(found.Evidence, func(e struct{ What, Is, From string }) bool {
		return e.What == "link" && e.Is == "lo" && e.From == "mdns"
	}) {
		t.Errorf("it is told as %+v", found)
	}
	if out := w.must("get", "bmcs", "--all", "--why", found.Node); !strings.Contains(out, "nobody has let it in") || !strings.Contains(out, sim.Pin()) {
		t.Errorf("get bmcs --all --why:\n%s", out)
	}
	for _, b := range w.bmcs() {
		if b.Node == found.Node {
			t.Error("it is listed among the fleet")
		}
	}
	if got := w.run("bmc", "takeover", found.Node, "--yes"); got.code == 0 {
		t.Errorf("it was taken over before anybody had admitted it:\n%s", got.stdout)
	}
	for _, r := range sim.Requests() {
		if r.Method != http.MethodGet || r.Path != "/redfish/v1/" {
			t.Errorf("before it was admitted it was sent %s %s", r.Method, r.Path)
		}
	}
	if s := sim.Stats(); s.Logins != 0 || s.Sessions != 0 {
		t.Errorf("before it was admitted it saw %d logins", s.Logins)
	}

	w.must("bmc", "refuse", sim.Pin(), "--reason", "who is that", "--yes")
	w.found(sim.Pin(), func(b foundLine) bool { return b.State == "refused" && b.Reason == "who is that" && len(b.By) == 1 })
	w.must("bmc", "admit", sim.Pin(), "--as", "r01-extra", "--serial", "SN-EXTRA", "--yes")
	admitted := w.found(sim.Pin(), func(b foundLine) bool { return b.State == "admitted" })
	if admitted.Node != "r01-extra" || len(admitted.By) != 1 {
		t.Errorf("it is admitted as %+v", admitted)
	}
	w.must("bmc", "takeover", "r01-extra", "--yes")
	isOurs := func(b bmcLine) bool { return b.Node == "r01-extra" && b.Level == "T3" && b.Done }
	w.until("it is taken over", func() bool { return slices.ContainsFunc(w.bmcs(), isOurs) })

	agent.kill()
	coordinator.kill()
	w.start("dev", "--only", "coordinator").wait("ready in")
	w.start("dev", "--only", "agent").wait("ready in")
	w.linked()
	w.until("it is a node after kill -9", func() bool { return slices.ContainsFunc(w.bmcs(), isOurs) })

	w.must("apply", "--yes", w.file("extra.scl", `(monitor "r01-extra" (trigger "off with it" (every 1s) (condition (= power.state "on")) (action (power off))))`))
	w.until("the rule fires", func() bool {
		return strings.Contains(w.must("get", "firings"), "r01-extra") && strings.Contains(w.must("show", "r01-extra", "power.state"), "off")
	})
	if out := w.must("audit", "log"); !strings.Contains(out, "bmc of r01-extra") {
		t.Errorf("the audit log does not tell of it:\n%s", out)
	}
}

// announce announces a BMC over mDNS on the loopback interface.
func announce(t *testing.T, address string) {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip("no loopback interface of that name")
	}
	s, err := zeroconf.RegisterProxy("redfish on extra "+text, "_obmc_redfish._tcp", "local.", port, "extra", []string{"127.0.0.1"}, nil, []net.Interface{*lo})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
}

// bmcs are the BMCs of the fleet.
func (w *world) bmcs() []bmcLine {
	w.t.Helper()
	var all []bmcLine
	w.decode(&all, "get", "bmcs")
	return all
}

// found waits until the BMC with a key is told as it should be.
func (w *world) found(pin string, is func(foundLine) bool) (b foundLine) {
	w.t.Helper()
	w.until("the BMC with the key "+pin+" is told as it should be", func() bool {
		var all []foundLine
		w.decode(&all, "get", "bmcs", "--all")
		i := slices.IndexFunc(all, func(b foundLine) bool { return b.Key == pin })
		if i >= 0 {
			b = all[i]
		}
		return i >= 0 && is(b)
	})
	return b
}
