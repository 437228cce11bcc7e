package bmcsim_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

func TestSetIsWhatAClientReads(t *testing.T) {
	b, c := start(t, bmcsim.Config{PowerOn: true})
	c.login("root", bmcsim.DefaultPassword)
	reading := func(id string) any { return c.get(sensors + id).body["Reading"] }
	for _, tt := range []struct {
		ref, value string
		read       func() any
		want       any
	}{
		{"cpu.temp", "95", func() any { return reading("temperature_cpu0") }, 95.0},
		{"cpu.temp", "96.5C", func() any { return reading("temperature_cpu1") }, 96.5},
		{"temperature_cpu1", "40", func() any { return []any{reading("temperature_cpu0"), reading("temperature_cpu1")} }, []any{96.5, 40.0}},
		{"cpu.rate", "85%", func() any { return reading("utilization_cpu0") }, 85.0},
		{"cpu.power", "120W", func() any { return reading("power_cpu0") }, 120.0},
		{"power.watts", "350", func() any { return reading("power_total_power") }, 350.0},
		{"temp.inlet", "30C", func() any { return reading("temperature_inlet") }, 30.0},
		{"temp.exhaust", "50C", func() any { return reading("temperature_exhaust") }, 50.0},
		{"fan.speed", "500rpm", func() any { return reading("fantach_fan3") }, 500.0},
		{"power.state", "off", func() any { return c.get(system).body["PowerState"] }, "Off"},
		{"power.state", "ON", func() any { return c.get(system).body["PowerState"] }, "On"},
		{"system.health", "critical", func() any { return c.get(system).body["Status"] }, map[string]any{"Health": "Critical", "State": "Enabled"}},
		{"system.asset-tag", "a 1", func() any { return c.get(system).body["AssetTag"] }, "a 1"},
		{"asset-tag", "a 2", func() any { return c.get(system).body["AssetTag"] }, "a 2"},
		{"system.led", "on", func() any { return c.get(system).body["LocationIndicatorActive"] }, true},
	} {
		if err := b.Set(tt.ref, tt.value); err != nil {
			t.Errorf("set %s %s: %v", tt.ref, tt.value, err)
			continue
		}
		if diff := cmp.Diff(tt.want, tt.read()); diff != "" {
			t.Errorf("set %s %s: a client reads (-want +got):\n%s", tt.ref, tt.value, diff)
		}
	}
}

func TestSensorsTellWhatTheirThresholdsSay(t *testing.T) {
	b, c := start(t, bmcsim.Config{PowerOn: true})
	c.login("root", bmcsim.DefaultPassword)
	for _, tt := range []struct{ ref, value, sensor, want string }{
		{"cpu.temp", "60", "temperature_cpu0", "OK"},
		{"cpu.temp", "95", "temperature_cpu0", "Warning"},
		{"cpu.temp", "101", "temperature_cpu0", "Critical"},
		{"fan.speed", "1500", "fantach_fan0", "Warning"},
		{"fan.speed", "0", "fantach_fan0", "Critical"},
		{"power.watts", "3000", "power_total_power", "OK"},
	} {
		if err := b.Set(tt.ref, tt.value); err != nil {
			t.Fatal(err)
		}
		status, _ := c.get(sensors + tt.sensor).body["Status"].(map[string]any)
		if status["Health"] != tt.want {
			t.Errorf("%s at %s is %v, want %s", tt.ref, tt.value, status["Health"], tt.want)
		}
	}
	// In a server that is off, a fan that stands still is fine.
	if err := b.Set("power.state", "off"); err != nil {
		t.Fatal(err)
	}
	if status, _ := c.get(sensors + "fantach_fan0").body["Status"].(map[string]any); status["Health"] != "OK" {
		t.Errorf("a resting fan is %v", status["Health"])
	}
}

func TestAutoGivesASensorBack(t *testing.T) {
	b := newBMC(t, bmcsim.Config{PowerOn: true})
	for _, value := range []string{"150", bmcsim.Auto} {
		if err := b.Set("cpu.temp", value); err != nil {
			t.Fatal(err)
		}
	}
	list, err := b.Get("cpu.temp")
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := list[0].Value.Number(); n >= 150 {
		t.Errorf("it still reads %v", list[0].Value)
	}
}

func TestGetReducesInstances(t *testing.T) {
	b := newBMC(t, bmcsim.Config{PowerOn: true})
	for _, set := range [][2]string{ // in this order: one fan after all of them
		{"temperature_cpu0", "50"},
		{"temperature_cpu1", "70"},
		{"power_cpu0", "100"},
		{"power_cpu1", "110"},
		{"fan.speed", "5000"},
		{"fantach_fan2", "4000"},
	} {
		if err := b.Set(set[0], set[1]); err != nil {
			t.Fatal(err)
		}
	}
	for ref, want := range map[string]string{"cpu.temp": "70C", "cpu.power": "210W", "fan.speed": "4000rpm", "temperature_cpu0": "50C", "power.state": "on"} {
		list, err := b.Get(ref)
		if err != nil || len(list) != 1 {
			t.Errorf("get %s: %v %v", ref, list, err)
			continue
		}
		if got := list[0].Value.String(); got != want {
			t.Errorf("get %s = %s, want %s", ref, got, want)
		}
	}
	all, err := b.Get("")
	if err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, r := range all {
		refs = append(refs, r.Ref)
	}
	if diff := cmp.Diff(b.Refs(), refs); diff != "" {
		t.Errorf("what Get shows is not what Refs names:\n%s", diff)
	}
	if !slices.IsSorted(refs) {
		t.Error("the readings are in no order")
	}
}

func TestSetSaysWhatIsWrong(t *testing.T) {
	b := newBMC(t, bmcsim.Config{})
	for _, tt := range []struct {
		ref, value string
		kind       fault.Kind
		hint       string
	}{
		{"cpu.tmp", "95", fault.NotFound, "did you mean cpu.temp"},
		{"nonsense", "95", fault.NotFound, "one of cpu.power, cpu.rate"},
		{"cpu.temp", "hot", fault.BadInput, "95C"},
		{"cpu.temp", "90W", fault.BadInput, "95C"},
		{"cpu.temp", "NaN", fault.BadInput, "95C"},
		{"cpu.temp", "", fault.BadInput, "95C"},
		{"fan.speed", "fast", fault.BadInput, "4000rpm"},
		{"cpu.rate", "x", fault.BadInput, "85%"},
		{"power.watts", "x", fault.BadInput, "350W"},
		{"power.state", "maybe", fault.BadInput, "one of on, off"},
		{"system.health", "fine", fault.BadInput, "OK, Warning, Critical"},
	} {
		err := b.Set(tt.ref, tt.value)
		if fault.KindOf(err) != tt.kind || !strings.Contains(fault.HintOf(err), tt.hint) {
			t.Errorf("set %s %s: %v (%s) with hint %q, want %s with %q", tt.ref, tt.value, err, fault.KindOf(err), fault.HintOf(err), tt.kind, tt.hint)
		}
	}
	if _, err := b.Get("cpu.tmp"); !fault.Is(err, fault.NotFound) {
		t.Errorf("get cpu.tmp: %v", err)
	}
}

func TestSwitchingByHandIsAtOnceAndEndsTransitions(t *testing.T) {
	b, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)
	c.want(c.do(http.MethodPost, reset, `{"ResetType":"On"}`), http.StatusNoContent)
	for _, want := range []string{"off", "on"} {
		if err := b.Set("power.state", want); err != nil {
			t.Fatal(err)
		}
		list, err := b.Get("power.state")
		if err != nil || !list[0].Value.Equal(fleet.Text(want)) {
			t.Errorf("power.state = %v (%v), want %s", list, err, want)
		}
	}
}
