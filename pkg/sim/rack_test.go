package sim

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/grandcat/zeroconf"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
)

// run runs r until what it returns is called.
func run(t *testing.T, r *Rack) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run the rack: %v", err)
		}
	}
}

func open(t *testing.T, dir string, specs []Spec) *Rack {
	t.Helper()
	r, err := Open(t.Context(), Config{Dir: dir, Specs: specs, Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func dial(t *testing.T, dir string) *Client {
	t.Helper()
	c, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestARackComesBackAsItWas(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, DevRack())
	before := first.Nodes()
	run(t, first)()
	second := open(t, dir, DevRack())
	defer second.Close()
	if diff := cmp.Diff(before, second.Nodes()); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
}

func TestTheRackOfTheExamples(t *testing.T) {
	r := open(t, t.TempDir(), DevRack())
	defer r.Close()
	var got []string
	for _, n := range r.Nodes() {
		got = append(got, string(n.Name)+" "+n.Power)
		if !strings.HasPrefix(n.Address, "127.0.0.1:") || !strings.HasPrefix(n.Pin, "sha256/") || n.Serial == "" {
			t.Errorf("%+v", n)
		}
	}
	want := []string{
		"ai-node-0 on", "ai-node-1 off", "ServerName off",
		"r01-u04 on", "r01-u05 on", "r01-u06 on", "r01-u07 on", "r01-u08 on",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

func TestATakenPortIsReplaced(t *testing.T) {
	dir := t.TempDir()
	specs := []Spec{{Name: "a"}}
	first := open(t, dir, specs)
	taken := first.Nodes()[0].Address
	run(t, first)()
	l, err := listen(t.Context(), portOf(t, taken))
	if err != nil {
		t.Skip("somebody else took the port first:", err)
	}
	defer l.Close()
	second := open(t, dir, specs)
	defer second.Close()
	if got := second.Nodes()[0].Address; got == taken {
		t.Errorf("it listens on %s, which is taken", got)
	}
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEveryBMCAnswersOverHTTPS(t *testing.T) {
	r := open(t, t.TempDir(), DevRack())
	defer run(t, r)()
	for _, n := range r.Nodes() {
		bmc, err := r.BMC(n.Name)
		if err != nil {
			t.Fatal(err)
		}
		client := bmctest.Client(t, bmc)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+n.Address+"/redfish/v1", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", n.Name, err)
			continue
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", n.Name, res.StatusCode)
		}
		client.CloseIdleConnections()
	}
}

func TestTheControlSocketMovesTheRack(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, DevRack())
	defer run(t, r)()
	c, ctx := dial(t, dir), t.Context()

	if err := c.Set(ctx, "r01-u04", "cpu.temp", "95"); err != nil {
		t.Fatal(err)
	}
	got, err := c.Get(ctx, "r01-u04", "cpu.temp")
	want := []Reading{{Ref: "cpu.temp", Value: "95C", Instances: []Instance{{"temperature_cpu0", "95C"}, {"temperature_cpu1", "95C"}}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("cpu.temp (-want +got): %v\n%s", err, diff)
	}
	if err = c.Fault(ctx, "r01-u05", bmcsim.Fault{Kind: bmcsim.Busy, Delay: 7 * time.Second, For: time.Hour}); err != nil {
		t.Fatal(err)
	}
	bmc, err := r.BMC("r01-u05")
	if err != nil {
		t.Fatal(err)
	}
	if f := bmc.CurrentFault(); f.Kind != bmcsim.Busy || f.Delay != 7*time.Second {
		t.Errorf("the fault is %+v", f)
	}
	nodes, err := c.Nodes(ctx)
	if diff := cmp.Diff(r.Nodes(), nodes); diff != "" || err != nil {
		t.Errorf("nodes (-rack +client): %v\n%s", err, diff)
	}
	stats, err := c.Stats(ctx)
	if diff := cmp.Diff(r.Stats(), stats, cmpopts.EquateEmpty()); diff != "" || err != nil {
		t.Errorf("stats (-rack +client): %v\n%s", err, diff)
	}
	if err = c.ResetStats(ctx); err != nil {
		t.Error(err)
	}
	if err = c.ForgetSessions(ctx, "r01-u05"); err != nil {
		t.Error(err)
	}
}

func TestErrorsKeepKindAndHintOverTheSocket(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, DevRack())
	defer run(t, r)()
	c, ctx := dial(t, dir), t.Context()
	for _, tt := range []struct {
		name string
		err  error
		kind fault.Kind
		hint string
	}{
		{"a server that is not there", c.Set(ctx, "nope", "cpu.temp", "1"), fault.NotFound, "ai-node-0"},
		{"a server with an odd name", c.Set(ctx, "../x y?", "cpu.temp", "1"), fault.NotFound, "ai-node-0"},
		{"an element that is not there", c.Set(ctx, "r01-u04", "cpu.tmp", "1"), fault.NotFound, "did you mean cpu.temp"},
		{"a value that is none", c.Set(ctx, "r01-u04", "cpu.temp", "hot"), fault.BadInput, "95C"},
		{"a fault that is none", c.Fault(ctx, "r01-u04", bmcsim.Fault{Kind: "meteor"}), fault.BadInput, "hang"},
		{"sessions of nobody", c.ForgetSessions(ctx, "nope"), fault.NotFound, "ai-node-0"},
	} {
		if fault.KindOf(tt.err) != tt.kind || !strings.Contains(fault.HintOf(tt.err), tt.hint) {
			t.Errorf("%s: %v (%s), hint %q; want %s with %q", tt.name, tt.err, fault.KindOf(tt.err), fault.HintOf(tt.err), tt.kind, tt.hint)
		}
	}
}

func TestTheSocketWorksInADeepDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30))
	r := open(t, dir, []Spec{{Name: "a"}})
	stop := run(t, r)
	c := dial(t, dir)
	if _, err := c.Nodes(t.Context()); err != nil {
		t.Error(err)
	}
	stop()
	if _, err := os.Lstat(filepath.Join(dir, socketName)); err == nil {
		t.Error("the socket is still there")
	}
}

func TestOnlyOneSimulatorPerDirectory(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, []Spec{{Name: "a"}})
	stop := run(t, r)
	_, err := Open(t.Context(), Config{Dir: dir, Specs: []Spec{{Name: "b"}}, Quiet: true})
	if !fault.Is(err, fault.Conflict) || fault.HintOf(err) == "" {
		t.Errorf("a second one: %v", err)
	}
	stop()

	// What a crash leaves behind is no obstacle.
	if err := os.WriteFile(filepath.Join(dir, socketName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir, []Spec{{Name: "a"}}).Close()
}

func TestNobodyAnswers(t *testing.T) {
	_, err := dial(t, t.TempDir()).Nodes(t.Context())
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.HintOf(err), "chiba sim") {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
}

func TestBadNamesAreRefused(t *testing.T) {
	for _, specs := range [][]Spec{{{Name: ""}}, {{Name: "../x"}}, {{Name: "a"}, {Name: "a"}}, {{Name: "a b"}}} {
		_, err := Open(t.Context(), Config{Dir: t.TempDir(), Specs: specs, Quiet: true})
		if !fault.Is(err, fault.BadInput) {
			t.Errorf("%v: %v", specs, err)
		}
	}
}

func TestRacksNamesUnits(t *testing.T) {
	specs := Racks(3, 81)
	got := []fleet.NodeName{specs[0].Name, specs[39].Name, specs[40].Name, specs[80].Name}
	want := []fleet.NodeName{"r03-u01", "r03-u40", "r04-u01", "r05-u01"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestHintsNameOnlySome(t *testing.T) {
	r := open(t, t.TempDir(), Racks(1, 15))
	defer r.Close()
	_, err := r.BMC("nope")
	if hint := fault.HintOf(err); !strings.Contains(hint, "r01-u12 and 3 more") {
		t.Errorf("hint %q", hint)
	}
}

// The loopback interface has no multicast flag, and multicast works on it if
// it is named. Where a machine forbids it, the rack runs all the same.
func TestTheRackIsAnnounced(t *testing.T) {
	r, err := Open(t.Context(), Config{Dir: t.TempDir(), Specs: []Spec{{Name: "announced-node"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer run(t, r)()
	if why := r.Announced(); why != nil {
		t.Skip("this machine has no multicast on the loopback interface:", why)
	}
	lo, err := loopback()
	if err != nil {
		t.Fatal(err)
	}
	browser, err := zeroconf.NewResolver(zeroconf.SelectIfaces([]net.Interface{lo}), zeroconf.SelectIPTraffic(zeroconf.IPv4))
	if err != nil {
		t.Skip("this machine does not let us browse:", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	found := make(chan *zeroconf.ServiceEntry, 16)
	if err := browser.Browse(ctx, serviceType, "local.", found); err != nil {
		t.Fatal(err)
	}
	want := portOf(t, r.Nodes()[0].Address)
	for e := range found {
		if strings.Contains(e.Instance, "announced-node") {
			if e.Port != want || len(e.AddrIPv4) != 1 || e.AddrIPv4[0].String() != "127.0.0.1" {
				t.Errorf("announced as %s port %d at %v, want port %d at 127.0.0.1", e.Instance, e.Port, e.AddrIPv4, want)
			}
			cancel()
			for range found { // the browser closes it when it has ended
			}
			return
		}
	}
	t.Error("it was not found within 20 seconds")
}
