package bmc_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

func TestReadsElements(t *testing.T) {
	b, _, l := start(t, quick(func(c *bmcsim.Config) { c.Serial, c.Model = "SN1", "M1" }))
	for _, pin := range [][2]string{
		{"cpu.temp", "61"},
		{"temperature_cpu1", "64.5"},
		{"cpu.rate", "12"},
		{"cpu.power", "100"},
		{"fan.speed", "4000"},
		{"fantach_fan1", "3900"},
		{"temp.inlet", "22"},
		{"temp.exhaust", "33"},
		{"power.watts", "310"},
		{"system.asset-tag", "a-1"},
	} {
		set(t, b, pin[0], pin[1])
	}
	names := []string{
		"cpu.temp", "cpu.rate", "cpu.power", "cpu.count", "cpu.health", "memory.size", "memory.health", "fan.speed", "fan.percent", "fan.health",
		"temp.inlet", "temp.exhaust", "temp.max", "power.state", "power.watts", "power.cap", "power.supply.health",
		"storage.drive.count", "storage.drive.health", "system.health", "system.model", "system.serial", "system.asset-tag",
		"system.boot-target", "system.led", "bmc.state", "bmc.sessions", "network.ip", "log.critical",
		"firmware.none.version", "bios.attr.Foo", "storage.volume.v0.state",
		"/redfish/v1/Systems/system#/Status/State", "/redfish/v1/Systems/system#/Nothing", "/redfish/v1/nowhere#/X", "node.name",
	}
	got, err := l.Read(t.Context(), bmc.Person, refs(t, names...))
	if err != nil {
		t.Fatal(err)
	}
	want := `cpu.temp 64.5C
cpu.rate 12%
cpu.power 200W
cpu.count 2
cpu.health OK
memory.size 137.439GB
memory.health OK
fan.speed 3900rpm
fan.percent — (this BMC reports fan speed in rpm, not in %)
fan.health OK
temp.inlet 22C
temp.exhaust 33C
temp.max 64.5C
power.state on
power.watts 310W
power.cap — (this BMC reports no power cap)
power.supply.health OK
storage.drive.count 1
storage.drive.health OK
system.health OK
system.model M1
system.serial SN1
system.asset-tag a-1
system.boot-target none
system.led off
bmc.state Enabled
bmc.sessions 1
network.ip — (this BMC reports no host network interface)
log.critical 0
firmware.none.version — (this BMC reports no firmware "none")
bios.attr.Foo — (this BMC reports no BIOS attribute "Foo")
storage.volume.v0.state — (this BMC reports no volume "v0")
/redfish/v1/Systems/system#/Status/State Enabled
/redfish/v1/Systems/system#/Nothing — (there is no value at /redfish/v1/Systems/system#/Nothing)
/redfish/v1/nowhere#/X — (read /redfish/v1/nowhere: the BMC answered 404 Not Found: The requested resource of type  named 'nowhere' was not found)
node.name — (the agent reads no such element from a BMC)
`
	if diff := cmp.Diff(want, shown(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if first := got[0]; len(first.Instances) != 2 || first.Node != "n1" || first.At.IsZero() {
		t.Errorf("cpu.temp: %+v", first)
	}
	if n := b.Stats().Handshakes; n != 1 {
		t.Errorf("%d handshakes", n)
	}
}

// Every element that the language knows and the mesh does not answer has a
// source: it reads as a value or as unknown with a reason of the BMC.
func TestEveryElementHasASource(t *testing.T) {
	_, _, l := start(t, quick())
	var names []string
	for _, e := range scl.Elements() {
		if !e.OfMesh() {
			names = append(names, strings.ReplaceAll(e.Name, "*", "x"))
		}
	}
	got, err := l.Read(t.Context(), bmc.Person, refs(t, names...))
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range got {
		if why := r.Value.Why(); strings.Contains(why, "no such element") || !r.Value.Known() && why == "" {
			t.Errorf("%s: %q", r.Ref, why)
		}
		e, _, _ := scl.Lookup(names[i])
		if kind := map[scl.Type]fleet.Kind{scl.NumberType: fleet.KindNumber, scl.TextType: fleet.KindText, scl.BoolType: fleet.KindBool}[e.Type]; r.Value.Known() && r.Value.Kind() != kind {
			t.Errorf("%s reads as %v, which is not its type", r.Ref, r.Value)
		}
		if n := r.Value; n.Kind() == fleet.KindNumber && n.Unit() != e.Unit {
			t.Errorf("%s reads in %s, not in %s", r.Ref, n.Unit(), e.Unit)
		}
	}
}

// A steady monitor costs the requests for its sensors and nothing else.
func TestSteadyMonitorReadsOnlyItsSensors(t *testing.T) {
	b, _, l := start(t, quick())
	watch := refs(t, "cpu.temp", "cpu.rate")
	for range 2 {
		b.ResetStats()
		if _, err := l.Read(t.Context(), bmc.Monitor, watch); err != nil {
			t.Fatal(err)
		}
	}
	if s := b.Stats(); s.Total() != 4 || s.Handshakes != 0 {
		t.Errorf("%d requests, %d handshakes; want 4, 0:\n%s", s.Total(), s.Handshakes, asked(b))
	}
	b.ResetStats()
	if _, err := l.Read(t.Context(), bmc.Monitor, refs(t, "power.state", "system.health", "system.model", "bios.version")); err != nil {
		t.Fatal(err)
	}
	if s := b.Stats(); s.Total() != 1 {
		t.Errorf("%d requests for four elements of one resource:\n%s", s.Total(), asked(b))
	}
}

// The sensors are listed again after a while: OpenBMC adds those of the
// processors when the server is switched on.
func TestSensorsAreListedAgain(t *testing.T) {
	b, base := bmctest.Start(t, quick())
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	l := open(t, b, base, newStore(bmcsim.DefaultPassword), func(c *bmc.Config) { c.Now = func() time.Time { return now } })
	watch := refs(t, "cpu.temp")
	for _, want := range []bool{true, false, true} {
		b.ResetStats()
		if _, err := l.Read(t.Context(), bmc.Monitor, watch); err != nil {
			t.Fatal(err)
		}
		if listed := strings.Contains(asked(b)+"\n", "/Sensors\n"); listed != want {
			t.Errorf("listed %v, want %v:\n%s", listed, want, asked(b))
		}
		if !want {
			now = now.Add(time.Hour)
		}
	}
}

func TestUnreachableBMC(t *testing.T) {
	b, base := bmctest.Start(t, quick())
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	l := open(t, b, base, newStore(bmcsim.DefaultPassword), func(c *bmc.Config) {
		c.Now, c.BMC.Limits.Read = func() time.Time { return now }, 600*time.Millisecond
	})
	watch := refs(t, "power.state", "cpu.temp")
	if _, err := l.Read(t.Context(), bmc.Monitor, watch); err != nil {
		t.Fatal(err)
	}
	if err := b.Fault(bmcsim.Fault{Kind: bmcsim.Hang}); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		got, err := l.Read(t.Context(), bmc.Monitor, watch)
		// The one that times out first has the simulator cut the connection of the other.
		if transport := fault.Is(err, fault.Timeout) || fault.Is(err, fault.Unavailable); !transport || strings.Contains(shown(got), "reports no") {
			t.Fatalf("%v, %s", err, shown(got))
		}
	}
	begun := time.Now()
	_, err := l.Read(t.Context(), bmc.Person, watch)
	if took := time.Since(begun); took > 100*time.Millisecond || !strings.Contains(err.Error(), "not tried") {
		t.Errorf("with the breaker open it took %s: %v", took, err)
	}
	if state, reason := l.State(); state != fleet.Unreachable || reason == "" {
		t.Errorf("state %s, %q", state, reason)
	}
	if err := b.Fault(bmcsim.Fault{Kind: bmcsim.NoFault}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute) // time for a probe
	if got, err := l.Read(t.Context(), bmc.Monitor, watch[:1]); err != nil {
		t.Errorf("after recovery: %v, %s", err, shown(got))
	}
	if state, _ := l.State(); state != fleet.Ready {
		t.Errorf("state %s after recovery", state)
	}
}

func TestRefusedAndUntrusted(t *testing.T) {
	b, base := bmctest.Start(t, quick())
	l := open(t, b, base, newStore("wrong"), nil)
	if _, err := l.Read(t.Context(), bmc.Person, refs(t, "power.state")); !fault.Is(err, fault.Denied) || !strings.HasPrefix(err.Error(), "n1: ") {
		t.Errorf("got %v", err)
	}
	n, err := l.Summary(t.Context())
	if n.State != fleet.Refused || n.Reason == "" || err == nil {
		t.Errorf("%+v, %v", n, err)
	}
	other, _ := bmctest.Start(t, quick())
	l = open(t, other, base, newStore(bmcsim.DefaultPassword), nil)
	if n, err = l.Summary(t.Context()); n.State != fleet.Untrusted || !fault.Is(err, fault.Untrusted) {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestSummary(t *testing.T) {
	b, s, l := start(t, quick(func(c *bmcsim.Config) { c.Serial = "SN7" }))
	first, err := l.Summary(t.Context())
	if err != nil || first.Serial != "SN7" || first.Power != "on" || first.Health != "OK" || first.State != fleet.Ready || len(first.BMC) != 32 {
		t.Errorf("%+v, %v", first, err)
	}
	if err = l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := b.Stats().Sessions; n != 0 || s.open {
		t.Errorf("%d sessions left", n)
	}
	other, _, l2 := start(t, quick(func(c *bmcsim.Config) { c.Serial, c.Hostname = "SN8", "other" }))
	second, err := l2.Summary(t.Context())
	if err != nil || second.BMC == first.BMC || other.Serial() != "SN8" {
		t.Errorf("two servers have one identity: %+v, %v", second, err)
	}
}

func TestCanceledReadReturns(t *testing.T) {
	b, _, l := start(t, quick())
	if err := b.Fault(bmcsim.Fault{Kind: bmcsim.Hang}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := l.Read(ctx, bmc.Person, refs(t, "power.state", "cpu.temp", "log.last")); err == nil {
		t.Error("a hung BMC answered")
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestDump(t *testing.T) {
	_, _, l := start(t, quick())
	tree, err := l.Dump(t.Context())
	if err != nil || tree.Cut != "" || len(tree.Resources) < 50 {
		t.Fatalf("%v", err)
	}
	var doc strings.Builder
	if err := tree.JSON(&doc); err != nil || strings.Contains(doc.String(), bmcsim.DefaultPassword) {
		t.Errorf("%v, or the password is in it", err)
	}
}
